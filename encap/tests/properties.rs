//! Properties over random, mutated and hostile bytes, with etherparse and smoltcp as oracles.

mod support;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;
use support::{Spec, checksums_hold, spec};
use weft_encap::checksum::{self, State};
use weft_encap::gro::{Gro, MAX_FRAME, Push, superframe};
use weft_encap::gso::{Plan, cut};
use weft_encap::{
    Fragment, Gso, Headers, L3, L4, MacAddr, VnetHdr, ack, build, edit, flow, frag, parse, vxlan,
};

fn config() -> ProptestConfig {
    ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() }
}

fn bytes(max: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..max)
}

/// A good frame with some bytes changed and the end cut off or padded.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let edits = prop::collection::vec((0usize..80, any::<u8>()), 0..6);
    (spec(bytes(200)), edits, 0usize..90, 0usize..40, any::<bool>()).prop_map(
        |(spec, edits, keep, pad, cut)| {
            let mut frame = spec.build();
            for (at, value) in edits {
                if let Some(byte) = frame.get_mut(at) {
                    *byte = value;
                }
            }
            if cut {
                frame.truncate(keep);
            }
            frame.extend(std::iter::repeat_n(0, pad));
            frame
        },
    )
}

/// Frames that try every branch: IPv6 extension chains with plausible numbers.
fn extension_soup() -> impl Strategy<Value = Vec<u8>> {
    let numbers = prop::sample::select(vec![0u8, 6, 17, 43, 44, 51, 58, 59, 60]);
    let header = (numbers, 0u8..4, any::<u8>(), 0u8..2, any::<u32>());
    (prop::collection::vec(header, 1..12), bytes(60)).prop_map(|(headers, tail)| {
        let mut body = vec![];
        for (next, len, kind, left, word) in &headers[1..] {
            let len = if *next == 44 { 0 } else { *len };
            body.extend([*next, len, *kind, *left]);
            body.extend(word.to_be_bytes());
            body.extend(vec![0; usize::from(len) * 8]);
        }
        body.extend(tail);
        let mut frame = Spec::udp4(vec![]).v6().build()[..54].to_vec();
        frame[18..20].copy_from_slice(&(body.len() as u16).to_be_bytes());
        frame[20] = headers[0].0;
        frame.extend(body);
        frame
    })
}

fn vnet() -> impl Strategy<Value = VnetHdr> {
    let types = prop::sample::select(vec![0u8, 1, 3, 4, 5, 0x81, 0x84, 0x85, 0x80, 0x20]);
    let offsets = prop::sample::select(vec![0u16, 14, 34, 38, 54, 58, 65535]);
    let fields = prop::sample::select(vec![6u16, 16, 0, 2, 65535]);
    (0u8..8, types, any::<u16>(), prop_oneof![0u16..200, any::<u16>()], offsets, fields).prop_map(
        |(flags, gso_type, hdr_len, gso_size, csum_start, csum_offset)| VnetHdr {
            flags,
            gso_type,
            hdr_len: hdr_len % 100,
            gso_size,
            csum_start,
            csum_offset,
            num_buffers: 0,
        },
    )
}

