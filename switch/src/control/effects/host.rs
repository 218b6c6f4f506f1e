//! The node's own port `weft0` and everything around it in the daemon's own namespace: addresses, cluster routes, the
//! router as permanent neighbour, forwarding sysctls, the nftables table, rules in foreign forward chains.
//!
//! [`HostNetwork::apply`] compares what is there with what should be and changes the difference, so it may be called
//! at start (after a crash, too) and at every change; it never empties and refills. The device itself is a TAP port
//! like any other ([`super::port::create`] with [`HostSpec::tap`]) and must be there first.
//!
//! Cluster routes have a link-local next hop on `weft0`, which is the router, whose MAC is a permanent neighbour: one
//! entry, no ARP. Their source is the gateway address, so that replies of remote pods come back by the tunnel.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use ipnet::IpNet;
use weft_encap::MacAddr;
use weft_sys::link::{AddrFlags, LinkChange, MAIN_TABLE, Netlink, RTPROT_WEFT, Route};
use weft_sys::nftables;
use weft_sys::sysctl::{self, Key};

use super::EffectError;
use super::forward::{self, ForeignForward};
use super::nft::{self, NftSpec};
use super::port::{DeviceSpec, ignore_existing, ignore_missing};

mod record;

use record::Record;
pub use record::SysctlChange;

/// The router as the node's next hop for IPv4. Only on `weft0`, never on a wire.
pub const NEXT_HOP_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 77, 1);
/// The same for IPv6.
pub const NEXT_HOP_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x77, 1);

/// So long a look at the firewall that found nothing holds at most: a program may have failed without a word.
const SETTLED: Duration = Duration::from_secs(60);

/// What the node's network should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostSpec {
    /// Name of the node's own port.
    pub ifname: String,
    /// Its MAC, which never changes and is not the router's.
    pub mac: MacAddr,
    /// The router's MAC.
    pub router_mac: MacAddr,
    /// MTU between nodes, in bytes.
    pub mtu: u32,
    /// MTU towards this node's pods, in bytes, where it is bigger.
    pub local_mtu: Option<u32>,
    /// The router's addresses, with the prefix of their pod CIDR: `weft0` has them.
    pub gateways: Vec<IpNet>,
    /// Prefixes of this node's pods.
    pub pod_cidrs: Vec<IpNet>,
    /// Prefixes of all pods: routed to the switch.
    pub cluster_cidrs: Vec<IpNet>,
    /// Masquerade what pods send out of the cluster.
    pub masquerade: bool,
    /// VXLAN to and from this address of the node is not tracked.
    pub untracked: Option<SocketAddr>,
}

impl HostSpec {
    /// The device as a port. IPv6 is always possible on it, so its MTU is never below 1280.
    pub fn tap(&self) -> DeviceSpec {
        DeviceSpec {
            ifname: self.ifname.clone(),
            mac: self.mac,
            mtu: self.mtu.max(self.local_mtu.unwrap_or(0)).max(super::port::MIN_MTU_V6),
            // Its routes are set by `HostNetwork`.
            route_mtu: None,
            local: Vec::new(),
            overlay_mtu: self.mtu,
            ips: self.gateways.clone(),
            gateways: Vec::new(),
            routes: Vec::new(),
            queues: 1,
            offloads_off: Vec::new(),
        }
    }

    fn nft(&self) -> NftSpec {
        NftSpec {
            ifname: self.ifname.clone(),
            pod_cidrs: self.pod_cidrs.clone(),
            cluster_cidrs: self.cluster_cidrs.clone(),
            masquerade: self.masquerade,
            untracked: self.untracked,
        }
    }

    fn has(&self, v4: bool) -> bool {
        self.gateways.iter().any(|gateway| gateway.addr().is_ipv4() == v4)
    }

