//! The cluster file changes while no daemon runs: after the start a node is as a fresh one with that file and those pods.

use std::fmt::Write;

use serde_json::{Value, json};
use weft_tests::traffic::{ping, serve};
use weft_tests::{Lab, Namespace, Node, Options, Result, as_root, ensure, eventually};

/// What a tunnel is; the rest of it is what it did.
const TUNNEL: [&str; 7] = ["node", "remote", "udp_port", "vni", "mac", "layer2", "prefixes"];

/// A cluster file of these nodes: number, and last part of the underlay address.
fn cluster(nodes: &[(u32, u32)]) -> String {
    let mut text = String::from("[cluster]\ncidrs = [\"10.244.0.0/16\", \"fd00:244::/48\"]\n");
    for (number, address) in nodes {
        let _ = write!(
            text,
            "\n[[node]]\nname = \"n{number}\"\nunderlay = \"172.30.0.{address}\"\npod_cidrs = [\"10.244.{number}.0/24\", \"fd00:244:0:{number}::/64\"]\n"
        );
    }
    text
}

/// Two pods with the same container ids on whatever node.
fn pods(node: &Node) -> Result<[Namespace; 2]> {
    let pods = [Namespace::new("one")?, Namespace::new("two")?];
    for (pod, id) in pods.iter().zip(["one", "two"]) {
        node.cni().add(id, &pod.path())?;
    }
    Ok(pods)
}

fn sorted(values: impl IntoIterator<Item = Value>) -> Value {
    let mut values: Vec<Value> = values.into_iter().collect();
    values.sort_by_key(Value::to_string);
    values.into()
}

/// The tables of a daemon, and the kernel's; without what time and traffic alone put there.
fn tables(node: &Node) -> Result<Value> {
    let list = |verb: &[&str]| -> Result<Vec<Value>> {
        Ok(node.weft_json(verb)?.as_array().cloned().unwrap_or_default())
    };
    let without_age = |mut entry: Value| {
        if let Some(entry) = entry.as_object_mut() {
            entry.remove("age_seconds");
        }
        entry
    };
    let tunnels = list(&["tunnel"])?;
    let tunnels =
        tunnels.iter().map(|tunnel| TUNNEL.iter().map(|key| (*key, tunnel[*key].clone())).collect::<Value>());
    let neighbours = list(&["neigh", "show"])?.into_iter().filter(|entry| !entry["owner"].is_null());
    let kernel = "ip -4 route show table all; ip -6 route show table all; ip neigh show nud permanent; ip rule; ip -6 rule";
    let kernel = node.ns.sh(kernel)?;
    let kernel =
        kernel.lines().map(str::trim).filter(|line| !line.contains("eth0") && !line.contains("uplink"));
    Ok(json!({
        "routes": sorted(list(&["route", "show"])?),
        "tunnels": sorted(tunnels),
        "neighbours": sorted(neighbours.map(without_age)),
        "fdb": sorted(list(&["fdb", "show"])?.into_iter().map(without_age)),
        "kernel": sorted(kernel.map(Value::from)),
        "rules": node.ns.sh("nft list table inet weft 2>/dev/null | grep -v counter || true")?,
    }))
}

#[test]
fn the_tables_are_those_of_a_fresh_node() {
    as_root(|| {
        let mut lab = Lab::wired(Options { nodes: 3, ..Options::default() })?;
        let before = cluster(&[(1, 1), (2, 2), (3, 3), (4, 4)]);
        for node in &mut lab.nodes {
            node.write_cluster(&before)?;
            node.start()?;
        }
        let here = pods(&lab.nodes[0])?;
        let (stays, goes) = (lab.nodes[1].pod("s")?, lab.nodes[2].pod("g")?);
        ping(&here[0], &stays.ip(), 3)?;
        ping(&here[1], &goes.ip6(), 3)?;
        let _server = serve(&stays.ns, 5201)?;
        let stream = here[0].spawn("iperf3", &["-c", &stays.ip(), "-t", "6", "-b", "50M", "-J"])?;
        std::thread::sleep(std::time::Duration::from_millis(500));

        // One is removed, one added, one moved.
        let after = cluster(&[(1, 1), (2, 2), (4, 14), (5, 5)]);
        lab.nodes[0].kill()?;
        lab.nodes[0].write_cluster(&after)?;
        lab.nodes[0].start()?;

        let mut fresh = Node::new("n1")?;
        fresh.ns.sh("ip link add eth0 type veth peer name uplink; ip link set uplink up; ip addr add 172.30.0.1/24 dev eth0; ip addr add fd00:5::1/64 dev eth0 nodad; ip link set eth0 up")?;
        fresh.write_cluster(&after)?;
        fresh.start()?;
        let _same = pods(&fresh)?;
        // Addresses that the kernel gives by itself take their time.
        eventually(5, || {
            let (found, wanted) = (tables(&lab.nodes[0])?, tables(&fresh)?);
            ensure!(found == wanted, "wanted {wanted:#}\nfound {found:#}");
            Ok(())
        })?;
        let found = tables(&lab.nodes[0])?.to_string();
        for gone in ["10.244.3.", "fd00:244:0:3:", "172.30.0.3\"", "172.30.0.4\""] {
            ensure!(!found.contains(gone), "{gone} is still there: {found}");
        }
        for there in ["10.244.5.0/24", "172.30.0.14", "172.30.0.5"] {
            ensure!(found.contains(there), "{there} is not there: {found}");
        }
        // What the removed one still sends is a stranger's.
        let strangers = lab.nodes[0].drops("tunnel-stranger")?;
        ensure!(goes.ns.sh("ping -n -c 2 -W 1 10.244.1.2").is_err(), "a removed node is still served");
        ensure!(lab.nodes[0].drops("tunnel-stranger")? > strangers, "not dropped as a stranger's");

        let (out, errors, ok) = stream.finish()?;
        ensure!(ok, "the stream to the node that stayed broke: {out}{errors}");
        ping(&here[0], &stays.ip(), 5)?;
        ping(&stays.ns, "10.244.1.1", 3)
    });
}
