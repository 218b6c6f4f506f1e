//! VXLAN as raw frames of the node's interface (`uplink = "afxdp"`): with weft's own nodes and the kernel's, and what the node
//! and its interface go through.

use std::process::Stdio;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use weft_tests::flannel::{self, Flannel};
use weft_tests::ns::{Background, signal};
use weft_tests::traffic::{counters, hashed_both_ways, no_checksum_errors, ping, ping_df, scapy, talk};
use weft_tests::{
    Context, Lab, Namespace, Node, Options, Pod, Result, as_root, bin, ensure, eventually, lab,
};

const AFXDP: &str = "uplink = \"afxdp\"\n";

fn options() -> Options {
    Options { config: AFXDP.to_owned(), ..Options::default() }
}

fn both(pod: &Pod) -> [String; 2] {
    [pod.ip(), pod.ip6()]
}

/// What `weft status` says of the uplink.
fn uplink(node: &Node) -> Result<Value> {
    let status = node.weft_json(&["status"])?;
    let uplink = status["uplink"].clone();
    ensure!(uplink.is_object(), "no uplink: {status}");
    Ok(uplink)
}

/// Nearly all of what was just exchanged with other nodes went by the uplink.
fn was_by_uplink(node: &Node) -> Result<()> {
    let uplink = uplink(node)?;
    let tunnels = node.weft_json(&["tunnel"])?;
    let sum = |field: &str| -> u64 {
        tunnels.as_array().into_iter().flatten().filter_map(|peer| peer[field].as_u64()).sum()
    };
    for (by_uplink, all) in [("rx_packets", sum("rx_packets")), ("tx_packets", sum("tx_packets"))] {
        let count = uplink[by_uplink].as_u64().unwrap_or(0);
        ensure!(count > 100 && count * 100 >= all * 95, "{by_uplink}: {count} of {all}: {uplink}");
    }
    Ok(())
}

/// Whether the node's `eth0` has a program.
fn has_program(node: &Node) -> Result<bool> {
    Ok(node.ns.sh("ip -d link show dev eth0")?.contains("prog/xdp"))
}

fn nodes(underlay6: bool) -> Result<()> {
    let lab = Lab::up(Options { underlay6, ..options() })?;
    let (a, b) = (lab.nodes[0].pod("a")?, lab.nodes[1].pod("b")?);
    talk(&lab, &a.ns, &b.ns, &both(&b), true)?;
    for node in &lab.nodes {
        was_by_uplink(node)?;
        let uplink = uplink(node)?;
        ensure!(uplink["device"] == "eth0" && uplink["mode"] == "native", "{uplink}");
        ensure!(uplink["zero_copy"] == false && uplink["memory"].as_u64() > Some(1 << 20), "{uplink}");
        ensure!(
            node.weft(&["status"])?.contains("eth0, native copy, 1 queue"),
            "{}",
            node.weft(&["status"])?
        );
        let show = node.weft(&["show"])?;
        let of_uplink = show.split_once("uplink eth0\n").map(|(_, lines)| lines.to_owned());
        let of_uplink = of_uplink.with_context(|| format!("no uplink: {show}"))?;
        ensure!(of_uplink.contains("native copy, ") && of_uplink.contains(" MB locked"), "{show}");
        ensure!(node.weft_json(&["show"])?["uplink"]["device"] == "eth0", "not in JSON");
        ensure!(!node.weft(&["show", "br0"])?.contains("uplink"), "an uplink of a bridge");
        ensure!(node.weft_json(&["status"])?["degraded"] == serde_json::json!([]), "degraded");
    }
    // The nodes themselves, by the same interface.
    hashed_both_ways(&lab.nodes[0].ns, &lab.nodes[1].ns, &lab.underlay_address(2), 20)
}

#[test]
fn nodes_over_ipv4() {
    as_root(|| nodes(false));
}

#[test]
fn nodes_over_ipv6() {
    as_root(|| nodes(true));
}

