//! The source guard: each forgery dies for its own reason, and what a pod must be able to say passes.

use std::net::{Ipv4Addr, Ipv6Addr};

use weft_encap::{MacAddr, Reason, ipv6};

use super::frames::*;
use super::lab::*;

const EVERYONE: MacAddr = MacAddr::BROADCAST;
const NOBODY: MacAddr = MacAddr::ZERO;

fn all_nodes() -> (MacAddr, Ipv6Addr) {
    (MacAddr([0x33, 0x33, 0, 0, 0, 1]), "ff02::1".parse().unwrap())
}

fn eui64(mac: MacAddr) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.0;
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

fn rig() -> Rig {
    Rig::new(&mut Lab::small())
}

#[test]
fn spoofed_sources_die() {
    let mut rig = rig();
    let to = |src| (src, mac(3));
    assert_eq!(rig.one(port(2), &udp(to(mac(2)), v4(2), v4(3), 10)).to, port(3));
    assert_eq!(rig.one(port(2), &udp(to(mac(2)), v6(2), v6(3), 10)).to, port(3));
    rig.dies(port(2), &udp(to(mac(9)), v4(2), v4(3), 10), Reason::GuardMac);
    rig.dies(port(2), &udp(to(mac(2)), v4(9), v4(3), 10), Reason::GuardIp);
    rig.dies(port(2), &udp(to(mac(2)), Ipv4Addr::UNSPECIFIED, v4(3), 10), Reason::GuardIp);
    rig.dies(port(2), &udp(to(mac(2)), v6(9), v6(3), 10), Reason::GuardIp);
    rig.dies(port(2), &udp(to(mac(2)), Ipv6Addr::UNSPECIFIED, v6(3), 10), Reason::GuardIp);
    rig.dies(port(2), &udp((mac(2), ROUTER), v4(9), remote_v4(0, 5), 10), Reason::GuardIp);
    assert!(rig.shared.fdb.is_empty(), "forgeries and declared stations are not learned");
}

#[test]
fn a_spoofed_frame_never_meets_anothers_cached_flow() {
    let mut rig = rig();
    let frame = udp((mac(2), mac(3)), v4(2), v4(3), 10);
    rig.one(port(2), &frame);
    rig.one(port(2), &frame);
    assert_eq!(rig.hits(), 1);
    rig.dies(port(3), &frame, Reason::GuardMac);
    let forged = udp((mac(3), mac(2)), v4(2), v4(3), 10);
    rig.dies(port(3), &forged, Reason::GuardIp);
    rig.dies(port(3), &forged, Reason::GuardIp);
    // The same through the tunnel: a peer may not speak for a local pod.
    rig.dies(peer(0), &udp((vtep(0), VTEP), v4(2), v4(3), 10), Reason::GuardIp);
}

#[test]
fn a_pod_does_not_speak_vxlan_to_peers() {
    let mut lab = Lab::small();
    lab.host(1);
    let mut rig = Rig::new(&mut lab);
    let to_peer = Ipv4Addr::new(192, 0, 2, 1);
    // By the router, and straight to the node, which would route it too.
    for dst in [ROUTER, mac(1)] {
        let to = |ip: Ipv4Addr, udp_port| udp_ports((mac(2), dst), v4(2), ip, (4000, udp_port), 64, 60);
        rig.dies(port(2), &to(to_peer, 4789), Reason::GuardTunnel);
        assert_eq!(rig.one(port(2), &to(to_peer, 53)).to, port(1));
        assert_eq!(rig.one(port(2), &to(Ipv4Addr::new(192, 0, 2, 99), 4789)).to, port(1), "no peer");
    }
    let from_node = udp_ports((mac(1), mac(3)), v4(1), to_peer, (4000, 4789), 64, 60);
    assert_eq!(rig.one(port(1), &from_node).to, port(3), "the node may");
}

#[test]
fn a_changed_guard_invalidates_cached_flows() {
    let mut lab = Lab::small();
    let mut rig = Rig::new(&mut lab);
    let frame = udp((mac(2), mac(3)), v4(2), v4(3), 10);
    rig.one(port(2), &frame);
    let generation = lab.next_generation();
    let changed = lab.ports[2].as_mut().unwrap();
    changed.generation = generation;
    changed.guard.as_mut().unwrap().v4 = vec![v4(20)];
    rig.snapshot = lab.snapshot();
    rig.dies(port(2), &frame, Reason::GuardIp);
}