/// Everything that may be done with a frame, to show that none of it panics.
fn exercise(frame: &[u8], vnet: &VnetHdr) {
    let Ok(headers) = parse(frame) else { return };
    check_bounds(frame, &headers);
    flow::FlowKey::new(1, 0, &headers, frame);
    flow::flow_hash(&headers, frame);
    let state = checksum::state(frame, &headers);
    let mut copy = frame.to_vec();
    checksum::complete(&mut copy, &headers);
    if headers.l4 != L4::None && !headers.is_fragment() && !headers.source_routed {
        assert!(matches!(checksum::state(&copy, &headers), State::Verified | State::NoChecksum), "{state:?}");
    }
    let _ = { *vnet }.admit(&mut frame.to_vec(), &headers);
    let mut out = vec![0; 70_000];
    if let Ok(gso) = vnet.validate(&headers)
        && let Ok(plan) = Plan::new(&headers, gso)
    {
        cut(frame, &headers, &plan, 0..plan.count(), 0, &mut vec![0; 200_000]).unwrap();
    }
    if let Ok(mut gro) = Gro::start(&mut out, frame, &headers) {
        gro.push(&mut out, frame, &headers);
        gro.finish(&mut out);
    }
    let _ = superframe(&mut frame.to_vec(), &headers, 100);
    let mtu = 100;
    if let Ok(mut fragments) = frag::fragments(frame, &headers, mtu) {
        while let Some(len) = fragments.next_into(&mut out) {
            let piece = parse(&out[..len]).unwrap_or_else(|reason| panic!("{reason} {frame:02x?}"));
            assert!(piece.l3_len() <= mtu);
        }
    }
    let mac = MacAddr([2, 0, 0, 0, 0, 0xfe]);
    for from in ["10.1.0.1".parse().unwrap(), "fd00::1".parse().unwrap()] {
        for problem in [build::error::Problem::TimeExceeded, build::error::Problem::TooBig { mtu: 1400 }] {
            if let Some(len) = build::error::error(&mut out, frame, &headers, problem, from, mac) {
                assert!(checksums_hold(&out[..len]));
                parse(&out[..len]).unwrap();
            }
        }
    }
    build::echo::reply(&mut out, frame, &headers);
    build::nd::answer(&mut out, frame, &headers, mac, true);
    headers.arp(frame).map(|arp| build::arp::answer(&mut out, arp, mac));
    let mut after = headers;
    let _ = edit::decrement_ttl(&mut copy, &mut after);
    edit::set_tos(&mut copy, &mut after, 0x2d);
    assert_eq!(parse(&copy).map(|h| (h.ttl, h.tos)).unwrap(), (after.ttl, after.tos));
}

