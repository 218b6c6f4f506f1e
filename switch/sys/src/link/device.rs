//! Links (`RTM_*LINK`, `linux/if_link.h`).
use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd};

use netlink_packet_core::{DefaultNla, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, Nla};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoTun, InfoVeth, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
    LinkMessage,
};
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage};

use super::{Error, Netlink};
use crate::netns::Netns;
use crate::tun::TapFlags;

/// A network device.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// Its index, unique in its namespace.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its kind (`IFLA_INFO_KIND`), e.g. `tun`, `veth`, `bridge`; hardware has none.
    pub kind: Option<String>,
    /// Administratively up (`IFF_UP`).
    pub up: bool,
    /// Has a carrier (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// Is the loopback.
    pub loopback: bool,
    /// MTU in bytes.
    pub mtu: u32,
    /// Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// Transmit queue length in packets; a TAP's ring has as many slots.
    pub txqueuelen: u32,
    /// Longest superframe in bytes.
    pub gso_max_size: u32,
    /// Its root queueing discipline, e.g. `noqueue`.
    pub qdisc: Option<String>,
    /// The bridge or bond that it is a port of.
    pub master: Option<u32>,
    /// The device below (VLAN, VXLAN) or the other end (veth), maybe in another namespace.
    pub lower: Option<u32>,
}

/// What [`Netlink::link_set`] changes; `None` leaves a setting as it is.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LinkChange {
    /// Administrative state.
    pub up: Option<bool>,
    /// MTU in bytes.
    pub mtu: Option<u32>,
    /// Ethernet address.
    pub mac: Option<[u8; 6]>,
    /// New name; older kernels take it only while the device is down, so rename first.
    pub name: Option<String>,
    /// Transmit queue length in packets.
    pub txqueuelen: Option<u32>,
    /// Longest superframe in bytes, IPv4 and IPv6 (up to 65536 the kernel sets both by this one).
    pub gso_max_size: Option<u32>,
    /// Port of this bridge; `Some(0)` takes it out.
    pub master: Option<u32>,
}

/// A tun device as rtnetlink reports it (`IFLA_TUN_*`, Linux 4.20).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TunInfo {
    /// The device's index.
    pub index: u32,
    /// The flags it was made with, PERSIST included. NAPI is not reported.
    pub flags: TapFlags,
    /// Attached queues.
    pub queues: u32,
}

impl Netlink {
    /// The link called `name`, `None` when there is none.
    ///
    /// # Errors
    /// [`Error`] when the kernel refuses.
    pub fn link_by_name(&mut self, name: &str) -> Result<Option<Link>, Error> {
        let found = self.get_link(by_name(name), || format!("look link {name} up"))?;
        Ok(found.as_ref().map(parse))
    }

    /// The link with this index, `None` when there is none.
    ///
    /// # Errors
    /// [`Error`] when the kernel refuses.
    pub fn link_by_index(&mut self, index: u32) -> Result<Option<Link>, Error> {
        let found = self.get_link(by_index(index), || format!("look link {index} up"))?;
        Ok(found.as_ref().map(parse))
    }

    /// All links.
    ///
    /// # Errors
    /// [`Error`] when the kernel refuses.
    pub fn link_list(&mut self) -> Result<Vec<Link>, Error> {
        let ask = RouteNetlinkMessage::GetLink(without_statistics(LinkMessage::default()));
        let all = self.dump(&ask, || "list links".into())?;
        Ok(all.iter().filter_map(as_link).map(parse).collect())
    }

    /// The tun or tap device called `name`; `None` when there is no link of that name. A link of another kind has
    /// no flags.
    ///
    /// # Errors
    /// [`Error`] when the kernel refuses.
    pub fn tun_info(&mut self, name: &str) -> Result<Option<TunInfo>, Error> {
        let found = self.get_link(by_name(name), || format!("look device {name} up"))?;
        Ok(found.as_ref().map(parse_tun))
    }

