//! Neighbours, i.e. ARP and ND entries (`RTM_*NEIGH`, `linux/neighbour.h`).
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::addr::family;
use super::{Error, Netlink};

/// A neighbour of a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Neighbour {
    /// The link.
    pub index: u32,
    /// Its IP address.
    pub ip: IpAddr,
    /// Its Ethernet address, when known.
    pub mac: Option<[u8; 6]>,
    /// Set by hand: never asked for again, survives loss of carrier.
    pub permanent: bool,
    /// The kernel sends to that Ethernet address (`NUD_VALID`): it is not being asked for the first time, nor given up.
    pub valid: bool,
    /// The kernel has no doubt of it (`NUD_CONNECTED`).
    pub confirmed: bool,
}

impl Netlink {
    /// Sets a permanent neighbour, replacing what is known of `ip`.
    ///
    /// # Errors
    /// [`Error`]; [`Error::is_missing`] when there is no such link.
    pub fn neigh_set(&mut self, index: u32, ip: IpAddr, mac: [u8; 6]) -> Result<(), Error> {
        let mut message = neighbour(index, ip);
        message.header.state = NeighbourState::Permanent;
        message.attributes.push(NeighbourAttribute::LinkLocalAddress(mac.to_vec()));
        self.act(RouteNetlinkMessage::NewNeighbour(message), NLM_F_CREATE | NLM_F_REPLACE, || {
            format!("set neighbour {ip} of link {index}")
        })
    }

    /// Tells the kernel that a neighbour is in use (`NTF_USE`), as if a packet of its own were sent: one that is in doubt is
    /// asked for again.
    ///
    /// # Errors
    /// [`Error`]; [`Error::is_missing`] when there is none.
    pub fn neigh_use(&mut self, index: u32, ip: IpAddr) -> Result<(), Error> {
        let mut message = neighbour(index, ip);
        message.header.flags = NeighbourFlags::Use;
        self.act(RouteNetlinkMessage::NewNeighbour(message), 0, || {
            format!("use neighbour {ip} of link {index}")
        })
    }

    /// Removes a neighbour, permanent or not.
    ///
    /// # Errors
    /// [`Error`]; [`Error::is_missing`] when there is none.
    pub fn neigh_del(&mut self, index: u32, ip: IpAddr) -> Result<(), Error> {
        self.act(RouteNetlinkMessage::DelNeighbour(neighbour(index, ip)), 0, || {
            format!("delete neighbour {ip} of link {index}")
        })
    }

    /// The IP neighbours of one link, or of all.
    ///
    /// # Errors
    /// [`Error`] when the kernel refuses.
    pub fn neigh_list(&mut self, index: Option<u32>) -> Result<Vec<Neighbour>, Error> {
        let all = self.dump(&RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default()), || {
            "list neighbours".into()
        })?;
        let neighbours = all.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewNeighbour(neighbour) => parse(neighbour),
            _ => None,
        });
        Ok(neighbours.filter(|neighbour| index.is_none_or(|index| index == neighbour.index)).collect())
    }
}

pub(super) fn parse(message: &NeighbourMessage) -> Option<Neighbour> {
    let (mut ip, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some(IpAddr::from(*v4)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some(IpAddr::from(*v6)),
            NeighbourAttribute::LinkLocalAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
    let state = message.header.state;
    Some(Neighbour {
        index: message.header.ifindex,
        ip: ip?,
        mac,
        permanent: state == Permanent,
        valid: matches!(state, Permanent | Noarp | Reachable | Probe | Stale | Delay),
        confirmed: matches!(state, Permanent | Noarp | Reachable),
    })
}

fn neighbour(index: u32, ip: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = index;
    message.header.family = family(ip);
    message.attributes.push(NeighbourAttribute::Destination(match ip {
        IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
        IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
    }));
    message
}
