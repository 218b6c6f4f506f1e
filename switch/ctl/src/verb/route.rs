//! `route show|add|del`.

use std::net::IpAddr;

use clap::{Args, Subcommand};
use ipnet::IpNet;
use weft_api::report::RouteEntry;
use weft_api::transaction::{RouteSpec, Via};
use weft_api::{Command, MacAddr, Owner, Vni, paths, prefix};

use super::{Verb, bridge};
use crate::render;
use crate::session::{Exit, Session, UsageError};

/// Routes of a bridge's router
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  weft route show br0")]
pub(crate) struct Route {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the routes
    #[command(after_help = "Example:\n  weft route show br0")]
    Show {
        /// Only of this bridge
        bridge: Option<String>,
    },
    /// Add a route
    #[command(after_help = "\
Examples:
  weft route add br0 10.9.0.0/16 via 10.1.0.9
  weft route add br0 10.2.0.0/24 tunnel 192.0.2.7 --vni 42
  weft route add br0 10.8.0.0/16 unreachable")]
    Add {
        /// The bridge
        bridge: String,
        /// Destination prefix
        #[arg(value_parser = prefix)]
        dst: IpNet,
        /// `via ADDRESS` of a neighbour, `tunnel ADDRESS` of a node, `node`, `local` or `unreachable`
        #[arg(required = true, num_args = 1..=2, value_names = ["WHERE", "ADDRESS"])]
        target: Vec<String>,
        /// With tunnel: the VNI; absent: the cluster's
        #[arg(long)]
        vni: Option<Vni>,
        /// With tunnel: the node's VTEP MAC; absent: derived
        #[arg(long)]
        mac: Option<MacAddr>,
        /// With tunnel: the node's UDP port; absent: the cluster's
        #[arg(long)]
        udp_port: Option<u16>,
        /// An equal route is no error
        #[arg(long)]
        may_exist: bool,
    },
    /// Delete a route
    #[command(after_help = "Example:\n  weft --if-exists route del br0 10.9.0.0/16")]
    Del {
        /// The bridge
        bridge: String,
        /// Destination prefix
        #[arg(value_parser = prefix)]
        dst: IpNet,
        /// A missing route is no error
        #[arg(long)]
        if_exists: bool,
    },
}

impl Verb for Route {
    fn plan(&self, commands: &mut Vec<Command>) -> Result<(), UsageError> {
        commands.push(match &self.action {
            Action::Show { .. } => return Ok(()),
            Action::Add { bridge, dst, target, vni, mac, udp_port, may_exist } => {
                let tunnel = Via::Tunnel { remote: dst.addr(), vni: *vni, mac: *mac, udp_port: *udp_port };
                let via = via(target, tunnel)?;
                let route = RouteSpec { bridge: bridge.clone(), dst: *dst, via, owner: Owner::Cli };
                Command::AddRoute { route, may_exist: *may_exist }
            }
            Action::Del { bridge, dst, if_exists } => {
                Command::DelRoute { bridge: bridge.clone(), dst: *dst, if_exists: *if_exists }
            }
        });
        Ok(())
    }

    fn run(&self, session: &mut Session) -> anyhow::Result<Exit> {
        let Action::Show { bridge } = &self.action else { return Ok(Exit::Ok) };
        if let Some(name) = bridge {
            bridge::find(session, name)?;
        }
        let mut routes: Vec<RouteEntry> = session.get(paths::ROUTES)?;
        routes.retain(|route| bridge.as_ref().is_none_or(|name| *name == route.bridge));
        routes.sort_by(|a, b| (&a.bridge, a.dst).cmp(&(&b.bridge, b.dst)));
        session.print(&routes, |routes| text(routes));
        Ok(Exit::Ok)
    }
}

/// Where `target` leads; `tunnel` has the flags of a tunnel and gets its address.
fn via(target: &[String], tunnel: Via) -> Result<Via, UsageError> {
    let words: Vec<&str> = target.iter().map(String::as_str).collect();
    let address = |text: &str| {
        text.parse::<IpAddr>()
            .map_err(|_| UsageError::new(format!("`{text}` is not an address like 192.0.2.7")))
    };
    let via = match (words.as_slice(), &tunnel) {
        (["tunnel", remote], Via::Tunnel { vni, mac, udp_port, .. }) => {
            return Ok(Via::Tunnel { remote: address(remote)?, vni: *vni, mac: *mac, udp_port: *udp_port });
        }
        (["via", ip], _) => Via::Gateway { ip: address(ip)? },
        ([word @ ("via" | "tunnel")], _) => {
            return Err(UsageError::new(format!("{word} needs an address, like `{word} 192.0.2.7`")));
        }
        (["node"], _) => Via::Node,
        (["local"], _) => Via::Local,
        (["unreachable"], _) => Via::Unreachable,
        _ => {
            let given = words.join(" ");
            return Err(UsageError::new(format!(
                "`{given}` is none of via ADDRESS, tunnel ADDRESS, node, local, unreachable"
            )));
        }
    };
    match tunnel {
        Via::Tunnel { vni: None, mac: None, udp_port: None, .. } => Ok(via),
        _ => Err(UsageError::new("--vni, --mac and --udp-port need `tunnel ADDRESS`")),
    }
}

fn text(routes: &[RouteEntry]) -> String {
    render::table(
        ["BRIDGE", "DESTINATION", "VIA", "OWNER"],
        &[],
        routes.iter().map(|route| {
            [route.bridge.clone(), route.dst.to_string(), words(&route.via), route.owner.to_string()]
        }),
    )
}

fn words(via: &Via) -> String {
    match via {
        Via::Local => "local".to_owned(),
        Via::Node => "node".to_owned(),
        Via::Gateway { ip } => format!("via {ip}"),
        Via::Unreachable => "unreachable".to_owned(),
        Via::Tunnel { remote, vni, mac, udp_port } => {
            let mut text = format!("tunnel {remote}");
            if let Some(vni) = vni {
                text.push_str(&format!(" vni {vni}"));
            }
            if let Some(mac) = mac {
                text.push_str(&format!(" mac {mac}"));
            }
            if let Some(port) = udp_port {
                text.push_str(&format!(" udp-port {port}"));
            }
            text
        }
    }
}
