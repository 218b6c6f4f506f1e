//! The flow cache changes nothing but speed, and forgets no more than it must.

use proptest::prelude::*;

use super::frames::*;
use super::lab::*;
use crate::mem::Ingress;
use crate::path::FlowTarget;
use crate::path::counters::Total;
use crate::table::{FdbTarget, Neighbour, PortSlot};

#[test]
fn an_added_port_empties_nobodys_cache() {
    let mut lab = Lab::small();
    let mut rig = Rig::new(&mut lab);
    let frames = [
        udp((mac(2), mac(3)), v4(2), v4(3), 10),
        udp((mac(2), ROUTER), v4(2), remote_v4(0, 5), 10),
        udp((mac(2), ROUTER), v6(2), v6(3), 10),
    ];
    frames.iter().for_each(|frame| drop(rig.one(port(2), frame)));
    for n in 10..20 {
        lab.pod(n);
        rig.snapshot = lab.snapshot();
        let before = rig.hits();
        frames.iter().for_each(|frame| drop(rig.one(port(2), frame)));
        assert_eq!(rig.hits(), before + 3);
    }
    lab.ports[3] = None;
    rig.snapshot = lab.snapshot();
    let before = rig.hits();
    rig.one(port(2), &frames[1]);
    assert_eq!(rig.hits(), before + 1, "nor does one that goes, but for those who talk to it");
}

#[test]
fn a_moved_neighbour_is_followed() {
    let mut lab = Lab::small();
    lab.neighbours.insert(v4(50).into(), Neighbour { port: PortSlot(4), mac: mac(50) });
    let mut rig = Rig::new(&mut lab);
    let frame = udp((mac(2), ROUTER), v4(2), v4(50), 10);
    assert_eq!(rig.one(port(2), &frame).to, port(4));
    lab.neighbours.insert(v4(50).into(), Neighbour { port: PortSlot(3), mac: mac(51) });
    rig.snapshot = lab.snapshot();
    let sent = rig.one(port(2), &frame);
    assert_eq!((sent.to, sent.headers().dst), (port(3), mac(51)));
}

#[test]
fn a_changed_bridge_or_peer_is_followed() {
    let mut lab = Lab::small();
    let mut rig = Rig::new(&mut lab);
    let frame = udp((mac(2), ROUTER), v4(2), remote_v4(0, 5), 10);
    rig.one(port(2), &frame);
    lab.bridge_generation += 1;
    lab.routes.push((
        format!("{}/32", remote_v4(0, 5)).parse().unwrap(),
        crate::table::NextHop::Tunnel(crate::table::PeerSlot(1)),
    ));
    rig.snapshot = lab.snapshot();
    assert_eq!(rig.one(port(2), &frame).to, peer(1));
    lab.peers[1] = None;
    rig.snapshot = lab.snapshot();
    rig.dies(port(2), &frame, weft_encap::Reason::PortDown);
}

#[test]
fn flows_are_shown() {
    let mut rig = Rig::new(&mut Lab::small());
    let frame = udp((mac(2), ROUTER), v4(2), remote_v4(0, 5), 10);
    for _ in 0..4 {
        rig.one(port(2), &frame);
    }
    rig.advance(9);
    let flows = rig.forwarder.flows(10, rig.now_ns);
    assert_eq!(flows.len(), 1);
    let flow = &flows[0];
    assert_eq!((flow.ingress, flow.hits, flow.idle_seconds, flow.routed), (port(2), 3, 9, true));
    assert_eq!(flow.ip, Some((v4(2).into(), remote_v4(0, 5).into())));
    assert_eq!((flow.src_mac, flow.dst_mac, flow.dst_port), (mac(2), ROUTER, None));
    assert_eq!(flow.target, FlowTarget::Peer(crate::table::PeerSlot(0)));
    rig.one(peer(0), &udp((vtep(0), VTEP), remote_v6(0, 5), v6(2), 10));
    let flow = &rig.forwarder.flows(1, rig.now_ns)[0];
    assert_eq!((flow.ingress, flow.ip), (peer(0), Some((remote_v6(0, 5).into(), v6(2).into()))));
}