    /// Changes a link, all in one request.
    ///
    /// # Errors
    /// [`Error`]; `ENODEV` when it is gone, `EINVAL` and `ERANGE` for a value out of its range (with the kernel's
    /// words), `EEXIST` for a name in use.
    pub fn link_set(&mut self, index: u32, change: &LinkChange) -> Result<(), Error> {
        let mut message = by_index(index);
        if let Some(up) = change.up {
            message.header.flags = if up { LinkFlags::Up } else { LinkFlags::empty() };
            message.header.change_mask = LinkFlags::Up;
        }
        let attributes = &mut message.attributes;
        attributes.extend(change.mtu.map(LinkAttribute::Mtu));
        attributes.extend(change.mac.map(|mac| LinkAttribute::Address(mac.to_vec())));
        attributes.extend(change.name.clone().map(LinkAttribute::IfName));
        attributes.extend(change.txqueuelen.map(LinkAttribute::TxQueueLen));
        attributes.extend(change.gso_max_size.map(LinkAttribute::GsoMaxSize));
        attributes.extend(change.master.map(LinkAttribute::Controller));
        self.act(RouteNetlinkMessage::SetLink(message), 0, || format!("set link {index}: {change:?}"))
    }

    /// Takes the queueing discipline away (`tc qdisc replace dev ... root noqueue`): on a TAP it never holds anything,
    /// because the device takes every frame and drops what its ring has no room for; it only costs its lock.
    ///
    /// # Errors
    /// [`Error`]; [`Error::is_missing`] when there is no such link.
    pub fn link_noqueue(&mut self, index: u32) -> Result<(), Error> {
        let mut message = TcMessage::with_index(index.cast_signed());
        message.header.parent = TcHandle::ROOT;
        message.attributes.push(TcAttribute::Kind("noqueue".into()));
        let message = RouteNetlinkMessage::NewQueueDiscipline(message);
        self.act(message, NLM_F_CREATE | NLM_F_REPLACE, || format!("set qdisc noqueue of link {index}"))
    }

    /// Moves a link into another namespace, where it is down and may have another index. Takes 15 ms and more
    /// (an RCU grace period); a TAP is better made where it belongs.
    ///
    /// # Errors
    /// [`Error`]; [`Error::is_exists`] when the name is in use there.
    pub fn link_move(&mut self, index: u32, to: &Netns) -> Result<(), Error> {
        let mut message = by_index(index);
        message.attributes.push(LinkAttribute::NetNsFd(to.as_fd().as_raw_fd()));
        self.act(RouteNetlinkMessage::SetLink(message), 0, || format!("move link {index}"))
    }

    /// Deletes a link.
    ///
    /// # Errors
    /// [`Error`]; [`Error::is_missing`] when it is gone, `EOPNOTSUPP` for hardware.
    pub fn link_del(&mut self, index: u32) -> Result<(), Error> {
        self.act(RouteNetlinkMessage::DelLink(by_index(index)), 0, || format!("delete link {index}"))
    }

    /// Makes a pair of veth devices, both in this namespace.
    ///
    /// # Errors
    /// [`Error`]; [`Error::is_exists`].
    pub fn add_veth(&mut self, name: &str, peer: &str) -> Result<(), Error> {
        let data = InfoData::Veth(InfoVeth::Peer(by_name(peer)));
        self.add_link(name, InfoKind::Veth, Some(data), || format!("add veth {name} and {peer}"))
    }

