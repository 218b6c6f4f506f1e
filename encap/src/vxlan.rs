//! VXLAN (RFC 7348). The outer Ethernet, IP and UDP headers are the kernel's; these 8 bytes are ours.

use zerocopy::network_endian::U32;

use crate::wire::header;
use crate::{Reason, Vni};

header! {
    /// The VXLAN header.
    Header, 8 {
        /// [`FLAGS`]; everything else is reserved.
        flags: U32,
        /// VNI in the upper 24 bits, the rest reserved.
        vni: U32,
    }
}

/// Length of the header, bytes.
pub const LEN: usize = Header::LEN;
/// The flags word: the I bit (a VNI is present), all reserved bits zero.
pub const FLAGS: u32 = 0x0800_0000;
/// The UDP port that IANA assigned.
pub const PORT: u16 = 4789;
/// What encapsulation adds between an inner frame and the outer IPv4 packet: inner Ethernet (14), VXLAN (8), UDP (8)
/// and IPv4 (20). Inner MTU = underlay MTU - this.
pub const OVERHEAD_V4: usize = 50;
/// Like [`OVERHEAD_V4`] for IPv6.
pub const OVERHEAD_V6: usize = 70;

/// The header for `vni`, as bytes.
#[inline]
pub const fn header(vni: Vni) -> [u8; LEN] {
    let [_, a, b, c] = vni.get().to_be_bytes();
    [0x08, 0, 0, 0, a, b, c, 0]
}

/// Writes the header into the first 8 bytes of `out`. Panics if there are fewer.
#[inline]
pub fn push(out: &mut [u8], vni: Vni) {
    out[..LEN].copy_from_slice(&header(vni));
}

/// Takes the header off a UDP payload: the VNI and the inner frame.
///
/// Stricter than RFC 7348 section 5, which ignores reserved bits: a set one marks an extension (GBP, GPE) that this
/// switch does not speak, so its payload may not be what it seems.
///
/// # Errors
/// [`Reason::TunnelHeader`] when truncated, I clear or a reserved bit set; [`Reason::TunnelVni`] for VNI 0.
#[inline]
pub fn pop(datagram: &[u8]) -> Result<(Vni, &[u8]), Reason> {
    let header = Header::of(datagram).ok_or(Reason::TunnelHeader)?;
    let word = header.vni.get();
    if header.flags.get() != FLAGS || word & 0xff != 0 {
        return Err(Reason::TunnelHeader);
    }
    Ok((Vni::new(word >> 8).ok_or(Reason::TunnelVni)?, &datagram[LEN..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_reserved_bits() {
        let vni = Vni::new(0x12_3456).unwrap();
        let mut datagram = [0u8; 10];
        push(&mut datagram, vni);
        assert_eq!(datagram, [8, 0, 0, 0, 0x12, 0x34, 0x56, 0, 0, 0]);
        assert_eq!(pop(&datagram), Ok((vni, &[0u8, 0][..])));
        for bit in 0..64 {
            let mut bad = datagram;
            bad[bit / 8] ^= 0x80 >> (bit % 8);
            let in_vni = (32..56).contains(&bit);
            assert_eq!(pop(&bad).is_ok(), in_vni, "bit {bit}");
        }
        assert_eq!(pop(&datagram[..7]), Err(Reason::TunnelHeader));
        assert_eq!(pop(&[8, 0, 0, 0, 0, 0, 0, 0]), Err(Reason::TunnelVni));
    }
}
