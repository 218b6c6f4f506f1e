//! `stats` and `drops`.

use std::collections::BTreeMap;

use clap::Args;
use serde::Serialize;
use weft_api::paths;
use weft_api::port::PortCounters;
use weft_api::report::{self, DropCount};

use super::{Verb, port};
use crate::render;
use crate::session::{Exit, Session};

/// Print the counters of the switch and of its ports
#[derive(Debug, Args)]
#[command(after_help = "\
`checksums_computed` and `superframes_cut` are 0 as long as only pods of this node talk by TCP.

Examples:
  weft stats
  weft stats web
  weft -o json stats | jq .totals.superframes_cut")]
pub(crate) struct Stats {
    /// Only the counters of this port
    port: Option<String>,
}

/// The switch's counters with the ports' beside them.
#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    switch: report::Stats,
    ports: BTreeMap<String, PortCounters>,
}

impl Verb for Stats {
    fn run(&self, session: &mut Session) -> anyhow::Result<Exit> {
        let ports = port::all(session)?;
        // As `fdb show` and `route show`; a port may have that name.
        let is_verb = |name: &&String| *name == "show" && !ports.iter().any(|port| port.spec.name == **name);
        if let Some(name) = self.port.as_ref().filter(|name| !is_verb(name)) {
            let counters = port::named(ports, name)?.counters;
            session.print(&counters, |counters| render_ports(&BTreeMap::from([(name.clone(), *counters)])));
            return Ok(Exit::Ok);
        }
        let switch: report::Stats = session.get(paths::STATS)?;
        let ports = ports.into_iter().map(|port| (port.spec.name, port.counters)).collect();
        session.print(&Report { switch, ports }, |report| {
            format!("{}\n{}", render_totals(&report.switch), render_ports(&report.ports))
        });
        Ok(Exit::Ok)
    }
}

/// Print what was dropped and why
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  weft drops")]
pub(crate) struct Drops {
    // As `fdb show` and `route show`.
    #[arg(hide = true, value_parser = ["show"])]
    show: Option<String>,
}

impl Verb for Drops {
    fn run(&self, session: &mut Session) -> anyhow::Result<Exit> {
        let mut drops = session.get::<report::Stats>(paths::STATS)?.drops;
        drops.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.reason.cmp(&b.reason)));
        session.print(&drops, |drops| render_drops(drops));
        Ok(Exit::Ok)
    }
}

fn render_totals(stats: &report::Stats) -> String {
    let dropped: u64 = stats.drops.iter().map(|drop| drop.count).sum();
    let mut fields: Vec<(&str, String)> =
        stats.totals.iter().map(|(name, count)| (name.as_str(), count.to_string())).collect();
    fields.push(("dropped", dropped.to_string()));
    fields.push(("workers busy", render::list(stats.worker_busy_permille.iter().map(render::permille))));
    render::fields("", &fields)
}

fn render_ports(ports: &BTreeMap<String, PortCounters>) -> String {
    let header = ["PORT", "RX FRAMES", "RX BYTES", "RX DROPPED", "TX FRAMES", "TX BYTES", "TX DROPPED"];
    render::table(
        header,
        &header[1..],
        ports.iter().map(|(name, c)| {
            let [a, b, d, e, f, g] =
                [c.rx_frames, c.rx_bytes, c.rx_dropped, c.tx_frames, c.tx_bytes, c.tx_dropped]
                    .map(|n| n.to_string());
            [name.clone(), a, b, d, e, f, g]
        }),
    )
}

fn render_drops(drops: &[DropCount]) -> String {
    if drops.is_empty() {
        return "nothing was dropped\n".to_owned();
    }
    render::table(
        ["COUNT", "REASON", "FROM (NAME COUNT)", "MEANING"],
        &["COUNT"],
        drops.iter().map(|drop| {
            let from = render::list(
                drop.ports.iter().chain(&drop.peers).map(|(from, count)| format!("{from} {count}")),
            );
            [drop.count.to_string(), drop.reason.clone(), from, drop.about.clone()]
        }),
    )
}
