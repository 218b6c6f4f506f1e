//! Bridges.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weft_encap::MacAddr;

use crate::port::Owner;

/// What is wanted of a bridge: a layer-2 segment with an optional router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BridgeSpec {
    /// Name, 1 to 15 characters of `[A-Za-z0-9_.-]`.
    pub name: String,
    /// Who made it; only the same owner may change or delete it.
    #[serde(default)]
    pub owner: Owner,
    /// The router's addresses on this bridge, with the prefix of the segment. Empty: no router.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub gateways: Vec<IpNet>,
    /// The router's MAC; derived from the bridge's name and first gateway when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub mac: Option<MacAddr>,
    /// MTU given to new ports, in bytes; absent: derived from the underlay.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// MTU in bytes between new ports of this bridge, where bigger than [`BridgeSpec::mtu`]: what has addresses in a subnet
    /// of the bridge's gateways gets a device of this MTU, and [`BridgeSpec::mtu`] on every route that leads out of these
    /// subnets. Not on a bridge that a `vxlan` port stretches to other nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_mtu: Option<u32>,
    /// Seconds after which an unused learned MAC is forgotten; 300 unless set (IEEE 802.1D).
    #[serde(default = "default_ageing")]
    pub ageing_seconds: u32,
    /// Most learned MACs of the bridge; the oldest of the port that holds most is evicted first.
    #[serde(default = "default_fdb_max")]
    pub fdb_max: u32,
    /// Frames per second that one port may have flooded (broadcast, unknown unicast, multicast); 0: no limit.
    #[serde(default = "default_flood_pps")]
    pub flood_pps: u32,
}

/// Default of [`BridgeSpec::ageing_seconds`].
pub const fn default_ageing() -> u32 {
    300
}

/// Default of [`BridgeSpec::fdb_max`].
pub const fn default_fdb_max() -> u32 {
    16_384
}

/// Default of [`BridgeSpec::flood_pps`].
pub const fn default_flood_pps() -> u32 {
    10_000
}

impl BridgeSpec {
    /// A bridge with the defaults.
    pub fn new(name: impl Into<String>, owner: Owner) -> Self {
        BridgeSpec {
            name: name.into(),
            owner,
            gateways: Vec::new(),
            mac: None,
            mtu: None,
            local_mtu: None,
            ageing_seconds: default_ageing(),
            fdb_max: default_fdb_max(),
            flood_pps: default_flood_pps(),
        }
    }
}

/// A bridge as it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BridgeInfo {
    /// What was asked for.
    pub spec: BridgeSpec,
    /// Names of its ports.
    pub ports: Vec<String>,
    /// The router's MAC in use, if there is a router.
    #[schema(value_type = Option<String>)]
    pub router_mac: Option<MacAddr>,
    /// How many MACs are learned now.
    pub fdb_learned: u64,
}
