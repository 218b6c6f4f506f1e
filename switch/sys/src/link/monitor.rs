//! Changes of links, addresses, routes and, if wanted, neighbours, as the kernel announces them (`RTNLGRP_*`, `linux/rtnetlink.h`).
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::net::RecvFlags;

use super::{Address, Error, Link, Neighbour, Route, addr, device, neigh, route, socket};

/// One change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A link is new or changed (its MTU, its carrier, ...).
    LinkChanged(Link),
    /// A link is gone from this namespace.
    LinkRemoved(Link),
    /// An address is new or changed.
    AddrChanged(Address),
    /// An address is gone.
    AddrRemoved(Address),
    /// A route is new or changed.
    RouteChanged(Route),
    /// A route is gone. Routes that go with their link are not announced.
    RouteRemoved(Route),
    /// A neighbour is new or changed, maybe only in what the kernel thinks of it.
    NeighChanged(Neighbour),
    /// A neighbour is gone.
    NeighRemoved(Neighbour),
    /// The kernel dropped announcements: list everything again.
    Overrun,
}

/// A non-blocking socket that hears every change in the namespace where it was made. Poll it for reading, then call
/// [`LinkMonitor::next_event`] until it gives `None`.
#[derive(Debug)]
pub struct LinkMonitor {
    socket: Socket,
    waiting: VecDeque<Event>,
    buf: Vec<u8>,
}

/// `RTNLGRP_NEIGH`.
const NEIGHBOURS: u32 = 3;

/// `RTNLGRP_LINK`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV6_IFADDR`, `_IPV6_ROUTE`.
const GROUPS: [u32; 5] = [1, 5, 7, 9, 11];

impl LinkMonitor {
    /// Opens the socket in the current namespace.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn new() -> Result<Self, Error> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.set_non_blocking(true)?;
            socket.set_rx_buf_sz(1i32 << 20)?;
            socket.bind(&SocketAddr::new(0, 0))?;
            for group in GROUPS {
                socket.add_membership(group)?;
            }
            Ok(socket)
        };
        let socket = open().map_err(failed)?;
        Ok(Self { socket, waiting: VecDeque::new(), buf: vec![0; 64 << 10] })
    }

    /// Hears of neighbours from now on. They change often.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub fn hear_neighbours(&mut self) -> Result<(), Error> {
        self.socket.add_membership(NEIGHBOURS).map_err(failed)
    }

    /// The next change, `None` when no more is waiting.
    ///
    /// # Errors
    /// [`Error::Socket`]. An announcement that cannot be read is [`Event::Overrun`].
    pub fn next_event(&mut self) -> Result<Option<Event>, Error> {
        while self.waiting.is_empty() {
            match rustix::net::recv(&self.socket, &mut self.buf[..], RecvFlags::empty()) {
                Ok((len, _)) => self.waiting.extend(socket::messages(&self.buf[..len]).filter_map(event)),
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::NOBUFS) => self.waiting.push_back(Event::Overrun),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
        Ok(self.waiting.pop_front())
    }
}

impl AsFd for LinkMonitor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for LinkMonitor {
    /// For mio's `SourceFd` and tokio's `AsyncFd`.
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

type Packet = Result<netlink_packet_core::NetlinkMessage<RouteNetlinkMessage>, String>;

fn event(packet: Packet) -> Option<Event> {
    let Ok(packet) = packet else { return Some(Event::Overrun) };
    let NetlinkPayload::InnerMessage(message) = packet.payload else { return None };
    match message {
        // Bridges announce their ports' state with family AF_BRIDGE: DelLink of that sort removes no link.
        RouteNetlinkMessage::NewLink(m) | RouteNetlinkMessage::DelLink(m)
            if m.header.interface_family == netlink_packet_route::AddressFamily::Bridge =>
        {
            None
        }
        RouteNetlinkMessage::NewLink(m) => Some(Event::LinkChanged(device::parse(&m))),
        RouteNetlinkMessage::DelLink(m) => Some(Event::LinkRemoved(device::parse(&m))),
        RouteNetlinkMessage::NewAddress(m) => addr::parse(&m).map(Event::AddrChanged),
        RouteNetlinkMessage::DelAddress(m) => addr::parse(&m).map(Event::AddrRemoved),
        RouteNetlinkMessage::NewRoute(m) => route::parse(&m).map(Event::RouteChanged),
        RouteNetlinkMessage::DelRoute(m) => route::parse(&m).map(Event::RouteRemoved),
        RouteNetlinkMessage::NewNeighbour(m) => neigh::parse(&m).map(Event::NeighChanged),
        RouteNetlinkMessage::DelNeighbour(m) => neigh::parse(&m).map(Event::NeighRemoved),
        _ => None,
    }
}

fn failed(source: io::Error) -> Error {
    Error::Socket { what: "watch links".into(), source }
}