#[test]
fn it_polls_its_device_while_wanted() {
    as_root(|| {
        let config = format!("{AFXDP}busy_poll = true\n");
        let lab = Lab::up(Options { config, keeper: Some(Vec::new()), ..Options::default() })?;
        let (a, b) = (lab.nodes[0].pod("a")?, lab.nodes[1].pod("b")?);
        let node = &lab.nodes[0];
        for (event, wanted) in [("start", true), ("reload", false), ("upgrade", true)] {
            std::fs::write(node.file("weft.toml"), format!("{AFXDP}busy_poll = {wanted}\n"))?;
            match event {
                "reload" => signal(node.pid(), Signal::HUP)?,
                "upgrade" => drop(node.weft(&["upgrade"])?),
                _ => {}
            }
            eventually(5, || {
                let is = uplink(node)?;
                let text = node.weft(&["status"])?;
                let said = text.contains("native copy, busy polling, 1 queue");
                ensure!(is["busy_poll"] == wanted && said == wanted, "{event}, {wanted}: {is}\n{text}");
                Ok(())
            })?;
            talk(&lab, &a.ns, &b.ns, &both(&b), false)?;
        }
        was_by_uplink(node)
    });
}

#[test]
fn a_node_with_sockets_as_peer() {
    as_root(|| {
        let mut lab = Lab::wired(Options::default())?;
        std::fs::write(lab.nodes[0].file("weft.toml"), AFXDP)?;
        let cluster = lab.cluster(2);
        for node in &mut lab.nodes {
            node.write_cluster(&cluster)?;
            node.start()?;
        }
        let (a, b) = (lab.nodes[0].pod("a")?, lab.nodes[1].pod("b")?);
        talk(&lab, &a.ns, &b.ns, &both(&b), true)?;
        talk(&lab, &b.ns, &a.ns, &both(&a), false)?;
        was_by_uplink(&lab.nodes[0])?;
        for verb in ["status", "show"] {
            ensure!(lab.nodes[1].weft_json(&[verb])?["uplink"].is_null(), "an uplink that nobody wants");
        }
        Ok(())
    });
}

fn kernel_peer(underlay6: bool) -> Result<()> {
    let options = Options { nodes: 1, underlay6, ..options() };
    let mut lab = Lab::wired(options.clone())?;
    lab.nodes[0].write_cluster(&flannel::cluster(&lab))?;
    lab.nodes[0].start()?;
    let peer = Flannel::up(&lab, &options)?;
    let a = lab.nodes[0].pod("a")?;
    let there = ["10.244.3.2".to_owned(), "fd00:244:0:3::2".to_owned()];
    talk(&lab, &a.ns, &peer.pod, &there, true)?;
    talk(&lab, &peer.pod, &a.ns, &both(&a), true)?;
    ping(&peer.host, &a.ip(), 3)?;
    ping(&lab.nodes[0].ns, "10.244.3.2", 3)?;
    no_checksum_errors([&peer.pod, &peer.host])?;
    was_by_uplink(&lab.nodes[0])
}

#[test]
fn kernel_peer_over_ipv4() {
    as_root(|| kernel_peer(false));
}

#[test]
fn kernel_peer_over_ipv6() {
    as_root(|| kernel_peer(true));
}

#[test]
fn jumbo() {
    as_root(|| {
        let lab = Lab::up(Options { mtu: 9000, ..options() })?;
        let (a, b) = (lab.nodes[0].pod("a")?, lab.nodes[1].pod("b")?);
        ensure!(a.ns.sh("cat /sys/class/net/eth0/mtu")?.trim() == "8950", "pod MTU is not 8950");
        let out = ping_df(&a.ns, &b.ip(), 8922)?;
        ensure!(out.contains("1 received"), "{out}");
        talk(&lab, &a.ns, &b.ns, &both(&b), true)?;
        lab.nodes.iter().try_for_each(was_by_uplink)
    });
}

/// A counter of `ethtool -S`.
fn statistic(ns: &Namespace, device: &str, name: &str) -> Result<u64> {
    let all = ns.sh(&format!("ethtool -S {device}"))?;
    let found = all.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix(": "));
    found.and_then(|count| count.parse().ok()).with_context(|| format!("no {name} of {device}: {all}"))
}

