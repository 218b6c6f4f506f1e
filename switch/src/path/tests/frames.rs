//! Frames as pods send them, made by etherparse: nothing here is our own code under test.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use etherparse::PacketBuilder;
use weft_encap::MacAddr;

/// Both MACs: source, destination.
pub(super) type Macs = (MacAddr, MacAddr);

/// A UDP datagram with `len` payload bytes, TTL 64, DF in IPv4.
pub(super) fn udp(macs: Macs, src: impl Into<IpAddr>, dst: impl Into<IpAddr>, len: usize) -> Vec<u8> {
    udp_ports(macs, src, dst, (4000, 5000), 64, len)
}

pub(super) fn udp_ports(
    (src_mac, dst_mac): Macs,
    src: impl Into<IpAddr>,
    dst: impl Into<IpAddr>,
    ports: (u16, u16),
    ttl: u8,
    len: usize,
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(src_mac.0, dst_mac.0);
    let builder = match (src.into(), dst.into()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => builder.ipv4(src.octets(), dst.octets(), ttl),
        (IpAddr::V6(src), IpAddr::V6(dst)) => builder.ipv6(src.octets(), dst.octets(), ttl),
        _ => panic!("families differ"),
    };
    let mut out = Vec::new();
    let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
    builder.udp(ports.0, ports.1).write(&mut out, &payload).unwrap();
    out
}

/// A TCP segment with `len` payload bytes, DF in IPv4.
pub(super) fn tcp(
    (src_mac, dst_mac): Macs,
    src: impl Into<IpAddr>,
    dst: impl Into<IpAddr>,
    len: usize,
) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(src_mac.0, dst_mac.0);
    let builder = match (src.into(), dst.into()) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => builder.ipv4(src.octets(), dst.octets(), 64),
        (IpAddr::V6(src), IpAddr::V6(dst)) => builder.ipv6(src.octets(), dst.octets(), 64),
        _ => panic!("families differ"),
    };
    let mut out = Vec::new();
    builder.tcp(40_000, 80, 1000, 500).ack(7).write(&mut out, &vec![7; len]).unwrap();
    out
}

/// Clears DF and sets the identification.
pub(super) fn may_fragment(mut frame: Vec<u8>) -> Vec<u8> {
    frame[18..20].copy_from_slice(&[0x12, 0x34]);
    frame[20] &= !0x40;
    weft_encap::ipv4::fill_checksum(&mut frame[14..34]);
    frame
}

/// The same as the last fragment of a packet.
pub(super) fn later_fragment(mut frame: Vec<u8>) -> Vec<u8> {
    frame[20..22].copy_from_slice(&[0, 100]);
    weft_encap::ipv4::fill_checksum(&mut frame[14..34]);
    frame
}

pub(super) fn icmp4((src_mac, dst_mac): Macs, src: Ipv4Addr, dst: Ipv4Addr, kind: u8, code: u8) -> Vec<u8> {
    let mut out = Vec::new();
    PacketBuilder::ethernet2(src_mac.0, dst_mac.0)
        .ipv4(src.octets(), dst.octets(), 64)
        .icmpv4_raw(kind, code, [0, 1, 0, 2])
        .write(&mut out, &[9; 24])
        .unwrap();
    out
}

pub(super) fn icmp6(
    (src_mac, dst_mac): Macs,
    src: Ipv6Addr,
    dst: Ipv6Addr,
    (kind, hop_limit): (u8, u8),
    body: &[u8],
) -> Vec<u8> {
    let mut out = Vec::new();
    let (head, rest) = body.split_first_chunk().expect("at least four bytes");
    PacketBuilder::ethernet2(src_mac.0, dst_mac.0)
        .ipv6(src.octets(), dst.octets(), hop_limit)
        .icmpv6_raw(kind, 0, *head)
        .write(&mut out, rest)
        .unwrap();
    out
}

/// A neighbour solicitation (135) or advertisement (136) with a link-layer address option.
pub(super) fn nd(
    macs: Macs,
    (src, dst): (Ipv6Addr, Ipv6Addr),
    kind: u8,
    target: Ipv6Addr,
    option: Option<(u8, MacAddr)>,
) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend(target.octets());
    if let Some((kind, mac)) = option {
        body.extend([kind, 1]);
        body.extend(mac.0);
    }
    icmp6(macs, src, dst, (kind, 255), &body)
}

/// An ARP packet of operation 1 (request) or 2 (reply).
pub(super) fn arp(
    (src_mac, dst_mac): Macs,
    operation: u16,
    sender: (MacAddr, Ipv4Addr),
    target: (MacAddr, Ipv4Addr),
) -> Vec<u8> {
    let packet = etherparse::ArpPacket::new(
        etherparse::ArpHardwareId::ETHERNET,
        etherparse::EtherType::IPV4,
        etherparse::ArpOperation(operation),
        &sender.0.0,
        &sender.1.octets(),
        &target.0.0,
        &target.1.octets(),
    )
    .unwrap();
    let mut out = Vec::new();
    PacketBuilder::ethernet2(src_mac.0, dst_mac.0).arp(packet).write(&mut out).unwrap();
    out
}

/// The same frame with a tag of this ethertype and control word.
pub(super) fn tagged(frame: &[u8], ethertype: u16, tci: u16) -> Vec<u8> {
    let mut out = frame[..12].to_vec();
    out.extend(ethertype.to_be_bytes());
    out.extend(tci.to_be_bytes());
    out.extend(&frame[12..]);
    out
}
