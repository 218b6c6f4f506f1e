//! What a node has made of the cluster file, beside what a fresh one makes of it.
//!
//! The fresh node has the same name and address, in a namespace of its own, and no past. Only what comes of the cluster
//! file is compared: ports, learnt stations and counters are each node's own.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};
use weft_api::{BlockingClient, Client, paths};

use super::lab::{Lab, Place};

/// What a tunnel is; the rest of it is what it did.
const TUNNEL: [&str; 7] = ["node", "remote", "udp_port", "vni", "mac", "layer2", "prefixes"];
/// The device of a node's own port.
const DEVICE: &str = "weft0";

/// Fails unless node 1 has, or soon has, the tables of a fresh node with that cluster file.
pub(super) fn equal_those_of_a_fresh_node(lab: &Lab, cluster: &str, most: Duration) -> anyhow::Result<()> {
    let fresh = Fresh::start(lab, cluster)?;
    let wanted = tables(&fresh.namespace, |path| Ok(fresh.api.get(path)?)).context("fresh node")?;
    let found = || tables(&lab.namespace_name(Place::Node(1)), |path| lab.ask(path));
    let equal = lab.eventually(most, "the tables differ", || found().is_ok_and(|found| found == wanted));
    equal.with_context(|| format!("wanted {wanted:#}\nfound {:#}", found().unwrap_or_default()))
}

/// A daemon without a past; dropped: killed, and its namespace goes with it.
struct Fresh {
    namespace: String,
    daemon: Child,
    api: BlockingClient,
    /// Its files; removed with it.
    dir: tempfile::TempDir,
}

impl Fresh {
    fn start(lab: &Lab, cluster: &str) -> anyhow::Result<Fresh> {
        let dir = tempfile::Builder::new().prefix("weft-chaos-").tempdir()?;
        let file = |name: &str| dir.path().join(name);
        fs::write(file("cluster.toml"), cluster)?;
        fs::write(file("weft.toml"), "")?;
        let socket = file("weft.sock");
        let mut words: Vec<std::ffi::OsString> = vec![lab.program().into()];
        for (flag, value) in [
            ("--config", file("weft.toml")),
            ("--cluster", file("cluster.toml")),
            ("--node", "n1".into()),
            ("--run-dir", file("run")),
            ("--state-dir", file("state")),
            ("--socket", socket.clone()),
            ("--cni-socket", file("cni.sock")),
        ] {
            words.extend([flag.into(), value.into()]);
        }
        // The namespace lives as long as the daemon: nobody else names it.
        let script = "ip link set lo up && ip link add eth0 type veth peer name uplink && ip link set uplink up && \
                      ip addr add 172.31.77.1/24 dev eth0 && ip link set eth0 up && exec \"$@\"";
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", script, "sh"]).args(words);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(file("log"))?);
        let daemon = command.spawn().context("starting a fresh daemon")?;
        let api = BlockingClient::new(Client::new(&socket))?;
        let fresh = Fresh { namespace: format!("/proc/{}/ns/net", daemon.id()), daemon, api, dir };
        let ready = fresh.api.wait_ready(Duration::from_secs(10));
        ready.with_context(|| fs::read_to_string(fresh.dir.path().join("log")).unwrap_or_default())?;
        Ok(fresh)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

/// Routes and tunnels of the daemon, and the kernel's routes through its device.
fn tables(namespace: &str, ask: impl Fn(&str) -> anyhow::Result<Value>) -> anyhow::Result<Value> {
    let tunnels = ask(paths::TUNNELS)?;
    let tunnels = tunnels.as_array().into_iter().flatten();
    let tunnels =
        tunnels.map(|tunnel| TUNNEL.iter().map(|key| (*key, tunnel[*key].clone())).collect::<Value>());
    Ok(json!({
        "tunnels": sorted(tunnels),
        "routes": sorted(ask(paths::ROUTES)?.as_array().into_iter().flatten().cloned()),
        "kernel": kernel_routes(namespace)?,
    }))
}

fn kernel_routes(namespace: &str) -> anyhow::Result<Value> {
    // nsenter takes a path of any namespace; ip knows names only.
    let path =
        if Path::new(namespace).is_absolute() { namespace.into() } else { format!("/run/netns/{namespace}") };
    let mut routes = Vec::new();
    for family in ["-4", "-6"] {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={path}")).args(["ip", family, "route", "show", "dev", DEVICE]);
        let output = command.stdin(Stdio::null()).output().context("starting nsenter")?;
        ensure!(output.status.success(), "ip route: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        routes.extend(text.lines().map(|line| Value::from(line.trim())));
    }
    Ok(sorted(routes))
}

fn sorted(values: impl IntoIterator<Item = Value>) -> Value {
    let mut values: Vec<Value> = values.into_iter().collect();
    values.sort_by_key(Value::to_string);
    values.into()
}
