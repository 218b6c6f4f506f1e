//! Switching: learning, flooding, split horizon, VLANs.

use weft_encap::{MacAddr, Reason};

use super::frames::*;
use super::lab::*;
use crate::table::{FdbTarget, PortSlot};

fn other(macs: Macs) -> Vec<u8> {
    let mut frame = [macs.1.0, macs.0.0].concat();
    frame.extend([0x88, 0xb5]);
    frame.extend([1; 50]);
    frame
}

/// Unguarded ports 1 to 3 and a segment on port 4 with peers 0 and 1.
fn plain() -> Lab {
    let mut lab = Lab::new();
    lab.has_router = false;
    for n in 1..=3 {
        lab.open(n);
    }
    lab.segment(4, &[0, 1]);
    lab
}

#[test]
fn learns_floods_and_ages() {
    let mut rig = Rig::new(&mut plain());
    let there = other((mac(1), mac(2)));
    let back = other((mac(2), mac(1)));
    assert_eq!(rig.places(port(1), &there), [port(2), port(3), peer(0), peer(1)]);
    assert_eq!(rig.places(port(2), &back), [port(1)]);
    assert_eq!(rig.places(port(1), &there), [port(2)]);
    // The station moves.
    assert_eq!(rig.places(peer(1), &back), [port(1)]);
    assert_eq!(rig.places(port(1), &there), [peer(1)]);
    rig.dies(peer(1), &other((mac(9), mac(2))), Reason::SamePort);
    rig.dies(port(1), &other((mac(9), mac(1))), Reason::SamePort);
    rig.advance(301);
    assert_eq!(rig.places(port(1), &there).len(), 4, "forgotten");
    rig.forwarder.tick(&rig.snapshot, rig.now_ns);
    assert_eq!(rig.shared.fdb.len(), 1, "the sender alone is known");
}

#[test]
fn hits_keep_a_station_alive() {
    let mut rig = Rig::new(&mut plain());
    let (there, back) = (other((mac(1), mac(2))), other((mac(2), mac(1))));
    rig.send(port(1), &there);
    rig.send(port(2), &back);
    for _ in 0..10 {
        rig.advance(100);
        assert_eq!(rig.places(port(2), &back), [port(1)]);
        assert_eq!(rig.places(port(1), &there), [port(2)]);
        rig.forwarder.tick(&rig.snapshot, rig.now_ns);
    }
    assert!(rig.hits() >= 18);
}

#[test]
fn nothing_goes_from_peer_to_peer() {
    let mut rig = Rig::new(&mut plain());
    assert_eq!(rig.places(peer(0), &other((mac(7), MacAddr::BROADCAST))), [port(1), port(2), port(3)]);
    assert_eq!(rig.places(peer(0), &other((mac(7), mac(99)))), [port(1), port(2), port(3)]);
    rig.send(peer(1), &other((mac(8), MacAddr::BROADCAST)));
    rig.dies(peer(0), &other((mac(7), mac(8))), Reason::SamePort);
}

#[test]
fn declared_stations_never_move() {
    let mut lab = plain();
    lab.statics.insert((None, mac(2)), FdbTarget::Port(PortSlot(2)));
    let mut rig = Rig::new(&mut lab);
    rig.send(port(3), &other((mac(2), MacAddr::BROADCAST)));
    rig.send(peer(0), &other((mac(2), MacAddr::BROADCAST)));
    assert_eq!(rig.places(port(1), &other((mac(1), mac(2)))), [port(2)]);
    assert_eq!(rig.shared.fdb.len(), 1);
    // One that is declared later wins over what was learned, and over what was cached.
    rig.send(port(3), &other((mac(30), MacAddr::BROADCAST)));
    for _ in 0..2 {
        assert_eq!(rig.places(port(1), &other((mac(1), mac(30)))), [port(3)]);
    }
    lab.statics.insert((None, mac(30)), FdbTarget::Peer(PortSlot(4), crate::table::PeerSlot(1)));
    rig.snapshot = lab.snapshot();
    assert_eq!(rig.places(port(1), &other((mac(1), mac(30)))), [peer(1)]);
}

#[test]
fn control_addresses_stay_on_their_link() {
    let mut rig = Rig::new(&mut plain());
    for last in 0..16 {
        let stp = other((mac(1), MacAddr([1, 0x80, 0xc2, 0, 0, last])));
        rig.dies(port(1), &stp, Reason::ReservedMac);
    }
    assert_eq!(rig.places(port(1), &other((mac(1), MacAddr([1, 0x80, 0xc2, 0, 0, 16])))).len(), 4);
}

#[test]
fn floods_are_limited_per_port() {
    let mut lab = plain();
    lab.ports[1].as_mut().unwrap().flood_pps = 10;
    let mut rig = Rig::new(&mut lab);
    let flood = other((mac(1), MacAddr::BROADCAST));
    let passed = (0..100).filter(|_| !rig.send(port(1), &flood).is_empty()).count();
    assert_eq!(passed, 10);
    assert_eq!(rig.reasons(), [(Reason::FloodLimit, 90)]);
    assert_eq!(
        rig.places(port(2), &other((mac(2), MacAddr::BROADCAST))).len(),
        4,
        "others are not concerned"
    );
    assert_eq!(rig.places(port(2), &other((mac(2), mac(1)))), [port(1)], "nor is known unicast");
}

