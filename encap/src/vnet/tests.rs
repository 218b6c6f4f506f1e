use super::*;
use crate::parse;
use crate::support::Spec;

fn headers(spec: Spec) -> Headers {
    parse(&spec.build()).unwrap()
}

const TSO4: VnetHdr = VnetHdr {
    flags: NEEDS_CSUM,
    gso_type: GSO_TCPV4,
    hdr_len: 66,
    gso_size: 1398,
    csum_start: 34,
    csum_offset: 16,
    num_buffers: 0,
};

#[test]
fn bytes_as_a_tap_gives_them() {
    // Read from a TAP whose pod ran iperf3: TSO over IPv4, timestamps, MTU 1450.
    let bytes = [1, 1, 66, 0, 0x76, 5, 34, 0, 16, 0, 0, 0];
    assert_eq!(VnetHdr::read(&bytes), TSO4);
    assert_eq!(TSO4.bytes(), bytes);
    assert_eq!(VnetHdr::NONE.bytes(), [0; 12]);
}

#[test]
fn honest_headers_pass_and_are_described_alike() {
    let tcp = headers(Spec::tcp4(vec![0; 5000]));
    assert_eq!(TSO4.validate(&tcp), Ok(Gso::Tcp { size: 1398 }));
    assert_eq!(VnetHdr::describe(&tcp, Gso::Tcp { size: 1398 }, true), TSO4);
    let ecn = headers(Spec { flags: tcp::ACK | tcp::CWR, ..Spec::tcp4(vec![0; 5000]) });
    let vnet = VnetHdr::describe(&ecn, Gso::Tcp { size: 1398 }, true);
    assert_eq!((vnet.gso_type, vnet.validate(&ecn).is_ok()), (GSO_TCPV4 | GSO_ECN, true));
    let udp6 = headers(Spec { vlan: Some(3), ..Spec::udp4(vec![0; 5000]).v6() });
    let vnet = VnetHdr::describe(&udp6, Gso::Udp { size: 1000 }, true);
    assert_eq!((vnet.gso_type, vnet.csum_start, vnet.csum_offset), (GSO_UDP_L4, 58, 6));
    assert_eq!(vnet.validate(&udp6), Ok(Gso::Udp { size: 1000 }));
    assert_eq!(VnetHdr::NONE.validate(&tcp), Ok(Gso::None));
    let valid = VnetHdr { flags: DATA_VALID, ..VnetHdr::NONE };
    assert_eq!(valid.validate(&tcp), Ok(Gso::None));
    let owed = VnetHdr { gso_type: 0, gso_size: 0, ..TSO4 };
    assert_eq!(owed.validate(&tcp), Ok(Gso::None));
    assert_eq!(VnetHdr::describe(&tcp, Gso::None, false), VnetHdr::NONE);
}

#[test]
fn hostile_headers_are_refused() {
    let tcp = headers(Spec::tcp4(vec![0; 5000]));
    let bad = |vnet: VnetHdr| assert_eq!(vnet.validate(&tcp), Err(Reason::BadVnetHeader), "{vnet:?}");
    bad(VnetHdr { flags: 0, ..TSO4 });
    bad(VnetHdr { flags: DATA_VALID, ..TSO4 });
    bad(VnetHdr { flags: NEEDS_CSUM | 4, ..TSO4 });
    bad(VnetHdr { csum_start: 33, ..TSO4 });
    bad(VnetHdr { csum_start: 65_535, ..TSO4 });
    bad(VnetHdr { csum_offset: 6, ..TSO4 });
    bad(VnetHdr { gso_type: GSO_TCPV6, ..TSO4 });
    bad(VnetHdr { gso_type: GSO_UDP, ..TSO4 });
    bad(VnetHdr { gso_type: GSO_UDP_L4, ..TSO4 });
    bad(VnetHdr { gso_type: GSO_ECN, ..TSO4 });
    bad(VnetHdr { gso_type: 0x21, ..TSO4 });
    bad(VnetHdr { gso_size: 0, ..TSO4 });
    bad(VnetHdr { hdr_len: 60_000, ..TSO4 });
    bad(VnetHdr { hdr_len: 60_000, ..VnetHdr::NONE });
    assert_eq!(VnetHdr { gso_size: 47, ..TSO4 }.validate(&tcp), Err(Reason::BadGso));
    assert_eq!(VnetHdr { gso_size: 48, ..TSO4 }.validate(&tcp), Ok(Gso::Tcp { size: 48 }));
    let syn = headers(Spec { flags: tcp::SYN, ..Spec::tcp4(vec![0; 5000]) });
    assert_eq!(TSO4.validate(&syn), Err(Reason::BadGso));
    let udp = headers(Spec::udp4(vec![0; 1290]));
    let uso = |size| VnetHdr::describe(&udp, Gso::Udp { size }, true).validate(&udp);
    assert_eq!((uso(10), uso(11)), (Err(Reason::BadGso), Ok(Gso::Udp { size: 11 })));
    let ecn =
        VnetHdr { gso_type: GSO_UDP_L4 | GSO_ECN, ..VnetHdr::describe(&udp, Gso::Udp { size: 100 }, true) };
    assert_eq!(ecn.validate(&udp), Err(Reason::BadVnetHeader));
}