fn check_bounds(frame: &[u8], h: &Headers) {
    let (l3, l4, payload) = (u32::from(h.l3_at), u32::from(h.l4_at), u32::from(h.payload_at));
    assert!(14 <= l3 && l3 <= l4 && l4 <= payload, "{h:?}");
    assert!(payload <= h.l4_end && h.l4_end <= h.l3_end && h.l3_end as usize <= frame.len(), "{h:?}");
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn nothing_panics_on_garbage(frame in bytes(300), vnet in vnet()) {
        exercise(&frame, &vnet);
        let _ = vxlan::pop(&frame);
    }

    #[test]
    fn nothing_panics_on_mutations(frame in mutated(), vnet in vnet()) {
        exercise(&frame, &vnet);
    }

    #[test]
    fn nothing_panics_on_extension_chains(frame in extension_soup(), vnet in vnet()) {
        exercise(&frame, &vnet);
    }

    #[test]
    fn parse_agrees_with_etherparse(frame in mutated()) {
        let (Ok(ours), Ok(theirs)) = (parse(&frame), SlicedPacket::from_ethernet(&frame)) else { return Ok(()) };
        match &theirs.net {
            Some(NetSlice::Ipv4(ip)) if ours.l3 == L3::V4 => {
                let header = ip.header();
                prop_assert_eq!(ours.v4(&frame).unwrap().0, header.source_addr());
                prop_assert_eq!((ours.ttl, ours.tos), (header.ttl(), header.dcp().value() << 2 | header.ecn().value()));
                prop_assert_eq!(ours.dont_fragment, header.dont_fragment());
                prop_assert_eq!(ours.more_fragments, header.more_fragments());
                prop_assert_eq!(ours.fragment_offset, header.fragments_offset().value() * 8);
            }
            Some(NetSlice::Ipv6(ip)) if ours.l3 == L3::V6 => {
                prop_assert_eq!(ours.v6(&frame).unwrap().1, ip.header().destination_addr());
                prop_assert_eq!((ours.ttl, ours.tos), (ip.header().hop_limit(), ip.header().traffic_class()));
            }
            _ => return Ok(()),
        }
        match theirs.transport {
            Some(TransportSlice::Tcp(tcp)) if ours.l4 == L4::Tcp => {
                prop_assert_eq!((ours.src_port, ours.dst_port), (tcp.source_port(), tcp.destination_port()));
                prop_assert_eq!(ours.payload(&frame), tcp.payload());
            }
            Some(TransportSlice::Udp(udp)) if ours.l4 == L4::Udp => {
                prop_assert_eq!((ours.src_port, ours.dst_port), (udp.source_port(), udp.destination_port()));
                prop_assert_eq!(ours.payload(&frame), udp.payload());
            }
            Some(TransportSlice::Icmpv4(icmp)) if ours.l4 == L4::Icmp => {
                prop_assert_eq!((ours.icmp_type, ours.icmp_code), (icmp.type_u8(), icmp.code_u8()));
            }
            Some(TransportSlice::Icmpv6(icmp)) if ours.l4 == L4::Icmpv6 => {
                prop_assert_eq!((ours.icmp_type, ours.icmp_code), (icmp.type_u8(), icmp.code_u8()));
            }
            // They also read ICMP over IPv6 and ICMPv6 over IPv4, which nobody speaks.
            Some(TransportSlice::Icmpv4(_)) if ours.l3 == L3::V6 => prop_assert_eq!(ours.l4, L4::None),
            Some(TransportSlice::Icmpv6(_)) if ours.l3 == L3::V4 => prop_assert_eq!(ours.l4, L4::None),
            // They look into no fragment and know fewer extension headers.
            None => prop_assert!(ours.l4 == L4::None || ours.fragment != Fragment::Whole, "{:?}", ours),
            other => prop_assert!(false, "{:?} is not {:?}", ours, other),
        }
    }

    #[test]
    fn good_frames_parse(spec in spec(bytes(100))) {
        let frame = spec.build();
        let headers = parse(&frame).unwrap();
        prop_assert_eq!(headers.vlan().map(|id| id.get()), spec.vlan);
        prop_assert_eq!(headers.payload(&frame), &spec.payload[..]);
        prop_assert_eq!((headers.src_port, headers.dst_port), spec.ports);
        prop_assert_eq!(checksum::state(&frame, &headers), State::Verified);
        prop_assert!(checksums_hold(&frame));
    }

    #[test]
    fn sums_agree_with_smoltcp(data in bytes(3000)) {
        // smoltcp has no public sum; an ICMP packet's verification is one.
        let mut packet = vec![8, 0, 0, 0, 0, 0, 0, 0];
        packet.extend(&data);
        let sum = checksum::Sum::of(&packet).finish();
        packet[2..4].copy_from_slice(&sum.to_be_bytes());
        prop_assert!(smoltcp::wire::Icmpv4Packet::new_checked(&packet[..]).unwrap().verify_checksum());
        let mut copy = vec![0; data.len()];
        prop_assert_eq!(checksum::copy_and_sum(&mut copy, &data).fold(), checksum::Sum::of(&data).fold());
        prop_assert_eq!(copy, data);
    }

    #[test]
    fn updates_equal_recomputation(mut data in prop::collection::vec(any::<u8>(), 64), new in any::<u128>()) {
        let before = checksum::Sum::of(&data).finish();
        let old: [u8; 16] = data[16..32].try_into().unwrap();
        data[16..32].copy_from_slice(&new.to_be_bytes());
        let after = checksum::Sum::of(&data);
        let updated = checksum::update128(before, old, new.to_be_bytes());
        // 0 and ffff are the same number.
        prop_assert!(after.add16(updated).is_valid() || (updated == 0 && after.fold() == 0xffff));
        let word = u32::from_be_bytes(data[40..44].try_into().unwrap());
        data[40..44].copy_from_slice(&(new as u32).to_be_bytes());
        let updated = checksum::update32(after.finish(), word, new as u32);
        prop_assert_eq!(updated % 0xffff, checksum::Sum::of(&data).finish() % 0xffff);
    }

    #[test]
    fn cut_pieces_are_right(
        spec in spec(prop::collection::vec(any::<u8>(), 1..6000)),
        size in 48u16..1500,
        prefix in 0usize..16,
    ) {
        let size = size.max((spec.payload.len() / 128 + 1) as u16);
        let (frame, headers, gso) = superframe_of(&spec, size);
        let plan = Plan::new(&headers, gso).unwrap();
        prop_assert_eq!(plan.count(), spec.payload.len().div_ceil(usize::from(size)));
        let mut out = vec![0xee; 200_000];
        let (mut first, mut seen) = (0, vec![]);
        while first < plan.count() {
            let count = plan.group(first, prefix, 3000, 5);
            prop_assert!((1..=5).contains(&count));
            let group = cut(&frame, &headers, &plan, first..first + count, prefix, &mut out).unwrap();
            prop_assert!(group.bytes() <= 3000);
            for index in 0..count {
                let piece = &out[group.range(index)];
                prop_assert!(piece[..prefix].iter().all(|byte| *byte == 0xee));
                let piece = &piece[prefix..];
                prop_assert!(checksums_hold(piece));
                let h = parse(piece).unwrap();
                prop_assert_eq!((h.src, h.dst, h.tci, h.ttl, h.tos), (headers.src, headers.dst, headers.tci, headers.ttl, headers.tos));
                prop_assert_eq!(h.l3_end as usize, piece.len());
                if spec.tcp {
                    let (is_first, is_last) = (first + index == 0, first + index + 1 == plan.count());
                    let mask = if is_first { 0xff } else { 0x7f } & if is_last { 0xff } else { !0x09 };
                    prop_assert_eq!(h.tcp_flags, spec.flags & mask);
                    let seq = u32::from_be_bytes(piece[usize::from(h.l4_at) + 4..][..4].try_into().unwrap());
                    prop_assert_eq!(seq, spec.seq.wrapping_add(seen.len() as u32));
                }
                seen.extend_from_slice(h.payload(piece));
            }
            out.fill(0xee);
            first += count;
        }
        prop_assert_eq!(seen, spec.payload);
    }

    #[test]
    fn cut_then_glue_is_the_original(
        spec in spec(prop::collection::vec(any::<u8>(), 200..6000)),
        size in 100u16..1500,
        owed in any::<bool>(),
    ) {
        // A push in the middle of what was one superframe cannot be; a lone last datagram of 64 is the limit.
        let size = size.max((spec.payload.len() / 64 + 1) as u16);
        let (frame, headers, gso) = superframe_of(&spec, size);
        let plan = Plan::new(&headers, gso).unwrap();
        let mut pieces = vec![0; 200_000];
        let group = cut(&frame, &headers, &plan, 0..plan.count(), 0, &mut pieces).unwrap();
        let mut buf = vec![0; MAX_FRAME];
        let mut gro: Option<Gro> = None;
        for index in 0..group.count {
            let piece = &mut pieces[group.range(index)];
            let h = parse(piece).unwrap();
            if owed && index % 2 == 0 {
                checksum::owe(piece, &h);
            }
            match &mut gro {
                None => gro = Some(Gro::start(&mut buf, piece, &h).unwrap()),
                Some(gro) => prop_assert_eq!(gro.push(&mut buf, piece, &h), Push::Merged),
            }
        }
        let gro = gro.unwrap();
        let vnet = gro.finish(&mut buf);
        let glued = &buf[..gro.len()];
        if plan.count() == 1 {
            let h = parse(glued).unwrap();
            prop_assert_eq!(vnet.needs_csum(), owed);
            prop_assert_eq!(h.payload(glued), &spec.payload[..]);
        } else {
            prop_assert_eq!(glued, &frame[..]);
            prop_assert_eq!(vnet, VnetHdr::describe(&headers, gso, true));
            prop_assert_eq!(vnet.validate(&headers), Ok(gso));
        }
    }

    #[test]
    fn a_corrupt_segment_is_dropped(spec in spec(prop::collection::vec(any::<u8>(), 8..300)), at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let mut frame = spec.build();
        let headers = parse(&frame).unwrap();
        let range = usize::from(headers.payload_at)..frame.len();
        frame[range.start + at.index(range.len())] ^= 1 << bit;
        // Unless the changed sum happens to be the bare pseudo-header's.
        let state = checksum::state(&frame, &headers);
        prop_assert!(state == State::Wrong || state == State::Owed);
    }

    #[test]
    fn fragments_reassemble(spec in spec(prop::collection::vec(any::<u8>(), 0..4000)), mtu in 68usize..1500) {
        let spec = Spec { v6: false, df: false, ip_options: vec![0x94, 4, 0, 0, 7, 3, 0, 0], ..spec };
        let frame = spec.build();
        let headers = parse(&frame).unwrap();
        let mut fragments = frag::fragments(&frame, &headers, mtu).unwrap();
        let (mut out, mut data, mut last_seen) = (vec![0; 1600], vec![], false);
        while let Some(len) = fragments.next_into(&mut out) {
            prop_assert!(!last_seen);
            let piece = &out[..len];
            let h = parse(piece).map_err(|reason| TestCaseError::fail(reason.name()))?;
            prop_assert!(h.l3_len() <= mtu);
            prop_assert_eq!(usize::from(h.fragment_offset), data.len());
            let options = &piece[usize::from(h.l3_at) + 20..usize::from(h.l4_at)];
            let expected: &[u8] = if data.is_empty() { &[0x94, 4, 0, 0, 7, 3, 0, 0] } else { &[0x94, 4, 0, 0] };
            prop_assert_eq!(options, expected);
            data.extend_from_slice(&piece[usize::from(h.l4_at)..]);
            last_seen = !h.more_fragments;
        }
        prop_assert!(last_seen);
        prop_assert_eq!(&data[..], &frame[usize::from(headers.l4_at)..]);
    }
}