#[test]
fn connections_of_the_same_ends_are_one_flow() {
    let mut rig = Rig::new(&mut Lab::small());
    let frame = |ports| udp_ports((mac(2), ROUTER), v4(2), remote_v4(0, 5), ports, 64, 10);
    rig.one(port(2), &frame((4000, 80)));
    for ports in [(4001, 80), (4000, 81), (1, 68), (4789, 4788)] {
        let before = rig.hits();
        rig.one(port(2), &frame(ports));
        assert_eq!(rig.hits(), before + 1, "{ports:?}");
    }
    rig.one(port(2), &may_fragment(frame((4000, 80))));
    assert_eq!(rig.forwarder.flows(10, rig.now_ns).len(), 1);
}

#[test]
fn what_ports_forbid_hides_behind_no_other_ports() {
    let mut lab = Lab::small();
    let std::net::SocketAddr::V4(remote) = lab.peers[0].as_ref().unwrap().remote else { panic!("IPv4") };
    // Another peer takes it elsewhere: with that port the same address is nobody's.
    let other: std::net::SocketAddr = "192.0.2.77:8472".parse().unwrap();
    lab.peers[1].as_mut().unwrap().remote = other;
    lab.host(1);
    let mut rig = Rig::new(&mut lab);
    for macs in [(mac(2), ROUTER), (mac(2), mac(3))] {
        let frame = |ports| udp_ports(macs, v4(2), *remote.ip(), ports, 64, 10);
        for round in 0..2 {
            rig.one(port(2), &frame((4000, 53)));
            rig.one(port(2), &frame((4000, other.port())));
            rig.dies(port(2), &frame((4000, remote.port())), weft_encap::Reason::GuardTunnel);
            rig.dies(port(2), &frame((67, 68)), weft_encap::Reason::GuardDhcp);
            assert!(rig.hits() >= 2 * round, "the first two are cached");
        }
    }
}

#[test]
fn a_small_cache_is_bounded_and_right() {
    let mut lab = Lab::small();
    let mut rig = Rig::with_cache(&mut lab, 16);
    for round in 0..3 {
        for n in 0..200 {
            let frame = udp((mac(2), mac(3)), v4(2), std::net::Ipv4Addr::new(10, 99, round, n), 10);
            assert_eq!(rig.one(port(2), &frame).bytes, frame);
        }
    }
    assert!(rig.forwarder.flows(1000, rig.now_ns).len() <= 16);
}

#[test]
fn a_flood_of_new_flows_takes_no_place_of_a_flow_in_use() {
    let mut lab = Lab::small();
    // One set.
    let mut rig = Rig::with_cache(&mut lab, 4);
    let quiet = udp((mac(3), mac(2)), v4(3), v4(2), 10);
    let flood =
        |round: u8, n: u8| udp((mac(2), mac(3)), v4(2), std::net::Ipv4Addr::new(10, 99, round, n), 10);
    rig.one(port(3), &quiet);
    for round in 0..5 {
        (0..100).for_each(|n| drop(rig.one(port(2), &flood(round, n))));
        let before = rig.hits();
        rig.one(port(3), &quiet);
        assert_eq!(rig.hits(), before + 1, "round {round}");
        rig.advance(1);
    }
    assert_eq!(rig.counters.total(Total::CacheEntries), 4);
    assert_eq!(rig.counters.total(Total::CacheEvictions), 5 * 100 - 3);
    // Nor does a place belong for ever to one who does not use it.
    rig.advance(40);
    (10..14).for_each(|n| drop(rig.one(port(2), &flood(9, n))));
    let before = rig.hits();
    (10..14).for_each(|n| drop(rig.one(port(2), &flood(9, n))));
    assert_eq!(rig.hits(), before + 4);
}

