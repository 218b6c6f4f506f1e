//! What follows from configuration and cluster file: the node's network, the default bridge, the node's own port. Pure.

use std::net::IpAddr;

use weft_api::{BridgeSpec, Owner, PortKind, PortSpec};
use weft_encap::MacAddr;

use super::cluster::{Cluster, Node, OwnError, first_usable};
use super::config::Config;
use super::state::{NodeNetwork, Peer, PortRecord, State, Vtep};

/// What the machine says about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Its addresses.
    pub local: Vec<IpAddr>,
    /// MTU of the device that leads to the underlay, in bytes.
    pub underlay_mtu: Option<u32>,
    /// It has IPv6.
    pub has_ipv6: bool,
}

/// This node's network: from the cluster file if there is one, else from the configuration alone.
///
/// # Errors
/// When the cluster file has no entry for this node, or more than one.
pub fn node_network(
    config: &Config,
    cluster: Option<&Cluster>,
    machine: &Machine,
) -> Result<NodeNetwork, OwnError> {
    let mut network = match cluster {
        Some(cluster) => {
            let told = config.underlay.map(|ip| vec![ip]);
            of_cluster(
                config,
                cluster,
                cluster.own(config.node.as_deref(), told.as_deref().unwrap_or(&machine.local))?,
            )
        }
        None => alone(config),
    };
    network.bridge.clone_from(&config.bridge);
    network.internal = config.internal.clone().filter(|_| !network.gateways.is_empty());
    network.underlay_mtu = machine.underlay_mtu;
    network.has_ipv6 = machine.has_ipv6;
    network.mtu_override = config.mtu;
    network.masquerade = config.masquerade;
    network.notrack = config.notrack;
    Ok(network)
}

/// Puts the network into the state: the default bridge and the node's own port, owned by the file. An operator's
/// bridge of that name becomes the file's, an operator's port of that name goes. Returns the names of those.
pub fn apply(state: &mut State, config: &Config, network: NodeNetwork, now: u64) -> Vec<String> {
    let mut displaced = Vec::new();
    let old = state.node.clone();
    let mut bridge = BridgeSpec::new(&network.bridge, Owner::File);
    bridge.gateways.clone_from(&network.gateways);
    bridge.flood_pps = config.flood_pps;
    bridge.local_mtu = config.local_mtu;
    let replaced = state.bridges.insert(network.bridge.clone(), bridge.into());
    displaced.extend(replaced.filter(|bridge| bridge.owner != Owner::File).map(|bridge| bridge.name.clone()));
    if let Some(gone) = old.internal.as_ref().filter(|name| network.internal.as_ref() != Some(*name)) {
        state.remove_port(gone, now);
    }
    state.node = network.into();
    if let Some(name) = state.node.internal.clone() {
        if state.ports.get(&name).is_some_and(|port| port.spec.owner != Owner::File) {
            state.remove_port(&name, now);
            displaced.push(name.clone());
        }
        let mut record = PortRecord::new(internal(state, &name));
        record.tap = state.ports.get(&name).and_then(|port| port.tap.clone());
        state.put_port(record);
    }
    state.follow_mtu();
    displaced
}

fn alone(config: &Config) -> NodeNetwork {
    let gateways = if config.gateways.is_empty() {
        config.pod_cidrs.iter().map(first_usable).collect()
    } else {
        config.gateways.clone()
    };
    let pod_cidrs = if config.pod_cidrs.is_empty() {
        gateways.iter().map(|gateway: &ipnet::IpNet| gateway.trunc()).collect()
    } else {
        config.pod_cidrs.clone()
    };
    NodeNetwork { cluster_cidrs: pod_cidrs.clone(), pod_cidrs, gateways, ..NodeNetwork::default() }
}

fn of_cluster(config: &Config, cluster: &Cluster, own: &Node) -> NodeNetwork {
    let vni = cluster.vni.unwrap_or(config.vni);
    let peer = |node: &Node| Peer {
        name: node.name.clone(),
        underlay: node.underlay,
        mac: node.vtep_mac(vni),
        pod_cidrs: node.pod_cidrs.clone(),
    };
    NodeNetwork {
        name: Some(own.name.clone()),
        pod_cidrs: own.pod_cidrs.clone(),
        gateways: own.gateways(),
        cluster_cidrs: cluster.cidrs.clone(),
        vtep: Some(Vtep {
            underlay: config.underlay.unwrap_or(own.underlay),
            vni,
            port: cluster.port.unwrap_or(config.vxlan_port),
            mac: own.vtep_mac(vni),
        }),
        peers: cluster.peers(&own.name).map(peer).collect(),
        ..NodeNetwork::default()
    }
}

/// The node's own port: trusted, with the gateway addresses, and a MAC of its own beside the router's.
fn internal(state: &State, name: &str) -> PortSpec {
    let network = &state.node;
    let mut spec = PortSpec::new(name, &network.bridge, PortKind::Internal, Owner::File);
    spec.guard = false;
    spec.ips.clone_from(&network.gateways);
    let first = network.gateways.first().map(|gateway| gateway.addr().to_string()).unwrap_or_default();
    spec.mac = Some(MacAddr::derived(format!("node {name} {first}").as_bytes()));
    spec.gateways = Some(Vec::new());
    spec
}