#[test]
fn forged_arp_dies() {
    let mut rig = rig();
    let bc = (mac(2), EVERYONE);
    let ask = |sender: (MacAddr, Ipv4Addr)| arp(bc, 1, sender, (NOBODY, v4(3)));
    assert_eq!(rig.one(port(2), &ask((mac(2), v4(2)))).to, port(2), "answered");
    rig.dies(port(2), &ask((mac(9), v4(2))), Reason::GuardArp);
    rig.dies(port(2), &ask((mac(2), v4(3))), Reason::GuardArp);
    rig.dies(port(2), &ask((mac(2), v4(1))), Reason::GuardArp);
    let reply = |sender| arp((mac(2), mac(3)), 2, sender, (mac(3), v4(3)));
    assert_eq!(rig.one(port(2), &reply((mac(2), v4(2)))).to, port(3));
    rig.dies(port(2), &reply((mac(2), v4(1))), Reason::GuardArp);
    rig.dies(port(2), &reply((mac(2), Ipv4Addr::UNSPECIFIED)), Reason::GuardArp);
    // A probe for one's own address is nobody's to answer; one for another's is.
    rig.silent(port(2), &arp(bc, 1, (mac(2), Ipv4Addr::UNSPECIFIED), (NOBODY, v4(2))));
    let answer = rig.one(port(2), &arp(bc, 1, (mac(2), Ipv4Addr::UNSPECIFIED), (NOBODY, v4(3))));
    assert_eq!(answer.to, port(2));
    // Nor may an unguarded port claim what is declared to be a pod's, or the gateway's.
    for claimed in [v4(2), v4(1)] {
        let claim = arp((mac(40), EVERYONE), 1, (mac(40), claimed), (NOBODY, claimed));
        rig.dies(port(4), &claim, Reason::GuardArp);
    }
}

#[test]
fn forged_neighbour_discovery_dies() {
    let mut rig = rig();
    let group = ipv6::solicited_node(v6(3));
    let macs = (mac(2), MacAddr::of_ipv6_multicast(group));
    let ns = |src, option| nd(macs, (src, group), 135, v6(3), option);
    assert_eq!(rig.one(port(2), &ns(v6(2), Some((1, mac(2))))).to, port(2), "answered");
    assert_eq!(rig.one(port(2), &ns(eui64(mac(2)), Some((1, mac(2))))).to, port(2));
    rig.dies(port(2), &ns(v6(9), Some((1, mac(2)))), Reason::GuardNd);
    rig.dies(port(2), &ns(v6(2), Some((1, mac(3)))), Reason::GuardNd);
    rig.dies(port(2), &ns(eui64(mac(3)), None), Reason::GuardNd);
    let na = |src, target, option| nd((mac(2), mac(3)), (src, v6(3)), 136, target, option);
    assert_eq!(rig.one(port(2), &na(v6(2), v6(2), Some((2, mac(2))))).to, port(3));
    assert_eq!(rig.one(port(2), &na(v6(2), eui64(mac(2)), None)).to, port(3));
    rig.dies(port(2), &na(v6(2), v6(1), Some((2, mac(2)))), Reason::GuardNd);
    rig.dies(port(2), &na(v6(2), v6(2), Some((2, mac(3)))), Reason::GuardNd);
    rig.dies(port(2), &na(v6(2), eui64(mac(3)), None), Reason::GuardNd);
    rig.dies(port(2), &na(Ipv6Addr::UNSPECIFIED, v6(2), None), Reason::GuardNd);
    let mut routed = ns(v6(2), None);
    routed[14 + 7] = 64;
    rig.dies(port(2), &routed, Reason::BadL4);
    let claim = nd((mac(40), all_nodes().0), (v6(2), all_nodes().1), 136, v6(2), Some((2, mac(40))));
    rig.dies(port(4), &claim, Reason::GuardNd);
}

#[test]
fn what_pods_must_say_passes() {
    let mut rig = rig();
    // Duplicate address detection of its own address: silence, not an answer.
    let group = ipv6::solicited_node(v6(2));
    let macs = (mac(2), MacAddr::of_ipv6_multicast(group));
    rig.silent(port(2), &nd(macs, (Ipv6Addr::UNSPECIFIED, group), 135, v6(2), None));
    let own = eui64(mac(2));
    rig.silent(port(2), &nd(macs, (Ipv6Addr::UNSPECIFIED, ipv6::solicited_node(own)), 135, own, None));
    // Listener reports, before and after it has an address; router solicitations.
    let routers = ("ff02::16".parse().unwrap(), MacAddr([0x33, 0x33, 0, 0, 0, 0x16]));
    for src in [Ipv6Addr::UNSPECIFIED, own] {
        let report = icmp6((mac(2), routers.1), src, routers.0, (143, 1), &[0; 24]);
        assert_eq!(rig.places(port(2), &report), [port(3), port(4)]);
        rig.silent(port(2), &icmp6((mac(2), routers.1), src, routers.0, (133, 255), &[0; 4]));
    }
    assert_eq!(rig.one(port(2), &udp((mac(2), mac(3)), own, eui64(mac(3)), 9)).to, port(3));
    assert_eq!(rig.dropped(), 0);
}

