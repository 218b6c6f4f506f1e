//! The service manager's notification protocol (`sd_notify(3)`): one datagram to the socket in `NOTIFY_SOCKET`.
use std::env;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use crate::seqpacket::send_with_fds;

/// Sends `state`, e.g. `READY=1`, `STOPPING=1` or `STATUS=...` (several separated by line ends), to the service
/// manager. Returns false when there is none.
///
/// # Errors
/// Those of the socket; the caller may well ignore them.
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

fn send(path: &str, state: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.connect_addr(&address)?;
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
}
