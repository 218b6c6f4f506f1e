use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::error::{Problem, error};
use super::{MAX_ANSWER, arp, echo, nd};
use crate::checksum::{self, State};
use crate::support::{DST4, SRC4, SRC6, Spec, checksums_hold};
use crate::{Headers, L4, MacAddr, icmp, icmpv6, ipv4, ipv6, parse, proto};

const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
const POD: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const GATEWAY4: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);

fn gateway6() -> Ipv6Addr {
    "fd00::1".parse().unwrap()
}

fn fail(frame: &[u8], problem: Problem) -> Option<(Vec<u8>, Headers)> {
    let headers = parse(frame).unwrap();
    let from: IpAddr = if headers.v4(frame).is_some() { GATEWAY4.into() } else { gateway6().into() };
    let mut out = [0xee; MAX_ANSWER];
    let len = error(&mut out, frame, &headers, problem, from, ROUTER)?;
    let answer = out[..len].to_vec();
    assert!(checksums_hold(&answer));
    let headers = parse(&answer).unwrap();
    Some((answer, headers))
}

#[test]
fn arp_questions_and_answers() {
    let mut out = [0; 60];
    let len = arp::request(&mut out, (POD, DST4.into()), GATEWAY4).unwrap();
    let h = parse(&out[..len]).unwrap();
    assert!(h.dst.is_broadcast());
    let question = *h.arp(&out).unwrap();
    let len = arp::answer(&mut out, &question, ROUTER).unwrap();
    let h = parse(&out[..len]).unwrap();
    assert_eq!((h.dst, h.src), (POD, ROUTER));
    let answer = h.arp(&out).unwrap();
    assert_eq!((answer.operation.get(), answer.sender(), answer.sender_mac), (2, GATEWAY4, ROUTER));
    assert_eq!((answer.target(), answer.target_mac), (Ipv4Addr::from(DST4), POD));
    let answer = *answer;
    assert_eq!(arp::answer(&mut out, &answer, ROUTER), None, "a reply is no question");
    assert_eq!(arp::answer(&mut out[..41], &question, ROUTER), None);
}

#[test]
fn neighbour_questions_and_answers() {
    let pod: Ipv6Addr = SRC6.into();
    let (mut ask, mut out) = ([0; nd::LEN], [0; nd::LEN]);
    nd::solicitation(&mut ask, (POD, pod), gateway6()).unwrap();
    let h = parse(&ask).unwrap();
    assert!(checksums_hold(&ask) && h.is_nd());
    assert_eq!((h.dst, h.ttl), (MacAddr([0x33, 0x33, 0xff, 0, 0, 1]), 255));
    assert_eq!(nd::answer(&mut out, &ask, &h, ROUTER, true), Some(nd::LEN));
    let h = parse(&out).unwrap();
    assert!(checksums_hold(&out));
    assert_eq!((h.dst, h.src, h.ttl, h.v6(&out)), (POD, ROUTER, 255, Some((gateway6(), pod))));
    let message = h.neighbour(&out).unwrap();
    assert_eq!((message.kind, message.flags[0], message.target()), (136, 0xe0, gateway6()));
    assert_eq!(icmpv6::link_layer_option(&out[78..], icmpv6::OPT_TARGET_MAC), Some(ROUTER));
    assert_eq!(nd::answer(&mut ask, &out, &h, ROUTER, true), None, "an advertisement is no question");
}

#[test]
fn duplicate_address_detection_is_answered_to_all_nodes() {
    let (mut ask, mut out) = ([0; nd::LEN], [0; nd::LEN]);
    nd::solicitation(&mut ask, (POD, Ipv6Addr::UNSPECIFIED), gateway6()).unwrap();
    let h = parse(&ask).unwrap();
    assert_eq!(nd::answer(&mut out, &ask, &h, ROUTER, true), None, "named its MAC address");
    // The probe as a kernel sends it has no option.
    let mut probe = ask[..78].to_vec();
    probe[19] = 24;
    let h = parse(&probe).unwrap();
    checksum::complete(&mut probe, &h);
    assert_eq!(nd::answer(&mut out, &probe, &h, ROUTER, false), Some(nd::LEN));
    let h = parse(&out).unwrap();
    assert_eq!(
        (h.dst, h.v6(&out).unwrap().1.to_string()),
        (MacAddr([0x33, 0x33, 0, 0, 0, 1]), "ff02::1".into())
    );
    assert_eq!(h.neighbour(&out).unwrap().flags[0], icmpv6::NA_OVERRIDE);
    let mut far = probe.clone();
    far[21] = 254;
    assert_eq!(
        nd::answer(&mut out, &far, &parse(&far).unwrap(), ROUTER, false),
        None,
        "came through a router"
    );
}

fn ping(v6: bool) -> Vec<u8> {
    let mut frame = Spec { v6, ..Spec::udp4(b"0123456789abcdef".to_vec()) }.build();
    let (at, kind, protocol) = if v6 { (54, 128, proto::ICMPV6) } else { (34, 8, proto::ICMP) };
    frame[if v6 { 20 } else { 23 }] = protocol;
    frame[at..at + 8].copy_from_slice(&[kind, 0, 0, 0, 0x12, 0x34, 0, 1]);
    if !v6 {
        ipv4::fill_checksum(&mut frame[14..34]);
    }
    let headers = parse(&frame).unwrap();
    checksum::complete(&mut frame, &headers);
    assert!(checksums_hold(&frame));
    frame
}

