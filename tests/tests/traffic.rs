//! Pods, nodes and the outside reach each other: same node, across nodes, both families, offloads on.

use std::collections::BTreeSet;

use serde_json::Value;
use weft_tests::datagrams::segmented;
use weft_tests::traffic::{hashed, hashed_both_ways, iperf, no_checksum_errors, ping, serve, talk};
use weft_tests::{Context, Lab, Node, Options, Result, as_root, ensure, eventually};

/// Ping, iperf3 in all shapes, bursts of datagrams and hashed transfers each way, between two namespaces over both
/// families. No checksum was wrong, there and on the nodes.
fn both_families(
    lab: &Lab,
    a: &weft_tests::Namespace,
    b: &weft_tests::Namespace,
    to: &str,
    to6: &str,
    full: bool,
) -> Result<()> {
    talk(lab, a, b, &[to.to_owned(), to6.to_owned()], full)
}

#[test]
fn pods_of_one_node() {
    as_root(|| {
        let lab = Lab::up(Options { nodes: 1, ..Options::default() })?;
        let node = &lab.nodes[0];
        let (a, b) = (node.pod("a")?, node.pod("b")?);
        both_families(&lab, &a.ns, &b.ns, &b.ip(), &b.ip6(), true)
    });
}

#[test]
fn local_tcp_costs_no_checksum_and_no_cut() {
    as_root(|| {
        let lab = Lab::up(Options { nodes: 1, ..Options::default() })?;
        let node = &lab.nodes[0];
        let (a, b) = (node.pod("a")?, node.pod("b")?);
        let _server = serve(&b.ns, 5201)?;
        iperf(&a.ns, &b.ip(), 5201, &["-t", "1"])?;
        iperf(&a.ns, &b.ip6(), 5201, &["-t", "1", "-P", "4"])?;
        ensure!(node.total("frames")? > 1000, "nothing counted: {}", node.weft(&["stats"])?);
        ensure!(node.total("checksums_computed")? == 0, "{}", node.weft(&["stats"])?);
        ensure!(node.total("superframes_cut")? == 0, "{}", node.weft(&["stats"])?);
        Ok(())
    });
}

#[test]
fn pods_across_nodes() {
    as_root(|| {
        let lab = Lab::up(Options::default())?;
        let (a, b) = (lab.nodes[0].pod("a")?, lab.nodes[1].pod("b")?);
        both_families(&lab, &a.ns, &b.ns, &b.ip(), &b.ip6(), true)?;
        let tunnels = lab.nodes[0].weft_json(&["tunnel"])?;
        let peer = &tunnels[0];
        ensure!(peer["tx_packets"].as_u64() > Some(0) && peer["rx_packets"].as_u64() > Some(0), "{tunnels}");
        ensure!(peer["last_heard_seconds"].as_u64() < Some(30), "{tunnels}");
        Ok(())
    });
}

#[test]
fn across_nodes_over_an_ipv6_underlay() {
    as_root(|| {
        let lab = Lab::up(Options { underlay6: true, ..Options::default() })?;
        let (a, b) = (lab.nodes[0].pod("a")?, lab.nodes[1].pod("b")?);
        both_families(&lab, &a.ns, &b.ns, &b.ip(), &b.ip6(), false)
    });
}

#[test]
fn across_nodes_with_the_underlays_offloads_off() {
    as_root(|| {
        let lab = Lab::up(Options::default())?;
        let (a, b) = (lab.nodes[0].pod("a")?, lab.nodes[1].pod("b")?);
        for node in &lab.nodes {
            node.ns.sh("ethtool -K eth0 tso off gso off gro off tx-udp-segmentation off")?;
        }
        both_families(&lab, &a.ns, &b.ns, &b.ip(), &b.ip6(), false)?;
        for node in &lab.nodes {
            node.ns.sh("ethtool -K eth0 tx off rx off")?;
        }
        both_families(&lab, &a.ns, &b.ns, &b.ip(), &b.ip6(), false)
    });
}

#[test]
fn jumbo_pods() {
    as_root(|| {
        let lab = Lab::up(Options { mtu: 9000, ..Options::default() })?;
        let (a, b, c) = (lab.nodes[0].pod("a")?, lab.nodes[1].pod("b")?, lab.nodes[0].pod("c")?);
        ensure!(a.ns.sh("cat /sys/class/net/eth0/mtu")?.trim() == "8950", "pod MTU is not 8950");
        both_families(&lab, &a.ns, &b.ns, &b.ip(), &b.ip6(), true)?;
        both_families(&lab, &a.ns, &c.ns, &c.ip(), &c.ip6(), true)?;
        both_families(&lab, &lab.nodes[0].ns, &b.ns, &b.ip(), &b.ip6(), true)?;
        both_families(&lab, &lab.nodes[0].ns, &c.ns, &c.ip(), &c.ip6(), false)?;
        // 8950 bytes of IPv4 packet: 20 of IP, 8 of ICMP
        let out = weft_tests::traffic::ping_df(&a.ns, &b.ip(), 8922)?;
        ensure!(out.contains("1 received"), "{out}");
        Ok(())
    });
}

