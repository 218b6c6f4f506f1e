//! The verbs, one file per group. Every file has the same order: arguments with their help and example, what the verb
//! changes ([`Verb::plan`]), what it prints ([`Verb::run`]), then rendering.

mod bridge;
mod cluster;
mod cni;
mod completions;
mod fdb;
mod flow;
mod neigh;
mod port;
mod route;
mod setting;
mod show;
mod stats;
mod status;
mod tunnel;
mod upgrade;

use clap::Subcommand;
use weft_api::Command;

use crate::session::{Exit, Session, UsageError};

/// What a verb does.
pub(crate) trait Verb {
    /// Adds the changes it asks for to the line's transaction; none if it only reads.
    fn plan(&self, _commands: &mut Vec<Command>) -> Result<(), UsageError> {
        Ok(())
    }

    /// What it does after the transaction took effect: nothing if it only changes.
    fn run(&self, _session: &mut Session) -> anyhow::Result<Exit> {
        Ok(Exit::Ok)
    }
}

macro_rules! verbs {
    ($($(#[$attr:meta])* $name:ident($args:ty),)*) => {
        /// All verbs.
        #[derive(Debug, Subcommand)]
        pub(crate) enum Verbs {
            $($(#[$attr])* $name($args),)*
        }

        impl Verbs {
            /// The verb behind the name.
            pub(crate) fn verb(&self) -> &dyn Verb {
                match self {
                    $(Verbs::$name(args) => args,)*
                }
            }
        }
    };
}

verbs! {
    Show(show::Show),
    Status(status::Status),
    AddBr(bridge::AddBr),
    DelBr(bridge::DelBr),
    ListBr(bridge::ListBr),
    BrExists(bridge::BrExists),
    AddPort(port::AddPort),
    DelPort(port::DelPort),
    #[command(alias = "list-ifaces")]
    ListPorts(port::ListPorts),
    #[command(alias = "iface-to-br")]
    PortToBr(port::PortToBr),
    Set(setting::Set),
    Get(setting::Get),
    Fdb(fdb::Fdb),
    Route(route::Route),
    Neigh(neigh::Neigh),
    Tunnel(tunnel::Tunnel),
    Flow(flow::Flow),
    Stats(stats::Stats),
    Drops(stats::Drops),
    Upgrade(upgrade::Upgrade),
    Cluster(cluster::Cluster),
    Cni(cni::Cni),
    Completions(completions::Completions),
}
