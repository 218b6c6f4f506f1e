//! Routing: the way of each kind of next hop, what is refused, and what the sender hears.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_encap::{MacAddr, Reason, icmp, icmpv6};

use super::frames::*;
use super::lab::*;
use crate::table::{Neighbour, NextHop, PortSlot};

fn rig() -> Rig {
    Rig::new(&mut Lab::small())
}

/// Both families of an address pair.
fn pairs(n: u8) -> [(IpAddr, IpAddr); 2] {
    [(v4(2).into(), remote_v4(0, n).into()), (v6(2).into(), remote_v6(0, n).into())]
}

#[test]
fn to_a_peer_and_back() {
    let mut rig = rig();
    for (src, dst) in pairs(5) {
        for _ in 0..2 {
            let sent = rig.one(port(2), &udp((mac(2), ROUTER), src, dst, 10));
            let headers = sent.headers();
            assert_eq!((sent.to, headers.dst, headers.src, headers.ttl), (peer(0), vtep(0), VTEP, 63));
            let sent = rig.one(peer(0), &udp((vtep(0), VTEP), dst, src, 10));
            let headers = sent.headers();
            assert_eq!((sent.to, headers.dst, headers.src, headers.ttl), (port(2), mac(2), ROUTER, 63));
        }
    }
    assert_eq!(rig.hits(), 4);
    let broadcast = udp((vtep(0), MacAddr::BROADCAST), remote_v4(0, 5), v4(2), 10);
    assert_eq!(rig.one(peer(0), &broadcast).to, port(2));
}

#[test]
fn a_peer_may_not_speak_for_others() {
    let mut rig = rig();
    let from = |src: IpAddr| udp((vtep(0), VTEP), src, v4(2), 10);
    assert_eq!(rig.one(peer(0), &from(remote_v4(0, 0).into())).to, port(2), "the peer's own address");
    assert_eq!(rig.one(peer(0), &from(Ipv4Addr::new(192, 0, 2, 7).into())).to, port(2), "a service's client");
    for src in [v4(3), v4(1), v4(77), remote_v4(1, 5)] {
        rig.dies(peer(0), &from(src.into()), Reason::GuardIp);
    }
    rig.dies(peer(0), &udp((vtep(0), mac(2)), remote_v4(0, 5), v4(2), 10), Reason::NotForRouter);
    rig.dies(
        peer(0),
        &arp((vtep(0), VTEP), 1, (vtep(0), remote_v4(0, 1)), (VTEP, v4(1))),
        Reason::NotForRouter,
    );
    // Neither back to the same peer, nor dead when it goes on to another.
    rig.dies(peer(0), &udp((vtep(0), VTEP), remote_v4(0, 5), remote_v4(0, 6), 10), Reason::SamePort);
    assert_eq!(rig.one(peer(0), &udp((vtep(0), VTEP), remote_v4(0, 5), remote_v4(1, 6), 10)).to, peer(1));
}

#[test]
fn between_local_ports_and_hairpin() {
    let mut lab = Lab::small();
    lab.neighbours.insert(v4(41).into(), Neighbour { port: PortSlot(4), mac: mac(41) });
    lab.neighbours.insert(v4(42).into(), Neighbour { port: PortSlot(4), mac: mac(42) });
    let mut rig = Rig::new(&mut lab);
    let sent = rig.one(port(2), &udp((mac(2), ROUTER), v4(2), v4(3), 10));
    assert_eq!((sent.to, sent.headers().dst), (port(3), mac(3)));
    let sent = rig.one(port(4), &udp((mac(41), ROUTER), v4(41), v4(42), 10));
    assert_eq!((sent.to, sent.headers().dst, sent.headers().src), (port(4), mac(42), ROUTER));
}

#[test]
fn the_node_owns_the_gateway_and_is_the_way_out() {
    let mut lab = Lab::small();
    lab.host(1);
    let mut rig = Rig::new(&mut lab);
    for (src, gateway, outside) in [
        (IpAddr::from(v4(2)), IpAddr::from(v4(1)), IpAddr::from([8, 8, 8, 8])),
        (v6(2).into(), v6(1).into(), "2001:db8::8".parse().unwrap()),
    ] {
        let sent = rig.one(port(2), &udp_ports((mac(2), ROUTER), src, gateway, (1, 2), 1, 10));
        assert_eq!((sent.to, sent.headers().dst, sent.headers().ttl), (port(1), mac(1), 1), "has arrived");
        let sent = rig.one(port(2), &udp((mac(2), ROUTER), src, outside, 10));
        assert_eq!((sent.to, sent.headers().dst, sent.headers().ttl), (port(1), mac(1), 63));
        // What the node sends to where only the node would be the way loops no further than here.
        let sent = rig.dies(port(1), &udp((mac(1), ROUTER), gateway, outside, 10), Reason::NoRoute);
        assert_eq!((sent.len(), sent[0].ip()), (1, (outside, gateway)), "not from the node's own address");
    }
    let sent = rig.one(port(1), &udp((mac(1), ROUTER), v4(1), remote_v4(1, 9), 10));
    assert_eq!((sent.to, sent.headers().dst), (peer(1), vtep(1)));
    assert_eq!(rig.one(peer(1), &udp((vtep(1), VTEP), remote_v4(1, 9), v4(1), 10)).to, port(1));
    rig.dies(port(1), &udp((mac(1), ROUTER), v4(1), v4(1), 10), Reason::SamePort);
}

