//! `set bridge NAME KEY=VALUE` and `set port NAME KEY=VALUE`; values are text, empty clears.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use weft_api::{Outcome, Owner};

use super::{Result, check_bridge, check_gateways, check_port, conflict, invalid, no_bridge, no_port, owned};
use crate::control::state::State;

/// Keys of a bridge.
const BRIDGE_KEYS: &str = "mtu, local_mtu, ageing_seconds, fdb_max, flood_pps, gateways, mac";
/// Keys of a port.
const PORT_KEYS: &str = "tag, trunks, guard, ips, mac, mtu, remotes, external_ids:KEY";

/// Sets a bridge's `key` to `value`.
pub(super) fn bridge(state: &mut State, name: &str, key: &str, value: &str) -> Result {
    let old = state.bridges.get(name).ok_or_else(|| no_bridge(name))?;
    if old.owner != Owner::Cli {
        return Err(owned("bridge", name, old.owner));
    }
    let mut spec = (**old).clone();
    match key {
        "mtu" => spec.mtu = optional(key, value)?,
        "local_mtu" => spec.local_mtu = optional(key, value)?,
        "mac" => spec.mac = optional(key, value)?,
        "ageing_seconds" => spec.ageing_seconds = or_default(key, value, weft_api::bridge::default_ageing())?,
        "fdb_max" => spec.fdb_max = or_default(key, value, weft_api::bridge::default_fdb_max())?,
        "flood_pps" => spec.flood_pps = or_default(key, value, weft_api::bridge::default_flood_pps())?,
        "gateways" => spec.gateways = list(key, value)?,
        _ => return Err(invalid(format!("a bridge has no setting `{key}`; expected one of {BRIDGE_KEYS}"))),
    }
    if spec == **old {
        return Ok(Outcome::Unchanged);
    }
    check_bridge(&spec)?;
    if key == "gateways" {
        check_gateways(state, &spec)?;
    }
    state.bridges.insert(name.to_owned(), Arc::new(spec));
    state.follow_mtu();
    if matches!(key, "gateways" | "mac") {
        let router = state.router_mac(name);
        if state.statics.keys().any(|(bridge, _, mac)| bridge == name && Some(*mac) == router) {
            return Err(conflict(format!(
                "the router's MAC would be that of a static station of {name}; delete it first"
            )));
        }
        let ports: Vec<_> = state.ports.values().filter(|port| port.spec.bridge == name).cloned().collect();
        for port in ports {
            check_port(state, &port.spec.name)?;
        }
    }
    Ok(Outcome::Done)
}

/// Sets a port's `key` to `value`.
pub(super) fn port(state: &mut State, name: &str, key: &str, value: &str) -> Result {
    let old = state.ports.get(name).ok_or_else(|| no_port(name))?;
    if old.spec.owner != Owner::Cli {
        return Err(owned("port", name, old.spec.owner));
    }
    let mut record = (**old).clone();
    let spec = &mut record.spec;
    match key {
        "tag" => spec.tag = optional(key, value)?,
        "trunks" => spec.trunks = list(key, value)?,
        "guard" => spec.guard = or_default(key, value, true)?,
        "ips" => spec.ips = list(key, value)?,
        "mac" => spec.mac = optional(key, value)?,
        "mtu" => {
            spec.mtu = optional(key, value)?;
            (record.mtu_follows, record.local_mtu) = (spec.mtu.is_none(), None);
        }
        "remotes" => spec.remotes = list(key, value)?,
        _ => match key.strip_prefix("external_ids:") {
            Some(id) if value.is_empty() => drop(spec.external_ids.remove(id)),
            Some(id) => drop(spec.external_ids.insert(id.to_owned(), value.to_owned())),
            None => {
                return Err(invalid(format!("a port has no setting `{key}`; expected one of {PORT_KEYS}")));
            }
        },
    }
    let old = Arc::clone(old);
    state.put_port(record);
    if state.ports.get(name) == Some(&old) {
        return Ok(Outcome::Unchanged);
    }
    check_port(state, name)?;
    if key == "ips" {
        super::port::check_subnets(state, name)?;
    }
    Ok(Outcome::Done)
}

fn optional<T: FromStr<Err: Display>>(key: &str, value: &str) -> Result<Option<T>> {
    if value.is_empty() { Ok(None) } else { parse(key, value).map(Some) }
}

fn or_default<T: FromStr<Err: Display>>(key: &str, value: &str, default: T) -> Result<T> {
    if value.is_empty() { Ok(default) } else { parse(key, value) }
}

fn list<T: FromStr<Err: Display>>(key: &str, value: &str) -> Result<Vec<T>> {
    value.split(',').map(str::trim).filter(|item| !item.is_empty()).map(|item| parse(key, item)).collect()
}

fn parse<T: FromStr<Err: Display>>(key: &str, value: &str) -> Result<T> {
    value.parse().map_err(|error| invalid(format!("{key}={value}: {error}")))
}
