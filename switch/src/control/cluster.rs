//! The static cluster file: which nodes there are, by which underlay address each is reached, which pods live there.
//!
//! ```toml
//! [cluster]                  # optional
//! cidrs = ["10.244.0.0/16"]  # default: the union of the nodes' pod_cidrs
//! vni = 1                    # default: the configuration's
//! port = 4789                # default: the configuration's
//! node = "n1"                # this node; default: the entry with a local underlay address
//!
//! [[node]]
//! name = "n1"
//! underlay = "172.30.0.11"
//! pod_cidrs = ["10.244.0.0/24", "fd00:10:244::/64"]
//! mac = "02:00:00:00:00:01"  # VTEP MAC; default: derived from the underlay address and the VNI
//! ```
//!
//! A [`Cluster`] exists only if it is consistent: names, underlay addresses and MACs are unique, pod CIDRs are
//! networks that overlap nowhere. Every error names its line.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::net::IpAddr;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::Deserialize;
use toml::Spanned;
use weft_encap::{MacAddr, Vni};

/// Largest cluster file read, in bytes: some ten thousand nodes.
pub const MAX_FILE: u64 = 8 << 20;

/// All nodes, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Prefixes of all pods, on this node and others.
    pub cidrs: Vec<IpNet>,
    /// The VNI of routed traffic between nodes; `None`: the configuration's.
    pub vni: Option<Vni>,
    /// The UDP port of VXLAN; `None`: the configuration's.
    pub port: Option<u16>,
    /// Name of this node, if the file gives it.
    pub node: Option<String>,
    /// The nodes in the order of the file.
    pub nodes: Vec<Node>,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// Where its VXLAN packets go to and come from.
    pub underlay: IpAddr,
    /// Prefixes of its pods.
    pub pod_cidrs: Vec<IpNet>,
    /// Its VTEP MAC, if the file names one; see [`Node::vtep_mac`].
    pub mac: Option<MacAddr>,
}

/// What is wrong with a cluster file, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct ClusterError {
    /// Line, counted from 1.
    pub line: usize,
    /// What is wrong and what is expected.
    pub message: String,
}

impl ClusterError {
    /// `file:line: message`, as `weft status` shows it.
    pub fn in_file(&self, file: &Path) -> String {
        format!("{}:{}: {}", file.display(), self.line, self.message)
    }
}

/// Why no entry, or no single one, is this node's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OwnError {
    /// The name given does not occur.
    #[error("no [[node]] is named `{0}`; expected one of: {1}")]
    NoSuchName(String, String),
    /// No underlay address of the file is local.
    #[error("no [[node]] has an underlay address of this machine; add one, or name it with `node = \"...\"`")]
    NoneLocal,
    /// More than one entry has a local address.
    #[error("underlay addresses of nodes {0} are all local; say which one this is with `node = \"...\"`")]
    Ambiguous(String),
}

impl Cluster {
    /// Reads the text of a cluster file.
    pub fn parse(text: &str) -> Result<Cluster, ClusterError> {
        let lines = Lines::new(text);
        let raw: RawFile = toml::from_str(text).map_err(|error| {
            let span = error.span().unwrap_or(0..0);
            let message = error.message().trim().replace('\n', ", ");
            // The parser tells of a bad value what it is, not whose.
            let expected = match lines.key_at(lines.line(&span)) {
                Some("vni") => "; vni is a number from 1 to 16777215",
                Some("port") => "; port is a number from 1 to 65535",
                _ => "",
            };
            lines.error(span, format!("{message}{expected}"))
        })?;
        check(raw, &lines)
    }

    /// This node's entry: by `name` if given, else by the file's `node`, else the one whose underlay address is
    /// among `local`.
    pub fn own(&self, name: Option<&str>, local: &[IpAddr]) -> Result<&Node, OwnError> {
        if let Some(name) = name.or(self.node.as_deref()) {
            return self
                .nodes
                .iter()
                .find(|node| node.name == name)
                .ok_or_else(|| OwnError::NoSuchName(name.to_owned(), names(self.nodes.iter())));
        }
        let found: Vec<&Node> = self.nodes.iter().filter(|node| local.contains(&node.underlay)).collect();
        match found[..] {
            [] => Err(OwnError::NoneLocal),
            [node] => Ok(node),
            _ => Err(OwnError::Ambiguous(names(found.iter().copied()))),
        }
    }

