//! `may_exist` with a bridge or port that exists: its settings must be those that are asked for. What is asked for by default, or
//! equals the default, counts as not asked for.

use std::collections::BTreeSet;

use weft_api::{BridgeSpec, MacAddr, Owner, PortKind, PortSpec};
use weft_sys::netns::NAMED_DIR;

use super::{Result, conflict};
use crate::control::state::PortRecord;

/// Has the bridge `there` the settings that `wanted` names? `router` is its router's MAC, if it has a router.
///
/// # Errors
/// [`weft_api::Code::Conflict`], naming the first setting that differs.
pub(super) fn check_bridge(there: &BridgeSpec, router: Option<MacAddr>, wanted: &BridgeSpec) -> Result<()> {
    let default = BridgeSpec::new(&wanted.name, Owner::default());
    let there = BridgeSpec { mac: router.or(there.mac), ..there.clone() };
    compare(("bridge", &wanted.name), of_bridge(&there), of_bridge(wanted), of_bridge(&default))
}

/// Has the port `there` the settings that `wanted` names?
///
/// # Errors
/// [`weft_api::Code::Conflict`], naming the first setting that differs.
pub(super) fn check_port(there: &PortRecord, wanted: &PortSpec) -> Result<()> {
    let default = PortSpec::new(&wanted.name, &wanted.bridge, PortKind::default(), Owner::default());
    compare(("port", &wanted.name), of_port(&there.spec), of_port(wanted), of_port(&default))?;
    for (id, want) in &wanted.external_ids {
        let is = there.spec.external_ids.get(id).map_or("none", String::as_str);
        if is != want {
            return Err(conflict(format!(
                "port {} exists with external_ids:{id}={is}, not {want}",
                wanted.name
            )));
        }
    }
    Ok(())
}

/// Is every setting of `want` that is not the default the one that is?
fn compare<const N: usize>(
    (what, name): (&str, &str),
    is: [Setting; N],
    want: [Setting; N],
    default: [Setting; N],
) -> Result<()> {
    for (((key, want), (_, is)), (_, default)) in want.into_iter().zip(is).zip(default) {
        if want != default && want != is {
            let or_none = |value: String| if value.is_empty() { "none".to_owned() } else { value };
            return Err(conflict(format!(
                "{what} {name} exists with {key}={}, not {}; change it by `set {what}`, or leave {key} out",
                or_none(is),
                or_none(want)
            )));
        }
    }
    Ok(())
}

/// A key in the command's spelling, and its value; lists without order, absent ones empty.
type Setting = (&'static str, String);

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let sorted: BTreeSet<String> = items.into_iter().map(|item| item.to_string()).collect();
    sorted.into_iter().collect::<Vec<_>>().join(",")
}

fn text<T: ToString>(item: Option<T>) -> String {
    item.map_or_else(String::new, |item| item.to_string())
}

/// Every setting of a bridge.
fn of_bridge(spec: &BridgeSpec) -> [Setting; 7] {
    [
        ("gateway", list(&spec.gateways)),
        ("mac", text(spec.mac)),
        ("mtu", text(spec.mtu)),
        ("local-mtu", text(spec.local_mtu)),
        ("ageing-seconds", spec.ageing_seconds.to_string()),
        ("fdb-max", spec.fdb_max.to_string()),
        ("flood-pps", spec.flood_pps.to_string()),
    ]
}

/// Every setting of a port but external ids.
fn of_port(spec: &PortSpec) -> [Setting; 16] {
    let netns = spec.netns.as_deref();
    let named = |path| Some(netns?.strip_prefix(path)?.trim_start_matches('/'));
    let netns = named(NAMED_DIR).or_else(|| named("/var/run/netns")).or(netns);
    let gateways =
        spec.gateways.as_ref().map(|all| if all.is_empty() { "none".to_owned() } else { list(all) });
    let routes = spec.routes.iter().map(|route| {
        let gw = route.gw.map(|gw| format!(" via {gw}")).unwrap_or_default();
        let mtu = route.mtu.map(|mtu| format!(" mtu {mtu}")).unwrap_or_default();
        format!("{}{gw}{mtu}", route.dst)
    });
    [
        ("type", spec.kind.to_string()),
        ("netns", text(netns)),
        ("ifname", text(spec.ifname.as_ref())),
        ("mac", text(spec.mac)),
        ("ip", list(&spec.ips)),
        ("gateway", text(gateways)),
        ("route", list(routes)),
        ("mtu", text(spec.mtu)),
        ("tag", text(spec.tag)),
        ("trunks", list(&spec.trunks)),
        ("guard", spec.guard.to_string()),
        ("offloads-off", list(&spec.offloads_off)),
        ("queues", spec.queues.to_string()),
        ("vni", text(spec.vni)),
        ("remote", list(&spec.remotes)),
        ("udp-port", text(spec.udp_port)),
    ]
}
