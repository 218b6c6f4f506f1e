//! `flow dump`.

use clap::{Args, Subcommand};
use weft_api::paths;
use weft_api::report::FlowEntry;

use super::Verb;
use crate::render;
use crate::session::{Exit, Session};

/// The workers' flow caches
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  weft flow dump --limit 20")]
pub(crate) struct Flow {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the entries, those hit most first
    #[command(after_help = "Example:\n  weft flow dump --limit 20")]
    Dump {
        /// At most so many
        #[arg(long, default_value = "1000", value_name = "N")]
        limit: usize,
    },
}

impl Verb for Flow {
    fn run(&self, session: &mut Session) -> anyhow::Result<Exit> {
        let Action::Dump { limit } = &self.action;
        let mut flows: Vec<FlowEntry> = session.get(&format!("{}?limit={limit}", paths::FLOWS))?;
        flows.sort_by(|a, b| b.hits.cmp(&a.hits).then_with(|| a.key.cmp(&b.key)));
        session.print(&flows, |flows| text(flows));
        Ok(Exit::Ok)
    }
}

fn text(flows: &[FlowEntry]) -> String {
    render::table(
        ["WORKER", "IN", "FLOW", "HITS", "IDLE", "ACTIONS"],
        &["WORKER", "HITS"],
        flows.iter().map(|flow| {
            [
                flow.worker.to_string(),
                flow.ingress.clone(),
                flow.key.clone(),
                flow.hits.to_string(),
                render::span(flow.idle_seconds),
                flow.actions.clone(),
            ]
        }),
    )
}
