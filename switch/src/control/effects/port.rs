//! TAP ports: the device is made *inside* the pod's namespace (0.3 ms; making it outside and moving it costs 16 ms and
//! more), configured in one visit there with one netlink socket, and its descriptor stays with the daemon.
//!
//! Invariants:
//! - [`create`] leaves either a finished device or nothing. Until the last step of its identity is set the device has a
//!   random name, so nobody finds a half-made `eth0`.
//! - The descriptor keeps the device's namespace alive; who drops it last is [`destroy`] or [`close`], on a helper
//!   thread, because closing blocks 16 to 20 ms.
//! - [`adopt`] and [`reattach`] use exactly the flags that the device was made with: other flags would change it silently.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use weft_api::port::PodRoute;
use weft_encap::MacAddr;
use weft_sys::link::{AddrFlags, Link, LinkChange, Netlink, RTPROT_WEFT, Route};
use weft_sys::netns::{NAMED_DIR, Netns, NsId};
use weft_sys::sysctl;
use weft_sys::tun::{MTU_MAX, Offloads, Tap, TapOptions, valid_name};

use super::EffectError;
use crate::port::{Device, TapDevice};

/// Smallest MTU of a device with IPv6 addresses; below it the kernel deletes them for good (RFC 8200 section 5).
pub const MIN_MTU_V6: u32 = crate::control::state::MIN_MTU;

/// Smallest MTU of a device (RFC 791 section 3.1).
pub const MIN_MTU: u32 = 68;

/// Slots of a TAP's ring, in packets. There is no back-pressure: a full ring drops.
pub const TXQUEUELEN: u32 = 1000;

/// Most queues of a port.
pub const MAX_QUEUES: u8 = 16;

/// Everything about a TAP port, defaults resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceSpec {
    /// Name of the device in its namespace.
    pub ifname: String,
    /// Its MAC.
    pub mac: MacAddr,
    /// Its MTU, in bytes.
    pub mtu: u32,
    /// MTU of routes that lead out of the node, in bytes, where that is less than the device's.
    pub route_mtu: Option<u32>,
    /// With a `route_mtu`: the prefixes that are on this node.
    pub local: Vec<IpNet>,
    /// MTU between nodes, in bytes: superframes are kept so short that one fits one UDP send.
    pub overlay_mtu: u32,
    /// Its addresses, with prefix.
    pub ips: Vec<IpNet>,
    /// Default gateways; one per family counts.
    pub gateways: Vec<IpAddr>,
    /// Further routes.
    pub routes: Vec<PodRoute>,
    /// Queues, 1 to [`MAX_QUEUES`]. Above 1 the device is multi-queue, which cannot change later.
    pub queues: u8,
    /// Offloads it must not use: of `csum`, `tso4`, `tso6`, `ecn`, `uso`.
    pub offloads_off: Vec<String>,
}

impl DeviceSpec {
    /// The routes that are set, with their MTUs; `true`: implied by a gateway, not asked for by name.
    pub fn all_routes(&self) -> Vec<(PodRoute, bool)> {
        let asked = self.routes.iter().map(|route| PodRoute { dst: route.dst.trunc(), ..route.clone() });
        let mut all: Vec<(PodRoute, bool)> = asked.map(|route| (route, false)).collect();
        let on_link = |net: &IpNet| self.ips.iter().any(|ip| ip.trunc().contains(net));
        for gateway in &self.gateways {
            let v4 = gateway.is_ipv4();
            // Further prefixes of this node are not on link, but bigger packets fit there, too.
            let local = self.local.iter().filter(|net| net.addr().is_ipv4() == v4 && !on_link(net));
            for dst in local.copied().chain([default_route(*gateway)]) {
                if !all.iter().any(|(route, _)| route.dst == dst) {
                    all.push((PodRoute { dst, gw: Some(*gateway), mtu: None }, true));
                }
            }
        }
        if let Some(most) = self.route_mtu {
            let elsewhere = |dst: &IpNet| !on_link(dst) && !self.local.iter().any(|net| net.contains(dst));
            for (route, _) in all.iter_mut().filter(|(route, _)| elsewhere(&route.dst)) {
                route.mtu = Some(route.mtu.unwrap_or(most).min(most));
            }
        }
        all
    }
}

