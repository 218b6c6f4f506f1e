//! AF_XDP ports: a veth pair, one end in the pod, configured as a TAP there would be, the other in the daemon's namespace with
//! an AF_XDP socket and the program that sends every frame to it.
//!
//! The pair goes with the pod's namespace, and with either end. The host's end has no address and says nothing: what the
//! program lets through while there is no socket, nobody answers.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use weft_encap::MacAddr;
use weft_sys::ethtool::{self, Offload};
use weft_sys::link::{Link, LinkChange, Netlink};
use weft_sys::netns::{Netns, NsId};
use weft_sys::sysctl;
use weft_sys::tun::Offloads;

use super::EffectError;
use super::port::{self, DeviceSpec, LivePort, visit};
use crate::port::Device;
use crate::port::xdp::{Parts, XdpDevice};

/// Of all devices that are weft's.
const PREFIX: &str = "weft";
/// Bytes of such a name behind the prefix.
const DIGITS: usize = 10;

/// Names that the host's end may have for a port of that namespace, always the same: the second one is for a pair that takes
/// the place of one that is still there.
pub fn host_names(port: &str, netns: NsId) -> [String; 2] {
    ["veth", "other veth"].map(|what| {
        let [_, rest @ ..] = MacAddr::derived(format!("{what} of {port} in {netns}").as_bytes()).0;
        rest.iter().fold(PREFIX.to_owned(), |name, byte| format!("{name}{byte:02x}"))
    })
}