    /// All nodes but the one called `own`.
    pub fn peers<'a>(&'a self, own: &'a str) -> impl Iterator<Item = &'a Node> {
        self.nodes.iter().filter(move |node| node.name != own)
    }
}

impl Node {
    /// The router's addresses on this node: the first usable one of each pod CIDR, with the CIDR's prefix.
    pub fn gateways(&self) -> Vec<IpNet> {
        self.pod_cidrs.iter().map(first_usable).collect()
    }

    /// Its VTEP MAC: the one that the file names, else derived, on every node alike, from the address in the file.
    pub fn vtep_mac(&self, vni: Vni) -> MacAddr {
        self.mac.unwrap_or_else(|| MacAddr::vtep(self.underlay, vni))
    }
}

/// The first usable address of a CIDR (its network address plus one), with the CIDR's prefix.
pub fn first_usable(cidr: &IpNet) -> IpNet {
    match cidr {
        IpNet::V4(net) => {
            let ip = u32::from(net.network()).saturating_add(1).into();
            Ipv4Net::new(ip, net.prefix_len()).map_or(*cidr, IpNet::V4)
        }
        IpNet::V6(net) => {
            let ip = u128::from(net.network()).saturating_add(1).into();
            Ipv6Net::new(ip, net.prefix_len()).map_or(*cidr, IpNet::V6)
        }
    }
}

/// Notices when a file changes, by what `stat(2)` says about it; reads it then.
#[derive(Debug)]
pub struct FileWatch {
    path: PathBuf,
    seen: Option<Stamp>,
}

/// What of `stat(2)` tells one version of a file from another.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

impl FileWatch {
    /// A watch of `path`, of which nothing was seen yet.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        FileWatch { path: path.into(), seen: None }
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file's text if it changed since the last call, or why it cannot be read (told once). A missing file is an
    /// error like any other. Errors repeat only after the file changed again.
    pub fn poll(&mut self) -> Option<io::Result<String>> {
        let stamp = match fs::metadata(&self.path) {
            Ok(meta) => stamp(&meta),
            Err(error) => {
                let gone = (0, 0, 0, 0, 0, 0, i64::from(error.raw_os_error().unwrap_or(-1)));
                return (self.seen.replace(gone) != Some(gone)).then_some(Err(error));
            }
        };
        if self.seen.replace(stamp) == Some(stamp) {
            return None;
        }
        Some(read(&self.path))
    }
}

fn stamp(meta: &fs::Metadata) -> Stamp {
    let (dev, ino, len) = (meta.dev(), meta.ino(), meta.len());
    (dev, ino, len, meta.mtime(), meta.mtime_nsec(), meta.ctime(), meta.ctime_nsec())
}

/// The text of a cluster file, refused above [`MAX_FILE`].
pub fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = fs::File::open(path)?.take(MAX_FILE + 1).read_to_string(&mut text)? as u64;
    if read > MAX_FILE {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("is longer than {MAX_FILE} bytes")));
    }
    Ok(text)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    cluster: RawCluster,
    #[serde(default)]
    node: Vec<Spanned<RawNode>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCluster {
    #[serde(default)]
    cidrs: Vec<Spanned<String>>,
    vni: Option<Spanned<u32>>,
    port: Option<Spanned<u16>>,
    node: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawNode {
    name: Spanned<String>,
    underlay: Spanned<String>,
    pod_cidrs: Spanned<Vec<Spanned<String>>>,
    mac: Option<Spanned<String>>,
}

/// A file's text and where its lines end: every node of thousands is asked for its line.
struct Lines<'a> {
    text: &'a str,
    ends: Vec<usize>,
}

impl<'a> Lines<'a> {
    fn new(text: &'a str) -> Self {
        Lines { text, ends: text.match_indices('\n').map(|(at, _)| at).collect() }
    }

    fn line(&self, span: &Range<usize>) -> usize {
        1 + self.ends.partition_point(|end| *end < span.start)
    }