/// An open port.
#[derive(Debug)]
pub struct LivePort {
    /// What the workers read and write.
    pub device: Device,
    /// The namespace that the device is in.
    pub netns: NsId,
    /// Index of the device in its namespace.
    pub index: u32,
    /// Offloads that the kernel took.
    pub offloads: Offloads,
    /// Name of the host's end of a veth pair; a TAP has none.
    pub host: String,
}

/// Opens a namespace by what a port's spec calls it: a name below `/run/netns`, a path (with a slash), or a process id.
/// `None` is the daemon's own.
pub fn open_netns(name: Option<&str>) -> Result<Netns, EffectError> {
    let opened = match name {
        None => Netns::current(),
        Some(path) if path.contains('/') => Netns::open(path),
        Some(pid) if !pid.is_empty() && pid.bytes().all(|b| b.is_ascii_digit()) => {
            match Netns::by_name(pid) {
                Ok(named) => Ok(named),
                Err(_) => match pid.parse() {
                    Ok(pid) => Netns::of_pid(pid),
                    Err(_) => Err(std::io::ErrorKind::NotFound.into()),
                },
            }
        }
        Some(name) => Netns::by_name(name),
    };
    let name = name.unwrap_or("of weftd");
    opened.map_err(|source| EffectError::Netns { name: name.to_owned(), source: where_looked(name, source) })
}

/// Of what is not there, where it was looked for.
fn where_looked(name: &str, error: std::io::Error) -> std::io::Error {
    if error.kind() != std::io::ErrorKind::NotFound || name.contains('/') {
        return error;
    }
    let file = format!("there is no {NAMED_DIR}/{name}");
    let is_number = name.bytes().all(|b| b.is_ascii_digit());
    let process = if is_number { format!(", and no process {name}") } else { String::new() };
    std::io::Error::new(std::io::ErrorKind::NotFound, file + &process)
}

/// The offloads that a spec leaves on.
pub fn offloads(off: &[String]) -> Result<Offloads, EffectError> {
    let mut on = Offloads::all();
    for name in off {
        match OFFLOADS.iter().find(|(known, _)| known == name) {
            Some((_, bit)) => on.remove(*bit),
            None => {
                let message = format!("`{name}` is no offload; expected csum, tso4, tso6, ecn or uso");
                return Err(EffectError::Invalid(message));
            }
        }
    }
    Ok(on.consistent())
}

/// Names of offloads, as specs and reports spell them.
pub fn offload_names(offloads: Offloads) -> Vec<String> {
    OFFLOADS.iter().filter(|(_, bit)| offloads.contains(*bit)).map(|(name, _)| (*name).to_owned()).collect()
}

const OFFLOADS: [(&str, Offloads); 5] = [
    ("csum", Offloads::CSUM),
    ("tso4", Offloads::TSO4),
    ("tso6", Offloads::TSO6),
    ("ecn", Offloads::ECN),
    ("uso", Offloads::USO),
];

/// The MTU that a pod gets: `wanted` (else `overlay`), but never below [`MIN_MTU_V6`] when it has IPv6 addresses. The
/// second value says what was raised, for a warning.
pub fn pod_mtu(wanted: Option<u32>, overlay: u32, ips: &[IpNet]) -> (u32, Option<String>) {
    let mtu = wanted.unwrap_or(overlay).clamp(MIN_MTU, MTU_MAX);
    if mtu < MIN_MTU_V6 && ips.iter().any(|ip| ip.addr().is_ipv6()) {
        let warning = format!(
            "an MTU of {mtu} cannot carry IPv6; {MIN_MTU_V6} is used, and packets may be too big for the underlay"
        );
        return (MIN_MTU_V6, Some(warning));
    }
    (mtu, None)
}

