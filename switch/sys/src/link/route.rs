//! Routes (`RTM_*ROUTE`, `linux/rtnetlink.h`).
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric, RouteProtocol,
    RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::addr::family;
use super::{Error, Netlink};

/// Origin of weft's own routes (`rtm_protocol`; `linux/rtnetlink.h` leaves the number free), to know them again.
pub const RTPROT_WEFT: u8 = 157;

/// The table that routes go to by default (`RT_TABLE_MAIN`).
pub const MAIN_TABLE: u32 = 254;

/// What a route does with a packet (`rtm_type`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub enum RouteKind {
    /// Sends it on.
    #[default]
    Unicast,
    /// Delivers it here.
    Local,
    /// Drops it.
    Blackhole,
    /// Drops it and answers "unreachable".
    Unreachable,
    /// Drops it and answers "prohibited".
    Prohibit,
    /// Any other kind that the kernel reports.
    Other(u8),
}

/// A route. Of a multipath route only the common part is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// Destination; `0.0.0.0/0` and `::/0` are the default routes.
    pub dst: IpNet,
    /// Gateway, of either family.
    pub via: Option<IpAddr>,
    /// Index of the link it leaves by.
    pub dev: Option<u32>,
    /// Preferred source address.
    pub src: Option<IpAddr>,
    /// The gateway is on the link, whatever the addresses say (`RTNH_F_ONLINK`).
    pub onlink: bool,
    /// Packets get headers of another protocol, or are otherwise not sent as they are (`RTA_ENCAP`). Only read.
    pub encapsulated: bool,
    /// MTU in bytes on this route.
    pub mtu: Option<u32>,
    /// Priority; smaller wins.
    pub metric: Option<u32>,
    /// Table.
    pub table: u32,
    /// Origin.
    pub protocol: u8,
    /// What it does.
    pub kind: RouteKind,
}

impl Route {
    /// A unicast route of ours to `dst` in the main table, everything else unset.
    #[must_use]
    pub fn new(dst: IpNet) -> Self {
        Self {
            dst,
            via: None,
            dev: None,
            src: None,
            onlink: false,
            encapsulated: false,
            mtu: None,
            metric: None,
            table: MAIN_TABLE,
            protocol: RTPROT_WEFT,
            kind: RouteKind::Unicast,
        }
    }
}

impl Netlink {
    /// Adds a route.
    ///
    /// # Errors
    /// [`Error`]; [`Error::is_exists`]; `ENETUNREACH` for a gateway that no link reaches, `ENETDOWN` while the link
    /// is down.
    pub fn route_add(&mut self, route: &Route) -> Result<(), Error> {
        self.act(RouteNetlinkMessage::NewRoute(build(route)), NLM_F_CREATE | NLM_F_EXCL, || {
            format!("add route {route:?}")
        })
    }

    /// Adds a route or replaces the one with the same destination, table and metric.
    ///
    /// # Errors
    /// As [`Netlink::route_add`].
    pub fn route_replace(&mut self, route: &Route) -> Result<(), Error> {
        self.act(RouteNetlinkMessage::NewRoute(build(route)), NLM_F_CREATE | NLM_F_REPLACE, || {
            format!("replace route {route:?}")
        })
    }

    /// Deletes the route that agrees in all that is set.
    ///
    /// # Errors
    /// [`Error`]; [`Error::is_missing`] when there is none.
    pub fn route_del(&mut self, route: &Route) -> Result<(), Error> {
        let mut message = build(route);
        message.header.scope = RouteScope::NoWhere; // any
        self.act(RouteNetlinkMessage::DelRoute(message), 0, || format!("delete route {route:?}"))
    }

    /// The routes that leave by one link, or all: of both families, in every table.
    /// Filter by [`Route::table`] and [`Route::protocol`].
    ///
    /// # Errors
    /// [`Error`] when the kernel refuses.
    pub fn route_list(&mut self, dev: Option<u32>) -> Result<Vec<Route>, Error> {
        let mut found = Vec::new();
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut ask = RouteMessage::default();
            ask.header.address_family = family;
            let all = self.dump(&RouteNetlinkMessage::GetRoute(ask), || "list routes".into())?;
            found.extend(all.iter().filter_map(|message| match message {
                RouteNetlinkMessage::NewRoute(route) => parse(route),
                _ => None,
            }));
        }
        found.retain(|route: &Route| dev.is_none() || dev == route.dev);
        Ok(found)
    }

    /// The route that a packet to `dst` would take, with its link and source address (`ip route get`).
    ///
    /// # Errors
    /// [`Error`]; `ENETUNREACH` when there is none.
    pub fn route_get(&mut self, dst: IpAddr) -> Result<Route, Error> {
        self.route_get_from(dst, None)
    }

    /// As [`Netlink::route_get`], for a packet that comes from an address of this node's.
    ///
    /// # Errors
    /// As [`Netlink::route_get`]; `EINVAL` when the node does not have the address.
    pub fn route_get_from(&mut self, dst: IpAddr, src: Option<IpAddr>) -> Result<Route, Error> {
        let what = || format!("look the route to {dst} up");
        let mut ask = RouteMessage::default();
        ask.header.address_family = family(dst);
        ask.header.destination_prefix_length = if dst.is_ipv6() { 128 } else { 32 };
        ask.attributes.push(RouteAttribute::Destination(dst.into()));
        if let Some(src) = src {
            ask.header.source_prefix_length = ask.header.destination_prefix_length;
            ask.attributes.push(RouteAttribute::Source(src.into()));
        }
        match self.get(RouteNetlinkMessage::GetRoute(ask), what)? {
            RouteNetlinkMessage::NewRoute(route) => parse(&route),
            _ => None,
        }
        .ok_or_else(|| Error::Decode { what: what(), why: "no route in it".into() })
    }
}