/// Each has packets, both ways.
#[test]
fn several_queues() {
    as_root(|| {
        let lab =
            Lab::up(Options { queues: 2, config: format!("{AFXDP}workers = 2\n"), ..Options::default() })?;
        let wires = || (1..).zip(&lab.nodes).map(|(number, node)| (format!("v{number}"), node));
        // A veth's end that has GRO on counts by queue what comes from one without TSO, and the bridge keeps to the queue.
        for (outer, node) in wires() {
            node.ns.sh("ethtool -K eth0 tso off")?;
            lab.underlay.sh(&format!("ethtool -K {outer} gro on"))?;
        }
        // Ports are the workers' in turn, and each worker sends by its own queue.
        let near = [lab.nodes[0].pod("a")?, lab.nodes[0].pod("c")?];
        let far = [lab.nodes[1].pod("b")?, lab.nodes[1].pod("d")?];
        ensure!(uplink(&lab.nodes[0])?["queues"] == 2, "{}", uplink(&lab.nodes[0])?);
        for (a, b) in near.iter().zip(&far) {
            talk(&lab, &a.ns, &b.ns, &both(b), true)?;
        }
        for (outer, node) in wires() {
            was_by_uplink(node)?;
            for queue in [0, 1] {
                let received = statistic(&node.ns, "eth0", &format!("rx_queue_{queue}_xdp_redirect"))?;
                let sent = statistic(&lab.underlay, &outer, &format!("rx_queue_{queue}_xdp_packets"))?;
                ensure!(
                    received > 100 && sent > 100,
                    "{outer}, queue {queue}: {received} and {sent} packets"
                );
            }
        }
        Ok(())
    });
}

/// Two nodes, the first of which has its underlay's addresses at a device `ex` above `eth0`, which `make` makes.
fn lab_behind(make: &str) -> Result<Lab> {
    let mut lab = Lab::wired(options())?;
    let cluster = lab.cluster(2);
    lab.nodes[0].ns.sh(&format!(
        "{make}; ip link set ex up; ip addr flush dev eth0
         ip addr add 172.30.0.1/24 dev ex; ip addr add fd00:5::1/64 dev ex nodad"
    ))?;
    for node in &mut lab.nodes {
        node.write_cluster(&cluster)?;
        node.start()?;
    }
    Ok(lab)
}

/// A bridge has no driver that could run the program.
#[test]
fn a_bridge_as_interface() {
    as_root(|| {
        let lab = lab_behind("ip link add ex type bridge; ip link set eth0 master ex")?;
        let (a, b) = (lab.nodes[0].pod("a")?, lab.nodes[1].pod("b")?);
        let uplink = uplink(&lab.nodes[0])?;
        ensure!(uplink["device"] == "ex" && uplink["mode"] == "generic", "{uplink}");
        talk(&lab, &a.ns, &b.ns, &both(&b), true)?;
        lab.nodes.iter().try_for_each(was_by_uplink)
    });
}

/// An interface above another one, whose queue holds what it is given.
#[test]
fn one_that_does_not_send_is_closed() {
    as_root(|| {
        let mut lab = lab_behind("ip link add ex link eth0 type macvlan mode bridge")?;
        let (a, b) = (lab.nodes[0].pod("a")?, lab.nodes[1].pod("b")?);
        lab.nodes[0].expect_log("ex does not send what it was given");
        let node = &lab.nodes[0];
        talk(&lab, &a.ns, &b.ns, &[b.ip()], false)?;
        ensure!(uplink(node)?["device"] == "ex", "{}", uplink(node)?);
        was_by_uplink(node)?;
        node.ns.sh("tc qdisc add dev eth0 root tbf rate 8bit burst 2000 limit 1000000")?;
        a.ns.sh(&format!("ping -n -q -c 5 -i 0.1 -W 1 -s 1000 {} || true", b.ip()))?;
        eventually(15, || {
            let status = node.weft_json(&["status"])?;
            let degraded = status["degraded"].to_string();
            ensure!(status["uplink"].is_null() && degraded.contains("ex does not send"), "{status}");
            Ok(())
        })?;
        ensure!(!node.ns.sh("ip -d link show dev ex")?.contains("xdp"), "the program is still there");
        // Without it, by the sockets.
        node.ns.sh("tc qdisc del dev eth0 root")?;
        talk(&lab, &a.ns, &b.ns, &[b.ip()], false)
    });
}