#[test]
fn errors_are_told() {
    let mut lab = Lab::small();
    lab.ports[4] = None;
    lab.routes.push(("203.0.113.0/24".parse().unwrap(), NextHop::Unreachable));
    let mut rig = Rig::new(&mut lab);
    let check = |rig: &mut Rig, frame: &[u8], reason, kind: u8, code: u8| {
        let sent = rig.dies(port(2), frame, reason);
        assert_eq!(sent.len(), 1, "{reason}");
        let headers = sent[0].headers();
        assert_eq!((sent[0].to, headers.dst, headers.src), (port(2), mac(2), ROUTER));
        assert_eq!((headers.icmp_type, headers.icmp_code), (kind, code));
        let (src, dst) = sent[0].ip();
        assert_eq!(dst, weft_encap::parse(frame).unwrap().ip(frame).unwrap().0);
        assert_eq!(src, if dst.is_ipv4() { v4(1).into() } else { IpAddr::from(v6(1)) });
        etherparse_accepts(&sent[0].bytes);
    };
    let dying = |src: IpAddr, dst: IpAddr| udp_ports((mac(2), ROUTER), src, dst, (1, 2), 1, 10);
    check(&mut rig, &dying(v4(2).into(), remote_v4(0, 5).into()), Reason::Ttl, icmp::TIME_EXCEEDED, 0);
    check(&mut rig, &dying(v6(2).into(), remote_v6(0, 5).into()), Reason::Ttl, icmpv6::TIME_EXCEEDED, 0);
    let to = |src: IpAddr, dst: IpAddr| udp((mac(2), ROUTER), src, dst, 10);
    let unreachable = (icmp::UNREACHABLE, icmpv6::UNREACHABLE);
    check(&mut rig, &to(v4(2).into(), [8, 8, 8, 8].into()), Reason::NoRoute, unreachable.0, icmp::CODE_NET);
    check(
        &mut rig,
        &to(v4(2).into(), [203, 0, 113, 1].into()),
        Reason::NoRoute,
        unreachable.0,
        icmp::CODE_NET,
    );
    check(&mut rig, &to(v4(2).into(), v4(99).into()), Reason::NoNeighbour, unreachable.0, icmp::CODE_HOST);
    let far: Ipv6Addr = "2001:db8::1".parse().unwrap();
    check(&mut rig, &to(v6(2).into(), far.into()), Reason::NoRoute, unreachable.1, icmpv6::CODE_NO_ROUTE);
    check(
        &mut rig,
        &to(v6(2).into(), v6(99).into()),
        Reason::NoNeighbour,
        unreachable.1,
        icmpv6::CODE_ADDRESS,
    );
    // A cached flow's packet is refused all the same when its TTL runs out.
    rig.one(port(2), &to(v4(2).into(), remote_v4(0, 5).into()));
    let dying = udp_ports((mac(2), ROUTER), v4(2), remote_v4(0, 5), (4000, 5000), 1, 10);
    check(&mut rig, &dying, Reason::Ttl, icmp::TIME_EXCEEDED, 0);
}

/// A second opinion on the whole packet, checksums included.
pub(super) fn etherparse_accepts(bytes: &[u8]) {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};
    let packet = SlicedPacket::from_ethernet(bytes).unwrap();
    match (packet.net.unwrap(), packet.transport) {
        (NetSlice::Ipv4(ip), Some(TransportSlice::Icmpv4(icmp))) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(icmp.header().checksum, icmp.icmp_type().calc_checksum(icmp.payload()));
        }
        (NetSlice::Ipv6(ip), Some(TransportSlice::Icmpv6(icmp))) => {
            let (src, dst) = (ip.header().source(), ip.header().destination());
            assert!(icmp.is_checksum_valid(src, dst));
        }
        _ => {}
    }
}

