//! Frames, virtio headers, superframes: the functions of `weft-encap`, alone and in the order in which a frame meets
//! them.

use weft_encap::build::{self, error::Problem};
use weft_encap::checksum::{self, State, Sum};
use weft_encap::gro::{Gro, MAX_FRAME, Push};
use weft_encap::gso::{Plan, cut};
use weft_encap::{Gso, Headers, L3, L4, MacAddr, VnetHdr, edit, flow, frag, parse, vnet as virtio};
use weft_switch::path::accelerate;

use crate::{record, take};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);

/// An Ethernet frame: what is read from it lies in it, and every change leaves a frame that reads as was meant.
pub fn frame(data: &[u8]) {
    accelerate();
    sums(data);
    let Ok(headers) = parse(data) else { return };
    check_bounds(data, &headers);
    // What lies behind the IP packet says nothing.
    let packet = &data[..headers.l3_end as usize];
    let again = parse(packet).expect("a frame parses without its padding");
    assert_eq!(Headers { l3_end: again.l3_end, ..headers }, again);
    let key = flow::FlowKey::new(1, 0, &headers, packet);
    assert!(key == flow::FlowKey::new(1, 0, &headers, packet), "a flow key depends on the frame alone");
    assert_eq!(flow::flow_hash(&headers, packet), flow::flow_hash(&headers, data));
    checksums(packet, &headers);
    edits(packet, &headers);
    fragments(packet, &headers);
    answers(packet, &headers);
}

/// 12 bytes of a virtio header and a frame, as a pod writes them: what is admitted can be cut, and cutting and gluing
/// keeps every byte.
pub fn vnet(mut data: &[u8]) {
    accelerate();
    let mut header = VnetHdr::read(&take(&mut data));
    assert_eq!(VnetHdr::read(&header.bytes()), header);
    let Ok(headers) = parse(data) else { return };
    let mut frame = data[..headers.l3_end as usize].to_vec();
    let Ok(gso) = header.admit(&mut frame, &headers) else { return };
    assert_eq!(parse(&frame), Ok(headers), "what is completed is no header");
    assert_eq!(header.validate(&headers), Ok(gso), "what was admitted is valid");
    let once = header;
    assert_eq!(header.admit(&mut frame.clone(), &headers), Ok(gso));
    assert_eq!(header, once, "admitted twice is admitted once");
    assert_eq!(gso == Gso::None, header.gso_type == virtio::GSO_NONE);
    let Ok(plan) = Plan::new(&headers, gso) else { return };
    let pieces = pieces(&frame, &headers, &plan);
    assert_eq!(pieces.len(), plan.count());
    assert_eq!(payloads(&pieces), headers.payload(&frame), "payload is cut, not changed");
    if gso == Gso::None {
        return;
    }
    for piece in &pieces {
        let h = parse(piece).expect("a piece parses");
        assert!(matches!(checksum::state(piece, &h), State::Verified), "{h:?}");
        assert!(h.l3_len() <= gso.l3_len(&headers));
        assert_eq!(
            (h.src, h.dst, h.tci, h.tos, h.ttl),
            (headers.src, headers.dst, headers.tci, headers.tos, headers.ttl)
        );
        assert_eq!((h.src_port, h.dst_port), (headers.src_port, headers.dst_port));
    }
    glued_is_whole(&frame, &headers, gso, &pieces);
}

/// Frames of a flow, or of several, in the order of arrival: what is glued is cut again into what came.
pub fn glue(mut data: &[u8]) {
    accelerate();
    let mut buf = vec![0; MAX_FRAME];
    let mut open: Option<(Gro, Vec<Vec<u8>>)> = None;
    while let Some(frame) = record(&mut data) {
        let Ok(headers) = parse(frame) else { continue };
        let packet = frame[..headers.l3_end as usize].to_vec();
        if let Some((gro, members)) = &mut open {
            match gro.push(&mut buf, frame, &headers) {
                Push::Merged => {
                    members.push(packet);
                    continue;
                }
                Push::Drop(_) => {
                    assert_eq!(checksum::state(frame, &headers), State::Wrong);
                    continue;
                }
                Push::Flush => {}
            }
        }
        if let Some((gro, members)) = open.take() {
            cut_again(&gro, &mut buf, &members);
        }
        open = Gro::start(&mut buf, frame, &headers).ok().map(|gro| (gro, vec![packet]));
    }
    if let Some((gro, members)) = open {
        cut_again(&gro, &mut buf, &members);
    }
}

