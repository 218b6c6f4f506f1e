//! Desired state: what the switch should be. Plain data, cloned for each change (records are shared by `Arc`), compared
//! by [`super::plan`], kept by [`super::store`].
//!
//! Three makers feed it: the configuration and cluster file ([`Owner::File`], derived anew at each start, never
//! stored), CNI clients and the operator.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_api::cni::Attachment;
use weft_api::transaction::RouteSpec;
use weft_api::{BridgeSpec, Owner, PortKind, PortSpec};
use weft_encap::{MacAddr, VlanId, Vni};

/// Bytes of a VXLAN packet around the inner IP packet over IPv4: outer IPv4, UDP, VXLAN, inner Ethernet (RFC 7348).
pub const OVERHEAD_V4: u32 = 50;
/// The same over IPv6.
pub const OVERHEAD_V6: u32 = 70;
/// UDP port of VXLAN where none is named (RFC 7348 section 8.1).
pub const VXLAN_PORT: u16 = 4789;
/// Lowest MTU given to a pod: the least that IPv6 works with (RFC 8200 section 5).
pub const MIN_MTU: u32 = 1280;

/// Everything that is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Bridges by name.
    pub bridges: BTreeMap<String, Arc<BridgeSpec>>,
    /// Ports by name, the node's own included.
    pub ports: BTreeMap<String, Arc<PortRecord>>,
    /// Routes of operator and file by (bridge, destination); those that follow from the cluster are not among them.
    pub routes: BTreeMap<(String, IpNet), RouteSpec>,
    /// Static stations by (bridge, VLAN, MAC).
    pub statics: BTreeMap<(String, Option<VlanId>, MacAddr), StaticMac>,
    /// Static neighbours by (bridge, address).
    pub neighbours: BTreeMap<(String, IpAddr), StaticNeighbour>,
    /// Pod addresses given by the built-in IPAM.
    pub ipam: IpamState,
    /// What configuration and cluster file say about this node and its peers.
    pub node: Arc<NodeNetwork>,
}

/// A port as it is wanted, and what must be remembered to take its device up again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortRecord {
    /// The wish, resolved: for a TAP `ifname`, `mac`, `mtu` and `gateways` are filled in.
    pub spec: PortSpec,
    /// The MTU was not asked for: it follows the bridge's and the underlay's.
    #[serde(default)]
    pub mtu_follows: bool,
    /// MTU of its device, in bytes, where that is to be bigger than `spec.mtu`: the bridge's `local_mtu` when the port was
    /// made. What leads out of the node has `spec.mtu`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_mtu: Option<u32>,
    /// Which CNI attachment it serves.
    #[serde(default)]
    pub attachment: Option<Attachment>,
    /// The namespace of its device; absent: the daemon's own.
    #[serde(default)]
    pub netns: Option<NetnsRecord>,
    /// Its device, once it was made. Absent after a crash: ADD had not finished.
    #[serde(default)]
    pub tap: Option<TapRecord>,
    /// Why the link is gone inside a living namespace, if it is.
    #[serde(default)]
    pub lost: Option<String>,
}

impl PortRecord {
    /// A port of `spec`, whose device is to be made.
    pub fn new(spec: PortSpec) -> Self {
        PortRecord {
            spec,
            mtu_follows: false,
            local_mtu: None,
            attachment: None,
            netns: None,
            tap: None,
            lost: None,
        }
    }

    /// True if the record ends with the boot: its namespace does.
    pub fn is_volatile(&self) -> bool {
        self.netns.is_some() || self.spec.netns.is_some() || self.spec.owner == Owner::Cni
    }

    /// MTU of the device, in bytes; `bridges` for one that its spec does not tell.
    pub fn device_mtu(&self, bridges: u32) -> u32 {
        let elsewhere = self.spec.mtu.unwrap_or(bridges);
        self.local_mtu.map_or(elsewhere, |local| local.max(elsewhere))
    }

    /// The stations that its own MAC makes: in its VLAN, and in those that it carries tagged.
    pub fn stations(&self) -> impl Iterator<Item = (Option<VlanId>, MacAddr)> {
        self.vlans().filter_map(|vlan| Some((vlan, self.spec.mac?)))
    }

