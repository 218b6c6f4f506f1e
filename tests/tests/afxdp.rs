//! AF_XDP ports of pods: what TAP ports must do, they do, among themselves and with TAP ports.

use rustix::process::Signal;
use serde_json::{Value, json};
use weft_tests::ns::{Background, signal};
use weft_tests::stalls::unless_stalled;
use weft_tests::traffic::{hashed_both_ways, iperf, no_checksum_errors, ping, ping_df, scapy, serve, talk};
use weft_tests::{Context, Lab, Namespace, Node, Options, Pod, Result, as_root, ensure, eventually};

fn both(pod: &Pod) -> [String; 2] {
    [pod.ip(), pod.ip6()]
}

/// What `weft show` says of the port of a pod.
fn port(node: &Node, pod: &Pod) -> Result<Value> {
    let ports = node.weft_json(&["show"])?;
    let found = find(&ports, &|value| value["spec"]["external_ids"]["container"] == pod.id.as_str());
    found.with_context(|| format!("no port of {} in {ports}", pod.id))
}

fn find(value: &Value, is: &dyn Fn(&Value) -> bool) -> Option<Value> {
    if is(value) {
        return Some(value.clone());
    }
    match value {
        Value::Array(all) => all.iter().find_map(|value| find(value, is)),
        Value::Object(all) => all.values().find_map(|value| find(value, is)),
        _ => None,
    }
}

/// Frames between two pods of a node go in the chunk of memory in which they come.
fn passes(node: &Node, from: &Pod, to: &Pod) -> Result<()> {
    let before = node.total("xdp_passed")?;
    ping(&from.ns, &to.ip(), 20)?;
    let passed = node.total("xdp_passed")? - before;
    ensure!(passed >= 40, "{passed} of 40 frames were passed\n{}", node.weft(&["stats"])?);
    Ok(())
}

/// What comes from such a pod packet by packet leaves in superframes, also for a pod on a TAP.
fn glues(node: &Node, from: &Pod, to: &Pod) -> Result<()> {
    let _server = serve(&to.ns, 5202)?;
    for (total, args) in
        [("tcp_coalesced", &["-n", "20M"][..]), ("udp_coalesced", &["-u", "-b", "0", "-n", "5M", "-l", "64"])]
    {
        let before = node.total(total)?;
        iperf(&from.ns, &to.ip(), 5202, args)?;
        ensure!(node.total(total)? > before + 10, "{total}: {}", node.weft(&["stats"])?);
    }
    no_checksum_errors([&from.ns, &to.ns])
}

#[test]
fn packets_of_a_flow_leave_as_superframes() {
    as_root(|| {
        let lab = one_node()?;
        let node = &lab.nodes[0];
        let (a, b, tap) = (node.xdp_pod("a")?, node.xdp_pod("b")?, node.pod("c")?);
        glues(node, &a, &b)?;
        glues(node, &a, &tap)
    });
}

/// The number of a port's memory, and how many ports have it.
fn memory(node: &Node, pod: &Pod) -> Result<(u64, u64)> {
    let port = port(node, pod)?;
    let shared = &port["xdp"]["shared"];
    let of = |key: &str| shared[key].as_u64().with_context(|| format!("no {key} in {port}"));
    Ok((of("number")?, of("ports")?))
}

fn one_node() -> Result<Lab> {
    Lab::up(Options { nodes: 1, ..Options::default() })
}

#[test]
fn pods_of_one_node() {
    as_root(|| {
        let lab = one_node()?;
        let node = &lab.nodes[0];
        let (a, b, tap) = (node.xdp_pod("a")?, node.xdp_pod("b")?, node.pod("c")?);
        let port = port(node, &a)?;
        ensure!(port["spec"]["kind"] == "afxdp" && port["xdp"]["mode"] == "native", "{port}");
        ensure!(
            port["xdp"]["zero_copy"] == false && port["xdp"]["memory"].as_u64() > Some(1 << 20),
            "{port}"
        );
        let show = node.weft(&["show"])?;
        ensure!(show.contains("native copy at weft"), "{show}");
        ensure!(show.contains(", 3.2 MB of 25.3 MB in memory 0 of 2 ports locked"), "{show}");
        let status = node.weft_json(&["status"])?;
        // What the pod's kernel leaves to its device would be lost.
        let features = a.ns.sh("ethtool -k eth0")?;
        for off in
            ["tx-checksumming", "tcp-segmentation-offload", "tx-vlan-offload", "tx-vlan-stag-hw-insert"]
        {
            ensure!(features.contains(&format!("{off}: off")), "{off}: {features}");
        }
        ensure!(status["degraded"].as_array().is_some_and(Vec::is_empty), "{status}");
        talk(&lab, &a.ns, &b.ns, &both(&b), true)?;
        passes(node, &a, &b)?;
        talk(&lab, &a.ns, &tap.ns, &both(&tap), true)?;
        talk(&lab, &tap.ns, &a.ns, &both(&a), true)?;
        talk(&lab, &node.ns, &a.ns, &both(&a), true)
    });
}

