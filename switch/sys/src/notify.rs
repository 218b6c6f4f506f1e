//! The service manager's notification protocol (`sd_notify(3)`), both ends: one datagram to the socket in
//! `NOTIFY_SOCKET`, lines of `KEY=value`, with it descriptors for the manager's store (`FDSTORE=1`).
use std::env;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;
use rustix::pipe::{PipeFlags, pipe_with};

use crate::cmsg;
use crate::seqpacket::{PeerCred, send_with_fds};

/// How long a manager that does not read its socket is waited for.
const PATIENCE: Duration = Duration::from_millis(200);

/// Most bytes of the names of stored descriptors, by [`names_len`]: they come back as one string of the environment,
/// which the kernel bounds (`MAX_ARG_STRLEN`, 131,072 bytes).
pub const MOST_NAMES: usize = 120 * 1024;

/// Longest message received, in bytes (as in systemd, `NOTIFY_BUFFER_MAX`).
const MAX_MESSAGE: usize = 4096;

/// Sends `state`, e.g. `READY=1`, `STOPPING=1` or `STATUS=...` (several separated by line ends), to the service
/// manager. Returns false when there is none.
///
/// # Errors
/// Those of the socket; the caller may well ignore them. `WouldBlock` when the manager does not read for 200 ms.
pub fn notify(state: &str) -> io::Result<bool> {
    notify_with_fds(state, &[])
}

/// As [`notify`], with descriptors for the manager's store (`FDSTORE=1`, `FDNAME=...`).
///
/// # Errors
/// As [`notify`].
pub fn notify_with_fds(state: &str, fds: &[BorrowedFd<'_>]) -> io::Result<bool> {
    match env::var("NOTIFY_SOCKET") {
        Ok(path) if !path.is_empty() => send(&path, state, fds).map(|()| true),
        _ => Ok(false),
    }
}

/// True when there is a service manager to be told.
#[must_use]
pub fn is_managed() -> bool {
    env::var_os("NOTIFY_SOCKET").is_some_and(|path| !path.is_empty())
}

/// Waits until the manager has dealt with everything sent before (`BARRIER=1`, systemd 246). False when there is no
/// manager, or it takes longer than `timeout`.
///
/// # Errors
/// Those of the pipe and the socket.
pub fn barrier(timeout: Duration) -> io::Result<bool> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC)?;
    if !notify_with_fds("BARRIER=1", &[write.as_fd()])? {
        return Ok(false);
    }
    drop(write);
    let timeout = Timespec::try_from(timeout).map_err(io::Error::other)?;
    let mut fds = [PollFd::new(&read, PollFlags::IN)];
    Ok(poll(&mut fds, Some(&timeout))? > 0)
}

/// The manager's end.
#[derive(Debug)]
pub struct Receiver {
    socket: UnixDatagram,
}

/// One datagram.
#[derive(Debug)]
pub struct Message {
    /// Who sent it, as the kernel says.
    pub sender: PeerCred,
    /// Its lines.
    pub text: String,
    /// The descriptors that came with it, close-on-exec.
    pub fds: Vec<OwnedFd>,
}

impl Message {
    /// The value of a key; of the last such line.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let value = |line: &'_ str| -> Option<usize> {
            line.strip_prefix(key)?.strip_prefix('=').map(|value| line.len() - value.len())
        };
        self.text.lines().rev().find_map(|line| value(line).map(|at| &line[at..]))
    }
}

impl Receiver {
    /// Binds the socket file `path`, for this user alone. Nothing may be there yet.
    ///
    /// # Errors
    /// Those of `bind(2)` and `chmod(2)`.
    pub fn bind(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let socket = UnixDatagram::bind(path)?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o600))?;
        socket.set_nonblocking(true)?;
        sockopt::set_socket_passcred(&socket, true)?;
        Ok(Self { socket })
    }

    /// The next waiting message; `None`: there is none. What is no text, too long, or without credentials is skipped.
    ///
    /// # Errors
    /// Those of `recvmsg(2)`.
    pub fn receive(&self) -> io::Result<Option<Message>> {
        loop {
            let mut buf = [0; MAX_MESSAGE];
            let mut control = [0; CONTROL];
            let received = match recv_message(self.socket.as_fd(), &mut buf, &mut control) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let Received { len, sender, fds, whole } = received;
            let text = std::str::from_utf8(&buf[..len]).ok().filter(|_| whole);
            if let (Some(sender), Some(text)) = (sender, text) {
                return Ok(Some(Message { sender, text: text.to_owned(), fds }));
            }
        }
    }
}

