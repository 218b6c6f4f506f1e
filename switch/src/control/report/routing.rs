//! Routes, neighbours and peers as the state has them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use weft_api::report::{NeighbourEntry, RouteEntry, TunnelEntry};
use weft_api::transaction::Via;
use weft_api::{Owner, PortKind};
use weft_encap::Vni;

use super::Names;
use crate::control::engine::View;
use crate::control::plan::cluster_port;
use crate::control::publish::PeerKey;
use crate::control::state::{State, VXLAN_PORT};
use crate::path::Dataplane;

/// Every route of every router, sorted by bridge and destination.
pub(super) fn routes(state: &State) -> Vec<RouteEntry> {
    let mut all: Vec<RouteEntry> = Vec::new();
    for bridge in state.bridges.values() {
        let mut add = |dst: IpNet, via: Via, owner: Owner| {
            let entry = RouteEntry { bridge: bridge.name.clone(), dst, via, owner };
            match all.iter_mut().find(|known| known.bridge == entry.bridge && known.dst == dst) {
                Some(known) => *known = entry,
                None => all.push(entry),
            }
        };
        let node = &state.node;
        let of_node = |port: &std::sync::Arc<crate::control::state::PortRecord>| {
            port.spec.kind == PortKind::Internal && port.spec.bridge == bridge.name
        };
        if state.ports.values().any(of_node) {
            add(IpNet::V4(ipnet::Ipv4Net::default()), Via::Node, Owner::File);
            add(IpNet::V6(ipnet::Ipv6Net::default()), Via::Node, Owner::File);
        }
        if node.bridge == bridge.name {
            node.cluster_cidrs.iter().for_each(|cidr| add(*cidr, Via::Unreachable, Owner::File));
            node.pod_cidrs.iter().for_each(|cidr| add(*cidr, Via::Local, Owner::File));
        }
        bridge.gateways.iter().for_each(|gateway| add(gateway.trunc(), Via::Local, bridge.owner));
        if let (Some(vtep), true) = (&node.vtep, node.bridge == bridge.name) {
            for peer in &node.peers {
                for cidr in &peer.pod_cidrs {
                    let via = Via::Tunnel {
                        remote: peer.underlay,
                        vni: Some(vtep.vni),
                        mac: Some(peer.mac),
                        udp_port: Some(vtep.port),
                    };
                    add(*cidr, via, Owner::File);
                }
            }
        }
        for route in state.routes.values().filter(|route| route.bridge == bridge.name) {
            add(route.dst, route.via.clone(), route.owner);
        }
    }
    all.sort_by(|a, b| (&a.bridge, a.dst).cmp(&(&b.bridge, b.dst)));
    all
}

/// Every address behind a port of a bridge with a router: declared ones, and learned ones where none is declared.
pub(super) fn neighbours(view: &View, dataplane: &Dataplane) -> Vec<NeighbourEntry> {
    let state = &*view.state;
    let of_ports = state.ports.values().flat_map(|port| {
        let spec = &port.spec;
        spec.ips.iter().filter_map(|ip| {
            Some(NeighbourEntry {
                bridge: spec.bridge.clone(),
                ip: ip.addr(),
                mac: spec.mac?,
                port: spec.name.clone(),
                owner: Some(spec.owner),
                age_seconds: 0,
            })
        })
    });
    let operators = state.neighbours.iter().map(|((bridge, ip), entry)| NeighbourEntry {
        bridge: bridge.clone(),
        ip: *ip,
        mac: entry.mac,
        port: entry.port.clone(),
        owner: Some(entry.owner),
        age_seconds: 0,
    });
    let mut all: Vec<NeighbourEntry> = of_ports.chain(operators).collect();
    let declared: BTreeSet<(String, IpAddr)> =
        all.iter().map(|entry| (entry.bridge.clone(), entry.ip)).collect();
    let names = Names::of(view);
    let learned = dataplane.learned_neighbours().into_iter().filter_map(|known| {
        Some(NeighbourEntry {
            bridge: names.bridges.get(&known.bridge)?.to_string(),
            ip: known.ip,
            mac: known.mac,
            port: names.ports.get(&known.port)?.to_string(),
            owner: None,
            age_seconds: u64::from(known.age_seconds),
        })
    });
    all.extend(learned.filter(|entry| !declared.contains(&(entry.bridge.clone(), entry.ip))));
    all.sort_by(|a, b| (&a.bridge, a.ip).cmp(&(&b.bridge, b.ip)));
    all
}

/// Every peer with its counters.
pub(super) fn tunnels(view: &View, dataplane: &Dataplane) -> Vec<TunnelEntry> {
    let now = weft_sys::machine::monotonic_ns();
    let entry = |(key, slot): (&PeerKey, &crate::table::PeerSlot)| {
        let counters = dataplane.peer_counters(*slot);
        let heard = counters.last_heard_ns;
        let mut entry = describe(&view.state, key)?;
        entry.tx_packets = counters.tx_frames;
        entry.tx_bytes = counters.tx_bytes;
        entry.rx_packets = counters.rx_frames;
        entry.rx_bytes = counters.rx_bytes;
        entry.drops =
            counters.drops.iter().map(|(reason, count)| (reason.name().to_owned(), count)).collect();
        entry.last_heard_seconds = (heard > 0).then(|| now.saturating_sub(heard) / 1_000_000_000);
        Some(entry)
    };
    view.peers.iter().filter_map(entry).collect()
}

fn describe(state: &State, key: &PeerKey) -> Option<TunnelEntry> {
    match key {
        PeerKey::Routed { remote, port, vni } => Some(routed(state, *remote, *port, *vni)),
        PeerKey::Segment { port, remote } => {
            let spec = &state.ports.get(port)?.spec;
            Some(TunnelEntry {
                layer2: true,
                ..blank(*remote, spec.udp_port.unwrap_or(VXLAN_PORT), spec.vni?)
            })
        }
    }
}

fn routed(state: &State, remote: IpAddr, port: u16, vni: Vni) -> TunnelEntry {
    let of_cluster = state.node.vtep.as_ref().is_some_and(|vtep| (vtep.port, vtep.vni) == (port, vni));
    let peer = state.node.peers.iter().find(|peer| of_cluster && peer.underlay == remote);
    let mut prefixes: Vec<IpNet> = peer.map(|peer| peer.pod_cidrs.clone()).unwrap_or_default();
    let mut mac = peer.map(|peer| peer.mac);
    let cluster_vni = state.node.vtep.as_ref().map(|vtep| vtep.vni).or_else(|| Vni::new(1));
    for route in state.routes.values() {
        let Via::Tunnel { remote: to, vni: with, mac: its, udp_port } = &route.via else { continue };
        let same = *to == remote
            && with.or(cluster_vni) == Some(vni)
            && udp_port.unwrap_or_else(|| cluster_port(state)) == port;
        if same {
            prefixes.push(route.dst);
            mac = mac.or(*its);
        }
    }
    TunnelEntry {
        node: peer.map(|peer| peer.name.clone()),
        mac: mac.or_else(|| Some(weft_encap::MacAddr::vtep(remote, vni))),
        prefixes,
        ..blank(remote, port, vni)
    }
}

fn blank(remote: IpAddr, udp_port: u16, vni: Vni) -> TunnelEntry {
    TunnelEntry {
        node: None,
        remote,
        udp_port,
        vni,
        mac: None,
        layer2: false,
        prefixes: Vec::new(),
        tx_packets: 0,
        tx_bytes: 0,
        rx_packets: 0,
        rx_bytes: 0,
        drops: BTreeMap::new(),
        last_heard_seconds: None,
    }
}
