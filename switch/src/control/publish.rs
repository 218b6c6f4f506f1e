//! The snapshot that follows from a state and its open devices. Pure but for the numbers it gives out: slots and
//! generations.
//!
//! Invariants: a slot is given again only once every worker has acknowledged a snapshot without its old holder; a
//! generation is never used twice; what did not change is the same `Arc` as in the snapshot before.

/// Bridges and their routers.
mod bridge;
/// Slots.
mod slots;
/// Underlays and peers.
mod tunnel;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_api::{PortKind, PortSpec};
use weft_encap::Vni;
use weft_sys::tunnel_gso::TunnelGso;

use super::state::{PortRecord, State};
use crate::port::{Device, Underlay, Uplink};
use crate::table::{
    BridgeSlot, Epoch, Generation, Guard, MAX_PEERS, MAX_PORTS, PeerSlot, Port, PortSlot, Ports, Role,
    Snapshot,
};
use bridge::Decisions;
use slots::Slots;

/// Most bridges in a snapshot.
const MAX_BRIDGES: usize = super::transaction::MAX_BRIDGES + 1;

/// Open devices, as the live half of the engine holds them.
#[derive(Clone, Debug, Default)]
pub struct Devices {
    /// Those of ports, by the port's name.
    pub ports: BTreeMap<String, Device>,
    /// Sockets by UDP port.
    pub underlays: BTreeMap<u16, Arc<Underlay>>,
    /// By which VXLAN goes as raw frames.
    pub uplink: Option<Arc<Uplink>>,
    /// By which superframes leave whole.
    pub tunnel_gso: Option<Arc<TunnelGso>>,
}

/// Where peers take VXLAN, sorted.
pub fn remotes(state: &State) -> Arc<[SocketAddr]> {
    tunnel::remotes(&tunnel::peers(state))
}

/// There is no slot left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no more than {most} {what} fit; delete some")]
pub struct Full {
    /// Of what.
    pub what: &'static str,
    /// How many there are at most.
    pub most: usize,
}

/// What tells one peer from another.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PeerKey {
    /// flannel's convention.
    Routed {
        /// Underlay address.
        remote: IpAddr,
        /// UDP port.
        port: u16,
        /// VNI.
        vni: Vni,
    },
    /// One end of a stretched segment.
    Segment {
        /// The segment's port.
        port: String,
        /// Underlay address.
        remote: IpAddr,
    },
}

/// Builds snapshots, each from the one before.
#[derive(Debug)]
pub struct Publisher {
    last: Arc<Snapshot>,
    generation: Generation,
    ports: Slots<String>,
    bridges: Slots<String>,
    peers: Slots<PeerKey>,
    decisions: BTreeMap<String, Decisions>,
}

impl Default for Publisher {
    fn default() -> Self {
        Publisher {
            last: Arc::default(),
            generation: 0,
            ports: Slots::new("ports", MAX_PORTS),
            bridges: Slots::new("bridges", MAX_BRIDGES),
            peers: Slots::new("peers", MAX_PEERS),
            decisions: BTreeMap::new(),
        }
    }
}

impl Publisher {
    /// The snapshot in which `state` is in force; its epoch is the next one. Ports without an open device (lost ones)
    /// are not in it. `acknowledged` is the lowest epoch that a worker may still forward by.
    ///
    /// # Errors
    /// [`Full`] when there are more objects than slots; the snapshot before stays the last one.
    pub fn build(
        &mut self,
        state: &State,
        devices: &Devices,
        acknowledged: Epoch,
    ) -> Result<Arc<Snapshot>, Full> {
        let epoch = self.last.epoch + 1;
        let forwards = |(name, port): &(&String, &Arc<PortRecord>)| {
            port.spec.kind == PortKind::Vxlan || devices.ports.contains_key(*name)
        };
        let present = state.ports.iter().filter(forwards).map(|(name, _)| name.clone());
        self.ports.assign(present, epoch, acknowledged)?;
        self.bridges.assign(state.bridges.keys().cloned(), epoch, acknowledged)?;
        let peers = tunnel::peers(state);
        self.peers.assign(peers.keys().cloned(), epoch, acknowledged)?;

        let tunnels = tunnel::build(self, state, devices, &peers);
        let ports = self.build_ports(state, devices);
        let bridges = bridge::build(self, state, &tunnel::remotes(&peers));
        let snapshot = Arc::new(Snapshot { epoch, ports, bridges, tunnels });
        self.last = Arc::clone(&snapshot);
        Ok(snapshot)
    }

    /// The snapshot built last.
    pub fn last(&self) -> &Arc<Snapshot> {
        &self.last
    }

    /// The slot of a port that forwards.
    pub fn port_slot(&self, name: &str) -> Option<PortSlot> {
        self.ports.get(&name.to_owned()).map(PortSlot)
    }

    /// The slot of a bridge.
    pub fn bridge_slot(&self, name: &str) -> Option<BridgeSlot> {
        self.bridges.get(&name.to_owned()).map(BridgeSlot)
    }

