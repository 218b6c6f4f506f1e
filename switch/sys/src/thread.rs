//! What a thread costs, and what it waits for.

use std::os::unix::thread::JoinHandleExt;
use std::thread::JoinHandle;

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
    fn work_is_counted_and_sleep_is_not() {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let busy = std::thread::spawn(move || while !seen.load(Ordering::Relaxed) {});
        let (wake, sleep) = mpsc::channel::<()>();
        let idle = std::thread::spawn(move || sleep.recv().is_ok());
        while cpu_ns(&busy).expect("it runs") < 20_000_000 {
            std::thread::sleep(std::time::Duration::from_millis(1));
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
