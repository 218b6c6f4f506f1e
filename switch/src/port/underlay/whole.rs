//! Superframes that leave whole: by a device of the kernel that segments UDP tunnels, with all outer headers of our own.
//! On the wire they are what cut ones are: addresses, ports, marks, checksums.

use std::io::ErrorKind;

use weft_encap::Reason;
use weft_encap::gso::Plan;
use weft_encap::outer::{MAX_LEN, Outer};
use weft_sys::tunnel_gso;

use super::{Outcome, Packet, Underlay};
use crate::table::Peer;

const _: () = assert!(weft_encap::outer::VNET_LEN == tunnel_gso::VNET_HDR_LEN);
const _: () = assert!(weft_encap::outer::LONGEST_AT == tunnel_gso::LONGEST_AT);

/// Sends a superframe whole. `id` is the IPv4 identification of its first packet. `None`: it has to be cut, because there is
/// no such device, the frame does not suit it, or it did not take it.
#[inline]
pub(super) fn send(
    underlay: &Underlay,
    peer: &Peer,
    packet: &Packet,
    plan: &Plan,
    id: u16,
) -> Option<Outcome> {
    let whole = underlay.whole.load();
    let device = whole.as_deref()?;
    let source = underlay.source(peer.remote.is_ipv6(), packet.sender)?;
    // No source yet: the kernel would choose it for each send.
    if source.ip().is_unspecified() {
        return None;
    }
    let Packet { frame, headers, .. } = packet;
    let outer = Outer { source, destination: peer.remote, tos: packet.tos(), id, vni: peer.vni };
    let mut bytes = [0; MAX_LEN];
    let len = outer.write(&mut bytes, &frame.vnet, headers, frame.len())?;
    let outcome = Outcome { sends: 1, whole: true, ..Outcome::default() };
    let packets = plan.count() as u64;
    match device.send(&bytes[..len], frame.bytes()) {
        Ok(()) => Some(Outcome { packets, bytes: plan.bytes() as u64, ..outcome }),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            Some(Outcome { refused: packets, reason: Some(Reason::QueueFull), ..outcome })
        }
        Err(_) => None,
    }
}
