//! ICMPv6 (RFC 4443), neighbour discovery (RFC 4861) and multicast listener discovery (RFC 2710, RFC 3810).

use std::net::Ipv6Addr;

use zerocopy::network_endian::U16;

use crate::MacAddr;
use crate::wire::header;

header! {
    /// The first 8 bytes, which every message has.
    Header, 8 {
        /// Message type.
        kind: u8,
        /// Code within the type.
        code: u8,
        /// Checksum over pseudo-header and message.
        checksum: U16,
        /// Identifier of an echo; high half of the MTU in Packet Too Big; flags of an advertisement.
        id: U16,
        /// Sequence of an echo; low half of the MTU in Packet Too Big.
        seq: U16,
    }
}

header! {
    /// Neighbour solicitation or advertisement, without options.
    Neighbour, 24 {
        /// [`NEIGHBOUR_SOLICITATION`] or [`NEIGHBOUR_ADVERTISEMENT`].
        kind: u8,
        /// 0.
        code: u8,
        /// Checksum over pseudo-header and message.
        checksum: U16,
        /// [`NA_ROUTER`], [`NA_SOLICITED`], [`NA_OVERRIDE`] and zeros.
        flags: [u8; 4],
        /// The address asked for or spoken about.
        target: [u8; 16],
    }
}

/// Length of the common header, bytes.
pub const LEN: usize = Header::LEN;
/// Offset of the checksum.
pub const CHECKSUM: usize = 2;
/// Type: destination unreachable.
pub const UNREACHABLE: u8 = 1;
/// Type: packet too big.
pub const PACKET_TOO_BIG: u8 = 2;
/// Type: time exceeded.
pub const TIME_EXCEEDED: u8 = 3;
/// Type: parameter problem.
pub const PARAMETER_PROBLEM: u8 = 4;
/// Type: echo request.
pub const ECHO_REQUEST: u8 = 128;
/// Type: echo reply.
pub const ECHO_REPLY: u8 = 129;
/// Type: multicast listener query.
pub const MLD_QUERY: u8 = 130;
/// Type: multicast listener report, version 1.
pub const MLD_REPORT: u8 = 131;
/// Type: multicast listener done.
pub const MLD_DONE: u8 = 132;
/// Type: router solicitation.
pub const ROUTER_SOLICITATION: u8 = 133;
/// Type: router advertisement.
pub const ROUTER_ADVERTISEMENT: u8 = 134;
/// Type: neighbour solicitation.
pub const NEIGHBOUR_SOLICITATION: u8 = 135;
/// Type: neighbour advertisement.
pub const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Type: redirect.
pub const REDIRECT: u8 = 137;
/// Type: multicast listener report, version 2.
pub const MLD2_REPORT: u8 = 143;
/// Code of [`UNREACHABLE`]: no route.
pub const CODE_NO_ROUTE: u8 = 0;
/// Code of [`UNREACHABLE`]: administratively prohibited.
pub const CODE_PROHIBITED: u8 = 1;
/// Code of [`UNREACHABLE`]: address does not answer.
pub const CODE_ADDRESS: u8 = 3;
/// Advertisement flag, in the first flag byte: the sender is a router.
pub const NA_ROUTER: u8 = 0x80;
/// Advertisement flag: it answers a solicitation.
pub const NA_SOLICITED: u8 = 0x40;
/// Advertisement flag: replace a cached link-layer address.
pub const NA_OVERRIDE: u8 = 0x20;
/// Option: source link-layer address.
pub const OPT_SOURCE_MAC: u8 = 1;
/// Option: target link-layer address.
pub const OPT_TARGET_MAC: u8 = 2;

/// True for error messages, which must never be answered by an error (RFC 4443 section 2.4 e).
pub const fn is_error(kind: u8) -> bool {
    kind < 128
}

/// True for the five messages of neighbour discovery.
pub const fn is_nd(kind: u8) -> bool {
    kind >= ROUTER_SOLICITATION && kind <= REDIRECT
}

/// True for multicast listener messages.
pub const fn is_mld(kind: u8) -> bool {
    matches!(kind, MLD_QUERY | MLD_REPORT | MLD_DONE | MLD2_REPORT)
}

impl Neighbour {
    /// The address asked for or spoken about.
    pub fn target(&self) -> Ipv6Addr {
        self.target.into()
    }
}

/// The link-layer address option `kind` of a neighbour discovery message, whose options start at `options`.
/// A malformed option list (RFC 4861 section 4.6: length 0, or past the end) ends the search.
pub fn link_layer_option(mut options: &[u8], kind: u8) -> Option<MacAddr> {
    while let [k, len, rest @ ..] = options {
        let len = usize::from(*len) * 8;
        if len == 0 || len > options.len() {
            return None;
        }
        if *k == kind && len == 8 {
            return rest[..6].try_into().ok().map(MacAddr);
        }
        options = &options[len..];
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_bounded() {
        let mac = MacAddr([2, 0, 0, 0, 0, 9]);
        let good = [14, 1, 1, 2, 3, 4, 5, 6, 1, 1, 2, 0, 0, 0, 0, 9];
        assert_eq!(link_layer_option(&good, OPT_SOURCE_MAC), Some(mac));
        assert_eq!(link_layer_option(&good, OPT_TARGET_MAC), None);
        assert_eq!(link_layer_option(&good[..15], OPT_SOURCE_MAC), None);
        assert_eq!(link_layer_option(&[1, 0, 2, 0, 0, 0, 0, 9], OPT_SOURCE_MAC), None);
        assert!(is_nd(133) && is_nd(137) && !is_nd(138) && is_mld(143) && is_error(1) && !is_error(128));
    }
}
