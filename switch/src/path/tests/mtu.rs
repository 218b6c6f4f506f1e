//! Size: what fits passes whole, what does not is fragmented, or dropped and its sender told.

use weft_encap::{Gso, MacAddr, Reason, VnetHdr, checksum, icmp, icmpv6, parse};

use super::frames::*;
use super::lab::*;
use super::routed::etherparse_accepts;

/// Makes a frame a superframe that owes its checksum.
fn superframe(mut frame: Vec<u8>, gso: Gso) -> (Vec<u8>, VnetHdr) {
    let headers = parse(&frame).unwrap();
    checksum::owe(&mut frame, &headers);
    let vnet = VnetHdr::describe(&headers, gso, true);
    (frame, vnet)
}

/// The IP payload that fragments give again, and how many there were.
fn reassemble(sent: &[Sent], mtu: usize) -> Vec<u8> {
    let mut data = Vec::new();
    for (index, piece) in sent.iter().enumerate() {
        let headers = piece.headers();
        assert!(headers.l3_len() <= mtu);
        assert_eq!(piece.vnet, VnetHdr::NONE);
        assert_eq!(usize::from(headers.fragment_offset), data.len());
        assert_eq!(headers.more_fragments, index + 1 < sent.len());
        data.extend(&piece.bytes[usize::from(headers.l3_at) + 20..headers.l3_end as usize]);
    }
    data
}

#[test]
fn too_big_is_told_with_the_mtu_of_the_way_out() {
    let mut rig = Rig::new(&mut Lab::small());
    // 1450 fits exactly: 20 or 40 bytes of IP, 8 of UDP.
    assert_eq!(rig.one(port(2), &udp((mac(2), ROUTER), v4(2), remote_v4(0, 5), 1422)).to, peer(0));
    assert_eq!(rig.one(port(2), &udp((mac(2), ROUTER), v6(2), remote_v6(0, 5), 1402)).to, peer(0));
    for _ in 0..2 {
        let big = udp((mac(2), ROUTER), v4(2), remote_v4(0, 5), 1423);
        let sent = rig.dies(port(2), &big, Reason::TooBig).remove(0);
        etherparse_accepts(&sent.bytes);
        let at = usize::from(sent.headers().l4_at);
        assert_eq!(sent.headers().icmp_type, icmp::UNREACHABLE);
        assert_eq!(sent.headers().icmp_code, icmp::CODE_FRAG_NEEDED);
        assert_eq!(sent.bytes[at + 6..at + 8], 1450u16.to_be_bytes());
        assert_eq!(sent.bytes[at + 8..at + 28], big[14..34], "quotes the packet");
        let big = udp((mac(2), ROUTER), v6(2), remote_v6(0, 5), 1403);
        let sent = rig.dies(port(2), &big, Reason::TooBig).remove(0);
        etherparse_accepts(&sent.bytes);
        let at = usize::from(sent.headers().l4_at);
        assert_eq!(sent.headers().icmp_type, icmpv6::PACKET_TOO_BIG);
        assert_eq!(sent.bytes[at + 4..at + 8], 1450u32.to_be_bytes());
    }
}

#[test]
fn a_peers_packets_are_told_too() {
    let mut lab = Lab::small();
    lab.ports[2].as_mut().unwrap().mtu = 1300;
    let mut rig = Rig::new(&mut lab);
    let sent =
        rig.dies(peer(0), &udp((vtep(0), VTEP), remote_v4(0, 5), v4(2), 1400), Reason::TooBig).remove(0);
    assert_eq!((sent.to, sent.headers().dst, sent.headers().src), (peer(0), vtep(0), VTEP));
    assert_eq!(sent.ip().1, std::net::IpAddr::from(remote_v4(0, 5)));
}

#[test]
fn superframes_count_by_segment() {
    let mut rig = Rig::new(&mut Lab::small());
    let macs = (mac(2), ROUTER);
    // 1450 less 40 bytes of IPv4 and TCP.
    for _ in 0..2 {
        let (frame, vnet) = superframe(tcp(macs, v4(2), remote_v4(0, 5), 30_000), Gso::Tcp { size: 1410 });
        let sent = rig.send_with(port(2), &frame, vnet);
        assert_eq!((sent.len(), sent[0].to, sent[0].vnet), (1, peer(0), vnet), "whole and untouched");
    }
    let (frame, vnet) = superframe(tcp(macs, v4(2), remote_v4(0, 5), 30_000), Gso::Tcp { size: 1411 });
    let sent = rig.send_with(port(2), &frame, vnet);
    assert_eq!(sent[0].headers().icmp_code, icmp::CODE_FRAG_NEEDED);
    assert_eq!(rig.reasons(), [(Reason::TooBig, 1)]);
}

