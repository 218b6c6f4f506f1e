//! A bigger MTU between pods of one node (`local_mtu`): what fits passes whole, and whoever sends elsewhere knows better.

use rustix::process::Signal;
use weft_tests::ns::signal;
use weft_tests::traffic::{hashed, iperf, ping_df, serve};
use weft_tests::{Lab, Namespace, Node, Options, Pod, Result, as_root, ensure, eventually};

const BIG: &str = "local_mtu = 65521\n";

fn lab(nodes: usize, config: &str) -> Result<Lab> {
    Lab::up(Options { nodes, config: config.into(), ..Options::default() })
}

fn mtu(ns: &Namespace, device: &str) -> Result<u32> {
    Ok(ns.sh(&format!("cat /sys/class/net/{device}/mtu"))?.trim().parse()?)
}

/// Packets of 60,000 bytes and of the MTU.
fn passes_whole(from: &Namespace, to: &str) -> Result<()> {
    let headers = if to.contains(':') { 40 + 8 } else { 20 + 8 };
    for size in [60_000, 65_521 - headers] {
        let out = ping_df(from, to, size)?;
        ensure!(out.contains("1 received"), "{size} bytes from {} to {to}: {out}", from.name());
    }
    Ok(())
}

/// Datagrams of 60,000 bytes, one way.
fn long_datagrams(from: &Namespace, server: &Namespace, to: &str) -> Result<()> {
    let _server = serve(server, 5202)?;
    let measured = iperf(from, to, 5202, &["-u", "-l", "60000", "-b", "100M", "-t", "1"])?;
    ensure!(measured.bits_per_second > 50e6 && measured.lost_percent < 5.0, "to {to}: {measured:?}");
    Ok(())
}

/// Everything that two namespaces of one node can send each other, one way.
fn all_local(from: &Namespace, server: &Namespace, to: [&str; 2]) -> Result<()> {
    for to in to {
        passes_whole(from, to)?;
        long_datagrams(from, server, to)?;
        hashed(from, server, to, 10)?;
    }
    Ok(())
}

fn addresses(pod: &Pod) -> [String; 2] {
    [pod.ip(), pod.ip6()]
}

fn restart(node: &mut Node, kill: bool) -> Result<()> {
    if kill {
        node.kill()?;
    } else {
        node.stop()?;
    }
    node.start()
}

#[test]
fn big_packets_pass_on_a_node_and_stay_there() {
    as_root(|| {
        let lab = lab(2, BIG)?;
        let (a, b, c) = (lab.nodes[0].pod("a")?, lab.nodes[0].pod("b")?, lab.nodes[1].pod("c")?);
        ensure!(mtu(&a.ns, "eth0")? == 65_521 && mtu(&lab.nodes[0].ns, "weft0")? == 65_521, "MTU of devices");
        let node = &lab.nodes[0].ns;
        let (to_b, to_a) = (addresses(&b), addresses(&a));
        all_local(&a.ns, &b.ns, [&to_b[0], &to_b[1]])?;
        all_local(&a.ns, node, ["10.244.1.1", "fd00:244:0:1::1"])?;
        all_local(node, &a.ns, [&to_a[0], &to_a[1]])?;
        let before = lab.nodes[0].drops("too-big")?;
        ensure!(before == 0, "dropped on the way: {before}");
        // other nodes: TCP offers what the tunnel carries, so nothing is too big, and superframes leave in one send
        for (from, server, to) in [
            (&a.ns, &c.ns, c.ip()),
            (&a.ns, &c.ns, c.ip6()),
            (&c.ns, &a.ns, a.ip()),
            (&c.ns, &a.ns, a.ip6()),
            (node, &c.ns, c.ip()),
            (node, &c.ns, c.ip6()),
        ] {
            hashed(from, server, &to, 10)?;
            let _server = serve(server, 5201)?;
            let measured = iperf(from, &to, 5201, &["-t", "1"])?;
            ensure!(measured.bits_per_second > 1e8, "to {to}: {measured:?}");
        }
        for to in [c.ip(), c.ip6()] {
            long_datagrams(&a.ns, &c.ns, &to)?;
            let out = ping_df(&a.ns, &to, 2000)?;
            ensure!(out.contains("mtu: 1450") || out.contains("mtu=1450"), "the pod does not know: {out}");
        }
        for node in &lab.nodes {
            ensure!(node.drops("too-big")? == 0, "dropped: {}", node.weft(&["drops"])?);
            ensure!(node.total("fragments_made")? == 0, "{}", node.weft(&["stats"])?);
            ensure!(node.total("segment_fallbacks")? == 0, "{}", node.weft(&["stats"])?);
        }
        // a pod that has lost the MTUs of its routes is told
        a.ns.sh("ip route replace default via 10.244.1.1 dev eth0 proto 157; ip -6 route replace default via fd00:244:0:1::1 dev eth0 proto 157")?;
        for to in [c.ip(), c.ip6()] {
            let out = ping_df(&a.ns, &to, 60_000)?;
            ensure!(out.contains("mtu = 1450") || out.contains("mtu=1450"), "not told: {out}");
            hashed(&a.ns, &c.ns, &to, 10)?;
        }
        a.ns.sh("ip route flush cache")?;
        let out = a.ns.sh(&format!("ping -n -M dont -s 9000 -c 3 -i 0.1 -W 2 {}", c.ip()))?;
        ensure!(out.contains("3 received") && lab.nodes[0].total("fragments_made")? >= 21, "{out}");
        Ok(())
    });
}

