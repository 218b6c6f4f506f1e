//! What more of everything costs: ports, nodes, forwarding entries, flows. Each size has a node of its own, without a past.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use weft_api::transaction::{RouteSpec, Via};
use weft_api::{BlockingClient, Command, Owner, Transaction};

use super::measure::{Value, small_datagrams};
use super::nodes::Nodes;
use super::peer::Peer;
use super::work::Way;
use super::{Plan, fdb};
use crate::histogram::median;

/// So many of something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scale {
    /// Pods of one node.
    Ports(u16),
    /// Other nodes.
    Nodes(u16),
    /// Learned entries of the forwarding database.
    Fdb(u32),
    /// Flows between two pods.
    Flows(u32),
}

/// All sizes.
pub(super) const SIZES: [Scale; 11] = [
    Scale::Ports(2),
    Scale::Ports(100),
    Scale::Ports(500),
    Scale::Nodes(1),
    Scale::Nodes(1000),
    Scale::Nodes(5000),
    Scale::Fdb(150_000),
    Scale::Flows(1),
    Scale::Flows(1000),
    Scale::Flows(100_000),
    Scale::Flows(1_000_000),
];

/// The bridge of pods.
const BRIDGE: &str = "br0";
/// Changes whose times are taken; the half of them takes back the other.
const CHANGES: usize = 40;
/// Datagrams that a sender sends at least, per second.
const LEAST_RATE: f64 = 250_000.0;
/// Datagrams of 64 bytes between two pods, time of one change, memory.
pub(super) fn measure(peer: &Peer, plan: &Plan, scale: Scale) -> anyhow::Result<Vec<Value>> {
    let value = |what, unit, value| Value {
        work: format!("{scale}-{what}"),
        unit,
        more_is_better: what == "udp64",
        value,
    };
    let flows = if let Scale::Flows(flows) = scale { flows } else { 1 };
    // Long enough for the sender to come to each flow.
    let time = plan.time.max(Duration::from_secs_f64(f64::from(flows) / LEAST_RATE));
    let traffic = |source: &str, destination: &str| {
        Ok::<_, anyhow::Error>(value("udp64", "kpps", small_datagrams(source, destination, flows, time)?))
    };
    if !peer.is_weft() {
        return Ok(vec![traffic(&peer.source(), &peer.destination(Way::SameNode))?]);
    }
    let (count, remotes) = if let Scale::Nodes(remotes) = scale { (2, remotes.into()) } else { (1, 1) };
    let mut nodes = Nodes::start(peer, &plan.bin_dir, count, remotes)?;
    let api = nodes.api(1)?;
    let ends = match scale {
        Scale::Fdb(stations) => {
            let pods = nodes.add_namespaces(1, 3)?;
            fdb::fill(&api, &pods, stations)?;
            [pods[0].clone(), pods[1].clone()]
        }
        Scale::Nodes(_) => [nodes.add_pods(1, 1)?.remove(0), nodes.add_pods(2, 1)?.remove(0)],
        Scale::Ports(_) | Scale::Flows(_) => {
            let count = if let Scale::Ports(ports) = scale { ports.into() } else { 2 };
            let mut pods = nodes.add_pods(1, count)?;
            [pods.remove(0), pods.pop().context("only one pod")?]
        }
    };
    let mut values = vec![traffic(&ends[0], &ends[1])?];
    if !matches!(scale, Scale::Flows(_)) {
        values.push(value("publish", "ms", publish(&api)?.as_secs_f64() * 1e3));
    }
    values.push(value("mb", "MB", nodes.memory()?));
    Ok(values)
}

/// Time of one change, from the request until all workers have it and the answer is here.
fn publish(api: &BlockingClient) -> anyhow::Result<Duration> {
    let dst = "198.18.0.0/24".parse()?;
    let route = RouteSpec { bridge: BRIDGE.to_owned(), dst, via: Via::Unreachable, owner: Owner::Cli };
    let changes = [
        Command::AddRoute { route, may_exist: false },
        Command::DelRoute { bridge: BRIDGE.to_owned(), dst, if_exists: false },
    ];
    let mut times = Vec::new();
    for change in changes.iter().cycle().take(CHANGES) {
        let transaction = Transaction { commands: vec![change.clone()] };
        let begun = Instant::now();
        api.transaction(&transaction)?;
        times.push(begun.elapsed().as_secs_f64());
    }
    Ok(Duration::from_secs_f64(median(times).context("no change was made")?))
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scale::Ports(ports) => write!(f, "scale-{ports}-ports"),
            Scale::Nodes(nodes) => write!(f, "scale-{nodes}-nodes"),
            Scale::Fdb(entries) => write!(f, "scale-{}-fdb", Short(*entries)),
            Scale::Flows(flows) => write!(f, "scale-{}-flows", Short(*flows)),
        }
    }
}

/// 1000, 100k, 1m.
struct Short(u32);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            number if number >= 1_000_000 && number.is_multiple_of(1_000_000) => {
                write!(f, "{}m", number / 1_000_000)
            }
            number if number >= 10_000 && number.is_multiple_of(1000) => write!(f, "{}k", number / 1000),
            number => write!(f, "{number}"),
        }
    }
}