#[test]
fn ipv4_without_df_is_fragmented() {
    let mut rig = Rig::new(&mut Lab::small());
    let whole = may_fragment(udp((mac(2), ROUTER), v4(2), remote_v4(0, 5), 5000));
    let sent = rig.send(port(2), &whole);
    assert_eq!(sent.len(), 4);
    assert_eq!(rig.dropped(), 0);
    assert_eq!(reassemble(&sent, 1450), whole[34..]);
    assert!(sent.iter().all(|piece| piece.to == peer(0) && piece.headers().ttl == 63));
    assert!(sent.iter().all(|piece| piece.headers().dst == vtep(0)));
    // Owed checksums are computed before the pieces part.
    let (owing, vnet) = superframe(whole.clone(), Gso::None);
    let sent = rig.send_with(port(2), &owing, vnet);
    assert_eq!(reassemble(&sent, 1450), whole[34..]);
    // A fragment is fragmented further.
    let later = rig.send(port(2), &{
        let mut fragment = whole.clone();
        fragment[20] |= 0x20;
        fragment.truncate(14 + 20 + 4800);
        fragment[16..18].copy_from_slice(&4820u16.to_be_bytes());
        weft_encap::ipv4::fill_checksum(&mut fragment[14..34]);
        fragment
    });
    assert!(later.len() == 4 && later.iter().all(|piece| piece.headers().more_fragments));
}

#[test]
fn superframes_without_df_are_cut_then_fragmented() {
    let mut rig = Rig::new(&mut Lab::small());
    let whole = may_fragment(udp((mac(2), ROUTER), v4(2), remote_v4(0, 5), 6000));
    let (frame, vnet) = superframe(whole.clone(), Gso::Udp { size: 2000 });
    let sent = rig.send_with(port(2), &frame, vnet);
    assert_eq!((sent.len(), rig.dropped()), (6, 0));
    let mut payload = Vec::<u8>::new();
    for pair in sent.chunks(2) {
        let datagram = reassemble(pair, 1450);
        assert_eq!(datagram.len(), 2008);
        payload.extend(&datagram[8..]);
    }
    assert_eq!(payload, whole[42..]);
}

#[test]
fn switched_frames_fit_the_port_or_are_told() {
    let mut lab = Lab::small();
    lab.ports[3].as_mut().unwrap().mtu = 1300;
    let mut rig = Rig::new(&mut lab);
    let macs = (mac(2), mac(3));
    let sent = rig.dies(port(2), &udp(macs, v4(2), v4(3), 1400), Reason::TooBig).remove(0);
    assert_eq!((sent.to, sent.ip().0), (port(2), std::net::IpAddr::from(v4(1))));
    let sent = rig.dies(port(2), &udp(macs, v6(2), v6(3), 1400), Reason::TooBig).remove(0);
    assert_eq!(sent.headers().icmp_type, icmpv6::PACKET_TOO_BIG);
    let loose = may_fragment(udp(macs, v4(2), v4(3), 1400));
    let pieces = rig.send(port(2), &loose);
    assert_eq!((pieces.len(), pieces[0].to, pieces[0].headers().src), (2, port(3), mac(2)));
    assert_eq!(reassemble(&pieces, 1300), loose[34..]);
    assert!(pieces.iter().all(|piece| piece.headers().ttl == 64), "not routed");
    let (frame, vnet) = superframe(tcp(macs, v4(2), v4(3), 20_000), Gso::Tcp { size: 1400 });
    assert_eq!(rig.send_with(port(2), &frame, vnet).len(), 1, "told");
    let (frame, vnet) = superframe(tcp(macs, v4(2), v4(3), 20_000), Gso::Tcp { size: 1260 });
    assert_eq!(rig.send_with(port(2), &frame, vnet)[0].to, port(3));
}

#[test]
fn a_flood_skips_whom_it_does_not_fit() {
    let mut lab = Lab::small();
    lab.ports[4].as_mut().unwrap().mtu = 1300;
    let mut rig = Rig::new(&mut lab);
    let sent = rig.dies(port(2), &udp((mac(2), MacAddr::BROADCAST), v4(2), v4(255), 1400), Reason::TooBig);
    assert_eq!(sent.iter().map(|sent| sent.to).collect::<Vec<_>>(), [port(3)]);
}

#[test]
fn bytes_behind_the_packet_are_cut_off() {
    let mut rig = Rig::new(&mut Lab::small());
    let mut padded = udp((mac(2), ROUTER), v4(2), remote_v4(0, 5), 10);
    let len = padded.len();
    padded.resize(9000, 0xaa);
    assert_eq!(rig.one(port(2), &padded).bytes.len(), len);
}

#[test]
fn a_lower_mtu_is_followed_at_once() {
    let mut lab = Lab::small();
    let mut rig = Rig::new(&mut lab);
    let frame = udp((mac(2), ROUTER), v4(2), remote_v4(0, 5), 1400);
    rig.one(port(2), &frame);
    let generation = lab.next_generation();
    let changed = lab.peers[0].as_mut().unwrap();
    (changed.mtu, changed.generation) = (1350, generation);
    rig.snapshot = lab.snapshot();
    rig.dies(port(2), &frame, Reason::TooBig);
}
