//! The netlink transport: one socket, numbered requests, the kernel's answer with its own words.
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::net::RecvFlags;

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused the request.
    #[error("{what}: {source}{}", Detail(.detail))]
    Kernel {
        /// What was attempted, e.g. `add address 10.0.0.1/24 to link 7`.
        what: String,
        /// The kernel's errno.
        source: io::Error,
        /// The kernel's own explanation (`NLMSGERR_ATTR_MSG`), when it gave one.
        detail: Option<String>,
    },
    /// The netlink socket itself failed.
    #[error("{what}: netlink socket: {source}")]
    Socket {
        /// What was attempted.
        what: String,
        /// The socket's error.
        source: io::Error,
    },
    /// The answer could not be read.
    #[error("{what}: cannot read the kernel's answer: {why}")]
    Decode {
        /// What was attempted.
        what: String,
        /// What is wrong with it.
        why: String,
    },
}

impl Error {
    /// The errno, when there is one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { source, .. } | Self::Socket { source, .. } => source.raw_os_error(),
            Self::Decode { .. } => None,
        }
    }

    /// True for "it exists already" (`EEXIST`).
    #[must_use]
    pub fn is_exists(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }

    /// True for "there is no such link, address, route or neighbour".
    #[must_use]
    pub fn is_missing(&self) -> bool {
        let missing = [libc::ENODEV, libc::ENOENT, libc::ESRCH, libc::EADDRNOTAVAIL, libc::ENXIO];
        self.errno().is_some_and(|errno| missing.contains(&errno))
    }
}

/// A socket for requests, bound to the namespace in which it was made.
#[derive(Debug)]
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    request: Vec<u8>,
    answer: Vec<u8>,
}

/// A dump message has at most 32 KiB (`netlink_dump`), one link with statistics of all sorts about 4.
const ANSWER: usize = 64 << 10;

/// How often a dump that a change has interrupted is asked for again.
const DUMP_RETRIES: usize = 5;

/// `NLM_F_DUMP_INTR`: the table changed during the dump.
const NLM_F_DUMP_INTR: u16 = 0x10;

impl Netlink {
    /// Opens a socket in the current namespace.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn new() -> Result<Self, Error> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_cap_ack(true)?;
            socket.set_ext_ack(true)?;
            Ok(socket)
        };
        let socket = open().map_err(|source| Error::Socket { what: "open netlink".into(), source })?;
        Ok(Self { socket, sequence: 0, request: Vec::new(), answer: vec![0; ANSWER] })
    }

    /// Sends a request that the kernel only acknowledges. `what` is evaluated on failure.
    pub(super) fn act(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        what: impl Fn() -> String,
    ) -> Result<(), Error> {
        self.send(message, NLM_F_ACK | flags, &what)?;
        self.receive(&what, false, |_| {}).map(drop)
    }

    /// Sends a request that the kernel answers with one message.
    pub(super) fn get(
        &mut self,
        message: RouteNetlinkMessage,
        what: impl Fn() -> String,
    ) -> Result<RouteNetlinkMessage, Error> {
        let mut found = None;
        self.send(message, 0, &what)?;
        self.receive(&what, true, |answer| found = Some(answer))?;
        found.ok_or_else(|| Error::Decode { what: what(), why: "no answer".into() })
    }

    /// Asks for a whole table; once more when it changed meanwhile.
    pub(super) fn dump(
        &mut self,
        message: &RouteNetlinkMessage,
        what: impl Fn() -> String,
    ) -> Result<Vec<RouteNetlinkMessage>, Error> {
        let mut found = Vec::new();
        for _ in 0..DUMP_RETRIES {
            found.clear();
            self.send(message.clone(), NLM_F_DUMP, &what)?;
            let interrupted = self.receive(&what, false, |answer| found.push(answer))?;
            if !interrupted {
                break;
            }
        }
        Ok(found)
    }

    fn send(
        &mut self,
        message: RouteNetlinkMessage,
        flags: u16,
        what: &impl Fn() -> String,
    ) -> Result<(), Error> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut packet = NetlinkMessage::new(NetlinkHeader::default(), NetlinkPayload::from(message));
        packet.header.flags = NLM_F_REQUEST | flags;
        packet.header.sequence_number = self.sequence;
        packet.finalize();
        self.request.clear();
        self.request.resize(packet.buffer_len(), 0);
        packet.serialize(&mut self.request);
        let sent = self.socket.send(&self.request, 0);
        sent.map(drop).map_err(|source| Error::Socket { what: what(), source })
    }

    /// Reads until the request's acknowledgement, error, end of dump or (`single`) first message. Returns whether
    /// the dump was interrupted.
    fn receive(
        &mut self,
        what: &impl Fn() -> String,
        single: bool,
        mut found: impl FnMut(RouteNetlinkMessage),
    ) -> Result<bool, Error> {
        let mut interrupted = false;
        loop {
            let (len, _) = rustix::io::retry_on_intr(|| {
                rustix::net::recv(&self.socket, &mut self.answer[..], RecvFlags::empty())
            })
            .map_err(|e| Error::Socket { what: what(), source: e.into() })?;
            for packet in messages(&self.answer[..len]) {
                let packet = packet.map_err(|why| Error::Decode { what: what(), why })?;
                if packet.header.sequence_number != self.sequence {
                    continue; // left over from a request that was given up
                }
                interrupted |= packet.header.flags & NLM_F_DUMP_INTR != 0;
                match packet.payload {
                    NetlinkPayload::InnerMessage(message) => {
                        found(message);
                        if single {
                            return Ok(interrupted);
                        }
                    }
                    NetlinkPayload::Done(done) if done.code == 0 => return Ok(interrupted),
                    NetlinkPayload::Done(done) => {
                        let source = io::Error::from_raw_os_error(done.code.saturating_abs());
                        return Err(Error::Kernel { what: what(), source, detail: None });
                    }
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(interrupted),
                    NetlinkPayload::Error(error) => return Err(refused(what(), &error)),
                    _ => {}
                }
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Splits one received buffer into its messages.
pub(super) fn messages(
    mut bytes: &[u8],
) -> impl Iterator<Item = Result<NetlinkMessage<RouteNetlinkMessage>, String>> {
    std::iter::from_fn(move || {
        let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
        let one = bytes.get(..len.max(4));
        bytes = bytes.get(len.max(4).next_multiple_of(4)..).unwrap_or_default();
        Some(match one {
            Some(one) => NetlinkMessage::deserialize(one).map_err(|error| error.to_string()),
            None => Err("message is cut".to_owned()),
        })
    })
}

/// Formats the optional explanation.
struct Detail<'a>(&'a Option<String>);

impl std::fmt::Display for Detail<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.as_ref().map_or(Ok(()), |detail| write!(f, " ({detail})"))
    }
}

fn refused(what: String, error: &ErrorMessage) -> Error {
    Error::Kernel { what, source: error.to_io(), detail: extended_message(&error.header) }
}

/// `NLMSGERR_ATTR_MSG` among the attributes behind the request's header, which is all that `NETLINK_CAP_ACK` leaves
/// of the request.
fn extended_message(payload: &[u8]) -> Option<String> {
    const REQUEST_HEADER: usize = 16;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let mut rest = payload.get(REQUEST_HEADER..)?;
    loop {
        let len = u16::from_ne_bytes(*rest.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
        let value = rest.get(4..len)?;
        if kind == NLMSGERR_ATTR_MSG {
            return Some(String::from_utf8_lossy(value).trim_end_matches('\0').to_owned());
        }
        rest = rest.get(len.next_multiple_of(4)..)?;
    }
}