/// `gso_max_size` of a pod's device, in bytes: the longest superframe whose segments, each with 14 bytes of Ethernet
/// and 8 of VXLAN header, fit one UDP send of 65,507 bytes and at most 128 segments.
///
/// With `n` such segments of TCP payload (MTU less 52: IPv4, TCP and timestamps) a sender must not exceed `n`. The
/// kernel subtracts `MAX_TCP_HEADER` (up to 320) and one from the device's value (`net/core/sock.c: sk_setup_caps`);
/// with 388 added the quotient is still `n`, also for IPv6, whose segments are shorter. MTU 1450: 44 segments, 61,900.
pub fn gso_max_size(overlay_mtu: u32) -> u32 {
    const KERNEL_MAX: u32 = 65_536;
    let segments = (65_507 / (overlay_mtu.max(MIN_MTU) + 14 + 8)).min(128);
    match segments {
        // A frame fills a datagram: there is nothing to fit.
        0 | 1 => KERNEL_MAX,
        n => (n * (overlay_mtu.max(MIN_MTU) - 52) + 388).min(KERNEL_MAX),
    }
}

/// Makes the device in `netns` and configures it.
///
/// # Errors
/// [`EffectError::Exists`] when the namespace has an interface of that name. After any error nothing is left.
pub fn create(spec: &DeviceSpec, netns: &Netns) -> Result<LivePort, EffectError> {
    let options = check(spec)?;
    let (queues, index) = visit(netns, || {
        let temporary = temporary_name();
        // Without persistence until all is well: whatever fails, the last descriptor takes the device with it.
        let first = Tap::create(&temporary, &TapOptions { persist: false, ..options })?;
        match configure(spec, &temporary, first, &options) {
            Ok(made) => Ok(made),
            Err((error, tap)) => {
                close(vec![tap]);
                Err(error)
            }
        }
    })?;
    live(queues, index, netns)
}

/// Attaches to a device that an earlier run made with this spec.
///
/// # Errors
/// [`EffectError::Missing`] when it is gone; others when it was made otherwise.
pub fn reattach(spec: &DeviceSpec, netns: &Netns) -> Result<LivePort, EffectError> {
    let options = check(spec)?;
    let (queues, index) = visit(netns, || {
        let mut queues = Vec::new();
        for _ in 0..spec.queues {
            match Tap::attach(&spec.ifname, &options) {
                Ok(tap) => queues.push(tap),
                Err(error) => {
                    close(queues);
                    return Err(error.into());
                }
            }
        }
        let mut netlink = Netlink::new()?;
        let link =
            netlink.link_by_name(&spec.ifname)?.ok_or_else(|| EffectError::Missing(spec.ifname.clone()))?;
        shrink(&mut netlink, &link, spec);
        Ok((queues, link.index))
    })?;
    live(queues, index, netns)
}

/// Takes over descriptors of a device that an earlier run made with this spec: for each queue those that are offered,
/// of which the first that is what it should be is used. `index` is the device's, if it is recorded.
///
/// # Errors
/// What they are instead; all of them are closed then, at once: whoever held them still does, so that does not block.
pub fn adopt(
    spec: &DeviceSpec,
    index: Option<u32>,
    netns: &Netns,
    offered: Vec<Vec<OwnedFd>>,
) -> Result<LivePort, EffectError> {
    let options = check(spec)?;
    let id = netns.id().map_err(EffectError::io("identify namespace"))?;
    let mut queues = Vec::new();
    for one in offered {
        let mut found = Err(EffectError::Invalid("a queue's descriptor is missing".into()));
        let mut one = one.into_iter();
        while let (Err(_), Some(fd)) = (&found, one.next()) {
            found = verified(fd, spec, &options, id);
        }
        queues.push(found?);
    }
    let index = match index {
        Some(index) => index,
        None => {
            let link = visit(netns, || Ok(Netlink::new()?.link_by_name(&spec.ifname)?))?;
            link.ok_or_else(|| EffectError::Missing(spec.ifname.clone()))?.index
        }
    };
    live(queues, index, netns)
}

