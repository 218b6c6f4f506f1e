//! Descriptors that a service manager passes to the process it starts (`sd_listen_fds(3)`): from number 3 on, counted
//! by `LISTEN_FDS`, named by `LISTEN_FDNAMES`, meant for the process `LISTEN_PID`.
use std::env;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// Number of the first descriptor (`SD_LISTEN_FDS_START`).
pub const FIRST: RawFd = 3;

/// Most descriptors taken; more are no honest manager's.
pub const MOST: usize = 65_536;

/// What the names' variable calls a descriptor without a name.
const UNKNOWN: &str = "unknown";

/// Takes the descriptors that were passed to this process, sets close-on-exec, and removes the variables, so that no
/// child takes them for its own. Empty when none were passed. To be called once, before any other thread exists and
/// before any descriptor is opened.
///
/// # Errors
/// `InvalidInput` when the variables contradict each other or other threads run; then nothing is taken.
pub fn inherit() -> io::Result<Vec<(String, OwnedFd)>> {
    let Some(count) = env::var_os("LISTEN_FDS") else { return Ok(Vec::new()) };
    let pid = env::var("LISTEN_PID").ok().and_then(|pid| pid.parse::<u32>().ok());
    if pid != Some(std::process::id()) {
        return Ok(Vec::new());
    }
    if std::fs::read_dir("/proc/self/task")?.count() != 1 {
        return Err(invalid("LISTEN_FDS is taken before other threads start"));
    }
    let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
    for name in ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"] {
        // SAFETY: no other thread exists, so nobody reads the environment meanwhile.
        unsafe { env::remove_var(name) };
    }
    let count = count.to_str().and_then(|count| count.parse::<usize>().ok());
    let count = count.filter(|count| *count <= MOST).ok_or_else(|| invalid("LISTEN_FDS is no number"))?;
    let mut names = names.split(':').filter(|name| !name.is_empty());
    (FIRST..)
        .take(count)
        .map(|number| {
            // SAFETY: the number is only asked about; a closed one gives EBADF.
            let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
            let flags = fcntl_getfd(borrowed)?;
            fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC)?;
            // SAFETY: it is open, and by the protocol it is this process's own; the variables are gone, so nobody
            // takes it a second time.
            let fd = unsafe { OwnedFd::from_raw_fd(number) };
            Ok((names.next().unwrap_or(UNKNOWN).to_owned(), fd))
        })
        .collect()
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}
