//! Giving up what a process or a thread does not need: capabilities (`capabilities(7)`) and system calls
//! (`seccomp(2)`). Neither can be had back.

use std::io;

use rustix::thread::{
    CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};

pub use rustix::thread::CapabilitySet;

/// Numbers that a capability may have (`linux/capability.h`: two words of 32).
const CAPABILITIES: u32 = 64;

/// The calling thread's effective capabilities.
///
/// # Errors
/// Those of `capget(2)`; none in practice.
pub fn effective() -> io::Result<CapabilitySet> {
    Ok(capabilities(None)?.effective)
}

/// Lets the *calling thread*, and threads and programs that it starts from then on, have no other capabilities than
/// these, and sets `no_new_privs`. Of a process with other threads, those keep theirs: meant to be called before there
/// are any. What the thread does not have it does not get.
///
/// The bounding set loses the others as well, if the thread may do that (CAP_SETPCAP). If it may not, `no_new_privs`
/// still keeps programs from getting more by `execve(2)`.
///
/// # Errors
/// Those of `prctl(2)` and `capset(2)`; none in practice.
pub fn keep_only(keep: CapabilitySet) -> io::Result<()> {
    set_no_new_privs(true)?;
    let CapabilitySets { effective, permitted, .. } = capabilities(None)?;
    if effective.contains(CapabilitySet::SETPCAP) {
        for number in 0..CAPABILITIES {
            let one = CapabilitySet::from_bits_retain(1 << number);
            // The kernel refuses numbers that it does not know.
            if !keep.contains(one) && capability_is_in_bounding_set(one).unwrap_or(false) {
                remove_capability_from_bounding_set(one)?;
            }
        }
    }
    // Kernels before 4.3 have no such set.
    let _ = clear_ambient_capability_set();
    let kept = permitted & keep;
    Ok(set_capabilities(
        None,
        CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() },
    )?)
}

/// Lets the *calling thread*, and threads and programs that it starts, use no other system calls than these
/// (`libc::SYS_*`): others fail with `EPERM`. Sets `no_new_privs` for it.
///
/// # Errors
/// `Unsupported` on an architecture without a list; else those of `seccomp(2)`: a kernel without it.
pub fn allow_only(calls: &[libc::c_long]) -> io::Result<()> {
    let program = compile(calls)?;
    set_no_new_privs(true)?;
    let length = u16::try_from(program.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: program.as_ptr().cast_mut().cast() };
    // SECCOMP_FILTER_FLAG_SPEC_ALLOW: kernels before 5.16 otherwise turn on what guards against speculative store
    // bypass, for a thread that runs no code of strangers.
    // SAFETY: `program` points to `length` instructions that live until the call returns; seccompiler's `sock_filter` is
    // `repr(C)` with the fields of `linux/filter.h`. The kernel copies them.
    let done = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            &raw const program,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// No call's arguments are looked at: then the kernel (5.11 and later) answers from a bitmap, without running it.
fn compile(calls: &[libc::c_long]) -> io::Result<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)
        .map_err(|error| io::Error::new(io::ErrorKind::Unsupported, error.to_string()))?;
    let rules = calls.iter().map(|call| (*call, Vec::new())).collect();
    let denied = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let invalid =
        |error: seccompiler::BackendError| io::Error::new(io::ErrorKind::InvalidInput, error.to_string());
    SeccompFilter::new(rules, denied, SeccompAction::Allow, arch).and_then(TryInto::try_into).map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field of the calling thread's `/proc/…/status`.
    fn status(field: &str) -> String {
        let text = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let value =
            text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':')).unwrap_or_default();
        value.trim().to_owned()
    }

    fn on_a_thread(f: impl FnOnce() + Send + 'static) {
        std::thread::spawn(f).join().unwrap();
    }

    #[test]
    fn capabilities_go_and_stay_away() {
        let before = status("CapEff");
        on_a_thread(|| {
            let had = effective().unwrap();
            keep_only(CapabilitySet::NET_ADMIN | CapabilitySet::CHOWN).unwrap();
            let kept = had & (CapabilitySet::NET_ADMIN | CapabilitySet::CHOWN);
            assert_eq!(effective().unwrap(), kept);
            let sets = ["CapPrm", "CapEff"].map(status);
            assert_eq!(sets, [(); 2].map(|()| format!("{:016x}", kept.bits())));
            if had.contains(CapabilitySet::SETPCAP) {
                assert_eq!(status("CapBnd"), status("CapEff"));
            }
            assert_eq!((status("CapInh"), status("NoNewPrivs").as_str()), (format!("{:016x}", 0), "1"));
            // Again, with less, and without the right to change the bounding set.
            keep_only(CapabilitySet::empty()).unwrap();
            assert_eq!(effective().unwrap(), CapabilitySet::empty());
            // What a program gets from root's user id is no more than that.
            let child =
                std::process::Command::new("grep").args(["CapEff", "/proc/self/status"]).output().unwrap();
            assert!(String::from_utf8_lossy(&child.stdout).ends_with("0000000000000000\n"), "{child:?}");
        });
        assert_eq!(status("CapEff"), before, "other threads keep theirs");
    }

    #[test]
    fn other_calls_are_refused() {
        on_a_thread(|| {
            let calls = [
                libc::SYS_openat,
                libc::SYS_read,
                libc::SYS_write,
                libc::SYS_close,
                libc::SYS_statx,
                libc::SYS_lseek,
                libc::SYS_mmap,
                libc::SYS_munmap,
                libc::SYS_mprotect,
                libc::SYS_madvise,
                libc::SYS_brk,
                libc::SYS_futex,
                libc::SYS_fcntl,
                libc::SYS_sigaltstack,
                libc::SYS_rt_sigprocmask,
                libc::SYS_exit,
            ];
            allow_only(&calls).unwrap();
            assert_eq!((status("Seccomp").as_str(), status("NoNewPrivs").as_str()), ("2", "1"));
            let refused = std::net::UdpSocket::bind("127.0.0.1:0").unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
        });
        std::net::UdpSocket::bind("127.0.0.1:0").expect("other threads are free");
    }
}