    /// The key that is set in `line`, counted from 1.
    fn key_at(&self, line: usize) -> Option<&str> {
        Some(self.text.lines().nth(line - 1)?.split_once('=')?.0.trim())
    }

    fn error(&self, span: Range<usize>, message: impl Into<String>) -> ClusterError {
        ClusterError { line: self.line(&span), message: message.into() }
    }
}

fn check(raw: RawFile, lines: &Lines<'_>) -> Result<Cluster, ClusterError> {
    let vni = raw.cluster.vni.map(|value| {
        let message = format!("{} is not a VNI (1 to 16777215)", value.as_ref());
        Vni::new(*value.as_ref()).ok_or_else(|| lines.error(value.span(), message))
    });
    let vni = vni.transpose()?;
    let port = match raw.cluster.port {
        Some(value) if *value.as_ref() == 0 => {
            return Err(lines.error(value.span(), "0 is not a UDP port; expected 1 to 65535"));
        }
        other => other.map(Spanned::into_inner),
    };
    let mut cidrs = Vec::new();
    for text in &raw.cluster.cidrs {
        cidrs.push(parse_cidr(text, lines)?);
    }
    let nodes = check_nodes(raw.node, &cidrs, lines)?;
    if let Some(name) = &raw.cluster.node
        && !nodes.iter().any(|node| node.name == *name.as_ref())
    {
        let message =
            format!("no [[node]] is named `{}`; expected one of: {}", name.as_ref(), names(nodes.iter()));
        return Err(lines.error(name.span(), message));
    }
    if cidrs.is_empty() {
        cidrs = nodes.iter().flat_map(|node| node.pod_cidrs.iter().copied()).collect();
    }
    let cidrs = IpNet::aggregate(&cidrs);
    Ok(Cluster { cidrs, vni, port, node: raw.cluster.node.map(Spanned::into_inner), nodes })
}

fn check_nodes(
    raw: Vec<Spanned<RawNode>>,
    cidrs: &[IpNet],
    lines: &Lines<'_>,
) -> Result<Vec<Node>, ClusterError> {
    let mut nodes = Vec::with_capacity(raw.len());
    let mut unique = Unique { lines, seen: HashMap::new() };
    // Line and owner of each pod CIDR, for the overlap check below.
    let mut prefixes: Vec<(IpNet, usize, String)> = Vec::new();
    for entry in raw {
        let raw = entry.into_inner();
        let name = parse_name(&raw.name, lines)?;
        unique.insert("node", &name, &raw.name.span())?;
        let underlay = parse_underlay(&raw.underlay, lines)?;
        unique.insert("underlay address", &underlay.to_string(), &raw.underlay.span())?;
        let mac = raw.mac.as_ref().map(|text| parse_mac(text, lines)).transpose()?;
        if let (Some(mac), Some(text)) = (mac, &raw.mac) {
            unique.insert("MAC", &mac.to_string(), &text.span())?;
        }
        if raw.pod_cidrs.as_ref().is_empty() {
            return Err(lines.error(
                raw.pod_cidrs.span(),
                format!("node `{name}` has no pod CIDR; expected at least one"),
            ));
        }
        let mut pod_cidrs = Vec::new();
        for text in raw.pod_cidrs.as_ref() {
            let cidr = parse_cidr(text, lines)?;
            if !cidrs.is_empty() && !cidrs.iter().any(|outer| outer.contains(&cidr)) {
                return Err(lines.error(text.span(), format!("{cidr} is in none of the cluster's `cidrs`")));
            }
            prefixes.push((cidr, lines.line(&text.span()), name.clone()));
            pod_cidrs.push(cidr);
        }
        nodes.push((Node { name, underlay, pod_cidrs, mac }, raw.underlay.span()));
    }
    check_overlap(&mut prefixes)?;
    for (node, span) in &nodes {
        // They are sorted and overlap nowhere: only the last that begins before it can contain it.
        let behind = prefixes.partition_point(|(cidr, ..)| cidr.network() <= node.underlay);
        let nearest = behind.checked_sub(1).map(|at| prefixes[at].0);
        if let Some(cidr) =
            nearest.into_iter().chain(cidrs.iter().copied()).find(|c| c.contains(&node.underlay))
        {
            let message = format!(
                "underlay address {} lies in the pods' {cidr}; packets to it would loop",
                node.underlay
            );
            return Err(lines.error(span.clone(), message));
        }
    }
    Ok(nodes.into_iter().map(|(node, _)| node).collect())
}