#[test]
fn routers_and_servers_are_not_pods() {
    let mut rig = rig();
    let (group, all) = all_nodes();
    let ra = icmp6((mac(2), group), eui64(mac(2)), all, (134, 255), &[0; 12]);
    rig.dies(port(2), &ra, Reason::GuardRa);
    rig.dies(port(2), &icmp6((mac(2), mac(3)), v6(2), v6(3), (137, 255), &[0; 36]), Reason::GuardRedirect);
    rig.dies(port(2), &icmp4((mac(2), mac(3)), v4(2), v4(3), 5, 1), Reason::GuardRedirect);
    let offer = udp_ports((mac(2), mac(3)), v4(2), v4(3), (67, 68), 64, 300);
    rig.dies(port(2), &offer, Reason::GuardDhcp);
    let advertise = udp_ports((mac(2), mac(3)), v6(2), v6(3), (547, 546), 64, 300);
    rig.dies(port(2), &advertise, Reason::GuardDhcp);
    // An unguarded port is trusted with them.
    assert_eq!(
        rig.send(port(4), &icmp6((mac(40), group), eui64(mac(40)), all, (134, 255), &[0; 12])).len(),
        2
    );
}

#[test]
fn a_router_advertisement_does_not_hide_in_a_fragment() {
    let mut rig = rig();
    let (group, all) = all_nodes();
    let ra = icmp6((mac(2), group), eui64(mac(2)), all, (134, 255), &[0; 12]);
    // The same behind a fragment header: first fragment, more to follow.
    let mut hidden = ra[..54].to_vec();
    hidden[20] = 44;
    hidden[19] += 8;
    hidden.extend([58, 0, 0, 1, 0, 0, 0, 7]);
    hidden.extend(&ra[54..]);
    rig.dies(port(2), &hidden, Reason::GuardRa);
    let mut ns = hidden.clone();
    ns[62] = 135;
    rig.dies(port(2), &ns, Reason::BadFragment);
}

#[test]
fn tags_hide_nothing() {
    let mut rig = rig();
    let forged = udp((mac(2), mac(3)), v4(9), v4(3), 10);
    for ethertype in [0x8100, 0x88a8] {
        rig.dies(port(2), &tagged(&forged, ethertype, 0), Reason::Vlan);
        rig.dies(port(2), &tagged(&forged, ethertype, 7), Reason::Vlan);
        rig.dies(port(4), &tagged(&udp((mac(40), mac(3)), v4(9), v4(3), 10), ethertype, 0), Reason::Vlan);
        rig.dies(
            peer(0),
            &tagged(&udp((vtep(0), VTEP), remote_v4(0, 5), v4(3), 10), ethertype, 0),
            Reason::Vlan,
        );
    }
    let mut lab = Lab::small();
    lab.ports[2].as_mut().unwrap().trunks = vec![vlan(7).unwrap()];
    let mut rig = Rig::new(&mut lab);
    for inner in [0x8100, 0x88a8] {
        rig.dies(port(2), &tagged(&tagged(&forged, inner, 0), 0x8100, 7), Reason::Vlan);
    }
}

#[test]
fn a_guard_without_addresses_guards_the_mac() {
    let mut lab = Lab::small();
    let guard = lab.ports[2].as_mut().unwrap().guard.as_mut().unwrap();
    (guard.v4, guard.v6) = (Vec::new(), Vec::new());
    let mut rig = Rig::new(&mut lab);
    assert_eq!(rig.one(port(2), &udp((mac(2), mac(3)), v4(77), v4(3), 10)).to, port(3));
    assert_eq!(rig.one(port(2), &udp((mac(2), mac(3)), v6(77), v6(3), 10)).to, port(3));
    rig.dies(port(2), &udp((mac(9), mac(3)), v4(2), v4(3), 10), Reason::GuardMac);
    rig.dies(port(2), &udp_ports((mac(2), mac(3)), v4(2), v4(3), (67, 68), 64, 300), Reason::GuardDhcp);
    rig.dies(port(2), &arp((mac(2), EVERYONE), 1, (mac(9), v4(77)), (NOBODY, v4(3))), Reason::GuardArp);
    assert_eq!(rig.one(port(2), &arp((mac(2), EVERYONE), 1, (mac(2), v4(77)), (NOBODY, v4(3)))).to, port(2));
}

#[test]
fn nobody_speaks_with_the_routers_mac() {
    let mut rig = rig();
    rig.dies(port(4), &udp((ROUTER, mac(3)), v4(9), v4(3), 10), Reason::GuardMac);
    rig.dies(port(4), &udp((MacAddr([3, 0, 0, 0, 0, 1]), mac(3)), v4(9), v4(3), 10), Reason::BadSource);
}
