//! Calls of CNI plugins as a container runtime makes them: the whole process, from its start to its end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde_json::json;
use weft_sys::netns::{NAMED_DIR, Netns};

use super::measure::Value;
use super::namespaces::Namespaces;
use super::peer::Peer;
use crate::histogram::Histogram;

/// Calls of each verb.
pub(super) const CALLS: usize = 50;
/// The node whose pods they are.
const NODE: &str = "n1";
/// Where Debian has the reference plugins, and where everybody else has them.
const REFERENCE: [&str; 2] = ["/usr/lib/cni", "/opt/cni/bin"];

/// Makes [`CALLS`] pods at once, or one after the other and deletes them so, too.
pub(super) fn measure(peer: &Peer, bin_dir: &Path, at_once: bool) -> anyhow::Result<Vec<Value>> {
    let plugin = if peer.is_weft() { Plugin::weft(peer, NODE, bin_dir)? } else { Plugin::reference(peer)? };
    let pods = Namespaces::add(peer, "cni", CALLS)?;
    let added = plugin.add(pods.names(), at_once);
    // A failed ADD leaves others that have to go.
    let deleted = plugin.delete(pods.names());
    let (added, deleted) = (added?, deleted?);
    if at_once {
        return Ok(values(&format!("cni-add-{CALLS}-at-once"), &added).into());
    }
    Ok([values("cni-add", &added), values("cni-del", &deleted)].concat())
}

fn values(work: &str, times: &Histogram) -> [Value; 2] {
    let latency = times.latency();
    [("p50", latency.p50_us), ("p99", latency.p99_us)].map(|(which, us)| Value {
        work: format!("{work}-{which}"),
        unit: "ms",
        more_is_better: false,
        value: us / 1e3,
    })
}

/// A plugin, the node that it is called on, and its network.
pub(super) struct Plugin {
    node: Netns,
    /// The program's directory.
    path: PathBuf,
    name: &'static str,
    /// File of the network's configuration.
    config: PathBuf,
}

impl Plugin {
    /// weft's, on a node with a network of its own (`cni.json`).
    ///
    /// # Errors
    /// There is no such node.
    pub(super) fn weft(peer: &Peer, place: &str, bin_dir: &Path) -> anyhow::Result<Plugin> {
        let config = peer.dir().join(place).join("cni.json");
        Ok(Plugin { node: peer.namespace(place)?, path: bin_dir.to_owned(), name: "weft-cni", config })
    }

    /// The reference plugins bridge and host-local, with a bridge of their own.
    fn reference(peer: &Peer) -> anyhow::Result<Plugin> {
        let has_both =
            |dir: &&str| ["bridge", "host-local"].iter().all(|name| Path::new(dir).join(name).exists());
        let dir = REFERENCE.iter().find(|dir| has_both(dir));
        let dir = dir.context("no reference plugins (Debian: containernetworking-plugins)")?;
        let config = peer.dir().join(NODE).join("cni.json");
        let text = json!({
            "cniVersion": "1.0.0", "name": "bench", "type": "bridge", "bridge": "bench0", "isGateway": true,
            "ipam": {
                "type": "host-local", "subnet": "10.99.0.0/24", "dataDir": peer.dir().join(NODE).join("host-local"),
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        });
        fs::write(&config, text.to_string()).context("writing the network's configuration")?;
        Ok(Plugin { node: peer.namespace(NODE)?, path: dir.into(), name: "bridge", config })
    }

    /// Wires all pods.
    ///
    /// # Errors
    /// That of the first call that fails.
    pub(super) fn add(&self, pods: &[String], at_once: bool) -> anyhow::Result<Histogram> {
        if !at_once {
            return self.in_turn("ADD", pods);
        }
        let times = std::thread::scope(|scope| {
            let calls: Vec<_> = pods.iter().map(|pod| scope.spawn(|| self.call("ADD", pod))).collect();
            calls.into_iter().map(|call| call.join().expect("no panic")).collect::<Vec<_>>()
        });
        times.into_iter().try_fold(Histogram::default(), record)
    }

    /// Takes the wires away again, from all that have any.
    ///
    /// # Errors
    /// That of the first call that fails.
    fn delete(&self, pods: &[String]) -> anyhow::Result<Histogram> {
        self.in_turn("DEL", pods)
    }

    fn in_turn(&self, verb: &str, pods: &[String]) -> anyhow::Result<Histogram> {
        // None is left out because of another.
        let times: Vec<_> = pods.iter().map(|pod| self.call(verb, pod)).collect();
        times.into_iter().try_fold(Histogram::default(), record)
    }

    /// One call; how long it took.
    fn call(&self, verb: &str, pod: &str) -> anyhow::Result<Duration> {
        let mut command = Command::new(self.path.join(self.name));
        command.env("CNI_COMMAND", verb).env("CNI_CONTAINERID", pod).env("CNI_IFNAME", "eth0");
        command.env("CNI_NETNS", Path::new(NAMED_DIR).join(pod)).env("CNI_PATH", &self.path);
        command.stdin(fs::File::open(&self.config)?).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A child is where the thread is that makes it.
        let (output, time) = self.node.run(|| {
            let begun = Instant::now();
            (command.output(), begun.elapsed())
        })?;
        let output = output.with_context(|| format!("starting {}", self.name))?;
        ensure!(output.status.success(), "{verb}: {}", String::from_utf8_lossy(&output.stdout).trim());
        Ok(time)
    }
}

fn record(mut times: Histogram, time: anyhow::Result<Duration>) -> anyhow::Result<Histogram> {
    times.record(time?);
    Ok(times)
}
