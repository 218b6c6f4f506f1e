//! Answers by the switch itself: ARP, neighbour discovery, echo, ICMP errors. All are limited per ingress, and go
//! back to where the frame that caused them came from.

mod arp;
mod nd;

use std::net::IpAddr;

use weft_encap::build::{self, error::Problem};
use weft_encap::{Headers, MacAddr, Reason, VnetHdr, edit, flow, parse};

pub(super) use arp::decide as arp;
pub(super) use nd::decide as nd;

use super::action::Verdict;
use super::counters::Total;
use super::origin::{Origin, may_hide_addresses};
use super::process::{Env, Sink};
use crate::mem::{Frame, Ingress};
use crate::port::Device;
use crate::table::{Bridge, Neighbour, PeerMode, Router};

/// Tells the sender of `frame` what went wrong, where that may be told at all; gives the reason to count: `reason`,
/// or [`Reason::PuntLimit`] when the sender would have been told but for the limit.
///
/// The error comes from the gateway's address; a bridge without router sends none. To the node, whose own address that
/// may be, it comes from the packet's destination: a kernel drops what claims to come from itself.
pub(super) fn refuse<S: Sink>(
    env: &mut Env<'_, S>,
    origin: &Origin<'_>,
    frame: &Frame,
    headers: &Headers,
    problem: Problem,
    reason: Reason,
) -> Reason {
    let Some(router) = &origin.bridge.router else { return reason };
    let Some((src, dst)) = headers.ip(frame.bytes()) else { return reason };
    let from = if origin.is_node() { Some(dst) } else { gateway_for(router, src) };
    let Some(from) = from else { return reason };
    if !env.limits.error(origin.ingress, env.now_ns) {
        return Reason::PuntLimit;
    }
    answer(env, origin, headers, |out| {
        build::error::error(out, frame.bytes(), headers, problem, from, router.mac)
    });
    reason
}

/// Answers an echo request to the gateway's address, which no node port owns.
pub(super) fn echo<S: Sink>(
    env: &mut Env<'_, S>,
    origin: &Origin<'_>,
    frame: &Frame,
    headers: &Headers,
) -> Verdict {
    if !build::echo::is_request(frame.bytes(), headers) {
        return Verdict::Drop(Reason::NoNeighbour);
    }
    if !env.limits.answer(origin.ingress, env.now_ns) {
        return Verdict::Drop(Reason::PuntLimit);
    }
    // The reply keeps the tag of the request, so none is added.
    let untagged = Headers { tci: None, ..*headers };
    let sent = answer(env, origin, &untagged, |out| build::echo::reply(out, frame.bytes(), headers));
    if sent { Verdict::Punted } else { Verdict::Drop(Reason::NoNeighbour) }
}

/// Asks everyone who may hide it for `ip`, in the name of the router.
pub(super) fn ask<S: Sink>(env: &mut Env<'_, S>, bridge: &Bridge, router: &Router, ip: IpAddr) {
    let Some(from) = gateway_for(router, ip) else { return };
    let mut question = [0u8; build::MAX_ANSWER];
    let len = match (from, ip) {
        (IpAddr::V4(from), IpAddr::V4(ip)) => build::arp::request(&mut question, (router.mac, from), ip),
        (IpAddr::V6(from), IpAddr::V6(ip)) => build::nd::solicitation(&mut question, (router.mac, from), ip),
        _ => None,
    };
    let Some(question) = len.and_then(|len| question.get(..len)) else { return };
    let ports = bridge.members.iter().filter_map(|slot| env.snapshot.ports.get(*slot));
    for port in ports.filter(|port| may_hide_addresses(port) && port.tag.is_none()) {
        match &port.device {
            Device::Segment(peers) => {
                for peer in peers.iter() {
                    send(env, Ingress::Peer(*peer), question);
                }
            }
            Device::Tap(_) | Device::Xdp(_) | Device::Mem(_) => send(env, Ingress::Port(port.slot), question),
        }
    }
}

/// The router's address that speaks to `ip`: the one on its segment, else the first of its family.
fn gateway_for(router: &Router, ip: IpAddr) -> Option<IpAddr> {
    let of_family = || router.gateways.iter().filter(|net| net.addr().is_ipv4() == ip.is_ipv4());
    of_family().find(|net| net.contains(&ip)).or_else(|| of_family().next()).map(|net| net.addr())
}

/// The declared owner of `ip` among stations whose untagged VLAN is the frame's.
fn declared<S>(
    env: &Env<'_, S>,
    router: &Router,
    vlan: Option<weft_encap::VlanId>,
    ip: IpAddr,
) -> Option<Neighbour> {
    let neighbour = *router.neighbours.get(&ip)?;
    let port = env.snapshot.ports.get(neighbour.port)?;
    (port.tag == vlan).then_some(neighbour)
}

