use super::*;
use crate::parse;
use crate::support::{Spec, checksums_hold};

fn all(frame: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let headers = parse(frame).unwrap();
    let mut fragments = fragments(frame, &headers, mtu).unwrap();
    let mut out = vec![0; 2000];
    std::iter::from_fn(|| fragments.next_into(&mut out).map(|len| out[..len].to_vec())).collect()
}

#[test]
fn a_fragment_is_fragmented_further() {
    let frame = Spec { df: false, vlan: Some(4), ..Spec::udp4((0..2000).map(|n| n as u8).collect()) }.build();
    let once = all(&frame, 1000);
    assert_eq!(once.len(), 3);
    let twice: Vec<_> = once.iter().flat_map(|piece| all(piece, 500)).collect();
    let mut data = vec![];
    for (index, piece) in twice.iter().enumerate() {
        let h = parse(piece).unwrap();
        assert_eq!(usize::from(h.fragment_offset), data.len());
        assert_eq!(h.more_fragments, index + 1 != twice.len());
        assert_eq!((h.vlan().unwrap().get(), be16(piece, 18 + ipv4::ID)), (4, 7));
        data.extend_from_slice(&piece[usize::from(h.l4_at)..]);
    }
    assert_eq!(data, frame[38..]);
}

#[test]
fn a_packet_that_fits_is_one_fragment_and_padding_goes() {
    let mut frame = Spec { df: false, ..Spec::udp4(vec![1; 3]) }.build();
    let len = frame.len();
    frame.extend([0; 20]);
    assert_eq!(all(&frame, 1500), [&frame[..len]]);
}

#[test]
fn not_with_df_and_not_ipv6() {
    for spec in [Spec::udp4(vec![0; 3000]), Spec { df: false, ..Spec::udp4(vec![0; 3000]) }.v6()] {
        let frame = spec.build();
        let headers = parse(&frame).unwrap();
        assert_eq!(fragments(&frame, &headers, 1000).err(), Some(Reason::TooBig));
    }
    let frame = Spec { df: false, ..Spec::udp4(vec![0; 3000]) }.build();
    assert_eq!(fragments(&frame, &parse(&frame).unwrap(), 27).err(), Some(Reason::TooBig));
}

#[test]
fn an_owed_checksum_is_completed_first() {
    let mut frame = Spec { df: false, ..Spec::udp4(vec![8; 3000]) }.build();
    let headers = parse(&frame).unwrap();
    checksum::owe(&mut frame, &headers);
    prepare(&mut frame, &headers, true);
    assert!(checksums_hold(&frame));
}
