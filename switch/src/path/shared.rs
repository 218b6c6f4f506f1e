//! What the workers of one data plane share besides the snapshot: tables of what they learned.

use std::net::IpAddr;

use weft_encap::MacAddr;

use super::fdb::Fdb;
use super::neighbour::Neighbours;
use crate::mem::Ingress;
use crate::table::{BridgeSlot, PeerSlot, PortSlot};

/// Tables that all workers learn into.
#[derive(Debug)]
pub struct Shared {
    /// Learned stations.
    pub fdb: Fdb,
    /// Learned neighbours.
    pub neighbours: Neighbours,
}

impl Shared {
    /// Empty tables for `stations` learned MACs over all bridges.
    pub fn new(stations: usize) -> Self {
        Shared { fdb: Fdb::new(stations), neighbours: Neighbours::default() }
    }

    /// The generations of both tables, at this moment.
    pub(super) fn generations(&self) -> Generations {
        Generations { stations: self.fdb.generation(), neighbours: self.neighbours.generation() }
    }

    /// Forgets what was learned behind a port that goes, so that its slot can be given again.
    pub fn forget_port(&self, bridge: BridgeSlot, port: PortSlot) {
        self.fdb.flush(bridge, Some(port), None);
        self.neighbours.flush(bridge, Some(port));
    }
}

impl Default for Shared {
    fn default() -> Self {
        Shared::new(65_536)
    }
}

/// Generations of the learned tables.
#[derive(Clone, Copy, Debug)]
pub(super) struct Generations {
    pub(super) stations: u64,
    pub(super) neighbours: u64,
}

/// What a forwarder is told once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// Entries of its flow cache, rounded up to a power of two.
    pub cache_entries: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Settings { cache_entries: 65_536 }
    }
}

/// A cached flow, for reports.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlowDump {
    /// The worker that forwards it.
    pub worker: usize,
    /// Where its frames come from.
    pub ingress: Ingress,
    /// 802.1Q control word of its frames.
    pub tci: Option<u16>,
    /// Source MAC.
    pub src_mac: MacAddr,
    /// Destination MAC.
    pub dst_mac: MacAddr,
    /// Ethertype behind the tag.
    pub ethertype: u16,
    /// Source and destination address, if IP.
    pub ip: Option<(IpAddr, IpAddr)>,
    /// IP protocol number.
    pub proto: u8,
    /// UDP destination port, where something is decided by it: one where peers take VXLAN.
    pub dst_port: Option<u16>,
    /// Where they go.
    pub target: FlowTarget,
    /// What is done to them.
    pub routed: bool,
    /// Frames that hit the entry.
    pub hits: u64,
    /// Seconds since the last of them.
    pub idle_seconds: u32,
}

/// Where a flow's frames go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowTarget {
    /// Out of a port.
    Port(PortSlot),
    /// To a peer.
    Peer(PeerSlot),
}