#[test]
fn the_plugin_says_and_checks_it() {
    as_root(|| {
        let lab = lab(1, BIG)?;
        let node = &lab.nodes[0];
        let ns = Namespace::new("v")?;
        for version in ["1.0.0", "1.1.0"] {
            let cni = || node.cni().version(version);
            let result = cni().add(ns.name(), &ns.path())?;
            let told = version == "1.1.0";
            ensure!((result["interfaces"][0]["mtu"] == 65_521) == told, "{result}");
            let routes = result["routes"].as_array().cloned().unwrap_or_default();
            ensure!(routes.len() == 2 && routes.iter().all(|r| (r["mtu"] == 1450) == told), "{result}");
            cni().check(ns.name(), &ns.path(), &result)?;
            // another plugin may give the pod a smaller device
            ns.sh("ip link set eth0 mtu 1400")?;
            cni().check(ns.name(), &ns.path(), &result)?;
            ns.sh("ip link set eth0 mtu 65521; ip -6 route replace default via fd00:244:0:1::1 dev eth0")?;
            let checked = cni().check(ns.name(), &ns.path(), &result);
            ensure!(checked.is_err() == told, "a route without MTU: {checked:?}");
            cni().del(ns.name(), &ns.path())?;
        }
        // who asks for an MTU gets a device of that
        let result = node.cni().with(serde_json::json!({ "mtu": 1400 })).add(ns.name(), &ns.path())?;
        ensure!(mtu(&ns, "eth0")? == 1400, "{result}");
        ensure!(!ns.sh("ip route; ip -6 route")?.contains("mtu"), "{}", ns.sh("ip route")?);
        Ok(())
    });
}

#[test]
fn pods_of_before_keep_theirs_and_all_outlive_the_daemon() {
    as_root(|| {
        let mut lab = lab(2, "")?;
        let remote = lab.nodes[1].pod("r")?;
        let node = &mut lab.nodes[0];
        let old = node.pod("o")?;
        std::fs::write(node.file("weft.toml"), BIG)?;
        signal(node.pid(), Signal::HUP)?;
        eventually(5, || {
            ensure!(mtu(&node.ns, "weft0")? == 65_521, "weft0 does not follow");
            Ok(())
        })?;
        let (new, other) = (node.pod("n")?, node.pod("m")?);
        for round in ["at first", "after a stop", "after a kill"] {
            match round {
                "after a stop" => restart(node, false)?,
                "after a kill" => restart(node, true)?,
                _ => {}
            }
            let found = (mtu(&old.ns, "eth0")?, mtu(&new.ns, "eth0")?);
            ensure!(found == (1450, 65_521), "{round}: {found:?}");
            for (to_old, to_new, to_other, to_remote) in [
                (old.ip(), new.ip(), other.ip(), remote.ip()),
                (old.ip6(), new.ip6(), other.ip6(), remote.ip6()),
            ] {
                passes_whole(&new.ns, &to_other)?;
                hashed(&new.ns, &old.ns, &to_old, 5)?;
                hashed(&old.ns, &new.ns, &to_new, 5)?;
                hashed(&node.ns, &old.ns, &to_old, 5)?;
                hashed(&new.ns, &remote.ns, &to_remote, 5)?;
                // the first long one is lost and its sender told; without that ping, a connected socket would hear it
                new.ns.sh("ip route flush cache; ip -6 route flush cache")?;
                let out = ping_df(&new.ns, &to_old, 60_000)?;
                ensure!(out.contains("mtu = 1450") || out.contains("mtu=1450"), "{round}: not told: {out}");
                long_datagrams(&new.ns, &old.ns, &to_old)?;
                long_datagrams(&old.ns, &new.ns, &to_new)?;
            }
            new.ns.sh("ip route flush cache")?;
            let before = node.total("fragments_made")?;
            let out = new.ns.sh(&format!("ping -n -M dont -s 9000 -c 1 -W 2 {}", old.ip()))?;
            ensure!(out.contains("1 received"), "{round}: without DF: {out}");
            ensure!(node.total("fragments_made")? >= before + 7, "{round}: who made fragments?");
        }
        ensure!(node.weft(&["show"])?.contains("local-mtu  65521"), "{}", node.weft(&["show"])?);
        // the other way: new pods are as they were without
        std::fs::write(node.file("weft.toml"), "")?;
        signal(node.pid(), Signal::HUP)?;
        eventually(5, || {
            ensure!(mtu(&node.ns, "weft0")? == 1450, "weft0 does not follow");
            Ok(())
        })?;
        let last = node.pod("l")?;
        ensure!(mtu(&last.ns, "eth0")? == 1450 && mtu(&new.ns, "eth0")? == 65_521, "MTU of devices");
        hashed(&new.ns, &node.ns, "10.244.1.1", 5)?;
        hashed(&node.ns, &new.ns, &new.ip6(), 5)
    });
}

