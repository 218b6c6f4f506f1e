//! Client of the plugin's socket: one [`Request`] with its descriptors out, one [`Reply`] back. Blocking, without a
//! runtime and without threads, because the plugin lives for a few milliseconds.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, connect, recv, sendmsg, socket_with, sockopt,
};

use crate::MAX_BODY;
use crate::cni::{Reply, Request};

/// Why no reply came.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody listens at the path, and nobody came within the time given.
    #[error("no weftd answers at {path}: {source}")]
    Unavailable {
        /// The socket's path.
        path: PathBuf,
        /// What the last attempt met.
        source: Errno,
    },
    /// The daemon went away after the request was sent: whether it took effect is not known.
    #[error("weftd closed the connection before it replied")]
    HungUp,
    /// The daemon is there but did not reply in time.
    #[error("weftd did not reply within {0:?}")]
    Timeout(Duration),
    /// The request is too large for one message.
    #[error("a request of {0} bytes does not fit into one message")]
    TooLarge(usize),
    /// The reply does not decode: plugin and daemon differ in version.
    #[error("weftd's reply is not understood ({0}): install the plugin that came with the daemon")]
    Decode(#[from] serde_json::Error),
    /// The kernel refused.
    #[error("socket {path}: {source}")]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// What the kernel said.
        source: Errno,
    },
}

/// A connection for one request.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    path: PathBuf,
}

impl Client {
    /// Connects to the socket at `path`. While it is missing or refuses (a daemon that restarts), tries again for as
    /// long as `wait`.
    ///
    /// # Errors
    /// [`ClientError::Unavailable`] when the time is up, [`ClientError::Io`] at once for anything else.
    pub fn connect(path: &Path, wait: Duration) -> Result<Self, ClientError> {
        let end = Instant::now() + wait;
        let mut pause = Duration::from_millis(5);
        loop {
            match connect_once(path) {
                Ok(socket) => return Ok(Client { socket, path: path.to_owned() }),
                Err(source) if may_come(source) => {
                    let left = end.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Err(ClientError::Unavailable { path: path.to_owned(), source });
                    }
                    std::thread::sleep(pause.min(left));
                    pause = (pause * 2).min(Duration::from_millis(100));
                }
                Err(source) => return Err(ClientError::Io { path: path.to_owned(), source }),
            }
        }
    }

    /// Sends `request` with `fds` and waits for the reply, at most `timeout`. Consumes the connection: returning
    /// early hangs up, which rolls an ADD back.
    ///
    /// # Errors
    /// Everything of [`ClientError`] but `Unavailable`.
    pub fn call(
        self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        timeout: Duration,
    ) -> Result<Reply, ClientError> {
        let message = serde_json::to_vec(request)?;
        self.send(&message, fds)?;
        self.wait_readable(timeout)?;
        let mut buffer = vec![0; MAX_BODY];
        let (_, length) = retry(|| recv(&self.socket, buffer.as_mut_slice(), RecvFlags::TRUNC))
            .map_err(|source| self.broken(source))?;
        match length {
            0 => Err(ClientError::HungUp),
            n if n > MAX_BODY => Err(ClientError::TooLarge(n)),
            n => Ok(serde_json::from_slice(&buffer[..n])?),
        }
    }

    fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        if message.len() > MAX_BODY {
            return Err(ClientError::TooLarge(message.len()));
        }
        if message.len() > 64 << 10 {
            // A GC of many containers; the kernel caps it at net.core.wmem_max, and says so by EMSGSIZE.
            let _ = sockopt::set_socket_send_buffer_size(&self.socket, 2 * message.len());
        }
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
            return Err(ClientError::TooLarge(fds.len()));
        }
        let parts = [IoSlice::new(message)];
        match retry(|| sendmsg(&self.socket, &parts, &mut control, SendFlags::NOSIGNAL)) {
            Ok(_) => Ok(()),
            Err(Errno::MSGSIZE) => Err(ClientError::TooLarge(message.len())),
            Err(source) => Err(self.broken(source)),
        }
    }

    fn wait_readable(&self, timeout: Duration) -> Result<(), ClientError> {
        let end = Instant::now() + timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let limit = Timespec::try_from(left).map_err(|_| self.broken(Errno::INVAL))?;
            let mut fds = [PollFd::new(&self.socket, PollFlags::IN)];
            match poll(&mut fds, Some(&limit)) {
                Ok(0) => return Err(ClientError::Timeout(timeout)),
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(source) => return Err(self.broken(source)),
            }
        }
    }

    /// A daemon that died shows as any of three errors, depending on how far the message came.
    fn broken(&self, source: Errno) -> ClientError {
        match source {
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => ClientError::HungUp,
            _ => ClientError::Io { path: self.path.clone(), source },
        }
    }
}

/// Errors of connect(2) that a starting daemon cures: no file yet, a dead daemon's file, a full backlog.
fn may_come(error: Errno) -> bool {
    matches!(error, Errno::NOENT | Errno::CONNREFUSED | Errno::AGAIN | Errno::INTR)
}

fn connect_once(path: &Path) -> Result<OwnedFd, Errno> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    match SocketAddrUnix::new(path) {
        Ok(address) => connect(&socket, &address)?,
        Err(Errno::NAMETOOLONG) => connect_long(&socket, path)?,
        Err(error) => return Err(error),
    }
    Ok(socket)
}

/// A socket's address holds 107 bytes (unix(7)); a longer path is reached through a descriptor of its directory.
fn connect_long(socket: &OwnedFd, path: &Path) -> Result<(), Errno> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::NAMETOOLONG);
    };
    let directory =
        openat(CWD, directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(directory.as_fd().as_raw_fd().to_string()).join(name);
    connect(socket, &SocketAddrUnix::new(short)?)
}

fn retry<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result,
        }
    }
}
