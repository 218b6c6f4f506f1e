//! Ethernet II (IEEE 802.3).

use zerocopy::network_endian::U16;

use crate::MacAddr;
use crate::wire::header;

header! {
    /// The untagged Ethernet header.
    Header, 14 {
        /// Destination.
        dst: MacAddr,
        /// Source.
        src: MacAddr,
        /// Ethertype, or a length when below 0x0600.
        ethertype: U16,
    }
}

/// Length of the untagged header, bytes.
pub const LEN: usize = Header::LEN;
/// Offset of the destination address.
pub const DST: usize = 0;
/// Offset of the source address.
pub const SRC: usize = 6;
/// Offset of the ethertype of an untagged frame.
pub const ETHERTYPE: usize = 12;
/// Shortest frame on a real wire, without its check sequence, bytes.
pub const MIN_FRAME: usize = 60;

/// Ethertype of IPv4.
pub const IPV4: u16 = 0x0800;
/// Ethertype of ARP.
pub const ARP: u16 = 0x0806;
/// Ethertype of an IEEE 802.1Q tag.
pub const VLAN: u16 = 0x8100;
/// Ethertype of an IEEE 802.1ad service tag.
pub const QINQ: u16 = 0x88a8;
/// Ethertype of IPv6.
pub const IPV6: u16 = 0x86dd;

/// Writes an untagged header at the start of `frame`. Panics if `frame` is shorter than [`LEN`].
pub fn write(frame: &mut [u8], dst: MacAddr, src: MacAddr, ethertype: u16) {
    frame[DST..DST + 6].copy_from_slice(&dst.0);
    frame[SRC..SRC + 6].copy_from_slice(&src.0);
    frame[ETHERTYPE..LEN].copy_from_slice(&ethertype.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_wrote() {
        let mut frame = [0u8; LEN];
        let (dst, src) = (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2]));
        write(&mut frame, dst, src, IPV6);
        assert_eq!(frame, [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd]);
        let header = Header::of(&frame).unwrap();
        assert_eq!((header.dst, header.src, header.ethertype.get()), (dst, src, IPV6));
        assert!(Header::of(&frame[..13]).is_none());
    }
}
