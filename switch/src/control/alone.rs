//! One daemon with a port of the node's own per network namespace: table, routes, sysctls and rules in foreign chains
//! exist once there, whatever directories the daemons use.
//!
//! The sign is a listening socket with an abstract name, which belongs to the network namespace and goes with the
//! process. Anybody may bind such a name, so one that is held by another user than root keeps nobody from starting;
//! but for one whose queue is full, so that nobody can ask whose it is.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use tokio::net::UnixListener;
use weft_sys::seqpacket::{PeerCred, peer_cred};

/// The socket's abstract name.
const NAME: &[u8] = b"weftd";
/// Others that may ask at a time who holds the sign; [`Alone::answer`] lets them go.
const BACKLOG: i32 = 8;
/// A sign that says nothing is asked again for so long.
const PATIENCE: Duration = Duration::from_secs(2);
const AGAIN: Duration = Duration::from_millis(50);
/// From one look at who has asked to the next.
const PAUSE: Duration = Duration::from_millis(500);

/// Held while this process looks after the host's network of its namespace.
#[derive(Debug)]
pub struct Alone {
    socket: Option<OwnedFd>,
}

/// Why not.
#[derive(Debug, thiserror::Error)]
pub enum NotAlone {
    /// Another daemon has it.
    #[error(
        "another weftd (process {pid}) looks after this network namespace; stop it, or start this one in a namespace \
         of its own or with `internal = false`"
    )]
    Taken {
        /// Its process id; 0 for a process of another PID namespace.
        pid: i32,
    },
    /// Another process has it, whose queue is full: a daemon that is held up, more likely than not.
    #[error(
        "another weftd, or what looks like one, looks after this network namespace and does not say who it is; \
         `ss -xlp` shows who listens on @weftd: stop it, or start this one in a namespace of its own or with \
         `internal = false`"
    )]
    Silent,
    /// The kernel refuses.
    #[error("the sign that a daemon runs in this network namespace: {0}")]
    Io(#[from] io::Error),
}

impl Alone {
    /// Takes the sign over from another daemon, whose name it bears until [`Alone::sign`].
    pub fn from_fd(socket: OwnedFd) -> Alone {
        Alone { socket: Some(socket) }
    }

    /// Puts this process's name to it.
    ///
    /// # Errors
    /// Those of `listen(2)`.
    pub fn sign(&self) -> io::Result<()> {
        self.socket.iter().try_for_each(|socket| Ok(rustix::net::listen(socket, BACKLOG)?))
    }

