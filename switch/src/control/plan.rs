//! What must be done to get from one state to another: pure. Carried out by [`super::live`], in order, undone in
//! reverse.
//!
//! Devices go before new ones come, because a new port may have an old one's name or address; the host's network comes
//! after the node's own port.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use weft_api::PortKind;
use weft_api::transaction::Via;

use super::effects::host::HostSpec;
use super::effects::port::DeviceSpec;
use super::state::{PortRecord, State, VXLAN_PORT};
use crate::port::underlay::UnderlayConfig;

/// One thing to do. Each has an inverse.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Take the port's device away.
    Destroy(Arc<PortRecord>),
    /// Close the sockets of an underlay.
    CloseUnderlay(UnderlayConfig),
    /// Open the sockets of an underlay.
    OpenUnderlay(UnderlayConfig),
    /// Make the port's device.
    Create(Arc<PortRecord>),
    /// Change the port's device.
    Change {
        /// From this.
        old: Arc<PortRecord>,
        /// To this.
        new: Arc<PortRecord>,
    },
    /// Change the host's network; `None`: the node has no port of its own.
    Host {
        /// From this.
        old: Option<Box<HostSpec>>,
        /// To this.
        new: Option<Box<HostSpec>>,
    },
}

/// The steps from `old` to `new`. Equal states have none.
pub fn plan(old: &State, new: &State) -> Vec<Step> {
    let (mut destroy, mut create, mut change) = (Vec::new(), Vec::new(), Vec::new());
    for (name, was) in &old.ports {
        match new.ports.get(name) {
            Some(is) if !needs_new_device(was, is) => {
                if has_device(is) && device(old, was) != device(new, is) {
                    change.push(Step::Change { old: Arc::clone(was), new: Arc::clone(is) });
                }
            }
            Some(is) => {
                destroy.extend(has_device(was).then(|| Step::Destroy(Arc::clone(was))));
                create.extend(has_device(is).then(|| Step::Create(Arc::clone(is))));
            }
            None => destroy.extend(has_device(was).then(|| Step::Destroy(Arc::clone(was)))),
        }
    }
    let added = new.ports.iter().filter(|(name, port)| !old.ports.contains_key(*name) && has_device(port));
    create.extend(added.map(|(_, port)| Step::Create(Arc::clone(port))));
    let (were, are) = (underlays(old), underlays(new));
    let closed = were.iter().filter(|(port, config)| are.get(port) != Some(config));
    let opened = are.iter().filter(|(port, config)| were.get(port) != Some(config));
    let (was, is) = (host(old), host(new));
    let host = (was != is).then(|| Step::Host { old: was.map(Box::new), new: is.map(Box::new) });
    destroy
        .into_iter()
        .chain(closed.map(|(_, config)| Step::CloseUnderlay(*config)))
        .chain(opened.map(|(_, config)| Step::OpenUnderlay(*config)))
        .chain(create)
        .chain(change)
        .chain(host)
        .collect()
}

impl Step {
    /// What takes the step back.
    pub fn inverse(&self) -> Step {
        match self {
            Step::Destroy(port) => Step::Create(Arc::clone(port)),
            Step::Create(port) => Step::Destroy(Arc::clone(port)),
            Step::CloseUnderlay(config) => Step::OpenUnderlay(*config),
            Step::OpenUnderlay(config) => Step::CloseUnderlay(*config),
            Step::Change { old, new } => Step::Change { old: Arc::clone(new), new: Arc::clone(old) },
            Step::Host { old, new } => Step::Host { old: new.clone(), new: old.clone() },
        }
    }
}