#[test]
fn pods_across_nodes() {
    as_root(|| {
        let lab = Lab::up(Options::default())?;
        let (a, b, tap) = (lab.nodes[0].xdp_pod("a")?, lab.nodes[1].xdp_pod("b")?, lab.nodes[1].pod("c")?);
        talk(&lab, &a.ns, &b.ns, &both(&b), true)?;
        talk(&lab, &a.ns, &tap.ns, &both(&tap), false)?;
        talk(&lab, &tap.ns, &a.ns, &both(&a), false)
    });
}

#[test]
fn jumbo_pods() {
    as_root(|| {
        let lab = Lab::up(Options { mtu: 9000, ..Options::default() })?;
        let (a, b) = (lab.nodes[0].xdp_pod("a")?, lab.nodes[1].xdp_pod("b")?);
        let (c, tap) = (lab.nodes[0].xdp_pod("c")?, lab.nodes[0].pod("d")?);
        ensure!(a.ns.sh("cat /sys/class/net/eth0/mtu")?.trim() == "8950", "pod MTU is not 8950");
        for other in [&b, &c, &tap] {
            talk(&lab, &a.ns, &other.ns, &both(other), false)?;
            let out = ping_df(&a.ns, &other.ip(), 8922)?;
            ensure!(out.contains("1 received"), "{out}");
        }
        Ok(())
    });
}

/// New sockets, those that are open while the key changes, and those that another process takes over.
#[test]
fn sockets_poll_their_devices_while_wanted() {
    as_root(|| {
        let config = "busy_poll = true\n".to_owned();
        let mut lab = Lab::up(Options { nodes: 1, config, keeper: Some(Vec::new()), ..Options::default() })?;
        let (a, b) = (lab.nodes[0].xdp_pod("a")?, lab.nodes[0].xdp_pod("b")?);
        for (event, wanted) in [
            ("start", true),
            ("reload", false),
            ("upgrade", true),
            ("kill", false),
            ("reload", true),
            ("kill", true),
        ] {
            let node = &mut lab.nodes[0];
            std::fs::write(node.file("weft.toml"), format!("busy_poll = {wanted}\n"))?;
            match event {
                "reload" => signal(node.pid(), Signal::HUP)?,
                "upgrade" => drop(node.weft(&["upgrade"])?),
                "kill" => node.kill_kept()?,
                _ => {}
            }
            eventually(5, || {
                let shown = lab.nodes[0].weft(&["show"])?;
                let polling = shown.matches(", busy polling, ").count();
                ensure!(polling == if wanted { 2 } else { 0 }, "{event}, {wanted}: {shown}");
                for pod in [&a, &b] {
                    let port = port(&lab.nodes[0], pod)?;
                    ensure!(port["xdp"]["busy_poll"] == wanted, "{event}, {wanted}: {port}");
                }
                Ok(())
            })?;
            talk(&lab, &a.ns, &b.ns, &both(&b), false)?;
        }
        Ok(())
    });
}

#[test]
fn strangers_frames_are_dropped_and_counted() {
    as_root(|| {
        let lab = one_node()?;
        let node = &lab.nodes[0];
        let (a, b) = (node.xdp_pod("a")?, node.xdp_pod("b")?);
        ping(&a.ns, &b.ip(), 3)?;
        let mac = |pod: &Pod| pod.result["interfaces"][0]["mac"].as_str().unwrap_or_default().to_owned();
        let (am, bm, ai, bi) = (mac(&a), mac(&b), a.ip(), b.ip());
        let cases = [
            (
                "guard-mac",
                format!(
                    "[Ether(src='02:de:ad:00:00:01',dst='{bm}')/IP(src='{ai}',dst='{bi}')/UDP(dport=9)]*5"
                ),
            ),
            (
                "guard-ip",
                format!("[Ether(src='{am}',dst='{bm}')/IP(src='10.244.1.99',dst='{bi}')/UDP(dport=9)]*5"),
            ),
            (
                "vlan",
                format!(
                    "[Ether(src='{am}',dst='{bm}')/Dot1Q(vlan=7)/IP(src='{ai}',dst='{bi}')/UDP(dport=9)]*5"
                ),
            ),
        ];
        for (reason, packets) in &cases {
            let before = node.drops(reason)?;
            scapy(&a.ns, packets)?;
            eventually(3, || {
                let counted = node.drops(reason)? - before;
                ensure!(counted >= 5, "{reason}: {counted} of 5\n{}", node.weft(&["drops"])?);
                Ok(())
            })?;
        }
        ping(&a.ns, &b.ip(), 3)
    });
}

