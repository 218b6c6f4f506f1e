//! Packet bytes: what a frame is made of, how it is read and how it is changed.
//!
//! This crate does no I/O, reads no clock and holds no unsafe code. Every function takes bytes and gives bytes,
//! offsets, or a named [`Reason`] to drop the frame. Nothing allocates: output goes to the caller's buffers.
//!
//! A [`Headers`] value belongs to the frame it was parsed from. Functions that take both index by its offsets, so a
//! foreign pair may panic; bytes alone never do.
#![forbid(unsafe_code)]

/// Acknowledgments that a later one makes needless.
pub mod ack;
/// MAC addresses, VXLAN network identifiers, VLAN identifiers.
pub mod addr;
/// ARP for IPv4.
pub mod arp;
/// Frames that the switch itself sends.
pub mod build;
/// The Internet checksum: sums, updates, what a frame's checksum says.
pub mod checksum;
/// Congestion marks across the tunnel.
pub mod ecn;
/// Changes in place: MAC addresses, TTL, traffic class, tag.
pub mod edit;
/// Ethernet.
pub mod eth;
/// Flow keys and flow hashes.
pub mod flow;
/// IPv4 fragmentation.
pub mod frag;
/// Gluing segments into a superframe.
pub mod gro;
/// Cutting a superframe into segments.
pub mod gso;
/// ICMP for IPv4.
pub mod icmp;
/// ICMPv6, neighbour discovery, multicast listener discovery.
pub mod icmpv6;
/// IPv4.
pub mod ipv4;
/// IPv6 and its extension headers.
pub mod ipv6;
/// Headers before a superframe that leaves whole.
pub mod outer;
/// The one pass that turns bytes into [`Headers`].
pub mod parse;
/// IP protocol numbers.
pub mod proto;
/// The one list of reasons for which a frame may die.
pub mod reason;
/// TCP.
pub mod tcp;
/// UDP.
pub mod udp;
/// The 802.1Q tag.
pub mod vlan;
/// The header that a TAP puts before every frame.
pub mod vnet;
/// The VXLAN header.
pub mod vxlan;
mod wire;

pub use addr::{MacAddr, VlanId, Vni};
pub use flow::FlowKey;
pub use parse::{Fragment, Headers, L3, L4, parse, parse_plain};
pub use reason::Reason;
pub use vnet::{Gso, VnetHdr};

#[cfg(test)]
#[path = "../tests/support/mod.rs"]
mod support;
