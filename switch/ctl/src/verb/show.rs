//! `show`.

use clap::Args;
use serde::Serialize;
use weft_api::port::SharedMemory;
use weft_api::report::{Status, UplinkStatus};
use weft_api::{BridgeInfo, PortInfo, PortKind, PortState, paths};

use super::{Verb, bridge, port};
use crate::render;
use crate::session::{Exit, Session};

/// Print bridges and their ports, and the uplink if there is an AF_XDP one
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  weft show\n  weft show br0\n  weft -o json show | jq '.ports[].spec.name'"
)]
pub(crate) struct Show {
    /// Only this bridge
    bridge: Option<String>,
}

/// What there is.
#[derive(Serialize)]
struct Report {
    bridges: Vec<BridgeInfo>,
    ports: Vec<PortInfo>,
    /// Of the node, not of a bridge.
    uplink: Option<UplinkStatus>,
}

impl Verb for Show {
    fn run(&self, session: &mut Session) -> anyhow::Result<Exit> {
        let mut bridges = match &self.bridge {
            Some(name) => vec![bridge::find(session, name)?],
            None => bridge::all(session)?,
        };
        let mut ports = port::all(session)?;
        bridges.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        ports.retain(|port| self.bridge.as_ref().is_none_or(|name| *name == port.spec.bridge));
        ports.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        let uplink = match self.bridge {
            Some(_) => None,
            None => session.get::<Status>(paths::STATUS)?.uplink,
        };
        session.print(&Report { bridges, ports, uplink }, text);
        Ok(Exit::Ok)
    }
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    for bridge in &report.bridges {
        text.push_str(&format!("bridge {}\n", bridge.spec.name));
        text.push_str(&render::fields("    ", &bridge_fields(bridge)));
        for port in report.ports.iter().filter(|port| port.spec.bridge == bridge.spec.name) {
            let flag = if port.state == PortState::Lost { "  LOST" } else { "" };
            text.push_str(&format!("    port {}{flag}\n", port.spec.name));
            text.push_str(&render::fields("        ", &port_fields(port)));
        }
    }
    if text.is_empty() {
        text.push_str("no bridge; make one with `weft add-br br0`\n");
    }
    if let Some(uplink) = &report.uplink {
        text.push_str(&format!("uplink {}\n", uplink.device));
        text.push_str(&render::fields("    ", &uplink_fields(uplink)));
    }
    text
}

fn bridge_fields(bridge: &BridgeInfo) -> Vec<(&'static str, String)> {
    let spec = &bridge.spec;
    let mut fields = vec![("owner", spec.owner.to_string())];
    if !spec.gateways.is_empty() {
        let mac = bridge.router_mac.map(|mac| format!(" at {mac}")).unwrap_or_default();
        fields.push(("gateway", render::list(&spec.gateways) + &mac));
    }
    for (name, mtu) in [("mtu", spec.mtu), ("local-mtu", spec.local_mtu)] {
        fields.extend(mtu.map(|mtu| (name, mtu.to_string())));
    }
    fields.push(("learned", format!("{} MACs", bridge.fdb_learned)));
    fields
}

fn port_fields(port: &PortInfo) -> Vec<(&'static str, String)> {
    let spec = &port.spec;
    let state = match (port.state, &port.error) {
        (PortState::Up, None) => "up".to_owned(),
        (PortState::Up, Some(error)) => format!("up ({error})"),
        (PortState::Lost, None) => "lost: its link was deleted inside the namespace".to_owned(),
        (PortState::Lost, Some(error)) => format!("lost: {error}"),
    };
    let mut fields =
        vec![("type", spec.kind.to_string()), ("state", state), ("owner", spec.owner.to_string())];
    let mut push = |name, value: Option<String>| fields.extend(value.map(|value| (name, value)));
    let listed = |values: Vec<String>| (!values.is_empty()).then(|| values.join(", "));
    let id = |key: &str| spec.external_ids.get(key).cloned();

    push("pod", id("pod").map(|pod| id("namespace").map(|ns| format!("{ns}/{pod}")).unwrap_or(pod)));
    push("container", id("container"));
    push("network", id("network"));
    push("device", spec.ifname.clone());
    push("netns", spec.netns.clone());
    push("mac", spec.mac.map(|mac| mac.to_string()));
    push("ip", listed(spec.ips.iter().map(ToString::to_string).collect()));
    push("mtu", spec.mtu.map(|mtu| mtu.to_string()));
    push("local-mtu", port.local_mtu.map(|mtu| mtu.to_string()));
    push("tag", spec.tag.map(|tag| tag.to_string()));
    push("trunks", listed(spec.trunks.iter().map(ToString::to_string).collect()));
    push("guard", (spec.kind.is_pods() && !spec.guard).then(|| "off".to_owned()));
    push("queues", (spec.queues > 1).then(|| spec.queues.to_string()));
    let has_offloads = matches!(spec.kind, PortKind::Tap | PortKind::Internal);
    push("offloads", has_offloads.then(|| render::list(&port.offloads)));
    push(
        "xdp",
        port.xdp.as_ref().map(|xdp| {
            let how = render::xdp(&xdp.mode, xdp.zero_copy);
            let memory = part(xdp.memory, xdp.shared.as_ref());
            format!("{how} at {}{}", xdp.device, held(xdp.busy_poll, &memory, xdp.dropped))
        }),
    );
    push("vni", spec.vni.map(|vni| vni.to_string()));
    push("remote", listed(spec.remotes.iter().map(ToString::to_string).collect()));
    push("udp-port", spec.udp_port.map(|port| port.to_string()));
    let rest = spec.external_ids.iter().filter(|(key, _)| !KNOWN_IDS.contains(&key.as_str()));
    push("notes", listed(rest.map(|(key, value)| format!("{key}={value}")).collect()));
    fields
}

fn uplink_fields(uplink: &UplinkStatus) -> Vec<(&'static str, String)> {
    let how = render::xdp(&uplink.mode, uplink.zero_copy);
    vec![
        ("xdp", how + &held(uplink.busy_poll, &part(uplink.memory, None), uplink.rx_dropped)),
        ("queues", uplink.queues.to_string()),
        ("peers", format!("{} with a known next hop", uplink.peers)),
    ]
}

/// What an AF_XDP socket has, and what it had no room for.
fn held(busy_poll: bool, memory: &str, dropped: u64) -> String {
    let polls = if busy_poll { ", busy polling" } else { "" };
    let lost = match dropped {
        0 => String::new(),
        lost => format!(", {lost} without room"),
    };
    format!("{polls}, {memory} locked{lost}")
}

/// How much memory, and of what it is a part.
fn part(memory: u64, of: Option<&SharedMemory>) -> String {
    let megabytes = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
    let Some(of) = of else { return megabytes(memory) };
    let ports = render::count(of.ports as usize, "port");
    format!("{} of {} in memory {} of {ports}", megabytes(memory), megabytes(of.size), of.number)
}

/// External ids that have a line of their own.
const KNOWN_IDS: [&str; 4] = ["pod", "namespace", "container", "network"];
