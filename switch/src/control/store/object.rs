//! Keys and values of the store: one object each, `kind/name`, JSON.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_api::Owner;
use weft_encap::{MacAddr, VlanId};

use crate::control::state::{PortRecord, State, StaticMac, StaticNeighbour};

/// Which file an object is kept in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// That which ends with the boot.
    Ports,
    /// That of the operator's settings.
    Settings,
}

/// A change of one object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// In which file.
    pub place: Place,
    /// Under which key.
    pub key: String,
    /// Its JSON; `None`: it goes.
    pub value: Option<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Station {
    bridge: String,
    vlan: Option<VlanId>,
    mac: MacAddr,
    entry: StaticMac,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Neighbour {
    bridge: String,
    ip: IpAddr,
    entry: StaticNeighbour,
}

/// What must be written to get from what is kept of `old` to what is to be kept of `new`. What the file owns is never
/// kept: it is derived at each start.
pub fn changes(old: &State, new: &State) -> Vec<Object> {
    let mut all = Vec::new();
    let of_port = |state: &State, name: &str| match state.ports.get(name) {
        Some(port) if port.is_volatile() => Place::Ports,
        _ => Place::Settings,
    };
    differ(
        &old.ports,
        &new.ports,
        |name, port| {
            let place = if port.is_volatile() { Place::Ports } else { Place::Settings };
            (port.spec.owner != Owner::File).then(|| (place, format!("port/{name}"), json(&**port)))
        },
        &mut all,
    );
    differ(
        &old.bridges,
        &new.bridges,
        |name, bridge| {
            (bridge.owner != Owner::File)
                .then(|| (Place::Settings, format!("bridge/{name}"), json(&**bridge)))
        },
        &mut all,
    );
    differ(
        &old.routes,
        &new.routes,
        |(bridge, dst), route| {
            (route.owner != Owner::File)
                .then(|| (Place::Settings, format!("route/{}", route_key(bridge, dst)), json(route)))
        },
        &mut all,
    );
    let both = |name: &str| {
        // An object whose port is gone in `new` lies where the port lay.
        if new.ports.contains_key(name) { of_port(new, name) } else { of_port(old, name) }
    };
    differ(
        &old.statics,
        &new.statics,
        |(bridge, vlan, mac), entry| {
            let station = Station { bridge: bridge.clone(), vlan: *vlan, mac: *mac, entry: entry.clone() };
            Some((both(&entry.port), format!("fdb/{}", station_key(bridge, *vlan, *mac)), json(&station)))
        },
        &mut all,
    );
    differ(
        &old.neighbours,
        &new.neighbours,
        |(bridge, ip), entry| {
            let neighbour = Neighbour { bridge: bridge.clone(), ip: *ip, entry: entry.clone() };
            Some((both(&entry.port), format!("neighbour/{}", neighbour_key(bridge, *ip)), json(&neighbour)))
        },
        &mut all,
    );
    let ipam = (&old.ipam, &new.ipam);
    differ(
        &ipam.0.leases,
        &ipam.1.leases,
        |ip, lease| Some((Place::Ports, format!("lease/{ip}"), json(lease))),
        &mut all,
    );
    differ(
        &ipam.0.quarantine,
        &ipam.1.quarantine,
        |ip, freed| Some((Place::Ports, format!("quarantine/{ip}"), json(freed))),
        &mut all,
    );
    differ(
        &ipam.0.last,
        &ipam.1.last,
        |cidr, ip| Some((Place::Ports, format!("last/{cidr}"), json(ip))),
        &mut all,
    );
    all
}

/// Puts one kept object into `state`.
///
/// # Errors
/// What is wrong with it: an unknown kind, a value that does not decode, one that is another key's.
pub fn load(state: &mut State, key: &str, value: &[u8]) -> Result<(), String> {
    fn parse<'a, T: Deserialize<'a>>(value: &'a [u8]) -> Result<T, String> {
        serde_json::from_slice(value).map_err(|error| error.to_string())
    }
    fn name<T: std::str::FromStr<Err: std::fmt::Display>>(text: &str) -> Result<T, String> {
        text.parse().map_err(|error: T::Err| error.to_string())
    }
    fn same(rest: &str, expected: &str) -> Result<(), String> {
        if rest == expected { Ok(()) } else { Err(format!("it holds the value of {expected}")) }
    }
    let (kind, rest) = key.split_once('/').ok_or("a key without a kind")?;
    match kind {
        "port" => {
            let port: PortRecord = parse(value)?;
            same(rest, &port.spec.name)?;
            state.ports.insert(rest.to_owned(), Arc::new(port));
        }
        "bridge" => {
            let bridge: weft_api::BridgeSpec = parse(value)?;
            same(rest, &bridge.name)?;
            state.bridges.insert(rest.to_owned(), Arc::new(bridge));
        }
        "route" => {
            let route: weft_api::transaction::RouteSpec = parse(value)?;
            same(rest, &route_key(&route.bridge, &route.dst))?;
            state.routes.insert((route.bridge.clone(), route.dst), route);
        }
        "fdb" => {
            let station: Station = parse(value)?;
            same(rest, &station_key(&station.bridge, station.vlan, station.mac))?;
            state.statics.insert((station.bridge, station.vlan, station.mac), station.entry);
        }
        "neighbour" => {
            let neighbour: Neighbour = parse(value)?;
            same(rest, &neighbour_key(&neighbour.bridge, neighbour.ip))?;
            state.neighbours.insert((neighbour.bridge, neighbour.ip), neighbour.entry);
        }
        "lease" => drop(state.ipam.leases.insert(name(rest)?, parse(value)?)),
        "quarantine" => drop(state.ipam.quarantine.insert(name(rest)?, parse(value)?)),
        "last" => drop(state.ipam.last.insert(name(rest)?, parse(value)?)),
        _ => return Err(format!("objects of kind `{kind}` are not known")),
    }
    Ok(())
}

fn route_key(bridge: &str, dst: &IpNet) -> String {
    format!("{bridge}/{dst}")
}

fn station_key(bridge: &str, vlan: Option<VlanId>, mac: MacAddr) -> String {
    format!("{bridge}/{}/{mac}", vlan.map_or(0, VlanId::get))
}

fn neighbour_key(bridge: &str, ip: IpAddr) -> String {
    format!("{bridge}/{ip}")
}

type Kept = (Place, String, Vec<u8>);

fn differ<K: Ord, V: PartialEq>(
    old: &BTreeMap<K, V>,
    new: &BTreeMap<K, V>,
    object: impl Fn(&K, &V) -> Option<Kept>,
    all: &mut Vec<Object>,
) {
    for (key, was) in old {
        let Some((place, name, _)) = new.get(key).map_or_else(
            || object(key, was),
            |is| {
                // Moved to the other file, or no longer kept: it goes from where it was.
                let (before, after) = (object(key, was)?, object(key, is));
                after.is_none_or(|after| after.0 != before.0).then_some(before)
            },
        ) else {
            continue;
        };
        all.push(Object { place, key: name, value: None });
    }
    for (key, is) in new.iter().filter(|(key, is)| old.get(*key) != Some(*is)) {
        if let Some((place, key, value)) = object(key, is) {
            all.push(Object { place, key, value: Some(value) });
        }
    }
}

/// Plain data with string keys always serialises.
fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}
