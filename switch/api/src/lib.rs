//! What the outside says to `weftd` and hears from it.
//!
//! Two doors: the control API (HTTP/1.1 + JSON on `/run/weft/weft.sock`, paths in [`paths`]) and the plugin's socket
//! (SOCK_SEQPACKET on `/run/weft/cni.sock`, one JSON [`cni::Request`] with its descriptors, one JSON [`cni::Reply`]).
//! Both carry the types below; unknown fields are errors.
#![forbid(unsafe_code)]

/// A bridge: what is wanted and what is there.
pub mod bridge;
/// The client of the control API.
pub mod client;
/// Messages of the plugin's socket.
pub mod cni;
/// Client of the plugin's socket.
pub mod cni_client;
/// Errors as they cross the API.
pub mod error;
/// Ports: what is wanted and what is there.
pub mod port;
/// Prefixes as people type them.
mod prefix;
/// What the daemon reports: status, counters, tables.
pub mod report;
/// Changes: commands, all or nothing.
pub mod transaction;
/// The planned upgrade.
pub mod upgrade;

pub use bridge::{BridgeInfo, BridgeSpec};
pub use client::{BlockingClient, Client, ClientError};
pub use error::{ApiError, Code};
pub use port::{Owner, PortInfo, PortKind, PortSpec, PortState};
pub use prefix::prefix;
pub use transaction::{Command, Outcome, Transaction, TransactionReply};
pub use upgrade::{UpgradeReply, UpgradeRequest};
pub use weft_encap::{MacAddr, VlanId, Vni};

/// Paths of the control API, for server and clients alike.
pub mod paths {
    /// `GET`: [`crate::report::Status`].
    pub const STATUS: &str = "/v1/status";
    /// `GET`: list of [`crate::BridgeInfo`].
    pub const BRIDGES: &str = "/v1/bridges";
    /// `GET`: list of [`crate::PortInfo`].
    pub const PORTS: &str = "/v1/ports";
    /// `GET`: list of [`crate::report::FdbEntry`].
    pub const FDB: &str = "/v1/fdb";
    /// `GET`: list of [`crate::report::RouteEntry`].
    pub const ROUTES: &str = "/v1/routes";
    /// `GET`: list of [`crate::report::NeighbourEntry`].
    pub const NEIGHBOURS: &str = "/v1/neighbours";
    /// `GET`: list of [`crate::report::TunnelEntry`].
    pub const TUNNELS: &str = "/v1/tunnels";
    /// `GET`: list of [`crate::report::FlowEntry`] of the workers' caches (bounded; `?limit=N`).
    pub const FLOWS: &str = "/v1/flows";
    /// `GET`: [`crate::report::Stats`].
    pub const STATS: &str = "/v1/stats";
    /// `POST` [`crate::Transaction`]: [`crate::TransactionReply`].
    pub const TRANSACTION: &str = "/v1/transaction";
    /// `POST` [`crate::UpgradeRequest`]: [`crate::UpgradeReply`], once another process forwards.
    pub const UPGRADE: &str = "/v1/upgrade";
    /// `GET`: the OpenAPI document.
    pub const OPENAPI: &str = "/openapi.json";
}

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/weft/weft.sock";
/// Where the daemon listens for the CNI plugin unless told otherwise.
pub const DEFAULT_CNI_SOCKET: &str = "/run/weft/cni.sock";
/// Largest body or message accepted, in bytes.
pub const MAX_BODY: usize = 1 << 20;
