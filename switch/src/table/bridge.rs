//! Bridges, their static stations, and their router.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use weft_encap::{MacAddr, VlanId};

use super::lpm::Lpm;
use super::{BridgeSlot, Generation, PeerSlot, PortSlot};

/// Bridges by slot.
#[derive(Clone, Debug, Default)]
pub struct Bridges {
    /// `None`: no bridge has that slot.
    pub slots: Vec<Option<Arc<Bridge>>>,
}

impl Bridges {
    /// The bridge at a slot.
    pub fn get(&self, slot: BridgeSlot) -> Option<&Bridge> {
        self.slots.get(slot.index()).and_then(|bridge| bridge.as_deref())
    }
}

/// One bridge.
#[derive(Clone, Debug)]
pub struct Bridge {
    /// Where it stands.
    pub slot: BridgeSlot,
    /// Version of this object as far as forwarding decisions depend on it (router, routes, statics changed); adding
    /// or removing ports and neighbours does not change it.
    pub generation: Generation,
    /// Its name, for reports.
    pub name: Arc<str>,
    /// Ports that flooded frames go to.
    pub members: Arc<[PortSlot]>,
    /// Stations that never move: pods with known MACs and those of the operator.
    pub statics: Arc<HashMap<(Option<VlanId>, MacAddr), FdbTarget, foldhash::fast::RandomState>>,
    /// Seconds until a learned MAC is forgotten.
    pub ageing_seconds: u32,
    /// Most learned MACs.
    pub fdb_max: u32,
    /// The router, if the bridge has one.
    pub router: Option<Router>,
}

/// Where a station is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FdbTarget {
    /// Behind a port of this node.
    Port(PortSlot),
    /// Behind a peer of a stretched segment, whose port on the bridge is given too.
    Peer(PortSlot, PeerSlot),
}

/// The router of a bridge.
#[derive(Clone, Debug)]
pub struct Router {
    /// Its MAC: frames to it are routed.
    pub mac: MacAddr,
    /// Its addresses, with the prefix of the segment.
    pub gateways: Vec<IpNet>,
    /// The node's own port, which owns the gateway addresses and is the default way out.
    pub node: Option<PortSlot>,
    /// Routes. The gateways' own prefixes are in it as [`NextHop::Local`].
    pub routes: Arc<Lpm<NextHop>>,
    /// Addresses behind ports of this bridge: pods, gateway addresses when a node port owns them, static ones.
    pub neighbours: Arc<HashMap<IpAddr, Neighbour, foldhash::fast::RandomState>>,
}

/// Where a route leads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NextHop {
    /// The destination itself is a neighbour.
    Local,
    /// The node's own stack.
    Node,
    /// A neighbour that forwards.
    Gateway(IpAddr),
    /// Another node.
    Tunnel(PeerSlot),
    /// Dropped; the sender is told.
    Unreachable,
}

/// An address behind a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// The port.
    pub port: PortSlot,
    /// The station.
    pub mac: MacAddr,
}
