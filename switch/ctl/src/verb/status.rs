//! `status`.

use std::time::Duration;

use clap::Args;
use weft_api::{paths, report};

use super::Verb;
use crate::render;
use crate::session::{Exit, Session};

/// Print how the node is doing
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  weft status\n  weft status --wait 10 && echo ready")]
pub(crate) struct Status {
    /// Wait so long until the daemon is ready; fail if it is not by then
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
}

impl Verb for Status {
    fn run(&self, session: &mut Session) -> anyhow::Result<Exit> {
        let status = match self.wait {
            Some(seconds) => session.client()?.wait_ready(Duration::from_secs(seconds))?,
            None => session.get::<report::Status>(paths::STATUS)?,
        };
        session.print(&status, text);
        Ok(Exit::Ok)
    }
}

fn text(status: &report::Status) -> String {
    let mut fields = vec![
        ("daemon", headline(status)),
        ("node", render::or_dash(status.node.as_ref())),
        ("workers", workers(status)),
        ("ports", status.ports.to_string()),
        ("epoch", status.epoch.to_string()),
        ("overlay mtu", status.overlay_mtu.to_string()),
    ];
    if let Some(file) = &status.cluster.file {
        fields.push(("cluster", format!("{file}, {}", render::count(status.cluster.nodes, "node"))));
    }
    if let Some(error) = &status.cluster.error {
        fields.push(("cluster error", format!("{error}; the last good version stays in force")));
    }
    fields.extend(status.uplink.as_ref().map(|uplink| ("uplink", self::uplink(uplink))));
    for pool in &status.pools {
        // Of an IPv6 pool nobody counts the addresses.
        let free = if pool.free > u64::from(u32::MAX) { "many".to_owned() } else { pool.free.to_string() };
        fields.push(("pool", format!("{}, {} used, {free} free", pool.cidr, pool.used)));
    }
    for chain in &status.foreign_chains {
        fields.push(("foreign chain", format!("{chain} drops; rules of ours were added to it")));
    }
    for (name, old, new) in &status.sysctls {
        fields.push(("sysctl", format!("{name} {old} -> {new}")));
    }
    for reason in &status.degraded {
        fields.push(("degraded", reason.clone()));
    }
    render::fields("", &fields)
}

/// Which device, how, and how much.
fn uplink(uplink: &report::UplinkStatus) -> String {
    format!(
        "{}, {}{}, {}, {:.1} MB locked, {}; {} packets received, {} sent, {} dropped",
        uplink.device,
        render::xdp(&uplink.mode, uplink.zero_copy),
        if uplink.busy_poll { ", busy polling" } else { "" },
        render::count(uplink.queues, "queue"),
        uplink.memory as f64 / 1e6,
        render::count(uplink.peers, "peer"),
        uplink.rx_packets,
        uplink.tx_packets,
        uplink.rx_dropped
    )
}

/// How many, and how busy.
fn workers(status: &report::Status) -> String {
    if status.worker_busy_permille.is_empty() {
        return status.workers.to_string();
    }
    format!(
        "{}, busy {}",
        status.workers,
        render::list(status.worker_busy_permille.iter().map(render::permille))
    )
}

/// Version, process, age and readiness.
pub(super) fn headline(status: &report::Status) -> String {
    format!(
        "weftd {}, pid {}, up {}, {}",
        status.version,
        status.pid,
        render::span(status.uptime_seconds),
        if status.ready { "ready" } else { "not ready" }
    )
}
