//! The plugin's socket: one connection per call, one JSON request with its descriptors, one JSON reply
//! ([`weft_api::cni`]).
//!
//! Every change is an edit of the engine, so a reply means that packets flow (or do not any more). Invariants:
//! - A client that is gone before its reply is written, or without having read it, takes its ADD back: the runtime
//!   killed the plugin and may never send a DEL.
//! - Descriptors that came with a request are owned here at once and closed when its task ends, whatever happens.
//! - Only root is served; others are told so. A request has 1 MiB and 30 seconds at most; more than [`MAX_CLIENTS`] wait outside.

/// CHECK: a look into the namespace.
mod check;
/// What each verb does.
mod verbs;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;
use weft_api::MAX_BODY;
use weft_api::cni::{Attachment, CniError, Reply, Request, code};
use weft_sys::netns::Netns;
use weft_sys::pathid::Dir;
use weft_sys::seqpacket::{Connection, Listener};

use self::verbs::Pod;
use super::engine::Handle;
use super::handover::Gate;

/// Clients served at once.
pub const MAX_CLIENTS: usize = 256;
/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may take to read its reply and go, before it is left alone.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Clients of other users that are told so at once: they hold none of root's slots.
const MAX_STRANGERS: usize = 8;
/// How long such a client is listened to.
const STRANGER_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after an accept that failed for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How often DELs that were left on disk are looked for: a running daemon may have refused one, too.
const REPLAY_PAUSE: Duration = Duration::from_secs(5);

/// The bound socket.
pub struct Server {
    listener: AsyncFd<Listener>,
    queue: PathBuf,
    handle: Handle,
}

impl Server {
    /// Binds the socket (mode 0600); must be called on a tokio runtime. Clients wait until [`Server::run`] serves them.
    ///
    /// # Errors
    /// Those of [`Listener::bind`], `AddrInUse` when another daemon listens there.
    pub fn bind(socket: &Path, queue: impl Into<PathBuf>, handle: Handle) -> io::Result<Server> {
        if let Some(directory) = socket.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let listener = watched(Listener::bind(socket, 0o600, None)?, Interest::READABLE)?;
        Ok(Server { listener, queue: queue.into(), handle })
    }

    /// Takes over a listening socket from another daemon; else as [`Server::bind`].
    ///
    /// # Errors
    /// When tokio cannot watch it.
    pub fn adopt(
        socket: OwnedFd,
        path: &Path,
        queue: impl Into<PathBuf>,
        handle: Handle,
    ) -> io::Result<Server> {
        let listener = watched(Listener::from_fd(socket, path), Interest::READABLE)?;
        Ok(Server { listener, queue: queue.into(), handle })
    }

    /// Another descriptor of the socket.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn try_clone_fd(&self) -> io::Result<OwnedFd> {
        self.listener.get_ref().as_fd().try_clone_to_owned()
    }

    /// Replays the DELs that were left on disk, then serves until dropped, and looks for further ones.
    /// Clients wait outside while the gate is closed.
    pub async fn run(self, gate: Gate) {
        let mut told = BTreeSet::new();
        replay(&self.handle, &self.queue, &mut told).await;
        let again = async {
            loop {
                tokio::time::sleep(REPLAY_PAUSE).await;
                replay(&self.handle, &self.queue, &mut told).await;
            }
        };
        tokio::select! {
            () = self.serve_all(gate) => {}
            () = again => {}
        }
    }

    async fn serve_all(&self, mut gate: Gate) {
        let slots = Arc::new(Semaphore::new(MAX_CLIENTS));
        let strangers = Arc::new(Semaphore::new(MAX_STRANGERS));
        loop {
            // The semaphore is never closed.
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            gate.opened().await;
            let accepted = tokio::select! {
                biased;
                () = gate.closed() => continue,
                accepted = self.accept() => accepted,
            };
            match accepted {
                Ok(connection) if !is_root(&connection) => {
                    // Beyond those it is closed without a word.
                    if let Ok(slot) = Arc::clone(&strangers).try_acquire_owned() {
                        tokio::spawn(async move {
                            // It may have gone.
                            let _ = refuse(connection).await;
                            drop(slot);
                        });
                    }
                }
                Ok(connection) => {
                    let (handle, queue, gate) = (self.handle.clone(), self.queue.clone(), gate.clone());
                    tokio::spawn(async move {
                        if let Err(error) = serve(connection, &handle, &queue, &gate).await {
                            tracing::debug!(%error, "a CNI client went away");
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accepting a CNI client");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn accept(&self) -> io::Result<Connection> {
        self.listener.async_io(Interest::READABLE, Listener::accept).await
    }
}

/// Replays the DELs that plugins left in `directory` while no daemon ran ([`Attachment::queue_file`]), and removes each
/// file once done. A file that cannot be read as one is set aside under another name. `told`: files whose failure was
/// told already.
///
/// Between reading a file and asking the engine nothing else runs on this thread, so that an ADD which voids the file
/// ([`serve`]) is not followed by its DEL.
async fn replay(handle: &Handle, directory: &Path, told: &mut BTreeSet<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if !is_queued(name) {
            continue;
        }
        let attachment =
            std::fs::read(&path).and_then(|bytes| Ok(serde_json::from_slice::<Attachment>(&bytes)?));
        let done = match attachment {
            Ok(attachment) => match verbs::del(handle, attachment.clone()).await {
                Ok(()) => {
                    tracing::info!(container = attachment.container_id, "a DEL from the disk is done");
                    std::fs::remove_file(&path)
                }
                Err(error) => Err(io::Error::other(CniError::from(error))),
            },
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "not a queued DEL; set aside");
                std::fs::rename(&path, path.with_extension("bad"))
            }
        };
        match done {
            Ok(()) => drop(told.remove(&path)),
            // An ADD has voided it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                if told.insert(path.clone()) {
                    tracing::warn!(file = %path.display(), %error, "a queued DEL stays");
                }
            }
        }
    }
}