    /// The slot of a peer.
    pub fn peer_slot(&self, key: &PeerKey) -> Option<PeerSlot> {
        self.peers.get(key).map(PeerSlot)
    }

    /// All peers and their slots.
    pub fn peer_slots(&self) -> impl Iterator<Item = (&PeerKey, PeerSlot)> {
        self.peers.iter().map(|(key, slot)| (key, PeerSlot(slot)))
    }

    /// All ports that forward and their slots.
    pub fn port_slots(&self) -> impl Iterator<Item = (&String, PortSlot)> {
        self.ports.iter().map(|(name, slot)| (name, PortSlot(slot)))
    }

    /// All bridges and their slots.
    pub fn bridge_slots(&self) -> impl Iterator<Item = (&String, BridgeSlot)> {
        self.bridges.iter().map(|(name, slot)| (name, BridgeSlot(slot)))
    }

    fn next_generation(&mut self) -> Generation {
        self.generation += 1;
        self.generation
    }

    fn build_ports(&mut self, state: &State, devices: &Devices) -> Arc<Ports> {
        let mut slots: Vec<Option<Arc<Port>>> = vec![None; self.ports.bound()];
        let named: Vec<(String, u16)> = self.ports.iter().map(|(name, slot)| (name.clone(), slot)).collect();
        for (name, slot) in named {
            let Some(record) = state.ports.get(&name) else { continue };
            let Some(mut port) = self.port(state, record, PortSlot(slot), devices) else { continue };
            let old = self.last.ports.slots.get(usize::from(slot)).cloned().flatten();
            slots[usize::from(slot)] = Some(match old {
                Some(old) if same_port(&old, &port) => old,
                _ => {
                    port.generation = self.next_generation();
                    Arc::new(port)
                }
            });
        }
        share(&self.last.ports, Ports { slots }, |a, b| same_slots(&a.slots, &b.slots))
    }

    /// A port without its generation.
    fn port(&self, state: &State, record: &PortRecord, slot: PortSlot, devices: &Devices) -> Option<Port> {
        let spec = &record.spec;
        let device = match spec.kind {
            PortKind::Vxlan => Device::Segment(Arc::new(self.segment_peers(spec))),
            PortKind::Tap | PortKind::Afxdp | PortKind::Internal => devices.ports.get(&spec.name)?.clone(),
        };
        let mut trunks = spec.trunks.clone();
        trunks.sort();
        Some(Port {
            slot,
            generation: 0,
            name: spec.name.as_str().into(),
            bridge: self.bridge_slot(&spec.bridge)?,
            role: match spec.kind {
                PortKind::Tap | PortKind::Afxdp => Role::Pod,
                PortKind::Internal => Role::Node,
                PortKind::Vxlan => Role::Segment,
            },
            device,
            mac: spec.mac.unwrap_or_default(),
            mtu: record.device_mtu(state.port_mtu(&spec.bridge)),
            tag: spec.tag,
            trunks,
            guard: (spec.guard && spec.kind.is_pods()).then(|| guard(spec)),
            flood_pps: state.bridges.get(&spec.bridge).map_or(0, |bridge| bridge.flood_pps),
        })
    }

    fn segment_peers(&self, spec: &PortSpec) -> Vec<PeerSlot> {
        let key = |remote: &IpAddr| PeerKey::Segment { port: spec.name.clone(), remote: *remote };
        spec.remotes.iter().filter_map(|remote| self.peer_slot(&key(remote))).collect()
    }
}

fn guard(spec: &PortSpec) -> Guard {
    let mut guard = Guard { mac: spec.mac.unwrap_or_default(), ..Guard::default() };
    for ip in &spec.ips {
        match ip.addr() {
            IpAddr::V4(ip) => guard.v4.push(ip),
            IpAddr::V6(ip) => guard.v6.push(ip),
        }
    }
    guard
}

fn same_port(a: &Port, b: &Port) -> bool {
    let same_device = match (&a.device, &b.device) {
        (Device::Segment(a), Device::Segment(b)) => a == b,
        (a, b) => a.is_same(b),
    };
    let key = |p: &Port| (p.slot, p.bridge, p.role, p.mac, p.mtu, p.tag, p.flood_pps);
    same_device && key(a) == key(b) && a.name == b.name && a.trunks == b.trunks && a.guard == b.guard
}

/// Are all objects the same `Arc`s?
fn same_slots<T>(a: &[Option<Arc<T>>], b: &[Option<Arc<T>>]) -> bool {
    let same = |(a, b): (&Option<Arc<T>>, &Option<Arc<T>>)| match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        _ => false,
    };
    a.len() == b.len() && a.iter().zip(b).all(same)
}

/// The old table if the new one is the same.
fn share<T>(old: &Arc<T>, new: T, same: impl Fn(&T, &T) -> bool) -> Arc<T> {
    if same(old, &new) { Arc::clone(old) } else { Arc::new(new) }
}

#[cfg(test)]
mod tests;
