//! UDP (RFC 768).

use zerocopy::network_endian::U16;

use crate::wire::header;

header! {
    /// The UDP header.
    Header, 8 {
        /// Source port.
        src_port: U16,
        /// Destination port.
        dst_port: U16,
        /// Header and payload, bytes.
        len: U16,
        /// Checksum; 0 means none.
        checksum: U16,
    }
}

/// Length of the header, bytes.
pub const LEN: usize = Header::LEN;
/// Offset of the length.
pub const LENGTH: usize = 4;
/// Offset of the checksum.
pub const CHECKSUM: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields() {
        let header = Header::of(&[0x12, 0xb5, 0, 53, 0, 9, 0xab, 0xcd, 7]).unwrap();
        assert_eq!(
            (header.src_port.get(), header.dst_port.get(), header.len.get(), header.checksum.get()),
            (4789, 53, 9, 0xabcd)
        );
    }
}
