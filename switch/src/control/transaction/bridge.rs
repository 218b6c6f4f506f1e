//! Checks of a bridge's spec, alone and against the cluster.

use std::net::IpAddr;

use ipnet::IpNet;
use weft_api::BridgeSpec;

use super::{Result, conflict, invalid};
use crate::control::names;
use crate::control::state::State;

/// Are a bridge's settings in range?
///
/// # Errors
/// [`weft_api::Code::Invalid`], naming the first that is not.
pub(super) fn check_bridge(spec: &BridgeSpec) -> Result<()> {
    names::device(&spec.name).map_err(|message| invalid(format!("bridge name {message}")))?;
    if let Some(mac) = spec.mac.filter(|mac| !mac.is_unicast()) {
        return Err(invalid(format!("{mac} is no station's MAC; expected one like 02:00:5e:10:00:01")));
    }
    // RFC 791 and RFC 8200 section 5.
    let least = if spec.gateways.iter().any(|gateway| gateway.addr().is_ipv6()) { 1280 } else { 68 };
    if let Some(mtu) = spec.mtu.filter(|mtu| !(least..=65_521).contains(mtu)) {
        return Err(invalid(format!("mtu {mtu}; expected {least} to 65521 bytes")));
    }
    if let Some(mtu) = spec.local_mtu.filter(|mtu| !(1280..=65_521).contains(mtu)) {
        return Err(invalid(format!("local_mtu {mtu}; expected 1280 to 65521 bytes")));
    }
    if !(10..=1_000_000).contains(&spec.ageing_seconds) {
        return Err(invalid(format!("ageing_seconds {}; expected 10 to 1000000", spec.ageing_seconds)));
    }
    if !(1..=1_048_576).contains(&spec.fdb_max) {
        return Err(invalid(format!("fdb_max {}; expected 1 to 1048576", spec.fdb_max)));
    }
    for (index, gateway) in spec.gateways.iter().enumerate() {
        if gateway.addr().is_unspecified() || gateway.addr().is_multicast() {
            return Err(invalid(format!("gateway {gateway} is no host's address")));
        }
        if spec.gateways[..index].iter().any(|other| other.addr() == gateway.addr()) {
            return Err(invalid(format!("gateway {} stands there twice", gateway.addr())));
        }
    }
    Ok(())
}

/// Are the gateways of an operator's bridge hosts of their subnets, and are these no subnets of pods?
///
/// # Errors
/// [`weft_api::Code::Invalid`], [`weft_api::Code::Conflict`] with a pod CIDR.
pub(super) fn check_gateways(state: &State, spec: &BridgeSpec) -> Result<()> {
    let node = &state.node;
    let own = node.pod_cidrs.iter().map(|cidr| ("this node", cidr));
    let others =
        node.peers.iter().flat_map(|peer| peer.pod_cidrs.iter().map(|cidr| (peer.name.as_str(), cidr)));
    let of_pods: Vec<(&str, &IpNet)> = own.chain(others).collect();
    for gateway in &spec.gateways {
        if let Some(what) = not_of_a_host(gateway.addr(), gateway) {
            return Err(invalid(format!("gateway {} is the {what} of {}", gateway.addr(), gateway.trunc())));
        }
        let subnet = gateway.trunc();
        let overlaps = |cidr: &IpNet| cidr.contains(&subnet) || subnet.contains(cidr);
        if let Some((whose, cidr)) = of_pods.iter().find(|(_, cidr)| overlaps(cidr)) {
            return Err(conflict(format!(
                "gateway {gateway}: its subnet overlaps the pod CIDR {cidr} of {whose}; choose another"
            )));
        }
    }
    Ok(())
}

/// What `ip` is in `subnet`, if it is none of its hosts' addresses. Prefixes of two addresses and of one have hosts only
/// (RFC 3021, RFC 6164).
pub(in crate::control) fn not_of_a_host(ip: IpAddr, subnet: &IpNet) -> Option<&'static str> {
    if subnet.max_prefix_len() - subnet.prefix_len() < 2 {
        return None;
    }
    if ip == subnet.network() {
        return Some("network address");
    }
    (ip.is_ipv4() && ip == subnet.broadcast()).then_some("broadcast address")
}
