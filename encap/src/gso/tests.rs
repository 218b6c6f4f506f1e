use super::*;
use crate::support::{Spec, checksums_hold};
use crate::{VnetHdr, checksum, parse};

fn superframe(spec: &Spec, gso: Gso) -> (Vec<u8>, Headers, Plan) {
    let mut frame = spec.build();
    let headers = parse(&frame).unwrap();
    checksum::owe(&mut frame, &headers);
    VnetHdr::describe(&headers, gso, true).validate(&headers).unwrap();
    let plan = Plan::new(&headers, gso).unwrap();
    (frame, headers, plan)
}

#[test]
fn tcp_flags_and_numbers() {
    let flags = tcp::ACK | tcp::PSH | tcp::FIN | tcp::CWR | tcp::ECE;
    let spec = Spec { flags, id: 0xffff, seq: u32::MAX - 50, ..Spec::tcp4(vec![9; 250]) };
    let (frame, headers, plan) = superframe(&spec, Gso::Tcp { size: 100 });
    let mut out = [0u8; 1000];
    let group = cut(&frame, &headers, &plan, 0..3, 8, &mut out).unwrap();
    assert_eq!((group.count, group.segment_len, group.last_len), (3, 174, 124));
    let expected = [
        (tcp::ACK | tcp::CWR | tcp::ECE, 0xffff, u32::MAX - 50, 152),
        (tcp::ACK | tcp::ECE, 0, 49, 152),
        (tcp::ACK | tcp::PSH | tcp::FIN | tcp::ECE, 1, 149, 102),
    ];
    for (index, (flags, id, seq, total)) in expected.into_iter().enumerate() {
        let piece = &out[group.range(index)][8..];
        let seen = (piece[47], be16(piece, 18), be32(piece, 38), be16(piece, 16));
        assert_eq!(seen, (flags, id, seq, total));
        assert!(checksums_hold(piece));
    }
}

#[test]
fn groups_respect_the_limits_of_one_send() {
    // Pod MTU 1450 with timestamps: 44 segments of 1472 bytes with the VXLAN header fill a send of 65,507.
    let spec = Spec::tcp4(vec![0; 65_535 - 52]);
    let (_, _, plan) = superframe(&spec, Gso::Tcp { size: 1398 });
    assert_eq!(plan.count(), 47);
    assert_eq!(plan.group(0, 8, MAX_SEND, MAX_SEND_PIECES), 44);
    assert_eq!(plan.group(44, 8, MAX_SEND, MAX_SEND_PIECES), 3);
    assert_eq!(plan.group(47, 8, MAX_SEND, MAX_SEND_PIECES), 0);
    assert_eq!(plan.group(0, 8, 100, 128), 0);
    let (_, _, small) = superframe(&spec, Gso::Tcp { size: 248 });
    assert_eq!(small.group(0, 8, MAX_SEND, MAX_SEND_PIECES), 128);
    // A short last one fits where a full one does not.
    let (_, _, three) = superframe(&Spec::tcp4(vec![0; 210]), Gso::Tcp { size: 100 });
    assert_eq!(three.group(0, 0, 2 * 166 + 76, 128), 3);
    assert_eq!(three.group(0, 0, 2 * 166 + 75, 128), 2);
}

#[test]
fn a_tag_and_ipv6_survive() {
    let spec = Spec { vlan: Some(9), ..Spec::udp4(vec![3; 130]).v6() };
    let (frame, headers, plan) = superframe(&spec, Gso::Udp { size: 64 });
    let mut out = [0u8; 1000];
    let group = cut(&frame, &headers, &plan, 1..3, 0, &mut out).unwrap();
    assert_eq!((group.count, group.segment_len, group.last_len), (2, 66 + 64, 66 + 2));
    let last = parse(&out[group.range(1)]).unwrap();
    assert_eq!((last.vlan().unwrap().get(), last.payload_len(), last.l3_len()), (9, 2, 50));
    assert!(checksums_hold(&out[group.range(1)]));
}

#[test]
fn wrong_calls_are_refused() {
    let (frame, headers, plan) = superframe(&Spec::tcp4(vec![0; 250]), Gso::Tcp { size: 100 });
    let mut out = [0u8; 300];
    assert_eq!(cut(&frame, &headers, &plan, 0..3, 0, &mut out), Err(Reason::BadGso));
    assert_eq!(cut(&frame, &headers, &plan, 2..4, 0, &mut out), Err(Reason::BadGso));
    assert_eq!(cut(&frame, &headers, &plan, 1..1, 0, &mut out), Err(Reason::BadGso));
    assert!(cut(&frame, &headers, &plan, 2..3, 0, &mut out).is_ok());
    assert_eq!(Plan::new(&headers, Gso::Udp { size: 100 }), Err(Reason::BadGso));
    assert_eq!(Plan::new(&headers, Gso::None), Err(Reason::BadGso));
    assert_eq!(Plan::new(&headers, Gso::Tcp { size: 0 }), Err(Reason::BadGso));
}