    /// Lets go who has asked for the holder, for ever, or soon nobody could ask any more.
    pub async fn answer(&self) {
        let Some(socket) = &self.socket else { return std::future::pending().await };
        let listener = socket.try_clone().and_then(|socket| UnixListener::from_std(socket.into()));
        let listener = listener.inspect_err(|error| {
            tracing::warn!(%error, "another weftd that starts here may wait for two seconds until it is refused");
        });
        loop {
            match &listener {
                // One that is gone already, or no descriptor left: others may still ask.
                Ok(listener) => drop(listener.accept().await),
                Err(_) => std::future::pending().await,
            }
            self.drain();
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Lets go who waits; a bounded number, for others may ask faster than this answers.
    fn drain(&self) {
        let Some(socket) = &self.socket else { return };
        for _ in 0..4 * BACKLOG {
            if rustix::net::accept_with(socket, SocketFlags::CLOEXEC).is_err() {
                return;
            }
        }
    }

    /// Another descriptor of the sign, if there is one.
    ///
    /// # Errors
    /// `EMFILE`.
    pub fn try_clone_fd(&self) -> io::Result<Option<OwnedFd>> {
        self.socket.as_ref().map(OwnedFd::try_clone).transpose()
    }

    /// Takes the calling thread's network namespace.
    ///
    /// # Errors
    /// [`NotAlone::Taken`] when a daemon of root's has it, [`NotAlone::Silent`] when its holder does not tell whose it
    /// is for two seconds, for which this waits.
    pub fn take() -> Result<Alone, NotAlone> {
        let end = Instant::now() + PATIENCE;
        loop {
            let is_last = Instant::now() >= end;
            match Alone::try_take(is_last) {
                Err(NotAlone::Silent) if !is_last => std::thread::sleep(AGAIN),
                result => return result,
            }
        }
    }

    fn try_take(is_last: bool) -> Result<Alone, NotAlone> {
        let socket = socket().map_err(io::Error::from)?;
        match rustix::net::bind(&socket, &name().map_err(io::Error::from)?) {
            Ok(()) => {
                rustix::net::listen(&socket, BACKLOG).map_err(io::Error::from)?;
                Ok(Alone { socket: Some(socket) })
            }
            Err(Errno::ADDRINUSE) => match holder() {
                Ok(holder) if holder.uid == 0 => Err(NotAlone::Taken { pid: holder.pid }),
                // A daemon listens as soon as it has bound: one that still does not is none.
                held if held.is_ok() || is_last && matches!(held, Err(Errno::CONNREFUSED)) => {
                    tracing::warn!(
                        ?held,
                        "the abstract socket `weftd` is taken by a process that is not a weftd of root's"
                    );
                    Ok(Alone { socket: None })
                }
                // Its queue is full; or it is about to listen, or has just gone.
                Ok(_) | Err(Errno::AGAIN | Errno::CONNREFUSED) => Err(NotAlone::Silent),
                Err(error) => Err(io::Error::from(error).into()),
            },
            Err(error) => Err(io::Error::from(error).into()),
        }
    }
}

/// True when another daemon has the calling thread's network namespace, or seems to.
pub fn is_another_there() -> bool {
    match Alone::take() {
        Err(NotAlone::Taken { pid }) => u32::try_from(pid) != Ok(std::process::id()),
        Err(NotAlone::Silent) => true,
        Ok(_) | Err(NotAlone::Io(_)) => false,
    }
}

/// Who listens (`unix(7)`, SO_PEERCRED: the credentials at the time of its `listen`).
fn holder() -> Result<PeerCred, Errno> {
    let socket = socket()?;
    rustix::net::connect(&socket, &name()?)?;
    peer_cred(socket.as_fd()).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
}

/// Not blocking: a stranger may have filled the queue.
fn socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn name() -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new_abstract_name(NAME)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::effects::testing::{namespace, root};

    #[test]
    fn one_per_namespace() {
        if !root() {
            return;
        }
        let (here, there) = (namespace(), namespace());
        let first = here.run(Alone::take).unwrap().unwrap();
        let second = here.run(Alone::take).unwrap().unwrap_err();
        let pid = i32::try_from(std::process::id()).unwrap();
        assert!(matches!(second, NotAlone::Taken { pid: holder } if holder == pid), "{second}");
        there.run(Alone::take).unwrap().unwrap();
        drop(first);
        here.run(Alone::take).unwrap().unwrap();
    }

    #[test]
    fn who_asks_often_is_refused_every_time() {
        if !root() {
            return;
        }
        let here = namespace();
        let first = here.run(Alone::take).unwrap().unwrap();
        for round in 0..20 {
            let refused = here.run(Alone::take).unwrap().unwrap_err();
            assert!(matches!(refused, NotAlone::Taken { .. }), "{round}: {refused}");
            first.drain();
        }
        // Of a holder that is held up, too.
        let refusals: Vec<_> =
            (0..20).map(|_| here.run(|| Alone::try_take(false)).unwrap().unwrap_err()).collect();
        assert!(matches!(refusals[0], NotAlone::Taken { .. }), "{}", refusals[0]);
        assert!(matches!(refusals[19], NotAlone::Silent), "{}", refusals[19]);
        let waited = Instant::now();
        assert!(matches!(here.run(Alone::take).unwrap(), Err(NotAlone::Silent)));
        assert!(waited.elapsed() >= PATIENCE);
        first.drain();
        assert!(matches!(here.run(Alone::take).unwrap(), Err(NotAlone::Taken { .. })));
    }
}
