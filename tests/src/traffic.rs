//! ping, iperf3, hashed transfers, packets made by hand. All bounded, all ending by themselves.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsRawFd as _;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};
use rustix::fs::{MemfdFlags, memfd_create};
use serde_json::Value;

use crate::eventually;
use crate::lab::Lab;
use crate::ns::{Background, Namespace};

/// Pings `count` times, 10 ms apart; fails unless every answer came.
pub fn ping(from: &Namespace, to: &str, count: u32) -> Result<()> {
    let out = from.sh(&format!("ping -n -q -i 0.01 -W 2 -c {count} {to} || true"))?;
    ensure!(out.contains(&format!("{count} received")), "ping {to} from {}:\n{out}", from.name());
    Ok(())
}

/// Pings once with a payload of `size` bytes and DF set.
pub fn ping_df(from: &Namespace, to: &str, size: u32) -> Result<String> {
    from.sh(&format!("ping -n -M do -s {size} -W 2 -c 1 {to} 2>&1 || true"))
}

/// An iperf3 server that serves until dropped.
pub fn serve(ns: &Namespace, port: u16) -> Result<Background> {
    let server = ns.spawn("iperf3", &["-s", "-p", &port.to_string()])?;
    eventually(5, || {
        let out = ns.sh(&format!("ss -Hltn sport = :{port}"))?;
        ensure!(!out.trim().is_empty(), "iperf3 does not listen on {port}");
        Ok(())
    })?;
    Ok(server)
}

/// What an iperf3 client measured.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Bits per second that arrived.
    pub bits_per_second: f64,
    /// TCP segments sent again.
    pub retransmits: u64,
    /// Share of UDP datagrams lost, in percent.
    pub lost_percent: f64,
}

/// Runs an iperf3 client against `to`. A server that has not ended its last run yet is asked again.
pub fn iperf(from: &Namespace, to: &str, port: u16, args: &[&str]) -> Result<Measured> {
    let port = port.to_string();
    let args = [&["40", "iperf3", "-c", to, "-p", &port, "-J", "--connect-timeout", "3000"], args].concat();
    let out = eventually(10, || {
        let out = from.run("timeout", &args);
        let is_busy = out.as_ref().is_ok_and(|out| out.contains("the server is busy running a test"));
        ensure!(!is_busy, "the iperf3 server is busy");
        Ok(out)
    })??;
    let json: Value = serde_json::from_str(&out).context("iperf3 printed no JSON")?;
    let end = &json["end"];
    let received = if end["sum_received"].is_object() { &end["sum_received"] } else { &end["sum"] };
    Ok(Measured {
        bits_per_second: received["bits_per_second"].as_f64().unwrap_or(0.0),
        retransmits: end["sum_sent"]["retransmits"].as_u64().unwrap_or(0),
        lost_percent: end["sum"]["lost_percent"].as_f64().unwrap_or(0.0),
    })
}

/// TCP and UDP, 1 and 8 streams, both directions; fails when one does not move a megabit per second, or loses datagrams.
pub fn iperf_all(from: &Namespace, server: &Namespace, to: &str) -> Result<()> {
    let _server = serve(server, 5201)?;
    for args in [
        &["-n", "60M"][..],
        &["-n", "60M", "-R"],
        &["-n", "60M", "-P", "8"],
        &["-n", "60M", "-P", "8", "-R"],
        &["-u", "-b", "60M", "-n", "4M", "-l", "1200"],
        &["-u", "-b", "20M", "-n", "1M", "-l", "1200", "-R"],
        &["-u", "-b", "6M", "-n", "3M", "-l", "1200", "-P", "8"],
        &["-u", "-b", "3M", "-n", "1M", "-l", "1200", "-P", "8", "-R"],
    ] {
        let measured = iperf(from, to, 5201, args).with_context(|| format!("iperf3 {args:?} to {to}"))?;
        ensure!(measured.bits_per_second > 1e6, "iperf3 {args:?} to {to}: {measured:?}");
        ensure!(measured.lost_percent < 10.0, "iperf3 {args:?} to {to}: {measured:?}");
    }
    Ok(())
}

/// Sends `megabytes` of random bytes by TCP and compares the hashes at both ends.
pub fn hashed(from: &Namespace, server: &Namespace, to: &str, megabytes: u32) -> Result<()> {
    transfer(from, server, to, megabytes, true)
}

