use super::*;
use crate::parse;
use crate::support::Spec;

/// Pushes the second frame after the first.
fn after(first: &Spec, second: &Spec) -> Push {
    let mut buf = vec![0; MAX_FRAME];
    let frame = first.build();
    let mut gro = Gro::start(&mut buf, &frame, &parse(&frame).unwrap()).unwrap();
    let frame = second.build();
    gro.push(&mut buf, &frame, &parse(&frame).unwrap())
}

fn tcp_pair() -> (Spec, Spec) {
    let first = Spec::tcp4(vec![1; 100]);
    let second = Spec { seq: 1100, id: 8, ..Spec::tcp4(vec![2; 100]) };
    (first, second)
}

#[test]
fn what_continues_a_tcp_stream() {
    let (first, second) = tcp_pair();
    assert_eq!(after(&first, &second), Push::Merged);
    let merged = [
        Spec { payload: vec![2; 30], ..second.clone() },
        Spec { flags: tcp::ACK | tcp::PSH, ..second.clone() },
        Spec { flags: tcp::ACK | tcp::FIN, ..second.clone() },
        Spec { id: 999, ..second.clone() },
    ];
    for spec in merged {
        assert_eq!(after(&first, &spec), Push::Merged, "{spec:?}");
    }
    let congested = Spec { flags: tcp::ACK | tcp::CWR, ..first };
    assert_eq!(after(&congested, &second), Push::Merged);
}

#[test]
fn segments_too_small_for_a_superframe_stay_alone() {
    let pair = |len: usize| {
        let first = Spec::tcp4(vec![1; len]);
        let second = Spec { seq: 1000 + len as u32, id: 8, ..Spec::tcp4(vec![2; len]) };
        after(&first, &second)
    };
    assert_eq!(pair(usize::from(MIN_TCP_SIZE) - 1), Push::Flush);
    assert_eq!(pair(usize::from(MIN_TCP_SIZE)), Push::Merged);
}

#[test]
fn what_does_not_continue_a_tcp_stream() {
    let (first, second) = tcp_pair();
    let stamps = vec![1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 3];
    let flushed = [
        Spec { seq: 1101, ..second.clone() },
        Spec { seq: 1000, ..second.clone() },
        Spec { ack: 78, ..second.clone() },
        Spec { window: 501, ..second.clone() },
        Spec { ports: (40001, 80), ..second.clone() },
        Spec { tcp_options: stamps, ..second.clone() },
        Spec { tcp_options: vec![], ..second.clone() },
        Spec { ttl: 63, ..second.clone() },
        Spec { tos: 3, ..second.clone() },
        Spec { df: false, ..second.clone() },
        Spec { vlan: Some(1), ..second.clone() },
        Spec { payload: vec![2; 101], ..second.clone() },
        Spec { payload: vec![], ..second.clone() },
        Spec { flags: tcp::ACK | tcp::URG, ..second.clone() },
        Spec { flags: tcp::ACK | tcp::RST, ..second.clone() },
        Spec { flags: tcp::ACK | tcp::CWR, ..second.clone() },
        Spec { flags: tcp::ACK | tcp::ECE, ..second.clone() },
        Spec { ip_options: vec![1; 4], ..second.clone() },
        Spec { tcp: false, ..second.clone() },
        second.clone().v6(),
    ];
    for spec in flushed {
        assert_eq!(after(&first, &spec), Push::Flush, "{spec:?}");
    }
    let ended = [
        Spec { flags: tcp::ACK | tcp::PSH, ..first.clone() },
        Spec { flags: tcp::ACK | tcp::SYN, ..first.clone() },
    ];
    for spec in ended {
        assert_eq!(after(&spec, &second), Push::Flush, "{spec:?}");
    }
    let (first, second) = (Spec { df: false, ..first }, Spec { df: false, ..second });
    assert_eq!(after(&first, &second), Push::Merged);
    assert_eq!(after(&first, &Spec { id: 10, ..second }), Push::Flush, "identification must count");
}

#[test]
fn flow_label_and_class_of_ipv6() {
    let (first, second) = tcp_pair();
    let (first, second) = (first.v6(), Spec { id: 7, ..second }.v6());
    assert_eq!(after(&first, &second), Push::Merged);
    for spec in
        [Spec { id: 8, ..second.clone() }, Spec { tos: 1, ..second.clone() }, Spec { ttl: 1, ..second }]
    {
        assert_eq!(after(&first, &spec), Push::Flush, "{spec:?}");
    }
}

