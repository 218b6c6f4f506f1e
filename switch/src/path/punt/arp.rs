//! ARP: requests are answered when the answer is known, and flooded only to where it may be.

use weft_encap::{Headers, Reason, VlanId, arp, build};

use super::{Lookup, answer, is_anothers, learn_neighbour, look_up};
use crate::mem::Frame;
use crate::path::action::Verdict;
use crate::path::flood::Whom;
use crate::path::l2;
use crate::path::origin::Origin;
use crate::path::process::{Env, Sink};

/// Decides about an ARP frame that the guard passed.
pub(in crate::path) fn decide<S: Sink>(
    env: &mut Env<'_, S>,
    origin: &Origin<'_>,
    vlan: Option<VlanId>,
    frame: &Frame,
    headers: &Headers,
) -> Verdict {
    let Some(packet) = headers.arp(frame.bytes()) else { return Verdict::Drop(Reason::BadArp) };
    let sender = packet.sender().into();
    if is_anothers(env, origin, vlan, sender, packet.sender_mac) {
        return Verdict::Drop(Reason::GuardArp);
    }
    learn_neighbour(env, origin, vlan, sender, packet.sender_mac);
    if packet.operation.get() != arp::REQUEST || packet.is_announcement() {
        return pass_on(env, origin, vlan, headers, Whom::All);
    }
    match look_up(env, origin, vlan, packet.target().into()) {
        Lookup::Silence => Verdict::Punted,
        Lookup::Answer(..) if !env.limits.answer(origin.ingress, env.now_ns) => {
            Verdict::Drop(Reason::PuntLimit)
        }
        Lookup::Answer(mac, _) => {
            let sent = answer(env, origin, headers, |out| build::arp::answer(out, packet, mac));
            if sent { Verdict::Punted } else { Verdict::Drop(Reason::BadArp) }
        }
        Lookup::Unknown => pass_on(env, origin, vlan, headers, unknown(origin)),
    }
}

/// Who is asked for an unknown address. Addresses are declared to routers: without one, anybody may have any.
pub(super) fn unknown(origin: &Origin<'_>) -> Whom {
    if origin.bridge.router.is_some() { Whom::Unbound } else { Whom::All }
}

/// What the switch has no answer for, or needs none: consumed when it is for the router, else forwarded.
pub(super) fn pass_on<S: Sink>(
    env: &mut Env<'_, S>,
    origin: &Origin<'_>,
    vlan: Option<VlanId>,
    headers: &Headers,
    whom: Whom,
) -> Verdict {
    let router = origin.bridge.router.as_ref().filter(|_| vlan.is_none());
    if router.is_some_and(|router| router.mac == headers.dst) {
        return Verdict::Punted;
    }
    if headers.dst.is_multicast() {
        return Verdict::Flood(whom);
    }
    l2::decide(env, origin, vlan, headers)
}