#[test]
fn queues_of_a_port_are_shared_by_workers() {
    as_root(|| {
        let config = "workers = 2\n".to_owned();
        let mut lab = Lab::up(Options { nodes: 1, config, ..Options::default() })?;
        let (wide, b) = (weft_tests::Namespace::new("wide")?, lab.nodes[0].pod("b")?);
        let netns = format!("netns={}", wide.name());
        let address = "ip=10.244.1.200/24,fd00:244:0:1::200/64";
        lab.nodes[0].weft(&["add-port", "br0", "wide", &netns, address, "queues=2"])?;
        for life in ["made", "taken up again"] {
            let node = &lab.nodes[0];
            ensure!(node.weft_json(&["status"])?["workers"] == 2, "{}", node.weft(&["status"])?);
            let queues = wide.sh("ls -d /sys/class/net/eth0/queues/*")?;
            ensure!(queues.lines().count() == 4, "{life}: {queues}");
            for to in ["10.244.1.200", "fd00:244:0:1::200"] {
                hashed(&b.ns, &wide, to, 10)?;
            }
            for to in [b.ip(), b.ip6()] {
                hashed(&wide, &b.ns, &to, 10)?;
            }
            let _server = serve(&b.ns, 5201)?;
            // The kernel chooses a queue for each flow.
            eventually(30, || {
                iperf(&wide, &b.ip(), 5201, &["-t", "1", "-P", "16"])?;
                let flows = node.weft_json(&["flow", "dump"])?;
                let of_port = flows.as_array().into_iter().flatten().filter(|flow| flow["ingress"] == "wide");
                let workers: BTreeSet<_> = of_port.filter_map(|flow| flow["worker"].as_u64()).collect();
                ensure!(workers == BTreeSet::from([0, 1]), "{life}: flows of both queues at {workers:?}");
                Ok(())
            })?;
            no_checksum_errors([&wide, &b.ns])?;
            lab.nodes[0].kill()?;
            lab.nodes[0].start()?;
        }
        Ok(())
    });
}

#[test]
fn node_and_pods_reach_each_other() {
    as_root(|| {
        let lab = Lab::up(Options::default())?;
        let [n1, n2] = &lab.nodes[..] else { unreachable!("two nodes") };
        let (a, b) = (n1.pod("a")?, n2.pod("b")?);
        for pod in [&a, &b] {
            both_families(&lab, &n1.ns, &pod.ns, &pod.ip(), &pod.ip6(), true)?;
        }
        // the other way: the gateway address of either node, and both nodes' underlay addresses
        for to in
            ["10.244.1.1", "10.244.2.1", "fd00:244:0:1::1", "fd00:244:0:2::1", "172.30.0.1", "172.30.0.2"]
        {
            ping(&a.ns, to, 5)?;
        }
        for (node, to, to6) in [(n1, "10.244.1.1", "fd00:244:0:1::1"), (n2, "10.244.2.1", "fd00:244:0:2::1")]
        {
            let _server = serve(&node.ns, 5201)?;
            for to in [to, to6] {
                for shape in [&["-n", "60M"][..], &["-u", "-b", "60M", "-n", "4M", "-l", "1200"]] {
                    let measured = iperf(&a.ns, to, 5201, shape)?;
                    ensure!(measured.bits_per_second > 1e6, "{shape:?} to {to}: {measured:?}");
                    ensure!(measured.lost_percent < 10.0, "{shape:?} to {to}: {measured:?}");
                }
                hashed_both_ways(&a.ns, &node.ns, to, 5)?;
            }
        }
        hashed(&a.ns, &n2.ns, "172.30.0.2", 5)?;
        no_checksum_errors([&a.ns, &n1.ns, &n2.ns])?;
        // a process that insists on the underlay address still gets its answer
        n1.ns.sh(&format!("ping -n -q -c 2 -W 2 -I 172.30.0.1 {}", b.ip()))?;
        n1.ns.sh(&format!("ping -n -q -c 2 -W 2 -I 172.30.0.1 {}", a.ip()))?;
        Ok(())
    });
}

#[test]
fn pods_reach_the_outside_through_the_node() {
    as_root(|| {
        let lab = Lab::up(Options { nodes: 1, ..Options::default() })?;
        let outside = weft_tests::Namespace::new("outside")?;
        weft_tests::lab::join(&lab.underlay, &outside, 9, &Options::default())?;
        let a = lab.nodes[0].pod("a")?;
        // the outside knows no way to pods: an answer proves the masquerade
        ping(&a.ns, "172.30.0.9", 5)?;
        ping(&a.ns, "fd00:5::9", 5)?;
        hashed(&a.ns, &outside, "172.30.0.9", 5)
    });
}

