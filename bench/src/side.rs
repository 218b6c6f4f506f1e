//! Side by side: the same work over weft, the kernel's bridge and VXLAN, and other userspace switches, in one run and in
//! turns, so that whatever else the machine does hits all alike. What counts is the ratio.
//!
//! Each switch has a lab of its own (`scripts/lab.sh`): two pods on a node, and a third on another node. All labs are up
//! all the time; the programs of those whose turn it is not are stopped.

mod cni;
mod fdb;
mod idle;
mod measure;
mod namespaces;
mod nodes;
mod peer;
mod report;
mod scale;
mod work;

use std::path::PathBuf;
use std::time::Duration;

pub use peer::Peer;
pub use report::{Row, Table};
pub use scale::Scale;
pub use work::{Work, works};

/// What is to be measured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// In this order.
    pub works: Vec<Work>,
    /// Rounds over all works and peers; the first does not count.
    pub rounds: usize,
    /// Length of one measurement of traffic.
    pub time: Duration,
    /// What takes long (CNI, idle, scale) is done in one round only, the second.
    pub quick: bool,
    /// Where the binaries are that the lab of weft runs.
    pub bin_dir: PathBuf,
}

/// Measures everything; a work that a peer cannot do is left out for it, with a word to stderr.
///
/// # Errors
/// A peer's programs cannot be stopped or continued.
pub fn run(peers: &[Peer], plan: &Plan) -> anyhow::Result<Table> {
    let mut table = Table::new(peers.iter().map(|peer| peer.name().to_owned()).collect());
    peers.iter().try_for_each(Peer::rest)?;
    let result = rounds(peers, plan, &mut table);
    // Whoever ends them later must find them running.
    peers.iter().try_for_each(Peer::wake)?;
    result.map(|()| table)
}

fn rounds(peers: &[Peer], plan: &Plan, table: &mut Table) -> anyhow::Result<()> {
    // What could not be done once is not tried again, and what needs the same neither.
    let mut left_out: Vec<(&str, Work)> = Vec::new();
    for round in 0..plan.rounds {
        eprintln!("round {} of {}{}", round + 1, plan.rounds, if round == 0 { ", not counted" } else { "" });
        for work in plan.works.iter().filter(|work| round == 1 || !(plan.quick && work.is_long())) {
            for turn in 0..peers.len() {
                let peer = &peers[(turn + round) % peers.len()];
                let is_out = |(name, failed): &(&str, Work)| *name == peer.name() && failed.implies(work);
                if !peer.can(work) || left_out.iter().any(is_out) {
                    continue;
                }
                peer.wake()?;
                let values = measure::measure(peer, work, plan).and_then(|values| {
                    let nothing = values.iter().all(|value| value.value == 0.0);
                    anyhow::ensure!(!nothing, "nothing came through");
                    Ok(values)
                });
                peer.rest()?;
                match values {
                    Ok(values) if round > 0 => table.add(peer.name(), values),
                    Ok(_) => {}
                    Err(error) => {
                        eprintln!("left out: {work} over {}: {}", peer.name(), first_line(&error));
                        left_out.push((peer.name(), *work));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Without the backtraces of programs that failed.
fn first_line(error: &anyhow::Error) -> String {
    format!("{error:#}").lines().next().unwrap_or_default().to_owned()
}
