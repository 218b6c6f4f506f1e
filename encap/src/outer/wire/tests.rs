use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::*;
use crate::support::Spec;
use crate::{Vni, checksum};

const HOP: Hop = Hop { to: MacAddr([2, 0, 0, 0, 0, 2]), from: MacAddr([2, 0, 0, 0, 0, 1]) };

fn outer(v6: bool) -> Outer {
    let (source, destination) = match v6 {
        true => ("[2001:db8::1]:40000", "[2001:db8::2]:4789"),
        false => ("192.0.2.1:40000", "192.0.2.2:4789"),
    };
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    Outer { source, destination, tos: 2, id: 77, vni: Vni::new(0x12_3456).unwrap() }
}

/// The packet, and the inner frame.
fn sent(v6: bool, payload: usize) -> (Vec<u8>, Vec<u8>) {
    let inner = Spec::tcp4((0..payload).map(|byte| byte as u8).collect()).build();
    let outer = outer(v6);
    let mut frame = [vec![0xaa; outer.wire_len()], inner.clone()].concat();
    assert!(outer.complete(&mut frame, HOP));
    (frame, inner)
}

#[test]
fn what_is_sent_is_what_another_implementation_reads() {
    for (v6, payload) in [(false, 0), (false, 1), (false, 1300), (true, 0), (true, 1301), (true, 8800)] {
        let (frame, inner) = sent(v6, payload);
        let packet = SlicedPacket::from_ethernet(&frame).unwrap();
        let ethernet = packet.link.unwrap().to_header().unwrap().ethernet2().unwrap().clone();
        assert_eq!((ethernet.destination, ethernet.source), (HOP.to.0, HOP.from.0));
        let udp = match packet.transport.unwrap() {
            TransportSlice::Udp(udp) => udp,
            other => panic!("{other:?}"),
        };
        assert_eq!((udp.source_port(), udp.destination_port()), (40_000, 4789));
        let (vni, carried) = vxlan::pop(udp.payload()).unwrap();
        assert_eq!((vni.get(), carried), (0x12_3456, &inner[..]));
        let right = match packet.net.unwrap() {
            NetSlice::Ipv4(slice) => {
                let header = slice.header().to_header();
                assert_eq!(header.header_checksum, header.calc_header_checksum());
                assert_eq!(
                    (header.identification, header.dont_fragment, header.time_to_live),
                    (77, false, 64)
                );
                assert_eq!(header.ecn.value(), 2);
                udp.to_header().calc_checksum_ipv4(&header, udp.payload())
            }
            NetSlice::Ipv6(slice) => {
                let header = slice.header().to_header();
                assert_eq!((header.traffic_class, header.hop_limit), (2, 64));
                udp.to_header().calc_checksum_ipv6(&header, udp.payload())
            }
            NetSlice::Arp(_) => panic!("no IP"),
        };
        assert_eq!(udp.checksum(), right.unwrap());
    }
}

#[test]
fn what_was_sent_arrives() {
    for v6 in [false, true] {
        let (frame, inner) = sent(v6, 1200);
        let came = arrival(&frame, HOP.to).unwrap();
        let outer = outer(v6);
        assert_eq!((came.from, came.to, came.tos), (outer.source.ip(), outer.destination, 2));
        assert_eq!(&frame[came.datagram.clone()][vxlan::LEN..], inner);
        // What a wire pads is not of it.
        let padded = [&frame[..], &[0; 9]].concat();
        assert_eq!(arrival(&padded, HOP.to), Ok(came));
    }
}

#[test]
fn the_checksum_may_be_owed_or_left_out() {
    for (v6, at) in [(false, 40), (true, 60)] {
        let (mut frame, _) = sent(v6, 300);
        let len = (frame.len() - at + 6) as u32;
        let sum = match v6 {
            false => pseudo_v4([192, 0, 2, 1], [192, 0, 2, 2], proto::UDP, len),
            true => {
                let outer = outer(true);
                let octets = |address: SocketAddr| match address.ip() {
                    IpAddr::V6(ip) => ip.octets(),
                    IpAddr::V4(_) => panic!("IPv4"),
                };
                pseudo_v6(octets(outer.source), octets(outer.destination), proto::UDP, len)
            }
        };
        put16(&mut frame, at, sum.fold());
        assert!(arrival(&frame, HOP.to).is_ok());
        put16(&mut frame, at, 0);
        assert!(arrival(&frame, HOP.to).is_ok());
    }
}

/// As a kernel peer on a virtual link sends: the inner checksum owed, the outer one as if it were there.
#[test]
fn the_inner_checksum_may_be_owed_under_a_right_outer_one() {
    for (v6, payload) in [(false, 1200), (true, 1201), (false, 0)] {
        let (mut frame, _) = sent(v6, payload);
        let came = arrival(&frame, HOP.to).unwrap();
        let at = came.datagram.start + vxlan::LEN;
        let headers = parse(&frame[at..]).unwrap();
        checksum::owe(&mut frame[at..], &headers);
        assert_eq!(arrival(&frame, HOP.to), Ok(came), "IPv6 {v6}, {payload}");
        // What the outer one covers all the same.
        for byte in [at, at + 20] {
            let mut bad = frame.clone();
            bad[byte] ^= 4;
            assert!(arrival(&bad, HOP.to).is_err(), "byte {byte}");
        }
    }
}

#[test]
fn every_flipped_bit_of_a_packet_is_noticed() {
    for v6 in [false, true] {
        let (frame, _) = sent(v6, 40);
        for bit in 0..frame.len() * 8 {
            let (byte, mut bad) = (bit / 8, frame.clone());
            bad[byte] ^= 0x80 >> (bit % 8);
            // Unprotected: the sender's Ethernet address; over IPv6 flow label, traffic class, hop limit.
            let free = match (v6, byte) {
                (_, 6..12) | (true, 15..18 | 21) => true,
                (true, 14) => bit % 8 >= 4,
                _ => false,
            };
            assert_eq!(arrival(&bad, HOP.to).is_ok(), free, "IPv6 {v6}, bit {bit}");
        }
    }
}

#[test]
fn cut_packets_do_not_arrive() {
    for v6 in [false, true] {
        let (frame, _) = sent(v6, 40);
        for len in 0..frame.len() {
            assert!(arrival(&frame[..len], HOP.to).is_err());
        }
    }
}

#[test]
fn what_is_too_long_is_refused() {
    let outer = outer(false);
    assert!(!outer.complete(&mut vec![0; 14 + 65_536], HOP));
    assert!(outer.complete(&mut vec![0; 14 + 65_535], HOP));
    let mixed = Outer { source: "[::1]:1".parse().unwrap(), ..outer };
    assert!(!mixed.complete(&mut [0; 200], HOP));
}