    /// True if `station` is one of [`Self::stations`].
    pub fn is_station(&self, (vlan, mac): (Option<VlanId>, MacAddr)) -> bool {
        self.spec.mac == Some(mac) && self.vlans().any(|own| own == vlan)
    }

    /// A station that both make, if their MAC is the same.
    pub fn station_in_common(&self, other: &PortRecord) -> Option<(Option<VlanId>, MacAddr)> {
        let mac = self.spec.mac.filter(|mac| other.spec.mac == Some(*mac))?;
        let vlans: BTreeSet<_> = self.vlans().collect();
        Some((other.vlans().find(|vlan| vlans.contains(vlan))?, mac))
    }

    fn vlans(&self) -> impl Iterator<Item = Option<VlanId>> {
        std::iter::once(self.spec.tag).chain(self.spec.trunks.iter().copied().map(Some))
    }

    /// Name of the device, which a resolved TAP always has.
    pub fn ifname(&self) -> &str {
        self.spec.ifname.as_deref().unwrap_or(&self.spec.name)
    }
}

/// How to find a namespace again and to notice its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetnsRecord {
    /// The path as the client named it (CNI_NETNS verbatim); it may exist only in the client's mount namespace.
    pub path: String,
    /// Device number of the namespace's inode.
    pub dev: u64,
    /// Its inode number.
    pub ino: u64,
}

/// A TAP device as it was made; attaching with other flags would change it silently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TapRecord {
    /// Flags of `TUNSETIFF` (`linux/if_tun.h`).
    pub flags: u16,
    /// Interface index in its namespace.
    pub ifindex: u32,
}

/// A static FDB entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticMac {
    /// The port it is behind.
    pub port: String,
    /// With a `vxlan` port: the peer it is behind.
    #[serde(default)]
    pub remote: Option<IpAddr>,
    /// Who made it.
    pub owner: Owner,
}

/// A static neighbour.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaticNeighbour {
    /// Its station.
    pub mac: MacAddr,
    /// The port it is behind.
    pub port: String,
    /// Who made it.
    pub owner: Owner,
}

/// Addresses of the built-in IPAM; [`super::ipam`] gives them out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IpamState {
    /// Who holds which address.
    pub leases: BTreeMap<IpAddr, Lease>,
    /// Freed addresses and when they were freed, in seconds of Unix time: not given out again at once.
    pub quarantine: BTreeMap<IpAddr, u64>,
    /// By pool: the address given out last; the search goes on behind it.
    pub last: BTreeMap<IpNet, IpAddr>,
}

/// Who holds an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// The port.
    pub port: String,
    /// The attachment, for CNI ports.
    #[serde(default)]
    pub attachment: Option<Attachment>,
}

/// What configuration and cluster file say. Derived at start and whenever one of them changes; never stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeNetwork {
    /// This node's name, if there is a cluster.
    pub name: Option<String>,
    /// The default bridge.
    pub bridge: String,
    /// Name of the node's own port; `None`: it has none.
    pub internal: Option<String>,
    /// Prefixes of this node's pods.
    pub pod_cidrs: Vec<IpNet>,
    /// The router's addresses, with the prefix of their pod CIDR.
    pub gateways: Vec<IpNet>,
    /// Prefixes of all pods of the cluster; at least `pod_cidrs`.
    pub cluster_cidrs: Vec<IpNet>,
    /// This node's end of the overlay; `None`: there is no cluster.
    pub vtep: Option<Vtep>,
    /// The other nodes.
    pub peers: Vec<Peer>,
    /// MTU of the device that leads to the underlay, in bytes; `None`: not known (yet).
    pub underlay_mtu: Option<u32>,
    /// MTU of pods that is configured, in bytes.
    pub mtu_override: Option<u32>,
    /// Masquerade what pods send out of the cluster.
    pub masquerade: bool,
    /// Keep the tunnel's packets out of the connection table.
    pub notrack: bool,
    /// The machine has IPv6.
    pub has_ipv6: bool,
}

