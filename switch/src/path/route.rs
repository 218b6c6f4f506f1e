//! Routing: frames to the router's MAC, and routed packets from peers.
//!
//! The router belongs to the untagged VLAN: a port with a tag neither reaches it nor is reached by it, so routing never
//! joins what VLANs separate.
//!
//! What a routed peer may use as source: anything that is not ours to vouch for. A source that our own table places on
//! this node, or behind another peer, is spoofed and dropped; one that only the default route covers (the peer's own
//! addresses, clients of its services) passes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use weft_encap::build::error::Problem;
use weft_encap::{Headers, MacAddr, Reason};

use super::action::{Action, Basis, TagEdit, Verdict};
use super::origin::{Origin, may_hide_addresses};
use super::process::{Env, Sink};
use super::shared::FlowTarget;
use super::{l2, punt};
use crate::mem::{Frame, Ingress};
use crate::table::{Bridge, FdbTarget, NextHop, Peer, PeerMode, PeerSlot, PortSlot, Role, Router};

/// Decides about a packet that came by a routed tunnel.
pub(super) fn decide_from_tunnel<S: Sink>(
    env: &mut Env<'_, S>,
    origin: &Origin<'_>,
    peer: &Peer,
    local_mac: MacAddr,
    (frame, headers): (&Frame, &Headers),
) -> Verdict {
    let is_ours = headers.dst == local_mac || headers.dst.is_broadcast();
    let (Some(router), Some((src, _)), true) =
        (&origin.bridge.router, headers.ip(frame.bytes()), is_ours && headers.tci.is_none())
    else {
        return Verdict::Drop(Reason::NotForRouter);
    };
    let is_honest = match router.routes.lookup(src) {
        Some(NextHop::Tunnel(slot)) => slot == peer.slot,
        Some(NextHop::Local | NextHop::Gateway(_)) => false,
        Some(NextHop::Node | NextHop::Unreachable) | None => true,
    };
    if !is_honest || router.gateways.iter().any(|net| net.addr() == src) {
        return Verdict::Drop(Reason::GuardIp);
    }
    decide(env, origin, router, (frame, headers))
}

/// Decides about an IP packet that the router is to forward.
pub(super) fn decide<S: Sink>(
    env: &mut Env<'_, S>,
    origin: &Origin<'_>,
    router: &Router,
    (frame, headers): (&Frame, &Headers),
) -> Verdict {
    let Some((src, dst)) = headers.ip(frame.bytes()) else { return Verdict::Drop(Reason::NotForRouter) };
    if is_martian_source(src) {
        return Verdict::Drop(Reason::Martian);
    }
    if router.gateways.iter().any(|net| net.addr() == dst) {
        return to_gateway(env, origin, router, (frame, headers));
    }
    if is_unroutable(src) || is_martian_destination(dst) {
        return Verdict::Drop(Reason::Martian);
    }
    if headers.ttl <= 1 {
        let problem = Problem::TimeExceeded;
        return Verdict::Drop(punt::refuse(env, origin, frame, headers, problem, Reason::Ttl));
    }
    let outcome = match router.routes.lookup(dst) {
        Some(NextHop::Tunnel(peer)) => to_peer(env, origin, peer),
        Some(NextHop::Node) => to_node(env, origin, router),
        Some(NextHop::Local) => to_neighbour(env, origin, router, dst, headers),
        Some(NextHop::Gateway(gateway)) => to_neighbour(env, origin, router, gateway, headers),
        Some(NextHop::Unreachable) | None => {
            Err(Refusal { reason: Reason::NoRoute, told: Some(Problem::NoRoute) })
        }
    };
    match outcome {
        Ok((action, basis)) => Verdict::Forward(action, basis),
        Err(Refusal { reason, told: Some(problem) }) => {
            Verdict::Drop(punt::refuse(env, origin, frame, headers, problem, reason))
        }
        Err(Refusal { reason, told: None }) => Verdict::Drop(reason),
    }
}

/// Why a packet does not go on, and what the sender is told.
struct Refusal {
    reason: Reason,
    told: Option<Problem>,
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Refusal { reason, told: None }
    }
}

type Outcome = Result<(Action, Basis), Refusal>;

/// A packet to the router's own address: the node's, or an echo request for the switch.
fn to_gateway<S: Sink>(
    env: &mut Env<'_, S>,
    origin: &Origin<'_>,
    router: &Router,
    (frame, headers): (&Frame, &Headers),
) -> Verdict {
    let Some(node) = router.node else { return punt::echo(env, origin, frame, headers) };
    match out_of_node(env, origin, router, node) {
        // The packet has arrived: its TTL is not the router's to spend.
        Ok(action) => Verdict::Forward(Action { ttl: false, ..action }, Basis::Bridge),
        Err(reason) => Verdict::Drop(reason),
    }
}

fn to_node<S>(env: &Env<'_, S>, origin: &Origin<'_>, router: &Router) -> Outcome {
    let unroutable = || Refusal { reason: Reason::NoRoute, told: Some(Problem::NoRoute) };
    let node = router.node.ok_or_else(unroutable)?;
    match out_of_node(env, origin, router, node) {
        Ok(action) => Ok((action, Basis::Bridge)),
        // What the node itself sends here it would send here again.
        Err(Reason::SamePort) => Err(unroutable()),
        Err(reason) => Err(reason.into()),
    }
}