/// The frame of `spec` as a superframe: owed checksum.
fn superframe_of(spec: &Spec, size: u16) -> (Vec<u8>, Headers, Gso) {
    let mut frame = spec.build();
    let headers = parse(&frame).unwrap();
    checksum::owe(&mut frame, &headers);
    let gso = if spec.tcp { Gso::Tcp { size } } else { Gso::Udp { size } };
    VnetHdr::describe(&headers, gso, true).validate(&headers).unwrap();
    (frame, headers, gso)
}

/// Two acknowledgments, or nearly, of one connection, or nearly.
fn acknowledgments() -> impl Strategy<Value = (Vec<u8>, Vec<u8>)> {
    let step = prop_oneof![0u32..4, any::<u32>(), (1u32 << 31) - 1..(1 << 31) + 2, Just(u32::MAX)];
    let edits = prop::collection::vec((0usize..90, any::<u8>()), 0..3);
    let is_edited = prop::bool::weighted(0.3);
    let kinds = (prop::bool::weighted(0.9), any::<bool>(), any::<[u8; 8]>());
    (spec(bytes(3)), kinds, step, any::<(u16, u16)>(), is_edited, edits).prop_map(
        |(spec, (is_pure, is_stamped, stamps), step, (id, window), is_edited, edits)| {
            let mut a = spec;
            if is_pure {
                (a.tcp, a.flags, a.payload) = (true, 0x10, vec![]);
                a.tcp_options = if is_stamped { [&[1, 1, 8, 10][..], &stamps].concat() } else { vec![] };
            }
            let mut b = Spec { ack: a.ack.wrapping_add(step), window, ..a.clone() };
            if !a.v6 {
                b.id = id;
            }
            let (a, mut b) = (a.build(), b.build());
            for (at, value) in edits.into_iter().filter(|_| is_edited) {
                if let Some(byte) = b.get_mut(at) {
                    *byte = value;
                }
            }
            (a, b)
        },
    )
}

