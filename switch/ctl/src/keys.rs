//! `key=value` settings of bridges and ports.
//!
//! Keys are read with `_` and `-` alike, and a few of ovs-vsctl's own spellings are understood. An unknown key is an
//! error that lists the known ones.

use std::fmt::Display;
use std::str::FromStr;

use weft_api::port::PodRoute;
use weft_api::{BridgeSpec, MacAddr, PortSpec};

use crate::session::UsageError;

/// Offloads that `offloads-off` may name.
const OFFLOADS: [&str; 5] = ["csum", "tso4", "tso6", "ecn", "uso"];

/// Keys of `add-port`.
pub(crate) const PORT_KEYS: [&str; 17] = [
    "type",
    "netns",
    "ifname",
    "mac",
    "ip",
    "gateway",
    "route",
    "mtu",
    "tag",
    "trunks",
    "guard",
    "offloads-off",
    "queues",
    "vni",
    "remote",
    "udp-port",
    "external_ids:KEY",
];
/// Keys that `set port` may change, with their names in the API.
const PORT_SETTABLE: [(&str, &str); 7] = [
    ("tag", "tag"),
    ("trunks", "trunks"),
    ("guard", "guard"),
    ("ip", "ips"),
    ("mac", "mac"),
    ("mtu", "mtu"),
    ("remote", "remotes"),
];
/// Keys of bridges, with their names in the API; all may be set.
const BRIDGE_KEYS: [(&str, &str); 7] = [
    ("gateway", "gateways"),
    ("mac", "mac"),
    ("mtu", "mtu"),
    ("local-mtu", "local_mtu"),
    ("ageing-seconds", "ageing_seconds"),
    ("fdb-max", "fdb_max"),
    ("flood-pps", "flood_pps"),
];

/// One `key=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// In the spelling of [`PORT_KEYS`]; `external_ids:` keeps the key behind it verbatim.
    pub(crate) key: String,
    /// As given.
    pub(crate) value: String,
}

impl FromStr for Setting {
    type Err = UsageError;

    fn from_str(text: &str) -> Result<Self, UsageError> {
        match text.split_once('=') {
            Some((key, value)) if !key.is_empty() => {
                Ok(Setting { key: canonical(key), value: value.to_owned() })
            }
            _ => Err(UsageError::new(format!("`{text}` is not of the form key=value"))),
        }
    }
}

/// The one spelling of a key that the rest of this program knows.
pub(crate) fn canonical(key: &str) -> String {
    if let Some((column, key)) = key.split_once(':') {
        return match (column.replace('-', "_").as_str(), key) {
            ("external_ids", key) => format!("external_ids:{key}"),
            ("options", "remote_ip") => "remote".to_owned(),
            ("options", "key") => "vni".to_owned(),
            ("options", "dst_port") => "udp-port".to_owned(),
            ("other_config", "mac-aging-time") => "ageing-seconds".to_owned(),
            ("other_config", "mac-table-size") => "fdb-max".to_owned(),
            (column, key) => format!("{column}:{key}"),
        };
    }
    let key = key.replace('_', "-");
    match key.as_str() {
        "ips" => "ip".to_owned(),
        "gateways" => "gateway".to_owned(),
        "routes" => "route".to_owned(),
        "remotes" => "remote".to_owned(),
        "trunk" => "trunks".to_owned(),
        "ageing" | "aging" => "ageing-seconds".to_owned(),
        "kind" => "type".to_owned(),
        "external-ids" => "external_ids".to_owned(),
        _ => key,
    }
}

