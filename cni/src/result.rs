//! Results and errors as JSON (SPEC.md section 5), in the shape of each version; and the results of others: prevResult
//! and the address plugin's.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use weft_api::MacAddr;
use weft_api::cni::{Added, CniError, DelegatedIp};
use weft_api::port::PodRoute;

use crate::version::Version;

/// Name service. The capability `dns` says `servers` and `searches` for what results call `nameservers` and `search`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Dns {
    #[serde(
        default,
        alias = "servers",
        deserialize_with = "or_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    nameservers: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
    #[serde(
        default,
        alias = "searches",
        deserialize_with = "or_empty",
        skip_serializing_if = "Vec::is_empty"
    )]
    search: Vec<String>,
    #[serde(default, deserialize_with = "or_empty", skip_serializing_if = "Vec::is_empty")]
    options: Vec<String>,
}

impl Dns {
    /// True if it says nothing.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Dns::default()
    }
}

/// A result of another plugin, or of ours on an earlier call. Only what is used; the rest is ignored.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Prev {
    #[serde(default, deserialize_with = "or_empty")]
    interfaces: Vec<PrevInterface>,
    #[serde(default, deserialize_with = "or_empty")]
    ips: Vec<PrevIp>,
    #[serde(default, deserialize_with = "or_empty")]
    routes: Vec<PrevRoute>,
    /// Name service.
    #[serde(default, deserialize_with = "or_empty")]
    pub(crate) dns: Dns,
}

#[derive(Debug, Deserialize)]
struct PrevInterface {
    #[serde(default)]
    name: String,
    mac: Option<String>,
    sandbox: Option<String>,
}

#[derive(Debug, Deserialize)]
struct PrevIp {
    address: IpNet,
    gateway: Option<String>,
    interface: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct PrevRoute {
    dst: IpNet,
    gw: Option<String>,
    mtu: Option<u32>,
    table: Option<i64>,
}

/// The container's interface as a prevResult names it.
#[derive(Debug)]
pub(crate) struct PrevPort {
    /// Its MAC.
    pub(crate) mac: Option<MacAddr>,
    /// Its addresses.
    pub(crate) ips: Vec<IpNet>,
}

impl Prev {
    /// The interface `ifname` inside a container, with the addresses that point to it (or to none).
    pub(crate) fn port(&self, ifname: &str) -> Option<PrevPort> {
        let inside =
            |i: &PrevInterface| i.name == ifname && i.sandbox.as_ref().is_some_and(|s| !s.is_empty());
        let index = self.interfaces.iter().position(inside)?;
        let ours = |ip: &&PrevIp| ip.interface.is_none_or(|i| usize::try_from(i) == Ok(index));
        Some(PrevPort {
            mac: self.interfaces[index].mac.as_deref().and_then(|mac| mac.parse().ok()),
            ips: self.ips.iter().filter(ours).map(|ip| ip.address).collect(),
        })
    }

    /// Addresses, IPv4 first, with their gateways.
    pub(crate) fn delegated_ips(&self) -> Vec<DelegatedIp> {
        let convert =
            |ip: &PrevIp| DelegatedIp { address: ip.address, gateway: parse_gateway(ip.gateway.as_deref()) };
        let mut ips: Vec<DelegatedIp> = self.ips.iter().map(convert).collect();
        ips.sort_by_key(|ip| ip.address.addr().is_ipv6());
        ips
    }

    /// Routes; those of other tables than main (254) are left out: no plugin but the one that asked manages them.
    pub(crate) fn routes(&self) -> Vec<PodRoute> {
        let main = |route: &&PrevRoute| matches!(route.table, None | Some(0 | 254));
        let convert = |route: &PrevRoute| PodRoute {
            dst: route.dst.trunc(),
            gw: parse_gateway(route.gw.as_deref()),
            mtu: route.mtu.filter(|mtu| *mtu != 0),
        };
        self.routes.iter().filter(main).map(convert).collect()
    }
}

/// The result of an ADD. One interface: there is no host side, the daemon holds the device by a descriptor.
pub(crate) fn added(version: Version, ifname: &str, sandbox: &str, added: &Added, dns: &Dns) -> Value {
    let mut interface = json!({ "name": ifname, "mac": added.mac, "sandbox": sandbox });
    if version >= Version::V1_1_0 {
        interface["mtu"] = json!(added.mtu);
    }
    let ips: Vec<Value> = added.ips.iter().map(|ip| render_ip(version, ip)).collect();
    let routes: Vec<Value> = added.routes.iter().map(|route| render_route(version, route)).collect();
    json!({
        "cniVersion": version.as_str(),
        "interfaces": [interface],
        "ips": ips,
        "routes": routes,
        "dns": dns,
    })
}

/// An error, with the version that the configuration claims.
pub(crate) fn error(version: Option<&str>, error: &CniError) -> Value {
    let version = version.filter(|text| !text.is_empty()).unwrap_or(Version::CURRENT.as_str());
    let mut value = json!({ "cniVersion": version, "code": error.code, "msg": error.msg });
    if !error.details.is_empty() {
        value["details"] = json!(error.details);
    }
    value
}

fn render_ip(version: Version, ip: &DelegatedIp) -> Value {
    let mut value = json!({ "address": ip.address.to_string(), "interface": 0 });
    if version < Version::V1_0_0 {
        value["version"] = json!(if ip.address.addr().is_ipv4() { "4" } else { "6" });
    }
    if let Some(gateway) = ip.gateway {
        value["gateway"] = json!(gateway);
    }
    value
}

fn render_route(version: Version, route: &PodRoute) -> Value {
    let mut value = json!({ "dst": route.dst.to_string() });
    if let Some(gw) = route.gw {
        value["gw"] = json!(gw);
    }
    if let (Some(mtu), true) = (route.mtu, version >= Version::V1_1_0) {
        value["mtu"] = json!(mtu);
    }
    value
}

/// Go writes a missing gateway as an empty text.
fn parse_gateway(text: Option<&str>) -> Option<IpAddr> {
    text.and_then(|text| text.parse().ok())
}

/// Go writes an empty list as null.
fn or_empty<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Default + Deserialize<'de>,
    D: serde::Deserializer<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}
