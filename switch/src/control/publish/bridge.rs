//! Bridges of a snapshot, with their static stations and their router.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use weft_api::transaction::Via;
use weft_api::{BridgeSpec, PortKind};
use weft_encap::{MacAddr, VlanId};

use super::{PeerKey, Publisher, same_slots, share};
use crate::control::state::{PortRecord, State};
use crate::table::lpm::Lpm;
use crate::table::{
    Bridge, BridgeSlot, Bridges, FdbTarget, Generation, Neighbour, NextHop, PortSlot, Router,
};

type Statics = HashMap<(Option<VlanId>, MacAddr), FdbTarget, foldhash::fast::RandomState>;
type Neighbours = HashMap<IpAddr, Neighbour, foldhash::fast::RandomState>;

/// What of a bridge forwarding decisions depend on: when it changes, the bridge gets a new generation. Ports and their
/// addresses are not among it: a flow that meets them remembers the port's own generation.
#[derive(Debug, PartialEq)]
pub(super) struct Decisions {
    router: Option<(MacAddr, Vec<IpNet>, Option<PortSlot>)>,
    routes: Vec<(IpNet, NextHop)>,
    statics: Vec<((Option<VlanId>, MacAddr), FdbTarget)>,
    neighbours: Vec<(IpAddr, Neighbour)>,
    /// Where no pod may send to: a flow that was let through before there was a peer must be looked at again.
    remotes: Arc<[SocketAddr]>,
    ageing_seconds: u32,
    fdb_max: u32,
}

/// The bridges table; the last one if nothing changed.
pub(super) fn build(publisher: &mut Publisher, state: &State, remotes: &Arc<[SocketAddr]>) -> Arc<Bridges> {
    let last = Arc::clone(&publisher.last.bridges);
    let mut slots: Vec<Option<Arc<Bridge>>> = vec![None; publisher.bridges.bound()];
    publisher.decisions.retain(|name, _| state.bridges.contains_key(name));
    for (name, spec) in &state.bridges {
        let Some(slot) = publisher.bridge_slot(name) else { continue };
        let old = last.get(slot).filter(|old| *old.name == **name);
        let bridge = bridge(publisher, (state, remotes), spec, slot, old);
        slots[slot.index()] = Some(match last.slots.get(slot.index()).cloned().flatten() {
            Some(old) if same_bridge(&old, &bridge) => old,
            _ => Arc::new(bridge),
        });
    }
    share(&last, Bridges { slots }, |a, b| same_slots(&a.slots, &b.slots))
}

fn bridge(
    publisher: &mut Publisher,
    (state, remotes): (&State, &Arc<[SocketAddr]>),
    spec: &BridgeSpec,
    slot: BridgeSlot,
    old: Option<&Bridge>,
) -> Bridge {
    let on_bridge = |port: &&Arc<PortRecord>| port.spec.bridge == spec.name;
    let placed = |port: &'_ Arc<PortRecord>| Some((publisher.port_slot(&port.spec.name)?, Arc::clone(port)));
    let ports: Vec<(PortSlot, Arc<PortRecord>)> =
        state.ports.values().filter(on_bridge).filter_map(placed).collect();
    let mut members: Vec<PortSlot> = ports.iter().map(|(slot, _)| *slot).collect();
    members.sort();
    let operators = operator_statics(publisher, state, &spec.name);
    // A port's own station wins.
    let mut statics: Statics = operators.iter().copied().collect();
    for (slot, port) in &ports {
        statics.extend(port.stations().map(|station| (station, FdbTarget::Port(*slot))));
    }
    let node = ports.iter().find(|(_, port)| port.spec.kind == PortKind::Internal).map(|(slot, _)| *slot);
    let router_mac = state.router_mac(&spec.name);
    let decisions = Decisions {
        router: router_mac.map(|mac| (mac, spec.gateways.clone(), node)),
        routes: if router_mac.is_some() { routes(publisher, state, spec, node) } else { Vec::new() },
        statics: operators,
        neighbours: operator_neighbours(publisher, state, &spec.name),
        remotes: Arc::clone(remotes),
        ageing_seconds: spec.ageing_seconds,
        fdb_max: spec.fdb_max,
    };
    let router = router_mac.map(|mac| {
        let mut neighbours: Neighbours = decisions.neighbours.iter().copied().collect();
        neighbours.extend(ports.iter().flat_map(|(slot, port)| addresses(*slot, port)));
        let before = old.and_then(|old| old.router.as_ref());
        let same_routes =
            publisher.decisions.get(&spec.name).is_some_and(|was| was.routes == decisions.routes);
        Router {
            mac,
            gateways: spec.gateways.clone(),
            node,
            routes: match before {
                Some(before) if same_routes => Arc::clone(&before.routes),
                _ => Arc::new(Lpm::build(decisions.routes.iter().copied())),
            },
            neighbours: match before {
                Some(before) if *before.neighbours == neighbours => Arc::clone(&before.neighbours),
                _ => Arc::new(neighbours),
            },
        }
    });
    let generation = generation(publisher, &spec.name, decisions, old);
    Bridge {
        slot,
        generation,
        name: spec.name.as_str().into(),
        members: match old {
            Some(old) if *old.members == *members => Arc::clone(&old.members),
            _ => members.into(),
        },
        statics: match old {
            Some(old) if *old.statics == statics => Arc::clone(&old.statics),
            _ => Arc::new(statics),
        },
        ageing_seconds: spec.ageing_seconds,
        fdb_max: spec.fdb_max,
        router,
    }
}

