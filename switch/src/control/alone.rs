//! One daemon with a port of the node's own per network namespace: table, routes, sysctls and rules in foreign chains
//! exist once there, whatever directories the daemons use.
//!
//! The sign is a listening socket with an abstract name, which belongs to the network namespace and goes with the
//! process. Anybody may bind such a name, so one that is held by another user than root keeps nobody from starting.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// The socket's abstract name.
const NAME: &[u8] = b"weftd";

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
        /// Its process id.
        pid: i32,
    },
    /// The kernel refuses.
    #[error("the sign that a daemon runs in this network namespace: {0}")]
    Io(#[from] io::Error),
}

impl Alone {
    /// Takes the sign over from another daemon.
    ///
    /// # Errors
    /// Those of `listen(2)`, by which this process signs.
    pub fn from_fd(socket: OwnedFd) -> io::Result<Alone> {
        rustix::net::listen(&socket, 8)?;
        Ok(Alone { socket: Some(socket) })
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
    /// [`NotAlone::Taken`] when a daemon of root's has it.
    pub fn take() -> Result<Alone, NotAlone> {
        let socket = socket()?;
        match rustix::net::bind(&socket, &name()?) {
            Ok(()) => {
                rustix::net::listen(&socket, 8).map_err(io::Error::from)?;
                Ok(Alone { socket: Some(socket) })
            }
            Err(Errno::ADDRINUSE) => match holder() {
                Ok(holder) if holder.uid.is_root() => {
                    Err(NotAlone::Taken { pid: holder.pid.as_raw_nonzero().get() })
                }
                held => {
                    tracing::warn!(
                        ?held,
                        "the abstract socket `weftd` is taken by a process that is not root's"
                    );
                    Ok(Alone { socket: None })
                }
            },
            Err(error) => Err(io::Error::from(error).into()),
        }
    }
}

/// The process of another daemon that has the calling thread's network namespace.
pub fn other_daemon() -> Option<i32> {
    match Alone::take() {
        Err(NotAlone::Taken { pid }) => Some(pid).filter(|pid| u32::try_from(*pid) != Ok(std::process::id())),
        Ok(_) | Err(NotAlone::Io(_)) => None,
    }
}

/// Who listens (`unix(7)`, SO_PEERCRED: the credentials at the time of its `listen`).
fn holder() -> io::Result<rustix::net::UCred> {
    let socket = socket()?;
    rustix::net::connect(&socket, &name()?)?;
    Ok(rustix::net::sockopt::socket_peercred(&socket)?)
}

/// Not blocking: a stranger may have filled the queue.
fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?)
}

fn name() -> io::Result<SocketAddrUnix> {
    Ok(SocketAddrUnix::new_abstract_name(NAME)?)
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
}
