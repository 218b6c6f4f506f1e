//! Ports as a worker sees them.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use weft_encap::{MacAddr, VlanId};

use super::{BridgeSlot, Generation, PortSlot};
use crate::port::Device;

/// Ports by slot.
#[derive(Clone, Debug, Default)]
pub struct Ports {
    /// `None`: no port has that slot.
    pub slots: Vec<Option<Arc<Port>>>,
}

impl Ports {
    /// The port at a slot.
    pub fn get(&self, slot: PortSlot) -> Option<&Port> {
        self.slots.get(slot.index()).and_then(|port| port.as_deref())
    }
}

/// What a port is to the switch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// A pod's or a container's.
    Pod,
    /// The node's own (`weft0`): trusted, owns the gateway addresses.
    Node,
    /// A stretched layer-2 segment: frames to it go to its peers.
    Segment,
}

/// One port.
#[derive(Clone, Debug)]
pub struct Port {
    /// Where it stands.
    pub slot: PortSlot,
    /// Version of this object.
    pub generation: Generation,
    /// Its name, for reports.
    pub name: Arc<str>,
    /// The bridge it belongs to.
    pub bridge: BridgeSlot,
    /// What it is to the switch.
    pub role: Role,
    /// What frames are read from and written to.
    pub device: Device,
    /// MAC of the device behind it.
    pub mac: MacAddr,
    /// MTU of the device, in bytes of layer-3 packet.
    pub mtu: u32,
    /// VLAN of untagged frames; `None`: the untagged VLAN.
    pub tag: Option<VlanId>,
    /// VLANs it carries tagged, sorted.
    pub trunks: Vec<VlanId>,
    /// Source guard; `None`: switched off.
    pub guard: Option<Guard>,
    /// Flooded frames per second it may cause; 0: no limit.
    pub flood_pps: u32,
}

/// What a guarded port may call itself. Besides these: `::`, 0.0.0.0 in ARP probes, its fe80::/10 addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Guard {
    /// The only source MAC.
    pub mac: MacAddr,
    /// Its IPv4 addresses. With both lists empty, only the MAC is guarded.
    pub v4: Vec<Ipv4Addr>,
    /// Its IPv6 addresses.
    pub v6: Vec<Ipv6Addr>,
}
