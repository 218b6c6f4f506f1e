//! IPv4 (RFC 791; identification per RFC 6864).

use std::net::Ipv4Addr;

use zerocopy::network_endian::U16;

use crate::checksum::Sum;
use crate::wire::{header, put16};

header! {
    /// The header without options.
    Header, 20 {
        /// Version (4 bits) and header length in 32-bit words (4 bits).
        version_ihl: u8,
        /// DSCP (6 bits) and ECN (2 bits).
        tos: u8,
        /// Header and payload, bytes.
        total_len: U16,
        /// Identification, meaningful for fragments only.
        id: U16,
        /// [`DF`], [`MF`] and the fragment offset in units of 8 bytes.
        flags_offset: U16,
        /// Time to live.
        ttl: u8,
        /// Protocol, see [`crate::proto`].
        protocol: u8,
        /// Header checksum.
        checksum: U16,
        /// Source.
        src: [u8; 4],
        /// Destination.
        dst: [u8; 4],
    }
}

/// Length without options, bytes.
pub const LEN: usize = Header::LEN;
/// Longest header, bytes.
pub const MAX_LEN: usize = 60;
/// Longest packet, bytes.
pub const MAX_PACKET: usize = 65_535;
/// Offset of the type-of-service byte.
pub const TOS: usize = 1;
/// Offset of the total length.
pub const TOTAL_LEN: usize = 2;
/// Offset of the identification.
pub const ID: usize = 4;
/// Offset of flags and fragment offset.
pub const FLAGS: usize = 6;
/// Offset of the time to live.
pub const TTL: usize = 8;
/// Offset of the protocol.
pub const PROTOCOL: usize = 9;
/// Offset of the header checksum.
pub const CHECKSUM: usize = 10;
/// Offset of the source address.
pub const SRC: usize = 12;
/// Offset of the destination address.
pub const DST: usize = 16;
/// Flag: do not fragment.
pub const DF: u16 = 0x4000;
/// Flag: more fragments follow.
pub const MF: u16 = 0x2000;
/// Mask of the fragment offset.
pub const OFFSET: u16 = 0x1fff;

impl Header {
    /// Header length with options, bytes, 0 to 60; below 20 it is malformed.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.version_ihl & 0x0f) * 4
    }

    /// Offset of this fragment's payload in the original packet, bytes.
    #[inline]
    pub fn fragment_offset(&self) -> u16 {
        (self.flags_offset.get() & OFFSET) << 3
    }

    /// Source address.
    pub fn source(&self) -> Ipv4Addr {
        self.src.into()
    }

    /// Destination address.
    pub fn destination(&self) -> Ipv4Addr {
        self.dst.into()
    }
}

/// Recomputes the checksum of `header` (options included, nothing behind it).
#[inline]
pub fn fill_checksum(header: &mut [u8]) {
    put16(header, CHECKSUM, 0);
    let sum = Sum::of(header).finish();
    put16(header, CHECKSUM, sum);
}

/// Writes a header without options, DF set, identification 0, with its checksum.
/// Panics if `out` is shorter than [`LEN`].
pub fn write(out: &mut [u8], src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, ttl: u8, payload_len: u16) {
    let out = &mut out[..LEN];
    out.fill(0);
    out[0] = 0x45;
    put16(out, TOTAL_LEN, LEN as u16 + payload_len);
    put16(out, FLAGS, DF);
    out[TTL] = ttl;
    out[PROTOCOL] = protocol;
    out[SRC..SRC + 4].copy_from_slice(&src.octets());
    out[DST..DST + 4].copy_from_slice(&dst.octets());
    fill_checksum(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_a_known_header() {
        // The worked example of RFC 1071 readers: 192.168.0.1 -> 192.168.0.199, checksum b861.
        let mut header =
            [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0, 0, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
        fill_checksum(&mut header);
        assert_eq!(header[10..12], [0xb8, 0x61]);
        let mut written = [0xaa; 20];
        write(
            &mut written,
            Ipv4Addr::new(192, 168, 0, 1),
            Ipv4Addr::new(192, 168, 0, 199),
            17,
            64,
            0x73 - 20,
        );
        assert_eq!(written, header);
        let view = Header::of(&header).unwrap();
        assert_eq!((view.header_len(), view.fragment_offset()), (20, 0));
    }
}
