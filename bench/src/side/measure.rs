//! One measurement: two programs in two pods, and what they print.

use std::fs;
use std::io::Read as _;
use std::net::IpAddr;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::Value as Json;

use super::peer::Peer;
use super::work::{Kind, MIXED, Way, Work};
use super::{Plan, cni, idle, scale};

/// A number and what it means.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Value {
    pub(super) work: String,
    pub(super) unit: &'static str,
    pub(super) more_is_better: bool,
    pub(super) value: f64,
}

/// How long a listener may take to listen, and a switch to find out where pods are.
const SETTLE: Duration = Duration::from_millis(150);
const PORT: u16 = 9000;
/// Payload of a 64-byte frame.
const SMALL: &str = "18";

/// Does the work once.
pub(super) fn measure(peer: &Peer, work: &Work, plan: &Plan) -> anyhow::Result<Vec<Value>> {
    match work.kind {
        Kind::Cni { at_once } => cni::measure(peer, &plan.bin_dir, at_once),
        Kind::Idle => idle::measure(peer, plan),
        Kind::Scale(scale) => scale::measure(peer, plan, scale),
        _ => traffic(peer, work, plan.time),
    }
}

/// Frames of 64 bytes of so many flows, in turns, from one pod to another; thousands that arrive per second.
pub(super) fn small_datagrams(
    source: &str,
    destination: &str,
    flows: u32,
    time: Duration,
) -> anyhow::Result<f64> {
    let ends = Ends::meet(source.to_owned(), destination.to_owned(), time)?;
    let ports = flows.min(MIXED.into());
    let sources = flows.div_ceil(ports).to_string();
    Ok(ends.datagrams(ports as u16, &["--size", SMALL, "--sources", &sources], "pps")? / 1e3)
}

fn traffic(peer: &Peer, work: &Work, time: Duration) -> anyhow::Result<Vec<Value>> {
    let peer = peer.at(work.way);
    let cut = work.way == Way::AcrossCut;
    if cut {
        peer.cut(true)?;
    }
    let values = ends(peer, work, time);
    if cut {
        peer.cut(false)?;
    }
    values
}

fn ends(peer: &Peer, work: &Work, time: Duration) -> anyhow::Result<Vec<Value>> {
    let ends = Ends::meet(peer.source(), peer.destination(work.way), time)?;
    match work.kind {
        Kind::Tcp { streams, reno } => ends.tcp(work, streams, reno),
        Kind::UdpGso => {
            let mbps = ends.datagrams(1, &["--size", "1400", "--burst", "40"], "mbps")?;
            Ok(vec![Value {
                work: work.to_string(),
                unit: "Gbit/s",
                more_is_better: true,
                value: mbps / 1e3,
            }])
        }
        Kind::Udp64 { flows } => {
            let pps = ends.datagrams(flows, &["--size", SMALL], "pps")?;
            Ok(vec![Value { work: work.to_string(), unit: "kpps", more_is_better: true, value: pps / 1e3 }])
        }
        Kind::Requests { tcp } => ends.requests(work, if tcp { "tcp" } else { "udp" }),
        Kind::Connections => ends.requests(work, "connect"),
        Kind::Cni { .. } | Kind::Idle | Kind::Scale(_) => bail!("is no traffic"),
    }
}

struct Ends {
    source: String,
    destination: String,
    address: IpAddr,
    time: Duration,
}

impl Ends {
    /// Lets both know their neighbours, and the switch where they are.
    fn meet(source: String, destination: String, time: Duration) -> anyhow::Result<Ends> {
        let address = Peer::address(&destination)?;
        let mut ping = within(&source, "ping", &["-c", "1", "-W", "1", &address.to_string()]);
        // Who cannot be reached will not be measured, and say so.
        let _ = ping.stdout(Stdio::null()).stderr(Stdio::null()).status();
        Ok(Ends { source, destination, address, time })
    }

    fn tcp(&self, work: &Work, streams: u8, reno: bool) -> anyhow::Result<Vec<Value>> {
        let _server = Server::start(within(&self.destination, "iperf3", &["-s", "-1"]))?;
        let (address, time, streams) =
            (self.address.to_string(), self.time.as_secs_f64().ceil().to_string(), streams.to_string());
        let mut args = vec!["-c", &address, "-t", &time, "-P", &streams, "-J", "--connect-timeout", "2000"];
        if reno {
            args.extend(["-C", "reno"]);
        }
        let before = busy()?;
        let report = output(within(&self.source, "iperf3", &args))?;
        let busy = busy()? - before;
        if let Some(error) = report["error"].as_str() {
            bail!("iperf3: {error}");
        }
        let received = &report["end"]["sum_received"];
        let (rate, bytes) = (number(&received["bits_per_second"])?, number(&received["bytes"])?);
        ensure!(bytes > 0.0, "nothing arrived");
        let name = work.to_string();
        let mut values =
            vec![Value { work: name.clone(), unit: "Gbit/s", more_is_better: true, value: rate / 1e9 }];
        if let Some(rest) = name.strip_prefix("tcp1-") {
            let work = format!("cpu-per-gb-{rest}");
            values.push(Value { work, unit: "CPU s/GB", more_is_better: false, value: busy / (bytes / 1e9) });
        }
        Ok(values)
    }

