//! `tunnel`.

use clap::Args;
use weft_api::paths;
use weft_api::report::TunnelEntry;

use super::Verb;
use crate::render;
use crate::session::{Exit, Session};

/// Print the tunnel's peers: what was sent, received, last heard
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  weft tunnel")]
pub(crate) struct Tunnel {
    /// Only the peer of this node name or underlay address
    #[arg(value_name = "NODE|ADDRESS")]
    peer: Option<String>,
}

impl Verb for Tunnel {
    fn run(&self, session: &mut Session) -> anyhow::Result<Exit> {
        let mut peers: Vec<TunnelEntry> = session.get(paths::TUNNELS)?;
        let is_called = |entry: &TunnelEntry, name: &String| {
            entry.node.as_ref() == Some(name) || entry.remote.to_string() == *name
        };
        // As `fdb show` and `route show`; a node may have that name.
        let is_verb = |name: &&String| *name == "show" && !peers.iter().any(|entry| is_called(entry, name));
        if let Some(name) = self.peer.as_ref().filter(|name| !is_verb(name)) {
            peers.retain(|entry| is_called(entry, name));
            anyhow::ensure!(!peers.is_empty(), "no peer is {name}; `weft tunnel` lists them");
        }
        peers.sort_by_key(|peer| (peer.vni, peer.remote, peer.udp_port));
        session.print(&peers, |peers| text(peers));
        Ok(Exit::Ok)
    }
}

fn text(peers: &[TunnelEntry]) -> String {
    render::table(
        [
            "NODE",
            "REMOTE",
            "PORT",
            "VNI",
            "MODE",
            "SENT",
            "SENT BYTES",
            "RECEIVED",
            "RECEIVED BYTES",
            "DROPPED",
            "LAST HEARD",
        ],
        &["PORT", "VNI", "SENT", "SENT BYTES", "RECEIVED", "RECEIVED BYTES", "DROPPED"],
        peers.iter().map(|peer| {
            [
                render::or_dash(peer.node.as_ref()),
                peer.remote.to_string(),
                peer.udp_port.to_string(),
                peer.vni.to_string(),
                if peer.layer2 { "layer 2" } else { "routed" }.to_owned(),
                peer.tx_packets.to_string(),
                peer.tx_bytes.to_string(),
                peer.rx_packets.to_string(),
                peer.rx_bytes.to_string(),
                peer.drops.values().sum::<u64>().to_string(),
                heard(peer),
            ]
        }),
    )
}

/// When the peer was last heard of, in words.
pub(super) fn heard(peer: &TunnelEntry) -> String {
    peer.last_heard_seconds
        .map_or_else(|| "never".to_owned(), |seconds| format!("{} ago", render::span(seconds)))
}
