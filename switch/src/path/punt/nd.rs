//! Neighbour discovery (RFC 4861): solicitations are answered when the answer is known, and flooded only to where it
//! may be.

use std::net::{IpAddr, Ipv6Addr};

use weft_encap::{Headers, Reason, VlanId, build, icmpv6};

use super::arp::{pass_on, unknown};
use super::{Lookup, answer, is_anothers, learn_neighbour, look_up};
use crate::mem::{Frame, Ingress};
use crate::path::action::Verdict;
use crate::path::flood::Whom;
use crate::path::guard::eui64_mac;
use crate::path::origin::Origin;
use crate::path::process::{Env, Sink};
use crate::table::FdbTarget;

/// Decides about one of the five messages, which the guard passed.
pub(in crate::path) fn decide<S: Sink>(
    env: &mut Env<'_, S>,
    origin: &Origin<'_>,
    vlan: Option<VlanId>,
    frame: &Frame,
    headers: &Headers,
) -> Verdict {
    match headers.icmp_type {
        icmpv6::NEIGHBOUR_SOLICITATION => solicitation(env, origin, vlan, frame, headers),
        icmpv6::NEIGHBOUR_ADVERTISEMENT => advertisement(env, origin, vlan, frame, headers),
        // Pods are configured by whoever made them: a router has nothing to add.
        icmpv6::ROUTER_SOLICITATION if origin.bridge.router.is_some() && vlan.is_none() => Verdict::Punted,
        icmpv6::ROUTER_SOLICITATION => pass_on(env, origin, vlan, headers, unknown(origin)),
        _ => pass_on(env, origin, vlan, headers, Whom::All),
    }
}

fn solicitation<S: Sink>(
    env: &mut Env<'_, S>,
    origin: &Origin<'_>,
    vlan: Option<VlanId>,
    frame: &Frame,
    headers: &Headers,
) -> Verdict {
    let (Some(message), Some((src, _))) = (headers.neighbour(frame.bytes()), headers.v6(frame.bytes()))
    else {
        return Verdict::Drop(Reason::BadL4);
    };
    let target = message.target();
    if is_anothers(env, origin, vlan, src.into(), headers.src) {
        return Verdict::Drop(Reason::GuardNd);
    }
    learn_neighbour(env, origin, vlan, src.into(), headers.src);
    match look_up_v6(env, origin, vlan, target) {
        Lookup::Silence => Verdict::Punted,
        Lookup::Answer(..) if !env.limits.answer(origin.ingress, env.now_ns) => {
            Verdict::Drop(Reason::PuntLimit)
        }
        Lookup::Answer(mac, is_router) => {
            let sent = answer(env, origin, headers, |out| {
                build::nd::answer(out, frame.bytes(), headers, mac, is_router)
            });
            if sent { Verdict::Punted } else { Verdict::Drop(Reason::BadL4) }
        }
        // Nobody declares link-local addresses: anyone may have it.
        Lookup::Unknown if target.is_unicast_link_local() => pass_on(env, origin, vlan, headers, Whom::All),
        Lookup::Unknown => pass_on(env, origin, vlan, headers, unknown(origin)),
    }
}

fn advertisement<S: Sink>(
    env: &mut Env<'_, S>,
    origin: &Origin<'_>,
    vlan: Option<VlanId>,
    frame: &Frame,
    headers: &Headers,
) -> Verdict {
    let Some(message) = headers.neighbour(frame.bytes()) else { return Verdict::Drop(Reason::BadL4) };
    let options = headers.payload(frame.bytes()).get(icmpv6::Neighbour::LEN - icmpv6::LEN..).unwrap_or(&[]);
    let mac = icmpv6::link_layer_option(options, icmpv6::OPT_TARGET_MAC).unwrap_or(headers.src);
    let target = message.target().into();
    if is_anothers(env, origin, vlan, target, mac) {
        return Verdict::Drop(Reason::GuardNd);
    }
    learn_neighbour(env, origin, vlan, target, mac);
    pass_on(env, origin, vlan, headers, Whom::All)
}

/// Like [`look_up`]; of link-local addresses the switch knows those that a declared station's MAC gives.
fn look_up_v6<S>(env: &Env<'_, S>, origin: &Origin<'_>, vlan: Option<VlanId>, target: Ipv6Addr) -> Lookup {
    let found = look_up(env, origin, vlan, IpAddr::V6(target));
    if !matches!(found, Lookup::Unknown) || !target.is_unicast_link_local() {
        return found;
    }
    let Some(mac) = eui64_mac(target) else { return Lookup::Unknown };
    match origin.bridge.statics.get(&(vlan, mac)) {
        Some(FdbTarget::Port(port)) if origin.ingress == Ingress::Port(*port) => Lookup::Silence,
        Some(FdbTarget::Port(port)) if is_guarded(env, *port) => Lookup::Answer(mac, false),
        _ => Lookup::Unknown,
    }
}

/// A guarded port cannot use another MAC's link-local address, so the answer holds.
fn is_guarded<S>(env: &Env<'_, S>, port: crate::table::PortSlot) -> bool {
    env.snapshot.ports.get(port).is_some_and(|port| port.guard.is_some())
}