/// A queue of the device that the spec means, or what it is instead.
fn verified(fd: OwnedFd, spec: &DeviceSpec, options: &TapOptions, id: NsId) -> Result<Tap, EffectError> {
    let tap = Tap::from_fd(fd, options)?;
    let (name, _) = tap.name_and_flags()?;
    let netns = tap.netns()?.id().map_err(EffectError::io("identify namespace"))?;
    if name != spec.ifname || netns != id {
        let message = format!("it is {name} of namespace {netns}, not {} of {id}", spec.ifname);
        return Err(EffectError::Invalid(message));
    }
    Ok(tap)
}

/// Brings an adopted device's MTU and superframes in line with what the underlay allows now.
///
/// # Errors
/// When the namespace or the link cannot be looked at.
pub fn refit(spec: &DeviceSpec, netns: &Netns) -> Result<(), EffectError> {
    visit(netns, || {
        let mut netlink = Netlink::new()?;
        if let Some(link) = netlink.link_by_name(&spec.ifname)? {
            shrink(&mut netlink, &link, spec);
        }
        Ok(())
    })
}

/// Brings the device from `old` to `new`: MTU, MAC, addresses, gateways, routes. Name, queues and offloads cannot
/// change.
///
/// # Errors
/// After one the device is as `old` again, as far as the kernel allows.
pub fn reconfigure(index: u32, netns: &Netns, old: &DeviceSpec, new: &DeviceSpec) -> Result<(), EffectError> {
    check(new)?;
    if (&old.ifname, old.queues, &old.offloads_off) != (&new.ifname, new.queues, &new.offloads_off) {
        let message = format!(
            "name, queues and offloads of {} cannot change; delete the port and add it again",
            old.ifname
        );
        return Err(EffectError::Invalid(message));
    }
    visit(netns, || {
        let mut netlink = Netlink::new()?;
        change(&mut netlink, index, old, new).inspect_err(|_| {
            let _ = change(&mut netlink, index, new, old);
        })
    })
}

/// Ends a port: deletes the link if its namespace still has it, and drops our hold on the device on a helper thread.
/// Returns at once; never fails, since what is gone needs no deleting.
pub fn destroy(live: LivePort, netns: Option<Netns>) {
    let LivePort { device, index, netns: id, .. } = live;
    let ending = matches!(device, Device::Xdp(_)).then(Ending::begin);
    in_background("close-tap", move || {
        let _ending = ending;
        if let Some(netns) = netns.filter(|netns| netns.id().is_ok_and(|it| it == id)) {
            let deleted = netns.run(|| Netlink::new().and_then(|mut netlink| netlink.link_del(index)));
            match deleted {
                Ok(Err(error)) if !error.is_missing() => tracing::warn!(%error, "deleting a port's device"),
                Err(error) => tracing::warn!(%error, "entering a port's namespace"),
                _ => {}
            }
        }
        if let Device::Xdp(xdp) = &device
            && !xdp.end()
        {
            tracing::warn!("the device of an AF_XDP port is still there; its memory is kept until it is not");
        }
        drop(device);
    });
}

/// AF_XDP ports that are being ended.
static ENDING: AtomicUsize = AtomicUsize::new(0);

/// One of them.
struct Ending;

impl Ending {
    fn begin() -> Self {
        // Relaxed: who waits has begun them all itself.
        ENDING.fetch_add(1, Ordering::Relaxed);
        Ending
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        // Release: what was given back is seen by who sees the number.
        ENDING.fetch_sub(1, Ordering::Release);
    }
}

