use super::*;
use crate::ipv6;
use crate::support::Spec;

fn v6_with(next: u8, chain: &[u8], tail: &[u8]) -> Vec<u8> {
    let mut frame = Spec::udp4(vec![]).v6().build()[..54].to_vec();
    frame[18..20].copy_from_slice(&((chain.len() + tail.len()) as u16).to_be_bytes());
    frame[20] = next;
    frame.extend(chain);
    frame.extend(tail);
    frame
}

const UDP: [u8; 8] = [0, 1, 0, 2, 0, 8, 0xab, 0xcd];

fn v4_fragment(flags_offset: u16, len: usize) -> Vec<u8> {
    let mut frame = Spec { df: false, ..Spec::udp4(vec![0; len - 8]) }.build();
    frame[20..22].copy_from_slice(&flags_offset.to_be_bytes());
    ipv4::fill_checksum(&mut frame[14..34]);
    frame
}

#[test]
fn tcp_over_ipv4_with_padding() {
    let mut frame = Spec { flags: 0x12, ..Spec::tcp4(b"hi".to_vec()) }.build();
    let len = frame.len();
    frame.extend([0; 9]);
    let h = parse(&frame).unwrap();
    assert_eq!((h.l3, h.l4, h.proto), (L3::V4, L4::Tcp, 6));
    assert_eq!((h.l3_at, h.l4_at, h.payload_at), (14, 34, 66));
    assert_eq!((h.l3_end as usize, h.l4_end as usize), (len, len));
    assert_eq!((h.tcp_flags, h.src_port, h.dst_port, h.ttl), (0x12, 40000, 80, 64));
    assert!(h.dont_fragment && !h.is_fragment() && h.tci.is_none());
    assert_eq!(h.payload(&frame), b"hi");
    assert_eq!(h.ip(&frame).unwrap().0, IpAddr::from([10, 1, 0, 2]));
}

#[test]
fn one_tag_is_read_a_second_is_opaque() {
    let tagged = Spec { vlan: Some(5), ..Spec::udp4(vec![1]) }.build();
    let h = parse(&tagged).unwrap();
    assert_eq!((h.vlan().unwrap().get(), h.ethertype, h.l3_at, h.l4), (5, eth::IPV4, 18, L4::Udp));
    let mut double = tagged.clone();
    double.splice(12..12, [0x81, 0, 0, 9]);
    let h = parse(&double).unwrap();
    assert_eq!((h.vlan().unwrap().get(), h.ethertype, h.l3), (9, eth::VLAN, L3::Other));
    let mut service = tagged;
    service[12..14].copy_from_slice(&[0x88, 0xa8]);
    let h = parse(&service).unwrap();
    assert_eq!((h.tci, h.ethertype, h.l3), (None, eth::QINQ, L3::Other));
}

#[test]
fn malformed_frames_have_reasons() {
    let good = Spec::tcp4(vec![0; 10]).build();
    let with = |at: usize, value: u8| {
        let mut frame = good.clone();
        frame[at] = value;
        let end = (14 + usize::from(frame[14] & 15) * 4).clamp(34, frame.len());
        ipv4::fill_checksum(&mut frame[14..end]);
        parse(&frame)
    };
    assert_eq!(parse(&good[..13]), Err(Reason::Runt));
    assert_eq!(parse(&good[..33]), Err(Reason::Runt));
    assert_eq!(parse(&good[..good.len() - 1]), Err(Reason::Runt));
    assert_eq!(with(6, 3), Err(Reason::BadSource));
    assert_eq!(with(14, 0x55), Err(Reason::BadIpv4));
    assert_eq!(with(14, 0x44), Err(Reason::BadIpv4));
    assert_eq!(with(17, 19), Err(Reason::BadIpv4));
    assert_eq!(with(46, 0x40), Err(Reason::BadL4), "TCP header of 16 bytes");
    assert_eq!(with(46, 0xf0), Err(Reason::BadL4), "TCP header longer than the packet");
    let mut bad = good.clone();
    bad[24] ^= 1;
    assert_eq!(parse(&bad), Err(Reason::BadIpv4), "checksum");
    let mut udp = Spec::udp4(vec![0; 4]).build();
    udp[39] = 13;
    assert_eq!(parse(&udp), Err(Reason::BadL4));
    udp[39] = 7;
    assert_eq!(parse(&udp), Err(Reason::BadL4));
    udp[39] = 10;
    let short = parse(&udp).unwrap();
    assert_eq!((short.payload_len(), short.l3_end - short.l4_end), (2, 2));
    let arp = [&good[..12], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1]].concat();
    assert_eq!(parse(&arp), Err(Reason::BadArp));
}

