//! Checks of a port's spec, alone and against the others on the node.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_api::{ApiError, Code, PortKind, PortSpec};

use super::bridge::not_of_a_host;
use super::{Result, conflict, invalid, no_bridge};
use crate::control::names;
use crate::control::state::{PortRecord, State};
use crate::port::xdp::MTU_MAX as AFXDP_MTU_MAX;
use crate::table::MAX_PORTS;

/// Offloads that a port may do without.
const OFFLOADS: &[&str] = &["csum", "tso4", "tso6", "ecn", "uso"];
/// Most queues of a device.
const MAX_QUEUES: u8 = 16;
/// Most external ids of a port, and the longest key or value in bytes.
const MAX_IDS: (usize, usize) = (64, 1024);
/// Most addresses, routes or remotes of a port, each.
const MAX_LIST: usize = 1024;

/// Is the port `name` of `state` right in itself, and does it fit in with the others?
///
/// # Errors
/// [`Code::Invalid`], [`Code::NotFound`] for its bridge, [`Code::Conflict`] with another port, [`Code::Exhausted`].
pub fn check_port(state: &State, name: &str) -> Result<()> {
    let Some(record) = state.ports.get(name) else { return Err(super::no_port(name)) };
    let spec = &record.spec;
    names::port(&spec.name).map_err(|message| invalid(format!("port name {message}")))?;
    if !state.bridges.contains_key(&spec.bridge) {
        return Err(no_bridge(&spec.bridge));
    }
    if state.ports.len() > MAX_PORTS {
        return Err(ApiError::new(Code::Exhausted, format!("there are {MAX_PORTS} ports; no more fit")));
    }
    common(spec)?;
    match spec.kind {
        PortKind::Vxlan => {
            vxlan(spec)?;
            unlike_other_segments(state, spec)
        }
        PortKind::Tap | PortKind::Afxdp | PortKind::Internal => {
            device(spec)?;
            unlike_other_stations(state, record)?;
            unlike_other_devices(state, spec)
        }
    }
}

/// The port of `bridge` that has the address `ip`.
pub(super) fn holder<'a>(state: &'a State, bridge: &str, ip: IpAddr) -> Option<&'a PortSpec> {
    let mut ports = state.ports.values().filter(|port| port.spec.bridge == bridge);
    ports.find(|port| port.spec.ips.iter().any(|net| net.addr() == ip)).map(|port| &port.spec)
}

/// Are the operator's addresses of a port on the bridge's subnets, those of its gateways, and hosts' there? One that is
/// on none can reach nobody by the router. A family without a gateway has no subnet to be on.
///
/// # Errors
/// [`Code::Invalid`], naming the subnets.
pub(super) fn check_subnets(state: &State, name: &str) -> Result<()> {
    let Some(spec) = state.ports.get(name).map(|port| &port.spec) else { return Ok(()) };
    let Some(bridge) = state.bridges.get(&spec.bridge) else { return Ok(()) };
    for ip in &spec.ips {
        let of_family =
            bridge.gateways.iter().filter(|gateway| gateway.addr().is_ipv4() == ip.addr().is_ipv4());
        let subnets: Vec<_> = of_family.map(|gateway| gateway.trunc()).collect();
        if !subnets.is_empty() && !subnets.iter().any(|subnet| subnet.contains(&ip.addr())) {
            let subnets: Vec<String> = subnets.iter().map(ToString::to_string).collect();
            return Err(invalid(format!(
                "{} is on none of the subnets of bridge {} ({})",
                ip.addr(),
                spec.bridge,
                subnets.join(", ")
            )));
        }
        let reserved = subnets.iter().find_map(|subnet| Some((not_of_a_host(ip.addr(), subnet)?, subnet)));
        if let Some((what, subnet)) = reserved {
            return Err(invalid(format!("{} is the {what} of {subnet}", ip.addr())));
        }
    }
    Ok(())
}