    /// The routes to pods elsewhere. Own pods are reached by the prefix of the gateway address.
    fn routes(&self, index: u32) -> Vec<Route> {
        let own: Vec<IpNet> = self.gateways.iter().map(IpNet::trunc).collect();
        let elsewhere = self.cluster_cidrs.iter().filter(|cidr| !own.contains(cidr));
        elsewhere
            .filter_map(|cidr| {
                let v4 = cidr.addr().is_ipv4();
                let source = self.gateways.iter().find(|gateway| gateway.addr().is_ipv4() == v4)?;
                let mut route = Route::new(*cidr);
                route.via = Some(next_hop(v4));
                route.dev = Some(index);
                route.src = Some(source.addr());
                route.onlink = true;
                route.mtu = self.local_mtu.filter(|local| *local > self.mtu).map(|_| self.mtu);
                Some(route)
            })
            .collect()
    }
}

/// The host's network as this daemon made it.
#[derive(Debug)]
pub struct HostNetwork {
    record: Record,
    firewall: Arc<Mutex<Firewall>>,
    /// Foreign chains as of the last look.
    chains: Arc<ArcSwap<Vec<String>>>,
}

/// What the program `nft` looks after. Behind a lock, because looking takes long where there are many chains.
#[derive(Debug)]
struct Firewall {
    forward: ForeignForward,
    table: Option<NftSpec>,
    /// What the last look said, so that it is told once.
    complaint: Option<String>,
    /// The generation of nftables at the last look that found all as it should be, and when that was.
    settled: Option<(u32, Instant)>,
}

impl HostNetwork {
    /// Takes up what an earlier run left in the file at `record` (what sysctls were before). Changes nothing.
    ///
    /// # Errors
    /// When the file is there but cannot be read; one with other content counts as none.
    pub fn open(record: impl Into<PathBuf>, ifname: &str) -> Result<Self, EffectError> {
        let record = Record::open(record.into()).map_err(EffectError::io("read the record of sysctls"))?;
        let firewall =
            Firewall { forward: ForeignForward::new(ifname), table: None, complaint: None, settled: None };
        Ok(HostNetwork { record, firewall: Arc::new(Mutex::new(firewall)), chains: Arc::default() })
    }

    /// Makes the network as `spec` says. The device must exist.
    ///
    /// # Errors
    /// The first refusal. What was done stays: it is what is wanted, and the next call goes on from there.
    pub fn apply(&mut self, spec: &HostSpec) -> Result<(), EffectError> {
        let mut netlink = Netlink::new()?;
        let link =
            netlink.link_by_name(&spec.ifname)?.ok_or_else(|| EffectError::Missing(spec.ifname.clone()))?;
        let tap = spec.tap();
        let wanted = LinkChange {
            mtu: (link.mtu != tap.mtu).then_some(tap.mtu),
            mac: (link.mac != Some(spec.mac.0)).then_some(spec.mac.0),
            up: (!link.up).then_some(true),
            ..LinkChange::default()
        };
        self.set_sysctls(spec)?;
        if wanted != LinkChange::default() {
            netlink.link_set(link.index, &wanted)?;
        }
        set_addresses(&mut netlink, link.index, &spec.gateways)?;
        set_neighbours(&mut netlink, link.index, spec)?;
        set_routes(&mut netlink, link.index, &spec.routes(link.index))?;
        let mut firewall = lock(&self.firewall);
        if firewall.set_table(&spec.nft())? {
            // At once: the next look may come too late for the first packet.
            firewall.check();
            self.chains.store(Arc::new(firewall.forward.chains()));
        }
        Ok(())
    }

