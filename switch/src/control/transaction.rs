//! Commands of the API applied to a draft of the state: pure, in order, all or nothing.
//!
//! `may_exist` and `if_exists` mean what they mean to ovs-vsctl. Every object has an owner; changing another's is
//! refused, naming it. An error names the index of the command that failed.

/// Checks of a bridge's spec.
mod bridge;
/// Is an existing bridge or port what is asked for?
mod existing;
/// Checks of a port's spec.
mod port;
/// `set bridge` and `set port`.
mod set;

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use weft_api::transaction::{RouteSpec, Via};
use weft_api::{ApiError, BridgeSpec, Code, Command, Outcome, Owner, PortKind, PortSpec, Transaction};
use weft_encap::{MacAddr, VlanId};

use super::engine::{Draft, Forget};
use super::state::{PortRecord, State, StaticMac, StaticNeighbour};

pub(super) use bridge::not_of_a_host;
use bridge::{check_bridge, check_gateways};
pub use port::check_port;

/// Most commands of one transaction.
pub const MAX_COMMANDS: usize = 4096;
/// Most bridges of a node.
pub const MAX_BRIDGES: usize = 1024;
/// Most routes, static stations or neighbours of a node, each.
pub const MAX_ENTRIES: usize = 65_536;

type Result<T = Outcome> = std::result::Result<T, ApiError>;

/// Applies every command to the draft. After an error the draft must be thrown away.
///
/// # Errors
/// The first command's that fails, with its index.
pub fn apply(draft: &mut Draft, transaction: Transaction) -> Result<Vec<Outcome>> {
    let count = transaction.commands.len();
    if count > MAX_COMMANDS {
        return Err(invalid(format!("{count} commands; expected at most {MAX_COMMANDS} in one transaction")));
    }
    let one = |(index, command): (usize, Command)| {
        let port = match &command {
            Command::AddPort { port, .. } => Some(port.name.clone()),
            Command::SetPort { name, .. } => Some(name.clone()),
            _ => None,
        };
        draft.origins.extend(port.map(|port| (port, index)));
        apply_one(draft, command).map_err(|error| ApiError { command: Some(index), ..error })
    };
    transaction.commands.into_iter().enumerate().map(one).collect()
}

fn apply_one(draft: &mut Draft, command: Command) -> Result {
    match command {
        Command::AddBridge { bridge, may_exist } => add_bridge(&mut draft.state, bridge, may_exist),
        Command::DelBridge { name, if_exists } => del_bridge(draft, &name, if_exists),
        Command::AddPort { port, may_exist } => add_port(&mut draft.state, *port, may_exist),
        Command::DelPort { bridge, name, if_exists } => del_port(draft, bridge.as_deref(), &name, if_exists),
        Command::SetBridge { name, key, value } => set::bridge(&mut draft.state, &name, &key, &value),
        Command::SetPort { name, key, value } => set::port(&mut draft.state, &name, &key, &value),
        Command::AddFdb { bridge, vlan, mac, port, remote } => {
            add_fdb(&mut draft.state, (bridge, vlan, mac), StaticMac { port, remote, owner: Owner::Cli })
        }
        Command::DelFdb { bridge, vlan, mac, if_exists } => del_fdb(draft, (bridge, vlan, mac), if_exists),
        Command::FlushFdb { bridge, port } => flush_fdb(draft, bridge, port),
        Command::AddRoute { route, may_exist } => add_route(&mut draft.state, route, may_exist),
        Command::DelRoute { bridge, dst, if_exists } => {
            del_route(&mut draft.state, (bridge, dst.trunc()), if_exists)
        }
        Command::AddNeighbour { bridge, ip, mac, port } => {
            add_neighbour(&mut draft.state, (bridge, ip), StaticNeighbour { mac, port, owner: Owner::Cli })
        }
        Command::DelNeighbour { bridge, ip, if_exists } => {
            del_neighbour(&mut draft.state, (bridge, ip), if_exists)
        }
    }
}