/// Puts one setting into a port; lists grow when a key is repeated.
pub(crate) fn apply_to_port(port: &mut PortSpec, setting: &Setting) -> Result<(), UsageError> {
    let Setting { key, value } = setting;
    if let Some(id) = key.strip_prefix("external_ids:").filter(|id| !id.is_empty()) {
        port.external_ids.insert(id.to_owned(), value.clone());
        return Ok(());
    }
    match key.as_str() {
        "type" => port.kind = one(key, value)?,
        "netns" => port.netns = Some(text(key, value)?),
        "ifname" => port.ifname = Some(text(key, value)?),
        "mac" => port.mac = Some(unicast(key, value)?),
        "ip" => append(&mut port.ips, key, value, "an address with prefix like 10.1.0.5/24")?,
        "gateway" if value == "none" => port.gateways = Some(Vec::new()),
        "gateway" => {
            append(port.gateways.get_or_insert_default(), key, value, "an address like 10.1.0.1, or none")?;
        }
        "route" => {
            for part in parts(value) {
                port.routes.push(route(part)?);
            }
        }
        "mtu" => port.mtu = Some(number(key, value, 68..=65_535)?),
        "tag" => port.tag = Some(one(key, value)?),
        "trunks" => append(&mut port.trunks, key, value, "a VLAN ID (1 to 4094)")?,
        "guard" => port.guard = on_off(key, value)?,
        "offloads-off" => port.offloads_off.extend(offloads(value)?),
        "queues" => port.queues = number(key, value, 1..=16)?,
        "vni" => port.vni = Some(one(key, value)?),
        "remote" => append(&mut port.remotes, key, value, "an underlay address like 192.0.2.7")?,
        "udp-port" => port.udp_port = Some(number(key, value, 1..=65_535)?),
        _ => return Err(unknown(key, "a port", PORT_KEYS)),
    }
    Ok(())
}

/// Puts one setting into a bridge; gateways grow when the key is repeated.
pub(crate) fn apply_to_bridge(bridge: &mut BridgeSpec, setting: &Setting) -> Result<(), UsageError> {
    let Setting { key, value } = setting;
    match key.as_str() {
        "gateway" => append(&mut bridge.gateways, key, value, "an address with prefix like 10.1.0.1/24")?,
        "mac" => bridge.mac = Some(unicast(key, value)?),
        "mtu" => bridge.mtu = Some(number(key, value, 68..=65_535)?),
        "local-mtu" => bridge.local_mtu = Some(number(key, value, 1280..=65_521)?),
        "ageing-seconds" => bridge.ageing_seconds = number(key, value, 1..=1_000_000)?,
        "fdb-max" => bridge.fdb_max = number(key, value, 1..=u32::MAX)?,
        "flood-pps" => bridge.flood_pps = number(key, value, 0..=u32::MAX)?,
        _ => return Err(unknown(key, "a bridge", BRIDGE_KEYS.map(|(key, _)| key))),
    }
    Ok(())
}

/// Key and value of [`weft_api::Command::SetPort`]. An empty value clears.
pub(crate) fn port_change(setting: &Setting) -> Result<(String, String), UsageError> {
    let mut scratch = PortSpec::new("scratch", "scratch", Default::default(), Default::default());
    if !setting.value.is_empty() || !PORT_KEYS.contains(&setting.key.as_str()) {
        apply_to_port(&mut scratch, setting)?;
    }
    if setting.key.starts_with("external_ids:") {
        return Ok((setting.key.clone(), setting.value.clone()));
    }
    let settable = PORT_SETTABLE.iter().find(|(key, _)| *key == setting.key);
    let Some((_, name)) = settable else {
        let known = PORT_SETTABLE.iter().map(|(key, _)| *key).chain(["external_ids:KEY"]).collect::<Vec<_>>();
        return Err(UsageError::new(format!(
            "`{}` of a port cannot be changed, only {}; delete the port and add it again",
            setting.key,
            known.join(", ")
        )));
    };
    let value = match setting.key.as_str() {
        "guard" if !setting.value.is_empty() => scratch.guard.to_string(),
        _ => setting.value.clone(),
    };
    Ok(((*name).to_owned(), value))
}

/// Key and value of [`weft_api::Command::SetBridge`]. An empty value clears.
pub(crate) fn bridge_change(setting: &Setting) -> Result<(String, String), UsageError> {
    let known = BRIDGE_KEYS.iter().find(|(key, _)| *key == setting.key);
    if !setting.value.is_empty() || known.is_none() {
        apply_to_bridge(&mut BridgeSpec::new("scratch", Default::default()), setting)?;
    }
    let name = known.map_or(setting.key.as_str(), |(_, name)| name);
    Ok((name.to_owned(), setting.value.clone()))
}

