//! Underlays and peers of a snapshot.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use weft_api::PortKind;
use weft_api::transaction::Via;
use weft_encap::{MacAddr, Vni};

use super::{Devices, PeerKey, Publisher, same_slots};
use crate::control::plan::cluster_port;
use crate::control::state::{MIN_MTU, OVERHEAD_V4, OVERHEAD_V6, State, VXLAN_PORT};
use crate::table::{Peer, PeerMode, PortSlot, Tunnels};

/// The cluster's VNI, or 1 as flannel has it.
pub(super) fn cluster_vni(state: &State) -> Option<Vni> {
    state.node.vtep.as_ref().map_or_else(|| Vni::new(1), |vtep| Some(vtep.vni))
}

/// What a routed peer is told apart by, of a route that leads to it.
pub(super) fn routed_key(state: &State, via: &Via) -> Option<PeerKey> {
    match via {
        Via::Tunnel { remote, vni, udp_port, .. } => Some(PeerKey::Routed {
            remote: *remote,
            port: udp_port.unwrap_or_else(|| cluster_port(state)),
            vni: vni.or_else(|| cluster_vni(state))?,
        }),
        _ => None,
    }
}

/// A peer as the state wants it.
#[derive(Clone, Copy)]
pub(super) struct Wanted<'a> {
    bridge: &'a str,
    mac: MacAddr,
    segment: Option<(&'a str, Vni, u16)>,
}

/// Peers as the state wants them. There may be thousands: they are gathered once a snapshot.
pub(super) type Peers<'a> = BTreeMap<PeerKey, Wanted<'a>>;

/// All peers: of the cluster, of routes, of segments. What the cluster says of a peer goes before a route's word.
pub(super) fn peers(state: &State) -> Peers<'_> {
    let mut all = BTreeMap::new();
    if let Some(vtep) = &state.node.vtep {
        for peer in &state.node.peers {
            let key = PeerKey::Routed { remote: peer.underlay, port: vtep.port, vni: vtep.vni };
            all.insert(key, Wanted { bridge: &state.node.bridge, mac: peer.mac, segment: None });
        }
    }
    for route in state.routes.values() {
        let (Some(key), Via::Tunnel { remote, mac, .. }) = (routed_key(state, &route.via), &route.via) else {
            continue;
        };
        let PeerKey::Routed { vni, .. } = key else { continue };
        let mac = mac.unwrap_or_else(|| MacAddr::vtep(*remote, vni));
        all.entry(key).or_insert(Wanted { bridge: &route.bridge, mac, segment: None });
    }
    for port in state.ports.values().filter(|port| port.spec.kind == PortKind::Vxlan) {
        let spec = &port.spec;
        let Some(vni) = spec.vni else { continue };
        for remote in &spec.remotes {
            let key = PeerKey::Segment { port: spec.name.clone(), remote: *remote };
            let segment = Some((spec.name.as_str(), vni, spec.udp_port.unwrap_or(VXLAN_PORT)));
            all.insert(key, Wanted { bridge: &spec.bridge, mac: MacAddr::ZERO, segment });
        }
    }
    all
}

/// Where peers take VXLAN, sorted.
pub(super) fn remotes(peers: &Peers<'_>) -> Arc<[SocketAddr]> {
    let remote = |(key, wanted): (&PeerKey, &Wanted<'_>)| match (key, wanted.segment) {
        (PeerKey::Routed { remote, port, .. }, _) => Some(SocketAddr::new(*remote, *port)),
        (PeerKey::Segment { remote, .. }, Some((_, _, port))) => Some(SocketAddr::new(*remote, port)),
        (PeerKey::Segment { .. }, None) => None,
    };
    let mut all: Vec<SocketAddr> = peers.iter().filter_map(remote).collect();
    all.sort_unstable();
    all.dedup();
    all.into()
}

/// The tunnels table; the last one if nothing changed.
pub(super) fn build(
    publisher: &mut Publisher,
    state: &State,
    devices: &Devices,
    peers: &Peers<'_>,
) -> Arc<Tunnels> {
    let last = Arc::clone(&publisher.last.tunnels);
    let mut table =
        Tunnels { underlays: devices.underlays.values().cloned().collect(), ..Tunnels::default() };
    table.uplink.clone_from(&devices.uplink);
    let index_of = |port: u16| devices.underlays.keys().position(|known| *known == port);
    table.peers = vec![None; publisher.peers.bound()];
    for (key, wanted) in peers {
        let Some(mut peer) = peer(publisher, state, key, wanted, index_of) else { continue };
        let slot = peer.slot;
        table.remotes.insert(peer.remote);
        table.by_source.insert((peer.underlay, peer.remote.ip(), peer.vni), slot);
        table.sources.insert(peer.remote.ip());
        let old = last.peers.get(slot.index()).cloned().flatten();
        table.peers[slot.index()] = Some(match old {
            Some(old) if same_peer(&old, &peer) => old,
            _ => {
                peer.generation = publisher.next_generation();
                Arc::new(peer)
            }
        });
    }
    let same_underlays = last.underlays.len() == table.underlays.len()
        && last.underlays.iter().zip(&table.underlays).all(|(a, b)| Arc::ptr_eq(a, b));
    let same_uplink = match (&last.uplink, &table.uplink) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (a, b) => a.is_none() && b.is_none(),
    };
    if same_underlays && same_uplink && same_slots(&last.peers, &table.peers) {
        last
    } else {
        Arc::new(table)
    }
}

/// A peer without its generation.
fn peer(
    publisher: &Publisher,
    state: &State,
    key: &PeerKey,
    wanted: &Wanted<'_>,
    index_of: impl Fn(u16) -> Option<usize>,
) -> Option<Peer> {
    let bridge = publisher.bridge_slot(wanted.bridge)?;
    let (remote, port, vni, mode) = match (key, &wanted.segment) {
        (PeerKey::Routed { remote, port, vni }, _) => {
            let local_mac = state.node.vtep.as_ref().map(|vtep| vtep.mac);
            let local_mac = local_mac.or_else(|| state.router_mac(wanted.bridge))?;
            (remote, *port, *vni, PeerMode::Routed { mac: wanted.mac, local_mac, bridge })
        }
        (PeerKey::Segment { remote, .. }, Some((name, vni, port))) => {
            let segment: PortSlot = publisher.port_slot(name)?;
            (remote, *port, *vni, PeerMode::Segment { port: segment })
        }
        (PeerKey::Segment { .. }, None) => return None,
    };
    Some(Peer {
        slot: publisher.peer_slot(key)?,
        generation: 0,
        remote: SocketAddr::new(*remote, port),
        underlay: index_of(port)?,
        vni,
        mtu: inner_mtu(state, *remote),
        mode,
    })
}

/// The longest layer-3 packet to a peer, in bytes.
fn inner_mtu(state: &State, remote: IpAddr) -> u32 {
    let overhead = if remote.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 };
    let fits = state.node.underlay_mtu.unwrap_or(1500).saturating_sub(overhead);
    state.node.mtu_override.unwrap_or(fits).clamp(MIN_MTU, 65_535)
}

fn same_peer(a: &Peer, b: &Peer) -> bool {
    let key = |p: &Peer| (p.slot, p.remote, p.underlay, p.vni, p.mtu, p.mode);
    key(a) == key(b)
}
