use super::*;
use crate::parse;
use crate::support::{Spec, checksums_hold};

/// RFC 1071 by the letter: one 16-bit word at a time.
fn plain_sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[test]
fn every_length_sums_as_the_rfc_says() {
    let data: Vec<u8> = (0..4500u32).map(|n| (n * 37 + 200) as u8).collect();
    for len in (0..400).chain(2040..2060).chain(4090..4500) {
        assert_eq!(Sum::of(&data[..len]).fold(), plain_sum(&data[..len]), "{len}");
        let mut copy = vec![0; len];
        assert_eq!(copy_and_sum(&mut copy, &data[..len]).fold(), plain_sum(&data[..len]), "{len}");
        assert_eq!(copy, data[..len]);
    }
    // The example of RFC 1071 section 3.
    assert_eq!(Sum::of(&[0, 1, 0xf2, 3, 0xf4, 0xf5, 0xf6, 0xf7]).fold(), 0xddf2);
    assert_eq!(Sum::of(&[0xff; 65_536]).fold(), 0xffff);
}

#[test]
fn words_and_bytes_are_the_same() {
    let sum = Sum::ZERO.add16(0x1234).add32(0x5678_9abc);
    assert_eq!(sum.fold(), Sum::of(&[0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc]).fold());
    // RFC 1624 section 4: the case that RFC 1141 gets wrong.
    assert_eq!(update16(0xdd2f, 0x5555, 0x3285), 0x0000);
}

#[test]
fn states_of_a_frame() {
    for v6 in [false, true] {
        for tcp in [false, true] {
            let mut frame = Spec { v6, tcp, ..Spec::tcp4(b"hello".to_vec()) }.build();
            let headers = parse(&frame).unwrap();
            assert_eq!(state(&frame, &headers), State::Verified);
            owe(&mut frame, &headers);
            assert_eq!(state(&frame, &headers), State::Owed);
            complete(&mut frame, &headers);
            assert!(checksums_hold(&frame));
            let last = frame.len() - 1;
            frame[last] ^= 0x10;
            assert_eq!(state(&frame, &headers), State::Wrong);
        }
    }
}

#[test]
fn udp_without_checksum_is_no_error() {
    let mut frame = Spec::udp4(b"hello".to_vec()).build();
    frame[40..42].fill(0);
    let headers = parse(&frame).unwrap();
    assert_eq!(state(&frame, &headers), State::NoChecksum);
}

#[test]
fn udp_checksum_is_never_zero() {
    // Chosen so that the sum is ffff: the field would be 0, which means none.
    let mut spec = Spec::udp4(vec![0, 0]);
    let sum = {
        let frame = spec.build();
        u16::from_be_bytes([frame[40], frame[41]])
    };
    spec.payload = sum.to_be_bytes().to_vec();
    let mut frame = spec.build();
    let headers = parse(&frame).unwrap();
    complete(&mut frame, &headers);
    assert_eq!(frame[40..42], [0xff, 0xff]);
    assert_eq!(state(&frame, &headers), State::Verified);
}
