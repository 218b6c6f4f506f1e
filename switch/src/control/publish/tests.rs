use std::sync::Arc;

use weft_api::{BridgeSpec, Owner};
use weft_encap::VlanId;

use super::*;
use crate::control::state::StaticMac;
use crate::control::testing::state_with_cluster;
use crate::table::{FdbTarget, NextHop, PeerMode};

/// A state with two segments, whose ports need no device, and sockets left out.
fn state() -> State {
    let mut state = state_with_cluster();
    state.bridges.insert("br1".into(), Arc::new(BridgeSpec::new("br1", Owner::Cli)));
    for (name, vni) in [("seg1", 71), ("seg2", 72)] {
        let mut spec = PortSpec::new(name, "br1", PortKind::Vxlan, Owner::Cli);
        spec.vni = Vni::new(vni);
        spec.remotes = vec!["192.0.2.7".parse().unwrap(), "192.0.2.8".parse().unwrap()];
        state.put_port(PortRecord::new(spec));
    }
    state
}

#[test]
fn nothing_changed_shares_everything() {
    let mut publisher = Publisher::default();
    let first = publisher.build(&state(), &Devices::default(), 0).unwrap();
    let second = publisher.build(&state(), &Devices::default(), 0).unwrap();
    assert_eq!((first.epoch, second.epoch), (1, 2));
    assert!(Arc::ptr_eq(&first.ports, &second.ports));
    assert!(Arc::ptr_eq(&first.bridges, &second.bridges));
    assert!(Arc::ptr_eq(&first.tunnels, &second.tunnels));
}

#[test]
fn a_port_changes_its_own_generation_alone() {
    let mut publisher = Publisher::default();
    let first = publisher.build(&state(), &Devices::default(), 0).unwrap();
    let mut changed = state();
    changed.remove_port("seg2", 0);
    let second = publisher.build(&changed, &Devices::default(), 0).unwrap();
    let (seg1, br1) = (publisher.port_slot("seg1").unwrap(), publisher.bridge_slot("br1").unwrap());
    assert_eq!(first.ports.get(seg1).unwrap().generation, second.ports.get(seg1).unwrap().generation);
    let bridges = (first.bridges.get(br1).unwrap(), second.bridges.get(br1).unwrap());
    assert_eq!(bridges.0.generation, bridges.1.generation);
    assert_eq!((bridges.0.members.len(), bridges.1.members.len()), (2, 1));
    let br0 = publisher.bridge_slot("br0").unwrap().index();
    assert!(Arc::ptr_eq(
        first.bridges.slots[br0].as_ref().unwrap(),
        second.bridges.slots[br0].as_ref().unwrap()
    ));
}

#[test]
fn routes_of_the_cluster() {
    let mut publisher = Publisher::default();
    let snapshot = publisher.build(&state_with_cluster(), &Devices::default(), 0).unwrap();
    let br0 = publisher.bridge_slot("br0").unwrap();
    let router = snapshot.bridges.get(br0).unwrap().router.as_ref().unwrap();
    let lookup = |ip: &str| router.routes.lookup(ip.parse().unwrap());
    assert_eq!(lookup("10.244.1.9"), Some(NextHop::Local));
    assert!(matches!(lookup("10.244.2.9"), Some(NextHop::Tunnel(_))));
    assert_eq!(lookup("10.244.77.1"), Some(NextHop::Unreachable));
    assert_eq!(lookup("192.0.2.99"), None, "without the node's own port there is no way out");
    assert_eq!(publisher.peer_slots().count(), 1);
}

#[test]
fn a_changed_route_gives_the_bridge_a_new_generation() {
    let mut publisher = Publisher::default();
    let first = publisher.build(&state_with_cluster(), &Devices::default(), 0).unwrap();
    let mut changed = state_with_cluster();
    let mut node = (*changed.node).clone();
    node.peers[0].pod_cidrs = vec!["10.244.3.0/24".parse().unwrap()];
    changed.node = node.into();
    let second = publisher.build(&changed, &Devices::default(), 0).unwrap();
    let br0 = publisher.bridge_slot("br0").unwrap();
    assert_ne!(first.bridges.get(br0).unwrap().generation, second.bridges.get(br0).unwrap().generation);
}

#[test]
fn segments_have_a_peer_per_remote() {
    let mut publisher = Publisher::default();
    publisher.build(&state(), &Devices::default(), 0).unwrap();
    let state = state();
    let wanted = tunnel::peers(&state);
    assert_eq!(wanted.len(), 5);
    assert_eq!(publisher.peer_slots().count(), 5);
    // Without sockets none of them is in the table.
    assert!(publisher.last().tunnels.peers.iter().all(Option::is_none));
    let _ = PeerMode::Segment { port: PortSlot(0) };
}

#[test]
fn a_port_s_own_station_wins_over_a_static_one() {
    let mut publisher = Publisher::default();
    let mut state = state();
    let mac = "02:00:00:00:00:05".parse().unwrap();
    let mut spec = state.ports["seg1"].spec.clone();
    (spec.mac, spec.trunks) = (Some(mac), vec![VlanId::new(8).unwrap()]);
    state.put_port(PortRecord::new(spec));
    for vlan in [None, VlanId::new(8), VlanId::new(9)] {
        let entry = StaticMac { port: "seg2".into(), remote: None, owner: Owner::Cli };
        state.statics.insert(("br1".into(), vlan, mac), entry);
    }
    let snapshot = publisher.build(&state, &Devices::default(), 0).unwrap();
    let slot = |name| FdbTarget::Port(publisher.port_slot(name).unwrap());
    let bridge = snapshot.bridges.get(publisher.bridge_slot("br1").unwrap()).unwrap();
    for (vlan, port) in [(None, "seg1"), (VlanId::new(8), "seg1"), (VlanId::new(9), "seg2")] {
        assert_eq!(bridge.statics.get(&(vlan, mac)), Some(&slot(port)), "{vlan:?}");
    }
}

#[test]
fn a_new_peer_has_every_flow_looked_at_again() {
    let mut publisher = Publisher::default();
    let first = publisher.build(&state(), &Devices::default(), 0).unwrap();
    let mut changed = state();
    let mut spec = changed.ports["seg1"].spec.clone();
    spec.remotes.push("192.0.2.9".parse().unwrap());
    changed.put_port(PortRecord::new(spec));
    let second = publisher.build(&changed, &Devices::default(), 0).unwrap();
    let br0 = publisher.bridge_slot("br0").unwrap();
    assert_ne!(first.bridges.get(br0).unwrap().generation, second.bridges.get(br0).unwrap().generation);
}
