//! Nodes of weft with a past of their own: one, or two joined by an underlay, made for one measurement.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::json;
use weft_api::{BlockingClient, Client};

use super::cni::Plugin;
use super::namespaces::Namespaces;
use super::peer::Peer;

/// Their places in the lab: `own1`, `own2`.
const PLACE: &str = "own";
/// How long a daemon may take to be ready, and to answer, with many nodes and entries.
const PATIENCE: Duration = Duration::from_secs(60);
/// A clock tick of `/proc` (USER_HZ, the same on every Linux for these processors).
const TICK: Duration = Duration::from_millis(10);

/// Nodes that run; dropped: ended, and removed with their pods.
pub(super) struct Nodes<'a> {
    peer: &'a Peer,
    bin_dir: &'a Path,
    /// Ended before their namespaces go.
    daemons: Vec<Daemon>,
    pods: Vec<Namespaces>,
    _namespaces: Namespaces,
}

/// A daemon; dropped: killed, and its files removed.
struct Daemon {
    child: Child,
    dir: PathBuf,
}

impl<'a> Nodes<'a> {
    /// Starts `count` nodes, 1 or 2, that have so many remote nodes; all of these but the other one do not exist.
    ///
    /// # Errors
    /// A daemon does not get ready: the end of its log.
    pub(super) fn start(
        peer: &'a Peer,
        bin_dir: &'a Path,
        count: usize,
        remotes: u32,
    ) -> anyhow::Result<Nodes<'a>> {
        let namespaces = Namespaces::add(peer, PLACE, count)?;
        wire(namespaces.names())?;
        let mut nodes =
            Nodes { peer, bin_dir, daemons: Vec::new(), pods: Vec::new(), _namespaces: namespaces };
        let cluster = cluster(remotes);
        for number in 1..=count {
            let daemon = Daemon::start(peer, bin_dir, number, &cluster)?;
            nodes.daemons.push(daemon);
            let ready = nodes.api(number)?.wait_ready(PATIENCE);
            ready.with_context(|| nodes.daemons[number - 1].log())?;
        }
        Ok(nodes)
    }

    /// Makes pods on a node, 1 or 2, by the plugin; their names below `/run/netns`.
    ///
    /// # Errors
    /// That of the first that cannot be had.
    pub(super) fn add_pods(&mut self, number: usize, count: usize) -> anyhow::Result<Vec<String>> {
        let names = self.add_namespaces(number, count)?;
        Plugin::weft(self.peer, &format!("{PLACE}{number}"), self.bin_dir)?.add(&names, false)?;
        Ok(names)
    }

    /// Makes namespaces for pods of a node, 1 or 2; their names below `/run/netns`.
    ///
    /// # Errors
    /// They cannot be made.
    pub(super) fn add_namespaces(&mut self, number: usize, count: usize) -> anyhow::Result<Vec<String>> {
        let pods = Namespaces::add(self.peer, &format!("{PLACE}{number}-pod"), count)?;
        let names = pods.names().to_vec();
        self.pods.push(pods);
        Ok(names)
    }

    /// The control API of a node, 1 or 2.
    ///
    /// # Errors
    /// None in practice.
    pub(super) fn api(&self, number: usize) -> anyhow::Result<BlockingClient> {
        let socket = self.daemons[number - 1].dir.join("run/weft.sock");
        Ok(BlockingClient::new(Client::new(socket).with_timeout(PATIENCE))?)
    }

    /// Memory of the first node's daemon (`Rss` of `/proc/PID/smaps_rollup`), MB.
    ///
    /// # Errors
    /// It has ended.
    pub(super) fn memory(&self) -> anyhow::Result<f64> {
        let text = fs::read_to_string(self.proc("smaps_rollup"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("Rss:"));
        let kb = line.and_then(|rest| rest.split_whitespace().next()).context("smaps_rollup has no Rss")?;
        Ok(kb.parse::<f64>()? * 1024.0 / 1e6)
    }

    /// CPU time of the first node's daemon and of the programs that it has run (`/proc/PID/stat`), in steps of 10 ms.
    ///
    /// # Errors
    /// It has ended.
    pub(super) fn cpu(&self) -> anyhow::Result<Duration> {
        let stat = fs::read_to_string(self.proc("stat"))?;
        // Fields 14 to 17, proc_pid_stat(5); the name before them may hold anything but is in brackets.
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(4);
        let ticks = fields.map(str::parse::<u64>).sum::<Result<u64, _>>()?;
        Ok(TICK * u32::try_from(ticks)?)
    }

    fn proc(&self, file: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{file}", self.daemons[0].child.id()))
    }
}