/// 16 hexadecimal digits and `.json`; anything else in the directory is not ours.
fn is_queued(name: &str) -> bool {
    name.strip_suffix(".json")
        .is_some_and(|hash| hash.len() == 16 && hash.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// A socket that tokio wakes its task for.
#[allow(deprecated)] // its successor is unsafe; what is asked there holds: these sockets keep one descriptor for life
fn watched<T: AsRawFd>(socket: T, interest: Interest) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(socket, interest)
}

fn is_root(connection: &Connection) -> bool {
    connection.peer_cred().is_ok_and(|peer| peer.uid == 0)
}

/// Tells a client that it is not root.
async fn refuse(connection: Connection) -> io::Result<()> {
    let connection = watched(connection, Interest::READABLE | Interest::WRITABLE)?;
    let message =
        format!("only root may use this socket, not user {}", connection.get_ref().peer_cred()?.uid);
    reply(&connection, &Reply::Error(CniError::new(code::INVALID_ENVIRONMENT, message))).await?;
    // Read and dropped: a socket that closes with a request unread takes the reply from the client, too.
    let request = connection.async_io(Interest::READABLE, |socket| socket.recv(&mut [0; 1]));
    let _ = tokio::time::timeout(STRANGER_TIMEOUT, request).await;
    Ok(())
}

/// One client of root's from request to good-bye.
async fn serve(connection: Connection, handle: &Handle, queue: &Path, gate: &Gate) -> io::Result<()> {
    let connection = watched(connection, Interest::READABLE | Interest::WRITABLE)?;
    let received = tokio::time::timeout(REQUEST_TIMEOUT, receive(&connection)).await;
    let (request, pod) = match received.map_err(|_| io::ErrorKind::TimedOut)?? {
        Ok(request) => request,
        Err(error) => return reply(&connection, &Reply::Error(error)).await,
    };
    let verb = request.verb();
    let added = if let Request::Add(attach) = &request { Some(attach.attachment.clone()) } else { None };
    if let Some(attachment) = &added {
        // ADD itself takes an earlier life of the container away; a DEL of that left on disk must not take the new one.
        let _ = std::fs::remove_file(queue.join(attachment.queue_file()));
    }
    let answer = tokio::select! {
        // Both ready: the answer counts, and sending it will tell that nobody is there.
        biased;
        answer = verbs::run(handle, request, pod) => answer,
        // Dropping the verb's future takes its edit back.
        () = hung_up(&connection) => {
            tracing::info!(verb, "a CNI client hung up before its reply");
            if let Some(attachment) = added {
                // It may have hung up in the instant in which the engine answered.
                take_back(handle, attachment).await;
            }
            return Ok(());
        }
    };
    if matches!(&answer, Reply::Error(error) if error.code == code::TRY_AGAIN) && !gate.is_open() {
        // Another process takes over. A plugin that is hung up on asks again, and is served by that one.
        return Ok(());
    }
    if let Reply::Error(error) = &answer {
        tracing::info!(verb, code = error.code, error = error.msg, "a CNI call failed");
    }
    let Some(attachment) = added.filter(|_| matches!(answer, Reply::Added(_))) else {
        return reply(&connection, &answer).await;
    };
    let told = match reply(&connection, &answer).await {
        Ok(()) => was_read(&connection).await,
        Err(_) => false,
    };
    if !told {
        tracing::info!(container = attachment.container_id, "nobody read the reply to an ADD; taken back");
        take_back(handle, attachment).await;
    }
    Ok(())
}

async fn take_back(handle: &Handle, attachment: Attachment) {
    if let Err(error) = verbs::del(handle, attachment).await {
        tracing::warn!(error = %CniError::from(error), "taking an ADD back");
    }
}

/// One request; the inner error is the client's to hear.
async fn receive(connection: &AsyncFd<Connection>) -> io::Result<Result<(Request, Option<Pod>), CniError>> {
    // One byte more than allowed, so that too long is not taken for cut.
    let mut buffer = vec![0; MAX_BODY + 1];
    let received = connection.async_io(Interest::READABLE, |socket| socket.recv(&mut buffer)).await;
    let (length, fds) = match received {
        Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(received) => received,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Ok(Err(CniError::new(code::DECODE, format!("the request cannot be taken: {error}"))));
        }
        Err(error) => return Err(error),
    };
    if length > MAX_BODY {
        let message = format!("a request has at most {MAX_BODY} bytes");
        return Ok(Err(CniError::new(code::DECODE, message)));
    }
    Ok(decode(&buffer[..length], fds))
}