impl AsFd for Receiver {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Is this a name for a stored descriptor: printable ASCII without colon, at most 255 bytes (`fdname_is_valid`)?
#[must_use]
pub fn is_fd_name(name: &str) -> bool {
    (1..=255).contains(&name.len()) && name.bytes().all(|b| (b' '..0x7f).contains(&b) && b != b':')
}

/// Bytes that names of stored descriptors take in `LISTEN_FDNAMES`, each with its separator.
#[must_use]
pub fn names_len<'a>(names: impl IntoIterator<Item = &'a str>) -> usize {
    names.into_iter().map(|name| name.len() + 1).sum()
}

/// Room for the most descriptors that the kernel passes at once (`SCM_MAX_FD`) and for the credentials.
const CONTROL: usize = cmsg::space(253 * size_of::<libc::c_int>()) + cmsg::space(size_of::<libc::ucred>());

struct Received {
    len: usize,
    sender: Option<PeerCred>,
    fds: Vec<OwnedFd>,
    /// Neither text nor descriptors were cut.
    whole: bool,
}

/// By hand, because the process id of a sender in a foreign pid namespace is 0, which rustix's type cannot hold.
fn recv_message(socket: BorrowedFd<'_>, buf: &mut [u8], control: &mut [u8]) -> io::Result<Received> {
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    // SAFETY: all fields are integers or raw pointers, for which zero is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = control.len() as _;
    // SAFETY: the descriptor is open; buffer and control outlive the call and are writable for the lengths given.
    let len = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, libc::MSG_CMSG_CLOEXEC) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    let whole = header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) == 0;
    let (mut sender, mut fds) = (None, Vec::new());
    for message in cmsg::Decoder::new(&control[..header.msg_controllen as usize]) {
        let mut ints =
            message.data.chunks_exact(4).filter_map(|b| Some(i32::from_ne_bytes(b.try_into().ok()?)));
        match (message.level, message.kind) {
            (libc::SOL_SOCKET, libc::SCM_RIGHTS) => {
                // SAFETY: the kernel just made these descriptors for us; nothing else owns them.
                fds.extend(ints.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
            }
            (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) => {
                let mut next = || ints.next().unwrap_or(-1);
                let (pid, uid, gid) = (next(), next().cast_unsigned(), next().cast_unsigned());
                sender = Some(PeerCred { pid, uid, gid });
            }
            _ => {}
        }
    }
    Ok(Received { len, sender, fds, whole })
}

fn send(path: &str, state: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
    socket.set_write_timeout(Some(PATIENCE))?;
    send_with_fds(socket.as_fd(), state.as_bytes(), fds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reaches_path_and_abstract_sockets() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("notify");
        let by_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("weft-sys-test-{}", std::process::id());
        let by_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (to, socket) in [(path.to_str().unwrap(), by_path), (&format!("@{name}"), by_name)] {
            send(to, "READY=1\nSTATUS=up", &[socket.as_fd()]).unwrap();
            let mut buf = [0; 64];
            let len = socket.recv(&mut buf).unwrap();
            assert_eq!(&buf[..len], b"READY=1\nSTATUS=up");
        }
    }

    #[test]
    fn the_managers_end_learns_who_sends_what() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("notify");
        let receiver = Receiver::bind(&path).unwrap();
        assert!(receiver.receive().unwrap().is_none());
        let (read, write) = io::pipe().unwrap();
        send(path.to_str().unwrap(), "FDSTORE=1\nFDNAME=a b", &[write.as_fd()]).unwrap();
        send(path.to_str().unwrap(), "FDNAME", &[]).unwrap();
        let message = receiver.receive().unwrap().unwrap();
        assert_eq!(message.sender.pid, i32::try_from(std::process::id()).unwrap());
        assert_eq!((message.get("FDSTORE"), message.get("FDNAME")), (Some("1"), Some("a b")));
        assert_eq!((message.get("FD"), message.fds.len()), (None, 1));
        assert_eq!(receiver.receive().unwrap().unwrap().get("FDNAME"), None);
        drop((read, write));
    }

    #[test]
    fn a_manager_that_does_not_read_is_not_waited_for_long() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("notify");
        let _deaf = UnixDatagram::bind(&path).unwrap();
        let end = (0..1000).find_map(|_| send(path.to_str().unwrap(), "WATCHDOG=1", &[]).err());
        assert_eq!(end.map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
    }

    #[test]
    fn names_of_descriptors() {
        assert!(is_fd_name("tap-ns.default_a-0") && is_fd_name(&"x".repeat(255)));
        for bad in ["", "a:b", "a\n", "é", &"x".repeat(256)] {
            assert!(!is_fd_name(bad), "{bad:?}");
        }
    }
}
