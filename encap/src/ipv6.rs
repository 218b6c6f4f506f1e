//! IPv6 and its extension headers (RFC 8200).

use std::net::Ipv6Addr;

use zerocopy::network_endian::{U16, U32};

use crate::wire::{header, put16};

header! {
    /// The fixed header.
    Header, 40 {
        /// Version (4 bits), traffic class (8), flow label (20).
        version_class_flow: U32,
        /// Everything behind this header, bytes.
        payload_len: U16,
        /// Protocol of the next header.
        next_header: u8,
        /// Hop limit.
        hop_limit: u8,
        /// Source.
        src: [u8; 16],
        /// Destination.
        dst: [u8; 16],
    }
}

/// Length of the fixed header, bytes.
pub const LEN: usize = Header::LEN;
/// Offset of the payload length.
pub const PAYLOAD_LEN: usize = 4;
/// Offset of the next header's protocol.
pub const NEXT_HEADER: usize = 6;
/// Offset of the hop limit.
pub const HOP_LIMIT: usize = 7;
/// Offset of the source address.
pub const SRC: usize = 8;
/// Offset of the destination address.
pub const DST: usize = 24;
/// The smallest MTU of an IPv6 link, bytes (RFC 8200 section 5).
pub const MIN_MTU: usize = 1280;

/// Next header: hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Next header: routing header.
pub const ROUTING: u8 = 43;
/// Next header: fragment header.
pub const FRAGMENT: u8 = 44;
/// Next header: authentication header (RFC 4302).
pub const AUTHENTICATION: u8 = 51;
/// Next header: nothing follows.
pub const NO_NEXT: u8 = 59;
/// Next header: destination options.
pub const DESTINATION: u8 = 60;

impl Header {
    /// Traffic class: DSCP and ECN.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        (self.version_class_flow.get() >> 20) as u8
    }

    /// Flow label, 20 bits (RFC 6437).
    pub fn flow_label(&self) -> u32 {
        self.version_class_flow.get() & 0xf_ffff
    }

    /// Source address.
    pub fn source(&self) -> Ipv6Addr {
        self.src.into()
    }

    /// Destination address.
    pub fn destination(&self) -> Ipv6Addr {
        self.dst.into()
    }
}

/// Rewrites the traffic class of the header at the start of `packet`; version and flow label stay.
#[inline]
pub fn set_traffic_class(packet: &mut [u8], class: u8) {
    packet[0] = (packet[0] & 0xf0) | (class >> 4);
    packet[1] = (packet[1] & 0x0f) | (class << 4);
}

/// Writes a fixed header with traffic class 0 and flow label 0. Panics if `out` is shorter than [`LEN`].
pub fn write(out: &mut [u8], src: Ipv6Addr, dst: Ipv6Addr, next_header: u8, hop_limit: u8, payload_len: u16) {
    out[..4].copy_from_slice(&[0x60, 0, 0, 0]);
    put16(out, PAYLOAD_LEN, payload_len);
    out[NEXT_HEADER] = next_header;
    out[HOP_LIMIT] = hop_limit;
    out[SRC..SRC + 16].copy_from_slice(&src.octets());
    out[DST..DST + 16].copy_from_slice(&dst.octets());
}

/// The solicited-node multicast address of `target` (RFC 4291 section 2.7.1).
pub fn solicited_node(target: Ipv6Addr) -> Ipv6Addr {
    let t = target.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, t[13], t[14], t[15]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_and_label_share_a_word() {
        let mut header = [0u8; LEN];
        write(&mut header, Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED, 6, 64, 20);
        header[1] = 0x0a;
        header[3] = 0xbc;
        set_traffic_class(&mut header, 0xb9);
        let view = Header::of(&header).unwrap();
        assert_eq!((view.traffic_class(), view.flow_label()), (0xb9, 0xa_00bc));
        assert_eq!(header[0] >> 4, 6);
        assert_eq!(solicited_node("fd00::12:3456".parse().unwrap()).to_string(), "ff02::1:ff12:3456");
    }
}
