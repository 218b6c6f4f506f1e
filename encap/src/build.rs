//! Frames that the switch itself sends: ARP, neighbour discovery, echo replies, ICMP errors.
//!
//! Every function writes an untagged frame to `out` and gives its length in bytes, or `None` where no answer is
//! due or `out` is too short. `MAX_ANSWER` bytes are enough for all but echo replies.

/// ARP requests and replies.
pub mod arp;
/// Echo replies.
pub mod echo;
/// ICMP and ICMPv6 errors.
pub mod error;
/// Neighbour solicitations and advertisements.
pub mod nd;

/// The longest answer other than an echo reply: an ICMPv6 error, bytes.
pub const MAX_ANSWER: usize = crate::eth::LEN + crate::ipv6::MIN_MTU;

/// TTL and hop limit of what the switch sends (RFC 1340's default).
pub const TTL: u8 = 64;

#[cfg(test)]
mod tests;