/// One thing that happens to a switch.
#[derive(Clone, Debug)]
enum Event {
    Frame { from: u8, src: u8, dst: u8, ip: (u8, u8), kind: u8, len: u16, ttl: u8, tci: Option<u16> },
    MovePod(u8),
    Remove(u8),
    Add(u8),
    Declare(u8, u8),
    Routes(bool),
    Mtu(u8, u16),
    Guard(u8, u8),
    Wait(u16),
    FlushLearned,
}

/// A frame; its length and TTL come later.
fn frame() -> impl Strategy<Value = Event> {
    let tci = prop_oneof![8 => Just(None), 1 => Just(Some(10u16)), 1 => Just(Some(20))];
    (0u8..9, 0u8..10, 0u8..11, (0u8..10, 0u8..12), 0u8..9, tci).prop_map(|(from, src, dst, ip, kind, tci)| {
        Event::Frame { from, src, dst, ip, kind, len: 20, ttl: 64, tci }
    })
}

/// Something else that happens.
fn change_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (2u8..6).prop_map(Event::MovePod),
        (2u8..8).prop_map(Event::Remove),
        (2u8..8).prop_map(Event::Add),
        (0u8..10, 2u8..8).prop_map(|(a, b)| Event::Declare(a, b)),
        any::<bool>().prop_map(Event::Routes),
        (2u8..8, 1200u16..1600).prop_map(|(a, b)| Event::Mtu(a, b)),
        (2u8..4, 2u8..6).prop_map(|(a, b)| Event::Guard(a, b)),
        (1u16..400).prop_map(Event::Wait),
        Just(Event::FlushLearned),
    ]
}

/// Few flows, each with many frames, so that most of them hit; and changes in between.
fn events() -> impl Strategy<Value = Vec<Event>> {
    prop::collection::vec(frame(), 2..8).prop_flat_map(|flows| {
        let ttl = prop_oneof![6 => Just(64u8), 1 => 0u8..3];
        let len = prop_oneof![4 => Just(20u16), 1 => 1380u16..1600];
        let again = (prop::sample::select(flows), ttl, len).prop_map(|(mut flow, new_ttl, new_len)| {
            if let Event::Frame { len, ttl, .. } = &mut flow {
                (*len, *ttl) = (new_len, new_ttl);
            }
            flow
        });
        prop::collection::vec(prop_oneof![5 => again, 1 => change_event()], 1..100)
    })
}

/// Pods 2 and 3, unguarded 4, access port 5 and trunk 6 of VLAN 10, segment 7 with peers 2 and 3, node 1, routed 0, 1.
fn world() -> Lab {
    let mut lab = Lab::small();
    lab.host(1);
    lab.open(5).tag = vlan(10);
    lab.open(6).trunks = vec![vlan(10).unwrap()];
    lab.segment(7, &[2, 3]);
    lab
}

