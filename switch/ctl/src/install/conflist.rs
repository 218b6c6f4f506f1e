//! The conflist's text.
//!
//! `cniVersion` is 1.0.0, which every runtime reads; newer ones choose the best of `cniVersions`. 1.1.0 is among them
//! only if every plugin of the list speaks it: one that does not refuses each pod with code 1.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use serde_json::Value;

use super::{InstallError, Ipam, Options, PLUGIN};

/// The version with STATUS and GC.
pub(crate) const LATEST: &str = "1.1.0";

/// A network configuration list (SPEC.md section 1).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Conflist {
    cni_version: &'static str,
    pub(crate) cni_versions: Vec<String>,
    name: String,
    plugins: Vec<Entry>,
}

/// One plugin of the list.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(rename = "type")]
    kind: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    socket: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue_dir: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bridge: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mtu: Option<u32>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    capabilities: BTreeMap<&'static str, bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    snat: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ipam: Option<Value>,
}

impl Conflist {
    /// As JSON.
    pub(crate) fn text(&self) -> String {
        // Strings, booleans and JSON values with string keys: always serialises.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

/// Refuses options that no list can be made of.
pub(super) fn check(options: &Options) -> Result<(), InstallError> {
    let value = |what, text: &str, expected| InstallError::Value { what, text: text.to_owned(), expected };
    if !is_name(&options.name) {
        return Err(value(
            "network name",
            &options.name,
            "letters, digits, `_`, `.`, `-`, a letter or digit first",
        ));
    }
    for (at, name) in options.chain.iter().enumerate() {
        let expected = match name.as_str() {
            PLUGIN => "it is always the first of the list",
            "bandwidth" => "it needs a veth pair, which ports of weft have not",
            _ if options.chain[..at].contains(name) => "it is in the chain already",
            _ if !is_name(name) => "expected a plugin's name like portmap",
            _ => continue,
        };
        return Err(value("chained plugin", name, expected));
    }
    if let Some(bridge) = options.bridge.as_ref().filter(|bridge| bridge.is_empty() || bridge.len() > 15) {
        return Err(value(
            "bridge",
            bridge,
            "expected a name of 1 to 15 characters; `weft list-br` lists them",
        ));
    }
    match ipam_type(&options.ipam) {
        Some(name) if !is_name(name) => {
            Err(value("IPAM plugin", name, "expected a plugin's name like host-local"))
        }
        _ => Ok(()),
    }
}

/// The list; with 1.1.0 if `modern`.
pub(super) fn make(options: &Options, ipam: Option<Value>, modern: bool) -> Conflist {
    let mut versions = vec!["0.4.0".to_owned(), "1.0.0".to_owned()];
    if modern {
        versions.push(LATEST.to_owned());
    }
    let own = Entry {
        kind: PLUGIN.to_owned(),
        socket: options.socket.clone(),
        queue_dir: options.queue_dir.clone(),
        bridge: options.bridge.clone(),
        mtu: options.mtu,
        capabilities: BTreeMap::from([("ips", true), ("mac", true), ("dns", true)]),
        ipam,
        ..Entry::default()
    };
    let chained = options.chain.iter().map(|name| chained(name));
    Conflist {
        cni_version: "1.0.0",
        cni_versions: versions,
        name: options.name.clone(),
        plugins: std::iter::once(own).chain(chained).collect(),
    }
}

/// The type of the delegated plugin, if there is one.
pub(super) fn ipam_type(ipam: &Ipam) -> Option<&str> {
    match ipam {
        Ipam::BuiltIn => None,
        Ipam::Plugin(name) => Some(name),
        Ipam::Object(object) => object["type"].as_str().filter(|name| !name.is_empty() && *name != "weft"),
    }
}

fn chained(name: &str) -> Entry {
    let kind = name.to_owned();
    match name {
        "portmap" => Entry {
            kind,
            capabilities: BTreeMap::from([("portMappings", true)]),
            snat: Some(true),
            ..Entry::default()
        },
        _ => Entry { kind, ..Entry::default() },
    }
}

/// SPEC.md section 1: names of networks; those of plugins are file names of the same kind.
fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}