    /// Looks after the firewall on a helper thread: rules of ours in foreign chains that drop, and our table if somebody
    /// flushed it. To be called every 5 to 10 seconds ([`HostNetwork::apply`] does it once, too). Takes 10 ms and more,
    /// of that thread's time, unless nobody has changed anything since; while one look is under way, another does nothing.
    pub fn check_firewall(&self) {
        if self.firewall.try_lock().is_ok_and(|firewall| firewall.is_settled()) {
            return;
        }
        let (firewall, chains) = (Arc::clone(&self.firewall), Arc::clone(&self.chains));
        // A new thread is in the namespace of the one that makes it.
        let made = std::thread::Builder::new().name("weft-firewall".to_owned()).spawn(move || {
            if let Ok(mut firewall) = firewall.try_lock() {
                firewall.check();
                chains.store(Arc::new(firewall.forward.chains()));
            }
        });
        if let Err(error) = made {
            tracing::warn!(%error, "no thread to look after the firewall");
        }
    }

    /// Foreign chains with rules of ours as of the last look, for the status.
    pub fn foreign_chains(&self) -> Arc<ArcSwap<Vec<String>>> {
        Arc::clone(&self.chains)
    }

    /// Sysctls changed and what they were, for the status.
    pub fn sysctls(&self) -> &[SysctlChange] {
        self.record.changes()
    }

    /// Removes our rules from foreign chains: for a stop, after which ports stay.
    ///
    /// # Errors
    /// The first refusal; it goes on after it.
    pub fn stop(&mut self) -> Result<(), EffectError> {
        lock(&self.firewall).forward.remove()
    }

    /// Removes everything but the device: rules, table, routes, neighbours; puts sysctls back. What is gone already is
    /// fine, so it also serves after a crash.
    ///
    /// # Errors
    /// The first refusal; it goes on after it.
    pub fn purge(&mut self, ifname: &str) -> Result<(), EffectError> {
        let mut firewall = lock(&self.firewall);
        let mut result = firewall.forward.remove();
        result = result.and(nft::remove());
        firewall.table = None;
        drop(firewall);
        result = result.and(remove_routes(ifname));
        result.and(self.record.restore().map_err(EffectError::io("put sysctls back")))
    }

    /// Forwarding. What is changed for the whole host is recorded on disk before it is changed.
    fn set_sysctls(&mut self, spec: &HostSpec) -> Result<(), EffectError> {
        let failed = || EffectError::io("set forwarding");
        if spec.has(true) {
            self.record.forwarding("ipv4", &spec.ifname).map_err(failed())?;
        }
        if spec.has(false) {
            self.record.forwarding("ipv6", &spec.ifname).map_err(failed())?;
        }
        for (family, name, value) in
            [("ipv4", "send_redirects", "0"), ("ipv4", "rp_filter", "2"), ("ipv6", "accept_ra", "0")]
        {
            let set = Key::interface(family, &spec.ifname, name).and_then(|key| sysctl::replace(&key, value));
            match set {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => drop(result.map_err(EffectError::io("configure the node's port"))?),
            }
        }
        Ok(())
    }
}

impl Firewall {
    /// True if the table was another one, or none.
    fn set_table(&mut self, spec: &NftSpec) -> Result<bool, EffectError> {
        if self.table.as_ref() == Some(spec) {
            return Ok(false);
        }
        nft::apply(spec)?;
        self.table = Some(spec.clone());
        Ok(true)
    }

    /// True if there is nothing to look at: no transaction since the last look, which was a short while ago. Tables of
    /// the old iptables have no generation.
    fn is_settled(&self) -> bool {
        self.settled.is_some_and(|(generation, since)| {
            since.elapsed() < SETTLED
                && nftables::generation().is_ok_and(|now| now == generation)
                && !forward::has_legacy_filter()
        })
    }

    fn check(&mut self) {
        // Asked before the look: what is changed meanwhile is looked at the next time.
        let generation = nftables::generation().ok();
        let result = match &self.table {
            Some(spec) if !nft::exists() => nft::apply(spec),
            _ => Ok(()),
        };
        let result = result.and_then(|()| self.forward.check());
        match &result {
            Ok(true) => {
                tracing::info!(chains = ?self.forward.chains(), "accept rules added to chains that drop");
            }
            Ok(false) => {}
            Err(error) if self.complaint.as_ref() == Some(&error.to_string()) => {}
            Err(error) => tracing::warn!(%error, "looking after the firewall"),
        }
        let is_well = matches!(result, Ok(false));
        self.settled = generation.filter(|_| is_well).map(|generation| (generation, Instant::now()));
        self.complaint = result.err().map(|error| error.to_string());
    }
}