/// Packets longer than the interface's MTU leave in fragments, which the kernel puts together again.
#[test]
fn outer_fragments_are_the_kernels() {
    as_root(|| {
        let config = format!("{AFXDP}mtu = 1500\n");
        let lab = Lab::up(Options { config, ..Options::default() })?;
        let (a, b) = (lab.nodes[0].pod("a")?, lab.nodes[1].pod("b")?);
        ping(&a.ns, &b.ip(), 3)?;
        let before = uplink(&lab.nodes[1])?["rx_packets"].as_u64();
        for _ in 0..3 {
            let out = ping_df(&a.ns, &b.ip(), 1472)?;
            ensure!(out.contains("1 received"), "{out}");
        }
        let after = uplink(&lab.nodes[1])?["rx_packets"].as_u64();
        ensure!(
            after < before.map(|before| before + 3),
            "fragments came by the uplink: {before:?}, {after:?}"
        );
        hashed_both_ways(&a.ns, &b.ns, &b.ip(), 5)
    });
}

/// A session of the node's own: a line every 20 ms, each answered within half a second.
const SESSION: &str = "
import socket, sys, time
if sys.argv[1] == 'serve':
    listener = socket.create_server(('0.0.0.0', 2222))
    print('ready', flush=True)
    connection, _ = listener.accept()
    while line := connection.recv(100): connection.sendall(line)
else:
    session = socket.create_connection((sys.argv[1], 2222), 2)
    session.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    session.settimeout(0.5)
    end = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end:
        session.sendall(b'x')
        assert session.recv(1) == b'x'
        time.sleep(0.02)
    print('done')
";

/// Runs `event` while such a session of the first node with the second goes on.
fn in_session(lab: &mut Lab, seconds: u32, event: impl FnOnce(&mut Lab) -> Result<()>) -> Result<()> {
    let (address, seconds) = (lab.underlay_address(2), seconds.to_string());
    let server: Background = lab.nodes[1].ns.spawn("/usr/bin/python3", &["-c", SESSION, "serve"])?;
    eventually(5, || {
        ensure!(!lab.nodes[1].ns.sh("ss -Hltn sport = :2222")?.trim().is_empty(), "nobody listens");
        Ok(())
    })?;
    let session = lab.nodes[0].ns.spawn("/usr/bin/python3", &["-c", SESSION, &address, &seconds])?;
    std::thread::sleep(Duration::from_millis(500));
    event(lab)?;
    let (out, errors, _) = session.finish()?;
    drop(server);
    ensure!(out.contains("done"), "the node's own session broke: {errors}");
    Ok(())
}

#[test]
fn the_node_itself_notices_nothing_of_a_crash() {
    as_root(|| {
        let mut lab = Lab::up(options())?;
        let (a, b) = (lab.nodes[0].pod("a")?, lab.nodes[1].pod("b")?);
        talk(&lab, &a.ns, &b.ns, &[b.ip()], false)?;
        in_session(&mut lab, 6, |lab| {
            for _ in 0..2 {
                lab.nodes[0].kill()?;
                ensure!(!has_program(&lab.nodes[0])?, "the program outlives its daemon");
                std::thread::sleep(Duration::from_millis(500));
                lab.nodes[0].start()?;
                eventually(5, || uplink(&lab.nodes[0]))?;
            }
            Ok(())
        })?;
        talk(&lab, &a.ns, &b.ns, &both(&b), false)
    });
}

