//! The underlay: which addresses this node has, and which device, of which MTU, carries its VXLAN.

use std::net::IpAddr;

use weft_sys::link::{Link, Netlink};

use super::EffectError;

/// MTU taken when the underlay's cannot be known.
const DEFAULT_MTU: u32 = 1500;

/// This node's end of the underlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalUnderlay {
    /// Its address.
    pub address: IpAddr,
    /// Index of the device that has it.
    pub index: u32,
    /// Name of that device.
    pub device: String,
    /// MTU in bytes of the device that packets leave by.
    pub mtu: u32,
}

/// Every address of this namespace that a node can be reached by: neither loopback nor link-local.
///
/// # Errors
/// When the kernel refuses.
pub fn local_addresses() -> Result<Vec<IpAddr>, EffectError> {
    let addresses = Netlink::new()?.addr_list(None)?;
    let mut found: Vec<IpAddr> = addresses.iter().map(|address| address.net.addr()).filter(usable).collect();
    found.dedup();
    Ok(found)
}

/// Finds the device of `address`.
///
/// An address on the loopback (as routing daemons announce it) leaves by other devices: the smallest MTU of those with
/// a default route counts then, else 1500.
///
/// # Errors
/// [`EffectError::Invalid`] when this namespace does not have the address.
pub fn detect(address: IpAddr) -> Result<LocalUnderlay, EffectError> {
    let mut netlink = Netlink::new()?;
    let addresses = netlink.addr_list(None)?;
    let Some(found) = addresses.iter().find(|known| known.net.addr() == address) else {
        let message = format!("the underlay address {address} is not an address of this machine");
        return Err(EffectError::Invalid(message));
    };
    let link = netlink
        .link_by_index(found.index)?
        .ok_or_else(|| EffectError::Missing(format!("with index {}", found.index)))?;
    let mtu = if link.loopback { way_out_mtu(&mut netlink, address)? } else { link.mtu };
    let Link { index, name, .. } = link;
    Ok(LocalUnderlay { address, index, device: name, mtu })
}

fn usable(ip: &IpAddr) -> bool {
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    !ip.is_loopback() && !link_local
}

fn way_out_mtu(netlink: &mut Netlink, address: IpAddr) -> Result<u32, EffectError> {
    let routes = netlink.route_list(None)?;
    let defaults = routes
        .iter()
        .filter(|route| route.dst.prefix_len() == 0 && route.dst.addr().is_ipv4() == address.is_ipv4());
    let mut smallest = None;
    for index in defaults.filter_map(|route| route.dev) {
        if let Some(link) = netlink.link_by_index(index)?.filter(|link| !link.loopback) {
            smallest = Some(smallest.map_or(link.mtu, |mtu: u32| mtu.min(link.mtu)));
        }
    }
    Ok(smallest.unwrap_or(DEFAULT_MTU))
}

#[cfg(test)]
mod tests;