/// True for those that [`host_names`] gives.
pub fn is_host_name(name: &str) -> bool {
    let digits = name.strip_prefix(PREFIX).unwrap_or_default();
    digits.len() == DIGITS && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Deletes the host's end of a port, if there is one.
pub fn remove(port: &str, netns: NsId) {
    for name in host_names(port, netns) {
        let deleted = Netlink::new().and_then(|mut netlink| match netlink.link_by_name(&name)? {
            Some(link) => port::ignore_missing(netlink.link_del(link.index)),
            None => Ok(()),
        });
        if let Err(error) = deleted {
            tracing::warn!(%error, name, "deleting the host's end of a port");
        }
    }
}

/// Brings a pair from `old` to `new`: as [`port::reconfigure`], and the host's end has the MTU of the pod's.
///
/// # Errors
/// As there.
pub fn reconfigure(
    host: u32,
    (index, netns): (u32, &Netns),
    old: &DeviceSpec,
    new: &DeviceSpec,
) -> Result<(), EffectError> {
    let set = |mtu| Netlink::new()?.link_set(host, &LinkChange { mtu: Some(mtu), ..LinkChange::default() });
    // The bigger one first: neither end may send what the other does not take.
    if new.mtu > old.mtu {
        set(new.mtu)?;
    }
    port::reconfigure(index, netns, old, new).inspect_err(|_| {
        let _ = set(old.mtu);
    })?;
    if new.mtu < old.mtu {
        set(new.mtu)?;
    }
    Ok(())
}

/// Makes the pair for `port`, the pod's end in `netns`, and opens it. The pair whose host's end has the index `beside` is
/// left alone: it is to go in the same change, and comes back if that fails.
///
/// # Errors
/// [`EffectError::Exists`] when the namespace has an interface of that name. After any error nothing is left.
pub fn create(
    port: &str,
    spec: &DeviceSpec,
    netns: &Netns,
    beside: Option<u32>,
) -> Result<LivePort, EffectError> {
    port::check(spec)?;
    let id = netns.id().map_err(EffectError::io("identify namespace"))?;
    let mut netlink = Netlink::new()?;
    let mut unused = None;
    for name in host_names(port, id) {
        match netlink.link_by_name(&name)? {
            Some(old) if beside == Some(old.index) => {}
            old => {
                if let Some(old) = old {
                    // Of a port that is gone: nobody else has such a name.
                    port::ignore_missing(netlink.link_del(old.index))?;
                }
                unused = unused.or(Some(name));
            }
        }
    }
    let host = unused.ok_or_else(|| EffectError::Exists(port.to_owned()))?;
    let temporary = port::temporary_name();
    netlink.add_veth_to(&host, spec.mtu, &temporary, netns)?;
    let made = visit(netns, || {
        set_offloads_off(&temporary)?;
        port::set_up(spec, &temporary)
    });
    made.and_then(|index| open(&mut netlink, &host, index, netns)).inspect_err(|_| {
        if let Ok(Some(link)) = netlink.link_by_name(&host) {
            let _ = netlink.link_del(link.index);
        }
    })
}

/// Opens the pair that an earlier run made for `port`, with a new socket.
///
/// # Errors
/// [`EffectError::Missing`] when it is gone; others when the host's end has another program or socket.
pub fn reattach(port: &str, spec: &DeviceSpec, netns: &Netns) -> Result<LivePort, EffectError> {
    port::check(spec)?;
    let mut netlink = Netlink::new()?;
    let (host, index) = ends(&mut netlink, port, spec, netns)?;
    port::refit(spec, netns)?;
    open(&mut netlink, &host.name, index, netns)
}

/// Takes over socket, memory and program of an earlier run or of another process.
///
/// # Errors
/// What they are instead, or that the pair is gone.
pub fn adopt(
    port: &str,
    spec: &DeviceSpec,
    netns: &Netns,
    parts: Parts<OwnedFd>,
) -> Result<LivePort, EffectError> {
    port::check(spec)?;
    let (host, index) = ends(&mut Netlink::new()?, port, spec, netns)?;
    let device = XdpDevice::adopt(parts, host.index);
    live(device.map_err(EffectError::io("take the AF_XDP socket over"))?, host.name, index, netns)
}

/// The host's end, and the index of the pod's.
fn ends(
    netlink: &mut Netlink,
    port: &str,
    spec: &DeviceSpec,
    netns: &Netns,
) -> Result<(Link, u32), EffectError> {
    let mut missing = None;
    for name in host_names(port, netns.id().map_err(EffectError::io("identify namespace"))?) {
        let Some(host) = netlink.link_by_name(&name)? else {
            missing = missing.or(Some(EffectError::Missing(name)));
            continue;
        };
        match pods_end(&host, spec, netns) {
            Ok(index) => return Ok((host, index)),
            Err(error) => missing = Some(error),
        }
    }
    Err(missing.unwrap_or_else(|| EffectError::Missing(port.to_owned())))
}

/// The index of the pod's end, which must be what is behind the host's.
fn pods_end(host: &Link, spec: &DeviceSpec, netns: &Netns) -> Result<u32, EffectError> {
    let link = visit(netns, || Ok(Netlink::new()?.link_by_name(&spec.ifname)?))?;
    let link = link.filter(|link| host.lower == Some(link.index) && link.lower == Some(host.index));
    Ok(link.ok_or_else(|| EffectError::Missing(spec.ifname.clone()))?.index)
}

/// What the pod's kernel leaves to a device does not get through an AF_XDP socket.
fn set_offloads_off(name: &str) -> Result<(), EffectError> {
    let set = || -> std::io::Result<()> {
        let device = ethtool::Device::new(name)?;
        [Offload::TxChecksums, Offload::Tso, Offload::Gso]
            .into_iter()
            .try_for_each(|offload| device.set_offload(offload, false))?;
        // A tag beside the frame is lost; in it, it is not.
        ["tx-vlan-hw-insert", "tx-vlan-stag-hw-insert"]
            .into_iter()
            .try_for_each(|feature| device.set_feature(feature, false))
    };
    set().map_err(EffectError::io("turn offloads of the pod's end off"))
}

fn open(netlink: &mut Netlink, host: &str, index: u32, netns: &Netns) -> Result<LivePort, EffectError> {
    let link = netlink.link_by_name(host)?.ok_or_else(|| EffectError::Missing(host.to_owned()))?;
    // What comes through while there is no program is nobody's: no ARP request is answered (8), nothing goes on, and what is for
    // an address of the host does not get in by a broadcast MAC. A kernel without IPv6 has nothing to switch off.
    let settings = [
        ("ipv6", "disable_ipv6", "1"),
        ("ipv4", "arp_ignore", "8"),
        ("ipv4", "forwarding", "0"),
        ("ipv4", "rp_filter", "1"),
        ("ipv4", "drop_unicast_in_l2_multicast", "1"),
    ];
    for (family, name, value) in settings {
        let set = sysctl::Key::interface(family, host, name).and_then(|key| sysctl::replace(&key, value));
        match set {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && family == "ipv6" => {}
            result => drop(result.map_err(EffectError::io("configure the host's end"))?),
        }
    }
    let device = XdpDevice::open(link.index).map_err(EffectError::io(format!("open {host}")))?;
    netlink.link_set(link.index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
    live(device, host.to_owned(), index, netns)
}

fn live(device: XdpDevice, host: String, index: u32, netns: &Netns) -> Result<LivePort, EffectError> {
    let netns = netns.id().map_err(EffectError::io("identify namespace"))?;
    Ok(LivePort { device: Device::Xdp(Arc::new(device)), netns, index, offloads: Offloads::empty(), host })
}
