//! Addresses (`RTM_*ADDR`, `linux/if_addr.h`).
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressScope,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Error, Netlink};

bitflags::bitflags! {
    /// `IFA_F_*` (`linux/if_addr.h`).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
    pub struct AddrFlags: u32 {
        /// IPv6: usable at once, without duplicate address detection.
        const NODAD = 0x02;
        /// Reported: another node has the address.
        const DADFAILED = 0x08;
        /// Reported: duplicate address detection is under way.
        const TENTATIVE = 0x40;
        /// Reported: no lifetime.
        const PERMANENT = 0x80;
        /// Make no route for the prefix.
        const NOPREFIXROUTE = 0x200;
    }
}

/// An address of a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    /// The link.
    pub index: u32,
    /// The address with its prefix length, host bits kept.
    pub net: IpNet,
    /// Flags, asked for or reported.
    pub flags: AddrFlags,
    /// True for an address of this link only (`fe80::/10`, `169.254.0.0/16`).
    pub link_scope: bool,
}

impl Netlink {
    /// Adds an address to a link. `flags`: only NODAD and NOPREFIXROUTE count.
    ///
    /// # Errors
    /// [`Error`]; [`Error::is_exists`] when the link has it.
    pub fn addr_add(&mut self, index: u32, net: IpNet, flags: AddrFlags) -> Result<(), Error> {
        let mut message = address(index, net);
        // The header has room for one byte only; the attribute says it all.
        let bits = flags & (AddrFlags::NODAD | AddrFlags::NOPREFIXROUTE);
        message.header.flags = AddressHeaderFlags::from_bits_retain(bits.bits() as u8);
        message.attributes.push(AddressAttribute::Flags(AddressFlags::from_bits_retain(bits.bits())));
        self.act(RouteNetlinkMessage::NewAddress(message), NLM_F_CREATE | NLM_F_EXCL, || {
            format!("add address {net} to link {index}")
        })
    }

    /// Removes an address from a link.
    ///
    /// # Errors
    /// [`Error`]; [`Error::is_missing`] when the link has no such address.
    pub fn addr_del(&mut self, index: u32, net: IpNet) -> Result<(), Error> {
        self.act(RouteNetlinkMessage::DelAddress(address(index, net)), 0, || {
            format!("delete address {net} of link {index}")
        })
    }

    /// The addresses of one link, or of all.
    ///
    /// # Errors
    /// [`Error`] when the kernel refuses.
    pub fn addr_list(&mut self, index: Option<u32>) -> Result<Vec<Address>, Error> {
        let all = self
            .dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()), || "list addresses".into())?;
        let addresses = all.iter().filter_map(|message| match message {
            RouteNetlinkMessage::NewAddress(address) => parse(address),
            _ => None,
        });
        Ok(addresses.filter(|address| index.is_none_or(|index| index == address.index)).collect())
    }
}

/// The message's address, as this module shows it.
pub(super) fn parse(message: &AddressMessage) -> Option<Address> {
    let (mut local, mut peer) = (None, None);
    let mut flags = AddrFlags::from_bits_truncate(message.header.flags.bits().into());
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => peer = Some(*ip),
            AddressAttribute::Flags(all) => flags = AddrFlags::from_bits_truncate(all.bits()),
            _ => {}
        }
    }
    // IPv4 has both (equal, but for point-to-point links); IPv6 has only ADDRESS.
    let net = IpNet::new(local.or(peer)?, message.header.prefix_len).ok()?;
    let link_scope = message.header.scope == AddressScope::Link;
    Some(Address { index: message.header.index, net, flags, link_scope })
}

fn address(index: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.header.prefix_len = net.prefix_len();
    message.header.family = family(net.addr());
    message.header.scope = match net.addr() {
        IpAddr::V4(ip) if ip.is_link_local() => AddressScope::Link,
        _ => AddressScope::Universe,
    };
    message.attributes = vec![AddressAttribute::Local(net.addr()), AddressAttribute::Address(net.addr())];
    message
}

pub(super) fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet }
}
