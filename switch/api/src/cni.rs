//! Messages of the plugin's socket (SOCK_SEQPACKET): one [`Request`] with its descriptors, one [`Reply`].
//! Closing the connection before the reply hangs up: an ADD in progress is rolled back.
//!
//! Descriptors, in order: for ADD and CHECK [`Request::netns_fds`] = 2: the network namespace, and an O_PATH
//! descriptor of the directory that holds its path (to watch the name die). DEL sends none or two.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_encap::MacAddr;

use crate::port::PodRoute;

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
    /// Drop every attachment of the network but these.
    Gc {
        /// The network's name.
        network: String,
        /// Those that live.
        valid: Vec<ContainerInterface>,
    },
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