#[test]
fn kept_over_crashes_and_upgrades() {
    as_root(|| {
        let mut lab = Lab::up(Options { keeper: Some(Vec::new()), ..options() })?;
        let (a, b) = (lab.nodes[0].pod("a")?, lab.nodes[1].pod("b")?);
        talk(&lab, &a.ns, &b.ns, &[b.ip()], false)?;
        in_session(&mut lab, 8, |lab| {
            for crash in [true, false, true, false] {
                let args = ["-n", "-q", "-i", "0.002", "-W", "3", "-c", "500", &b.ip()];
                let pings = a.ns.spawn("ping", &args)?;
                std::thread::sleep(Duration::from_millis(300));
                let id = program_id(&lab.nodes[0])?;
                if crash {
                    lab.nodes[0].kill_kept()?;
                } else {
                    lab.nodes[0].weft(&["upgrade"])?;
                }
                let (out, errors, _) = pings.finish()?;
                let received = out.split(" received").next().and_then(|before| before.rsplit(' ').next());
                let received: u32 = received.and_then(|count| count.parse().ok()).unwrap_or(0);
                // What the dead process had read is lost, one ping or two.
                ensure!(received >= if crash { 497 } else { 500 }, "crash {crash}: {out}{errors}");
                uplink(&lab.nodes[0])?;
                // One whose maps the new process has.
                ensure!(program_id(&lab.nodes[0])? != id, "the program is the one of the process before");
            }
            Ok(())
        })?;
        talk(&lab, &a.ns, &b.ns, &both(&b), false)?;
        was_by_uplink(&lab.nodes[0])?;
        // With the keeper everything goes.
        lab.nodes[0].stop()?;
        ensure!(!has_program(&lab.nodes[0])?, "the program outlives the keeper");
        Ok(())
    });
}

fn program_id(node: &Node) -> Result<u64> {
    let links: Value = serde_json::from_str(&node.ns.sh("ip -j -d link show dev eth0")?)?;
    links[0]["xdp"]["prog"]["id"].as_u64().with_context(|| format!("no program: {links}"))
}

#[test]
fn nothing_is_left_by_a_clean_stop() {
    as_root(|| {
        let mut lab = Lab::up(options())?;
        let (a, b) = (lab.nodes[0].pod("a")?, lab.nodes[1].pod("b")?);
        ping(&a.ns, &b.ip(), 3)?;
        ensure!(has_program(&lab.nodes[0])?, "no program");
        lab.nodes[0].stop()?;
        ensure!(!has_program(&lab.nodes[0])?, "the program outlives its daemon");
        let mut purge = lab.nodes[0].weftd();
        let status = purge.arg("--purge").stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        ensure!(status.success() && !has_program(&lab.nodes[0])?, "after a purge");
        ping(&lab.nodes[0].ns, &lab.underlay_address(2), 3)
    });
}

#[test]
fn the_interface_goes_and_comes_back() {
    as_root(|| {
        let options = options();
        let mut lab = Lab::up(options.clone())?;
        let (a, b) = (lab.nodes[0].pod("a")?, lab.nodes[1].pod("b")?);
        ping(&a.ns, &b.ip(), 3)?;
        lab.nodes[0].expect_log("uplink");
        lab.nodes[0].expect_log("after a change of links or addresses");
        let descriptors = lab.nodes[0].descriptors()?;
        lab.nodes[0].ns.sh("ip link del eth0")?;
        let node = &lab.nodes[0];
        eventually(3, || {
            let status = node.weft_json(&["status"])?;
            let degraded = status["degraded"].to_string();
            ensure!(status["uplink"].is_null() && degraded.contains("no AF_XDP uplink"), "{status}");
            Ok(())
        })?;
        let ticks = node.cpu_ticks()?;
        std::thread::sleep(Duration::from_secs(1));
        ensure!(node.cpu_ticks()? - ticks < 10, "a busy loop");
        lab::join(&lab.underlay, &node.ns, 1, &options)?;
        eventually(5, || {
            uplink(node)?;
            ensure!(node.weft_json(&["status"])?["degraded"] == serde_json::json!([]), "degraded");
            Ok(())
        })?;
        eventually(5, || ping(&a.ns, &b.ip(), 3))?;
        talk(&lab, &a.ns, &b.ns, &both(&b), false)?;
        was_by_uplink(node)?;
        ensure!(node.descriptors()? <= descriptors, "descriptors leak");
        Ok(())
    });
}