fn add_bridge(state: &mut State, spec: BridgeSpec, may_exist: bool) -> Result {
    only_cli(spec.owner, "bridge", &spec.name)?;
    if let Some(there) = state.bridges.get(&spec.name) {
        return if may_exist {
            existing::check_bridge(there, state.router_mac(&spec.name), &spec).map(|()| Outcome::Unchanged)
        } else {
            let how = if there.owner == Owner::File { " (weftd's own)" } else { "" };
            Err(conflict(format!(
                "a bridge named {} exists already{how}; use --may-exist if that is right",
                spec.name
            )))
        };
    }
    if let Some(port) = state.ports.get(&spec.name) {
        return Err(conflict(format!("a port named {} exists already on {}", spec.name, port.spec.bridge)));
    }
    if state.bridges.len() >= MAX_BRIDGES {
        return Err(ApiError::new(Code::Exhausted, format!("there are {MAX_BRIDGES} bridges; no more fit")));
    }
    check_bridge(&spec)?;
    check_gateways(state, &spec)?;
    state.bridges.insert(spec.name.clone(), spec.into());
    Ok(Outcome::Done)
}

fn del_bridge(draft: &mut Draft, name: &str, if_exists: bool) -> Result {
    let Some(bridge) = draft.state.bridges.get(name) else { return missing(if_exists, no_bridge(name)) };
    if bridge.owner != Owner::Cli {
        return Err(owned("bridge", name, bridge.owner));
    }
    let ports: Vec<_> = draft.state.ports.values().filter(|port| port.spec.bridge == name).cloned().collect();
    if let Some(foreign) = ports.iter().find(|port| port.spec.owner != Owner::Cli) {
        return Err(owned("port", &foreign.spec.name, foreign.spec.owner));
    }
    for port in ports {
        draft.state.remove_port(&port.spec.name, draft.now);
    }
    let state = &mut draft.state;
    state.bridges.remove(name);
    state.routes.retain(|(bridge, _), _| bridge != name);
    state.statics.retain(|(bridge, _, _), _| bridge != name);
    state.neighbours.retain(|(bridge, _), _| bridge != name);
    Ok(Outcome::Done)
}

fn add_port(state: &mut State, spec: PortSpec, may_exist: bool) -> Result {
    only_cli(spec.owner, "port", &spec.name)?;
    if let Some(there) = state.ports.get(&spec.name) {
        return if !may_exist {
            Err(conflict(format!(
                "a port named {} exists already on {}; use --may-exist if that is right",
                spec.name, there.spec.bridge
            )))
        } else if there.spec.bridge != spec.bridge {
            Err(conflict(format!(
                "port {} is on bridge {}, not {}",
                spec.name, there.spec.bridge, spec.bridge
            )))
        } else {
            existing::check_port(there, &spec).map(|()| Outcome::Unchanged)
        };
    }
    if state.bridges.contains_key(&spec.name) {
        return Err(conflict(format!("a bridge named {} exists already", spec.name)));
    }
    if spec.kind == PortKind::Internal {
        return Err(invalid(
            "type internal: weftd itself makes the node's own port; see `internal` in weft.toml",
        ));
    }
    let name = spec.name.clone();
    state.put_port(PortRecord::new(spec));
    check_port(state, &name)?;
    port::check_subnets(state, &name)?;
    Ok(Outcome::Done)
}

fn del_port(draft: &mut Draft, bridge: Option<&str>, name: &str, if_exists: bool) -> Result {
    if let Some(bridge) = bridge.filter(|bridge| !draft.state.bridges.contains_key(*bridge)) {
        return Err(no_bridge(bridge));
    }
    let Some(port) = draft.state.ports.get(name) else { return missing(if_exists, no_port(name)) };
    if let Some(bridge) = bridge.filter(|bridge| port.spec.bridge != *bridge) {
        return Err(conflict(format!("port {name} is on bridge {}, not {bridge}", port.spec.bridge)));
    }
    if port.spec.owner != Owner::Cli {
        return Err(owned("port", name, port.spec.owner));
    }
    draft.state.remove_port(name, draft.now);
    Ok(Outcome::Done)
}