fn common(spec: &PortSpec) -> Result<()> {
    let trunks: BTreeSet<_> = spec.trunks.iter().collect();
    if trunks.len() != spec.trunks.len() {
        return Err(invalid("trunks name a VLAN twice"));
    }
    if let Some(tag) = spec.tag.filter(|tag| trunks.contains(tag)) {
        return Err(invalid(format!("VLAN {tag} is tag and trunk at once")));
    }
    let (most, longest) = MAX_IDS;
    if spec.external_ids.len() > most
        || spec.external_ids.iter().any(|(key, value)| key.len() > longest || value.len() > longest)
    {
        return Err(invalid(format!(
            "external_ids: expected at most {most} of at most {longest} bytes each"
        )));
    }
    if spec.ips.len() > MAX_LIST || spec.routes.len() > MAX_LIST || spec.remotes.len() > MAX_LIST {
        return Err(invalid(format!("expected at most {MAX_LIST} addresses, routes and remotes each")));
    }
    Ok(())
}

fn vxlan(spec: &PortSpec) -> Result<()> {
    if spec.vni.is_none() {
        return Err(invalid("a vxlan port needs vni=1..16777215"));
    }
    if spec.remotes.is_empty() {
        return Err(invalid("a vxlan port needs remotes=IP[,IP...]"));
    }
    let device_only = [
        ("netns", spec.netns.is_some()),
        ("ifname", spec.ifname.is_some()),
        ("mac", spec.mac.is_some()),
        ("ip", !spec.ips.is_empty()),
        ("routes", !spec.routes.is_empty()),
        ("queues", spec.queues != 1),
        ("offloads_off", !spec.offloads_off.is_empty()),
    ];
    if let Some((key, _)) = device_only.iter().find(|(_, set)| *set) {
        return Err(invalid(format!("{key}= goes with type=tap; a vxlan port has no device")));
    }
    let families: BTreeSet<bool> = spec.remotes.iter().map(IpAddr::is_ipv4).collect();
    let unique: BTreeSet<_> = spec.remotes.iter().collect();
    if unique.len() != spec.remotes.len() {
        return Err(invalid("remotes name a peer twice"));
    }
    if families.len() > 1 {
        return Err(invalid("remotes are of both families; expected one"));
    }
    if let Some(remote) = spec.remotes.iter().find(|ip| ip.is_unspecified() || ip.is_multicast()) {
        return Err(invalid(format!("remote {remote} is no host's address")));
    }
    if spec.udp_port == Some(0) {
        return Err(invalid("udp_port 0; expected 1 to 65535"));
    }
    Ok(())
}

fn device(spec: &PortSpec) -> Result<()> {
    if spec.vni.is_some() || !spec.remotes.is_empty() || spec.udp_port.is_some() {
        return Err(invalid("vni=, remotes= and udp_port= go with type=vxlan"));
    }
    let ifname = spec.ifname.as_deref().unwrap_or_default();
    names::device(ifname).map_err(|message| invalid(format!("ifname {message}")))?;
    if spec.netns.as_deref().is_some_and(|netns| netns.is_empty() || netns.len() > 4096) {
        return Err(invalid("netns; expected a name below /run/netns, a path or a process id"));
    }
    if let Some(mac) = spec.mac.filter(|mac| !mac.is_unicast()) {
        return Err(invalid(format!("{mac} is no station's MAC; expected one like 02:00:5e:10:00:01")));
    }
    if let Some(mtu) = spec.mtu {
        let least = if spec.ips.iter().any(|ip| ip.addr().is_ipv6()) { 1280 } else { 68 };
        if !(least..=65_521).contains(&mtu) {
            return Err(invalid(format!("mtu {mtu}; expected {least} to 65521 bytes")));
        }
    }
    if spec.kind == PortKind::Afxdp {
        afxdp(spec)?;
    }
    if !(1..=MAX_QUEUES).contains(&spec.queues) {
        return Err(invalid(format!("queues {}; expected 1 to {MAX_QUEUES}", spec.queues)));
    }
    if let Some(unknown) = spec.offloads_off.iter().find(|name| !OFFLOADS.contains(&name.as_str())) {
        return Err(invalid(format!("offload `{unknown}`; expected some of {}", OFFLOADS.join(", "))));
    }
    let mut seen = BTreeSet::new();
    for net in &spec.ips {
        let ip = net.addr();
        if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
            return Err(invalid(format!("{ip} is no host's address")));
        }
        if !seen.insert(ip) {
            return Err(invalid(format!("{ip} stands there twice")));
        }
    }
    Ok(())
}

