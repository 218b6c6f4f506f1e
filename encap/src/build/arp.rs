//! ARP (RFC 826, RFC 5227).

use std::net::Ipv4Addr;

use zerocopy::IntoBytes;

use crate::arp::{Packet, REPLY, REQUEST};
use crate::{MacAddr, eth};

/// Length of an ARP frame without padding, bytes.
pub const LEN: usize = eth::LEN + Packet::LEN;

/// "Who has `target`?" from `sender`, to everyone.
pub fn request(out: &mut [u8], sender: (MacAddr, Ipv4Addr), target: Ipv4Addr) -> Option<usize> {
    write(out, MacAddr::BROADCAST, &Packet::new(REQUEST, sender, (MacAddr::ZERO, target)))
}

/// "`sender` is at that address", to the asker.
pub fn reply(out: &mut [u8], sender: (MacAddr, Ipv4Addr), asker: (MacAddr, Ipv4Addr)) -> Option<usize> {
    write(out, asker.0, &Packet::new(REPLY, sender, asker))
}

/// The reply to `request`, whose target is at `mac`. To a probe (RFC 5227) it names 0.0.0.0, as asked.
pub fn answer(out: &mut [u8], request: &Packet, mac: MacAddr) -> Option<usize> {
    if request.operation.get() != REQUEST || !request.sender_mac.is_unicast() {
        return None;
    }
    reply(out, (mac, request.target()), (request.sender_mac, request.sender()))
}

fn write(out: &mut [u8], dst: MacAddr, packet: &Packet) -> Option<usize> {
    let out = out.get_mut(..LEN)?;
    eth::write(out, dst, packet.sender_mac, eth::ARP);
    out[eth::LEN..].copy_from_slice(packet.as_bytes());
    Some(LEN)
}