#[test]
fn echo_is_answered() {
    for v6 in [false, true] {
        let request = ping(v6);
        let headers = parse(&request).unwrap();
        assert_eq!((headers.src_port, headers.is_echo()), (0x1234, true));
        let mut out = [0; 200];
        let len = echo::reply(&mut out, &request, &headers).unwrap();
        let reply = &out[..len];
        assert!(checksums_hold(reply));
        let h = parse(reply).unwrap();
        assert_eq!((h.src, h.dst, h.icmp_type), (headers.dst, headers.src, if v6 { 129 } else { 0 }));
        let (src, dst) = headers.ip(&request).unwrap();
        assert_eq!(h.ip(reply), Some((dst, src)));
        assert_eq!(h.payload(reply), headers.payload(&request));
        assert_eq!(echo::reply(&mut [0; 200], reply, &h), None, "a reply is no request");
        let mut bad = request.clone();
        *bad.last_mut().unwrap() ^= 1;
        assert_eq!(echo::reply(&mut [0; 200], &bad, &headers), None);
    }
}

#[test]
fn errors_quote_the_packet() {
    let frame = Spec { df: true, ..Spec::tcp4(vec![1; 3000]) }.build();
    let (answer, h) = fail(&frame, Problem::TooBig { mtu: 1450 }).unwrap();
    assert_eq!((h.dst, h.src, h.l3_len()), (POD, ROUTER, 576));
    assert_eq!(h.v4(&answer), Some((GATEWAY4, SRC4.into())));
    assert_eq!((h.icmp_type, h.icmp_code), (3, 4));
    assert_eq!(answer[40..42], 1450u16.to_be_bytes());
    assert_eq!(answer[42..], frame[14..14 + 548]);
    let (answer, h) = fail(&Spec::udp4(vec![1; 3]).build(), Problem::TimeExceeded).unwrap();
    assert_eq!((h.icmp_type, h.icmp_code, answer.len()), (11, 0, 14 + 28 + 31));

    let frame = Spec::tcp4(vec![1; 3000]).v6().build();
    let (answer, h) = fail(&frame, Problem::TooBig { mtu: 1430 }).unwrap();
    assert_eq!((h.icmp_type, h.icmp_code, h.l3_len()), (2, 0, 1280));
    assert_eq!(answer[58..62], 1430u32.to_be_bytes());
    assert_eq!(answer[62..], frame[14..14 + 1232]);
    let (_, h) = fail(&frame, Problem::NoRoute).unwrap();
    assert_eq!((h.l4, h.icmp_type, h.icmp_code), (L4::Icmpv6, 1, 0));
}

#[test]
fn padding_is_not_quoted() {
    let mut frame = Spec::udp4(vec![1; 2]).build();
    frame.extend([0xaa; 16]);
    let (answer, _) = fail(&frame, Problem::HostUnreachable).unwrap();
    assert_eq!(answer[42..], frame[14..44]);
}

#[test]
fn some_packets_get_no_error() {
    let none = |frame: &[u8]| assert!(fail(frame, Problem::TimeExceeded).is_none());
    let v4 = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = Spec { df: false, ..Spec::udp4(vec![0; 16]) }.build();
        edit(&mut frame);
        ipv4::fill_checksum(&mut frame[14..34]);
        frame
    };
    assert!(fail(&v4(&|_| ()), Problem::TimeExceeded).is_some());
    none(&v4(&|f| f[0] = 0xff));
    none(&v4(&|f| f[30] = 224));
    none(&v4(&|f| f[30..34].fill(255)));
    none(&v4(&|f| f[26..30].fill(0)));
    none(&v4(&|f| f[26] = 127));
    none(&v4(&|f| f[26] = 240));
    none(&v4(&|f| f[21] = 2));
    let (about_ping, _) = fail(&ping(false), Problem::TimeExceeded).unwrap();
    none(&about_ping);
    let (about_ping, _) = fail(&ping(true), Problem::TimeExceeded).unwrap();
    none(&about_ping);
    let mut frame = ping(true);
    frame[54] = icmpv6::REDIRECT;
    none(&frame);
    let v6 = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut frame = Spec::udp4(vec![0; 16]).v6().build();
        edit(&mut frame);
        frame
    };
    none(&v6(&|f| f[22..38].fill(0)));
    none(&v6(&|f| f[22] = 0xff));
    let multicast = v6(&|f| f[38] = 0xff);
    none(&multicast);
    assert!(fail(&multicast, Problem::TooBig { mtu: 1280 }).is_some(), "RFC 4443 section 2.4 (e.3)");
    // The wrong family, and too little room.
    let headers = parse(&multicast).unwrap();
    let too_big = Problem::TooBig { mtu: 1280 };
    assert_eq!(error(&mut [0; MAX_ANSWER], &multicast, &headers, too_big, GATEWAY4.into(), ROUTER), None);
    assert_eq!(error(&mut [0; 100], &multicast, &headers, too_big, gateway6().into(), ROUTER), None);
}

#[test]
fn errors_may_be_about_first_fragments_and_owed_checksums() {
    let mut frame = Spec { df: false, ..Spec::udp4(vec![0; 16]) }.build();
    frame[20] = 0x20;
    ipv4::fill_checksum(&mut frame[14..34]);
    assert!(fail(&frame, Problem::Prohibited).is_some());
    let mut frame = Spec::tcp4(vec![0; 5000]).build();
    let headers = parse(&frame).unwrap();
    checksum::owe(&mut frame, &headers);
    assert_eq!(checksum::state(&frame, &headers), State::Owed);
    assert!(fail(&frame, Problem::TimeExceeded).is_some());
    assert!(icmp::is_error(3) && ipv6::MIN_MTU == 1280);
}