fn add_fdb(state: &mut State, key: (String, Option<VlanId>, MacAddr), entry: StaticMac) -> Result {
    let port = port_on(state, &key.0, &entry.port)?;
    if !key.2.is_unicast() {
        return Err(invalid(format!("{} is no station's MAC", key.2)));
    }
    if let Some(own) = state.port_of_station(&key.0, (key.1, key.2)) {
        return Err(of_port("MAC", &key.2, "mac", &own.spec));
    }
    if state.router_mac(&key.0) == Some(key.2) {
        return Err(conflict(format!("{} is the MAC of the router of bridge {}", key.2, key.0)));
    }
    match (port.spec.kind, entry.remote) {
        (PortKind::Vxlan, None) => {
            return Err(invalid(format!("{} is a vxlan port; name the peer: remote=IP", entry.port)));
        }
        (PortKind::Vxlan, Some(remote)) if !port.spec.remotes.contains(&remote) => {
            return Err(invalid(format!("{remote} is none of the remotes of {}", entry.port)));
        }
        (PortKind::Tap | PortKind::Afxdp | PortKind::Internal, Some(_)) => {
            return Err(invalid(format!(
                "remote= goes with a vxlan port; {} is {}",
                entry.port, port.spec.kind
            )));
        }
        _ => {}
    }
    room(state.statics.len(), "static stations")?;
    match state.statics.get(&key) {
        Some(there) if *there == entry => Ok(Outcome::Unchanged),
        Some(there) => {
            Err(conflict(format!("{} is static behind {} already; delete it first", key.2, there.port)))
        }
        None => {
            state.statics.insert(key, entry);
            Ok(Outcome::Done)
        }
    }
}

fn del_fdb(draft: &mut Draft, key: (String, Option<VlanId>, MacAddr), if_exists: bool) -> Result {
    if !draft.state.bridges.contains_key(&key.0) {
        return Err(no_bridge(&key.0));
    }
    if let Some(entry) = draft.state.statics.get(&key) {
        if entry.owner != Owner::Cli {
            return Err(owned("station", &key.2.to_string(), entry.owner));
        }
        draft.state.statics.remove(&key);
        return Ok(Outcome::Done);
    }
    let (bridge, vlan, mac) = key;
    if let Some(own) = draft.state.port_of_station(&bridge, (vlan, mac)) {
        return Err(of_port("MAC", &mac, "mac", &own.spec));
    }
    if !(draft.is_learned)(&bridge, vlan, mac) {
        return missing(if_exists, not_found(format!("{mac} is not in the FDB of {bridge}")));
    }
    draft.forget.push(Forget { bridge, port: None, station: Some((vlan, mac)) });
    Ok(Outcome::Done)
}

fn flush_fdb(draft: &mut Draft, bridge: String, port: Option<String>) -> Result {
    match &port {
        Some(port) => drop(port_on(&draft.state, &bridge, port)?),
        None if !draft.state.bridges.contains_key(&bridge) => return Err(no_bridge(&bridge)),
        None => {}
    }
    draft.forget.push(Forget { bridge, port, station: None });
    Ok(Outcome::Done)
}

