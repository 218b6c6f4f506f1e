//! Superframes that leave whole: by a device of the kernel that segments UDP tunnels, with all outer headers of our own.
//! They look on the wire exactly as cut ones do, source port included.

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
    let (device, source) = underlay.whole(peer.remote.is_ipv6(), packet.sender)?;
    // No source yet: the kernel would choose it for each send.
    if source.ip().is_unspecified() {
        return None;
    }
    let Packet { frame, headers, .. } = packet;
    let outer = Outer { source, destination: peer.remote, tos: packet.tos(), id, vni: peer.vni };
    let mut bytes = [0; MAX_LEN];
    let len = outer.write(&mut bytes, &frame.vnet, headers, frame.len())?;
    device.send(&bytes[..len], frame.bytes()).ok()?;
    Some(Outcome {
        packets: plan.count() as u64,
        bytes: plan.bytes() as u64,
        sends: 1,
        whole: true,
        ..Outcome::default()
    })
}
