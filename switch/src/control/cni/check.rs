//! CHECK: is the interface in the namespace as ADD left it? What plugins later in the chain changed counts as they left
//! it, because the expectation is the final result; MTU and further addresses or routes are nobody's error. But a route
//! that had an MTU below the device's must have one: without it TCP would offer what no other node can send.

use ipnet::IpNet;
use weft_api::PortKind;
use weft_api::port::PodRoute;
use weft_encap::MacAddr;
use weft_sys::link::{Link, MAIN_TABLE, Netlink};
use weft_sys::netns::{Netns, NsId};

use crate::control::state::PortRecord;

/// What prevResult names.
#[derive(Clone, Debug, Default)]
pub(super) struct Expected {
    /// Addresses.
    pub(super) ips: Vec<IpNet>,
    /// MAC.
    pub(super) mac: Option<MacAddr>,
    /// Routes.
    pub(super) routes: Vec<PodRoute>,
}

/// Looks; an error says what is not as it should be. Blocks for a millisecond or so.
pub(super) fn look(port: &PortRecord, expected: &Expected, netns: &Netns) -> Result<(), String> {
    let id = netns.id().map_err(|error| error.to_string())?;
    if let Some(record) = &port.netns
        && (NsId { dev: record.dev, ino: record.ino }) != id
    {
        return Err(format!("port {} is in another namespace than CNI_NETNS", port.spec.name));
    }
    netns.run(|| look_inside(port, expected)).map_err(|error| format!("entering the namespace: {error}"))?
}

fn look_inside(port: &PortRecord, expected: &Expected) -> Result<(), String> {
    let said = |error: weft_sys::link::Error| error.to_string();
    let mut netlink = Netlink::new().map_err(said)?;
    let ifname = port.ifname();
    let Some(link) = netlink.link_by_name(ifname).map_err(said)? else {
        return Err(format!("interface {ifname} is gone"));
    };
    look_at_link(&link, port, expected)?;
    let present = netlink.addr_list(Some(link.index)).map_err(said)?;
    let wanted = if expected.ips.is_empty() { &port.spec.ips } else { &expected.ips };
    if let Some(ip) = wanted.iter().find(|ip| !present.iter().any(|address| address.net == **ip)) {
        return Err(format!("interface {ifname} has lost its address {ip}"));
    }
    let routes = netlink.route_list(None).map_err(said)?;
    for route in &expected.routes {
        let there = routes.iter().find(|present| {
            present.table == MAIN_TABLE
                && present.dst == route.dst.trunc()
                && (route.gw.is_none() || present.via == route.gw)
        });
        let Some(there) = there else {
            let via = route.gw.map(|gw| format!(" via {gw}")).unwrap_or_default();
            return Err(format!("the route to {}{via} is gone", route.dst));
        };
        let is_bigger = port.spec.mtu.is_some_and(|mtu| link.mtu > mtu);
        if is_bigger && route.mtu.is_some() && there.mtu.is_none() {
            return Err(format!("the route to {} has lost its MTU", route.dst));
        }
    }
    Ok(())
}

fn look_at_link(link: &Link, port: &PortRecord, expected: &Expected) -> Result<(), String> {
    let name = &link.name;
    let (kind, what) = if port.spec.kind == PortKind::Afxdp { ("veth", "veth") } else { ("tun", "TAP") };
    if link.kind.as_deref() != Some(kind) {
        return Err(format!("interface {name} is not weft's {what} any more"));
    }
    if let Some(mac) = expected.mac.or(port.spec.mac)
        && link.mac != Some(mac.0)
    {
        let has = link.mac.map(MacAddr).unwrap_or_default();
        return Err(format!("interface {name} has the MAC {has}, expected {mac}"));
    }
    if !link.up {
        return Err(format!("interface {name} is down"));
    }
    if !link.carrier {
        return Err(format!("interface {name} has no carrier: the switch does not hold it"));
    }
    Ok(())
}