/// One end of the overlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vtep {
    /// Its underlay address.
    pub underlay: IpAddr,
    /// The VNI of routed traffic.
    pub vni: Vni,
    /// The UDP port.
    pub port: u16,
    /// Its VTEP MAC.
    pub mac: MacAddr,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its name.
    pub name: String,
    /// Its underlay address.
    pub underlay: IpAddr,
    /// Its VTEP MAC.
    pub mac: MacAddr,
    /// Prefixes of its pods.
    pub pod_cidrs: Vec<IpNet>,
}

impl NodeNetwork {
    /// MTU inside the overlay, in bytes, never below [`MIN_MTU`].
    pub fn overlay_mtu(&self) -> u32 {
        if let Some(mtu) = self.mtu_override {
            return mtu;
        }
        let underlay = self.underlay_mtu.unwrap_or(1500);
        let Some(vtep) = &self.vtep else { return underlay.clamp(MIN_MTU, 65_521) };
        let overhead = if vtep.underlay.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 };
        underlay.saturating_sub(overhead).clamp(MIN_MTU, 65_521)
    }
}

impl State {
    /// The MTU of ports of `bridge` that ask for none, in bytes.
    pub fn port_mtu(&self, bridge: &str) -> u32 {
        self.bridges.get(bridge).and_then(|bridge| bridge.mtu).unwrap_or_else(|| self.node.overlay_mtu())
    }

    /// The router's MAC of a bridge, if it has a router.
    pub fn router_mac(&self, bridge: &str) -> Option<MacAddr> {
        let spec = self.bridges.get(bridge)?;
        let first = spec.gateways.first()?;
        Some(
            spec.mac.unwrap_or_else(|| {
                MacAddr::derived(format!("router {} {}", spec.name, first.addr()).as_bytes())
            }),
        )
    }

    /// The port that serves a CNI attachment.
    pub fn port_of(&self, attachment: &Attachment) -> Option<&Arc<PortRecord>> {
        self.ports.values().find(|port| port.attachment.as_ref() == Some(attachment))
    }

    /// The port of `bridge` that has this station by its own MAC.
    pub fn port_of_station(
        &self,
        bridge: &str,
        station: (Option<VlanId>, MacAddr),
    ) -> Option<&Arc<PortRecord>> {
        let mut on_bridge = self.ports.values().filter(|port| port.spec.bridge == bridge);
        on_bridge.find(|port| port.is_station(station))
    }

    /// Puts a port in, filling in what its spec leaves open: device name, MAC, MTU, default gateways.
    pub fn put_port(&mut self, mut record: PortRecord) {
        let spec = &mut record.spec;
        let in_netns = spec.netns.is_some() || record.netns.is_some();
        if spec.kind != PortKind::Vxlan {
            if spec.ifname.is_none() {
                spec.ifname = Some(if in_netns { "eth0".to_owned() } else { spec.name.clone() });
            }
            if spec.mac.is_none() {
                record.spec.mac = Some(self.derived_mac(&record));
            }
            let spec = &mut record.spec;
            if spec.mtu.is_none() {
                record.mtu_follows = true;
                let local = self.bridges.get(&spec.bridge).and_then(|bridge| bridge.local_mtu);
                record.local_mtu = local.filter(|_| spec.kind != PortKind::Afxdp);
            }
            if record.mtu_follows {
                spec.mtu = Some(most(spec.kind, self.port_mtu(&spec.bridge)));
            }
            if spec.gateways.is_none() {
                spec.gateways = Some(self.default_gateways(spec));
            }
        }
        let has_local = record.local_mtu.is_some();
        let stretches = record.spec.kind == PortKind::Vxlan;
        self.ports.insert(record.spec.name.clone(), Arc::new(record));
        if has_local || stretches {
            self.end_local_mtu();
        }
    }