/// Waits until AF_XDP ports that were [destroyed](destroy) have given their chunks back to the memory that they shared, as long as
/// `patience` lasts: another process that takes the memory over finds those that are there then, and learns of no others. False: some
/// are still to come.
pub fn wait_for_ends(patience: Duration) -> bool {
    let end = Instant::now() + patience;
    // Acquire: pairs with the release of who has ended one.
    while ENDING.load(Ordering::Acquire) > 0 {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}

/// Drops descriptors on a helper thread: closing a TAP blocks for 16 to 20 ms.
pub fn close<T: Send + 'static>(descriptors: T) {
    in_background("close-tap", move || drop(descriptors));
}

fn in_background(name: &str, work: impl FnOnce() + Send + 'static) {
    // A closure that cannot be spawned is dropped, which closes what it holds: slowly, but not never.
    if let Err(error) = std::thread::Builder::new().name(name.to_owned()).spawn(work) {
        tracing::warn!(%error, "no helper thread");
    }
}

pub(super) fn visit<R: Send>(
    netns: &Netns,
    work: impl FnOnce() -> Result<R, EffectError> + Send,
) -> Result<R, EffectError> {
    netns.run(work).map_err(|source| EffectError::Netns { name: "of the port".to_owned(), source })?
}

fn live(queues: Vec<Tap>, index: u32, netns: &Netns) -> Result<LivePort, EffectError> {
    let offloads = queues.first().map_or(Offloads::empty(), Tap::offloads);
    let device = TapDevice::new(queues).map_err(EffectError::io("open port"))?;
    let netns = netns.id().map_err(EffectError::io("identify namespace"))?;
    Ok(LivePort { device: Device::Tap(Arc::new(device)), netns, index, offloads, host: String::new() })
}

pub(super) fn check(spec: &DeviceSpec) -> Result<TapOptions, EffectError> {
    let bad = |message: String| Err(EffectError::Invalid(message));
    if !valid_name(&spec.ifname) {
        return bad(format!(
            "`{}` is no interface name: 1 to 15 bytes without slash, colon or white space",
            spec.ifname
        ));
    }
    if !spec.mac.is_unicast() {
        return bad(format!("{} cannot be the MAC of an interface", spec.mac));
    }
    let v6 = spec.ips.iter().any(|ip| ip.addr().is_ipv6());
    let floor = if v6 { MIN_MTU_V6 } else { MIN_MTU };
    if !(floor..=MTU_MAX).contains(&spec.mtu) {
        return bad(format!("MTU {} is out of range; expected {floor} to {MTU_MAX}", spec.mtu));
    }
    if !(1..=MAX_QUEUES).contains(&spec.queues) {
        return bad(format!("{} queues are out of range; expected 1 to {MAX_QUEUES}", spec.queues));
    }
    Ok(TapOptions { multi_queue: spec.queues > 1, persist: true, offloads: offloads(&spec.offloads_off)? })
}

/// Random, so that two never meet; `weft` in front, so that a left-over tells whose it is.
pub(super) fn temporary_name() -> String {
    use std::hash::{BuildHasher, Hasher};
    let random = std::hash::RandomState::new().build_hasher().finish();
    format!("weft{:010x}", random & 0xff_ffff_ffff)
}

type Made = (Vec<Tap>, u32);

fn configure(
    spec: &DeviceSpec,
    temporary: &str,
    mut first: Tap,
    options: &TapOptions,
) -> Result<Made, (EffectError, Tap)> {
    let index = match set_up(spec, temporary) {
        Ok(index) => index,
        Err(error) => return Err((error, first)),
    };
    if let Err(error) = first.set_persist(options.persist) {
        return Err((error.into(), first));
    }
    let mut queues = vec![first];
    while queues.len() < usize::from(spec.queues) {
        match Tap::attach(&spec.ifname, options) {
            Ok(tap) => queues.push(tap),
            Err(error) => {
                let mut first = queues.swap_remove(0);
                let _ = first.set_persist(false);
                close(queues);
                return Err((error.into(), first));
            }
        }
    }
    Ok((queues, index))
}

