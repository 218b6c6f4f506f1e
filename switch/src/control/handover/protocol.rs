//! What the two processes say: one JSON message a packet, descriptors beside it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::{Deserialize, Serialize};
use weft_api::report::{FdbEntry, NeighbourEntry};
use weft_sys::seqpacket::{Connection, MAX_MESSAGE};

use super::counts::Counts;

/// Number of the protocol: another one is refused.
pub(super) const PROTOCOL: u32 = 1;
/// Number of the format of [`Message::Stations`] and [`Message::Neighbours`]. To one who reads another, they are not
/// sent: it starts by the stored state, with the descriptors.
pub(super) const STATE: u32 = 1;

/// One message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Message {
    /// New: who I am, and who holds descriptors for me; empty: nobody.
    Hello {
        protocol: u32,
        state: u32,
        version: String,
        #[serde(default)]
        manager: Option<String>,
        /// I take counters.
        #[serde(default)]
        counters: bool,
    },
    /// Old: not with me.
    Refused { reason: String },
    /// Old: descriptors, by name.
    Descriptors { names: Vec<String> },
    /// Old: learned stations.
    Stations(Vec<FdbEntry>),
    /// Old: learned neighbours.
    Neighbours(Vec<NeighbourEntry>),
    /// Old: that was all; `manager` holds the descriptors besides.
    Go { manager: Option<String> },
    /// New: all is built.
    Ready,
    /// Old: my workers have stopped.
    Stopped,
    /// New: mine forward.
    Forwarding,
    /// Old: what I have counted, to one who takes counters.
    Counters(Box<Counts>),
    /// Old: the service manager knows; I am gone.
    Left,
}

/// Why nothing was handed over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandOverError {
    /// The socket.
    #[error("hand-over: {0}")]
    Io(#[from] io::Error),
    /// The other end is not root's.
    #[error("hand-over: only root may take over, not user {0}")]
    Stranger(u32),
    /// The other end speaks another version.
    #[error("hand-over refused: {0}; restart weftd instead, which goes by the stored state")]
    Refused(String),
    /// The other end has ended.
    #[error("hand-over: the other weftd hung up; see its log")]
    HungUp,
    /// It did not answer.
    #[error("hand-over: the other weftd did not answer in time")]
    Late,
    /// It said something else.
    #[error("hand-over: the other weftd said what was not expected")]
    Unexpected,
    /// The engine did not come to it.
    #[error("hand-over: the engine is busy; try again")]
    Busy,
}

/// Waits until the socket is readable. False: not in time.
pub(super) fn wait(socket: BorrowedFd<'_>, limit: Option<Duration>) -> io::Result<bool> {
    wait_for(socket, PollFlags::IN, limit)
}

fn wait_for(socket: BorrowedFd<'_>, what: PollFlags, limit: Option<Duration>) -> io::Result<bool> {
    let limit = limit.and_then(|limit| Timespec::try_from(limit).ok());
    loop {
        let mut fds = [PollFd::new(&socket, what)];
        match poll(&mut fds, limit.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

pub(super) fn send(to: &Connection, message: &Message, fds: &[BorrowedFd<'_>]) -> Result<(), HandOverError> {
    let bytes = serde_json::to_vec(message).map_err(io::Error::other)?;
    loop {
        match to.send(&bytes, fds) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if !wait_for(to.as_fd(), PollFlags::OUT, Some(super::STEP))? {
                    return Err(HandOverError::Late);
                }
            }
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Err(HandOverError::HungUp),
            Err(error) => return Err(error.into()),
        }
    }
}

pub(super) fn receive(from: &Connection, limit: Duration) -> Result<(Message, Vec<OwnedFd>), HandOverError> {
    if !wait(from.as_fd(), Some(limit))? {
        return Err(HandOverError::Late);
    }
    let mut buf = vec![0; MAX_MESSAGE];
    let (len, fds) = match from.recv(&mut buf) {
        Ok((0, _)) => return Err(HandOverError::HungUp),
        Ok(received) => received,
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(HandOverError::HungUp),
        Err(error) => return Err(error.into()),
    };
    let message = serde_json::from_slice(&buf[..len]).map_err(|_| HandOverError::Unexpected)?;
    Ok((message, fds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_heard() {
        let (a, b) = Connection::pair().unwrap();
        let said = Message::Go { manager: Some("/run/x".into()) };
        send(&a, &said, &[b.as_fd()]).unwrap();
        let (heard, fds) = receive(&b, Duration::from_secs(1)).unwrap();
        assert_eq!((heard, fds.len()), (said, 1));
        assert!(matches!(receive(&b, Duration::from_millis(1)), Err(HandOverError::Late)));
        a.send(b"{\"What\":1}", &[]).unwrap();
        assert!(matches!(receive(&b, Duration::from_secs(1)), Err(HandOverError::Unexpected)));
        drop((a, fds));
        assert!(matches!(receive(&b, Duration::from_secs(1)), Err(HandOverError::HungUp)));
    }
}
