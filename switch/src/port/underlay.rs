//! UDP sockets that carry VXLAN: one receiving socket per family, a small pool of sending ones.
//!
//! - A sending socket has one source port for its life. The inner flow's hash picks the socket: a flow keeps its path
//!   through the underlay, flows spread over [`SENDERS`] of them, and frames of different flows that share a socket
//!   can share a send.
//! - A superframe leaves whole where the kernel has a device for that ([`TunnelGso`]), else it is cut here.
//! - Receiving gives superframes: the kernel's `UDP_GRO` hands over runs of datagrams, whose inner segments are glued
//!   together again ([`Receiver`]).

mod rx;
mod tx;
mod whole;

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use weft_sys::tunnel_gso::TunnelGso;
use weft_sys::udp::{self, UdpOptions, UdpSocket};

pub(in crate::port) use rx::{Glue, Turn};
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
    /// By which superframes leave whole.
    whole: ArcSwapOption<TunnelGso>,
}

/// One family's sockets.
#[derive(Debug)]
struct Sockets {
    receiver: UdpSocket,
    senders: Vec<UdpSocket>,
    /// Their own addresses.
    sources: Vec<SocketAddr>,
}

/// What a socket of an underlay is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketRole {
    /// It receives, on the port that peers send to.
    Receiver,
    /// It sends: the number is what [`Underlay::sender_of`] gives.
    Sender(u8),
}

/// A socket as it is to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SocketSpec {
    /// What it is for.
    pub role: SocketRole,
    /// The address to bind; port 0: the kernel chooses.
    pub addr: SocketAddr,
    /// How it is made.
    pub options: UdpOptions,
}

impl SocketSpec {
    fn bind(&self) -> io::Result<UdpSocket> {
        UdpSocket::bind(self.addr, &self.options)
    }
}

impl UnderlayConfig {
    /// The sockets that it takes.
    pub fn sockets(&self) -> impl Iterator<Item = SocketSpec> + use<> {
        let port = self.port;
        let families = [self.v4.map(IpAddr::from), self.v6.map(IpAddr::from)];
        families.into_iter().flatten().flat_map(move |ip| {
            let receiver = SocketSpec {
                role: SocketRole::Receiver,
                addr: SocketAddr::new(ip, port),
                options: UdpOptions::default(),
            };
            let sender = move |number| SocketSpec {
                role: SocketRole::Sender(number),
                addr: SocketAddr::new(ip, 0),
                options: UdpOptions { gro: false, ..UdpOptions::default() },
            };
            std::iter::once(receiver).chain((0..SENDERS as u8).map(sender))
        })
    }
}

impl Sockets {
    /// `None`: of a family without addresses.
    fn collect(sockets: Vec<(SocketRole, UdpSocket)>) -> io::Result<Option<Self>> {
        let (mut receiver, mut senders, mut sources) = (None, Vec::new(), Vec::new());
        for (role, socket) in sockets {
            match role {
                SocketRole::Receiver => receiver = Some(socket),
                SocketRole::Sender(_) => {
                    sources.push(socket.local_addr()?);
                    senders.push(socket);
                }
            }
        }
        Ok(receiver.map(|receiver| Sockets { receiver, senders, sources }))
    }
}

impl Underlay {
    /// Opens the sockets in the current namespace.
    ///
    /// # Errors
    /// Those of `bind(2)`: `AddrInUse` when another VXLAN device or daemon has the port, `AddrNotAvailable` when the
    /// address is not the node's.
    pub fn open(config: UnderlayConfig) -> io::Result<Self> {
        Underlay::open_with(config, |_| None)
    }

    /// As [`Underlay::open`], with those sockets that `inherited` has already: they are not bound a second time.
    ///
    /// # Errors
    /// As [`Underlay::open`].
    pub fn open_with(
        config: UnderlayConfig,
        mut inherited: impl FnMut(&SocketSpec) -> Option<UdpSocket>,
    ) -> io::Result<Self> {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for spec in config.sockets() {
            let socket = match inherited(&spec) {
                Some(socket) => socket,
                None => spec.bind()?,
            };
            if spec.role != SocketRole::Receiver {
                socket.stop_receiving()?;
            }
            if spec.addr.is_ipv6() { &mut v6 } else { &mut v4 }.push((spec.role, socket));
        }
        let (v4, v6) = (Sockets::collect(v4)?, Sockets::collect(v6)?);
        Ok(Underlay { config, v4, v6, max_segments: udp::max_segments(), whole: ArcSwapOption::empty() })
    }

    /// Lets superframes leave whole by this device, of the same namespace; without one they are cut.
    pub fn set_tunnel_gso(&self, device: Option<&Arc<TunnelGso>>) {
        let is_same = |had: &Arc<TunnelGso>| device.is_some_and(|device| Arc::ptr_eq(had, device));
        let before = self.whole.load();
        if before.as_ref().map_or(device.is_some(), |had| !is_same(had)) {
            self.whole.store(device.cloned());
        }
    }

    /// Whether the kernel hands over runs of datagrams, or one by one.
    ///
    /// # Errors
    /// Those of `setsockopt(2)`; none in practice.
    pub fn set_gro(&self, on: bool) -> io::Result<()> {
        self.receivers().try_for_each(|receiver| receiver.set_gro(on))
    }

    /// The address that socket `sender` sends from.
    pub(in crate::port) fn source(&self, ipv6: bool, sender: u8) -> Option<SocketAddr> {
        self.family(ipv6)?.sources.get(usize::from(sender)).copied()
    }

    /// All its sockets, what each is for, and whether it is IPv6's.
    pub fn sockets(&self) -> impl Iterator<Item = (bool, SocketRole, &UdpSocket)> {
        let families = [(false, &self.v4), (true, &self.v6)];
        families.into_iter().filter_map(|(ipv6, family)| Some((ipv6, family.as_ref()?))).flat_map(
            |(ipv6, sockets)| {
                let senders = (0..).zip(&sockets.senders);
                std::iter::once((ipv6, SocketRole::Receiver, &sockets.receiver))
                    .chain(senders.map(move |(number, socket)| (ipv6, SocketRole::Sender(number), socket)))
            },
        )
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
