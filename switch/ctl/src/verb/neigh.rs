//! `neigh show|add|del`.

use std::net::IpAddr;

use clap::{Args, Subcommand};
use weft_api::report::NeighbourEntry;
use weft_api::{Command, MacAddr, paths};

use super::{Verb, bridge};
use crate::render;
use crate::session::{Exit, Session, UsageError};

/// Neighbours of a bridge's router: addresses and the ports they are behind
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  weft neigh show br0")]
pub(crate) struct Neigh {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the neighbours
    #[command(after_help = "Example:\n  weft neigh show br0")]
    Show {
        /// Only of this bridge
        bridge: Option<String>,
    },
    /// Add a static neighbour
    #[command(after_help = "Example:\n  weft neigh add br0 10.1.0.9 02:00:00:00:00:09 web")]
    Add {
        /// The bridge
        bridge: String,
        /// The address
        ip: IpAddr,
        /// Its station
        mac: MacAddr,
        /// The port it is behind
        port: String,
    },
    /// Delete a static neighbour
    #[command(after_help = "Example:\n  weft --if-exists neigh del br0 10.1.0.9")]
    Del {
        /// The bridge
        bridge: String,
        /// The address
        ip: IpAddr,
        /// A missing neighbour is no error
        #[arg(long)]
        if_exists: bool,
    },
}

impl Verb for Neigh {
    fn plan(&self, commands: &mut Vec<Command>) -> Result<(), UsageError> {
        commands.push(match &self.action {
            Action::Show { .. } => return Ok(()),
            Action::Add { bridge, ip, mac, port } => {
                Command::AddNeighbour { bridge: bridge.clone(), ip: *ip, mac: *mac, port: port.clone() }
            }
            Action::Del { bridge, ip, if_exists } => {
                Command::DelNeighbour { bridge: bridge.clone(), ip: *ip, if_exists: *if_exists }
            }
        });
        Ok(())
    }

    fn run(&self, session: &mut Session) -> anyhow::Result<Exit> {
        let Action::Show { bridge } = &self.action else { return Ok(Exit::Ok) };
        if let Some(name) = bridge {
            bridge::find(session, name)?;
        }
        let mut entries: Vec<NeighbourEntry> = session.get(paths::NEIGHBOURS)?;
        entries.retain(|entry| bridge.as_ref().is_none_or(|name| *name == entry.bridge));
        entries.sort_by(|a, b| (&a.bridge, a.ip).cmp(&(&b.bridge, b.ip)));
        session.print(&entries, |entries| text(entries));
        Ok(Exit::Ok)
    }
}

fn text(entries: &[NeighbourEntry]) -> String {
    render::table(
        ["BRIDGE", "ADDRESS", "MAC", "PORT", "OWNER", "AGE"],
        &[],
        entries.iter().map(|entry| {
            [
                entry.bridge.clone(),
                entry.ip.to_string(),
                entry.mac.to_string(),
                entry.port.clone(),
                entry.owner.map_or_else(|| "learned".to_owned(), |owner| owner.to_string()),
                if entry.owner.is_some() { "-".to_owned() } else { render::span(entry.age_seconds) },
            ]
        }),
    )
}