/// A sum is that of its parts, which are too short here for vectors.
fn sums(data: &[u8]) {
    let plain = data.chunks(64).fold(Sum::ZERO, |sum, part| sum.add(part)).fold();
    assert_eq!(Sum::of(data).fold(), plain, "{} bytes", data.len());
    let mut copy = vec![0; data.len()];
    assert_eq!(checksum::copy_and_sum(&mut copy, data).fold(), plain, "{} bytes copied", data.len());
    assert_eq!(copy, data);
}

fn check_bounds(frame: &[u8], h: &Headers) {
    let (l3, l4, payload) = (u32::from(h.l3_at), u32::from(h.l4_at), u32::from(h.payload_at));
    assert!(14 <= l3 && l3 <= l4 && l4 <= payload, "{h:?}");
    assert!(payload <= h.l4_end && h.l4_end <= h.l3_end && h.l3_end as usize <= frame.len(), "{h:?}");
}

/// True for a frame whose checksum is looked at.
fn is_judged(headers: &Headers) -> bool {
    headers.l4 != L4::None && !headers.is_fragment() && !headers.source_routed
}

fn checksums(frame: &[u8], headers: &Headers) {
    let mut copy = frame.to_vec();
    checksum::complete(&mut copy, headers);
    assert_eq!(parse(&copy), Ok(*headers));
    if is_judged(headers) {
        assert!(
            matches!(checksum::state(&copy, headers), State::Verified | State::NoChecksum),
            "{headers:?}"
        );
        if matches!(headers.l4, L4::Tcp | L4::Udp) {
            checksum::owe(&mut copy, headers);
            let state = checksum::state(&copy, headers);
            // A sum of which nothing is missing reads as complete: a payload of zeros.
            assert!(matches!(state, State::Owed | State::Verified), "{state:?} {headers:?}");
            checksum::complete(&mut copy, headers);
            assert_eq!(checksum::state(&copy, headers), State::Verified);
        }
    }
}

fn edits(frame: &[u8], headers: &Headers) {
    let state = checksum::state(frame, headers);
    let (mut copy, mut after) = (frame.to_vec(), *headers);
    edit::set_macs(&mut copy, &mut after, MAC, MAC);
    edit::set_tos(&mut copy, &mut after, headers.tos ^ 3);
    let alive = edit::decrement_ttl(&mut copy, &mut after).is_ok();
    assert_eq!(parse(&copy), Ok(after), "an edit tells what it did");
    assert_eq!(checksum::state(&copy, &after), state, "none of these is in the sum");
    if alive && headers.is_ip() {
        assert_eq!(after.ttl + 1, headers.ttl);
    }
    if headers.tci.is_none() {
        let mut longer = vec![0; 4];
        longer.extend_from_slice(&copy);
        let delta = edit::push_vlan(&mut longer, 0x2007);
        let tagged = edit::moved(after, delta, Some(0x2007));
        assert_eq!(parse(&longer), Ok(tagged));
        let delta = edit::pop_vlan(&mut longer);
        assert_eq!(parse(&longer[4..]), Ok(edit::moved(tagged, delta, None)));
        assert_eq!(longer[4..], copy);
    }
}

fn fragments(frame: &[u8], headers: &Headers) {
    let mtu = 100;
    let Ok(mut fragments) = frag::fragments(frame, headers, mtu) else { return };
    let (mut out, mut whole) = (vec![0; 70_000], Vec::new());
    while let Some(len) = fragments.next_into(&mut out) {
        let piece = &out[..len];
        let h = parse(piece).expect("a fragment parses");
        assert!(h.l3_len() <= mtu, "{h:?}");
        whole.extend_from_slice(&piece[usize::from(h.l4_at)..h.l3_end as usize]);
    }
    assert_eq!(whole, frame[usize::from(headers.l4_at)..headers.l3_end as usize], "fragments are the packet");
}

