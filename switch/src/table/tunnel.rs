//! Underlays and peers.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_encap::{MacAddr, Vni};

use super::{BridgeSlot, Generation, PeerSlot, PortSlot};
use crate::port::{Underlay, Uplink};

/// Underlays and peers.
#[derive(Clone, Debug, Default)]
pub struct Tunnels {
    /// One per UDP port in use.
    pub underlays: Vec<Arc<Underlay>>,
    /// By which VXLAN is received and sent as raw frames, beside the underlays' sockets.
    pub uplink: Option<Arc<Uplink>>,
    /// Peers by slot; `None`: no peer has that slot.
    pub peers: Vec<Option<Arc<Peer>>>,
    /// Who may send what: (index of the underlay, source address, VNI).
    pub by_source: HashMap<(usize, IpAddr, Vni), PeerSlot, foldhash::fast::RandomState>,
    /// Addresses of all peers, to tell a stranger from a wrong VNI.
    pub sources: HashSet<IpAddr, foldhash::fast::RandomState>,
    /// Where peers take VXLAN: nothing that a pod may send to.
    pub remotes: Remotes,
}

/// Addresses and UDP ports where peers take VXLAN.
#[derive(Clone, Debug, Default)]
pub struct Remotes {
    all: HashSet<SocketAddr, foldhash::fast::RandomState>,
    /// Their UDP ports, each once: seldom more than one.
    ports: Vec<u16>,
    /// A bit for each of them: its remainder by 64.
    bits: u64,
}

impl Remotes {
    /// Adds one.
    pub fn insert(&mut self, remote: SocketAddr) {
        self.all.insert(remote);
        if !self.ports.contains(&remote.port()) {
            self.ports.push(remote.port());
            self.bits |= 1 << (remote.port() % 64);
        }
    }

    /// True for one of them.
    pub fn contains(&self, remote: &SocketAddr) -> bool {
        self.all.contains(remote)
    }

    /// True for the UDP port of one of them.
    #[inline]
    pub fn has_port(&self, port: u16) -> bool {
        self.bits >> (port % 64) & 1 != 0 && self.ports.contains(&port)
    }
}

impl FromIterator<SocketAddr> for Remotes {
    fn from_iter<I: IntoIterator<Item = SocketAddr>>(all: I) -> Self {
        let mut remotes = Remotes::default();
        all.into_iter().for_each(|remote| remotes.insert(remote));
        remotes
    }
}

impl Tunnels {
    /// The peer at a slot.
    pub fn get(&self, slot: PeerSlot) -> Option<&Peer> {
        self.peers.get(slot.index()).and_then(|peer| peer.as_deref())
    }
}

/// Another node, or one end of a stretched segment.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Where it stands.
    pub slot: PeerSlot,
    /// Version of this object.
    pub generation: Generation,
    /// Its underlay address and UDP port.
    pub remote: SocketAddr,
    /// Index of the underlay that leads to it.
    pub underlay: usize,
    /// The VNI of its packets.
    pub vni: Vni,
    /// MTU inside: longest layer-3 packet that fits, in bytes.
    pub mtu: u32,
    /// Routed or stretched.
    pub mode: PeerMode,
}

/// What the inner frames are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PeerMode {
    /// flannel's convention: routed packets, inner MACs are those of the VTEPs.
    Routed {
        /// The peer's VTEP MAC: inner destination of what we send.
        mac: MacAddr,
        /// Our VTEP MAC: inner destination of what we take (broadcast is taken too), inner source of what we send.
        local_mac: MacAddr,
        /// The bridge whose router serves it.
        bridge: BridgeSlot,
    },
    /// A stretched layer-2 segment.
    Segment {
        /// Its port on the bridge.
        port: PortSlot,
    },
}
