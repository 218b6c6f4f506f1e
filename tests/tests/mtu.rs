//! Too-big packets get an answer, a changed underlay is followed, forged answers stop nothing.

use std::net::UdpSocket;

use weft_sys::netns::Netns;
use weft_tests::traffic::{counters, hashed, ping, ping_df, scapy};
use weft_tests::{Lab, Namespace, Node, Options, Result, as_root, ensure, eventually, lab};

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

/// A stranger on the underlay claims that the path to n2 carries less than it does, to every UDP socket of n1. The same
/// message lowers the path MTU of a socket that listens to it; nothing of weft is bound by that either.
fn forged_too_big(underlay6: bool) -> Result<()> {
    let options = Options { underlay6, ..Options::default() };
    let lab = Lab::up(options.clone())?;
    let [n1, n2] = &lab.nodes[..] else { unreachable!("two nodes") };
    let (a, b) = (n1.pod("a")?, n2.pod("b")?);
    let forger = Namespace::new("forger")?;
    lab::join(&lab.underlay, &forger, 66, &options)?;
    let (local, remote) = (lab.underlay_address(1), lab.underlay_address(2));
    let mac = n1.ns.sh("cat /sys/class/net/eth0/address")?;
    let mac = mac.trim();
    // the least that the kernel believes of IPv6, a little more than it believes of IPv4
    let (answer, ip, mtu, heard) = if underlay6 {
        ("ICMPv6PacketTooBig(mtu=1280)", "IPv6", "mtu 1280", "Icmp6InPktTooBigs")
    } else {
        ("ICMP(type=3,code=4,nexthopmtu=600)", "IP", "mtu 600", "IcmpInDestUnreachs")
    };
    let heard = || counters(&n1.ns, &[heard]);
    let forge = |ports: &[u16]| -> Result<()> {
        let before = heard()?;
        scapy(
            &forger,
            &format!(
                "[Ether(src='02:00:00:00:00:66',dst='{mac}')/{ip}(src='{remote}',dst='{local}')/{answer}/{ip}(src='{local}',dst='{remote}')/UDP(sport=port,dport=4789)/Raw(b'x'*8) for port in {ports:?}]*5"
            ),
        )?;
        eventually(5, || {
            let counted = heard()? - before;
            ensure!(counted >= 5 * ports.len() as u64, "n1 heard {counted} forged answers");
            Ok(())
        })
    };
    let path = || n1.ns.sh(&format!("ip route get {remote}"));
    let unharmed = || -> Result<()> {
        for to in [b.ip(), b.ip6()] {
            ping(&a.ns, &to, 20)?;
            hashed(&a.ns, &b.ns, &to, 10)?;
        }
        let refused = n1.drops("tunnel-send")? + n1.total("segment_fallbacks")?;
        ensure!(refused == 0, "the kernel refused sends\n{}", n1.weft(&["stats"])?);
        Ok(())
    };
    unharmed()?;
    let ports = udp_ports(n1, &local)?;
    ensure!(ports.contains(&4789) && ports.len() > 1, "the sockets of {local}: {ports:?}");
    forge(&ports)?;
    ensure!(!path()?.contains("mtu"), "weft's sockets believed it: {}", path()?);
    unharmed()?;
    // an ordinary socket believes it, for the whole node
    let bound = Netns::open(n1.ns.path())?.run(|| UdpSocket::bind((local.as_str(), 0)))?;
    forge(&[bound?.local_addr()?.port()])?;
    ensure!(path()?.contains(mtu), "a forged answer is no danger at all: {}", path()?);
    unharmed()
}

/// The ports of the UDP sockets that are bound to an address.
fn udp_ports(node: &Node, address: &str) -> Result<Vec<u16>> {
    let all = node.ns.sh("ss -Huan")?;
    let bound = all.lines().filter_map(|line| line.split_whitespace().nth(3)?.rsplit_once(':'));
    let ours = bound.filter(|(ip, _)| ip.trim_matches(['[', ']']) == address);
    ours.map(|(_, port)| Ok(port.parse()?)).collect()
}

#[test]
fn forged_fragmentation_needed_stops_nothing() {
    as_root(|| forged_too_big(false));
}

#[test]
fn forged_packet_too_big_stops_nothing() {
    as_root(|| forged_too_big(true));
}
