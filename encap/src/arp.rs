//! ARP for IPv4 over Ethernet (RFC 826), probes and announcements (RFC 5227).

use std::net::Ipv4Addr;

use zerocopy::network_endian::U16;

use crate::wire::header;
use crate::{MacAddr, eth};

header! {
    /// An ARP packet for IPv4 over Ethernet.
    Packet, 28 {
        /// Hardware type, 1 for Ethernet.
        hardware: U16,
        /// Protocol type, an ethertype.
        protocol: U16,
        /// Length of a hardware address, 6.
        hardware_len: u8,
        /// Length of a protocol address, 4.
        protocol_len: u8,
        /// [`REQUEST`] or [`REPLY`].
        operation: U16,
        /// Sender's MAC address.
        sender_mac: MacAddr,
        /// Sender's IPv4 address; all zeros in a probe.
        sender_ip: [u8; 4],
        /// Target's MAC address; meaningless in a request.
        target_mac: MacAddr,
        /// Target's IPv4 address.
        target_ip: [u8; 4],
    }
}

/// Length of the packet, bytes.
pub const LEN: usize = Packet::LEN;
/// Operation: who has the target address?
pub const REQUEST: u16 = 1;
/// Operation: the sender has the sender address.
pub const REPLY: u16 = 2;

impl Packet {
    /// A packet of `operation`.
    pub fn new(operation: u16, sender: (MacAddr, Ipv4Addr), target: (MacAddr, Ipv4Addr)) -> Self {
        Packet {
            hardware: U16::new(1),
            protocol: U16::new(eth::IPV4),
            hardware_len: 6,
            protocol_len: 4,
            operation: U16::new(operation),
            sender_mac: sender.0,
            sender_ip: sender.1.octets(),
            target_mac: target.0,
            target_ip: target.1.octets(),
        }
    }

    /// True when types and lengths are those of IPv4 over Ethernet.
    pub fn is_valid(&self) -> bool {
        self.hardware.get() == 1
            && self.protocol.get() == eth::IPV4
            && self.hardware_len == 6
            && self.protocol_len == 4
    }

    /// Sender's IPv4 address.
    pub fn sender(&self) -> Ipv4Addr {
        self.sender_ip.into()
    }

    /// Target's IPv4 address.
    pub fn target(&self) -> Ipv4Addr {
        self.target_ip.into()
    }

    /// True for an RFC 5227 probe: a request whose sender has no address yet.
    pub fn is_probe(&self) -> bool {
        self.operation.get() == REQUEST && self.sender().is_unspecified()
    }

    /// True for an announcement ("gratuitous ARP"): sender and target address are the same.
    pub fn is_announcement(&self) -> bool {
        self.sender_ip == self.target_ip
    }
}

#[cfg(test)]
mod tests {
    use zerocopy::IntoBytes;

    use super::*;

    #[test]
    fn request_as_captured() {
        // tcpdump -xx of `arping -c1 10.1.0.1` from 10.1.0.2.
        let bytes = [0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 2, 10, 1, 0, 2, 0, 0, 0, 0, 0, 0, 10, 1, 0, 1];
        let packet = Packet::of(&bytes).unwrap();
        assert!(packet.is_valid() && !packet.is_probe() && !packet.is_announcement());
        let mine = Packet::new(
            REQUEST,
            (MacAddr([2, 0, 0, 0, 0, 2]), Ipv4Addr::new(10, 1, 0, 2)),
            (MacAddr::ZERO, Ipv4Addr::new(10, 1, 0, 1)),
        );
        assert_eq!(mine.as_bytes(), bytes);
    }
}
