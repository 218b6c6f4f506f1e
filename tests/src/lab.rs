//! Topologies: one node alone, or several joined by an underlay.

use std::fmt::Write;

use anyhow::Result;

use crate::node::Node;
use crate::ns::Namespace;

/// What a topology should be like.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of nodes.
    pub nodes: usize,
    /// MTU of the underlay.
    pub mtu: u32,
    /// The underlay's addresses are IPv6.
    pub underlay6: bool,
    /// Queues of each node's device.
    pub queues: usize,
    /// Lines of every node's `weft.toml`.
    pub config: String,
    /// Daemons run under `weft-keeper`, with these flags for it.
    pub keeper: Option<Vec<&'static str>>,
}

impl Default for Options {
    fn default() -> Self {
        Options { nodes: 2, mtu: 1500, underlay6: false, queues: 1, config: String::new(), keeper: None }
    }
}

/// Nodes on one underlay: a bridge in a namespace of its own, a veth to each node, offloads on.
#[derive(Debug)]
pub struct Lab {
    /// The nodes, `n1` first; their daemons run.
    pub nodes: Vec<Node>,
    /// The namespace of the underlay's bridge `u0`.
    pub underlay: Namespace,
    options: Options,
}

impl Lab {
    /// Nodes with running daemons; dual-stack pods.
    pub fn up(options: Options) -> Result<Self> {
        let mut lab = Lab::wired(options)?;
        let cluster = lab.cluster(lab.nodes.len());
        for node in &mut lab.nodes {
            node.write_cluster(&cluster)?;
            node.start()?;
        }
        Ok(lab)
    }

    /// The same without cluster file and daemons.
    pub fn wired(options: Options) -> Result<Self> {
        let underlay = Namespace::new("underlay")?;
        underlay.sh("ip link add u0 type bridge; ip link set u0 up")?;
        let mut nodes = Vec::new();
        for index in 1..=options.nodes {
            let mut node = Node::new(&format!("n{index}"))?;
            node.keeper.clone_from(&options.keeper);
            std::fs::write(node.file("weft.toml"), &options.config)?;
            join(&underlay, &node.ns, index, &options)?;
            nodes.push(node);
        }
        Ok(Lab { nodes, underlay, options })
    }

    /// Underlay address of a node, counted from 1.
    pub fn underlay_address(&self, index: usize) -> String {
        if self.options.underlay6 { format!("fd00:5::{index}") } else { format!("172.30.0.{index}") }
    }

    /// The text of a cluster file of so many nodes.
    pub fn cluster(&self, nodes: usize) -> String {
        let mut text = String::from("[cluster]\ncidrs = [\"10.244.0.0/16\", \"fd00:244::/48\"]\n");
        for index in 1..=nodes {
            let _ = write!(
                text,
                "\n[[node]]\nname = \"n{index}\"\nunderlay = \"{}\"\npod_cidrs = [\"10.244.{index}.0/24\", \"fd00:244:0:{index}::/64\"]\n",
                self.underlay_address(index)
            );
        }
        text
    }
}

/// Joins a host namespace to an underlay bridge by a veth `eth0` with both families' addresses.
pub fn join(underlay: &Namespace, host: &Namespace, index: usize, options: &Options) -> Result<()> {
    let (mtu, name) = (options.mtu, host.name());
    let queues = format!("numtxqueues {0} numrxqueues {0}", options.queues);
    underlay.sh(&format!(
        "ip link add v{index} mtu {mtu} {queues} type veth peer name eth0 mtu {mtu} {queues} netns {name}; ip link set v{index} master u0 up"
    ))?;
    host.sh(&format!(
        "ip addr add 172.30.0.{index}/24 dev eth0; ip addr add fd00:5::{index}/64 dev eth0 nodad; ip link set eth0 up"
    ))?;
    Ok(())
}