    /// Takes the bigger MTU from ports that must not have it (any more): those to which something is on link that may
    /// not be on this node, or whose router could not tell a sender that a packet is too big.
    fn end_local_mtu(&mut self) {
        let segments = self.ports.values().filter(|port| port.spec.kind == PortKind::Vxlan);
        let stretched: BTreeSet<&str> = segments.map(|port| port.spec.bridge.as_str()).collect();
        let may_have = |spec: &PortSpec| {
            let gateways =
                self.bridges.get(&spec.bridge).map(|bridge| &bridge.gateways[..]).unwrap_or_default();
            let is_local = |ip: &IpNet| gateways.iter().any(|gateway| gateway.trunc().contains(ip));
            spec.tag.is_none()
                && !spec.ips.is_empty()
                && spec.ips.iter().all(is_local)
                && !stretched.contains(spec.bridge.as_str())
        };
        let ports = self.ports.values().filter(|port| port.local_mtu.is_some() && !may_have(&port.spec));
        let names: Vec<String> = ports.map(|port| port.spec.name.clone()).collect();
        for name in names {
            if let Some(port) = self.ports.get_mut(&name) {
                Arc::make_mut(port).local_mtu = None;
            }
        }
    }

    /// Gives every port whose MTU follows the bridge its present MTU.
    pub fn follow_mtu(&mut self) {
        self.end_local_mtu();
        let following: Vec<_> = self
            .ports
            .values()
            .filter(|p| p.mtu_follows && p.spec.kind != PortKind::Vxlan)
            .cloned()
            .collect();
        for port in following {
            let mtu = most(port.spec.kind, self.port_mtu(&port.spec.bridge));
            if port.spec.mtu != Some(mtu) {
                let mut changed = (*port).clone();
                changed.spec.mtu = Some(mtu);
                self.ports.insert(changed.spec.name.clone(), Arc::new(changed));
            }
        }
    }

    /// Takes a port out with its static stations and neighbours and the addresses it holds; the addresses rest in
    /// quarantine from `now` (seconds of Unix time). Returns what was there.
    pub fn remove_port(&mut self, name: &str, now: u64) -> Option<Arc<PortRecord>> {
        let record = self.ports.remove(name)?;
        self.statics.retain(|_, entry| entry.port != name);
        self.neighbours.retain(|_, entry| entry.port != name);
        let freed: BTreeSet<IpAddr> =
            self.ipam.leases.iter().filter(|(_, lease)| lease.port == name).map(|(ip, _)| *ip).collect();
        for ip in freed {
            self.ipam.leases.remove(&ip);
            self.ipam.quarantine.insert(ip, now);
        }
        Some(record)
    }

    /// Notes that a port's link is gone inside its living namespace; its addresses stay taken.
    pub fn mark_lost(&mut self, name: &str, why: &str) -> bool {
        match self.ports.get_mut(name) {
            Some(port) if port.lost.is_none() => {
                Arc::make_mut(port).lost = Some(why.to_owned());
                true
            }
            _ => false,
        }
    }

    /// Adds bridges that pods' ports name and that are not there, with default settings; their names.
    pub fn add_missing_bridges(&mut self) -> BTreeSet<String> {
        let of_pods = self.ports.values().filter(|port| port.is_volatile());
        let missing: BTreeSet<String> = of_pods
            .map(|port| port.spec.bridge.clone())
            .filter(|bridge| !self.bridges.contains_key(bridge))
            .collect();
        for name in &missing {
            self.bridges.insert(name.clone(), Arc::new(BridgeSpec::new(name, Owner::Cli)));
        }
        missing
    }