/// True when `ip` is declared to be another's than (`origin`, `mac`): nobody may claim it, guarded or not, or the
/// caches of pods could be poisoned from an unguarded port or a segment.
fn is_anothers<S>(
    env: &Env<'_, S>,
    origin: &Origin<'_>,
    vlan: Option<weft_encap::VlanId>,
    ip: IpAddr,
    mac: MacAddr,
) -> bool {
    let Some(router) = &origin.bridge.router else { return false };
    if ip.is_unspecified() || origin.is_node() {
        return false;
    }
    let is_gateway = vlan.is_none() && is_gateway(router, ip);
    let owner = declared(env, router, vlan, ip);
    is_gateway
        || owner.is_some_and(|owner| Some(owner.port) != origin.port.map(|p| p.slot) || owner.mac != mac)
}

fn is_gateway(router: &Router, ip: IpAddr) -> bool {
    router.gateways.iter().any(|net| net.addr() == ip)
}

/// Notes whose `ip` is, where addresses may hide and the router is concerned.
fn learn_neighbour<S>(
    env: &Env<'_, S>,
    origin: &Origin<'_>,
    vlan: Option<weft_encap::VlanId>,
    ip: IpAddr,
    mac: MacAddr,
) {
    let Some(port) = origin.port.filter(|port| vlan.is_none() && may_hide_addresses(port)) else { return };
    let Some(router) = &origin.bridge.router else { return };
    let is_new = !router.neighbours.contains_key(&ip) && !is_gateway(router, ip);
    if is_new && mac.is_unicast() && mac != router.mac {
        env.shared.neighbours.learn(origin.bridge.slot, ip, port.slot, mac, env.now);
    }
}

/// What an ARP request or a neighbour solicitation gets.
enum Lookup {
    /// That MAC, and whether it is a router's.
    Answer(MacAddr, bool),
    /// Nothing: the owner asks about itself, or will hear the question anyway.
    Silence,
    /// The switch does not know.
    Unknown,
}

/// Who has `ip`, for one who asks on `origin`.
fn look_up<S>(env: &Env<'_, S>, origin: &Origin<'_>, vlan: Option<weft_encap::VlanId>, ip: IpAddr) -> Lookup {
    let Some(router) = &origin.bridge.router else { return Lookup::Unknown };
    if vlan.is_none() && is_gateway(router, ip) {
        return if origin.is_node() { Lookup::Silence } else { Lookup::Answer(router.mac, true) };
    }
    match declared(env, router, vlan, ip) {
        Some(owner) if Some(owner.port) == origin.port.map(|port| port.slot) => Lookup::Silence,
        Some(owner) => Lookup::Answer(owner.mac, false),
        None => Lookup::Unknown,
    }
}

/// Builds an answer and sends it to where the frame with `headers` came from, tagged as that was. False when none
/// was built, or there was no buffer for it.
fn answer<S: Sink>(
    env: &mut Env<'_, S>,
    origin: &Origin<'_>,
    headers: &Headers,
    build: impl FnOnce(&mut [u8]) -> Option<usize>,
) -> bool {
    let Some(mut reply) = env.pool.take() else { return false };
    let Some(len) = build(reply.spare_mut()) else {
        env.pool.give(reply);
        return false;
    };
    reply.set_len(len);
    if let Some(tci) = headers.tci {
        if !reply.push_front(weft_encap::vlan::LEN) {
            env.pool.give(reply);
            return false;
        }
        edit::push_vlan(reply.bytes_mut(), tci & 0x0fff);
    }
    emit(env, origin.ingress, reply)
}

/// Sends a copy of `bytes`.
fn send<S: Sink>(env: &mut Env<'_, S>, to: Ingress, bytes: &[u8]) {
    if let Some(mut frame) = env.pool.take() {
        frame.fill(bytes);
        emit(env, to, frame);
    }
}

/// Sends a frame that the switch made.
fn emit<S: Sink>(env: &mut Env<'_, S>, to: Ingress, mut frame: Frame) -> bool {
    frame.vnet = VnetHdr::NONE;
    frame.ingress = to;
    let Ok(mut headers) = parse(frame.bytes()) else {
        env.pool.give(frame);
        return false;
    };
    env.counters.add(Total::Punts, 1);
    match to {
        Ingress::Port(slot) => env.out.to_port(slot, frame, Some(headers)),
        Ingress::Peer(slot) => {
            if let Some(PeerMode::Routed { mac, local_mac, .. }) =
                env.snapshot.tunnels.get(slot).map(|peer| peer.mode)
            {
                edit::set_macs(frame.bytes_mut(), &mut headers, mac, local_mac);
            }
            let hash = flow::flow_hash(&headers, frame.bytes());
            env.out.to_peer(slot, frame, headers, hash);
        }
    }
    true
}
