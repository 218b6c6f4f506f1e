//! The cluster file, written from what Kubernetes says of its nodes.
//!
//! Input is `kubectl get nodes -o json`: a node's first InternalIP is its underlay address, its podCIDRs are its
//! prefixes. What an existing file says under `[cluster]`, and the `mac` of its nodes, is kept.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use weft_api::MacAddr;

/// Where the daemon looks for the cluster file unless told otherwise.
pub(crate) const DEFAULT_FILE: &str = "/etc/weft/cluster.toml";

const HEADER: &str = "\
# Pod networks of all nodes, read by weftd; a change takes effect at once.
# Written by `kubectl get nodes -o json | weft cluster import`, which keeps [cluster] and each node's mac.
";

/// Why the nodes cannot be imported.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error("stdin is not what `kubectl get nodes -o json` prints: {0}")]
    Json(serde_json::Error),
    #[error("stdin has an object of kind {0}, not nodes; give it what `kubectl get nodes -o json` prints")]
    Kind(String),
    #[error("there is not one node on stdin")]
    Empty,
    #[error("node {node} has no InternalIP in status.addresses; its kubelet must report one (--node-ip)")]
    NoAddress { node: String },
    #[error("node {node} has no podCIDR; run the controller manager with --allocate-node-cidrs")]
    NoCidr { node: String },
    #[error("node {node}: `{text}` is not {expected}")]
    Value { node: String, text: String, expected: &'static str },
    #[error("nodes {a} and {b} have the same {what} {value}")]
    Twice { a: String, b: String, what: &'static str, value: String },
    #[error("this machine shall be node {name}, which is not among {known}; name one of them with --node")]
    NoSuchNode { name: String, known: String },
    #[error("the existing file is not a cluster file: {0}; mend it or move it away")]
    Existing(toml::de::Error),
    #[error("cannot write the nodes as TOML: {0}")]
    Toml(toml::ser::Error),
    #[error("cannot read stdin: {0}")]
    Read(io::Error),
}

/// The file as TOML.
#[derive(Debug, Default, Serialize, Deserialize)]
struct File {
    /// Kept as it is, `node` apart.
    #[serde(default, skip_serializing_if = "toml::Table::is_empty")]
    cluster: toml::Table,
    #[serde(default)]
    node: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Node {
    name: String,
    underlay: IpAddr,
    pod_cidrs: Vec<IpNet>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    mac: Option<MacAddr>,
}

/// The text of the cluster file for the nodes in `json`; `existing` is the text of the file that is there, `own` the
/// node that this machine is. Also how many nodes there are.
pub(crate) fn import(
    json: &[u8],
    existing: Option<&str>,
    own: Option<&str>,
) -> Result<(String, usize), ClusterError> {
    let mut nodes = parse(json)?;
    let old: File = match existing {
        Some(text) => toml::from_str(text).map_err(ClusterError::Existing)?,
        None => File::default(),
    };
    let macs: BTreeMap<&str, MacAddr> =
        old.node.iter().filter_map(|node| Some((node.name.as_str(), node.mac?))).collect();
    for node in &mut nodes {
        node.mac = macs.get(node.name.as_str()).copied();
    }
    let mut cluster = old.cluster.clone();
    if let Some(name) = own {
        cluster.insert("node".to_owned(), name.into());
    }
    let own = cluster.get("node").and_then(toml::Value::as_str);
    if let Some(name) = own.filter(|name| !nodes.iter().any(|node| node.name == *name)) {
        let known = nodes.iter().map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ");
        return Err(ClusterError::NoSuchNode { name: name.to_owned(), known });
    }
    let count = nodes.len();
    let text = toml::to_string(&File { cluster, node: nodes }).map_err(ClusterError::Toml)?;
    Ok((format!("{HEADER}\n{text}"), count))
}

/// The part of a Kubernetes Node that matters here (core/v1).
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KubeNode {
    metadata: Metadata,
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Default, Deserialize)]
struct Spec {
    #[serde(rename = "podCIDR")]
    pod_cidr: Option<String>,
    #[serde(default, rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    addresses: Vec<Address>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(rename = "type")]
    kind: String,
    address: String,
}

/// Nodes by name, each with an address and a prefix, none twice.
fn parse(json: &[u8]) -> Result<Vec<Node>, ClusterError> {
    let mut value: serde_json::Value = serde_json::from_slice(json).map_err(ClusterError::Json)?;
    let items = match value["kind"].as_str() {
        Some("List" | "NodeList") => value["items"].take(),
        Some("Node") => serde_json::Value::Array(vec![value]),
        kind => return Err(ClusterError::Kind(kind.unwrap_or("unknown").to_owned())),
    };
    if let Some(kind) = items[0]["kind"].as_str().filter(|kind| *kind != "Node") {
        return Err(ClusterError::Kind(kind.to_owned()));
    }
    let items: Vec<KubeNode> = serde_json::from_value(items).map_err(ClusterError::Json)?;
    let mut nodes = items.into_iter().map(node).collect::<Result<Vec<Node>, _>>()?;
    if nodes.is_empty() {
        return Err(ClusterError::Empty);
    }
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    refuse_twice(&nodes)?;
    Ok(nodes)
}

fn node(item: KubeNode) -> Result<Node, ClusterError> {
    let name = item.metadata.name;
    let value =
        |text: &str, expected| ClusterError::Value { node: name.clone(), text: text.to_owned(), expected };
    let address = item.status.addresses.iter().find(|address| address.kind == "InternalIP");
    let Some(address) = address.map(|address| address.address.as_str()) else {
        return Err(ClusterError::NoAddress { node: name });
    };
    let underlay = address.parse().map_err(|_| value(address, "an IP address"))?;
    let mut cidrs = item.spec.pod_cidrs;
    if cidrs.is_empty() {
        cidrs.extend(item.spec.pod_cidr.filter(|cidr| !cidr.is_empty()));
    }
    if cidrs.is_empty() {
        return Err(ClusterError::NoCidr { node: name });
    }
    let pod_cidrs = cidrs
        .iter()
        .map(|cidr| cidr.parse().map_err(|_| value(cidr, "a prefix like 10.244.0.0/24")))
        .collect::<Result<_, _>>()?;
    Ok(Node { name, underlay, pod_cidrs, mac: None })
}

/// The daemon refuses a file where two nodes claim the same thing: better said here.
fn refuse_twice(nodes: &[Node]) -> Result<(), ClusterError> {
    for (at, a) in nodes.iter().enumerate() {
        for b in &nodes[at + 1..] {
            let twice =
                |what, value| ClusterError::Twice { a: a.name.clone(), b: b.name.clone(), what, value };
            if a.underlay == b.underlay {
                return Err(twice("InternalIP", a.underlay.to_string()));
            }
            if let Some(cidr) = a.pod_cidrs.iter().find(|cidr| b.pod_cidrs.contains(cidr)) {
                return Err(twice("podCIDR", cidr.to_string()));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
