//! A layer-2 segment over three nodes: two of weft's, and a kernel bridge with a VXLAN device. Every node copies what
//! floods to each of the others, and none passes on what came from another.

use weft_tests::raw::{count, counted, send};
use weft_tests::traffic::{hashed, no_checksum_errors, ping};
use weft_tests::{Lab, Namespace, Node, Options, Result, as_root, ensure, eventually, lab};

/// The bridge of a weft node, stretched to two others, with one port that takes what is for unknown stations, too.
fn weft_end(node: &Node, remotes: &str, ns: &Namespace, address: &str) -> Result<()> {
    let (remotes, netns) = (format!("remote={remotes}"), format!("netns={}", ns.name()));
    node.weft(&["add-br", "seg", "--", "add-port", "seg", "vx", "type=vxlan", "vni=77", &remotes])?;
    node.weft(&["add-port", "seg", "end", &netns, &format!("ip={address}"), "guard=off"]).map(drop)
}

/// A kernel bridge with a VXLAN device that copies to two others.
fn kernel_end(host: &Namespace, ns: &Namespace) -> Result<()> {
    host.sh(&format!(
        "ip link add kbr type bridge; ip link set kbr up
         ip link add vx mtu 1450 type vxlan id 77 local 172.30.0.3 dev eth0 dstport 4789
         bridge fdb append 00:00:00:00:00:00 dev vx dst 172.30.0.1
         bridge fdb append 00:00:00:00:00:00 dev vx dst 172.30.0.2
         ip link set vx master kbr up
         ip link add p0 mtu 1450 type veth peer name eth0 mtu 1450 netns {}; ip link set p0 master kbr up",
        ns.name()
    ))?;
    ns.sh("ip addr add 10.7.0.3/24 dev eth0; ip addr add fd07::3/64 dev eth0 nodad; ip link set eth0 up")
        .map(drop)
}

#[test]
fn what_floods_reaches_every_node_once() {
    as_root(|| {
        let options = Options::default();
        let lab = Lab::up(options.clone())?;
        let (host, a, b, c) =
            (Namespace::new("kernel")?, Namespace::new("a")?, Namespace::new("b")?, Namespace::new("c")?);
        lab::join(&lab.underlay, &host, 3, &options)?;
        weft_end(&lab.nodes[0], "172.30.0.2,172.30.0.3", &a, "10.7.0.1/24,fd07::1/64")?;
        weft_end(&lab.nodes[1], "172.30.0.1,172.30.0.3", &b, "10.7.0.2/24,fd07::2/64")?;
        kernel_end(&host, &c)?;
        let ends = [&a, &b, &c];
        ends.iter().try_for_each(|end| count(end, &[]))?;

        // Each in turn: a broadcast, and a station that nobody has.
        let mut sent = [0; 3];
        for to in ["ff:ff:ff:ff:ff:ff", "02:00:00:00:99:99"] {
            for (from, end) in ends.iter().enumerate() {
                send(end, to, None, 5)?;
                (0..3).filter(|end| *end != from).for_each(|end| sent[end] += 5);
                eventually(5, || {
                    let counts = [counted(&a)?[0], counted(&b)?[0], counted(&c)?[0]];
                    ensure!(counts == sent, "from {from} to {to}: {counts:?}, expected {sent:?}");
                    Ok(())
                })?;
            }
        }
        // A copy too many would be here by now.
        std::thread::sleep(std::time::Duration::from_millis(500));
        let counts = [counted(&a)?[0], counted(&b)?[0], counted(&c)?[0]];
        ensure!(counts == sent, "{counts:?}, expected {sent:?}");

        for (from, server, to) in [
            (&a, &b, "10.7.0.2"),
            (&a, &c, "10.7.0.3"),
            (&b, &c, "fd07::3"),
            (&c, &a, "fd07::1"),
            (&b, &a, "10.7.0.1"),
        ] {
            ping(from, to, 5)?;
            hashed(from, server, to, 5)?;
        }
        // Who is known gets his frames alone.
        let mac = c.sh("cat /sys/class/net/eth0/address")?;
        send(&a, &mac, None, 5)?;
        sent[2] += 5;
        eventually(5, || {
            let counts = [counted(&a)?[0], counted(&b)?[0], counted(&c)?[0]];
            ensure!(counts == sent, "{counts:?}, expected {sent:?}");
            Ok(())
        })?;
        let peers = lab.nodes[0].weft_json(&["tunnel"])?;
        let heard = |remote: &str| {
            let mut all = peers.as_array().into_iter().flatten();
            all.any(|p| p["remote"] == remote && p["layer2"] == true && p["rx_packets"].as_u64() > Some(0))
        };
        ensure!(heard("172.30.0.2") && heard("172.30.0.3"), "{peers}");
        no_checksum_errors([&a, &b, &c])?;
        Ok(())
    });
}