#[test]
fn ipv4_fragments() {
    let first = parse(&v4_fragment(ipv4::MF, 16)).unwrap();
    assert_eq!((first.fragment, first.l4, first.dst_port), (Fragment::First, L4::Udp, 80));
    let later = parse(&v4_fragment(ipv4::MF | 3, 16)).unwrap();
    assert_eq!((later.fragment, later.fragment_offset, later.l4), (Fragment::Later, 24, L4::None));
    assert_eq!((later.src_port, later.payload_at), (0, 34));
    let last = parse(&v4_fragment(3, 13)).unwrap();
    assert!(last.is_fragment() && !last.more_fragments);
    assert_eq!(parse(&v4_fragment(ipv4::MF, 13)), Err(Reason::BadFragment), "not a multiple of 8");
    assert_eq!(parse(&v4_fragment(8191, 16)), Err(Reason::BadFragment), "past 65535");
    let mut tiny = Spec::tcp4(vec![]).build();
    tiny.truncate(14 + 20 + 8);
    tiny[16..18].copy_from_slice(&28u16.to_be_bytes());
    tiny[20..22].copy_from_slice(&ipv4::MF.to_be_bytes());
    ipv4::fill_checksum(&mut tiny[14..34]);
    assert_eq!(parse(&tiny), Err(Reason::BadFragment), "first fragment hides the ports");
}