/// Pings a millisecond apart, half of which meet what happens; every answer must come.
fn none_lost(pod: &Pod, to: &Pod, seconds: u32, event: impl FnOnce() -> Result<()>) -> Result<()> {
    let count = (seconds * 1000).to_string();
    let args = ["-n", "-q", "-i", "0.001", "-W", "3", "-c", &count, &to.ip()];
    let pings: Background = pod.ns.spawn("ping", &args)?;
    std::thread::sleep(std::time::Duration::from_millis(u64::from(seconds) * 200));
    event()?;
    let (out, errors, _) = pings.finish()?;
    ensure!(out.contains(" 0% packet loss"), "{out}{errors}");
    Ok(())
}

#[test]
fn upgrades_and_crashes_lose_nothing_that_waits() {
    as_root(|| {
        unless_stalled(|| {
            let mut lab = Lab::up(Options { nodes: 1, keeper: Some(Vec::new()), ..Options::default() })?;
            let (a, b, tap) = {
                let node = &lab.nodes[0];
                (node.xdp_pod("a")?, node.xdp_pod("b")?, node.pod("c")?)
            };
            ping(&a.ns, &b.ip(), 3)?;
            ping(&a.ns, &tap.ip(), 3)?;
            for _ in 0..3 {
                let node = &lab.nodes[0];
                none_lost(&a, &b, 2, || node.weft(&["upgrade"]).map(drop))?;
                none_lost(&tap, &a, 2, || node.weft(&["upgrade"]).map(drop))?;
            }
            for _ in 0..3 {
                let node = &mut lab.nodes[0];
                // What the dead process had read is lost, one ping or two.
                let count = ["-n", "-q", "-i", "0.001", "-W", "3", "-c", "2000", &b.ip()];
                let pings = a.ns.spawn("ping", &count)?;
                std::thread::sleep(std::time::Duration::from_millis(500));
                node.kill_kept()?;
                let (out, errors, _) = pings.finish()?;
                let lost = 2000 - received(&out).unwrap_or(0);
                ensure!(lost <= 3, "{lost} lost: {out}{errors}");
            }
            passes(&lab.nodes[0], &a, &b)?;
            talk(&lab, &a.ns, &b.ns, &both(&b), false)?;
            talk(&lab, &a.ns, &tap.ns, &both(&tap), false)
        })
    });
}

fn received(ping: &str) -> Option<u64> {
    let (before, _) = ping.split_once(" received")?;
    before.rsplit(' ').next()?.parse().ok()
}

#[test]
fn without_a_keeper_they_come_back_with_a_new_socket() {
    as_root(|| {
        let mut lab = one_node()?;
        let (a, b) = (lab.nodes[0].xdp_pod("a")?, lab.nodes[0].xdp_pod("b")?);
        for _ in 0..2 {
            lab.nodes[0].kill()?;
            lab.nodes[0].start()?;
            talk(&lab, &a.ns, &b.ns, &both(&b), false)?;
            passes(&lab.nodes[0], &a, &b)?;
        }
        lab.nodes[0].cni().check(&a.id, &a.ns.path(), &a.result)
    });
}

fn host_ends(node: &Node) -> Result<usize> {
    Ok(node.links()?.iter().filter(|name| name.starts_with("weft") && name.len() == 14).count())
}

