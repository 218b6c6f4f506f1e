//! Flooding: one frame to many, within its VLAN, never back, never from peer to peer, and not too often.

use weft_encap::{Gso, Headers, Reason, VlanId};

use super::action::{Action, TagEdit};
use super::counters::Total;
use super::hit;
use super::origin::{Origin, egress_tag, may_hide_addresses};
use super::process::{Env, Sink};
use super::shared::FlowTarget;
use crate::mem::{Frame, Ingress};
use crate::port::Device;
use crate::table::{Port, Role};

/// Which ports a flooded frame goes to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Whom {
    /// All of the VLAN: broadcast and multicast.
    All,
    /// Those behind which an unknown station may be. The MACs of guarded ports and of the node are known.
    Unguarded,
    /// Those behind which an unknown address may be.
    Unbound,
}

impl Whom {
    /// Stations and addresses are declared for a port's untagged VLAN; what it does in the VLANs that it carries
    /// tagged is not known.
    fn includes(self, port: &Port, vlan: Option<VlanId>) -> bool {
        let is_declared = port.tag == vlan;
        match self {
            Whom::All => true,
            Whom::Unguarded => (port.guard.is_none() || !is_declared) && port.role != Role::Node,
            Whom::Unbound => may_hide_addresses(port) || (!is_declared && port.role != Role::Node),
        }
    }
}

/// Floods a frame that came in by `origin`, within the limit of its port.
pub(super) fn run<S: Sink>(
    env: &mut Env<'_, S>,
    origin: &Origin<'_>,
    vlan: Option<VlanId>,
    whom: Whom,
    (frame, headers, gso): (Frame, Headers, Gso),
) {
    // A superframe counts as the frames it stands for.
    let pieces = gso.size().map_or(1, |size| headers.payload_len().div_ceil(usize::from(size).max(1)));
    let allowed =
        origin.port.is_some_and(|port| env.limits.flood(port.slot, (port.flood_pps, pieces), env.now_ns));
    if !allowed {
        return env.drop(frame, Reason::FloodLimit);
    }
    let mut copies = Copies { frame, headers, gso, pending: None, sent: 0, dropped: false };
    for slot in origin.bridge.members.iter() {
        let Some(port) = env.snapshot.ports.get(*slot) else { continue };
        if origin.ingress == Ingress::Port(*slot) || !whom.includes(port, vlan) {
            continue;
        }
        let Some(tag) = egress_tag(port, vlan, headers.tci.is_some()) else { continue };
        match &port.device {
            Device::Segment(_) if origin.is_segment_peer() => {}
            Device::Segment(peers) => {
                for peer in peers.iter() {
                    let Some(peer) = env.snapshot.tunnels.get(*peer) else { continue };
                    copies.to(env, action(FlowTarget::Peer(peer.slot), tag, peer.mtu));
                }
            }
            Device::Tap(_) | Device::Xdp(_) | Device::Mem(_) => {
                copies.to(env, action(FlowTarget::Port(*slot), tag, port.mtu));
            }
        }
    }
    copies.finish(env, whom);
}

fn action(target: FlowTarget, tag: TagEdit, mtu: u32) -> Action {
    Action { target, macs: None, ttl: false, tag, mtu }
}

/// A frame that goes to many; the last of them gets the frame itself.
struct Copies {
    frame: Frame,
    headers: Headers,
    gso: Gso,
    pending: Option<Action>,
    sent: u64,
    /// A copy was dropped, and counted.
    dropped: bool,
}

impl Copies {
    fn to<S: Sink>(&mut self, env: &mut Env<'_, S>, action: Action) {
        if !action.fits(&self.headers, self.gso) {
            self.dropped = true;
            env.counters.drop(self.frame.ingress, Reason::TooBig);
            return;
        }
        let Some(previous) = self.pending.replace(action) else { return };
        match env.pool.copy(&self.frame) {
            Some(copy) => {
                self.sent += 1;
                hit::run(env, &previous, copy, self.headers);
            }
            None => env.counters.drop(self.frame.ingress, Reason::NoBuffer),
        }
    }

    /// Sends the frame itself to the last target. An unknown station that can be nowhere is a drop; a broadcast that
    /// nobody hears is none.
    fn finish<S: Sink>(self, env: &mut Env<'_, S>, whom: Whom) {
        match self.pending {
            Some(action) => {
                env.counters.add(Total::FloodCopies, self.sent + 1);
                hit::run(env, &action, self.frame, self.headers);
            }
            None if whom == Whom::Unguarded && !self.dropped => env.drop(self.frame, Reason::NoNeighbour),
            None => env.pool.give(self.frame),
        }
    }
}