#[test]
fn datagrams_of_one_flow() {
    let first = Spec::udp4(vec![1; 100]);
    assert_eq!(after(&first, &first), Push::Merged);
    assert_eq!(after(&first, &Spec { payload: vec![1; 99], ..first.clone() }), Push::Merged);
    assert_eq!(after(&first, &Spec { payload: vec![1; 101], ..first.clone() }), Push::Flush);
    assert_eq!(after(&first, &Spec { payload: vec![], ..first.clone() }), Push::Flush);
    assert_eq!(after(&first, &Spec { ports: (40000, 81), ..first.clone() }), Push::Flush);
    let mut buf = vec![0; MAX_FRAME];
    let frame = first.build();
    let headers = parse(&frame).unwrap();
    let mut gro = Gro::start(&mut buf, &frame, &headers).unwrap();
    let mut bare = frame.clone();
    bare[40..42].fill(0);
    assert_eq!(gro.push(&mut buf, &bare, &headers), Push::Flush, "one without a checksum");
    for _ in 1..MAX_UDP_PIECES {
        assert_eq!(gro.push(&mut buf, &frame, &headers), Push::Merged);
    }
    assert_eq!(gro.push(&mut buf, &frame, &headers), Push::Flush);
    let vnet = gro.finish(&mut buf);
    let glued = parse(&buf[..gro.len()]).unwrap();
    assert_eq!(vnet.validate(&glued), Ok(Gso::Udp { size: 100 }));
    assert_eq!((glued.payload_len(), vnet.hdr_len, vnet.csum_start), (6400, 42, 34));
    assert_eq!(checksum::state(&buf[..gro.len()], &glued), State::Owed);
}

#[test]
fn a_corrupt_segment_leaves_the_superframe_alone() {
    let (first, second) = tcp_pair();
    let mut buf = vec![0; MAX_FRAME];
    let frame = first.build();
    let headers = parse(&frame).unwrap();
    let mut gro = Gro::start(&mut buf, &frame, &headers).unwrap();
    let mut bad = second.build();
    bad[80] ^= 4;
    assert_eq!(gro.push(&mut buf, &bad, &parse(&bad).unwrap()), Push::Drop(Reason::BadChecksum));
    assert_eq!((gro.len(), gro.count()), (frame.len(), 1));
    assert_eq!(gro.finish(&mut buf), VnetHdr::NONE);
    assert_eq!(buf[..gro.len()], frame);
    assert_eq!(Gro::start(&mut buf, &bad, &headers).err(), Some(Reason::BadChecksum));
}

#[test]
fn a_lone_frame_keeps_its_debt_and_loses_its_padding() {
    let mut frame = Spec::tcp4(vec![5; 3]).build();
    let headers = parse(&frame).unwrap();
    checksum::owe(&mut frame, &headers);
    let len = frame.len();
    frame.extend([0; 20]);
    let mut buf = vec![0; MAX_FRAME];
    let gro = Gro::start(&mut buf, &frame, &parse(&frame).unwrap()).unwrap();
    assert_eq!(gro.finish(&mut buf), VnetHdr::describe(&headers, Gso::None, true));
    assert_eq!(buf[..gro.len()], frame[..len]);
}

#[test]
fn never_longer_than_ip_or_the_buffer() {
    let step = 1400;
    let mut buf = vec![0; MAX_FRAME];
    let frame = Spec::tcp4(vec![0; step]).build();
    let mut gro = Gro::start(&mut buf, &frame, &parse(&frame).unwrap()).unwrap();
    loop {
        let seq = 1000 + (gro.count() * step) as u32;
        let frame = Spec { seq, ..Spec::tcp4(vec![0; step]) }.build();
        if gro.push(&mut buf, &frame, &parse(&frame).unwrap()) == Push::Flush {
            break;
        }
    }
    assert_eq!(gro.count(), (65_535 - 52) / step);
    gro.finish(&mut buf);
    assert!(parse(&buf[..gro.len()]).is_ok());
    let mut small = vec![0; 2000];
    let mut gro = Gro::start(&mut small, &frame, &parse(&frame).unwrap()).unwrap();
    let next = Spec { seq: 1000 + step as u32, ..Spec::tcp4(vec![0; step]) }.build();
    assert_eq!(gro.push(&mut small, &next, &parse(&next).unwrap()), Push::Flush);
    assert_eq!(Gro::start(&mut [0; 100], &frame, &parse(&frame).unwrap()).err(), Some(Reason::NoBuffer));
}

#[test]
fn whole_superframes_from_a_kernel_peer() {
    let spec = Spec::tcp4(vec![3; 9000]);
    let mut frame = spec.build();
    let headers = parse(&frame).unwrap();
    let plain = frame.clone();
    // A checksum that was computed becomes an owed one: segments will each have their own.
    let vnet = superframe(&mut frame, &headers, 1398).unwrap();
    assert_eq!(vnet.validate(&headers), Ok(Gso::Tcp { size: 1398 }));
    assert_eq!(checksum::state(&frame, &headers), State::Owed);
    assert_eq!(superframe(&mut frame, &headers, 1398), Ok(vnet));
    assert_eq!(superframe(&mut plain.clone(), &headers, 9000), Ok(VnetHdr::NONE));
    assert_eq!(superframe(&mut plain.clone(), &headers, 10), Err(Reason::BadGso));
    let mut corrupt = plain;
    corrupt[5000] ^= 1;
    assert_eq!(superframe(&mut corrupt, &headers, 1398), Err(Reason::BadChecksum));
    let mut udp = Spec::udp4(vec![3; 14_000]).v6().build();
    let headers = parse(&udp).unwrap();
    checksum::owe(&mut udp, &headers);
    let vnet = superframe(&mut udp, &headers, 1400).unwrap();
    assert_eq!(vnet.validate(&headers), Ok(Gso::Udp { size: 1400 }));
}