fn afxdp(spec: &PortSpec) -> Result<()> {
    if spec.netns.is_none() {
        return Err(invalid("an afxdp port needs netns=NAME|PATH|PID: its device is a pod's"));
    }
    if let Some(mtu) = spec.mtu.filter(|mtu| *mtu > AFXDP_MTU_MAX) {
        return Err(invalid(format!("mtu {mtu}; expected at most {AFXDP_MTU_MAX} bytes of an afxdp port")));
    }
    if spec.queues != 1 {
        return Err(invalid("queues= goes with type=tap; an afxdp port has one"));
    }
    if !spec.offloads_off.is_empty() {
        return Err(invalid("offloads_off= goes with type=tap; an afxdp port has no offloads"));
    }
    Ok(())
}

fn unlike_other_stations(state: &State, record: &PortRecord) -> Result<()> {
    let spec = &record.spec;
    let bridge = &state.bridges[&spec.bridge];
    for ip in &spec.ips {
        let gateway = bridge.gateways.iter().any(|gateway| gateway.addr() == ip.addr());
        if gateway && spec.kind != PortKind::Internal {
            return Err(conflict(format!("{} is a gateway address of bridge {}", ip.addr(), spec.bridge)));
        }
        if let Some(entry) = state.neighbours.get(&(spec.bridge.clone(), ip.addr())) {
            return Err(conflict(format!("{} is a static neighbour behind port {}", ip.addr(), entry.port)));
        }
    }
    if spec.mac == state.router_mac(&spec.bridge) {
        return Err(conflict(format!("the MAC is that of the router of bridge {}", spec.bridge)));
    }
    for (vlan, mac) in record.stations() {
        if let Some(entry) = state.statics.get(&(spec.bridge.clone(), vlan, mac)) {
            return Err(conflict(format!(
                "{mac} is a static station behind port {}; delete it first",
                entry.port
            )));
        }
    }
    let others =
        state.ports.values().filter(|port| port.spec.name != spec.name && port.spec.bridge == spec.bridge);
    for other in others {
        let same = |ip: &ipnet::IpNet| other.spec.ips.iter().any(|theirs| theirs.addr() == ip.addr());
        if let Some(ip) = spec.ips.iter().find(|ip| same(ip)) {
            return Err(conflict(format!("{} is the address of port {}", ip.addr(), other.spec.name)));
        }
        if let Some((_, mac)) = record.station_in_common(other) {
            return Err(conflict(format!("{mac} is the MAC of port {}", other.spec.name)));
        }
    }
    Ok(())
}

/// Two ports cannot share one device. Names that only look different are found out by the kernel.
fn unlike_other_devices(state: &State, spec: &PortSpec) -> Result<()> {
    let others = state.ports.values().filter(|port| port.spec.name != spec.name);
    let mut taps = others.filter(|port| port.spec.kind != PortKind::Vxlan && port.attachment.is_none());
    let same = taps.find(|port| port.spec.netns == spec.netns && port.spec.ifname == spec.ifname);
    match same {
        Some(other) if state.ports[&spec.name].attachment.is_none() => Err(conflict(format!(
            "the device {} in that namespace is port {}",
            spec.ifname.as_deref().unwrap_or_default(),
            other.spec.name
        ))),
        _ => Ok(()),
    }
}

/// A VXLAN packet must tell by source and VNI which segment it belongs to.
fn unlike_other_segments(state: &State, spec: &PortSpec) -> Result<()> {
    let udp_port = |spec: &PortSpec| spec.udp_port.unwrap_or(super::super::state::VXLAN_PORT);
    for other in state.ports.values().filter(|port| port.spec.name != spec.name) {
        let other = &other.spec;
        let like =
            other.kind == PortKind::Vxlan && other.vni == spec.vni && udp_port(other) == udp_port(spec);
        let mut shared = other.remotes.iter().filter(|remote| like && spec.remotes.contains(remote));
        if let Some(remote) = shared.next() {
            return Err(conflict(format!("port {} has this VNI with peer {remote} already", other.name)));
        }
    }
    let vtep = state.node.vtep.as_ref().filter(|v| Some(v.vni) == spec.vni && v.port == udp_port(spec));
    if let Some(vtep) = vtep
        && let Some(peer) = state.node.peers.iter().find(|peer| spec.remotes.contains(&peer.underlay))
    {
        return Err(conflict(format!(
            "VNI {} carries routed traffic of node {}; choose another",
            vtep.vni, peer.name
        )));
    }
    Ok(())
}
