//! Hostile bytes: nothing panics, no buffer is lost, and every frame that goes nowhere has one reason.

use proptest::prelude::*;
use weft_encap::{VnetHdr, parse};

use super::frames::*;
use super::lab::*;
use crate::mem::Ingress;

fn world() -> Lab {
    let mut lab = Lab::small();
    lab.host(1);
    lab.ports[4].as_mut().unwrap().trunks = vec![vlan(10).unwrap()];
    lab.segment(5, &[2]);
    lab
}

fn templates() -> Vec<Vec<u8>> {
    let macs = (mac(2), ROUTER);
    let all = "ff02::1".parse().unwrap();
    vec![
        udp(macs, v4(2), remote_v4(0, 5), 1500),
        may_fragment(udp(macs, v4(2), remote_v4(0, 5), 4000)),
        tcp(macs, v6(2), remote_v6(0, 5), 3000),
        icmp4(macs, v4(2), v4(1), 8, 0),
        arp((mac(2), weft_encap::MacAddr::BROADCAST), 1, (mac(2), v4(2)), (mac(0), v4(3))),
        nd(
            (mac(2), weft_encap::MacAddr::of_ipv6_multicast(all)),
            (v6(2), all),
            135,
            v6(3),
            Some((1, mac(2))),
        ),
        nd((mac(2), mac(3)), (v6(2), v6(3)), 136, v6(2), Some((2, mac(2)))),
        icmp6((mac(2), mac(3)), v6(2), v6(3), (133, 255), &[0; 4]),
        tagged(&udp((mac(2), mac(3)), v4(2), v4(3), 100), 0x8100, 10),
        udp((vtep(0), VTEP), remote_v4(0, 5), v4(2), 1600),
    ]
}

fn ingress() -> impl Strategy<Value = Ingress> {
    prop_oneof![(0u16..8).prop_map(port), (0u16..4).prop_map(peer)]
}

fn vnet() -> impl Strategy<Value = VnetHdr> {
    prop_oneof![
        Just(VnetHdr::NONE),
        any::<[u8; 12]>().prop_map(|bytes| VnetHdr::read(&bytes)),
        // Nearly right.
        (0u8..4, prop::sample::select(vec![0u8, 1, 3, 4, 5, 0x81]), any::<u16>(), any::<u16>(), 30u16..60)
            .prop_map(|(flags, gso_type, hdr_len, gso_size, csum_start)| VnetHdr {
                flags,
                gso_type,
                hdr_len: hdr_len % 100,
                gso_size,
                csum_start,
                csum_offset: if gso_type & 7 == 5 { 6 } else { 16 },
                num_buffers: 0,
            }),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    let mutated = (
        0usize..10,
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        any::<prop::sample::Index>(),
        any::<bool>(),
    )
        .prop_map(|(template, changes, cut, cuts)| {
            let mut frame = templates().swap_remove(template);
            for (at, byte) in changes {
                let at = at.index(frame.len().min(90));
                frame[at] = byte;
            }
            if cuts {
                frame.truncate(cut.index(frame.len()) + 1);
            }
            // Most mutations of IPv4 would die of the header checksum alone.
            if frame.len() > 34 && frame[12..14] == [8, 0] {
                weft_encap::ipv4::fill_checksum(&mut frame[14..34]);
            }
            frame
        });
    prop_oneof![1 => prop::collection::vec(any::<u8>(), 0..200), 4 => mutated]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]
    #[test]
    fn nothing_panics_and_nothing_is_lost(
        frames in prop::collection::vec((ingress(), bytes(), vnet()), 1..8),
    ) {
        let mut rig = Rig::new(&mut world());
        for (from, bytes, vnet) in frames {
            // The rig checks that every buffer comes back, and that headers are current.
            let drops = rig.dropped();
            let sent = rig.send_with(from, &bytes, vnet);
            for sent in &sent {
                let headers = parse(&sent.bytes);
                prop_assert!(headers.is_ok());
                prop_assert!(sent.vnet.validate(&headers.unwrap()).is_ok());
            }
            if parse(&bytes).is_err() {
                prop_assert_eq!((sent.len(), rig.dropped()), (0, drops + 1));
            }
        }
    }

    /// Whatever a guarded pod sends, what another port gets of it bears the pod's own addresses.
    #[test]
    fn no_forged_source_leaves_a_guarded_port(bytes in bytes(), vnet in vnet()) {
        let mut rig = Rig::new(&mut world());
        for sent in rig.send_with(port(2), &bytes, vnet) {
            let headers = sent.headers();
            if sent.to == port(2) {
                continue;
            }
            prop_assert!([mac(2), ROUTER, VTEP].contains(&headers.src));
            if let Some((src, _)) = headers.ip(&sent.bytes) {
                let is_link_local = matches!(src, std::net::IpAddr::V6(ip) if ip.is_unicast_link_local());
                let is_start = src.is_unspecified() && headers.l4 == weft_encap::L4::Icmpv6;
                let is_own = src == std::net::IpAddr::from(v4(2)) || src == std::net::IpAddr::from(v6(2));
                prop_assert!(is_own || is_link_local || is_start, "{src}");
            }
        }
    }
}