fn answers(frame: &[u8], headers: &Headers) {
    let mut out = vec![0; 70_000];
    let good = |answer: &[u8]| {
        let h = parse(answer).expect("what the switch says parses");
        assert!(matches!(checksum::state(answer, &h), State::Verified | State::NoChecksum), "{h:?}");
        assert_eq!(h.l3_end as usize, answer.len());
    };
    for from in ["10.1.0.1".parse().expect("an address"), "fd00::1".parse().expect("an address")] {
        for problem in [Problem::TimeExceeded, Problem::TooBig { mtu: 1400 }] {
            if let Some(len) = build::error::error(&mut out, frame, headers, problem, from, MAC) {
                good(&out[..len]);
                assert!(len <= 14 + 4 + 1280, "an error fits every link");
            }
        }
    }
    if checksum::state(frame, headers) == State::Verified
        && let Some(len) = build::echo::reply(&mut out, frame, headers)
    {
        good(&out[..len]);
    }
    if let Some(len) = build::nd::answer(&mut out, frame, headers, MAC, true) {
        good(&out[..len]);
    }
    if let Some(len) = headers.arp(frame).and_then(|arp| build::arp::answer(&mut out, arp, MAC)) {
        let h = parse(&out[..len]).expect("an answer parses");
        assert!(h.arp(&out[..len]).is_some());
    }
}

/// All pieces of a plan, each a frame.
fn pieces(frame: &[u8], headers: &Headers, plan: &Plan) -> Vec<Vec<u8>> {
    let mut out = vec![0; plan.count() * plan.segment_len(0)];
    let segments =
        cut(frame, headers, plan, 0..plan.count(), 0, &mut out).expect("the buffer is long enough");
    (0..segments.count).map(|index| out[segments.range(index)].to_vec()).collect()
}

fn payloads(pieces: &[Vec<u8>]) -> Vec<u8> {
    let payload = |piece: &Vec<u8>| parse(piece).expect("a piece parses").payload(piece).to_vec();
    pieces.iter().flat_map(payload).collect()
}

/// Gluing the pieces gives the superframe back, where gluing is for such frames at all.
fn glued_is_whole(frame: &[u8], headers: &Headers, gso: Gso, pieces: &[Vec<u8>]) {
    let mut buf = vec![0; MAX_FRAME];
    let mut glued: Option<Gro> = None;
    for piece in pieces {
        let h = parse(piece).expect("a piece parses");
        match &mut glued {
            None => glued = Some(Gro::start(&mut buf, piece, &h).expect("a good frame starts")),
            Some(gro) => {
                if gro.push(&mut buf, piece, &h) != Push::Merged {
                    return;
                }
            }
        }
    }
    let Some(gro) = glued.filter(|gro| gro.count() > 1) else { return };
    let header = gro.finish(&mut buf);
    assert_eq!(header.validate(gro.headers()), Ok(gso));
    let whole = &buf[..gro.len()];
    let h = parse(whole).expect("a superframe parses");
    assert_eq!((h.payload(whole), h.l3_end), (headers.payload(frame), headers.l3_end));
}

/// Cuts what was glued and compares it with what came in.
fn cut_again(gro: &Gro, buf: &mut [u8], members: &[Vec<u8>]) {
    let header = gro.finish(buf);
    let glued = &buf[..gro.len()];
    let headers = parse(glued).expect("a superframe parses");
    let first = gro.headers();
    assert_eq!(
        (headers.l3_at, headers.l4_at, headers.payload_at),
        (first.l3_at, first.l4_at, first.payload_at)
    );
    let gso = header.validate(&headers).expect("the switch describes what it made");
    assert_eq!(gro.count(), members.len());
    if gso == Gso::None {
        assert_eq!(members.len(), 1);
        return;
    }
    let plan = Plan::new(&headers, gso).expect("the switch makes what can be cut");
    let pieces = pieces(glued, &headers, &plan);
    assert_eq!(pieces.len(), members.len());
    for (piece, member) in pieces.iter().zip(members) {
        let mut member = member.clone();
        let h = parse(&member).expect("it was pushed");
        checksum::complete(&mut member, &h);
        let datagram_without_df = h.l3 == L3::V4 && h.l4 == L4::Udp;
        if h.l3 == L3::V4 && (h.dont_fragment || datagram_without_df) {
            // Their identification means nothing: not kept.
            let after = parse(piece).expect("a piece parses");
            assert_eq!(after.payload(piece), h.payload(&member));
            assert_eq!(checksum::state(piece, &after), State::Verified);
        } else {
            assert_eq!(*piece, member);
        }
    }
}