fn build(event: &Event) -> Option<(Ingress, Vec<u8>)> {
    let Event::Frame { from, src, dst, ip, kind, len, ttl, tci } = event else { return None };
    let ingress = match from {
        0..=5 => port(u16::from(*from) + 1),
        _ => peer(u16::from(*from) - 6),
    };
    let src_mac = match (ingress, src) {
        (Ingress::Peer(slot), 0..=6) if slot.0 < 2 => vtep(slot.0),
        (Ingress::Port(slot), 0..=6) => mac(slot.0 as u8),
        _ => mac(*src),
    };
    let dst_mac = match dst {
        0..=3 => ROUTER,
        4 => VTEP,
        5 => weft_encap::MacAddr::BROADCAST,
        _ => mac(dst - 4),
    };
    let address = |n: u8| match n {
        0..=5 => v4(n + 1),
        6 | 7 => remote_v4(u16::from(n) - 6, 9),
        8 => v4(99),
        _ => std::net::Ipv4Addr::new(8, 8, 8, n),
    };
    let address6 = |n: u8| match n {
        0..=5 => v6(n + 1),
        6 | 7 => remote_v6(u16::from(n) - 6, 9),
        n => v6(n + 90),
    };
    let source = match ingress {
        Ingress::Port(slot) if ip.0 < 7 => slot.0 as u8 - 1,
        _ => ip.0,
    };
    let macs = (src_mac, dst_mac);
    let ports = match kind {
        6 => (67, 5000),
        7 | 8 => (4000, 4789),
        _ => (4000 + u16::from(*kind), 5000),
    };
    let len = usize::from(*len);
    let frame = match kind {
        0 | 1 | 6 => udp_ports(macs, address(source), address(ip.1), ports, *ttl, len),
        // Where peers take VXLAN, and beside it.
        7 => udp_ports(macs, address(source), std::net::Ipv4Addr::new(192, 0, 2, ip.1), ports, *ttl, len),
        8 => later_fragment(udp_ports(macs, address(source), address(ip.1), ports, *ttl, len)),
        2 => udp_ports(macs, address6(source), address6(ip.1), ports, *ttl, len),
        3 => may_fragment(udp_ports(macs, address(source), address(ip.1), ports, *ttl, len)),
        4 => icmp4(macs, address(source), address(ip.1), 8, 0),
        _ => arp(macs, 1 + u16::from(ip.1 % 2), (src_mac, address(source)), (dst_mac, address(ip.1))),
    };
    Some((
        ingress,
        match tci {
            Some(tci) => tagged(&frame, 0x8100, *tci),
            None => frame,
        },
    ))
}

fn change(lab: &mut Lab, event: &Event) {
    let generation = lab.next_generation();
    match event {
        Event::MovePod(n) => {
            let at = Neighbour { port: PortSlot(u16::from(n % 4) + 2), mac: mac(n % 4 + 2) };
            lab.neighbours.insert(v4(*n).into(), at);
        }
        Event::Remove(n) => lab.ports[usize::from(*n)] = None,
        Event::Add(n) if lab.ports[usize::from(*n)].is_none() && *n != 7 => drop(lab.open((*n).into())),
        Event::Declare(n, at) => {
            lab.statics.insert((None, mac(*n)), FdbTarget::Port(PortSlot((*at).into())));
        }
        Event::Routes(up) => {
            lab.bridge_generation = generation;
            lab.routes.retain(|(net, _)| net.to_string() != "8.8.8.0/24");
            let hop = if *up { crate::table::NextHop::Unreachable } else { crate::table::NextHop::Local };
            lab.routes.push(("8.8.8.0/24".parse().unwrap(), hop));
        }
        Event::Mtu(n, mtu) => {
            if let Some(port) = &mut lab.ports[usize::from(*n)] {
                (port.mtu, port.generation) = ((*mtu).into(), generation);
            }
        }
        Event::Guard(n, ip) => {
            if let Some(port) = &mut lab.ports[usize::from(*n)]
                && let Some(guard) = &mut port.guard
            {
                guard.v4 = vec![v4(*ip)];
                port.generation = generation;
            }
        }
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn cached_and_uncached_decide_alike(events in events()) {
        let mut lab = world();
        let mut cached = Rig::with_cache(&mut lab, 64);
        let mut uncached = Rig::with_cache(&mut lab, 0);
        for event in &events {
            if let Some((ingress, frame)) = build(event) {
                prop_assert_eq!(cached.send(ingress, &frame), uncached.send(ingress, &frame));
            } else {
                change(&mut lab, event);
                let snapshot = lab.snapshot();
                for rig in [&mut cached, &mut uncached] {
                    rig.snapshot = snapshot.clone();
                    match event {
                        Event::Wait(seconds) => {
                            rig.advance((*seconds).into());
                            rig.forwarder.tick(&rig.snapshot, rig.now_ns);
                        }
                        Event::FlushLearned => drop(rig.shared.fdb.flush(BRIDGE, None, None)),
                        _ => {}
                    }
                }
            }
            prop_assert_eq!(cached.reasons(), uncached.reasons());
        }
        prop_assert_eq!(uncached.hits(), 0);
    }
}