    /// Sends to so many ports; what the receiver says of one of its numbers.
    fn datagrams(&self, flows: u16, load: &[&str], field: &str) -> anyhow::Result<f64> {
        let (flows, listen) = (flows.to_string(), format!("{}:{PORT}", self.address));
        let patience = (self.time + Duration::from_secs(2)).as_secs_f64().to_string();
        let server = Server::start(self.tool(
            &self.destination,
            &[
                "udp-count",
                "--json",
                "--listen",
                &listen,
                "--flows",
                &flows,
                "--seconds",
                &patience,
                "--idle-ms",
                "300",
            ],
        )?)?;
        let time = self.time.as_secs_f64().to_string();
        let mut args = vec!["udp-send", "--json", "--to", &listen, "--flows", &flows, "--seconds", &time];
        args.extend(load);
        output(self.tool(&self.source, &args)?)?;
        number(&server.report()?[field])
    }

    fn requests(&self, work: &Work, over: &str) -> anyhow::Result<Vec<Value>> {
        let listen = format!("{}:{PORT}", self.address);
        let patience = (self.time + Duration::from_secs(1)).as_secs_f64().to_string();
        let _server = Server::start(self.tool(
            &self.destination,
            &["rr-server", "--listen", &listen, "--over", over, "--seconds", &patience],
        )?)?;
        let time = self.time.as_secs_f64().to_string();
        let answers = output(self.tool(
            &self.source,
            &["rr-client", "--json", "--to", &listen, "--over", over, "--seconds", &time],
        )?)?;
        let value = |name: String, unit, more_is_better, field: &str| {
            Ok(Value { work: name, unit, more_is_better, value: number(&answers[field])? })
        };
        let (kind, way) = match over {
            "tcp" => ("rr-tcp", work.way),
            "connect" => ("crr", work.way),
            _ => ("rr", work.way),
        };
        [("", "per_second"), ("-p50", "p50_us"), ("-p99", "p99_us"), ("-p999", "p999_us")]
            .into_iter()
            .map(|(which, field)| {
                let rate = which.is_empty();
                value(format!("{kind}{which}-{way}"), if rate { "1/s" } else { "µs" }, rate, field)
            })
            .collect()
    }

    /// This program, in a pod.
    fn tool(&self, namespace: &str, args: &[&str]) -> anyhow::Result<Command> {
        let tool = std::env::current_exe().context("this program's file")?;
        Ok(within(namespace, &tool.to_string_lossy(), args))
    }
}

/// A program that is ended with this value.
struct Server(Child);

impl Server {
    fn start(mut command: Command) -> anyhow::Result<Server> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let server = Server(command.spawn().context("starting the receiving end")?);
        sleep(SETTLE);
        Ok(server)
    }

    /// Waits for its end, and gives what it printed.
    fn report(mut self) -> anyhow::Result<Json> {
        let mut text = String::new();
        if let Some(mut stdout) = self.0.stdout.take() {
            stdout.read_to_string(&mut text)?;
        }
        serde_json::from_str(&text).context("report of the receiving end")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn within(namespace: &str, program: &str, args: &[&str]) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", namespace, program]).args(args);
    command
}

fn output(mut command: Command) -> anyhow::Result<Json> {
    let output = command.stdin(Stdio::null()).output().context("starting the sending end")?;
    let text = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout)
        .with_context(|| format!("report of the sending end: {}", text.trim()))
}

fn number(value: &Json) -> anyhow::Result<f64> {
    value.as_f64().context("a report lacks a number")
}

/// CPU seconds that the whole machine has spent since its boot (`/proc/stat`, in hundredths), interrupts included.
fn busy() -> anyhow::Result<f64> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let ticks = line.split_whitespace().skip(1).map(str::parse).collect::<Result<Vec<u64>, _>>()?;
    // user, nice, system, idle, iowait, irq, softirq, steal
    let [user, nice, system, _, _, irq, softirq, ..] = ticks[..] else { bail!("/proc/stat is short") };
    Ok((user + nice + system + irq + softirq) as f64 / 100.0)
}