    /// Makes a pair of veth devices, `name` in this namespace, `peer` in another, both with this MTU.
    ///
    /// # Errors
    /// [`Error`]; [`Error::is_exists`] for either name.
    pub fn add_veth_to(&mut self, name: &str, mtu: u32, peer: &str, netns: &Netns) -> Result<(), Error> {
        let mut end = by_name(peer);
        end.attributes.push(LinkAttribute::NetNsFd(netns.as_fd().as_raw_fd()));
        end.attributes.push(LinkAttribute::Mtu(mtu));
        let mut message = by_name(name);
        let data = LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(end)));
        message.attributes.push(LinkAttribute::Mtu(mtu));
        message.attributes.push(LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth), data]));
        let flags = NLM_F_CREATE | NLM_F_EXCL;
        self.act(RouteNetlinkMessage::NewLink(message), flags, || format!("add veth {name} and {peer}"))
    }

    /// Makes a bridge.
    ///
    /// # Errors
    /// [`Error`]; [`Error::is_exists`].
    pub fn add_bridge(&mut self, name: &str) -> Result<(), Error> {
        self.add_link(name, InfoKind::Bridge, None, || format!("add bridge {name}"))
    }

    /// Makes a VXLAN device without learning, as flannel does.
    ///
    /// # Errors
    /// [`Error`]; [`Error::is_exists`].
    pub fn add_vxlan(&mut self, name: &str, vni: u32, local: IpAddr, port: u16) -> Result<(), Error> {
        let local = match local {
            IpAddr::V4(ip) => InfoVxlan::Local(ip),
            IpAddr::V6(ip) => InfoVxlan::Local6(ip),
        };
        let data = vec![InfoVxlan::Id(vni), local, InfoVxlan::Port(port), InfoVxlan::Learning(false)];
        self.add_link(name, InfoKind::Vxlan, Some(InfoData::Vxlan(data)), || format!("add vxlan {name}"))
    }

    fn add_link(
        &mut self,
        name: &str,
        kind: InfoKind,
        data: Option<InfoData>,
        what: impl Fn() -> String,
    ) -> Result<(), Error> {
        let mut message = by_name(name);
        let info = std::iter::once(LinkInfo::Kind(kind)).chain(data.map(LinkInfo::Data)).collect();
        message.attributes.push(LinkAttribute::LinkInfo(info));
        self.act(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL, what)
    }

    /// One link; "no such device" is `None`.
    pub(super) fn get_link(
        &mut self,
        ask: LinkMessage,
        what: impl Fn() -> String,
    ) -> Result<Option<LinkMessage>, Error> {
        match self.get(RouteNetlinkMessage::GetLink(without_statistics(ask)), what) {
            Ok(RouteNetlinkMessage::NewLink(link)) => Ok(Some(link)),
            Ok(_) => Ok(None),
            Err(error) if error.errno() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The message's link, as this module shows it.
pub(super) fn parse(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        up: flags.contains(LinkFlags::Up),
        carrier: flags.contains(LinkFlags::LowerUp),
        loopback: flags.contains(LinkFlags::Loopback),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(mac) => link.mac = mac.as_slice().try_into().ok(),
            LinkAttribute::TxQueueLen(len) => link.txqueuelen = *len,
            LinkAttribute::GsoMaxSize(size) => link.gso_max_size = *size,
            LinkAttribute::Qdisc(qdisc) => link.qdisc = Some(qdisc.clone()),
            LinkAttribute::Controller(master) => link.master = Some(*master),
            LinkAttribute::Link(lower) => link.lower = Some(*lower),
            LinkAttribute::LinkInfo(info) => link.kind = kind_of(info),
            _ => {}
        }
    }
    link
}

fn kind_of(info: &[LinkInfo]) -> Option<String> {
    info.iter().find_map(|i| if let LinkInfo::Kind(kind) = i { Some(kind.to_string()) } else { None })
}

fn as_link(message: &RouteNetlinkMessage) -> Option<&LinkMessage> {
    if let RouteNetlinkMessage::NewLink(link) = message { Some(link) } else { None }
}

pub(super) fn by_index(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

/// Statistics are the bulk of an answer, and cost a walk over all CPUs.
fn without_statistics(mut ask: LinkMessage) -> LinkMessage {
    ask.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    ask
}

fn by_name(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

/// `tun_fill_info` (`drivers/net/tun.c`).
fn parse_tun(message: &LinkMessage) -> TunInfo {
    let mut info = TunInfo { index: message.header.index, flags: TapFlags::empty(), queues: 0 };
    let data = message.attributes.iter().filter_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(data) => Some(data),
        _ => None,
    });
    for data in data.flatten() {
        let LinkInfo::Data(InfoData::Tun(attributes)) = data else { continue };
        for attribute in attributes {
            if let InfoTun::Other(nla) = attribute {
                note_tun(&mut info, nla);
            }
        }
    }
    info
}

/// One `IFLA_TUN_*` attribute (`linux/if_link.h`); they are bytes, but for the counts.
fn note_tun(info: &mut TunInfo, nla: &DefaultNla) {
    let mut value = vec![0; nla.value_len()];
    nla.emit_value(&mut value);
    let Some(&first) = value.first() else { return };
    match nla.kind() {
        3 => info.flags.insert(if first == 1 { TapFlags::TUN } else { TapFlags::TAP }),
        4 => info.flags.set(TapFlags::NO_PI, first == 0),
        5 => info.flags.set(TapFlags::VNET_HDR, first != 0),
        6 => info.flags.set(TapFlags::PERSIST, first != 0),
        7 => info.flags.set(TapFlags::MULTI_QUEUE, first != 0),
        8 => info.queues = value.first_chunk().map_or(0, |v| u32::from_ne_bytes(*v)),
        _ => {}
    }
}
