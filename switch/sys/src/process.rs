//! Starting and watching a child process that inherits descriptors, as a service manager does; signals as a
//! descriptor.
use std::ffi::{CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

use crate::listen;

/// A program to be started.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// Its file.
    pub program: &'a Path,
    /// Its arguments, without its own name.
    pub args: &'a [OsString],
    /// Its whole environment.
    pub env: &'a [(OsString, OsString)],
    /// Variables that are to hold the child's process id.
    pub pid_vars: &'a [&'a str],
    /// Descriptors that it finds as number 3, 4, ... ([`listen::FIRST`]); all others close if they are close-on-exec.
    pub fds: &'a [BorrowedFd<'a>],
}

impl Spawn<'_> {
    /// Starts it, no signal blocked. A child that cannot execute its program says so on stderr and ends with 127.
    ///
    /// # Errors
    /// When an argument holds a NUL byte, or the kernel cannot make a process.
    pub fn start(&self) -> io::Result<Pid> {
        let nul = |_| io::Error::new(io::ErrorKind::InvalidInput, "a NUL byte in an argument");
        let c = |s: &OsStr| CString::new(s.as_bytes()).map_err(nul);
        let program = c(self.program.as_os_str())?;
        let mut args = vec![program.clone()];
        for arg in self.args {
            args.push(c(arg)?);
        }
        let mut env = Vec::new();
        for (name, value) in self.env {
            let mut pair = name.clone();
            pair.push("=");
            pair.push(value);
            env.push(c(&pair)?);
        }
        // The child writes its number over the zeros; it must not allocate.
        let mut pid_vars: Vec<Vec<u8>> = self
            .pid_vars
            .iter()
            .map(|name| CString::new(format!("{name}=0000000000")).map(CString::into_bytes_with_nul))
            .collect::<Result<_, _>>()
            .map_err(nul)?;
        let pointers = |strings: &[CString]| strings.iter().map(|s| s.as_ptr()).collect::<Vec<_>>();
        let (mut argv, mut envp) = (pointers(&args), pointers(&env));
        argv.push(std::ptr::null());
        let digits: Vec<*mut u8> = pid_vars.iter_mut().map(|v| v.as_mut_ptr()).collect();
        let lengths: Vec<usize> = pid_vars.iter().map(Vec::len).collect();
        envp.extend(digits.iter().map(|v| v.cast_const().cast::<libc::c_char>()));
        envp.push(std::ptr::null());
        let mut fds: Vec<RawFd> = self.fds.iter().map(AsRawFd::as_raw_fd).collect();

        // SAFETY: the child calls only async-signal-safe functions and touches only memory that was made before.
        match unsafe { libc::fork() } {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                let pid = std::process::id();
                for (text, len) in digits.iter().zip(&lengths) {
                    // SAFETY: the buffer is `len` bytes long and ends with ten digits and a NUL; it belongs to
                    // `pid_vars`, which lives in this process's copy, too.
                    unsafe { write_pid(*text, *len, pid) };
                }
                // SAFETY: all pointers lead to NUL-terminated strings and arrays made above.
                unsafe { become_program(&program, &argv, &envp, &mut fds) }
            }
            pid => Ok(Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidData)?),
        }
    }
}