#[test]
fn a_flooded_superframe_counts_as_its_segments() {
    use weft_encap::{Gso, VnetHdr, checksum, parse};
    let mut lab = plain();
    lab.ports[1].as_mut().unwrap().flood_pps = 10;
    let mut rig = Rig::new(&mut lab);
    let mut frame = udp((mac(1), MacAddr::BROADCAST), v4(1), v4(255), 4000);
    let headers = parse(&frame).unwrap();
    checksum::owe(&mut frame, &headers);
    let vnet = VnetHdr::describe(&headers, Gso::Udp { size: 200 }, true);
    assert_eq!(rig.send_with(port(1), &frame, vnet).len(), 4);
    rig.advance(1);
    assert!(rig.send_with(port(1), &frame, vnet).is_empty(), "twenty frames are two seconds' worth");
    rig.advance(1);
    assert_eq!(rig.send_with(port(1), &frame, vnet).len(), 4);
}

#[test]
fn unknown_unicast_spares_ports_whose_station_is_known() {
    let mut lab = Lab::small();
    lab.host(1);
    let mut rig = Rig::new(&mut lab);
    assert_eq!(rig.places(port(2), &udp((mac(2), mac(99)), v4(2), v4(99), 10)), [port(4)]);
    lab.ports[4] = None;
    rig.snapshot = lab.snapshot();
    rig.dies(port(2), &udp((mac(2), mac(99)), v4(2), v4(99), 10), Reason::NoNeighbour);
}

#[test]
fn vlan_matrix() {
    let mut lab = Lab::new();
    lab.has_router = false;
    // 1, 2: access 10; 3: access 20; 4: trunk of 10 and 20; 5: untagged; 6: untagged and 20.
    for (n, tag, trunks) in [
        (1, Some(10), vec![]),
        (2, Some(10), vec![]),
        (3, Some(20), vec![]),
        (4, None, vec![10, 20]),
        (5, None, vec![]),
        (6, None, vec![20]),
    ] {
        let port = lab.open(n);
        port.tag = tag.and_then(vlan);
        port.trunks = trunks.into_iter().filter_map(vlan).collect();
    }
    let mut rig = Rig::new(&mut lab);
    let flood = |n| other((mac(n), MacAddr::BROADCAST));
    let tags = |rig: &mut Rig, from, bytes: &[u8]| -> Vec<(u16, Option<u16>)> {
        let sent = rig.send(port(from), bytes);
        sent.iter()
            .map(|sent| match sent.to {
                crate::mem::Ingress::Port(slot) => (slot.0, sent.headers().tci),
                crate::mem::Ingress::Peer(_) => panic!("no peers here"),
            })
            .collect()
    };
    assert_eq!(tags(&mut rig, 1, &flood(1)), [(2, None), (4, Some(10))]);
    assert_eq!(tags(&mut rig, 3, &flood(3)), [(4, Some(20)), (6, Some(20))]);
    assert_eq!(tags(&mut rig, 4, &tagged(&flood(4), 0x8100, 10)), [(1, None), (2, None)]);
    assert_eq!(tags(&mut rig, 4, &tagged(&flood(4), 0x8100, 0xa014)), [(3, None), (6, Some(0xa014))]);
    assert_eq!(tags(&mut rig, 5, &flood(5)), [(4, None), (6, None)]);
    rig.dies(port(4), &tagged(&flood(4), 0x8100, 30), Reason::Vlan);
    rig.dies(port(1), &tagged(&flood(1), 0x8100, 10), Reason::Vlan);
    // Unicast, twice each: decided, then cached. Checksums and offloads survive the move of the headers.
    for _ in 0..2 {
        assert_eq!(tags(&mut rig, 2, &other((mac(2), mac(1)))), [(1, None)]);
        assert_eq!(tags(&mut rig, 2, &other((mac(2), mac(4)))), [(4, Some(10))]);
        assert_eq!(tags(&mut rig, 4, &tagged(&other((mac(4), mac(3))), 0x8100, 20)), [(3, None)]);
    }
    assert!(rig.hits() >= 3);
    // The same MAC in another VLAN is another station.
    assert_eq!(tags(&mut rig, 3, &other((mac(3), mac(1)))), [(4, Some(20)), (6, Some(20))]);
}

#[test]
fn the_vnet_header_follows_the_tag() {
    use weft_encap::{Gso, VnetHdr, checksum, parse};
    let mut lab = Lab::new();
    lab.open(1).tag = vlan(10);
    lab.open(2).trunks = vec![vlan(10).unwrap()];
    let mut rig = Rig::new(&mut lab);
    let mut frame = tcp((mac(1), mac(2)), v4(1), v4(2), 3000);
    let headers = parse(&frame).unwrap();
    checksum::owe(&mut frame, &headers);
    let vnet = VnetHdr::describe(&headers, Gso::Tcp { size: 1000 }, true);
    let pushed = rig.send_with(port(1), &frame, vnet).remove(0);
    assert_eq!(pushed.headers().tci, Some(10));
    assert_eq!(pushed.vnet.csum_start, vnet.csum_start + 4);
    assert_eq!(pushed.vnet.validate(&pushed.headers()), Ok(Gso::Tcp { size: 1000 }));
    let back = tagged(&tcp((mac(2), mac(1)), v4(2), v4(1), 3000), 0x8100, 10);
    let headers = parse(&back).unwrap();
    let mut back = back;
    checksum::owe(&mut back, &headers);
    let vnet = VnetHdr::describe(&headers, Gso::Tcp { size: 1000 }, true);
    let popped = rig.send_with(port(2), &back, vnet).remove(0);
    assert_eq!((popped.to, popped.headers().tci), (port(1), None));
    assert_eq!(popped.vnet.validate(&popped.headers()), Ok(Gso::Tcp { size: 1000 }));
}