/// The message's route, as this module shows it; `None` for other families.
pub(super) fn parse(message: &RouteMessage) -> Option<Route> {
    let any: IpAddr = match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let len = message.header.destination_prefix_length;
    let mut route = Route::new(IpNet::new(any, len).ok()?);
    route.table = message.header.table.into();
    route.protocol = message.header.protocol.into();
    route.kind = message.header.kind.into();
    route.onlink = message.header.flags.contains(RouteFlags::Onlink);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(dst) => route.dst = IpNet::new(ip(dst)?, len).ok()?,
            RouteAttribute::Gateway(via) => route.via = ip(via),
            RouteAttribute::Via(RouteVia::Inet(via)) => route.via = Some((*via).into()),
            RouteAttribute::Via(RouteVia::Inet6(via)) => route.via = Some((*via).into()),
            RouteAttribute::EncapType(_) => route.encapsulated = true,
            RouteAttribute::Oif(dev) => route.dev = Some(*dev),
            RouteAttribute::PrefSource(src) => route.src = ip(src),
            RouteAttribute::Priority(metric) => route.metric = Some(*metric),
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Metrics(metrics) => route.mtu = metrics.iter().find_map(mtu),
            _ => {}
        }
    }
    Some(route)
}

fn build(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(route.dst.addr()),
        destination_prefix_length: route.dst.prefix_len(),
        table: u8::try_from(route.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC),
        protocol: RouteProtocol::from(route.protocol),
        scope: scope(route),
        kind: route.kind.into(),
        flags: if route.onlink { RouteFlags::Onlink } else { RouteFlags::empty() },
        ..RouteHeader::default()
    };
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Destination(route.dst.network().into()));
    attributes.push(RouteAttribute::Table(route.table));
    attributes.extend(route.via.map(|via| gateway(route.dst.addr(), via)));
    attributes.extend(route.dev.map(RouteAttribute::Oif));
    attributes.extend(route.src.map(|src| RouteAttribute::PrefSource(src.into())));
    attributes.extend(route.metric.map(RouteAttribute::Priority));
    attributes.extend(route.mtu.map(|mtu| RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])));
    message
}

/// As iproute2 chooses it: a destination on the link has link scope. IPv6 ignores it.
fn scope(route: &Route) -> RouteScope {
    match route.kind {
        RouteKind::Local => RouteScope::Host,
        RouteKind::Unicast if route.via.is_none() => RouteScope::Link,
        _ => RouteScope::Universe,
    }
}

/// A gateway of the other family has an attribute of its own (RFC 5549).
fn gateway(dst: IpAddr, via: IpAddr) -> RouteAttribute {
    match via {
        _ if dst.is_ipv4() == via.is_ipv4() => RouteAttribute::Gateway(via.into()),
        IpAddr::V4(via) => RouteAttribute::Via(RouteVia::Inet(via)),
        IpAddr::V6(via) => RouteAttribute::Via(RouteVia::Inet6(via)),
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}

fn mtu(metric: &RouteMetric) -> Option<u32> {
    if let RouteMetric::Mtu(mtu) = metric { Some(*mtu) } else { None }
}

impl From<RouteKind> for RouteType {
    fn from(kind: RouteKind) -> Self {
        match kind {
            RouteKind::Unicast => Self::Unicast,
            RouteKind::Local => Self::Local,
            RouteKind::Blackhole => Self::BlackHole,
            RouteKind::Unreachable => Self::Unreachable,
            RouteKind::Prohibit => Self::Prohibit,
            RouteKind::Other(other) => Self::from(other),
        }
    }
}

impl From<RouteType> for RouteKind {
    fn from(kind: RouteType) -> Self {
        match kind {
            RouteType::Unicast => Self::Unicast,
            RouteType::Local => Self::Local,
            RouteType::BlackHole => Self::Blackhole,
            RouteType::Unreachable => Self::Unreachable,
            RouteType::Prohibit => Self::Prohibit,
            other => Self::Other(other.into()),
        }
    }
}
