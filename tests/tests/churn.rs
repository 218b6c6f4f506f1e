//! Changes of configuration lose nothing.

use std::process::Command;

use anyhow::Context as _;
use weft_tests::ns::output;
use weft_tests::traffic::{iperf, serve};
use weft_tests::{Lab, Namespace, Node, Options, Result, as_root, ensure, eventually};

#[test]
fn five_hundred_ports_come_and_go_under_load() {
    as_root(|| {
        let lab = Lab::up(Options::default())?;
        let node = &lab.nodes[0];
        let (a, b, c) = (node.pod("a")?, node.pod("b")?, lab.nodes[1].pod("c")?);
        let ns = Namespace::new("many")?;
        let _servers = (serve(&b.ns, 5201)?, serve(&c.ns, 5201)?);
        // an equal window without changes, for comparison
        let limit = ["-t", "8", "-b", "200M"];
        let start = sent_again(&a.ns)?;
        iperf(&a.ns, &b.ip(), 5201, &limit)?;
        let quiet = sent_again(&a.ns)? - start;
        // What the switch lost is counted exactly. A sender that waits for a CPU probes for a lost tail, for nothing, and
        // the answer to its last probe may come after the connection's end: of three windows the best counts.
        let lost = || -> Result<u64> {
            ["queue-full", "port-down", "no-buffer", "no-neighbour", "no-route"]
                .iter()
                .map(|r| node.drops(r))
                .sum()
        };
        let before = lost()?;
        let mut least = i64::MAX;
        for _ in 0..3 {
            let start = sent_again(&a.ns)?;
            let mut load =
                a.ns.spawn("iperf3", &[&["-c", &b.ip(), "-p", "5201", "-J"], &limit[..]].concat())?;
            let mut pings: Vec<_> = [b.ip(), c.ip()]
                .iter()
                .map(|to| a.ns.spawn("ping", &["-n", "-q", "-i", "0.001", "-W", "2", "-c", "7000", to]))
                .collect::<Result<_>>()?;
            come_and_go(node, &ns)?;
            for running in pings.iter_mut().chain([&mut load]) {
                ensure!(running.runs()?, "the changes took longer than the traffic");
            }
            for ping in pings {
                let (out, _, _) = ping.finish()?;
                ensure!(out.contains(" 0% packet loss"), "pings were lost: {out}");
            }
            let (out, errors, ok) = load.finish()?;
            ensure!(ok, "{out} {errors}");
            least = least.min(sent_again(&a.ns)? - start);
            ensure!(lost()? == before, "the switch lost frames: {}", node.weft(&["drops"])?);
            if least <= quiet {
                break;
            }
        }
        ensure!(least <= quiet, "{least} retransmits, {quiet} without changes");
        eventually(10, || {
            let left = output({
                let mut command = Command::new("ip");
                command.args(["-n", ns.name(), "-o", "link"]);
                command
            })?;
            ensure!(left.lines().count() == 1, "devices are left: {left}");
            Ok(())
        })
    });
}

/// Segments that a namespace had to send again: those sent again, less those of which the receiver said that it had them
/// (RFC 2883).
fn sent_again(ns: &Namespace) -> Result<i64> {
    let text = ns.sh("nstat -asz TcpRetransSegs TcpExtTCPDSACKRecv")?;
    let count = |name| {
        let words = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let found =
            words.filter(|words| words.first() == Some(&name)).find_map(|words| words.get(1)?.parse().ok());
        found.with_context(|| format!("no {name}: {text}"))
    };
    let (again, needless): (i64, i64) = (count("TcpRetransSegs")?, count("TcpExtTCPDSACKRecv")?);
    Ok(again - needless)
}

/// Makes 500 ports, ten in a transaction, and removes them; half at a time.
fn come_and_go(node: &Node, ns: &Namespace) -> Result<()> {
    for _ in 0..2 {
        for tens in 0..25 {
            let mut add = vec![];
            for one in 0..10 {
                let name = format!("m{tens}x{one}");
                if !add.is_empty() {
                    add.push("--".to_owned());
                }
                let netns = format!("netns={}", ns.name());
                add.extend(["add-port".into(), "br0".into(), name.clone(), netns, format!("ifname={name}")]);
            }
            node.weft(&add.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        for tens in 0..25 {
            let names: Vec<String> = (0..10).map(|one| format!("m{tens}x{one}")).collect();
            let args: Vec<&str> = names.iter().flat_map(|name| ["del-port", name.as_str(), "--"]).collect();
            node.weft(&args[..args.len() - 1])?;
        }
    }
    Ok(())
}

#[test]
fn cluster_file_edits_are_followed_and_bad_ones_are_not() {
    as_root(|| {
        let mut lab = Lab::up(Options::default())?;
        let (a, b) = (lab.nodes[0].pod("a")?, lab.nodes[1].pod("b")?);
        let ping = a.ns.spawn("ping", &["-n", "-q", "-i", "0.002", "-W", "2", "-c", "2500", &b.ip()])?;
        let good = lab.cluster(2);
        lab.nodes[0].expect_log("cluster");
        for index in 3..8 {
            lab.nodes[0].write_cluster(&lab.cluster(index))?;
            eventually(5, || {
                let tunnels = lab.nodes[0].weft_json(&["tunnel"])?;
                ensure!(tunnels.as_array().is_some_and(|t| t.len() == index - 1), "{tunnels}");
                Ok(())
            })?;
        }
        lab.nodes[0].write_cluster(&good.replace("10.244.2.0/24", "10.244.2.0/99"))?;
        eventually(5, || {
            let status = lab.nodes[0].weft_json(&["status"])?;
            let error = status["cluster"]["error"].as_str().unwrap_or_default().to_owned();
            ensure!(error.contains("cluster.toml:") && error.contains("10.244.2.0/99"), "{status}");
            Ok(())
        })?;
        ensure!(
            lab.nodes[0].weft_json(&["tunnel"])?.as_array().is_some_and(|t| t.len() == 6),
            "the last good one went"
        );
        lab.nodes[0].write_cluster(&good)?;
        eventually(5, || {
            ensure!(
                lab.nodes[0].weft_json(&["tunnel"])?.as_array().is_some_and(|t| t.len() == 1),
                "not followed"
            );
            Ok(())
        })?;
        let (out, _, _) = ping.finish()?;
        ensure!(out.contains(" 0% packet loss"), "{out}");
        Ok(())
    });
}
