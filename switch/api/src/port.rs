//! Ports.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weft_encap::{MacAddr, VlanId, Vni};

/// Who made an object. Changing another's object is refused, naming the owner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// The configuration or cluster file.
    File,
    /// A CNI client.
    Cni,
    /// The operator, by the command or the API.
    #[default]
    Cli,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Owner::File => "file",
            Owner::Cni => "cni",
            Owner::Cli => "cli",
        })
    }
}

/// What a port is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PortKind {
    /// A TAP device in a namespace (or in the host's).
    #[default]
    Tap,
    /// A veth pair whose host's end is an AF_XDP socket of the switch.
    Afxdp,
    /// The node's own port in the host namespace (`weft0`); made by the daemon.
    Internal,
    /// A layer-2 VXLAN segment stretched to `remotes`.
    Vxlan,
}

impl PortKind {
    /// True for what is meant where no type is named.
    pub fn is_default(&self) -> bool {
        *self == PortKind::default()
    }

    /// True for ports that pods have.
    pub const fn is_pods(self) -> bool {
        matches!(self, PortKind::Tap | PortKind::Afxdp)
    }
}

impl fmt::Display for PortKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PortKind::Tap => "tap",
            PortKind::Afxdp => "afxdp",
            PortKind::Internal => "internal",
            PortKind::Vxlan => "vxlan",
        })
    }
}

impl FromStr for PortKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tap" => Ok(PortKind::Tap),
            "afxdp" => Ok(PortKind::Afxdp),
            "internal" => Ok(PortKind::Internal),
            "vxlan" => Ok(PortKind::Vxlan),
            _ => Err(format!("`{text}` is not a port type; expected tap, afxdp or vxlan")),
        }
    }
}

/// What is wanted of a port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    /// Name of the port in the switch, 1 to 64 characters of `[A-Za-z0-9_.-]`, unique on the node.
    pub name: String,
    /// The bridge it belongs to.
    pub bridge: String,
    /// What it is made of.
    #[serde(default)]
    pub kind: PortKind,
    /// Who made it.
    #[serde(default)]
    pub owner: Owner,
    /// Namespace of the device: a name below `/run/netns`, a path, or a process id. Absent: the daemon's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
    /// Name of the device in its namespace, 1 to 15 characters; absent: `eth0` in a namespace, else the port's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
    /// MAC of the device; derived from the port's first address or name when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub mac: Option<MacAddr>,
    /// Addresses of the device, with their prefix.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub ips: Vec<IpNet>,
    /// Default gateways set in the namespace; absent: those of the bridge's router where families match.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub gateways: Option<Vec<IpAddr>>,
    /// Further routes set in the namespace.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub routes: Vec<PodRoute>,
    /// MTU of the device, in bytes; absent: the bridge's, and its [`crate::BridgeSpec::local_mtu`] towards its own ports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// VLAN that untagged frames of the port belong to (access port); absent: the untagged VLAN.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u16>)]
    pub tag: Option<VlanId>,
    /// VLANs that the port may send and get tagged; empty: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<u16>)]
    pub trunks: Vec<VlanId>,
    /// Source guard: senders must use the port's own MAC and addresses. On unless switched off; a port without
    /// addresses is guarded by MAC alone.
    #[serde(default = "yes")]
    pub guard: bool,
    /// Offloads the device must not use: of `csum`, `tso4`, `tso6`, `ecn`, `uso`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub offloads_off: Vec<String>,
    /// Queues of the device (multi-queue TAP when above 1); 1 to 16.
    #[serde(default = "one")]
    pub queues: u8,
    /// `vxlan` only: the segment's VNI.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub vni: Option<Vni>,
    /// `vxlan` only: underlay addresses of the peers that share the segment (head-end replication).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub remotes: Vec<IpAddr>,
    /// `vxlan` only: UDP port, 4789 unless set (RFC 7348).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp_port: Option<u16>,
    /// What the port is for, in the words of its maker: `pod`, `namespace`, `container`, `network`, …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub external_ids: BTreeMap<String, String>,
}

const fn yes() -> bool {
    true
}

const fn one() -> u8 {
    1
}

impl PortSpec {
    /// A port with the defaults.
    pub fn new(name: impl Into<String>, bridge: impl Into<String>, kind: PortKind, owner: Owner) -> Self {
        PortSpec {
            name: name.into(),
            bridge: bridge.into(),
            kind,
            owner,
            netns: None,
            ifname: None,
            mac: None,
            ips: Vec::new(),
            gateways: None,
            routes: Vec::new(),
            mtu: None,
            tag: None,
            trunks: Vec::new(),
            guard: true,
            offloads_off: Vec::new(),
            queues: 1,
            vni: None,
            remotes: Vec::new(),
            udp_port: None,
            external_ids: BTreeMap::new(),
        }
    }
}

/// A route set inside a pod's namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PodRoute {
    /// Destination.
    #[schema(value_type = String)]
    pub dst: IpNet,
    /// Next hop; absent: on link.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub gw: Option<IpAddr>,
    /// Path MTU of the route, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
}

/// How a port is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PortState {
    /// Frames flow.
    Up,
    /// The link was deleted inside a living namespace; the address stays reserved until the port is deleted.
    Lost,
}

/// A port as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortInfo {
    /// What was asked for, defaults filled in.
    pub spec: PortSpec,
    /// How it is doing.
    pub state: PortState,
    /// Why it is not up, when it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// MTU of the device, in bytes, where it is bigger than [`PortSpec::mtu`]: for ports of this node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_mtu: Option<u32>,
    /// Offloads the kernel accepted.
    pub offloads: Vec<String>,
    /// `afxdp` only: how frames get there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub xdp: Option<XdpInfo>,
    /// Traffic, seen from the switch.
    pub counters: PortCounters,
}

/// How frames of an AF_XDP port get to the switch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct XdpInfo {
    /// The host's end of the veth pair.
    pub device: String,
    /// Where the program runs: `native` (in the driver) or `generic`.
    pub mode: String,
    /// The device reads and writes the memory itself; else the kernel copies.
    pub zero_copy: bool,
    /// System calls of the switch poll the device (`SO_PREFER_BUSY_POLL`).
    #[serde(default)]
    pub busy_poll: bool,
    /// Memory that the port may use, in bytes, all of it locked.
    pub memory: u64,
    /// The memory of several ports of which that is a part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<SharedMemory>,
    /// Frames from the port that found no room there, since its socket was opened.
    pub dropped: u64,
}

/// A memory that AF_XDP ports share. Frames from one to another of the same memory are not copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SharedMemory {
    /// Its number in this daemon, from 0.
    pub number: u32,
    /// Bytes, all of them locked, whether ports use them or not.
    pub size: u64,
    /// Ports that share it now.
    pub ports: u32,
}

/// Counters of a port since it was made. `rx` is what the switch received from the port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PortCounters {
    /// Frames received from the port; a superframe counts once.
    pub rx_frames: u64,
    /// Bytes received from the port.
    pub rx_bytes: u64,
    /// Frames from the port that were dropped.
    pub rx_dropped: u64,
    /// Frames sent to the port.
    pub tx_frames: u64,
    /// Bytes sent to the port.
    pub tx_bytes: u64,
    /// Frames to the port that were dropped.
    pub tx_dropped: u64,
}