/// The device that a port's record asks for; `None` for a segment, which has none.
pub fn device(state: &State, record: &PortRecord) -> Option<DeviceSpec> {
    let spec = &record.spec;
    if spec.kind == PortKind::Vxlan {
        return None;
    }
    let bridges = state.port_mtu(&spec.bridge);
    let (mtu, elsewhere) = (record.device_mtu(bridges), spec.mtu.unwrap_or(bridges));
    let subnets = state.bridges.get(&spec.bridge).filter(|_| mtu > elsewhere);
    Some(DeviceSpec {
        ifname: record.ifname().to_owned(),
        mac: spec.mac.unwrap_or_default(),
        mtu,
        route_mtu: (mtu > elsewhere).then_some(elsewhere),
        local: subnets.map(|bridge| bridge.gateways.iter().map(IpNet::trunc).collect()).unwrap_or_default(),
        overlay_mtu: state.node.overlay_mtu(),
        ips: spec.ips.clone(),
        gateways: spec.gateways.clone().unwrap_or_default(),
        routes: spec.routes.clone(),
        queues: spec.queues,
        offloads_off: spec.offloads_off.clone(),
    })
}

/// The host's network that a state asks for; `None` without a port of the node's own.
pub fn host(state: &State) -> Option<HostSpec> {
    let port = state.ports.get(state.node.internal.as_deref()?)?;
    let vtep = state.node.vtep.as_ref();
    Some(HostSpec {
        ifname: port.ifname().to_owned(),
        mac: port.spec.mac?,
        router_mac: state.router_mac(&port.spec.bridge)?,
        mtu: state.node.overlay_mtu(),
        local_mtu: port.local_mtu,
        gateways: state.node.gateways.clone(),
        pod_cidrs: state.node.pod_cidrs.clone(),
        cluster_cidrs: state.node.cluster_cidrs.clone(),
        masquerade: state.node.masquerade,
        untracked: vtep.filter(|_| state.node.notrack).map(|vtep| SocketAddr::new(vtep.underlay, vtep.port)),
    })
}

/// The underlays that a state asks for, by UDP port: that of the cluster bound to this node's address, those of
/// operator's segments and routes to any.
pub fn underlays(state: &State) -> BTreeMap<u16, UnderlayConfig> {
    let segments = state.ports.values().filter(|port| port.spec.kind == PortKind::Vxlan);
    let ports = segments.map(|port| port.spec.udp_port.unwrap_or(VXLAN_PORT));
    let routes = state.routes.values().filter_map(|route| match route.via {
        Via::Tunnel { udp_port, .. } => Some(udp_port.unwrap_or_else(|| cluster_port(state))),
        _ => None,
    });
    let cluster = state.node.vtep.as_ref();
    let all = ports.chain(routes).chain(cluster.map(|vtep| vtep.port));
    all.map(|port| {
        let bound = cluster.filter(|vtep| vtep.port == port).map(|vtep| vtep.underlay);
        let v4 = match bound {
            Some(IpAddr::V4(ip)) => ip,
            _ => Ipv4Addr::UNSPECIFIED,
        };
        let v6 = match bound {
            Some(IpAddr::V6(ip)) => Some(ip),
            _ => state.node.has_ipv6.then_some(Ipv6Addr::UNSPECIFIED),
        };
        (port, UnderlayConfig { port, v4: Some(v4), v6 })
    })
    .collect()
}

/// The UDP port of routed traffic that names none.
pub fn cluster_port(state: &State) -> u16 {
    state.node.vtep.as_ref().map_or(VXLAN_PORT, |vtep| vtep.port)
}

/// A lost port keeps its record but has no device any more.
fn has_device(record: &PortRecord) -> bool {
    record.spec.kind != PortKind::Vxlan && record.lost.is_none()
}

fn needs_new_device(was: &PortRecord, is: &PortRecord) -> bool {
    let identity = |record: &PortRecord| {
        let spec = &record.spec;
        let place = (record.ifname().to_owned(), spec.netns.clone(), record.netns.clone());
        (has_device(record), spec.kind, place, spec.queues, spec.offloads_off.clone(), spec.bridge.clone())
    };
    identity(was) != identity(is)
}

#[cfg(test)]
mod tests;