    /// Takes out what refers to something that is not there: ports, routes, stations and neighbours of a bridge that
    /// the configuration no longer names, stations behind ports that are gone. Returns what went, in words.
    pub fn drop_dangling(&mut self, now: u64) -> Vec<String> {
        let mut gone = Vec::new();
        let stray = |port: &&Arc<PortRecord>| !self.bridges.contains_key(&port.spec.bridge);
        let ports: Vec<String> =
            self.ports.values().filter(stray).map(|port| port.spec.name.clone()).collect();
        for name in ports {
            gone.push(format!("port {name}"));
            self.remove_port(&name, now);
        }
        let State { bridges, ports, routes, statics, neighbours, .. } = self;
        routes.retain(|(bridge, dst), _| {
            keep(bridges.contains_key(bridge), || format!("route {dst} of {bridge}"), &mut gone)
        });
        statics.retain(|(bridge, _, mac), entry| {
            let there = ports.get(&entry.port).is_some_and(|port| port.spec.bridge == *bridge);
            keep(there, || format!("static station {mac} of {bridge}"), &mut gone)
        });
        neighbours.retain(|(bridge, ip), entry| {
            let there = ports.get(&entry.port).is_some_and(|port| port.spec.bridge == *bridge);
            keep(there, || format!("static neighbour {ip} of {bridge}"), &mut gone)
        });
        gone
    }

    /// Takes out static entries for stations that ports have by their own MAC. Returns what went, in words.
    pub fn drop_statics_of_ports(&mut self) -> Vec<String> {
        let State { ports, statics, .. } = self;
        if statics.is_empty() {
            return Vec::new();
        }
        let mut gone = Vec::new();
        for port in ports.values() {
            let PortSpec { bridge, name, .. } = &port.spec;
            for (vlan, mac) in port.stations() {
                let Some(entry) = statics.remove(&(bridge.clone(), vlan, mac)) else { continue };
                let vlan = vlan.map(|vlan| format!(" vlan {vlan}")).unwrap_or_default();
                let remote = entry.remote.map(|remote| format!(" remote {remote}")).unwrap_or_default();
                gone.push(format!(
                    "static station {mac}{vlan} of {bridge} behind {}{remote}: the MAC of port {name}",
                    entry.port
                ));
            }
        }
        gone
    }

    /// Takes out stations and neighbours behind ports that are gone.
    pub fn drop_stations_without_port(&mut self) {
        self.statics.retain(|_, entry| self.ports.contains_key(&entry.port));
        self.neighbours.retain(|_, entry| self.ports.contains_key(&entry.port));
    }

    /// The MAC of a port that asks for none: by its first address, else by its name; one that no other station has.
    fn derived_mac(&self, record: &PortRecord) -> MacAddr {
        let PortSpec { bridge, name, ips, .. } = &record.spec;
        let seed = match ips.first() {
            Some(ip) => format!("port {bridge} {}", ip.addr()),
            None => format!("port {bridge} {name}"),
        };
        let is_free = |mac: &MacAddr| {
            let of_port = |port: &Arc<PortRecord>| {
                let spec = &port.spec;
                spec.bridge == *bridge && spec.mac == Some(*mac) && spec.name != *name
            };
            let mut vlans = record.vlans();
            self.router_mac(bridge) != Some(*mac)
                && !self.ports.values().any(of_port)
                && !vlans.any(|vlan| self.statics.contains_key(&(bridge.clone(), vlan, *mac)))
        };
        let first = MacAddr::derived(seed.as_bytes());
        let others = (1..u32::MAX).map(|turn| MacAddr::derived(format!("{seed} {turn}").as_bytes()));
        std::iter::once(first).chain(others).find(is_free).unwrap_or(first)
    }

    fn default_gateways(&self, spec: &PortSpec) -> Vec<IpAddr> {
        // The node's own port and ports of the daemon's own namespace must not capture its default route.
        if spec.netns.is_none() && spec.owner != Owner::Cni {
            return Vec::new();
        }
        let Some(bridge) = self.bridges.get(&spec.bridge) else { return Vec::new() };
        let on_link = |gateway: &&IpNet| spec.ips.iter().any(|ip| ip.contains(&gateway.addr()));
        bridge.gateways.iter().filter(on_link).map(IpNet::addr).collect()
    }
}

/// As much of an MTU as a port of this kind can have.
fn most(kind: PortKind, mtu: u32) -> u32 {
    if kind == PortKind::Afxdp { mtu.min(crate::port::xdp::MTU_MAX) } else { mtu }
}

fn keep(there: bool, what: impl FnOnce() -> String, gone: &mut Vec<String>) -> bool {
    if !there {
        gone.push(what());
    }
    there
}