pub(super) fn set_up(spec: &DeviceSpec, temporary: &str) -> Result<u32, EffectError> {
    let mut netlink = Netlink::new()?;
    let link = netlink.link_by_name(temporary)?.ok_or_else(|| EffectError::Missing(temporary.to_owned()))?;
    let identity = LinkChange {
        mtu: Some(spec.mtu),
        mac: Some(spec.mac.0),
        name: Some(spec.ifname.clone()),
        txqueuelen: Some(link.txqueuelen.max(TXQUEUELEN)),
        gso_max_size: Some(gso_max_size(spec.overlay_mtu)),
        ..LinkChange::default()
    };
    netlink.link_set(link.index, &identity).map_err(|error| match error.is_exists() {
        true => EffectError::Exists(spec.ifname.clone()),
        false => error.into(),
    })?;
    set_sysctls(spec)?;
    // A saving, not a need: a kernel without it goes on with its default. While the device is down nothing waits for it.
    let _ = netlink.link_noqueue(link.index);
    netlink.link_set(link.index, &LinkChange { up: Some(true), ..LinkChange::default() })?;
    for ip in &spec.ips {
        netlink.addr_add(link.index, *ip, AddrFlags::NODAD)?;
    }
    for (route, implied) in routes(spec, link.index) {
        match netlink.route_add(&route) {
            // Another interface of the pod has the default route: the first one keeps it.
            Err(error) if implied && error.is_exists() => {}
            result => result?,
        }
    }
    Ok(link.index)
}

/// While no daemon ran the underlay may have shrunk: packets that fit no more must not be sent. A bigger MTU can wait, and
/// a smaller one may be another plugin's wish. So with the MTUs of routes.
fn shrink(netlink: &mut Netlink, link: &Link, spec: &DeviceSpec) {
    let gso = gso_max_size(spec.overlay_mtu);
    let change = LinkChange {
        mtu: (link.mtu > spec.mtu).then_some(spec.mtu),
        gso_max_size: (link.gso_max_size != gso).then_some(gso),
        ..LinkChange::default()
    };
    if change != LinkChange::default()
        && let Err(error) = netlink.link_set(link.index, &change)
    {
        tracing::warn!(%error, "the MTU of a port that came back");
    }
    let is_wider =
        |old: Option<u32>, new: Option<u32>| new.is_some() && old.is_none_or(|old| Some(old) > new);
    if spec.route_mtu.is_some()
        && let Err(error) = resize_routes(netlink, link.index, spec, is_wider)
    {
        tracing::warn!(%error, "the MTU of routes of a port that came back");
    }
}

/// Gives routes that are there the MTUs of `spec`, where `which` (of the present one and the new one) says so.
fn resize_routes(
    netlink: &mut Netlink,
    index: u32,
    spec: &DeviceSpec,
    which: impl Fn(Option<u32>, Option<u32>) -> bool,
) -> Result<(), weft_sys::link::Error> {
    let present = netlink.route_list(Some(index))?;
    for (route, _) in routes(spec, index) {
        // Another program's is left alone, another interface's too.
        let there = present.iter().find(|old| old.protocol == RTPROT_WEFT && same_way(old, &route));
        if there.is_some_and(|there| there.mtu != route.mtu && which(there.mtu, route.mtu)) {
            netlink.route_replace(&route)?;
        }
    }
    Ok(())
}

/// True if they differ in MTU at most.
fn same_way(a: &Route, b: &Route) -> bool {
    (a.dst, a.via, a.dev, a.table) == (b.dst, b.via, b.dev, b.table)
}

