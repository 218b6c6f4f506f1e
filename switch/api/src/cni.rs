//! Messages of the plugin's socket (SOCK_SEQPACKET): one [`Request`] with its descriptors, one [`Reply`].
//! Closing the connection before the reply hangs up: an ADD in progress is rolled back.
//!
//! Descriptors, in order: the network namespace, and an O_PATH descriptor of the directory that holds its path (to
//! watch the name die). ADD and CHECK send both, DEL both or none (the namespace may be gone), the others none.
//!
//! A DEL that finds no daemon is left in a directory ([`DEFAULT_DEL_QUEUE`] unless told otherwise) as a file
//! [`Attachment::queue_file`] that holds the [`Attachment`] as JSON. The daemon replays those files at start, before it
//! accepts an ADD, and removes each once done. Other names in the directory (temporary files) are not its own.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_encap::MacAddr;

use crate::port::{PodRoute, PortKind};

/// Where DELs wait for the daemon unless told otherwise.
pub const DEFAULT_DEL_QUEUE: &str = "/var/lib/weft/cni-del";

/// CNI's error codes (SPEC.md section "Error").
pub mod code {
    /// The configuration's version is not supported.
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    /// A field of the configuration is not supported.
    pub const UNSUPPORTED_FIELD: u32 = 2;
    /// The container is unknown or does not exist.
    pub const UNKNOWN_CONTAINER: u32 = 3;
    /// A `CNI_*` variable is missing or invalid.
    pub const INVALID_ENVIRONMENT: u32 = 4;
    /// Reading or writing failed.
    pub const IO: u32 = 5;
    /// A text does not decode.
    pub const DECODE: u32 = 6;
    /// The network's configuration is invalid.
    pub const INVALID_CONFIG: u32 = 7;
    /// The network namespace is unusable.
    pub const INVALID_NETNS: u32 = 8;
    /// Cannot be done now; try again.
    pub const TRY_AGAIN: u32 = 11;
    /// STATUS: ADD cannot be served.
    pub const UNAVAILABLE: u32 = 50;
    /// STATUS: ADD cannot be served, and containers of the network are limited.
    pub const UNAVAILABLE_LIMITED: u32 = 51;
    /// Anything else.
    pub const INTERNAL: u32 = 999;
}

/// What the plugin asks of the daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "lowercase", deny_unknown_fields)]
pub enum Request {
    /// Wire a container in.
    Add(Box<Attach>),
    /// Take it out; succeeds whatever is missing.
    Del {
        /// Which attachment.
        attachment: Attachment,
    },
    /// Is it as ADD left it?
    Check {
        /// Which attachment.
        attachment: Attachment,
        /// The addresses that prevResult names for the interface.
        ips: Vec<IpNet>,
        /// The MAC that prevResult names for the interface.
        mac: Option<MacAddr>,
        /// The routes that prevResult names.
        routes: Vec<PodRoute>,
    },
    /// Can an ADD be served now?
    Status {
        /// The network's name.
        network: String,
        /// True if addresses come from a delegated plugin.
        delegated_ipam: bool,
    },
    /// Drop every attachment of the network but these; without a list, those whose link is gone.
    Gc {
        /// The network's name.
        network: String,
        /// Those that live. Absent: the runtime did not say, which is not the same as "none".
        #[serde(default)]
        valid: Option<Vec<ContainerInterface>>,
    },
}

impl Request {
    /// The verb as CNI_COMMAND spells it.
    pub const fn verb(&self) -> &'static str {
        match self {
            Request::Add(_) => "ADD",
            Request::Del { .. } => "DEL",
            Request::Check { .. } => "CHECK",
            Request::Status { .. } => "STATUS",
            Request::Gc { .. } => "GC",
        }
    }

    /// True if the message must carry the two descriptors of the namespace.
    pub const fn needs_netns(&self) -> bool {
        matches!(self, Request::Add(_) | Request::Check { .. })
    }
}

