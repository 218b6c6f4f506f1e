//! Unix sockets of type `SOCK_SEQPACKET` (`unix(7)`): whole messages, with descriptors beside them (`SCM_RIGHTS`).
//!
//! Everything is non-blocking and has [`AsFd`], so that tokio's `AsyncFd` or a poll can wait for it. A descriptor that
//! was received is owned at once and closed on every error path.
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};

/// Longest message in bytes.
pub const MAX_MESSAGE: usize = 1 << 20;

/// Most descriptors of one message (the kernel's own limit, `SCM_MAX_FD`, is 253).
pub const MAX_FDS: usize = 64;

/// Who is at the other end (`SO_PEERCRED`), as of the time of its `connect(2)`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PeerCred {
    /// Process, in the reader's pid namespace; 0 when it is not visible from there.
    pub pid: i32,
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
}

/// A listening socket on a path.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    path: PathBuf,
}

impl Listener {
    /// Binds `path` and listens. A socket file that nobody listens on any more is removed first; permissions are set
    /// before the first client can connect.
    ///
    /// # Errors
    /// `AddrInUse` when another process listens there, `AlreadyExists` when the path is no socket, and those of
    /// `bind(2)`, `chmod(2)`, `chown(2)`.
    pub fn bind(path: impl AsRef<Path>, mode: u32, gid: Option<u32>) -> io::Result<Self> {
        let path = path.as_ref();
        remove_stale(path)?;
        let fd = socket()?;
        rustix::net::bind(&fd, &SocketAddrUnix::new(path)?)?;
        // Between bind and listen a connect fails with ECONNREFUSED: nobody slips in before the permissions are set.
        if let Some(gid) = gid {
            rustix::fs::chown(path, None, Some(Gid::from_raw(gid)))?;
        }
        rustix::fs::chmod(path, Mode::from_raw_mode(mode))?;
        rustix::net::listen(&fd, 1024)?;
        Ok(Self { fd, path: path.to_owned() })
    }

    /// Takes over a listening socket from another process, which bound it to `path`.
    #[must_use]
    pub fn from_fd(fd: OwnedFd, path: &Path) -> Self {
        Self { fd, path: path.to_owned() }
    }