struct Unique<'a> {
    lines: &'a Lines<'a>,
    seen: HashMap<String, usize>,
}

impl Unique<'_> {
    fn insert(&mut self, what: &str, value: &str, span: &Range<usize>) -> Result<(), ClusterError> {
        let line = self.lines.line(span);
        match self.seen.insert(format!("{what} {value}"), line) {
            None => Ok(()),
            Some(first) => {
                let message = format!("{what} {value} is used by the node at line {first} already");
                Err(ClusterError { line, message })
            }
        }
    }
}

/// Sorted by address, two prefixes overlap only if one does with its predecessor's chain of containers; since
/// disjoint so far, comparing neighbours is enough.
fn check_overlap(prefixes: &mut [(IpNet, usize, String)]) -> Result<(), ClusterError> {
    prefixes.sort_by_key(|(cidr, line, _)| (cidr.network(), cidr.prefix_len(), *line));
    for pair in prefixes.windows(2) {
        let ((a, line_a, node_a), (b, line_b, node_b)) = (&pair[0], &pair[1]);
        if a.contains(b) || b.contains(a) {
            let (line, cidr, other, node, at) =
                if line_a > line_b { (line_a, a, b, node_b, line_b) } else { (line_b, b, a, node_a, line_a) };
            let message = format!("{cidr} overlaps {other} of node `{node}` at line {at}");
            return Err(ClusterError { line: *line, message });
        }
    }
    Ok(())
}

fn parse_name(text: &Spanned<String>, lines: &Lines<'_>) -> Result<String, ClusterError> {
    let name = text.as_ref();
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 253 || !name.chars().all(ok) {
        let message =
            format!("`{name}` is not a node's name; expected 1 to 253 characters of [A-Za-z0-9_.-]");
        return Err(lines.error(text.span(), message));
    }
    Ok(name.clone())
}

fn parse_underlay(text: &Spanned<String>, lines: &Lines<'_>) -> Result<IpAddr, ClusterError> {
    let bad = |why: &str| {
        lines.error(text.span(), format!("`{}` {why}; expected an address like 192.0.2.1", text.as_ref()))
    };
    let ip: IpAddr = text.as_ref().parse().map_err(|_| bad("is not an IP address"))?;
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some(),
    };
    if ip.is_unspecified() || ip.is_multicast() || link_local {
        return Err(bad("cannot be a node's underlay address"));
    }
    Ok(ip)
}

fn parse_mac(text: &Spanned<String>, lines: &Lines<'_>) -> Result<MacAddr, ClusterError> {
    let mac =
        MacAddr::from_str(text.as_ref()).map_err(|error| lines.error(text.span(), error.to_string()))?;
    if !mac.is_unicast() {
        return Err(lines.error(
            text.span(),
            format!("{mac} is a group address; expected a station's, like 02:00:5e:10:00:01"),
        ));
    }
    Ok(mac)
}

fn parse_cidr(text: &Spanned<String>, lines: &Lines<'_>) -> Result<IpNet, ClusterError> {
    let bad = |why: String| lines.error(text.span(), why);
    let text_ = text.as_ref();
    let cidr: IpNet = text_
        .parse()
        .map_err(|_| bad(format!("`{text_}` is not a prefix; expected one like 10.244.1.0/24")))?;
    if cidr != cidr.trunc() {
        return Err(bad(format!("{cidr} has host bits set; expected {}", cidr.trunc())));
    }
    let too_long = cidr.max_prefix_len() - cidr.prefix_len() < 2;
    let network = cidr.network();
    if too_long || network.is_multicast() || network.is_loopback() || cidr.prefix_len() == 0 {
        return Err(bad(format!(
            "{cidr} cannot hold pods; expected a unicast prefix of four addresses or more"
        )));
    }
    Ok(cidr)
}

fn names<'a>(nodes: impl Iterator<Item = &'a Node>) -> String {
    nodes.map(|node| node.name.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests;