/// One container's interface in one network.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Attachment {
    /// Name of the network (the configuration list's `name`).
    pub network: String,
    /// CNI_CONTAINERID.
    pub container_id: String,
    /// CNI_IFNAME.
    pub ifname: String,
}

impl Attachment {
    /// Name of the file that holds a queued DEL: 16 hexadecimal digits (FNV-1a of the three names) and `.json`.
    pub fn queue_file(&self) -> String {
        let text = format!("{}\0{}\0{}", self.network, self.container_id, self.ifname);
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        format!("{hash:016x}.json")
    }
}

/// A container's interface, as GC lists it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContainerInterface {
    /// CNI_CONTAINERID.
    pub container_id: String,
    /// CNI_IFNAME.
    pub ifname: String,
}

/// What ADD asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    /// Which attachment.
    pub attachment: Attachment,
    /// CNI_NETNS verbatim, for the record and for watching its name.
    pub netns: String,
    /// Bridge to join; absent: the configured default.
    #[serde(default)]
    pub bridge: Option<String>,
    /// MAC asked for (`MAC=`, capability `mac`).
    #[serde(default)]
    pub mac: Option<MacAddr>,
    /// MTU asked for in the network's configuration.
    #[serde(default)]
    pub mtu: Option<u32>,
    /// What the port is to be made of (`portType`): `tap` or `afxdp`. An older daemon knows only the first, unsaid.
    #[serde(default, skip_serializing_if = "PortKind::is_default")]
    pub kind: PortKind,
    /// Where addresses come from.
    pub ipam: Ipam,
    /// `namespace` and `pod` from CNI_ARGS, when a kubelet asks.
    #[serde(default)]
    pub pod_namespace: Option<String>,
    /// Name of the pod.
    #[serde(default)]
    pub pod_name: Option<String>,
}

/// Where a container's addresses come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Ipam {
    /// The daemon's own pools; `wanted` addresses (`IP=`, capability `ips`) are given or refused.
    BuiltIn {
        /// Addresses asked for.
        #[serde(default)]
        wanted: Vec<IpAddr>,
    },
    /// A delegated plugin has given these.
    Delegated {
        /// Addresses with prefix.
        ips: Vec<DelegatedIp>,
        /// Routes.
        #[serde(default)]
        routes: Vec<PodRoute>,
    },
}

/// An address from a delegated plugin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DelegatedIp {
    /// Address and prefix.
    pub address: IpNet,
    /// Its gateway, if the plugin names one.
    #[serde(default)]
    pub gateway: Option<IpAddr>,
}

/// What the daemon answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Reply {
    /// ADD took effect: packets flow.
    Added(Added),
    /// DEL, CHECK, STATUS or GC succeeded.
    Ok,
    /// It failed.
    Error(CniError),
}

/// The result of an ADD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Added {
    /// Name of the port in the switch.
    pub port: String,
    /// MAC of the container's interface.
    pub mac: MacAddr,
    /// MTU of the container's interface, in bytes.
    pub mtu: u32,
    /// Addresses, IPv4 first.
    pub ips: Vec<DelegatedIp>,
    /// Routes set in the namespace.
    pub routes: Vec<PodRoute>,
}

/// An error with its CNI code (SPEC.md section "Error"): 3 unknown container, 4 bad environment, 5 I/O, 7 bad
/// configuration, 8 namespace, 11 try again, 50 unavailable, 51 unavailable and existing pods limited, 999 internal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{msg}")]
#[serde(deny_unknown_fields)]
pub struct CniError {
    /// The CNI error code.
    pub code: u32,
    /// One line.
    pub msg: String,
    /// What helps to mend it.
    #[serde(default)]
    pub details: String,
}

impl CniError {
    /// An error of a code of [`code`].
    pub fn new(code: u32, msg: impl Into<String>) -> Self {
        CniError { code, msg: msg.into(), details: String::new() }
    }

    /// The same with a hint.
    #[must_use]
    pub fn with_details(mut self, details: impl Into<String>) -> Self {
        self.details = details.into();
        self
    }
}
