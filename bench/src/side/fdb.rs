//! A segment with a forwarding database full of learned stations: two pods with addresses, and a third one from which
//! all the others are heard.
//!
//! Its frames come from a TAP device that a bridge inside the pod joins to the pod's own: the switch sees senders that
//! are as many as a rack of virtual machines behind one port.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tun_tap::{Iface, Mode};
use weft_api::{
    BlockingClient, BridgeInfo, BridgeSpec, Command, MacAddr, Owner, PortKind, PortSpec, Transaction, paths,
};
use weft_sys::netns::Netns;

use super::nodes::ip;

const BRIDGE: &str = "big";
const DEVICE: &str = "gen0";
/// Frames that are written without a pause: fewer than the pod's device holds.
const BURST: u32 = 250;
const PAUSE: Duration = Duration::from_millis(2);
/// How long the switch may take for what waits.
const SETTLE: Duration = Duration::from_millis(200);
/// Times that all stations speak, if the switch has not heard each.
const PASSES: usize = 5;

/// Makes the segment of three empty namespaces, and lets `stations` speak.
///
/// # Errors
/// The switch does not learn them.
pub(super) fn fill(api: &BlockingClient, pods: &[String], stations: u32) -> anyhow::Result<()> {
    let [_, _, behind] = pods else { bail!("three pods are needed") };
    let mut bridge = BridgeSpec::new(BRIDGE, Owner::Cli);
    bridge.fdb_max = stations * 2;
    let mut commands = vec![Command::AddBridge { bridge, may_exist: false }];
    for (number, pod) in (1..).zip(pods) {
        let mut port = PortSpec::new(format!("big{number}"), BRIDGE, PortKind::Tap, Owner::Cli);
        (port.netns, port.mac, port.guard) = (Some(pod.clone()), Some(mac(1, number)), false);
        port.ips = vec![format!("192.168.7.{number}/24").parse()?];
        commands.push(Command::AddPort { port: Box::new(port), may_exist: false });
    }
    api.transaction(&Transaction { commands })?;
    let device = Netns::by_name(behind)?.run(|| Iface::without_packet_info(DEVICE, Mode::Tap))?;
    let device = device.with_context(|| format!("a TAP device in {behind}"))?;
    for words in [
        "link add join type bridge",
        "link set eth0 master join",
        &format!("link set {DEVICE} master join up"),
        &format!("link set {DEVICE} type bridge_slave learning off"),
        "link set join up",
    ] {
        ip(behind, words)?;
    }
    for _ in 0..PASSES {
        speak(&device, stations)?;
        sleep(SETTLE);
        let bridges: Vec<BridgeInfo> = api.get(paths::BRIDGES)?;
        let learned =
            bridges.iter().find(|bridge| bridge.spec.name == BRIDGE).map(|bridge| bridge.fdb_learned);
        if learned.is_some_and(|learned| learned >= stations.into()) {
            return Ok(());
        }
    }
    bail!("not all of {stations} stations were learned")
}

/// One frame of each, to the first pod, of a protocol that nobody speaks (IEEE 802 local experimental).
fn speak(device: &Iface, stations: u32) -> anyhow::Result<()> {
    let mut frame = [0; 60];
    frame[..6].copy_from_slice(&mac(1, 1).0);
    frame[12..14].copy_from_slice(&0x88b5_u16.to_be_bytes());
    for number in 0..stations {
        frame[6..12].copy_from_slice(&mac(2, number).0);
        let sent = device.send(&frame).context("writing a frame")?;
        ensure!(sent == frame.len(), "a frame was cut");
        if number % BURST == BURST - 1 {
            sleep(PAUSE);
        }
    }
    Ok(())
}

fn mac(kind: u8, number: u32) -> MacAddr {
    let [a, b, c, d] = number.to_be_bytes();
    MacAddr([2, kind, a, b, c, d])
}