/// As [`hashed`], and then the other way, from the listener to who asks.
pub fn hashed_both_ways(from: &Namespace, server: &Namespace, to: &str, megabytes: u32) -> Result<()> {
    transfer(from, server, to, megabytes, true)?;
    transfer(from, server, to, megabytes, false)
}

/// The most megabytes of a transfer.
const MOST: u32 = 20;

/// Path of a file of [`MOST`] megabytes of random bytes, made once: that takes longer than most transfers. It goes with this process.
fn random_bytes() -> Result<String> {
    static FILE: OnceLock<File> = OnceLock::new();
    let file = match FILE.get() {
        Some(file) => file,
        None => {
            let mut file = File::from(memfd_create("random", MemfdFlags::CLOEXEC)?);
            std::io::copy(&mut File::open("/dev/urandom")?.take(u64::from(MOST) << 20), &mut file)?;
            FILE.get_or_init(|| file)
        }
    };
    Ok(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()))
}

/// One connection: the asking side sends, or the listening one.
fn transfer(from: &Namespace, server: &Namespace, to: &str, megabytes: u32, asker_sends: bool) -> Result<()> {
    let nc = if to.contains(':') { "timeout 60 nc.openbsd -6" } else { "timeout 60 nc.openbsd -4" };
    ensure!(megabytes <= MOST, "{megabytes} MB are more than there are");
    let bytes = format!("head -c {megabytes}M {}", random_bytes()?);
    let send = |nc: String| format!("{bytes} | {nc} -N; {bytes} | sha256sum");
    // it never reads: the end of what it receives is the end
    let receive = |nc: String| format!("{nc} -d | sha256sum");
    let (listen, connect) = (format!("{nc} -l 5999"), format!("{nc} {to} 5999"));
    let (listen, connect) =
        if asker_sends { (receive(listen), send(connect)) } else { (send(listen), receive(connect)) };
    let listener = server.spawn("sh", &["-ec", &listen])?;
    eventually(5, || {
        ensure!(!server.sh("ss -Hltn sport = :5999")?.trim().is_empty(), "nc does not listen");
        Ok(())
    })?;
    let near = from.sh(&connect)?;
    let (far, errors, _) = listener.finish()?;
    let way = if asker_sends { "sent" } else { "asked" };
    ensure!(near == far, "{way} by {}: {near} at {}: {far} {errors}", from.name(), server.name());
    Ok(())
}

/// Sends what a scapy expression says from inside a namespace, by `eth0`.
pub fn scapy(ns: &Namespace, expression: &str) -> Result<()> {
    let script = format!(
        "from scapy.all import *
conf.verb=0
s=conf.L2socket(iface='eth0')
for p in {expression}: s.send(p)
"
    );
    ns.run("/usr/bin/python3", &["-c", &script]).map(drop)
}

/// Fails if a namespace counted a wrong checksum: of an IPv4 header, of TCP, UDP or ICMP over either family. A node
/// counts those of the tunnel's own packets.
pub fn no_checksum_errors<'a>(namespaces: impl IntoIterator<Item = &'a Namespace>) -> Result<()> {
    for ns in namespaces {
        let errors = counters(ns, &["*InCsumErrors"])?;
        ensure!(errors == 0, "{errors} checksum errors in {}", ns.name());
    }
    Ok(())
}

/// The sum of a namespace's counters (`nstat`) whose names match.
pub fn counters(ns: &Namespace, names: &[&str]) -> Result<u64> {
    let out = ns.run("nstat", &[&["-asz"], names].concat())?;
    let counts: Vec<&str> = out.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    ensure!(!counts.is_empty(), "there are no counters {names:?}");
    counts.into_iter().map(|count| Ok(count.parse::<u64>()?)).sum()
}

/// Ping, iperf3 in all shapes if it is to be `full`, bursts of datagrams, and hashed transfers each way, between two namespaces,
/// over each of the addresses of `b`. No checksum was wrong, there and on the nodes.
pub fn talk(lab: &Lab, a: &Namespace, b: &Namespace, to: &[String], full: bool) -> Result<()> {
    for to in to {
        ping(a, to, 20)?;
        if full {
            iperf_all(a, b, to)?;
        }
        crate::datagrams::segmented(a, b, to)?;
        hashed_both_ways(a, b, to, 20)?;
    }
    no_checksum_errors(lab.nodes.iter().map(|node| &node.ns).chain([a, b]))
}
