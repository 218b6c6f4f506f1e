//! Answers by the switch: ARP, neighbour discovery, echo.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::{NetSlice, SlicedPacket};
use weft_encap::{MacAddr, Reason, icmpv6, ipv6};

use super::frames::*;
use super::lab::*;
use super::routed::etherparse_accepts;
use crate::mem::Ingress;

const EVERYONE: MacAddr = MacAddr::BROADCAST;

/// Who `from` is told has `target`.
fn arp_answer(rig: &mut Rig, from: Ingress, asker: u8, target: Ipv4Addr) -> Option<MacAddr> {
    let question = arp((mac(asker), EVERYONE), 1, (mac(asker), v4(asker)), (MacAddr::ZERO, target));
    let sent = rig.send(from, &question);
    let answer = sent.first().filter(|sent| sent.to == from)?;
    assert_eq!(sent.len(), 1);
    let packet = SlicedPacket::from_ethernet(&answer.bytes).unwrap();
    let Some(NetSlice::Arp(packet)) = packet.net else { panic!("not ARP") };
    assert_eq!(packet.operation(), etherparse::ArpOperation(2));
    assert_eq!(packet.sender_protocol_addr(), target.octets());
    assert_eq!(packet.target_hw_addr(), mac(asker).0);
    assert_eq!(packet.target_protocol_addr(), v4(asker).octets());
    assert_eq!(answer.headers().dst, mac(asker));
    Some(MacAddr(packet.sender_hw_addr().try_into().unwrap()))
}

/// The same by neighbour solicitation; also whether a router answered.
fn nd_answer(rig: &mut Rig, from: Ingress, asker: u8, target: Ipv6Addr) -> Option<(MacAddr, bool)> {
    let group = ipv6::solicited_node(target);
    let macs = (mac(asker), MacAddr::of_ipv6_multicast(group));
    let sent = rig.send(from, &nd(macs, (v6(asker), group), 135, target, Some((1, mac(asker)))));
    let answer = sent.first().filter(|sent| sent.to == from)?;
    assert_eq!(sent.len(), 1);
    etherparse_accepts(&answer.bytes);
    let headers = answer.headers();
    let message = headers.neighbour(&answer.bytes).unwrap();
    assert_eq!((message.kind, message.target()), (136, target));
    assert_eq!(answer.ip(), (target.into(), IpAddr::from(v6(asker))));
    assert_ne!(message.flags[0] & icmpv6::NA_SOLICITED, 0);
    let option = icmpv6::link_layer_option(&headers.payload(&answer.bytes)[16..], 2).unwrap();
    Some((option, message.flags[0] & icmpv6::NA_ROUTER != 0))
}

#[test]
fn known_addresses_are_answered_not_flooded() {
    let mut lab = Lab::small();
    lab.host(1);
    let mut rig = Rig::new(&mut lab);
    assert_eq!(arp_answer(&mut rig, port(2), 2, v4(1)), Some(ROUTER));
    assert_eq!(arp_answer(&mut rig, port(2), 2, v4(3)), Some(mac(3)));
    assert_eq!(arp_answer(&mut rig, port(4), 40, v4(3)), Some(mac(3)));
    assert_eq!(nd_answer(&mut rig, port(2), 2, v6(1)), Some((ROUTER, true)));
    assert_eq!(nd_answer(&mut rig, port(2), 2, v6(3)), Some((mac(3), false)));
    let link_local: Ipv6Addr = "fe80::ff:fe00:3".parse().unwrap();
    assert_eq!(nd_answer(&mut rig, port(2), 2, link_local), Some((mac(3), false)));
    // The node asks for pods, and owns the gateway's address itself.
    assert_eq!(arp_answer(&mut rig, port(1), 1, v4(2)), Some(mac(2)));
    rig.silent(port(1), &arp((mac(1), EVERYONE), 1, (mac(1), Ipv4Addr::UNSPECIFIED), (MacAddr::ZERO, v4(1))));
    assert_eq!(rig.dropped(), 0);
}

#[test]
fn unknown_addresses_are_asked_for_where_they_may_be() {
    let mut lab = Lab::small();
    lab.host(1);
    let mut rig = Rig::new(&mut lab);
    let question = arp((mac(2), EVERYONE), 1, (mac(2), v4(2)), (MacAddr::ZERO, v4(99)));
    assert_eq!(rig.places(port(2), &question), [port(4)]);
    rig.silent(port(4), &arp((mac(40), EVERYONE), 1, (mac(40), v4(40)), (MacAddr::ZERO, v4(99))));
    lab.segment(5, &[2, 3]);
    rig.snapshot = lab.snapshot();
    assert_eq!(rig.places(port(2), &question), [port(4), peer(2), peer(3)]);
    let from_peer = arp((mac(40), EVERYONE), 1, (mac(40), v4(40)), (MacAddr::ZERO, v4(99)));
    assert_eq!(rig.places(peer(2), &from_peer), [port(4)]);
    assert_eq!(arp_answer(&mut rig, peer(2), 40, v4(3)), Some(mac(3)), "answered to the peer");
    lab.ports[4] = None;
    lab.ports[5] = None;
    rig.snapshot = lab.snapshot();
    rig.silent(port(2), &question);
}