#[test]
fn every_offload_off_still_works() {
    as_root(|| {
        let lab = Lab::up(Options::default())?;
        let (n1, b) = (&lab.nodes[0], lab.nodes[1].pod("b")?);
        let c = n1.pod("c")?;
        // what is taken away, and what is left
        for (index, (off, left)) in [
            ("csum,tso4,tso6,ecn,uso", &[][..]),
            ("csum", &[]),
            ("tso4", &["csum", "tso6", "ecn", "uso"]),
            ("tso6", &["csum", "tso4", "ecn", "uso"]),
            ("tso4,tso6", &["csum", "uso"]),
            ("ecn", &["csum", "tso4", "tso6", "uso"]),
            ("uso", &["csum", "tso4", "tso6", "ecn"]),
        ]
        .into_iter()
        .enumerate()
        {
            let pod = weft_tests::Namespace::new("hand")?;
            let port = format!("hand{index}");
            let (ip, ip6) = (format!("10.244.1.{}", 200 + index), format!("fd00:244:0:1::{}", 200 + index));
            let (netns, address) = (format!("netns={}", pod.name()), format!("ip={ip}/24,{ip6}/64"));
            n1.weft(&["add-port", "br0", &port, &netns, &address, &format!("offloads-off={off}")])?;
            let shown = shown(n1, &port)?["offloads"].clone();
            ensure!(shown == serde_json::json!(left), "without {off}: {shown}");
            for (server, to) in [(&c.ns, c.ip()), (&b.ns, b.ip()), (&c.ns, c.ip6()), (&b.ns, b.ip6())] {
                ping(&pod, &to, 3)?;
                if off.ends_with("uso") || off == "ecn" {
                    let sent = superframes(n1, &port, || segmented(&pod, server, &to))?;
                    ensure!(sent == left.contains(&"uso"), "without {off}, UDP superframes: {sent}");
                }
                let tso = if to.contains(':') { "tso6" } else { "tso4" };
                let sent = superframes(n1, &port, || hashed(&pod, server, &to, 4))?;
                ensure!(sent == left.contains(&tso), "without {off}, TCP superframes to {to}: {sent}");
            }
            for to in [&ip, &ip6] {
                hashed(&c.ns, &pod, to, 4)?;
                hashed(&b.ns, &pod, to, 4)?;
            }
            no_checksum_errors([&pod, &b.ns, &c.ns, &n1.ns, &lab.nodes[1].ns])?;
            n1.weft(&["del-port", &port])?;
        }
        Ok(())
    });
}

/// A port as `weft show` describes it.
fn shown(node: &Node, port: &str) -> Result<Value> {
    let all = node.weft_json(&["show"])?;
    let found = all["ports"].as_array().and_then(|ports| ports.iter().find(|p| p["spec"]["name"] == port));
    found.cloned().with_context(|| format!("{port} is not shown: {all}"))
}

/// Whether what came from a port during a transfer were superframes: on average longer than any other frame.
fn superframes(node: &Node, port: &str, transfer: impl FnOnce() -> Result<()>) -> Result<bool> {
    let counted = || -> Result<[u64; 2]> {
        let shown = shown(node, port)?;
        let counter = |name: &str| shown["counters"][name].as_u64().context("no counters");
        Ok([counter("rx_frames")?, counter("rx_bytes")?])
    };
    let before = counted()?;
    transfer()?;
    let after = counted()?;
    Ok((after[1] - before[1]) / (after[0] - before[0]).max(1) > 1514)
}

/// A firewall of the host that accepts the tunnel by state needs `notrack = false`; any other sees untracked packets.
#[test]
fn the_tunnel_is_tracked_only_when_told() {
    as_root(|| {
        for (config, state) in [("", "untracked"), ("notrack = false", "new,established")] {
            let lab = Lab::up(Options { config: config.to_owned(), ..Options::default() })?;
            let (a, b) = (lab.nodes[0].pod("a")?, lab.nodes[1].pod("b")?);
            for node in &lab.nodes {
                node.ns.sh(&format!(
                    "nft 'add table inet host; add chain inet host in {{ type filter hook input priority filter; policy accept; }}; \
                     add rule inet host in ct state {state} udp dport 4789 accept; add rule inet host in udp dport 4789 drop'"
                ))?;
            }
            ping(&a.ns, &b.ip(), 5)?;
            hashed(&a.ns, &b.ns, &b.ip(), 4)?;
        }
        Ok(())
    });
}