fn generation(
    publisher: &mut Publisher,
    name: &str,
    decisions: Decisions,
    old: Option<&Bridge>,
) -> Generation {
    match old {
        Some(old) if publisher.decisions.get(name) == Some(&decisions) => old.generation,
        _ => {
            publisher.decisions.insert(name.to_owned(), decisions);
            publisher.next_generation()
        }
    }
}

fn addresses(slot: PortSlot, port: &PortRecord) -> impl Iterator<Item = (IpAddr, Neighbour)> + use<> {
    let mac = port.spec.mac;
    let all: Vec<_> = port
        .spec
        .ips
        .iter()
        .filter_map(|ip| Some((ip.addr(), Neighbour { port: slot, mac: mac? })))
        .collect();
    all.into_iter()
}

fn operator_statics(
    publisher: &Publisher,
    state: &State,
    bridge: &str,
) -> Vec<((Option<VlanId>, MacAddr), FdbTarget)> {
    let of_bridge = state.statics.iter().filter(|((name, _, _), _)| name == bridge);
    of_bridge
        .filter_map(|((_, vlan, mac), entry)| {
            let port = publisher.port_slot(&entry.port)?;
            let target = match entry.remote {
                None => FdbTarget::Port(port),
                Some(remote) => {
                    let key = PeerKey::Segment { port: entry.port.clone(), remote };
                    FdbTarget::Peer(port, publisher.peer_slot(&key)?)
                }
            };
            Some(((*vlan, *mac), target))
        })
        .collect()
}

fn operator_neighbours(publisher: &Publisher, state: &State, bridge: &str) -> Vec<(IpAddr, Neighbour)> {
    let of_bridge = state.neighbours.iter().filter(|((name, _), _)| name == bridge);
    of_bridge
        .filter_map(|((_, ip), entry)| {
            Some((*ip, Neighbour { port: publisher.port_slot(&entry.port)?, mac: entry.mac }))
        })
        .collect()
}

/// Routes, of equal prefixes the last one counting. Cluster prefixes that no node has are unreachable: by way of the
/// node they would only come back.
fn routes(
    publisher: &Publisher,
    state: &State,
    spec: &BridgeSpec,
    node: Option<PortSlot>,
) -> Vec<(IpNet, NextHop)> {
    let mut routes = Vec::new();
    if node.is_some() {
        routes.push((IpNet::V4(ipnet::Ipv4Net::default()), NextHop::Node));
        routes.push((IpNet::V6(ipnet::Ipv6Net::default()), NextHop::Node));
    }
    let network = &state.node;
    let is_default = network.bridge == spec.name;
    if is_default {
        routes.extend(network.cluster_cidrs.iter().map(|cidr| (*cidr, NextHop::Unreachable)));
        routes.extend(network.pod_cidrs.iter().map(|cidr| (*cidr, NextHop::Local)));
    }
    routes.extend(spec.gateways.iter().map(|gateway| (gateway.trunc(), NextHop::Local)));
    if is_default {
        // A flannel node is known by the network address of its pod CIDR, too.
        if node.is_some() {
            let own = network.pod_cidrs.iter().map(|cidr| (IpNet::from(cidr.network()), NextHop::Node));
            routes.extend(own);
        }
        if let Some(vtep) = &network.vtep {
            for peer in &network.peers {
                let key = PeerKey::Routed { remote: peer.underlay, port: vtep.port, vni: vtep.vni };
                let Some(slot) = publisher.peer_slot(&key) else { continue };
                routes.extend(peer.pod_cidrs.iter().map(|cidr| (*cidr, NextHop::Tunnel(slot))));
            }
        }
    }
    for route in state.routes.values().filter(|route| route.bridge == spec.name) {
        let hop = match &route.via {
            Via::Local => Some(NextHop::Local),
            Via::Node => node.map(|_| NextHop::Node),
            Via::Gateway { ip } => Some(NextHop::Gateway(*ip)),
            Via::Unreachable => Some(NextHop::Unreachable),
            Via::Tunnel { .. } => {
                let key = super::tunnel::routed_key(state, &route.via);
                key.and_then(|key| publisher.peer_slot(&key)).map(NextHop::Tunnel)
            }
        };
        routes.extend(hop.map(|hop| (route.dst, hop)));
    }
    routes
}

fn same_bridge(a: &Bridge, b: &Bridge) -> bool {
    let router = |bridge: &Bridge| bridge.router.as_ref().map(|r| (Arc::as_ptr(&r.neighbours), r.node));
    a.generation == b.generation
        && a.slot == b.slot
        && Arc::ptr_eq(&a.members, &b.members)
        && Arc::ptr_eq(&a.statics, &b.statics)
        && router(a) == router(b)
}