/// What makes another needless is a later acknowledgment of the same connection, and nothing else.
#[test]
fn only_acknowledgments_of_more_supersede() {
    let hits = std::cell::Cell::new(0);
    let mut runner = proptest::test_runner::TestRunner::new(config());
    let result = runner.run(&acknowledgments(), |(a, b)| {
        let (Ok(ha), Ok(hb)) = (parse(&a), parse(&b)) else { return Ok(()) };
        for ((later, hl), (earlier, he)) in [((&b, &hb), (&a, &ha)), ((&a, &ha), (&b, &hb))] {
            if !ack::supersedes((later, hl), (earlier, he)) {
                continue;
            }
            hits.set(hits.get() + 1);
            prop_assert_eq!((hl.src, hl.dst, hl.tci), (he.src, he.dst, he.tci));
            prop_assert_eq!((hl.src_port, hl.dst_port), (he.src_port, he.dst_port));
            prop_assert_eq!(&later[..14], &earlier[..14]);
            for h in [hl, he] {
                prop_assert_eq!((h.l4, h.tcp_flags, h.payload_len()), (L4::Tcp, 0x10, 0));
            }
            let number = |frame: &[u8], h: &Headers| {
                let at = usize::from(h.l4_at) + 8;
                u32::from_be_bytes([frame[at], frame[at + 1], frame[at + 2], frame[at + 3]])
            };
            let more = number(later, hl).wrapping_sub(number(earlier, he));
            prop_assert!((1..1 << 31).contains(&more), "{} more", more);
        }
        Ok(())
    });
    result.unwrap();
    assert!(hits.get() > 500, "only {} pairs of which one supersedes the other", hits.get());
}