#[test]
fn who_comes_second_is_told_who_is_there() {
    as_root(|| {
        let lab = Lab::up(options())?;
        let node = &lab.nodes[0];
        let (a, b) = (node.pod("a")?, lab.nodes[1].pod("b")?);
        ping(&a.ns, &b.ip(), 3)?;
        let before = program_id(node)?;
        let dir = tempfile::tempdir()?;
        let path = |name: &str| dir.path().join(name).to_string_lossy().into_owned();
        std::fs::write(path("weft.toml"), "uplink = \"afxdp\"\ninternal = false\nvxlan_port = 4790\n")?;
        let cluster = lab.cluster(2).replace("[cluster]", "[cluster]\nport = 4790");
        std::fs::write(path("cluster.toml"), cluster)?;
        let (run, state, socket) = (path("run"), path("state"), path("run/weft.sock"));
        let args = [
            ["--config", &path("weft.toml")],
            ["--cluster", &path("cluster.toml")],
            ["--node", "n1"],
            ["--run-dir", &run],
            ["--state-dir", &state],
        ];
        let second = node.ns.spawn(&bin::path("weftd"), args.as_flattened())?;
        let status = eventually(5, || node.ns.run(&bin::path("weft"), &["--socket", &socket, "status"]))?;
        ensure!(status.contains("eth0 has an XDP program already: weft_xdp_tunnel"), "{status}");
        ensure!(program_id(node)? == before, "the program was replaced");
        drop(second);
        talk(&lab, &a.ns, &b.ns, &[b.ip()], false)
    });
}

/// What strangers and bad packets come to, and that nothing else comes to the switch at all.
#[test]
fn what_is_no_peers_packet_is_dropped_and_counted() {
    as_root(|| {
        let options = options();
        let lab = Lab::up(options.clone())?;
        let node = &lab.nodes[0];
        let (a, b) = (node.pod("a")?, lab.nodes[1].pod("b")?);
        ping(&a.ns, &b.ip(), 3)?;
        let stranger = Namespace::new("stranger")?;
        lab::join(&lab.underlay, &stranger, 9, &options)?;
        let mac = node.ns.sh("cat /sys/class/net/eth0/address")?;
        let to = |source: &str, udp: &str| {
            format!("[Ether(dst='{}')/IP(src='172.30.0.{source}',dst='172.30.0.1')/UDP({udp})", mac.trim())
        };
        let inner = "VXLAN(flags=8,vni=1)/Ether()/IP(src='10.244.2.9',dst='10.244.1.9')/UDP(dport=9)]*5";
        let cases = [
            ("tunnel-stranger", format!("{}/{inner}", to("9", "sport=7,dport=4789"))),
            ("tunnel-vni", format!("{}/{}", to("2", "sport=7,dport=4789"), inner.replace("vni=1", "vni=9"))),
            ("tunnel-outer", format!("{}/{inner}", to("2", "sport=7,dport=4789,chksum=7"))),
            ("tunnel-outer", format!("{}/{inner}", to("2", "sport=7,dport=4789,len=9000"))),
            (
                "tunnel-header",
                format!("{}/{}", to("2", "sport=7,dport=4789"), inner.replace("flags=8", "flags=0")),
            ),
        ];
        for (reason, packets) in &cases {
            let before = node.drops(reason)?;
            scapy(&stranger, packets)?;
            eventually(3, || {
                let counted = node.drops(reason)? - before;
                ensure!(counted >= 5, "{reason}: {counted} of 5\n{}", node.weft(&["drops"])?);
                Ok(())
            })?;
        }
        // Another port, and the same one of another address, are the kernel's.
        let received = uplink(node)?["rx_packets"].clone();
        node.ns.sh("ip addr add 172.30.0.77/24 dev eth0")?;
        let before = counters(&node.ns, &["UdpNoPorts"])?;
        scapy(&stranger, &format!("{}/{inner}", to("9", "sport=7,dport=4788")))?;
        scapy(&stranger, &format!("{}/{inner}", to("9", "sport=7,dport=4789")).replace("0.1')", "0.77')"))?;
        eventually(3, || {
            let counted = counters(&node.ns, &["UdpNoPorts"])? - before;
            ensure!(counted == 10, "{counted} of 10");
            Ok(())
        })?;
        ensure!(uplink(node)?["rx_packets"] == received, "other packets came by the uplink");
        ping(&a.ns, &b.ip(), 3)
    });
}

