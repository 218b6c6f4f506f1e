use super::*;
use crate::parse;
use crate::support::Spec;

fn key(ingress: u32, spec: &Spec) -> FlowKey {
    let frame = spec.build();
    FlowKey::new(ingress, 0, &parse(&frame).unwrap(), &frame).unwrap()
}

fn hash(spec: &Spec) -> u32 {
    let frame = spec.build();
    flow_hash(&parse(&frame).unwrap(), &frame)
}

#[test]
fn every_field_tells_flows_apart() {
    let base = Spec::udp4(vec![1]);
    let keys = [
        key(1, &base),
        key(2, &base),
        FlowKey::new(1, 1, &parse(&base.build()).unwrap(), &base.build()).unwrap(),
        key(1, &Spec { tcp: true, ..base.clone() }),
        key(1, &Spec { vlan: Some(1), ..base.clone() }),
        key(1, &base.clone().v6()),
    ];
    let hashes: std::collections::HashSet<_> =
        keys.iter().map(|key| key.hash(&HashSecret::default())).collect();
    assert_eq!(hashes.len(), keys.len());
    let alike = Spec { ttl: 3, id: 9, ports: (40001, 81), payload: vec![0; 100], ..base.clone() };
    assert_eq!(key(1, &base), key(1, &alike));
    for at in (0..12).chain(14 + 12..14 + 20) {
        let mut frame = base.build();
        frame[at] ^= 2;
        ipv4::fill_checksum(&mut frame[14..34]);
        let other = FlowKey::new(1, 0, &parse(&frame).unwrap(), &frame).unwrap();
        assert_ne!(other, keys[0], "byte {at}");
    }
    let mut frame = base.build();
    frame[5] ^= 1;
    assert_ne!(FlowKey::new(1, 0, &parse(&frame).unwrap(), &frame).unwrap(), keys[0]);
    // A tag with identifier 0 is not the same as no tag.
    let mut tagged = base.build();
    tagged.splice(12..12, [0x81, 0, 0, 0]);
    assert_ne!(FlowKey::new(1, 0, &parse(&tagged).unwrap(), &tagged).unwrap(), keys[0]);
}

#[test]
fn flows_that_collide_under_one_secret_do_not_under_another() {
    // A destination MAC and tag that make one factor of the known secret 0: its partner no longer counts.
    let keys = [1, 2].map(|ingress| {
        let mut frame = Spec { vlan: Some(0x8db), ..Spec::udp4(vec![1]) }.build();
        frame[..6].copy_from_slice(&[0xe7, 0x03, 0x7e, 0xd1, 0xa0, 0xb4]);
        frame[14] |= 0x20;
        FlowKey::new(ingress, 0, &parse(&frame).unwrap(), &frame).unwrap()
    });
    let hashes = |secret: HashSecret| keys.map(|key| key.hash(&secret));
    let [a, b] = hashes(HashSecret::default());
    assert_eq!(a, b, "chosen to collide");
    let [a, b] = hashes(HashSecret::new([3u64, 5, 7, 11].map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15))));
    assert_ne!(a, b);
}

#[test]
fn what_needs_a_look_each_time_has_no_key() {
    let mut out = [0u8; 100];
    let mac = MacAddr([2, 0, 0, 0, 0, 1]);
    let len =
        crate::build::arp::request(&mut out, (mac, [10, 0, 0, 1].into()), [10, 0, 0, 2].into()).unwrap();
    assert_eq!(FlowKey::new(1, 0, &parse(&out[..len]).unwrap(), &out[..len]), None);
    let sender = (mac, "fe80::1".parse().unwrap());
    let len = crate::build::nd::solicitation(&mut out, sender, "fe80::2".parse().unwrap()).unwrap();
    assert_eq!(FlowKey::new(1, 0, &parse(&out[..len]).unwrap(), &out[..len]), None);
}

#[test]
fn source_ports_are_in_range_stable_and_spread() {
    let base = Spec::tcp4(vec![]);
    let ports: Vec<u16> =
        (0..4096u16).map(|n| source_port(hash(&Spec { ports: (32768 + n, 5201), ..base.clone() }))).collect();
    assert!(ports.iter().all(|port| *port >= 49152));
    assert_eq!((source_port(0), source_port(u32::MAX)), (49152, 65535));
    assert_eq!(hash(&base), hash(&Spec { payload: vec![0; 3000], ttl: 5, seq: 9, ..base.clone() }));
    // 4096 balls in 64 urns: 64 each; 6 standard deviations are 48.
    for bits in [0, 8] {
        let mut urns = [0u32; 64];
        ports.iter().for_each(|port| urns[usize::from(port >> bits) & 63] += 1);
        assert!(urns.iter().all(|balls| (16..=112).contains(balls)), "{urns:?}");
    }
}

#[test]
fn fragments_of_a_packet_stay_together() {
    let frame = Spec { df: false, ..Spec::udp4(vec![0; 3000]) }.build();
    let headers = parse(&frame).unwrap();
    let mut pieces = crate::frag::fragments(&frame, &headers, 1000).unwrap();
    let mut out = [0u8; 1100];
    let mut hashes = std::collections::HashSet::new();
    while let Some(len) = pieces.next_into(&mut out) {
        hashes.insert(flow_hash(&parse(&out[..len]).unwrap(), &out[..len]));
    }
    assert_eq!(hashes.len(), 1);
}