/// Finds a program as a shell does: a name with a slash is a path, another is looked for in `PATH`.
///
/// # Errors
/// `NotFound`.
pub fn find(program: &OsStr) -> io::Result<PathBuf> {
    if program.as_bytes().contains(&b'/') {
        return Ok(program.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/sbin:/usr/bin:/sbin:/bin".into());
    let found = std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file());
    let missing = || io::Error::new(io::ErrorKind::NotFound, "no such program in PATH");
    found.ok_or_else(missing)
}

/// Signals taken from the process and read from a descriptor (`signalfd(2)`). Meant for a process of one thread.
#[derive(Debug)]
pub struct Signals {
    fd: OwnedFd,
}

impl Signals {
    /// Blocks these signals for the calling thread, and lets them be read.
    ///
    /// # Errors
    /// Those of `signalfd(2)`.
    pub fn take(signals: &[libc::c_int]) -> io::Result<Self> {
        // SAFETY: zero is a valid `sigset_t`, which the functions below fill; all pointers lead to it.
        let raw = unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            for signal in signals {
                libc::sigaddset(&raw mut set, *signal);
            }
            libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut());
            libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made it for us.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(raw) } })
    }

    /// The number of a signal that has come; `None`: none waits.
    #[must_use]
    pub fn next(&self) -> Option<libc::c_int> {
        let mut info = [0u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.fd, &mut info) {
            // `ssi_signo` is the first field.
            Ok(len) if len >= 4 => Some(libc::c_int::from_ne_bytes(*info.first_chunk()?)),
            _ => None,
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The parent of a process, as `/proc` says; `None`: it is gone.
#[must_use]
pub fn parent_of(pid: i32) -> Option<i32> {
    let stat = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    let after = stat.iter().rposition(|byte| *byte == b')')?;
    let mut fields = std::str::from_utf8(&stat[after + 1..]).ok()?.split_ascii_whitespace();
    fields.nth(1)?.parse().ok()
}

/// The environment of this process without some variables.
#[must_use]
pub fn environment_without(names: &[&str]) -> Vec<(OsString, OsString)> {
    std::env::vars_os().filter(|(name, _)| !names.iter().any(|n| name == n)).collect()
}

/// # Safety
/// `text` leads to `len` bytes that end with ten digits and a NUL.
unsafe fn write_pid(text: *mut u8, len: usize, pid: u32) {
    let digits = pid.checked_ilog10().unwrap_or(0) + 1;
    for place in 0..digits {
        let digit = pid / 10u32.pow(digits - 1 - place) % 10;
        // SAFETY: one of the ten bytes before the NUL.
        unsafe { *text.add(len - 11 + place as usize) = b'0' + digit as u8 };
    }
    // SAFETY: at the latest the NUL that is there already.
    unsafe { *text.add(len - 11 + digits as usize) = 0 };
}

/// # Safety
/// Only in the child of a fork; the arrays end with null and hold NUL-terminated strings.
unsafe fn become_program(
    program: &CString,
    argv: &[*const libc::c_char],
    envp: &[*const libc::c_char],
    fds: &mut [RawFd],
) -> ! {
    // SAFETY: plain system calls on numbers and on what the caller promises; `_exit` never returns.
    unsafe {
        // Out of the way of the numbers that are to be given.
        let end = listen::FIRST + fds.len() as RawFd;
        for fd in fds.iter_mut().filter(|fd| **fd < end) {
            *fd = libc::fcntl(*fd, libc::F_DUPFD_CLOEXEC, end);
            if *fd < 0 {
                give_up(b"cannot move the descriptors: errno ");
            }
        }
        for (number, fd) in (listen::FIRST..).zip(fds.iter()) {
            // dup2 leaves close-on-exec off.
            if libc::dup2(*fd, number) < 0 {
                give_up(b"cannot pass the descriptors on: errno ");
            }
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        // Rust's runtime ignores it, and what is ignored stays so.
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        libc::execve(program.as_ptr(), argv.as_ptr(), envp.as_ptr());
    }
    give_up(b"cannot execute the program: errno ")
}

/// Says why on stderr, and ends with 127. For the child of a fork: nothing is allocated.
fn give_up(text: &[u8]) -> ! {
    let errno = io::Error::last_os_error().raw_os_error().unwrap_or(0).unsigned_abs();
    let digits = [errno / 100 % 10, errno / 10 % 10, errno % 10].map(|digit| b'0' + digit as u8);
    for part in [text, &digits, b"\n"] {
        // SAFETY: reads the bytes of a slice.
        unsafe { libc::write(2, part.as_ptr().cast(), part.len()) };
    }
    // SAFETY: never returns, runs nothing.
    unsafe { libc::_exit(127) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    #[test]
    fn a_child_finds_its_descriptors_and_its_number() {
        let (mut read, write) = io::pipe().unwrap();
        let (other, _keep) = io::pipe().unwrap();
        let script = "echo $LISTEN_PID $$ >&4; test -e /proc/self/fd/3; echo $? >&4; test -e /proc/self/fd/5; echo $? >&4";
        let args = ["-c".into(), script.into()];
        let child = Spawn {
            program: &find(OsStr::new("sh")).unwrap(),
            args: &args,
            env: &environment_without(&[]),
            pid_vars: &["LISTEN_PID"],
            fds: &[other.as_fd(), write.as_fd()],
        };
        let pid = child.start().unwrap();
        drop(write);
        let status =
            rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap().unwrap();
        assert!(status.1.exited(), "{status:?}");
        let mut text = String::new();
        read.read_to_string(&mut text).unwrap();
        let number = pid.as_raw_pid();
        assert_eq!(text, format!("{number} {number}\n0\n1\n"));
    }

    #[test]
    fn parents() {
        assert_eq!(parent_of(i32::MAX), None);
        assert!(parent_of(std::process::id().cast_signed()).is_some());
    }
}