fn add_route(state: &mut State, mut route: RouteSpec, may_exist: bool) -> Result {
    only_cli(route.owner, "route", &route.dst.to_string())?;
    let bridge = state.bridges.get(&route.bridge).ok_or_else(|| no_bridge(&route.bridge))?;
    if bridge.gateways.is_empty() {
        return Err(invalid(format!("bridge {} has no router; set its gateways first", route.bridge)));
    }
    route.dst = route.dst.trunc();
    if of_cluster(state, &route.bridge, &route.dst) {
        return Err(owned("route", &route.dst.to_string(), Owner::File));
    }
    let v4 = |ip: &IpAddr| ip.is_ipv4();
    match &route.via {
        Via::Node if !has_port_of_node(state, &route.bridge) => {
            return Err(invalid(format!(
                "bridge {} has no port of the node's own, so `via node` leads nowhere; only bridge {} can have it \
                 (`internal` in weft.toml)",
                route.bridge, state.node.bridge
            )));
        }
        Via::Gateway { ip } if v4(ip) != v4(&route.dst.addr()) => {
            return Err(invalid(format!(
                "gateway {ip} and destination {} are of different families",
                route.dst
            )));
        }
        Via::Gateway { ip } if !bridge.gateways.iter().any(|own| own.contains(ip)) => {
            return Err(invalid(format!("gateway {ip} is on no segment of bridge {}", route.bridge)));
        }
        Via::Tunnel { mac: Some(mac), .. } if !mac.is_unicast() => {
            return Err(invalid(format!("{mac} is no station's MAC")));
        }
        _ => {}
    }
    room(state.routes.len(), "routes")?;
    let key = (route.bridge.clone(), route.dst);
    match state.routes.get(&key) {
        Some(there) if may_exist && *there == route => Ok(Outcome::Unchanged),
        Some(_) => Err(conflict(format!("a route to {} exists already; delete it first", route.dst))),
        None => {
            state.routes.insert(key, route);
            Ok(Outcome::Done)
        }
    }
}

fn del_route(state: &mut State, key: (String, IpNet), if_exists: bool) -> Result {
    let bridge = state.bridges.get(&key.0).ok_or_else(|| no_bridge(&key.0))?;
    match state.routes.get(&key) {
        Some(route) if route.owner != Owner::Cli => Err(owned("route", &key.1.to_string(), route.owner)),
        Some(_) => {
            state.routes.remove(&key);
            Ok(Outcome::Done)
        }
        None if of_file(state, bridge, &key.1) => Err(owned("route", &key.1.to_string(), Owner::File)),
        None if bridge.gateways.iter().any(|gateway| gateway.trunc() == key.1) => Err(conflict(format!(
            "route {} goes with a gateway of bridge {}; change it with `weft set bridge {} gateway=`",
            key.1, key.0, key.0
        ))),
        None => missing(if_exists, not_found(format!("bridge {} has no route to {}", key.0, key.1))),
    }
}

fn add_neighbour(state: &mut State, key: (String, IpAddr), entry: StaticNeighbour) -> Result {
    port_on(state, &key.0, &entry.port)?;
    if !entry.mac.is_unicast() {
        return Err(invalid(format!("{} is no station's MAC", entry.mac)));
    }
    if let Some(port) = port::holder(state, &key.0, key.1) {
        return Err(of_port("address", &key.1, "ip", port));
    }
    if state.bridges[&key.0].gateways.iter().any(|gateway| gateway.addr() == key.1) {
        return Err(conflict(format!("{} is a gateway address of {}", key.1, key.0)));
    }
    room(state.neighbours.len(), "static neighbours")?;
    match state.neighbours.get(&key) {
        Some(there) if *there == entry => Ok(Outcome::Unchanged),
        Some(there) => Err(conflict(format!("{} is at {} already; delete it first", key.1, there.mac))),
        None => {
            state.neighbours.insert(key, entry);
            Ok(Outcome::Done)
        }
    }
}

fn del_neighbour(state: &mut State, key: (String, IpAddr), if_exists: bool) -> Result {
    if !state.bridges.contains_key(&key.0) {
        return Err(no_bridge(&key.0));
    }
    match state.neighbours.get(&key) {
        Some(entry) if entry.owner != Owner::Cli => Err(owned("neighbour", &key.1.to_string(), entry.owner)),
        Some(_) => {
            state.neighbours.remove(&key);
            Ok(Outcome::Done)
        }
        None => match port::holder(state, &key.0, key.1) {
            Some(port) => Err(of_port("address", &key.1, "ip", port)),
            None => missing(if_exists, not_found(format!("bridge {} has no neighbour {}", key.0, key.1))),
        },
    }
}

