//! What a worker gives up before it sees the first frame: it reads what strangers send, so it has no capability, and no
//! system call but those of its loop. Descriptors come to it open.

use std::io;

use weft_sys::privilege::{self, CapabilitySet};

/// All that a worker calls. Others fail with EPERM instead of ending the process: what the C library or the allocator
/// do when they get an error is better for pods than a restart.
const CALLS: &[libc::c_long] = &[
    // Devices, sockets, the waker, and stderr.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    // AF_XDP sockets: to have sent, or received, what is in the rings.
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_close,
    // Its poll.
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    // Locks, time, seeds of hash tables.
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_clock_gettime,
    libc::SYS_restart_syscall,
    libc::SYS_getrandom,
    // The allocator.
    libc::SYS_brk,
    libc::SYS_mmap,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    // Signals, a panic's abort, and the thread's end.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Confines the calling thread.
///
/// # Errors
/// What the kernel refuses; the thread then has what it could not give up.
pub(super) fn confine() -> io::Result<()> {
    privilege::keep_only(CapabilitySet::empty())?;
    privilege::allow_only(CALLS)
}
