//! TCP (RFC 9293).

use zerocopy::network_endian::{U16, U32};

use crate::wire::header;

header! {
    /// The header without options.
    Header, 20 {
        /// Source port.
        src_port: U16,
        /// Destination port.
        dst_port: U16,
        /// Sequence number.
        seq: U32,
        /// Acknowledgment number.
        ack: U32,
        /// Header length in 32-bit words (4 bits) and reserved bits.
        offset_reserved: u8,
        /// Flags, see [`FIN`] and its siblings.
        flags: u8,
        /// Receive window, unscaled.
        window: U16,
        /// Checksum.
        checksum: U16,
        /// Urgent pointer.
        urgent: U16,
    }
}

/// Length without options, bytes.
pub const LEN: usize = Header::LEN;
/// Offset of the sequence number.
pub const SEQ: usize = 4;
/// Offset of the acknowledgment number.
pub const ACK_NUMBER: usize = 8;
/// Offset of the byte with the header length.
pub const DATA_OFFSET: usize = 12;
/// Offset of the flags.
pub const FLAGS: usize = 13;
/// Offset of the window.
pub const WINDOW: usize = 14;
/// Offset of the checksum.
pub const CHECKSUM: usize = 16;
/// Flag: no more data from the sender.
pub const FIN: u8 = 0x01;
/// Flag: synchronise sequence numbers.
pub const SYN: u8 = 0x02;
/// Flag: reset.
pub const RST: u8 = 0x04;
/// Flag: push.
pub const PSH: u8 = 0x08;
/// Flag: the acknowledgment number is valid.
pub const ACK: u8 = 0x10;
/// Flag: the urgent pointer is valid.
pub const URG: u8 = 0x20;
/// Flag: ECN echo (RFC 3168).
pub const ECE: u8 = 0x40;
/// Flag: congestion window reduced (RFC 3168).
pub const CWR: u8 = 0x80;

impl Header {
    /// Header length with options, bytes, 0 to 60; below 20 it is malformed.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.offset_reserved >> 4) * 4
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let mut bytes = [0u8; 20];
        bytes[DATA_OFFSET] = 0x80;
        bytes[FLAGS] = SYN | ACK;
        bytes[SEQ..SEQ + 4].copy_from_slice(&0xdead_beefu32.to_be_bytes());
        let header = Header::of(&bytes).unwrap();
        assert_eq!((header.header_len(), header.flags, header.seq.get()), (32, 0x12, 0xdead_beef));
    }
}