#[test]
fn fragments_and_icmp_owe_nothing() {
    let mut frame = Spec { df: false, ..Spec::udp4(vec![0; 800]) }.build();
    frame[20] = 0x20;
    crate::ipv4::fill_checksum(&mut frame[14..34]);
    let first = parse(&frame).unwrap();
    let vnet = VnetHdr { flags: NEEDS_CSUM, csum_start: 34, csum_offset: 6, ..VnetHdr::NONE };
    assert_eq!(vnet.validate(&first), Err(Reason::BadVnetHeader));
    assert_eq!(
        VnetHdr { gso_type: GSO_UDP_L4, gso_size: 100, ..vnet }.validate(&first),
        Err(Reason::BadVnetHeader)
    );
}

#[test]
fn offsets_follow_a_tag() {
    let moved = TSO4.shifted(4);
    assert_eq!((moved.csum_start, moved.hdr_len), (38, 70));
    assert_eq!(moved.shifted(-4), TSO4);
    assert_eq!(VnetHdr::NONE.shifted(4), VnetHdr::NONE);
}

#[test]
fn wire_length_of_a_superframe_is_that_of_a_segment() {
    let tcp = headers(Spec::tcp4(vec![0; 5000]));
    assert_eq!(Gso::Tcp { size: 1398 }.l3_len(&tcp), 1450);
    assert_eq!(Gso::None.l3_len(&tcp), 5052);
}

#[test]
fn a_tunnel_inside_the_pod_is_completed() {
    // As captured: VXLAN device over a TAP, outer UDP without checksum, csum_start at the inner L4 header.
    for (inner, field) in [(Spec::tcp4(vec![7; 33]), 16), (Spec::udp4(vec![7; 33]).v6(), 6)] {
        let mut inside = inner.build();
        let inner_headers = parse(&inside).unwrap();
        checksum::owe(&mut inside, &inner_headers);
        let mut frame = Spec::udp4([&[8, 0, 0, 0, 0, 0, 5, 0][..], &inside].concat()).build();
        frame[40..42].fill(0);
        let headers = parse(&frame).unwrap();
        let start = 50 + inner_headers.l4_at;
        let asked = VnetHdr { flags: NEEDS_CSUM, csum_start: start, csum_offset: field, ..VnetHdr::NONE };
        let mut vnet = asked;
        assert_eq!(vnet.admit(&mut frame, &headers), Ok(Gso::None));
        assert_eq!(vnet, VnetHdr::NONE);
        assert_eq!(frame[50..], inner.build());
        let refused = [
            VnetHdr { csum_start: 40, ..asked },
            VnetHdr { csum_start: headers.l3_end as u16 - field - 1, ..asked },
            VnetHdr { csum_offset: 8, ..asked },
            VnetHdr { gso_type: GSO_UDP_L4, gso_size: 10, ..asked },
        ];
        for mut vnet in refused {
            let before = frame.clone();
            assert_eq!(vnet.admit(&mut frame, &headers), Err(Reason::BadVnetHeader), "{vnet:?}");
            assert_eq!(frame, before);
        }
    }
}

#[test]
fn admitted_headers_are_rebuilt() {
    let mut frame = Spec::tcp4(vec![0; 5000]).build();
    let headers = parse(&frame).unwrap();
    let mut vnet = VnetHdr { flags: NEEDS_CSUM | DATA_VALID, hdr_len: 3, num_buffers: 9, ..TSO4 };
    assert_eq!(vnet.admit(&mut frame, &headers), Ok(Gso::Tcp { size: 1398 }));
    assert_eq!(vnet, TSO4);
    let mut vnet = VnetHdr { flags: DATA_VALID, hdr_len: 20, csum_start: 5, ..VnetHdr::NONE };
    assert_eq!(vnet.admit(&mut frame, &headers), Ok(Gso::None));
    assert_eq!(vnet, VnetHdr::NONE);
}

#[test]
fn the_two_usual_headers_are_admitted_alike_by_the_short_way() {
    for good in [Spec::tcp4(vec![0; 5000]), Spec::udp4(vec![0; 50])].map(|spec| spec.build()) {
        let headers = parse(&good).unwrap();
        let owed = VnetHdr::describe(&headers, Gso::None, true);
        let mut usual = 0;
        let mut judge = |vnet: VnetHdr| {
            let (mut short, mut long, mut frame) = (vnet, vnet, good.clone());
            if short.admit_plain(&headers) {
                assert_eq!((long.admit(&mut frame, &headers), long), (Ok(Gso::None), short), "{vnet:?}");
                assert_eq!(frame, good);
                usual += 1;
            } else {
                assert_eq!(short, vnet);
            }
        };
        judge(VnetHdr::NONE);
        for base in [VnetHdr::NONE, owed] {
            for value in 0..=70 {
                judge(VnetHdr { flags: value as u8, ..base });
                judge(VnetHdr { gso_type: value as u8, ..base });
                judge(VnetHdr { hdr_len: value, ..base });
                judge(VnetHdr { gso_size: value, ..base });
                judge(VnetHdr { csum_start: value, ..base });
                judge(VnetHdr { csum_offset: value, ..base });
                judge(VnetHdr { num_buffers: value, ..base });
            }
            judge(VnetHdr { hdr_len: u16::MAX, ..base });
        }
        // Every length of headers and number of buffers that a kernel may write, and what each loop found at its base.
        assert!(usual > 2 * 70, "{usual}");
    }
}
