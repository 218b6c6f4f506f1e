//! UDP sockets that carry VXLAN: one receiving socket per family, a small pool of sending ones.
//!
//! - A sending socket has one source port for its life. The inner flow's hash picks the socket: a flow keeps its path
//!   through the underlay, flows spread over [`SENDERS`] of them, and frames of different flows that share a socket
//!   can share a send.
//! - Receiving gives superframes: the kernel's `UDP_GRO` hands over runs of datagrams, whose inner segments are glued
//!   together again ([`Receiver`]).

mod rx;
mod tx;

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use weft_sys::udp::{self, UdpOptions, UdpSocket};

pub use rx::{Receiver, Tally};
pub use tx::{Outcome, Packet, Transmitter};

/// Sending sockets per family.
pub const SENDERS: usize = 8;

/// What an underlay's sockets are bound to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnderlayConfig {
    /// The UDP port that peers send to.
    pub port: u16,
    /// The node's IPv4 address in the underlay; unspecified: any; `None`: no IPv4.
    pub v4: Option<Ipv4Addr>,
    /// The node's IPv6 address in the underlay; unspecified: any; `None`: no IPv6.
    pub v6: Option<Ipv6Addr>,
}

/// The sockets of one UDP port.
#[derive(Debug)]
pub struct Underlay {
    config: UnderlayConfig,
    v4: Option<Sockets>,
    v6: Option<Sockets>,
    max_segments: usize,
}

/// One family's sockets.
#[derive(Debug)]
struct Sockets {
    receiver: UdpSocket,
    senders: Vec<UdpSocket>,
}

impl Sockets {
    fn open(ip: IpAddr, port: u16) -> io::Result<Self> {
        let receiver = UdpSocket::bind(SocketAddr::new(ip, port), &UdpOptions::default())?;
        let options = UdpOptions { gro: false, ..UdpOptions::default() };
        let senders = (0..SENDERS)
            .map(|_| {
                let sender = UdpSocket::bind(SocketAddr::new(ip, 0), &options)?;
                sender.stop_receiving()?;
                Ok(sender)
            })
            .collect::<io::Result<_>>()?;
        Ok(Sockets { receiver, senders })
    }
}

impl Underlay {
    /// Opens the sockets in the current namespace.
    ///
    /// # Errors
    /// Those of `bind(2)`: `AddrInUse` when another VXLAN device or daemon has the port, `AddrNotAvailable` when the
    /// address is not the node's.
    pub fn open(config: UnderlayConfig) -> io::Result<Self> {
        let v4 = config.v4.map(|ip| Sockets::open(ip.into(), config.port)).transpose()?;
        let v6 = config.v6.map(|ip| Sockets::open(ip.into(), config.port)).transpose()?;
        Ok(Underlay { config, v4, v6, max_segments: udp::max_segments() })
    }

    /// What it is bound to.
    pub fn config(&self) -> &UnderlayConfig {
        &self.config
    }

    /// The receiving sockets: IPv4's, IPv6's.
    pub fn receivers(&self) -> impl Iterator<Item = &UdpSocket> {
        [&self.v4, &self.v6].into_iter().flatten().map(|sockets| &sockets.receiver)
    }

    /// The receiving socket of a family.
    pub fn receiver(&self, ipv6: bool) -> Option<&UdpSocket> {
        self.family(ipv6).map(|sockets| &sockets.receiver)
    }

    /// Datagrams in one send at most.
    pub fn max_segments(&self) -> usize {
        self.max_segments
    }

    /// The number of the sending socket for a flow.
    #[inline]
    pub const fn sender_of(flow_hash: u32) -> u8 {
        // The upper bits are the well mixed ones.
        ((flow_hash as u64 * SENDERS as u64) >> 32) as u8
    }

    /// One send from socket `sender`.
    fn send(
        &self,
        sender: u8,
        remote: SocketAddr,
        bufs: &[IoSlice<'_>],
        segment: Option<u16>,
        tos: u8,
    ) -> io::Result<usize> {
        match self.family(remote.is_ipv6()).and_then(|sockets| sockets.senders.get(usize::from(sender))) {
            Some(socket) => socket.send(remote, bufs, segment, tos),
            None => Err(io::ErrorKind::AddrNotAvailable.into()),
        }
    }

    fn family(&self, ipv6: bool) -> Option<&Sockets> {
        if ipv6 { self.v6.as_ref() } else { self.v4.as_ref() }
    }
}
