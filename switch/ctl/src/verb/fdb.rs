//! `fdb show|add|del|flush`.

use std::net::IpAddr;

use clap::{Args, Subcommand};
use weft_api::report::FdbEntry;
use weft_api::{Command, MacAddr, VlanId, paths};

use super::{Verb, bridge};
use crate::render;
use crate::session::{Exit, Session, UsageError};

/// MAC addresses of a bridge and the ports they are behind
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  weft fdb show br0")]
pub(crate) struct Fdb {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the entries
    #[command(after_help = "Example:\n  weft fdb show br0")]
    Show {
        /// Only of this bridge
        bridge: Option<String>,
    },
    /// Add a static entry, which never moves or ages
    #[command(
        after_help = "Examples:\n  weft fdb add br0 02:00:00:00:00:05 web\n  weft fdb add br0 02:00:00:00:00:07 vx0 --remote 192.0.2.7"
    )]
    Add {
        /// The bridge
        bridge: String,
        /// The station
        mac: MacAddr,
        /// The port it is behind
        port: String,
        /// Its VLAN; absent: untagged
        #[arg(long)]
        vlan: Option<VlanId>,
        /// Behind a vxlan port: the peer's underlay address
        #[arg(long)]
        remote: Option<IpAddr>,
    },
    /// Delete a static entry, or forget a learned one
    #[command(after_help = "Example:\n  weft --if-exists fdb del br0 02:00:00:00:00:05")]
    Del {
        /// The bridge
        bridge: String,
        /// The station
        mac: MacAddr,
        /// Its VLAN; absent: untagged
        #[arg(long)]
        vlan: Option<VlanId>,
        /// A missing entry is no error
        #[arg(long)]
        if_exists: bool,
    },
    /// Forget all learned entries of a bridge, or of one of its ports
    #[command(after_help = "Example:\n  weft fdb flush br0 web")]
    Flush {
        /// The bridge
        bridge: String,
        /// Only those behind this port
        port: Option<String>,
    },
}

impl Verb for Fdb {
    fn plan(&self, commands: &mut Vec<Command>) -> Result<(), UsageError> {
        commands.push(match &self.action {
            Action::Show { .. } => return Ok(()),
            Action::Add { bridge, mac, port, vlan, remote } => Command::AddFdb {
                bridge: bridge.clone(),
                vlan: *vlan,
                mac: *mac,
                port: port.clone(),
                remote: *remote,
            },
            Action::Del { bridge, mac, vlan, if_exists } => {
                Command::DelFdb { bridge: bridge.clone(), vlan: *vlan, mac: *mac, if_exists: *if_exists }
            }
            Action::Flush { bridge, port } => {
                Command::FlushFdb { bridge: bridge.clone(), port: port.clone() }
            }
        });
        Ok(())
    }

    fn run(&self, session: &mut Session) -> anyhow::Result<Exit> {
        let Action::Show { bridge } = &self.action else { return Ok(Exit::Ok) };
        if let Some(name) = bridge {
            bridge::find(session, name)?;
        }
        let mut entries: Vec<FdbEntry> = session.get(paths::FDB)?;
        entries.retain(|entry| bridge.as_ref().is_none_or(|name| *name == entry.bridge));
        entries.sort_by(|a, b| (&a.bridge, a.vlan, a.mac).cmp(&(&b.bridge, b.vlan, b.mac)));
        session.print(&entries, |entries| text(entries));
        Ok(Exit::Ok)
    }
}

fn text(entries: &[FdbEntry]) -> String {
    render::table(
        ["BRIDGE", "VLAN", "MAC", "PORT", "REMOTE", "OWNER", "AGE"],
        &[],
        entries.iter().map(|entry| {
            [
                entry.bridge.clone(),
                render::or_dash(entry.vlan),
                entry.mac.to_string(),
                entry.port.clone(),
                render::or_dash(entry.remote),
                match entry.owner {
                    None if !entry.is_static => "learned".to_owned(),
                    // A daemon of an earlier version does not say whose.
                    owner => render::or_dash(owner),
                },
                if entry.is_static { "static".to_owned() } else { render::span(entry.age_seconds) },
            ]
        }),
    )
}
