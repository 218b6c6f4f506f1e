//! Changes: a list of commands that take effect together or not at all.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use weft_encap::{MacAddr, VlanId, Vni};

use crate::bridge::BridgeSpec;
use crate::error::ApiError;
use crate::port::{Owner, PortSpec};

/// One change. `may_exist` and `if_exists` mean what they mean to ovs-vsctl.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "do", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// Makes a bridge. With `may_exist`, an existing one of the same owner is left as it is.
    AddBridge {
        /// The bridge.
        bridge: BridgeSpec,
        /// An existing one is no error.
        #[serde(default)]
        may_exist: bool,
    },
    /// Deletes a bridge and its ports.
    DelBridge {
        /// Its name.
        name: String,
        /// A missing one is no error.
        #[serde(default)]
        if_exists: bool,
    },
    /// Makes a port. With `may_exist`, an existing one on the same bridge is left as it is.
    AddPort {
        /// The port.
        port: Box<PortSpec>,
        /// An existing one is no error.
        #[serde(default)]
        may_exist: bool,
    },
    /// Deletes a port.
    DelPort {
        /// Its bridge, when the caller insists on one.
        #[serde(default)]
        bridge: Option<String>,
        /// Its name.
        name: String,
        /// A missing one is no error.
        #[serde(default)]
        if_exists: bool,
    },
    /// Sets a bridge's setting: `mtu`, `ageing_seconds`, `fdb_max`, `flood_pps`, `gateways` (comma-separated), `mac`.
    SetBridge {
        /// The bridge.
        name: String,
        /// The setting.
        key: String,
        /// Its value as text; empty clears (back to the default).
        value: String,
    },
    /// Sets a port's setting: `tag`, `trunks`, `guard` (`true` or `false`), `ips`, `mac`, `mtu`, `remotes`,
    /// `external_ids:KEY`. Lists are comma-separated.
    SetPort {
        /// The port.
        name: String,
        /// The setting.
        key: String,
        /// Its value as text; empty clears.
        value: String,
    },
    /// Adds a static FDB entry, which never moves.
    AddFdb {
        /// The bridge.
        bridge: String,
        /// The VLAN; absent: untagged.
        #[serde(default)]
        #[schema(value_type = Option<u16>)]
        vlan: Option<VlanId>,
        /// The station.
        #[schema(value_type = String)]
        mac: MacAddr,
        /// The port it is behind.
        port: String,
        /// With a `vxlan` port: the peer it is behind.
        #[serde(default)]
        #[schema(value_type = Option<String>)]
        remote: Option<IpAddr>,
    },
    /// Deletes a static FDB entry, or forgets a learned one.
    DelFdb {
        /// The bridge.
        bridge: String,
        /// The VLAN; absent: untagged.
        #[serde(default)]
        #[schema(value_type = Option<u16>)]
        vlan: Option<VlanId>,
        /// The station.
        #[schema(value_type = String)]
        mac: MacAddr,
        /// A missing one is no error.
        #[serde(default)]
        if_exists: bool,
    },
    /// Forgets all learned entries of a bridge, or of one of its ports.
    FlushFdb {
        /// The bridge.
        bridge: String,
        /// Only those behind this port.
        #[serde(default)]
        port: Option<String>,
    },
    /// Adds a route to a bridge's router.
    AddRoute {
        /// The route.
        route: RouteSpec,
        /// An existing equal one is no error.
        #[serde(default)]
        may_exist: bool,
    },
    /// Deletes a route.
    DelRoute {
        /// The bridge.
        bridge: String,
        /// The destination.
        #[schema(value_type = String)]
        dst: IpNet,
        /// A missing one is no error.
        #[serde(default)]
        if_exists: bool,
    },
    /// Adds a static neighbour of a bridge's router: an address that is behind a port.
    AddNeighbour {
        /// The bridge.
        bridge: String,
        /// The address.
        #[schema(value_type = String)]
        ip: IpAddr,
        /// Its station.
        #[schema(value_type = String)]
        mac: MacAddr,
        /// The port it is behind.
        port: String,
    },
    /// Deletes a static neighbour.
    DelNeighbour {
        /// The bridge.
        bridge: String,
        /// The address.
        #[schema(value_type = String)]
        ip: IpAddr,
        /// A missing one is no error.
        #[serde(default)]
        if_exists: bool,
    },
}

/// A route of a bridge's router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RouteSpec {
    /// The bridge.
    pub bridge: String,
    /// Destination prefix.
    #[schema(value_type = String)]
    pub dst: IpNet,
    /// Where it leads.
    pub via: Via,
    /// Who made it.
    #[serde(default)]
    pub owner: Owner,
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Via {
    /// The segment of the bridge: the destination itself is a neighbour.
    Local,
    /// The node's own stack, by its internal port.
    Node,
    /// A neighbour on the bridge that forwards.
    Gateway {
        /// Its address.
        #[schema(value_type = String)]
        ip: IpAddr,
    },
    /// Another node, by VXLAN (flannel's layer-3 convention).
    Tunnel {
        /// Underlay address of the peer.
        #[schema(value_type = String)]
        remote: IpAddr,
        /// The VNI; absent: the cluster's.
        #[serde(default)]
        #[schema(value_type = Option<u32>)]
        vni: Option<Vni>,
        /// The peer's VTEP MAC; absent: derived from `remote` and the VNI.
        #[serde(default)]
        #[schema(value_type = Option<String>)]
        mac: Option<MacAddr>,
        /// The peer's UDP port; absent: the cluster's.
        #[serde(default)]
        udp_port: Option<u16>,
    },
    /// Nothing: packets are dropped and the sender is told.
    Unreachable,
}

/// A list of changes that take effect together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Transaction {
    /// In order; a later command sees the earlier ones' effect.
    pub commands: Vec<Command>,
}

/// What a command did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It changed something.
    Done,
    /// What it asked for was so already.
    Unchanged,
}

/// The answer to a transaction that took effect. One that did not is answered by an [`ApiError`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TransactionReply {
    /// One per command.
    pub outcomes: Vec<Outcome>,
    /// The snapshot in which the change is in force; every worker has it.
    pub epoch: u64,
}

/// The result of a transaction.
pub type TransactionResult = Result<TransactionReply, ApiError>;
