//! `cluster show|import`.

use std::io::{ErrorKind, IsTerminal, Read};
use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde::Serialize;
use weft_api::paths;
use weft_api::report;
use weft_api::report::{ClusterStatus, TunnelEntry};

use super::{Verb, tunnel};
use crate::cluster::{self, ClusterError};
use crate::install::file;
use crate::render;
use crate::session::{Exit, Session};

/// Nodes of the cluster
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  weft cluster show")]
pub(crate) struct Cluster {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the nodes as the daemon sees them
    #[command(after_help = "Example:\n  weft cluster show")]
    Show,
    /// Write the cluster file from `kubectl get nodes -o json` on stdin
    #[command(after_help = "\
Settings of an existing file's [cluster] and its nodes' `mac` are kept. The daemon takes the new file at once.

Examples:
  kubectl get nodes -o json | weft cluster import
  kubectl get nodes -o json | weft cluster import --node n1 -o /etc/weft/cluster.toml")]
    Import {
        /// Name of the node that this machine is; absent: found by local address
        #[arg(long, value_name = "NAME")]
        node: Option<String>,
        /// The file; also as -o FILE, where FILE is not table or json
        #[arg(long, value_name = "FILE", env = "WEFT_CLUSTER", hide_env_values = true,
            default_value = cluster::DEFAULT_FILE)]
        file: PathBuf,
    },
}

impl Verb for Cluster {
    fn run(&self, session: &mut Session) -> anyhow::Result<Exit> {
        match &self.action {
            Action::Show => show(session)?,
            Action::Import { node, file } => import(session, node.as_deref(), file)?,
        }
        Ok(Exit::Ok)
    }
}

fn import(session: &mut Session, node: Option<&str>, path: &PathBuf) -> anyhow::Result<()> {
    let mut stdin = std::io::stdin();
    if stdin.is_terminal() {
        anyhow::bail!("nothing on stdin; run `kubectl get nodes -o json | weft cluster import`");
    }
    let mut json = Vec::new();
    stdin.read_to_end(&mut json).map_err(ClusterError::Read)?;
    let existing = match std::fs::read_to_string(path) {
        Ok(text) => Some(text),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let (text, count) = cluster::import(&json, existing.as_deref(), node)
        .with_context(|| format!("{} is left as it was", path.display()))?;
    file::write(path, text.as_bytes(), 0o644)?;
    let report = Imported { file: path.display().to_string(), nodes: count };
    session.print(&report, |report| {
        format!("{} written to {}\n", render::count(report.nodes, "node"), report.file)
    });
    Ok(())
}

#[derive(Serialize)]
struct Imported {
    file: String,
    nodes: usize,
}

/// The cluster as the daemon sees it.
#[derive(Serialize)]
struct Report {
    node: Option<String>,
    cluster: ClusterStatus,
    peers: Vec<TunnelEntry>,
}

fn show(session: &mut Session) -> anyhow::Result<()> {
    let status: report::Status = session.get(paths::STATUS)?;
    let mut peers: Vec<TunnelEntry> = session.get(paths::TUNNELS)?;
    peers.retain(|peer| !peer.layer2);
    peers.sort_by(|a, b| (&a.node, a.remote).cmp(&(&b.node, b.remote)));
    session.print(&Report { node: status.node, cluster: status.cluster, peers }, text);
    Ok(())
}

fn text(report: &Report) -> String {
    let mut fields = vec![
        ("file", render::or_dash(report.cluster.file.as_ref())),
        ("nodes", report.cluster.nodes.to_string()),
        ("this node", render::or_dash(report.node.as_ref())),
    ];
    if let Some(error) = &report.cluster.error {
        fields.push(("error", format!("{error}; the last good version stays in force")));
    }
    let peers = render::table(
        ["NODE", "UNDERLAY", "VNI", "VTEP MAC", "POD CIDRS", "LAST HEARD"],
        &["VNI"],
        report.peers.iter().map(|peer| {
            [
                render::or_dash(peer.node.as_ref()),
                peer.remote.to_string(),
                peer.vni.to_string(),
                render::or_dash(peer.mac),
                render::list(&peer.prefixes),
                tunnel::heard(peer),
            ]
        }),
    );
    format!("{}\n{peers}", render::fields("", &fields))
}
