use super::*;
use crate::support::{Spec, checksums_hold};
use crate::{VnetHdr, parse};

#[test]
fn ttl_ends_at_one() {
    for v6 in [false, true] {
        let spec = Spec { ttl: 2, v6, ..Spec::udp4(vec![1, 2, 3]) };
        let mut frame = spec.build();
        let mut headers = parse(&frame).unwrap();
        decrement_ttl(&mut frame, &mut headers).unwrap();
        assert!(checksums_hold(&frame));
        assert_eq!((parse(&frame).unwrap(), headers.ttl), (headers, 1));
        let before = frame.clone();
        assert_eq!(decrement_ttl(&mut frame, &mut headers), Err(Reason::Ttl));
        assert_eq!(frame, before);
    }
}

#[test]
fn ttl_checksum_for_all_values() {
    for ttl in 2..=255 {
        for id in [0, 0x1234, 0xffff] {
            let mut frame = Spec { ttl, id, ..Spec::udp4(vec![]) }.build();
            let mut headers = parse(&frame).unwrap();
            decrement_ttl(&mut frame, &mut headers).unwrap();
            assert_eq!(parse(&frame).map(|h| h.ttl), Ok(ttl - 1), "{ttl} {id}");
        }
    }
}

#[test]
fn traffic_class_and_macs() {
    for v6 in [false, true] {
        let mut frame = Spec { tos: 0x2c, v6, ..Spec::tcp4(vec![1]) }.build();
        let mut headers = parse(&frame).unwrap();
        set_tos(&mut frame, &mut headers, 0x2f);
        set_macs(&mut frame, &mut headers, MacAddr([2; 6]), MacAddr([4; 6]));
        assert_eq!(parse(&frame), Ok(headers));
        assert_eq!(headers.tos, 0x2f);
        assert!(checksums_hold(&frame));
    }
}

#[test]
fn tag_comes_and_goes() {
    let frame = Spec::tcp4(vec![1, 2]).build();
    let headers = parse(&frame).unwrap();
    let mut buf = [&[0u8; 4][..], &frame].concat();
    let delta = push_vlan(&mut buf, 7);
    assert_eq!(buf, Spec { vlan: Some(7), ..Spec::tcp4(vec![1, 2]) }.build());
    let tagged = parse(&buf).unwrap();
    assert_eq!(moved(headers, delta, Some(7)), tagged);
    let vnet = VnetHdr::describe(&headers, crate::Gso::None, true).shifted(delta);
    assert_eq!(vnet, VnetHdr::describe(&tagged, crate::Gso::None, true));
    let delta = pop_vlan(&mut buf);
    assert_eq!(buf[4..], frame);
    assert_eq!(moved(tagged, delta, None), headers);
}
