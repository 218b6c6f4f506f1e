//! `upgrade`.

use std::path::PathBuf;

use clap::Args;
use weft_api::{UpgradeReply, UpgradeRequest};

use super::Verb;
use crate::session::{Exit, Session};

/// Let a new process take the switch over, losing no packet
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  weft upgrade\n  weft upgrade --binary /usr/local/bin/weftd.new")]
pub(crate) struct Upgrade {
    /// The daemon's new program [default: the file that it was started from, as it is now]
    #[arg(long, value_name = "PATH")]
    binary: Option<PathBuf>,
}

impl Verb for Upgrade {
    fn run(&self, session: &mut Session) -> anyhow::Result<Exit> {
        // The daemon's own directory is not this one.
        let binary = self.binary.as_ref().map(std::path::absolute).transpose()?;
        let reply = session.upgrade(&UpgradeRequest { binary })?;
        session.print(&reply, text);
        Ok(Exit::Ok)
    }
}

fn text(reply: &UpgradeReply) -> String {
    format!("weftd {}, pid {}, forwards\n", reply.version, reply.pid)
}