#[test]
fn errors_are_limited_and_not_answered_in_kind() {
    let mut rig = rig();
    let frame = udp((mac(2), ROUTER), v4(2), Ipv4Addr::new(8, 8, 8, 8), 10);
    let told = (0..1000).filter(|_| !rig.send(port(2), &frame).is_empty()).count();
    assert_eq!(told, 200);
    assert_eq!(rig.reasons(), [(Reason::NoRoute, 200), (Reason::PuntLimit, 800)]);
    let other = udp((mac(3), ROUTER), v4(3), Ipv4Addr::new(8, 8, 8, 8), 10);
    assert_eq!(rig.send(port(3), &other).len(), 1, "another port has its own limit");
    rig.advance(1);
    let error = icmp4((mac(2), ROUTER), v4(2), Ipv4Addr::new(8, 8, 8, 8), 3, 1);
    assert_eq!(rig.dies(port(2), &error, Reason::NoRoute), []);
}

#[test]
fn martians_are_not_routed() {
    let mut lab = Lab::small();
    lab.host(1);
    let mut rig = Rig::new(&mut lab);
    let to = |src: IpAddr, dst: IpAddr| udp((mac(40), ROUTER), src, dst, 10);
    let (good, good6) = (IpAddr::from(v4(40)), IpAddr::from(v6(40)));
    for bad in ["127.0.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "169.254.1.1"] {
        let bad: IpAddr = bad.parse().unwrap();
        rig.dies(port(4), &to(bad, [8, 8, 8, 8].into()), Reason::Martian);
        rig.dies(port(4), &to(good, bad), Reason::Martian);
    }
    for bad in ["::", "::1", "ff02::1", "ff0e::1", "fe80::1", "::ffff:10.0.0.1"] {
        let bad: IpAddr = bad.parse().unwrap();
        rig.dies(port(4), &to(bad, "2001:db8::8".parse().unwrap()), Reason::Martian);
        rig.dies(port(4), &to(good6, bad), Reason::Martian);
    }
    rig.dies(port(4), &to([127, 0, 0, 1].into(), v4(1).into()), Reason::Martian);
}

#[test]
fn tagged_ports_and_the_router_are_strangers() {
    let mut lab = Lab::small();
    lab.ports[3].as_mut().unwrap().tag = vlan(10);
    lab.ports[4] = None;
    let mut rig = Rig::new(&mut lab);
    rig.dies(port(2), &udp((mac(2), ROUTER), v4(2), v4(3), 10), Reason::NoNeighbour);
    rig.dies(peer(0), &udp((vtep(0), VTEP), remote_v4(0, 5), v4(3), 10), Reason::NoNeighbour);
    rig.dies(port(3), &udp((mac(3), ROUTER), v4(3), v4(2), 10), Reason::NoNeighbour);
}

#[test]
fn hidden_neighbours_are_asked_for_and_learned() {
    let mut lab = Lab::small();
    lab.routes.push(("203.0.113.0/24".parse().unwrap(), NextHop::Gateway(v4(50).into())));
    let mut rig = Rig::new(&mut lab);
    let frame = udp((mac(2), ROUTER), v4(2), Ipv4Addr::new(203, 0, 113, 9), 10);
    let question = rig.dies(port(2), &frame, Reason::NoNeighbour).remove(0);
    assert_eq!(question.to, port(4));
    let packet = *question.headers().arp(&question.bytes).unwrap();
    assert_eq!((packet.sender_mac, packet.sender(), packet.target()), (ROUTER, v4(1), v4(50)));
    assert_eq!(rig.dies(port(2), &frame, Reason::NoNeighbour), [], "asked once a second");
    rig.silent(port(4), &arp((mac(50), ROUTER), 2, (mac(50), v4(50)), (ROUTER, v4(1))));
    for _ in 0..2 {
        let sent = rig.one(port(2), &frame);
        assert_eq!((sent.to, sent.headers().dst), (port(4), mac(50)));
    }
    assert_eq!(rig.hits(), 1);
    // Stale: still used, asked again; silent for too long: gone.
    rig.advance(61);
    rig.forwarder.tick(&rig.snapshot, rig.now_ns);
    assert_eq!(rig.places(port(2), &frame), [port(4), port(4)]);
    rig.advance(120);
    rig.forwarder.tick(&rig.snapshot, rig.now_ns);
    rig.dies(port(2), &frame, Reason::NoNeighbour);
    // IPv6 likewise.
    let frame = udp((mac(2), ROUTER), v6(2), v6(50), 10);
    let question = rig.dies(port(2), &frame, Reason::NoNeighbour).remove(0);
    assert_eq!(question.headers().neighbour(&question.bytes).unwrap().target(), v6(50));
    rig.silent(port(4), &nd((mac(50), ROUTER), (v6(50), v6(1)), 136, v6(50), Some((2, mac(50)))));
    assert_eq!(rig.one(port(2), &frame).to, port(4));
}