fn lock(firewall: &Mutex<Firewall>) -> std::sync::MutexGuard<'_, Firewall> {
    firewall.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Where an earlier run kept what sysctls were, below the daemon's state directory.
pub fn record_path(state_dir: &Path) -> PathBuf {
    state_dir.join("host.json")
}

fn next_hop(v4: bool) -> IpAddr {
    if v4 { NEXT_HOP_V4.into() } else { NEXT_HOP_V6.into() }
}

fn set_addresses(netlink: &mut Netlink, index: u32, wanted: &[IpNet]) -> Result<(), EffectError> {
    let present = netlink.addr_list(Some(index))?;
    let ours = |ip: &IpNet| !matches!(ip.addr(), IpAddr::V6(v6) if v6.is_unicast_link_local());
    for address in present.iter().filter(|address| ours(&address.net) && !wanted.contains(&address.net)) {
        ignore_missing(netlink.addr_del(index, address.net))?;
    }
    for net in wanted.iter().filter(|net| !present.iter().any(|address| address.net == **net)) {
        ignore_existing(netlink.addr_add(index, *net, AddrFlags::NODAD))?;
    }
    Ok(())
}

fn set_neighbours(netlink: &mut Netlink, index: u32, spec: &HostSpec) -> Result<(), EffectError> {
    let present = netlink.neigh_list(Some(index))?;
    for v4 in [true, false] {
        let ip = next_hop(v4);
        let found = present.iter().find(|neighbour| neighbour.ip == ip);
        if !spec.has(v4) {
            if found.is_some() {
                ignore_missing(netlink.neigh_del(index, ip))?;
            }
        } else if !found.is_some_and(|n| n.permanent && n.mac == Some(spec.router_mac.0)) {
            netlink.neigh_set(index, ip, spec.router_mac.0)?;
        }
    }
    Ok(())
}

/// Ours are those with our protocol number on our port. New ones come before old ones go, so that a destination covered
/// by both is never without.
fn set_routes(netlink: &mut Netlink, index: u32, wanted: &[Route]) -> Result<(), EffectError> {
    let present = our_routes(netlink, index)?;
    let same = |a: &Route, b: &Route| (a.dst, a.via, a.src, a.mtu) == (b.dst, b.via, b.src, b.mtu);
    for route in wanted.iter().filter(|route| !present.iter().any(|old| same(old, route))) {
        let stale = present.iter().any(|old| old.dst == route.dst);
        let done = if stale { netlink.route_replace(route) } else { netlink.route_add(route) };
        done.map_err(|error| match error.is_exists() {
            true => EffectError::Invalid(format!(
                "another program has a route to {} already; remove it",
                route.dst
            )),
            false => error.into(),
        })?;
    }
    for route in present.iter().filter(|old| !wanted.iter().any(|route| route.dst == old.dst)) {
        ignore_missing(netlink.route_del(route))?;
    }
    Ok(())
}

fn our_routes(netlink: &mut Netlink, index: u32) -> Result<Vec<Route>, EffectError> {
    let mut routes = netlink.route_list(Some(index))?;
    routes.retain(|route| {
        route.protocol == RTPROT_WEFT && route.table == MAIN_TABLE && route.dev == Some(index)
    });
    Ok(routes)
}

fn remove_routes(ifname: &str) -> Result<(), EffectError> {
    let mut netlink = Netlink::new()?;
    let Some(link) = netlink.link_by_name(ifname)? else { return Ok(()) };
    set_routes(&mut netlink, link.index, &[])?;
    for v4 in [true, false] {
        ignore_missing(netlink.neigh_del(link.index, next_hop(v4)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