/// Joins the values of repeated keys with commas, in the order of first mention.
pub(crate) fn joined(settings: &[Setting]) -> Vec<Setting> {
    let mut joined: Vec<Setting> = Vec::new();
    for setting in settings {
        match joined.iter_mut().find(|earlier| earlier.key == setting.key) {
            Some(earlier) if ["ip", "gateway", "remote", "trunks"].contains(&setting.key.as_str()) => {
                earlier.value = format!("{},{}", earlier.value, setting.value);
            }
            Some(earlier) => earlier.value.clone_from(&setting.value),
            None => joined.push(setting.clone()),
        }
    }
    joined
}

/// The error for a key that nobody knows.
pub(crate) fn unknown<'a>(key: &str, what: &str, known: impl IntoIterator<Item = &'a str>) -> UsageError {
    let known = known.into_iter().collect::<Vec<_>>().join(", ");
    UsageError::new(format!("`{key}` is not a setting of {what}; known are: {known}"))
}

fn parts(value: &str) -> impl Iterator<Item = &str> {
    value.split([',', ' ']).filter(|part| !part.is_empty())
}

fn append<T: FromStr>(list: &mut Vec<T>, key: &str, value: &str, expected: &str) -> Result<(), UsageError> {
    let before = list.len();
    for part in parts(value) {
        list.push(part.parse().map_err(|_| UsageError::new(format!("{key}: `{part}` is not {expected}")))?);
    }
    if list.len() == before {
        return Err(UsageError::new(format!("{key}= needs {expected}")));
    }
    Ok(())
}

/// A value whose own error says what is expected.
fn one<T: FromStr>(key: &str, value: &str) -> Result<T, UsageError>
where
    T::Err: Display,
{
    value.parse().map_err(|error| UsageError::new(format!("{key}: {error}")))
}

fn text(key: &str, value: &str) -> Result<String, UsageError> {
    if value.is_empty() {
        return Err(UsageError::new(format!("{key}= needs a value")));
    }
    Ok(value.to_owned())
}

fn unicast(key: &str, value: &str) -> Result<MacAddr, UsageError> {
    let mac: MacAddr = one(key, value)?;
    if !mac.is_unicast() {
        return Err(UsageError::new(format!("{key}: {mac} is no single station's address")));
    }
    Ok(mac)
}

fn number<T: FromStr + PartialOrd + Display>(
    key: &str,
    value: &str,
    range: std::ops::RangeInclusive<T>,
) -> Result<T, UsageError> {
    value.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
        UsageError::new(format!("{key}: `{value}` is not a number from {} to {}", range.start(), range.end()))
    })
}

fn on_off(key: &str, value: &str) -> Result<bool, UsageError> {
    match value {
        "on" | "true" | "yes" => Ok(true),
        "off" | "false" | "no" => Ok(false),
        _ => Err(UsageError::new(format!("{key}: `{value}` is neither on nor off"))),
    }
}

fn offloads(value: &str) -> Result<Vec<String>, UsageError> {
    if value == "all" {
        return Ok(OFFLOADS.map(str::to_owned).to_vec());
    }
    parts(value)
        .map(|part| {
            OFFLOADS.contains(&part).then(|| part.to_owned()).ok_or_else(|| {
                UsageError::new(format!("offloads-off: `{part}` is none of {}, all", OFFLOADS.join(", ")))
            })
        })
        .collect()
}

/// `DST` (on link) or `DST@GATEWAY`.
fn route(part: &str) -> Result<PodRoute, UsageError> {
    let (dst, gw) = match part.split_once('@') {
        Some((dst, gw)) => (dst, Some(gw.parse())),
        None => (part, None),
    };
    match (dst.parse(), gw.transpose()) {
        (Ok(dst), Ok(gw)) => Ok(PodRoute { dst, gw, mtu: None }),
        _ => Err(UsageError::new(format!(
            "route: `{part}` is not PREFIX or PREFIX@GATEWAY like 10.0.0.0/8@10.1.0.1"
        ))),
    }
}

#[cfg(test)]
mod tests;