/// True if the cluster file or the configuration routes `dst`.
fn of_cluster(state: &State, bridge: &str, dst: &IpNet) -> bool {
    let node = &state.node;
    let remote = node.peers.iter().flat_map(|peer| &peer.pod_cidrs);
    bridge == node.bridge && node.pod_cidrs.iter().chain(remote).any(|cidr| cidr == dst)
}

/// True if `route show` has a route to `dst` that the cluster file or the configuration made.
fn of_file(state: &State, bridge: &BridgeSpec, dst: &IpNet) -> bool {
    let subnet = bridge.owner == Owner::File && bridge.gateways.iter().any(|gateway| gateway.trunc() == *dst);
    let cluster = bridge.name == state.node.bridge && state.node.cluster_cidrs.contains(dst);
    let world = dst.prefix_len() == 0 && has_port_of_node(state, &bridge.name);
    subnet || cluster || world || of_cluster(state, &bridge.name, dst)
}

/// Is the node's own port on that bridge?
fn has_port_of_node(state: &State, bridge: &str) -> bool {
    state.ports.values().any(|port| port.spec.kind == PortKind::Internal && port.spec.bridge == bridge)
}

/// The port `name`, which must be on `bridge`.
fn port_on<'a>(state: &'a State, bridge: &str, name: &str) -> Result<&'a PortRecord> {
    if !state.bridges.contains_key(bridge) {
        return Err(no_bridge(bridge));
    }
    let port = state.ports.get(name).ok_or_else(|| no_port(name))?;
    if port.spec.bridge != bridge {
        return Err(conflict(format!("port {name} is on bridge {}, not {bridge}", port.spec.bridge)));
    }
    Ok(port)
}

fn only_cli(owner: Owner, what: &str, name: &str) -> Result<()> {
    if owner == Owner::Cli {
        return Ok(());
    }
    Err(invalid(format!("{what} {name}: owner {owner} cannot be chosen; what is made here belongs to cli")))
}

fn room(count: usize, what: &str) -> Result<()> {
    if count < MAX_ENTRIES {
        return Ok(());
    }
    Err(ApiError::new(Code::Exhausted, format!("there are {MAX_ENTRIES} {what}; no more fit")))
}

fn missing(if_exists: bool, error: ApiError) -> Result {
    if if_exists { Ok(Outcome::Unchanged) } else { Err(error) }
}

fn no_bridge(name: &str) -> ApiError {
    not_found(format!("no bridge is named {name}; `weft list-br` lists them"))
}

fn no_port(name: &str) -> ApiError {
    not_found(format!("no port is named {name}; `weft show` lists them"))
}

fn not_found(message: String) -> ApiError {
    ApiError::new(Code::NotFound, message)
}

fn owned(what: &str, name: &str, owner: Owner) -> ApiError {
    let how = match owner {
        Owner::File => "change the configuration or cluster file",
        Owner::Cni => "let its container runtime change it",
        Owner::Cli => "change it with weft",
    };
    ApiError::new(Code::Owned, format!("{what} {name} belongs to {owner}; {how}"))
}

/// A MAC or an address that is a port's own: it goes with the port, and is changed with it, by its setting `key`.
fn of_port(what: &str, value: &dyn fmt::Display, key: &str, port: &PortSpec) -> ApiError {
    let PortSpec { name, owner, .. } = port;
    match owner {
        Owner::Cli => conflict(format!(
            "{value} is the {what} of port {name}; change it with `weft set port {name} {key}=`"
        )),
        _ => owned(what, &format!("{value} of port {name}"), *owner),
    }
}

fn conflict(message: String) -> ApiError {
    ApiError::new(Code::Conflict, message)
}

fn invalid(message: impl Into<String>) -> ApiError {
    ApiError::new(Code::Invalid, message)
}

#[cfg(test)]
mod tests;
