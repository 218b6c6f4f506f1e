//! What a thread costs, and what it waits for.

use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::thread::Pid;

/// CPU time that a running thread has used, in nanoseconds (`pthread_getcpuclockid(3)`: the kernel's own account, at no
/// cost to the thread). `None`: it has ended, or the kernel does not say.
#[must_use]
pub fn cpu_ns<T>(thread: &JoinHandle<T>) -> Option<u64> {
    if thread.is_finished() {
        return None;
    }
    let mut clock: libc::clockid_t = 0;
    // SAFETY: the id is valid as long as nobody has joined or detached the thread, which takes the handle itself; the
    // thread may have ended, which the call reports. `clock` is a valid place for the answer.
    if unsafe { libc::pthread_getcpuclockid(thread.as_pthread_t(), &raw mut clock) } != 0 {
        return None;
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a valid place for the answer; an unknown clock is an error.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return None;
    }
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec).ok()?, u64::try_from(time.tv_nsec).ok()?);
    Some(seconds * 1_000_000_000 + nanoseconds)
}

/// Asks the scheduler for short turns of the calling thread: it is preempted after `slice`, and in return preempts sooner
/// whoever runs where it wakes up (`sched_setattr(2)`, `sched_runtime` of a `SCHED_OTHER` thread: Linux 6.12 and later;
/// older ones take it and do nothing). The kernel takes 0.1 to 100 ms. Everything else about its scheduling stays.
///
/// # Errors
/// `Unsupported`: the thread is not scheduled as `SCHED_OTHER` or `SCHED_BATCH`. What the kernel refuses.
pub fn set_slice(slice: Duration) -> io::Result<()> {
    let mut attr = scheduling()?;
    if !matches!(attr.policy as libc::c_int, libc::SCHED_OTHER | libc::SCHED_BATCH) {
        return Err(io::ErrorKind::Unsupported.into());
    }
    attr.runtime = u64::try_from(slice.as_nanos()).unwrap_or(u64::MAX);
    attr.size = SchedAttr::SIZE;
    // SAFETY: the kernel reads `attr.size` bytes of `attr`, all of which are set.
    done(unsafe { libc::syscall(libc::SYS_sched_setattr, CALLING_THREAD, &raw const attr, NO_FLAGS) })
}

/// `struct sched_attr` (include/uapi/linux/sched/types.h) as of its first version, which every kernel knows.
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

impl SchedAttr {
    const SIZE: u32 = size_of::<Self>() as u32;
}

const CALLING_THREAD: libc::pid_t = 0;
const NO_FLAGS: libc::c_uint = 0;

/// How the calling thread is scheduled.
fn scheduling() -> io::Result<SchedAttr> {
    let mut attr = SchedAttr::default();
    // SAFETY: the kernel writes at most `SIZE` bytes to `attr`, which has as many.
    done(unsafe {
        libc::syscall(libc::SYS_sched_getattr, CALLING_THREAD, &raw mut attr, SchedAttr::SIZE, NO_FLAGS)
    })?;
    Ok(attr)
}

fn done(result: libc::c_long) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How long a thread of this process has run, and how long it has waited for a CPU although it could have run, in
/// nanoseconds (`/proc/self/task/ID/schedstat`). `None`: there is no such thread, or the kernel does not keep account.
#[must_use]
pub fn ran_and_waited_ns(thread: Pid) -> Option<(u64, u64)> {
    let path = format!("/proc/self/task/{}/schedstat", thread.as_raw_nonzero());
    parse_schedstat(&std::fs::read_to_string(path).ok()?)
}

/// Time run, time waited, turns on a CPU. Kernels that do not keep account answer "0 0 0"; where they do, a thread in its
/// first turn has run for 0 ns until the next tick.
fn parse_schedstat(text: &str) -> Option<(u64, u64)> {
    let mut fields = text.split_ascii_whitespace().map(|field| field.parse::<u64>().ok());
    let (ran, waited, turns) = (fields.next()??, fields.next()??, fields.next()??);
    (turns > 0).then_some((ran, waited))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, mpsc};

    use super::*;

    #[test]
    fn waiting_is_known_of_own_threads_only() {
        assert!(ran_and_waited_ns(rustix::thread::gettid()).is_some());
        assert_eq!(ran_and_waited_ns(Pid::INIT).filter(|_| std::process::id() != 1), None);
        assert_eq!(parse_schedstat("12 34 5\n"), Some((12, 34)));
        assert_eq!(parse_schedstat("0 0 1\n"), Some((0, 0)), "its first turn");
        for unknown in ["0 0 0\n", "", "1 2", "1 x 2"] {
            assert_eq!(parse_schedstat(unknown), None, "{unknown:?}");
        }
    }

    #[test]
    fn a_short_slice_is_taken_and_niceness_stays() {
        let after = std::thread::spawn(|| {
            // SAFETY: plain numbers; on Linux it is of the calling thread alone.
            unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 5) };
            set_slice(Duration::from_micros(100)).expect("an ordinary thread");
            scheduling().expect("of this thread")
        });
        let after = after.join().expect("no panic");
        assert_eq!(after.nice, 5);
        let kernel = rustix::system::uname();
        let mut version = kernel.release().to_str().unwrap_or_default().split('.').map(str::parse::<u32>);
        // Linux 6.12 and later keep it.
        if let (Some(Ok(major)), Some(Ok(minor))) = (version.next(), version.next())
            && (major, minor) >= (6, 12)
        {
            assert_eq!(after.runtime, 100_000);
        }
    }

    #[test]
    fn work_is_counted_and_sleep_is_not() {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let busy = std::thread::spawn(move || while !seen.load(Ordering::Relaxed) {});
        let (wake, sleep) = mpsc::channel::<()>();
        let idle = std::thread::spawn(move || sleep.recv().is_ok());
        while cpu_ns(&busy).expect("it runs") < 20_000_000 {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(cpu_ns(&idle).expect("it runs") < 20_000_000);
        stop.store(true, Ordering::Relaxed);
        drop(wake);
        while !(busy.is_finished() && idle.is_finished()) {
            std::thread::yield_now();
        }
        assert_eq!((cpu_ns(&busy), cpu_ns(&idle)), (None, None));
    }
}