#[test]
fn ipv6_extension_chains() {
    let hop_dst = [60, 0, 1, 4, 0, 0, 0, 0, 17, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let h = parse(&v6_with(ipv6::HOP_BY_HOP, &hop_dst, &UDP)).unwrap();
    assert_eq!((h.l4, h.proto, h.l4_at, h.dst_port), (L4::Udp, 17, 54 + 24, 2));
    let first = [17, 0, 0, 1, 0, 0, 0, 9];
    let h = parse(&v6_with(ipv6::FRAGMENT, &first, &UDP)).unwrap();
    assert_eq!((h.fragment, h.l4, h.src_port), (Fragment::First, L4::Udp, 1));
    let later = [17, 0, 0, 0x11, 0, 0, 0, 9];
    let h = parse(&v6_with(ipv6::FRAGMENT, &later, &UDP)).unwrap();
    assert_eq!((h.fragment, h.fragment_offset, h.l4, h.proto), (Fragment::Later, 16, L4::None, 17));
    let atomic = [17, 0, 0, 0, 0, 0, 0, 9];
    let h = parse(&v6_with(ipv6::FRAGMENT, &atomic, &UDP)).unwrap();
    assert!(h.fragment == Fragment::Atomic && !h.is_fragment() && h.l4 == L4::Udp);
    let routing = [17, 0, 4, 1, 0, 0, 0, 0];
    assert!(parse(&v6_with(ipv6::ROUTING, &routing, &UDP)).unwrap().source_routed);
    let auth = [17, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(parse(&v6_with(ipv6::AUTHENTICATION, &auth, &UDP)).unwrap().l4_at, 54 + 24);
}

#[test]
fn ipv6_nonsense() {
    let hop_twice = [0, 0, 1, 4, 0, 0, 0, 0, 17, 0, 1, 4, 0, 0, 0, 0];
    assert_eq!(parse(&v6_with(ipv6::HOP_BY_HOP, &hop_twice, &UDP)), Err(Reason::BadIpv6));
    let endless: Vec<u8> = std::iter::repeat_n([60, 0, 1, 4, 0, 0, 0, 0], 9).flatten().collect();
    assert_eq!(parse(&v6_with(ipv6::DESTINATION, &endless, &UDP)), Err(Reason::BadIpv6));
    assert_eq!(parse(&v6_with(ipv6::DESTINATION, &[17, 9, 0, 0, 0, 0, 0, 0], &UDP)), Err(Reason::BadIpv6));
    assert_eq!(parse(&v6_with(17, &[], &UDP[..7])), Err(Reason::BadL4));
    let hidden = [6, 0, 0, 1, 0, 0, 0, 9];
    assert_eq!(parse(&v6_with(ipv6::FRAGMENT, &hidden, &UDP)), Err(Reason::BadFragment));
    let mut jumbo = v6_with(17, &[], &UDP);
    jumbo[18..20].fill(0);
    assert_eq!(parse(&jumbo), Err(Reason::BadIpv6));
    let mut long = v6_with(17, &[], &UDP);
    long[19] += 1;
    assert_eq!(parse(&long), Err(Reason::Runt));
    assert_eq!(parse(&v6_with(ipv6::NO_NEXT, &[], &[])).unwrap().l4, L4::None);
}

#[test]
fn superframes_parse_up_to_the_limit_of_ip() {
    let payload = vec![7; ipv4::MAX_PACKET - 20 - 32];
    let h = parse(&Spec::tcp4(payload.clone()).build()).unwrap();
    assert_eq!((h.l3_len(), h.payload_len()), (65_535, payload.len()));
    let h = parse(&Spec { vlan: Some(1), ..Spec::tcp4(vec![7; 65_535 - 32]).v6() }.build()).unwrap();
    assert_eq!(h.l3_end, 18 + 40 + 65_535);
}

#[test]
fn headers_stay_small() {
    assert!(size_of::<Headers>() <= 56, "{}", size_of::<Headers>());
}

#[test]
fn ipv4_options() {
    let with = |options: &[u8]| parse(&Spec { ip_options: options.to_vec(), ..Spec::udp4(vec![1]) }.build());
    let alert = with(&[0x94, 4, 0, 0]).unwrap();
    assert_eq!((alert.l4_at, alert.source_routed), (38, false));
    assert!(with(&[1, 131, 7, 4, 10, 0, 0, 1]).unwrap().source_routed);
    assert!(!with(&[0, 131, 7, 4]).unwrap().source_routed, "behind the end of the list");
    assert_eq!(with(&[7, 1, 0, 0]), Err(Reason::BadIpv4));
    assert_eq!(with(&[7, 5, 0, 0]), Err(Reason::BadIpv4));
    assert_eq!(with(&[1, 1, 1, 7]), Err(Reason::BadIpv4));
}

/// Every byte of the headers set to every value, checksum as it is and made right again, and every length.
#[test]
fn the_short_way_finds_what_the_long_one_does() {
    let goods = [Spec::tcp4(vec![7; 10]), Spec::udp4(vec![7; 10]), Spec { df: false, ..Spec::udp4(vec![]) }];
    let (mut short, mut long) = (0, 0);
    let mut judge = |frame: &[u8]| match parse_plain(frame) {
        Some(headers) => {
            assert_eq!(parse_any(frame), Ok(headers), "{frame:02x?}");
            short += 1;
        }
        None => long += 1,
    };
    for good in goods.map(|spec| spec.build()) {
        assert!(parse_plain(&good).is_some());
        (0..good.len()).for_each(|len| judge(&good[..len]));
        for at in 0..good.len() {
            for value in 0..=u8::MAX {
                let mut frame = good.clone();
                frame[at] = value;
                judge(&frame);
                ipv4::fill_checksum(&mut frame[14..34]);
                judge(&frame);
                frame.extend([0; 7]);
                judge(&frame);
            }
        }
    }
    assert!(short > 10_000 && long > 10_000, "{short} {long}");
}
