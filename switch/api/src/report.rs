//! What the daemon reports.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weft_encap::{MacAddr, VlanId, Vni};

use crate::port::Owner;
use crate::transaction::Via;

/// How the node is doing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// This node's name in the cluster, if there is a cluster file.
    pub node: Option<String>,
    /// Process id of the daemon.
    pub pid: u32,
    /// Seconds since the daemon started.
    pub uptime_seconds: u64,
    /// True once stored ports are back and forwarding.
    pub ready: bool,
    /// Epoch of the snapshot in force.
    pub epoch: u64,
    /// Number of worker threads.
    pub workers: usize,
    /// As [`Stats::worker_busy_permille`].
    #[serde(default)]
    pub worker_busy_permille: Vec<u64>,
    /// Number of ports.
    pub ports: usize,
    /// Overlay MTU in use, in bytes.
    pub overlay_mtu: u32,
    /// The cluster: file and what is wrong with its latest edit.
    pub cluster: ClusterStatus,
    /// The node's interface, where VXLAN goes as raw frames.
    #[serde(default)]
    pub uplink: Option<UplinkStatus>,
    /// Pod addresses, by CIDR.
    pub pools: Vec<PoolStatus>,
    /// Foreign firewall chains that drop forwarded packets, where rules of ours were added.
    pub foreign_chains: Vec<String>,
    /// What works worse than it could, and why (an offload missing, a capability refused).
    pub degraded: Vec<String>,
    /// Forwarding sysctls that were changed and will be put back: name, old value, new value.
    pub sysctls: Vec<(String, String, String)>,
}

/// The cluster file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterStatus {
    /// Path of the file.
    pub file: Option<String>,
    /// Nodes in the version in force, this one included.
    pub nodes: usize,
    /// `file:line: what is expected`, when the latest edit is bad and the last good one stays in force.
    pub error: Option<String>,
}

/// The interface by which VXLAN goes as raw frames (AF_XDP).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UplinkStatus {
    /// Its name.
    pub device: String,
    /// Where the program runs: `native` (in the driver) or `generic` (after it).
    pub mode: String,
    /// True when the device reads and writes the memory itself.
    pub zero_copy: bool,
    /// System calls of the switch poll the device (`SO_PREFER_BUSY_POLL`).
    #[serde(default)]
    pub busy_poll: bool,
    /// Queues with a socket.
    pub queues: usize,
    /// Locked memory, bytes.
    pub memory: u64,
    /// Peers whose next hop is known: the others are sent to by UDP sockets.
    pub peers: usize,
    /// VXLAN packets received by it.
    pub rx_packets: u64,
    /// VXLAN packets sent by it.
    pub tx_packets: u64,
    /// Packets that the kernel dropped because weftd was too slow.
    pub rx_dropped: u64,
}

/// A pool of pod addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolStatus {
    /// Its CIDR.
    #[schema(value_type = String)]
    pub cidr: IpNet,
    /// Addresses in use.
    pub used: u64,
    /// Addresses free, `u64::MAX` when more.
    pub free: u64,
}

/// An entry of a bridge's forwarding database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FdbEntry {
    /// The bridge.
    pub bridge: String,
    /// The VLAN; absent: untagged.
    #[schema(value_type = Option<u16>)]
    pub vlan: Option<VlanId>,
    /// The station.
    #[schema(value_type = String)]
    pub mac: MacAddr,
    /// The port it is behind.
    pub port: String,
    /// With a `vxlan` port: the peer it is behind.
    #[schema(value_type = Option<String>)]
    pub remote: Option<IpAddr>,
    /// True for entries that never move or age.
    pub is_static: bool,
    /// Who made it: with a port's own station, the port; absent: the switch learned it.
    #[serde(default)]
    pub owner: Option<Owner>,
    /// Seconds since it was last seen; 0 for static ones.
    pub age_seconds: u64,
}

/// A route of a bridge's router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RouteEntry {
    /// The bridge.
    pub bridge: String,
    /// Destination prefix.
    #[schema(value_type = String)]
    pub dst: IpNet,
    /// Where it leads.
    pub via: Via,
    /// Who made it.
    pub owner: Owner,
}

/// A neighbour of a bridge's router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NeighbourEntry {
    /// The bridge.
    pub bridge: String,
    /// The address.
    #[schema(value_type = String)]
    pub ip: IpAddr,
    /// Its station.
    #[schema(value_type = String)]
    pub mac: MacAddr,
    /// The port it is behind.
    pub port: String,
    /// Who made it; absent: the switch learned it.
    #[serde(default)]
    pub owner: Option<Owner>,
    /// Seconds since a learned one was last heard; 0 for others.
    #[serde(default)]
    pub age_seconds: u64,
}

/// A peer of the tunnel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TunnelEntry {
    /// Name of the node, when the cluster file names it.
    pub node: Option<String>,
    /// Underlay address.
    #[schema(value_type = String)]
    pub remote: IpAddr,
    /// UDP port.
    pub udp_port: u16,
    /// VNI.
    #[schema(value_type = u32)]
    pub vni: Vni,
    /// VTEP MAC of the peer (layer-3 mode).
    #[schema(value_type = Option<String>)]
    pub mac: Option<MacAddr>,
    /// True for a stretched layer-2 segment, false for routed.
    pub layer2: bool,
    /// Prefixes routed to it.
    #[schema(value_type = Vec<String>)]
    pub prefixes: Vec<IpNet>,
    /// VXLAN packets sent (each segment of a superframe counts).
    pub tx_packets: u64,
    /// Inner bytes sent.
    pub tx_bytes: u64,
    /// VXLAN packets received.
    pub rx_packets: u64,
    /// Inner bytes received.
    pub rx_bytes: u64,
    /// What became of those that were dropped, by [`weft_encap::Reason::name`].
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
    /// Seconds since the last packet from it; absent: never.
    pub last_heard_seconds: Option<u64>,
}

/// An entry of a worker's flow cache.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FlowEntry {
    /// The worker.
    pub worker: usize,
    /// Where it came in: a port's name or `peer/VNI`.
    pub ingress: String,
    /// The key in words: VLAN, MACs, addresses, protocol, ports.
    pub key: String,
    /// What is done with it.
    pub actions: String,
    /// Frames that hit it.
    pub hits: u64,
    /// Seconds since it was last hit.
    pub idle_seconds: u64,
}

/// Counters of the whole switch since the daemon started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    /// Named totals: `frames`, `cache_hits`, `cache_misses`, `cache_entries`, `cache_evictions`, `learned`,
    /// `learned_evictions`, `neighbours`, `neighbour_evictions`, `checksums_computed`, `superframes_cut`, `punts`,
    /// `flood_copies`, `wakeups`, … Evictions: entries of a bounded table that had to make room for others.
    pub totals: BTreeMap<String, u64>,
    /// Drops by reason: name, sentence, count. Only reasons that occurred.
    pub drops: Vec<DropCount>,
    /// CPU time of each worker over the last second or so, the time in which it looked on for more included, in
    /// thousandths of one CPU. Empty: not known (yet).
    pub worker_busy_permille: Vec<u64>,
}

/// Drops for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DropCount {
    /// [`weft_encap::Reason::name`].
    pub reason: String,
    /// [`weft_encap::Reason::about`].
    pub about: String,
    /// Where they came from, when it can be told: port names with counts.
    pub ports: BTreeMap<String, u64>,
    /// The same for peers of tunnels (`address/VNI`, `address/port` of a segment), as long as they are peers.
    #[serde(default)]
    pub peers: BTreeMap<String, u64>,
    /// How many.
    pub count: u64,
}