impl Daemon {
    fn start(peer: &Peer, bin_dir: &Path, number: usize, cluster: &str) -> anyhow::Result<Daemon> {
        let place = format!("{PLACE}{number}");
        let dir = peer.dir().join(&place);
        let file = |name: &str| dir.join(name);
        // As lab.sh lays them out: it can list them, and its exec finds them.
        fs::create_dir_all(file("run"))?;
        fs::create_dir_all(file("state"))?;
        fs::write(file("kind"), "weft\n")?;
        fs::write(file("weft.toml"), "")?;
        fs::write(file("cluster.toml"), cluster)?;
        let network = json!({
            "cniVersion": "1.0.0", "name": "own", "type": "weft-cni", "socket": file("run/cni.sock"),
            "queueDir": file("state/cni-del"),
        });
        fs::write(file("cni.json"), network.to_string())?;
        // ip becomes the daemon.
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &peer.name_of(&place)]).arg(bin_dir.join("weftd"));
        command.args(["--node", &place]).arg("--config").arg(file("weft.toml"));
        command.arg("--cluster").arg(file("cluster.toml")).arg("--run-dir").arg(file("run"));
        command.arg("--state-dir").arg(file("state")).arg("--socket").arg(file("run/weft.sock"));
        command.arg("--cni-socket").arg(file("run/cni.sock"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(file("log"))?);
        Ok(Daemon { child: command.spawn().context("starting weftd")?, dir })
    }

    /// The end of its log.
    fn log(&self) -> String {
        let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Runs `ip` in a namespace.
pub(super) fn ip(namespace: &str, words: &str) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    command.args(["-n", namespace]).args(words.split(' ')).stdin(Stdio::null());
    ensure!(command.status().context("starting ip")?.success(), "ip -n {namespace} {words}");
    Ok(())
}

/// An uplink for each: to each other, or to nowhere.
fn wire(nodes: &[String]) -> anyhow::Result<()> {
    let veth = "link add eth0 mtu 1500 type veth peer name";
    match nodes {
        [one] => {
            ip(one, &format!("{veth} uplink mtu 1500"))?;
            ip(one, "link set uplink up")?;
        }
        [one, two] => ip(one, &format!("{veth} eth0 mtu 1500 netns {two}"))?,
        _ => bail!("one node, or two"),
    }
    for (index, node) in nodes.iter().enumerate() {
        ip(node, "link set lo up")?;
        ip(node, &format!("addr add {}/16 dev eth0", underlay(index as u32)))?;
        ip(node, "link set eth0 up")?;
    }
    Ok(())
}

/// A cluster file: a node with room for many pods, and `remotes` others.
fn cluster(remotes: u32) -> String {
    let mut text = String::from("[cluster]\ncidrs = [\"10.0.0.0/8\"]\n");
    for index in 0..=remotes {
        let pods = match index {
            0 => "10.0.0.0/22".to_owned(),
            _ => format!("{}/24", Ipv4Addr::from(Ipv4Addr::new(10, 1, 0, 0).to_bits() + (index << 8))),
        };
        let (name, address) = (format!("{PLACE}{}", index + 1), underlay(index));
        _ = write!(
            text,
            "\n[[node]]\nname = \"{name}\"\nunderlay = \"{address}\"\npod_cidrs = [\"{pods}\"]\n"
        );
    }
    text
}

/// Underlay address of a node, counted from 0.
fn underlay(index: u32) -> Ipv4Addr {
    Ipv4Addr::from(Ipv4Addr::new(172, 31, 0, 1).to_bits() + index)
}