#[test]
fn an_upgrade_keeps_it_and_routes_follow_the_underlay() {
    as_root(|| {
        let options = Options { config: BIG.into(), keeper: Some(Vec::new()), ..Options::default() };
        let mut lab = Lab::up(options)?;
        let (a, b) = (lab.nodes[0].pod("a")?, lab.nodes[0].pod("b")?);
        let c = lab.nodes[1].pod("c")?;
        lab.nodes[0].weft_json(&["upgrade"])?;
        ensure!(mtu(&a.ns, "eth0")? == 65_521, "MTU after an upgrade");
        passes_whole(&a.ns, &b.ip())?;
        let routes = |ns: &Namespace, wanted: &str| {
            eventually(5, || {
                let found = ns.sh("ip route show default; ip -6 route show default")?;
                ensure!(found.matches(wanted).count() == 2, "{wanted}? {found}");
                Ok(())
            })
        };
        // while the daemon runs
        for node in &lab.nodes {
            node.ns.sh("ip link set eth0 mtu 1400")?;
        }
        routes(&a.ns, "mtu 1350")?;
        hashed(&a.ns, &c.ns, &c.ip(), 5)?;
        hashed(&lab.nodes[0].ns, &c.ns, &c.ip6(), 5)?;
        // and while none does
        let node = &mut lab.nodes[0];
        signal(node.pid(), Signal::KILL)?;
        node.ns.sh("ip link set eth0 mtu 1360")?;
        eventually(10, || {
            ensure!(node.weft_json(&["status"])?["ready"] == true, "not ready");
            Ok(())
        })?;
        routes(&a.ns, "mtu 1310")?;
        ensure!(mtu(&a.ns, "eth0")? == 65_521, "MTU of the device");
        passes_whole(&a.ns, &b.ip6())?;
        hashed(&a.ns, &c.ns, &c.ip6(), 5)
    });
}

#[test]
fn bridges_of_the_operator_have_it_unless_other_nodes_are_on_link() {
    as_root(|| {
        let lab = lab(1, "")?;
        let node = &lab.nodes[0];
        let pods: Vec<Namespace> = ["p", "q"].into_iter().map(Namespace::new).collect::<Result<_>>()?;
        node.weft(&["add-br", "br1", "gateway=10.9.0.1/24,fd09::1/64", "local-mtu=9000", "mtu=1400"])?;
        for (index, ns) in pods.iter().enumerate() {
            let (netns, host) = (format!("netns={}", ns.name()), index + 2);
            let ip = format!("ip=10.9.0.{host}/24,fd09::{host}/64");
            node.weft(&["add-port", "br1", &format!("p{host}"), &netns, &ip])?;
            ensure!(mtu(ns, "eth0")? == 9000, "MTU {}", mtu(ns, "eth0")?);
            ensure!(ns.sh("ip route show default")?.contains("mtu 1400"), "{}", ns.sh("ip route")?);
        }
        for to in ["10.9.0.3", "fd09::3"] {
            ensure!(ping_df(&pods[0], to, 8900)?.contains("1 received"), "8900 bytes to {to}");
        }
        node.weft(&["add-port", "br1", "seg", "type=vxlan", "vni=7", "remote=172.30.0.9"])?;
        for ns in &pods {
            ensure!(
                mtu(ns, "eth0")? == 1400 && !ns.sh("ip route")?.contains("mtu"),
                "{}",
                ns.sh("ip route")?
            );
        }
        Ok(())
    });
}
