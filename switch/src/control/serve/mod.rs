//! The control API: HTTP/1.1 + JSON on a Unix socket.
//!
//! Who may connect is decided by the socket's mode and again by the peer's credentials: root, and the members of one
//! group when one is configured, who get everything but the upgrade. Nothing that a client sends or fails to send holds
//! anything else up: connections, header and body time and body size are bounded, reads are answered from what the
//! engine last published.

/// The OpenAPI document.
mod openapi;
/// Paths and what answers them.
mod routes;

#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;

use super::handover::Gate;
pub use openapi::document;
pub use routes::{Source, router};

/// Connections at a time; further ones wait in the socket's backlog.
const MAX_CONNECTIONS: usize = 64;
/// Clients that may wait to be accepted.
const BACKLOG: i32 = 128;
/// A request's headers must have come by then.
const HEADER_TIME: Duration = Duration::from_secs(5);
/// A connection lives no longer.
const CONNECTION_TIME: Duration = Duration::from_secs(60);

/// Who may use the API besides root.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Access {
    /// Members of this group.
    pub group: Option<u32>,
}

/// Binds the socket: a stale one is removed, the mode is 0600, or 0660 with the group's ownership.
///
/// # Errors
/// Those of `bind(2)`, `chmod(2)`, `chown(2)`; `AddrInUse` when a live daemon answers there, `AlreadyExists` when the
/// path is no socket.
pub fn bind(path: &Path, access: Access) -> io::Result<UnixListener> {
    remove_stale(path)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(path)?)?;
    // Nobody can connect before listen, so nobody comes in before the permissions are set.
    if let Some(group) = access.group {
        std::os::unix::fs::chown(path, None, Some(group))?;
    }
    let mode = if access.group.is_some() { 0o660 } else { 0o600 };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
    rustix::net::listen(&socket, BACKLOG)?;
    UnixListener::from_std(socket.into())
}

/// Takes over a listening socket from another daemon.
///
/// # Errors
/// When it is no such socket.
pub fn adopt(socket: OwnedFd) -> io::Result<UnixListener> {
    UnixListener::from_std(socket.into())
}

/// Only a socket that nobody listens on any more may go.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(meta) if !meta.file_type().is_socket() => {
            let message = "it exists and is no socket; remove it or choose another path";
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens there")),
    }
}

/// Serves until the task is dropped.
pub async fn serve(listener: UnixListener, access: Access, source: Arc<dyn Source>) {
    serve_while(listener, access, source, Gate::open()).await;
}

/// As [`serve`], but clients wait outside while the gate is closed.
pub async fn serve_while(listener: UnixListener, access: Access, source: Arc<dyn Source>, mut gate: Gate) {
    let (roots, members, strangers) =
        (router(Arc::clone(&source)), routes::for_members(source), routes::closed());
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        gate.opened().await;
        let accepted = tokio::select! {
            biased;
            () = gate.closed() => continue,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: look again when some may be free.
                tracing::warn!(%error, "the API's socket");
                tokio::time::sleep(Duration::from_millis(200)).await;
                continue;
            }
        };
        // A stranger is answered as everybody is, after the request: an answer before it may be lost.
        let (router, time) = match who(&stream, access) {
            Who::Root => (&roots, CONNECTION_TIME),
            Who::Member => (&members, CONNECTION_TIME),
            Who::Stranger => (&strangers, HEADER_TIME),
        };
        let service = TowerToHyperService::new(router.clone());
        tokio::spawn(async move {
            let _place = place;
            let mut server = hyper::server::conn::http1::Builder::new();
            server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIME);
            // A client that breaks off is its own affair.
            let _ = tokio::time::timeout(time, server.serve_connection(TokioIo::new(stream), service)).await;
        });
    }
}

/// What a client may do.
enum Who {
    /// Everything.
    Root,
    /// Everything but run programs as root. The daemon's own user, where that is not root, is no more than a member.
    Member,
    /// Nothing.
    Stranger,
}

fn who(stream: &UnixStream, access: Access) -> Who {
    let Ok(peer) = stream.peer_cred() else { return Who::Stranger };
    if peer.uid() == 0 {
        return Who::Root;
    }
    let is_member = peer.uid() == rustix::process::geteuid().as_raw()
        || access.group.is_some_and(|group| peer.gid() == group || is_member(peer.pid(), group));
    if is_member { Who::Member } else { Who::Stranger }
}

/// Is the group one of the process's supplementary ones?
fn is_member(pid: Option<i32>, group: u32) -> bool {
    let Some(pid) = pid else { return false };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let groups = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    groups.split_whitespace().any(|number| number.parse() == Ok(group))
}