#[test]
fn ports_end_in_every_way() {
    as_root(|| {
        let lab = one_node()?;
        let node = &lab.nodes[0];
        let stays = node.xdp_pod("s")?;
        let descriptors = node.descriptors()?;
        // DEL.
        let pod = node.xdp_pod("a")?;
        ensure!(host_ends(node)? == 2, "{:?}", node.links()?);
        node.cni().del(&pod.id, &pod.ns.path())?;
        eventually(3, || {
            ensure!(host_ends(node)? == 1, "{:?}", node.links()?);
            ensure!(node.descriptors()? == descriptors, "descriptors leak");
            Ok(())
        })?;
        // The link inside a living pod, or the host's end of it: lost, and CHECK says so.
        for of_host in [false, true] {
            let pod = node.xdp_pod("b")?;
            let device = port(node, &pod)?["xdp"]["device"].as_str().unwrap_or_default().to_owned();
            let sh = if of_host { format!("ip link del {device}") } else { "ip link del eth0".into() };
            if of_host {
                node.ns.sh(&sh)?
            } else {
                pod.ns.sh(&sh)?
            };
            eventually(3, || {
                ensure!(port(node, &pod)?["state"] == "lost", "{}", node.weft(&["show"])?);
                Ok(())
            })?;
            let check = node.cni().check(&pod.id, &pod.ns.path(), &pod.result);
            ensure!(check.is_err(), "CHECK of a lost port succeeds");
            node.cni().del(&pod.id, &pod.ns.path())?;
        }
        // The namespace.
        let pod = node.xdp_pod("c")?;
        drop(pod);
        eventually(5, || {
            ensure!(host_ends(node)? == 1, "{:?}", node.links()?);
            ensure!(node.descriptors()? == descriptors, "descriptors leak");
            Ok(())
        })?;
        ensure!(memory(node, &stays)?.1 == 1, "{}", node.weft(&["show"])?);
        let ticks = node.cpu_ticks()?;
        std::thread::sleep(std::time::Duration::from_secs(1));
        ensure!(node.cpu_ticks()? - ticks < 10, "a busy loop");
        ping(&stays.ns, "10.244.1.1", 3)
    });
}

/// More than one memory has room for; they come, go, and outlive the daemon.
#[test]
fn ports_share_memories() {
    as_root(|| {
        let mut lab = Lab::up(Options { nodes: 1, keeper: Some(Vec::new()), ..Options::default() })?;
        let names = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];
        let mut pods = names.iter().map(|name| lab.nodes[0].xdp_pod(name)).collect::<Result<Vec<Pod>>>()?;
        for (at, pod) in pods.iter().enumerate() {
            let expected = if at < 8 { (0, 8) } else { (1, 2) };
            ensure!(memory(&lab.nodes[0], pod)? == expected, "{}", lab.nodes[0].weft(&["show"])?);
        }
        for event in ["nothing", "upgrade", "kill"] {
            match event {
                "upgrade" => drop(lab.nodes[0].weft(&["upgrade"])?),
                "kill" => lab.nodes[0].kill_kept()?,
                _ => {}
            }
            let node = &lab.nodes[0];
            passes(node, &pods[2], &pods[5])?;
            passes(node, &pods[8], &pods[9])?;
            hashed_both_ways(&pods[2].ns, &pods[9].ns, &pods[9].ip(), 5)?;
            // The first of a memory goes, whoever opened it, and another comes in its place.
            let gone = pods.remove(0);
            node.cni().del(&gone.id, &gone.ns.path())?;
            let of = memory(node, &pods[0])?.0;
            eventually(5, || {
                let ports = memory(node, &pods[0])?.1;
                ensure!(ports == 7, "{event}: {ports} ports\n{}", node.weft(&["show"])?);
                Ok(())
            })?;
            let new = node.xdp_pod(&format!("n{event}"))?;
            ensure!(memory(node, &new)? == (of, 8), "{event}: {}", node.weft(&["show"])?);
            passes(node, &new, &pods[0])?;
            pods.insert(7, new);
        }
        // All go, and memories start anew.
        for pod in pods {
            lab.nodes[0].cni().del(&pod.id, &pod.ns.path())?;
        }
        let (a, b) = (lab.nodes[0].xdp_pod("y")?, lab.nodes[0].xdp_pod("z")?);
        talk(&lab, &a.ns, &b.ns, &both(&b), false)?;
        passes(&lab.nodes[0], &a, &b)
    });
}

#[test]
fn what_cannot_be_is_refused() {
    as_root(|| {
        let lab = one_node()?;
        let node = &lab.nodes[0];
        let ns = Namespace::new("x")?;
        let refused = |settings: &str, says: &str| {
            let line = format!("add-port br0 x type=afxdp ip=10.244.1.200/24 {settings}");
            let (code, _, error) = node.weft_line(&line)?;
            ensure!(code != 0 && error.contains(says), "{settings}: {code}: {error}");
            Ok(())
        };
        refused("", "needs netns=")?;
        let netns = format!("netns={}", ns.name());
        refused(&format!("{netns} queues=2"), "has one")?;
        refused(&format!("{netns} offloads-off=tso4"), "has no offloads")?;
        refused(&format!("{netns} mtu=20000"), "at most 9216")?;
        let error = node.cni().with(json!({ "portType": "vxlan" })).add("y", &ns.path());
        ensure!(
            error.is_err_and(|error| error.to_string().contains("expected tap or afxdp")),
            "another portType"
        );
        ensure!(host_ends(node)? == 0, "{:?}", node.links()?);
        node.weft(&["add-port", "br0", "x", "type=afxdp", &netns, "ip=10.244.1.200/24"])?;
        ping(&ns, "10.244.1.1", 3)?;
        node.weft(&["del-port", "x"])?;
        eventually(3, || {
            ensure!(host_ends(node)? == 0, "{:?}", node.links()?);
            Ok(())
        })
    });
}

