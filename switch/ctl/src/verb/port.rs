//! `add-port`, `del-port`, `list-ports`, `port-to-br`.

use clap::Args;
use weft_api::{Command, Owner, PortInfo, PortKind, PortSpec, paths};

use super::{Verb, bridge};
use crate::keys::{self, Setting};
use crate::session::{Exit, Session, UsageError};

/// Add a port to a bridge
#[derive(Debug, Args)]
#[command(after_help = "\
Settings:
  type=tap|afxdp|vxlan      what it is made of (tap)
  netns=NAME|PATH|PID       namespace of the device; absent: the daemon's own
  ifname=NAME               name of the device in its namespace (eth0)
  mac=MAC                   its MAC
  ip=ADDRESS/PREFIX         its address; repeat it or list with commas
  gateway=ADDRESS|none      default gateway; absent: the bridge's router
  route=PREFIX[@GATEWAY]    a further route in the namespace; repeat it or list with commas
  mtu=BYTES                 its MTU; absent: the bridge's
  tag=VLAN                  VLAN of its untagged frames
  trunks=VLAN,...           VLANs that it may send and get tagged
  guard=on|off              senders must use the port's own addresses (on)
  offloads-off=NAME,...     of csum, tso4, tso6, ecn, uso, all
  queues=N                  queues of the device, 1 to 16
  vni=N                     of a vxlan port: the segment's VNI
  remote=ADDRESS            of a vxlan port: a peer; repeat it or list with commas
  udp-port=N                of a vxlan port: UDP port (4789)
  external_ids:KEY=TEXT     a note on what the port is for

Examples:
  weft add-port br0 web type=tap netns=web ip=10.1.0.5/24
  weft add-port br0 db netns=$(podman inspect -f '{{.State.Pid}}' db) ip=10.1.0.6/24,fd00:1::6/64
  weft add-port br0 vx0 type=vxlan vni=42 remote=192.0.2.7,192.0.2.8")]
pub(crate) struct AddPort {
    /// The bridge
    bridge: String,
    /// Name of the port, unique on the node
    port: String,
    /// Settings of the form key=value
    #[arg(value_name = "KEY=VALUE")]
    settings: Vec<Setting>,
    /// An existing port on that bridge with these settings is no error
    #[arg(long)]
    may_exist: bool,
}

impl Verb for AddPort {
    fn plan(&self, commands: &mut Vec<Command>) -> Result<(), UsageError> {
        let mut port = PortSpec::new(&self.port, &self.bridge, PortKind::Tap, Owner::Cli);
        for setting in &self.settings {
            keys::apply_to_port(&mut port, setting)?;
        }
        commands.push(Command::AddPort { port: Box::new(port), may_exist: self.may_exist });
        Ok(())
    }
}

/// Delete a port
#[derive(Debug, Args)]
#[command(
    override_usage = "weft del-port [OPTIONS] [BRIDGE] PORT",
    after_help = "Examples:\n  weft del-port web\n  weft --if-exists del-port br0 web"
)]
pub(crate) struct DelPort {
    /// The port, behind the bridge that it must be on, if that matters
    #[arg(required = true, num_args = 1..=2, value_names = ["BRIDGE", "PORT"])]
    names: Vec<String>,
    /// A missing port is no error
    #[arg(long)]
    if_exists: bool,
}

impl Verb for DelPort {
    fn plan(&self, commands: &mut Vec<Command>) -> Result<(), UsageError> {
        let (bridge, name) = match self.names.as_slice() {
            [name] => (None, name),
            [bridge, name] => (Some(bridge.clone()), name),
            _ => return Err(UsageError::new("del-port takes [BRIDGE] PORT")),
        };
        commands.push(Command::DelPort { bridge, name: name.clone(), if_exists: self.if_exists });
        Ok(())
    }
}

/// Print the names of a bridge's ports
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  weft list-ports br0")]
pub(crate) struct ListPorts {
    /// The bridge
    bridge: String,
}

impl Verb for ListPorts {
    fn run(&self, session: &mut Session) -> anyhow::Result<Exit> {
        let mut names = bridge::find(session, &self.bridge)?.ports;
        names.sort();
        session.print(&names, |names| names.iter().map(|name| format!("{name}\n")).collect());
        Ok(Exit::Ok)
    }
}

/// Print the bridge that a port is on
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  weft port-to-br web")]
pub(crate) struct PortToBr {
    /// The port
    port: String,
}

impl Verb for PortToBr {
    fn run(&self, session: &mut Session) -> anyhow::Result<Exit> {
        let bridge = find(session, &self.port)?.spec.bridge;
        session.print(&bridge, |bridge| format!("{bridge}\n"));
        Ok(Exit::Ok)
    }
}

/// All ports.
pub(super) fn all(session: &mut Session) -> anyhow::Result<Vec<PortInfo>> {
    Ok(session.get(paths::PORTS)?)
}

/// The port of that name.
pub(super) fn find(session: &mut Session, name: &str) -> anyhow::Result<PortInfo> {
    named(all(session)?, name)
}

/// The one of `ports` that has that name.
pub(super) fn named(ports: Vec<PortInfo>, name: &str) -> anyhow::Result<PortInfo> {
    ports
        .into_iter()
        .find(|port| port.spec.name == name)
        .ok_or_else(|| anyhow::anyhow!("no port is named {name}; `weft show` lists them"))
}