fn out_of_node<S>(
    env: &Env<'_, S>,
    origin: &Origin<'_>,
    router: &Router,
    node: PortSlot,
) -> Result<Action, Reason> {
    if origin.ingress == Ingress::Port(node) {
        return Err(Reason::SamePort);
    }
    let port = env.snapshot.ports.get(node).ok_or(Reason::PortDown)?;
    Ok(Action {
        target: FlowTarget::Port(node),
        macs: Some((port.mac, router.mac)),
        ttl: true,
        tag: TagEdit::Keep,
        mtu: port.mtu,
    })
}

fn to_peer<S>(env: &Env<'_, S>, origin: &Origin<'_>, slot: PeerSlot) -> Outcome {
    if origin.ingress == Ingress::Peer(slot) {
        return Err(Reason::SamePort.into());
    }
    let peer = env.snapshot.tunnels.get(slot).ok_or(Reason::PortDown)?;
    let PeerMode::Routed { mac, local_mac, .. } = peer.mode else { return Err(Reason::NoRoute.into()) };
    let action = Action {
        target: FlowTarget::Peer(slot),
        macs: Some((mac, local_mac)),
        ttl: true,
        tag: TagEdit::Keep,
        mtu: peer.mtu,
    };
    Ok((action, Basis::Bridge))
}

fn to_neighbour<S: Sink>(
    env: &mut Env<'_, S>,
    origin: &Origin<'_>,
    router: &Router,
    ip: IpAddr,
    headers: &Headers,
) -> Outcome {
    if let Some(neighbour) = router.neighbours.get(&ip) {
        let basis = Basis::Neighbour(ip, neighbour.mac);
        let action = to_station(env, origin.bridge, router, (neighbour.port, neighbour.mac), headers)?;
        return Ok((action, basis));
    }
    let bridge = origin.bridge;
    if let Some(learned) = env.shared.neighbours.find(bridge.slot, ip, env.now) {
        if learned.stale && env.limits.search(origin.ingress, env.now_ns) {
            ask(env, origin, router, ip);
        }
        let action = to_station(env, bridge, router, (learned.port, learned.mac), headers)?;
        return Ok((action, Basis::LearnedNeighbour(ip)));
    }
    // Looking further costs time that grows with the number of ports.
    if !env.limits.search(origin.ingress, env.now_ns) {
        return Err(Reason::PuntLimit.into());
    }
    if hides_addresses(env, bridge) {
        ask(env, origin, router, ip);
        return Err(Reason::NoNeighbour.into());
    }
    Err(Refusal { reason: Reason::NoNeighbour, told: Some(Problem::HostUnreachable) })
}

/// The way to a station of the untagged VLAN.
fn to_station<S>(
    env: &Env<'_, S>,
    bridge: &Bridge,
    router: &Router,
    (slot, mac): (PortSlot, MacAddr),
    headers: &Headers,
) -> Result<Action, Reason> {
    let port = env.snapshot.ports.get(slot).ok_or(Reason::PortDown)?;
    if port.tag.is_some() {
        return Err(Reason::NoNeighbour);
    }
    let target = if port.role == Role::Segment {
        l2::find(env, bridge, None, mac).map(|(target, _)| target).ok_or(Reason::NoNeighbour)?
    } else {
        FdbTarget::Port(slot)
    };
    let action = l2::way_out(env.snapshot, target, None, headers)?;
    Ok(Action { macs: Some((mac, router.mac)), ttl: true, ..action })
}

/// True when somebody may have an address that nobody declared.
fn hides_addresses<S>(env: &Env<'_, S>, bridge: &Bridge) -> bool {
    let ports = bridge.members.iter().filter_map(|slot| env.snapshot.ports.get(*slot));
    ports.into_iter().any(|port| may_hide_addresses(port) && port.tag.is_none())
}

/// Asks for `ip`, as often as the address may be asked for.
fn ask<S: Sink>(env: &mut Env<'_, S>, origin: &Origin<'_>, router: &Router, ip: IpAddr) {
    if env.shared.neighbours.may_ask(origin.bridge.slot, ip, env.now) {
        punt::ask(env, origin.bridge, router, ip);
    }
}

/// Sources that no packet may have.
fn is_martian_source(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_martian_v4(ip) || ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => is_martian_v6(ip) || ip.is_multicast(),
    }
}

/// Destinations to which no packet is routed.
fn is_martian_destination(ip: IpAddr) -> bool {
    is_martian_source(ip) || is_unroutable(ip)
}

/// Addresses that mean something on one link only (RFC 3927 section 7, RFC 4291 section 2.5.6).
fn is_unroutable(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

fn is_martian_v4(ip: Ipv4Addr) -> bool {
    ip.is_loopback() || ip.octets()[0] == 0
}

fn is_martian_v6(ip: Ipv6Addr) -> bool {
    let is_mapped = ip.to_ipv4_mapped().is_some();
    ip.is_loopback() || ip.is_unspecified() || is_mapped
}