/// Whatever [`Gro::push_unparsed`] takes without parsing, [`crate::parse`] and [`Gro::push`] take in the same way; and
/// it takes nothing that differs in a bit outside the fields that [`Differs::at`] lists.
#[test]
fn unparsed_segments_merge_only_as_parsed_ones_would() {
    let (first, second) = tcp_pair();
    let udp = Spec::udp4(vec![2; 100]);
    let cases = [
        (first.clone(), second.clone()),
        // The flow label is that of the identification.
        (Spec { id: 8, ..first }.v6(), second.v6()),
        (udp.clone(), udp.clone()),
        (udp.clone().v6(), udp.v6()),
    ];
    for (first, second) in cases {
        let (first, second) = (first.build(), second.build());
        let headers = parse(&second).unwrap();
        assert_eq!(unparsed(&first, &second), Some(Push::Merged));
        for bit in 0..8 * usize::from(headers.payload_at) + 8 {
            let mut segment = second.clone();
            segment[bit / 8] ^= 0x80 >> (bit % 8);
            // The checksums made right again, too: then other fields must be seen for themselves.
            let mut fixed = segment.clone();
            if headers.l3 == L3::V4 && fixed[14] == 0x45 {
                ipv4::fill_checksum(&mut fixed[14..34]);
            }
            let mut all_fixed = fixed.clone();
            if let Ok(headers) = parse(&fixed) {
                checksum::complete(&mut all_fixed, &headers);
            }
            let short = segment[..segment.len() - 1].to_vec();
            let merged = Some(Push::Merged);
            let corrupt = Some(Push::Drop(Reason::BadChecksum));
            let [raw, half, whole] = match Differs::at(bit, &headers) {
                Differs::Ip => [None, merged, merged],
                Differs::Upper => [corrupt, corrupt, merged],
                Differs::NotAllowed => [None; 3],
            };
            for (segment, expected) in [(segment, raw), (fixed, half), (all_fixed, whole), (short, None)] {
                let taken = unparsed(&first, &segment);
                assert_eq!(taken, expected, "bit {bit} of {headers:?}");
                let Some(taken) = taken else { continue };
                let headers = parse(&segment).unwrap_or_else(|reason| panic!("bit {bit}: {reason:?}"));
                assert_eq!(headers.l3_end as usize, segment.len(), "bit {bit}");
                let mut buf = vec![0; MAX_FRAME];
                let mut gro = Gro::start(&mut buf, &first, &parse(&first).unwrap()).unwrap();
                assert_eq!(gro.push(&mut buf, &segment, &headers), taken, "bit {bit}");
            }
        }
    }
}

/// May a segment differ in a bit, if its checksums are right?
enum Differs {
    /// Yes; the IPv4 header's checksum tells when it is corrupt.
    Ip,
    /// Yes; the upper checksum does.
    Upper,
    /// No: it takes a parser to say what it is.
    NotAllowed,
}

impl Differs {
    fn at(bit: usize, headers: &Headers) -> Differs {
        let (byte, mask) = (bit / 8, 0x80 >> (bit % 8));
        let (l3, l4) = (usize::from(headers.l3_at), usize::from(headers.l4_at));
        let is_in = |at: usize| (at..at + 2).contains(&byte);
        let is_tcp = headers.l4 == L4::Tcp;
        let upper_checksum = l4 + if is_tcp { tcp::CHECKSUM } else { udp::CHECKSUM };
        // The lengths are the segment's own. DF is set in all of these, or they are datagrams: no identification
        // counts.
        if headers.l3 == L3::V4 && (is_in(l3 + ipv4::ID) || is_in(l3 + ipv4::CHECKSUM)) {
            Differs::Ip
        } else if is_in(upper_checksum)
            || is_tcp && byte == l4 + tcp::FLAGS && mask & (tcp::PSH | tcp::FIN) != 0
            || byte >= usize::from(headers.payload_at)
        {
            Differs::Upper
        } else {
            Differs::NotAllowed
        }
    }
}

fn unparsed(first: &[u8], segment: &[u8]) -> Option<Push> {
    let mut buf = vec![0; MAX_FRAME];
    let mut gro = Gro::start(&mut buf, first, &parse(first).unwrap()).unwrap();
    gro.push_unparsed(&mut buf, segment)
}