fn decode(bytes: &[u8], fds: Vec<OwnedFd>) -> Result<(Request, Option<Pod>), CniError> {
    let request: Request = serde_json::from_slice(bytes).map_err(|error| {
        let hint = "install the plugin that came with the daemon";
        CniError::new(code::DECODE, format!("the request does not decode: {error}")).with_details(hint)
    })?;
    let count = fds.len();
    let mut fds = fds.into_iter();
    let pod = match (fds.next(), fds.next(), fds.next()) {
        (Some(netns), Some(directory), None) => {
            let refuse = |error: io::Error| CniError::new(code::INVALID_NETNS, error.to_string());
            let netns = Netns::from_fd(netns).map_err(refuse)?;
            let dir = Dir::from_fd(directory).map_err(refuse)?;
            Some(Pod { netns: Arc::new(netns), dir: Arc::new(dir) })
        }
        (None, ..) => None,
        _ => {
            let message = format!("{count} descriptors came with the request; expected none or two");
            return Err(CniError::new(code::DECODE, message));
        }
    };
    if request.needs_netns() && pod.is_none() {
        let message = format!("{} came without its namespace", request.verb());
        return Err(CniError::new(code::INVALID_NETNS, message));
    }
    Ok((request, pod))
}

async fn reply(connection: &AsyncFd<Connection>, reply: &Reply) -> io::Result<()> {
    let message = serde_json::to_vec(reply)?;
    let send = connection.async_io(Interest::WRITABLE, |socket| socket.send(&message, &[]));
    tokio::time::timeout(READ_TIMEOUT, send).await.map_err(|_| io::ErrorKind::TimedOut)?
}

/// Returns when the client has closed its end, or breaks the protocol by saying more.
async fn hung_up(connection: &AsyncFd<Connection>) {
    let mut byte = [0];
    let _ = connection.async_io(Interest::READABLE, |socket| socket.recv(&mut byte)).await;
}

/// Waits for the client to go. False if it went without reading its reply: closing a socket with unread messages resets
/// the other end (`net/unix/af_unix.c: unix_release_sock`).
async fn was_read(connection: &AsyncFd<Connection>) -> bool {
    let mut byte = [0];
    let gone = connection.async_io(Interest::READABLE, |socket| socket.recv(&mut byte));
    match tokio::time::timeout(READ_TIMEOUT, gone).await {
        Ok(Err(error)) => error.kind() != io::ErrorKind::ConnectionReset,
        // It went in peace, or it takes its time over the answer, which it has.
        Ok(Ok(_)) | Err(_) => true,
    }
}

#[cfg(test)]
mod tests;
