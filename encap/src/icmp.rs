//! ICMP for IPv4 (RFC 792; path MTU in RFC 1191).

use zerocopy::network_endian::U16;

use crate::wire::header;

header! {
    /// The first 8 bytes, which every message has.
    Header, 8 {
        /// Message type.
        kind: u8,
        /// Code within the type.
        code: u8,
        /// Checksum over the whole message.
        checksum: U16,
        /// Identifier of an echo; unused in errors.
        id: U16,
        /// Sequence of an echo; next-hop MTU in Fragmentation Needed.
        seq: U16,
    }
}

/// Length of the common header, bytes.
pub const LEN: usize = Header::LEN;
/// Offset of the checksum.
pub const CHECKSUM: usize = 2;
/// Type: echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Type: destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// Type: source quench, deprecated.
pub const SOURCE_QUENCH: u8 = 4;
/// Type: redirect.
pub const REDIRECT: u8 = 5;
/// Type: echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Type: time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Type: parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;
/// Code of [`UNREACHABLE`]: no route to the network.
pub const CODE_NET: u8 = 0;
/// Code of [`UNREACHABLE`]: host does not answer.
pub const CODE_HOST: u8 = 1;
/// Code of [`UNREACHABLE`]: fragmentation needed and DF set.
pub const CODE_FRAG_NEEDED: u8 = 4;
/// Code of [`UNREACHABLE`]: administratively prohibited (RFC 1812).
pub const CODE_PROHIBITED: u8 = 13;

/// True for messages that report an error and so must never be answered by one (RFC 1122 section 3.2.2).
/// Types that are not known count as errors.
pub const fn is_error(kind: u8) -> bool {
    !matches!(kind, ECHO_REPLY | ECHO_REQUEST | 9 | 10 | 13 | 14 | 15 | 16 | 17 | 18)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_from_queries() {
        assert!(is_error(UNREACHABLE) && is_error(REDIRECT) && is_error(200));
        assert!(!is_error(ECHO_REQUEST) && !is_error(ECHO_REPLY));
        let header = Header::of(&[8, 0, 0x12, 0x34, 0, 7, 0, 1]).unwrap();
        assert_eq!((header.kind, header.id.get(), header.seq.get()), (ECHO_REQUEST, 7, 1));
    }
}