#[test]
fn with_ipsec_policies_there_is_no_uplink() {
    as_root(|| {
        let mut lab = Lab::up(options())?;
        let (a, b) = (lab.nodes[0].pod("a")?, lab.nodes[1].pod("b")?);
        lab.nodes[0].expect_log("IPsec policies");
        let node = &lab.nodes[0];
        uplink(node)?;
        node.ns.sh("ip xfrm policy add dst 192.0.2.0/24 dir out action block")?;
        eventually(8, || {
            let status = node.weft_json(&["status"])?;
            let degraded = status["degraded"].to_string();
            ensure!(status["uplink"].is_null() && degraded.contains("IPsec"), "{status}");
            Ok(())
        })?;
        ping(&a.ns, &b.ip(), 3)?;
        node.ns.sh("ip xfrm policy flush")?;
        eventually(8, || uplink(node))?;
        talk(&lab, &a.ns, &b.ns, &[b.ip()], false)
    });
}

/// The peer's Ethernet address changes, its entry is deleted, the way leads elsewhere and back: nothing stays lost.
#[test]
fn ways_are_followed() {
    as_root(|| {
        let lab = Lab::up(options())?;
        let (a, b) = (lab.nodes[0].pod("a")?, lab.nodes[1].pod("b")?);
        let (near, far) = (&lab.nodes[0], &lab.nodes[1]);
        let by_uplink = |known: bool| {
            eventually(8, || {
                ping(&a.ns, &b.ip(), 1)?;
                let uplink = uplink(near)?;
                ensure!((uplink["peers"] == 1) == known, "{uplink}");
                Ok(())
            })
        };
        by_uplink(true)?;
        near.ns.sh("ip neigh flush dev eth0")?;
        by_uplink(true)?;
        // The kernel does not see that an entry in doubt is in use; it is told so.
        near.ns.sh("sysctl -qw net.ipv4.neigh.eth0.delay_first_probe_time=1")?;
        let state = || near.ns.sh("ip neigh show 172.30.0.2 dev eth0");
        let mac = far.ns.sh("cat /sys/class/net/eth0/address")?;
        near.ns.sh(&format!("ip neigh replace 172.30.0.2 dev eth0 lladdr {} nud stale", mac.trim()))?;
        eventually(15, || {
            ping(&a.ns, &b.ip(), 1)?;
            ensure!(state()?.contains("REACHABLE"), "{}", state()?);
            Ok(())
        })?;
        // So one that is not there any more is noticed.
        far.ns.sh("ip link set eth0 address 02:00:00:00:77:02")?;
        near.ns.sh(&format!("ip neigh replace 172.30.0.2 dev eth0 lladdr {} nud stale", mac.trim()))?;
        eventually(30, || ping(&a.ns, &b.ip(), 1))?;
        by_uplink(true)?;
        // By another device: what the kernel makes of it is the sockets'.
        near.ns.sh(
            "ip link add other type bridge; ip link set other up; ip route add 172.30.0.2/32 dev other",
        )?;
        eventually(3, || {
            ensure!(uplink(near)?["peers"] == 0, "{}", uplink(near)?);
            Ok(())
        })?;
        near.ns.sh("ip link del other")?;
        by_uplink(true)?;
        // Of an entry that fails nothing is kept.
        near.ns.sh("ip neigh replace 172.30.0.2 dev eth0 nud failed")?;
        by_uplink(true)
    });
}
