//! Too-big packets get an answer, a changed underlay is followed, forged answers stop nothing.

use weft_tests::traffic::{hashed, iperf, ping, ping_df, serve};
use weft_tests::{Lab, Options, as_root, ensure, eventually};

#[test]
fn too_big_is_answered_and_tcp_recovers() {
    as_root(|| {
        let lab = Lab::up(Options::default())?;
        let (a, b) = (lab.nodes[0].pod("a")?, lab.nodes[1].pod("b")?);
        // pods believe in more than the tunnel carries, so only the switch's answers can tell them
        for pod in [&a, &b] {
            pod.ns.sh("ip link set eth0 mtu 3000")?;
        }
        let out = ping_df(&a.ns, &b.ip(), 2000)?;
        ensure!(out.contains("mtu = 1450") || out.contains("mtu=1450"), "no Fragmentation Needed: {out}");
        let out = ping_df(&a.ns, &b.ip6(), 2000)?;
        ensure!(out.contains("mtu = 1450") || out.contains("mtu=1450"), "no Packet Too Big: {out}");
        hashed(&a.ns, &b.ns, &b.ip(), 10)?;
        hashed(&a.ns, &b.ns, &b.ip6(), 10)?;
        ensure!(lab.nodes[0].drops("too-big")? > 0, "nothing counted");
        let route = a.ns.sh(&format!("ip route get {}", b.ip()))?;
        ensure!(route.contains("mtu 1450"), "the path MTU is not learnt: {route}");
        Ok(())
    });
}

#[test]
fn without_df_it_is_fragmented() {
    as_root(|| {
        let lab = Lab::up(Options::default())?;
        let (a, b) = (lab.nodes[0].pod("a")?, lab.nodes[1].pod("b")?);
        a.ns.sh("ip link set eth0 mtu 3000")?;
        let out = a.ns.sh(&format!("ping -n -M dont -s 2500 -c 3 -i 0.1 -W 2 {}", b.ip()))?;
        ensure!(out.contains("3 received"), "{out}");
        ensure!(lab.nodes[0].total("fragments_made")? >= 6, "{}", lab.nodes[0].weft(&["stats"])?);
        Ok(())
    });
}

#[test]
fn fragments_of_the_sender_pass() {
    as_root(|| {
        let lab = Lab::up(Options::default())?;
        let (a, b, c) = (lab.nodes[0].pod("a")?, lab.nodes[1].pod("b")?, lab.nodes[0].pod("c")?);
        for to in [b.ip(), c.ip(), b.ip6(), c.ip6()] {
            let out = a.ns.sh(&format!("ping -n -s 9000 -c 3 -i 0.1 -W 2 {to}"))?;
            ensure!(out.contains("3 received"), "{out}");
        }
        Ok(())
    });
}

#[test]
fn a_smaller_underlay_is_followed_live() {
    as_root(|| {
        let lab = Lab::up(Options::default())?;
        let (a, b) = (lab.nodes[0].pod("a")?, lab.nodes[1].pod("b")?);
        hashed(&a.ns, &b.ns, &b.ip(), 2)?;
        for node in &lab.nodes {
            node.ns.sh("ip link set eth0 mtu 1400")?;
        }
        for pod in [&a, &b] {
            eventually(5, || {
                let mtu = pod.ns.sh("cat /sys/class/net/eth0/mtu")?;
                ensure!(mtu.trim() == "1350", "pod MTU is {mtu}");
                Ok(())
            })?;
        }
        hashed(&a.ns, &b.ns, &b.ip(), 10)?;
        hashed(&b.ns, &a.ns, &a.ip6(), 10)?;
        // never below what IPv6 needs: the kernel would take the pod's addresses away
        for node in &lab.nodes {
            node.ns.sh("ip link set eth0 mtu 1300")?;
        }
        std::thread::sleep(std::time::Duration::from_secs(2));
        let mtu: u32 = a.ns.sh("cat /sys/class/net/eth0/mtu")?.trim().parse()?;
        ensure!(mtu >= 1280, "pod MTU is {mtu}");
        ensure!(
            a.ns.sh("ip -6 addr show dev eth0 scope global")?.contains("fd00:"),
            "the IPv6 address is gone"
        );
        for node in &lab.nodes {
            node.ns.sh("ip link set eth0 mtu 1500")?;
        }
        eventually(5, || {
            let mtu = a.ns.sh("cat /sys/class/net/eth0/mtu")?;
            ensure!(mtu.trim() == "1450", "pod MTU is {mtu}");
            Ok(())
        })
    });
}

#[test]
fn forged_fragmentation_needed_stops_nothing() {
    as_root(|| {
        let lab = Lab::up(Options::default())?;
        let (a, b) = (lab.nodes[0].pod("a")?, lab.nodes[1].pod("b")?);
        let _server = serve(&b.ns, 5201)?;
        iperf(&a.ns, &b.ip(), 5201, &["-t", "1"])?;
        // a stranger on the underlay claims that the path to n2 carries 600 bytes
        let forger = weft_tests::Namespace::new("forger")?;
        weft_tests::lab::join(&lab.underlay, &forger, 66, &Options::default())?;
        let script = "from scapy.all import *
inner=IP(src='172.30.0.1',dst='172.30.0.2')/UDP(sport=50000,dport=4789)/Raw(b'x'*8)
for p in range(200): send(IP(src='172.30.0.2',dst='172.30.0.1')/ICMP(type=3,code=4,nexthopmtu=600)/inner, verbose=0)
";
        forger.run("/usr/bin/python3", &["-c", script])?;
        let after = iperf(&a.ns, &b.ip(), 5201, &["-t", "2"])?;
        ensure!(after.bits_per_second > 50e6, "the forged answer broke the tunnel: {after:?}");
        ping(&a.ns, &b.ip(), 20)?;
        hashed(&a.ns, &b.ns, &b.ip(), 10)
    });
}