#[test]
fn without_a_router_pods_answer_for_themselves() {
    let mut lab = Lab::small();
    lab.has_router = false;
    let mut rig = Rig::new(&mut lab);
    let question = arp((mac(2), EVERYONE), 1, (mac(2), v4(2)), (MacAddr::ZERO, v4(3)));
    assert_eq!(rig.places(port(2), &question), [port(3), port(4)]);
    let reply = arp((mac(3), mac(2)), 2, (mac(3), v4(3)), (mac(2), v4(2)));
    assert_eq!(rig.places(port(3), &reply), [port(2)]);
    let group = ipv6::solicited_node(v6(3));
    let macs = (mac(2), MacAddr::of_ipv6_multicast(group));
    let question = nd(macs, (v6(2), group), 135, v6(3), Some((1, mac(2))));
    assert_eq!(rig.places(port(2), &question), [port(3), port(4)]);
}

#[test]
fn a_guarded_trunk_is_asked_in_its_vlans() {
    let mut lab = Lab::small();
    lab.ports[3].as_mut().unwrap().trunks = vec![vlan(10).unwrap()];
    lab.ports[4].as_mut().unwrap().tag = vlan(10);
    let mut rig = Rig::new(&mut lab);
    let question = arp((mac(40), EVERYONE), 1, (mac(40), v4(40)), (MacAddr::ZERO, v4(3)));
    let asked = rig.one(port(4), &question);
    assert_eq!((asked.to, asked.headers().tci), (port(3), Some(10)));
    let reply = tagged(&arp((mac(3), mac(40)), 2, (mac(3), v4(3)), (mac(40), v4(40))), 0x8100, 10);
    assert_eq!(rig.one(port(3), &reply).headers().tci, None);
    assert_eq!(rig.places(port(4), &udp((mac(40), mac(3)), v4(40), v4(3), 10)), [port(3)]);
}

#[test]
fn announcements_pass_and_are_limited() {
    let mut lab = Lab::small();
    lab.ports[2].as_mut().unwrap().flood_pps = 3;
    let mut rig = Rig::new(&mut lab);
    let announcement = arp((mac(2), EVERYONE), 1, (mac(2), v4(2)), (MacAddr::ZERO, v4(2)));
    assert_eq!(rig.places(port(2), &announcement), [port(3), port(4)]);
    let all = "ff02::1".parse().unwrap();
    let unsolicited =
        nd((mac(2), MacAddr::of_ipv6_multicast(all)), (v6(2), all), 136, v6(2), Some((2, mac(2))));
    assert_eq!(rig.places(port(2), &unsolicited), [port(3), port(4)]);
    rig.send(port(2), &announcement);
    rig.dies(port(2), &announcement, Reason::FloodLimit);
}

#[test]
fn answers_are_limited() {
    let mut rig = Rig::new(&mut Lab::small());
    let answered = (0..1500).filter(|_| arp_answer(&mut rig, port(2), 2, v4(3)).is_some()).count();
    assert_eq!(answered, 1000);
    assert_eq!(rig.reasons(), [(Reason::PuntLimit, 500)]);
    assert!(arp_answer(&mut rig, port(3), 3, v4(2)).is_some());
}

#[test]
fn vlans_keep_their_questions_to_themselves() {
    let mut lab = Lab::small();
    lab.ports[3].as_mut().unwrap().tag = vlan(10);
    lab.ports[4].as_mut().unwrap().trunks = vec![vlan(10).unwrap()];
    let mut rig = Rig::new(&mut lab);
    assert_eq!(arp_answer(&mut rig, port(2), 2, v4(3)), None);
    assert_eq!(arp_answer(&mut rig, port(3), 3, v4(1)), None, "the router is in the untagged VLAN");
    let question = arp((mac(40), EVERYONE), 1, (mac(40), v4(40)), (MacAddr::ZERO, v4(3)));
    let sent = rig.one(port(4), &tagged(&question, 0x8100, 10));
    assert_eq!((sent.to, sent.headers().tci), (port(4), Some(10)), "the answer goes back by the same VLAN");
    assert_eq!(sent.headers().arp(&sent.bytes).unwrap().sender_mac, mac(3));
}

#[test]
fn the_switch_answers_echo_where_no_node_does() {
    let mut rig = Rig::new(&mut Lab::small());
    let mut request = Vec::new();
    etherparse::PacketBuilder::ethernet2(mac(2).0, ROUTER.0)
        .ipv4(v4(2).octets(), v4(1).octets(), 9)
        .icmpv4_echo_request(7, 8)
        .write(&mut request, b"ping")
        .unwrap();
    let reply = rig.one(port(2), &request);
    etherparse_accepts(&reply.bytes);
    assert_eq!((reply.to, reply.ip()), (port(2), (v4(1).into(), IpAddr::from(v4(2)))));
    assert_eq!((reply.headers().icmp_type, reply.headers().ttl), (0, 64));
    let request = icmp6((mac(2), ROUTER), v6(2), v6(1), (128, 9), &[0, 7, 0, 8, 1, 2, 3]);
    let reply = rig.one(port(2), &request);
    etherparse_accepts(&reply.bytes);
    assert_eq!((reply.headers().icmp_type, reply.ip().1), (129, IpAddr::from(v6(2))));
    // By a tunnel too, with the MACs of the tunnel.
    let request = icmp6((vtep(0), VTEP), remote_v6(0, 5), v6(1), (128, 9), &[0, 7, 0, 8]);
    let reply = rig.one(peer(0), &request);
    assert_eq!((reply.to, reply.headers().dst, reply.headers().src), (peer(0), vtep(0), VTEP));
    rig.dies(port(2), &udp((mac(2), ROUTER), v4(2), v4(1), 10), Reason::NoNeighbour);
}