    /// The path that was bound.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next waiting client.
    ///
    /// # Errors
    /// `WouldBlock` when there is none; `EMFILE` and its like.
    pub fn accept(&self) -> io::Result<Connection> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Connection::new(rustix::net::accept_with(&self.fd, flags)?)
    }

    /// Removes the socket file. Not done on drop: over a restart the file stays.
    ///
    /// # Errors
    /// Those of `unlink(2)`.
    pub fn unlink(&self) -> io::Result<()> {
        std::fs::remove_file(&self.path)
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Listener {
    /// For mio's `SourceFd` and tokio's `AsyncFd`.
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct Connection {
    fd: OwnedFd,
}

impl Connection {
    /// Connects to a listener.
    ///
    /// # Errors
    /// `NotFound`, `ConnectionRefused` (nobody listens), `WouldBlock` (its backlog is full), `PermissionDenied`.
    pub fn connect(path: impl AsRef<Path>) -> io::Result<Self> {
        let fd = socket()?;
        rustix::net::connect(&fd, &SocketAddrUnix::new(path.as_ref())?)?;
        Self::new(fd)
    }

    /// Two connected ends, e.g. for a parent and its child.
    ///
    /// # Errors
    /// `EMFILE` when the process has no descriptor left.
    pub fn pair() -> io::Result<(Self, Self)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let (a, b) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        Ok((Self::new(a)?, Self::new(b)?))
    }

    /// Takes over a connected descriptor.
    ///
    /// # Errors
    /// `InvalidInput` when it is no such socket.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let ours = sockopt::socket_domain(&fd)? == AddressFamily::UNIX
            && sockopt::socket_type(&fd)? == SocketType::SEQPACKET;
        if !ours {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a Unix sequenced-packet socket"));
        }
        rustix::fs::fcntl_setfl(&fd, OFlags::NONBLOCK)?;
        Self::new(fd)
    }

    fn new(fd: OwnedFd) -> io::Result<Self> {
        // A message must fit the send buffer whole; twice, because the kernel counts its bookkeeping too.
        sockopt::set_socket_send_buffer_size_force(&fd, 2 * MAX_MESSAGE)
            .or_else(|_| sockopt::set_socket_send_buffer_size(&fd, 2 * MAX_MESSAGE))?;
        Ok(Self { fd })
    }

    /// Sends one message with descriptors, all or nothing.
    ///
    /// # Errors
    /// `WouldBlock` when the peer does not read, `BrokenPipe` when it hung up, `EMSGSIZE` when the message does not
    /// fit the send buffer (without CAP_NET_ADMIN about 200 KiB), `InvalidInput` for no bytes, more than
    /// [`MAX_MESSAGE`] bytes or more than [`MAX_FDS`] descriptors.
    pub fn send(&self, message: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        if message.is_empty() || message.len() > MAX_MESSAGE || fds.len() > MAX_FDS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a message has 1 to {MAX_MESSAGE} bytes and at most {MAX_FDS} descriptors"),
            ));
        }
        send_with_fds(self.fd.as_fd(), message, fds)
    }

    /// Receives one message and its descriptors (close-on-exec). Length 0 means that the peer hung up.
    ///
    /// # Errors
    /// `WouldBlock` when none is waiting; `InvalidData` when the message was longer than `buf` or had more than
    /// [`MAX_FDS`] descriptors (it is lost, its descriptors are closed); `ConnectionReset`.
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut iov = [IoSliceMut::new(buf)];
        let received = rustix::net::recvmsg(&self.fd, &mut iov, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        let mut fds = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(rights) = message {
                fds.extend(rights);
            }
        }
        if received.flags.contains(ReturnFlags::TRUNC) {
            return Err(cut("message too long"));
        }
        if received.flags.contains(ReturnFlags::CTRUNC) {
            return Err(cut("too many descriptors, or none left in this process"));
        }
        Ok((received.bytes, fds))
    }

    /// Who connected.
    ///
    /// # Errors
    /// Those of `getsockopt(2)`; none in practice.
    pub fn peer_cred(&self) -> io::Result<PeerCred> {
        peer_cred(self.fd.as_fd())
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Connection {
    /// For mio's `SourceFd` and tokio's `AsyncFd`.
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl From<Connection> for OwnedFd {
    fn from(connection: Connection) -> Self {
        connection.fd
    }
}

/// Peer credentials of any connected Unix socket (`SO_PEERCRED`), e.g. of an HTTP client's stream.
///
/// # Errors
/// Those of `getsockopt(2)` when it is no such socket.
pub fn peer_cred(socket: BorrowedFd<'_>) -> io::Result<PeerCred> {
    // Not by rustix: a process of another PID namespace has number 0 here, which its type has no place for.
    let mut cred = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
    let mut len = size_of_val(&cred) as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the size of `cred`, of which any value is one.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            std::ptr::from_mut(&mut cred).cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(PeerCred { pid: cred.pid, uid: cred.uid, gid: cred.gid })
}

/// One `sendmsg` with `SCM_RIGHTS`, on a socket that keeps message boundaries.
pub(crate) fn send_with_fds(
    socket: BorrowedFd<'_>,
    message: &[u8],
    fds: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(message)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Removes a socket file without a listener; anything else at `path` stays and is an error.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(meta) if !meta.file_type().is_socket() => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                format!("{} exists and is no socket; remove it or choose another path", path.display()),
            ));
        }
        Ok(_) => {}
    }
    match Connection::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        // EPROTOTYPE: a stream or datagram socket; connected or backlog full: one of ours.
        _ => Err(io::Error::new(
            io::ErrorKind::AddrInUse,
            format!("another process listens on {}", path.display()),
        )),
    }
}

fn cut(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

#[cfg(test)]
mod tests;