/// A device takes another one's place in a change that is refused in its midst, or that takes effect.
#[test]
fn a_replaced_device_stays_until_the_change_is_made() {
    as_root(|| {
        let lab = one_node()?;
        let node = &lab.nodes[0];
        node.weft(&["add-br", "lan", "gateway=10.9.0.1/24"])?;
        for kind in ["afxdp", "tap"] {
            let ns = Namespace::new("x")?;
            let netns = format!("netns={}", ns.name());
            ns.sh("ip link add taken type veth peer name other")?;
            let add =
                |port: &str, ifname: &str| format!("add-port lan {port} type={kind} {netns} ifname={ifname}");
            let index = |ifname: &str| ns.sh(&format!("cat /sys/class/net/{ifname}/ifindex"));
            let weft = |line: &str| {
                let (code, _, error) = node.weft_line(line)?;
                ensure!(code == 0, "{line}: {error}");
                Ok(())
            };
            weft(&format!("{} ip=10.9.0.2/24", add("x", "eth0")))?;
            ping(&ns, "10.9.0.1", 3)?;
            let before = index("eth0")?;
            let replaced = format!("del-port x -- {} ip=10.9.0.3/24", add("x", "eth1"));
            let (code, _, error) = node.weft_line(&format!("{replaced} -- {}", add("y", "taken")))?;
            ensure!(code != 0 && error.contains("taken"), "{error}");
            ping(&ns, "10.9.0.1", 3)?;
            ensure!(index("eth0")? == before, "{kind}: another device");
            ns.loses("eth1")?;
            for (from, to, ip) in [("eth0", "eth1", "10.9.0.3"), ("eth1", "eth0", "10.9.0.4")] {
                weft(&format!("del-port x -- {} ip={ip}/24", add("x", to)))?;
                ns.loses(from)?;
                ping(&ns, "10.9.0.1", 3)?;
            }
            ensure!(host_ends(node)? == usize::from(kind == "afxdp"), "{:?}", node.links()?);
            weft("del-port x")?;
            eventually(3, || {
                ensure!(host_ends(node)? == 0, "{:?}", node.links()?);
                Ok(())
            })?;
        }
        Ok(())
    });
}

#[test]
fn a_changed_mtu_is_both_ends() {
    as_root(|| {
        let mut lab = Lab::up(Options { nodes: 1, keeper: Some(Vec::new()), ..Options::default() })?;
        let (a, b) = (Namespace::new("a")?, Namespace::new("b")?);
        let add = |ns: &Namespace, kind: &str, ip: &str| {
            let (name, netns) = (format!("lan-{kind}"), format!("netns={}", ns.name()));
            let line = ["add-port", "lan", &name, &format!("type={kind}"), &netns, &format!("ip={ip}/24")];
            lab.nodes[0].weft(&line).map(drop)
        };
        lab.nodes[0].weft(&["add-br", "lan", "gateway=10.9.0.1/24"])?;
        add(&a, "afxdp", "10.9.0.2")?;
        add(&b, "tap", "10.9.0.3")?;
        for (mtu, payload) in [(8950, 8922), (1400, 1372), (9216, 9188), (1280, 1252)] {
            lab.nodes[0].weft(&["set", "bridge", "lan", &format!("mtu={mtu}")])?;
            for event in ["changed", "upgraded", "killed"] {
                match event {
                    "upgraded" => drop(lab.nodes[0].weft(&["upgrade"])?),
                    "killed" => lab.nodes[0].kill_kept()?,
                    _ => {}
                }
                let out = ping_df(&a, "10.9.0.3", payload)?;
                ensure!(out.contains("1 received"), "{mtu}, {event}: {out}");
                hashed_both_ways(&b, &a, "10.9.0.2", 5)?;
            }
        }
        // More than such a port can have: it has as much as it can.
        lab.nodes[0].weft(&["set", "bridge", "lan", "mtu=20000"])?;
        ensure!(a.sh("cat /sys/class/net/eth0/mtu")?.trim() == "9216", "not the most");
        ensure!(b.sh("cat /sys/class/net/eth0/mtu")?.trim() == "20000", "the TAP port, too?");
        ping(&a, "10.9.0.3", 3)
    });
}
