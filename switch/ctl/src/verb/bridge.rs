//! `add-br`, `del-br`, `list-br`, `br-exists`.

use clap::Args;
use weft_api::{BridgeInfo, BridgeSpec, Command, Owner, paths};

use super::Verb;
use crate::keys::{self, Setting};
use crate::session::{Exit, Session, UsageError};

/// Make a bridge
#[derive(Debug, Args)]
#[command(after_help = "\
Settings:
  gateway=ADDRESS/PREFIX   address of the bridge's router; repeat it or list with commas
  mac=MAC                  the router's MAC
  mtu=BYTES                MTU of new ports
  local-mtu=BYTES          MTU of new ports towards each other, up to 65521; other routes have mtu
  ageing-seconds=N         after which a learned MAC is forgotten (300)
  fdb-max=N                most learned MACs (16384)
  flood-pps=N              frames per second that one port may have flooded (10000); 0: no limit

Examples:
  weft add-br lan
  weft --may-exist add-br br1 gateway=10.1.0.1/24,fd00:1::1/64 mtu=1400")]
pub(crate) struct AddBr {
    /// Its name
    bridge: String,
    /// Settings of the form key=value
    #[arg(value_name = "KEY=VALUE")]
    settings: Vec<Setting>,
    /// An existing bridge with these settings is no error
    #[arg(long)]
    may_exist: bool,
}

impl Verb for AddBr {
    fn plan(&self, commands: &mut Vec<Command>) -> Result<(), UsageError> {
        let mut bridge = BridgeSpec::new(&self.bridge, Owner::Cli);
        for setting in &self.settings {
            keys::apply_to_bridge(&mut bridge, setting)?;
        }
        commands.push(Command::AddBridge { bridge, may_exist: self.may_exist });
        Ok(())
    }
}

/// Delete a bridge and its ports
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  weft --if-exists del-br br0")]
pub(crate) struct DelBr {
    /// Its name
    bridge: String,
    /// A missing bridge is no error
    #[arg(long)]
    if_exists: bool,
}

impl Verb for DelBr {
    fn plan(&self, commands: &mut Vec<Command>) -> Result<(), UsageError> {
        commands.push(Command::DelBridge { name: self.bridge.clone(), if_exists: self.if_exists });
        Ok(())
    }
}

/// Print the bridges' names
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  weft list-br")]
pub(crate) struct ListBr {}

impl Verb for ListBr {
    fn run(&self, session: &mut Session) -> anyhow::Result<Exit> {
        let mut names: Vec<String> = all(session)?.into_iter().map(|bridge| bridge.spec.name).collect();
        names.sort();
        session.print(&names, |names| names.iter().map(|name| format!("{name}\n")).collect());
        Ok(Exit::Ok)
    }
}

/// Exit with 0 if a bridge exists, with 2 if not
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  weft br-exists br0 || weft add-br br0")]
pub(crate) struct BrExists {
    /// Its name
    bridge: String,
}

impl Verb for BrExists {
    fn run(&self, session: &mut Session) -> anyhow::Result<Exit> {
        let found = all(session)?.iter().any(|bridge| bridge.spec.name == self.bridge);
        Ok(if found { Exit::Ok } else { Exit::Usage })
    }
}

/// All bridges.
pub(super) fn all(session: &mut Session) -> anyhow::Result<Vec<BridgeInfo>> {
    Ok(session.get(paths::BRIDGES)?)
}

/// The bridge of that name.
pub(super) fn find(session: &mut Session, name: &str) -> anyhow::Result<BridgeInfo> {
    let bridges = all(session)?;
    bridges
        .into_iter()
        .find(|bridge| bridge.spec.name == name)
        .ok_or_else(|| anyhow::anyhow!("no bridge is named {name}; `weft list-br` lists them"))
}