/// A pod must not configure itself from router advertisements; and IPv6 addresses need IPv6, which some runtimes
/// switch off in a new namespace.
fn set_sysctls(spec: &DeviceSpec) -> Result<(), EffectError> {
    let v6 = spec.ips.iter().any(|ip| ip.addr().is_ipv6());
    let settings = [("disable_ipv6", "0", v6), ("accept_ra", "0", true)];
    for (name, value, _) in settings.into_iter().filter(|setting| setting.2) {
        let set =
            sysctl::Key::interface("ipv6", &spec.ifname, name).and_then(|key| sysctl::replace(&key, value));
        match set {
            // A kernel without IPv6.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && !v6 => {}
            result => drop(result.map_err(EffectError::io("configure interface"))?),
        }
    }
    Ok(())
}

/// The routes of a spec; `true`: implied by a gateway, not asked for by name.
fn routes(spec: &DeviceSpec, index: u32) -> Vec<(Route, bool)> {
    let onlink = |gw: IpAddr| !spec.ips.iter().any(|ip| ip.contains(&gw)) && !is_link_local(gw);
    let made = |route: PodRoute| {
        let mut made = Route::new(route.dst);
        made.dev = Some(index);
        made.via = route.gw;
        made.onlink = route.gw.is_some_and(onlink);
        made.mtu = route.mtu;
        made
    };
    spec.all_routes().into_iter().map(|(route, implied)| (made(route), implied)).collect()
}

fn is_link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn default_route(family_of: IpAddr) -> IpNet {
    match family_of {
        IpAddr::V4(_) => IpNet::V4(ipnet::Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(ipnet::Ipv6Net::default()),
    }
}

fn change(netlink: &mut Netlink, index: u32, old: &DeviceSpec, new: &DeviceSpec) -> Result<(), EffectError> {
    let set = |differs: bool| differs.then_some(());
    let link = LinkChange {
        mtu: set(old.mtu != new.mtu).map(|()| new.mtu),
        mac: set(old.mac != new.mac).map(|()| new.mac.0),
        gso_max_size: set(old.overlay_mtu != new.overlay_mtu).map(|()| gso_max_size(new.overlay_mtu)),
        ..LinkChange::default()
    };
    if link != LinkChange::default() {
        netlink.link_set(index, &link)?;
    }
    let (old_routes, new_routes) = (routes(old, index), routes(new, index));
    let among = |all: &[(Route, bool)], route: &Route| all.iter().any(|(other, _)| same_way(other, route));
    for (route, _) in old_routes.iter().filter(|(route, _)| !among(&new_routes, route)) {
        ignore_missing(netlink.route_del(route))?;
    }
    // Not deleted and added: in between, the pod would have none.
    if new_routes.iter().any(|route| !old_routes.contains(route) && among(&old_routes, &route.0)) {
        resize_routes(netlink, index, new, |_, _| true)?;
    }
    for ip in old.ips.iter().filter(|ip| !new.ips.contains(ip)) {
        ignore_missing(netlink.addr_del(index, *ip))?;
    }
    if new.ips.iter().any(|ip| !old.ips.contains(ip)) {
        set_sysctls(new)?;
    }
    for ip in new.ips.iter().filter(|ip| !old.ips.contains(ip)) {
        ignore_existing(netlink.addr_add(index, *ip, AddrFlags::NODAD))?;
    }
    // All of them again: the kernel has dropped those whose gateway's prefix went with an address.
    for (route, implied) in new_routes {
        match netlink.route_add(&route) {
            Err(error) if error.is_exists() && !implied => netlink.route_replace(&route)?,
            result => ignore_existing(result)?,
        }
    }
    Ok(())
}

pub(super) fn ignore_missing(result: Result<(), weft_sys::link::Error>) -> Result<(), weft_sys::link::Error> {
    match result {
        Err(error) if error.is_missing() => Ok(()),
        other => other,
    }
}

pub(super) fn ignore_existing(
    result: Result<(), weft_sys::link::Error>,
) -> Result<(), weft_sys::link::Error> {
    match result {
        Err(error) if error.is_exists() => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
