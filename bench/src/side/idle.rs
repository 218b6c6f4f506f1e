//! What a node costs whose pods do nothing.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Plan;
use super::measure::Value;
use super::nodes::Nodes;
use super::peer::Peer;

/// Pods.
const PORTS: usize = 100;
/// Until the kernels of new pods have asked for routers and told of their groups: four seconds apart, three times.
const QUIET: Duration = Duration::from_secs(10);
/// Shortest time over which CPU time is taken.
const LEAST: Duration = Duration::from_secs(20);

/// CPU time and memory of a daemon with [`PORTS`] pods.
pub(super) fn measure(peer: &Peer, plan: &Plan) -> anyhow::Result<Vec<Value>> {
    let mut nodes = Nodes::start(peer, &plan.bin_dir, 1, 1)?;
    nodes.add_pods(1, PORTS)?;
    sleep(QUIET);
    let (begun, before) = (Instant::now(), nodes.cpu()?);
    sleep(plan.time.max(LEAST));
    let percent = 100.0 * (nodes.cpu()? - before).as_secs_f64() / begun.elapsed().as_secs_f64();
    let value = |what, unit, value| Value {
        work: format!("idle-{what}-{PORTS}-ports"),
        unit,
        more_is_better: false,
        value,
    };
    Ok(vec![value("cpu", "% of a CPU", percent), value("mb", "MB", nodes.memory()?)])
}
