//! Planned upgrades: another process takes everything over, and no packet is lost; one that fails changes nothing.

use std::time::Duration;

use serde_json::Value;
use weft_tests::ns::Background;
use weft_tests::stalls::{Stalls, unless_stalled};
use weft_tests::traffic::{ping, serve};
use weft_tests::{Lab, Namespace, Node, Options, Pod, Result, as_root, ensure, eventually};

fn kept(nodes: usize) -> Result<Lab> {
    Lab::up(Options { nodes, keeper: Some(Vec::new()), ..Options::default() })
}

/// 10,000 datagrams a second for so many seconds.
fn datagrams(from: &Namespace, to: &str, port: u16, seconds: u32) -> Result<Background> {
    let (port, seconds) = (port.to_string(), seconds.to_string());
    let load = ["-u", "-b", "8M", "-l", "100", "-w", "4M", "-J"];
    from.spawn("iperf3", &[&["-c", to, "-p", &port, "-t", &seconds][..], &load].concat())
}

/// Fails unless every datagram came.
fn all_came(run: Background) -> Result<()> {
    let (out, errors, ok) = run.finish()?;
    ensure!(ok, "{out}{errors}");
    let json: Value = serde_json::from_str(&out)?;
    let sum = &json["end"]["sum"];
    ensure!(sum["packets"].as_u64().is_some_and(|sent| sent > 10_000), "{sum}");
    ensure!(sum["lost_packets"] == 0, "lost: {sum}");
    Ok(())
}

/// Pings a millisecond apart; every answer must come.
struct Pings(Background);

impl Pings {
    fn start(from: &Namespace, to: &str, seconds: u32) -> Result<Self> {
        let count = (seconds * 1000).to_string();
        Ok(Pings(from.spawn("ping", &["-n", "-q", "-i", "0.001", "-W", "3", "-c", &count, to])?))
    }

    fn all_came(self) -> Result<()> {
        let (out, errors, _) = self.0.finish()?;
        ensure!(out.contains(" 0% packet loss"), "{out}{errors}");
        Ok(())
    }
}

/// `weft upgrade`, and what it must have done.
fn upgrade(node: &Node) -> Result<()> {
    let old = node.pid();
    let reply = node.weft_json(&["upgrade"])?;
    let new = reply["pid"].as_u64().unwrap_or(0);
    ensure!(new != 0 && new != u64::from(old), "{reply} after {old}");
    let status = node.weft_json(&["status"])?;
    ensure!(status["pid"] == new && status["ready"] == true, "{status}");
    eventually(5, || {
        ensure!(u64::from(node.pid()) == new, "process {} is the keeper's, not {new}", node.pid());
        Ok(())
    })
}

fn carrier_changes(pod: &Pod) -> Result<String> {
    pod.ns.sh("cat /sys/class/net/eth0/carrier_changes")
}

fn descriptors(node: &Node) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{}/fd", node.keeper_pid()))?.count())
}

#[test]
fn upgrades_lose_nothing() {
    as_root(|| unless_stalled(six_upgrades_under_load));
}

fn six_upgrades_under_load() -> Result<()> {
    let mut lab = kept(2)?;
    let (a, c) = (lab.nodes[0].pod("a")?, lab.nodes[0].pod("c")?);
    let b = lab.nodes[1].pod("b")?;
    let before = (carrier_changes(&a)?, carrier_changes(&c)?, descriptors(&lab.nodes[0])?);
    let _servers = [serve(&c.ns, 5201)?, serve(&b.ns, 5201)?, serve(&b.ns, 5202)?];
    let stalls = Stalls::watch(&a.ns, 10)?;
    let local = datagrams(&a.ns, &c.ip(), 5201, 8)?;
    let remote = datagrams(&a.ns, &b.ip(), 5201, 8)?;
    let stream = a.ns.spawn("iperf3", &["-c", &b.ip(), "-p", "5202", "-t", "8", "-b", "100M", "-J"])?;
    let pings = [Pings::start(&a.ns, &c.ip(), 6)?, Pings::start(&b.ns, &a.ip(), 6)?];
    for round in 0..6 {
        std::thread::sleep(Duration::from_millis(500));
        upgrade(&lab.nodes[if round == 3 { 1 } else { 0 }])?;
    }
    // Changes work as before, and so does a crash.
    let d = lab.nodes[0].pod("d")?;
    ping(&a.ns, &d.ip(), 3)?;
    let counted = [local, remote].into_iter().try_for_each(all_came);
    stalls.judge(counted.and_then(|()| pings.into_iter().try_for_each(Pings::all_came)))?;
    let (out, errors, ok) = stream.finish()?;
    ensure!(ok, "iperf3 did not survive: {out} {errors}");
    lab.nodes[0].cni().del(&d.id, &d.ns.path())?;
    eventually(5, || {
        let after = (carrier_changes(&a)?, carrier_changes(&c)?, descriptors(&lab.nodes[0])?);
        ensure!(before == after, "carriers and the keeper's descriptors: {before:?}, then {after:?}");
        Ok(())
    })?;
    lab.nodes[0].kill_kept()?;
    ping(&a.ns, &b.ip(), 3)?;
    let log = lab.nodes[0].log();
    ensure!(!log.contains("of no use") && log.matches("held=3").count() == 6, "{log}");
    Ok(())
}

/// Says hello to a daemon as something that it is not; what it hears up to the end or "Go".
fn pretend(node: &Node, protocol: u32, state: u32) -> Result<String> {
    let script = r#"
import json, socket, sys
path, protocol, state = sys.argv[1:]
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(path)
s.send(json.dumps({"Hello": {"protocol": int(protocol), "state": int(state), "version": "9.9.9"}}).encode())
while True:
    text = s.recv(1 << 20).decode()
    print(text)
    if not text or "Go" in text or "Refused" in text:
        break
"#;
    let path = node.file("run/handover.sock").to_string_lossy().into_owned();
    node.ns.run("python3", &["-c", script, &path, &protocol.to_string(), &state.to_string()])
}

/// Takes all that a daemon gives, in Python: `s` is the connection, the descriptors are in `fds`.
const TAKE: &str = r#"
import fcntl, json, os, socket, sys, time
s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
s.connect(sys.argv[1])
s.send(json.dumps({"Hello": {"protocol": 1, "state": 1, "version": "9.9.9", "counters": True}}).encode())
fds = []
while True:
    text, some, _, _ = socket.recv_fds(s, 1 << 20, 64)
    fds += some
    if b"Go" in text:
        break
"#;

/// Then opens the daemon's file, and says no more.
const HANG: &str = r#"
file = open(sys.argv[2], "r+b")
fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
time.sleep(300)
"#;

#[test]
fn a_new_process_that_hangs_is_ended_and_the_old_one_goes_on() {
    as_root(|| {
        let mut lab = kept(1)?;
        lab.nodes[0].expect_log("hangs before it has taken over");
        let node = &lab.nodes[0];
        let (a, c) = (node.pod("a")?, node.pod("c")?);
        let old = node.pid();
        let [socket, file] = ["run/handover.sock", "run/ports.redb"].map(|path| node.file(path));
        let (socket, file) = (socket.to_string_lossy(), file.to_string_lossy());
        let hung = node.ns.spawn("python3", &["-c", &format!("{TAKE}{HANG}"), &socket, &file])?;
        // As long as a new process may take.
        let pings = Pings::start(&a.ns, &c.ip(), 32)?;
        let (out, errors, ok) = hung.finish()?;
        ensure!(!ok && errors.is_empty(), "{out}{errors}");
        let d = eventually(5, || node.pod("d"))?;
        ping(&a.ns, &d.ip(), 3)?;
        pings.all_came()?;
        ensure!(node.pid() == old, "another process");
        // One that nobody looks after gets nothing.
        let none = TAKE.replace("9.9.9\"", "9.9.9\", \"manager\": \"\"").replace("b\"Go\"", "b\"Refused\"");
        let none = none + "sys.exit(text.decode())\n";
        let refused = node.ns.run("python3", &["-c", &none, &socket, &file]).unwrap_err().to_string();
        ensure!(refused.contains("use `weft upgrade`"), "{refused}");
        upgrade(node)
    });
}

#[test]
fn an_upgrade_that_fails_leaves_all_as_it_was() {
    as_root(|| {
        let lab = kept(1)?;
        let node = &lab.nodes[0];
        let (a, c) = (node.pod("a")?, node.pod("c")?);
        let old = node.pid();
        let pings = Pings::start(&a.ns, &c.ip(), 4)?;
        for binary in ["/bin/false", "/bin/true", "/does/not/exist"] {
            let refused = node.weft(&["upgrade", "--binary", binary]).unwrap_err().to_string();
            ensure!(refused.contains(binary), "{refused}");
        }
        let heard = pretend(node, 9, 1)?;
        ensure!(heard.contains("weftd 9.9.9 speaks hand-over protocol 9, this one 1"), "{heard}");
        // Another format of state: everything but the state. And it dies before it is ready.
        let heard = pretend(node, 1, 9)?;
        ensure!(
            heard.contains("tap-") && heard.contains("udp4-rx") && !heard.contains("Stations"),
            "{heard}"
        );
        ensure!(node.log().contains("reads state of format 9, this one's is 1"), "{}", node.log());
        // The store is this process's again.
        let d = eventually(5, || node.pod("d"))?;
        ping(&a.ns, &d.ip(), 3)?;
        pings.all_came()?;
        ensure!(node.pid() == old, "another process");
        upgrade(node)?;
        ping(&a.ns, &d.ip(), 3)
    });
}

#[test]
fn a_second_daemon_takes_over() {
    as_root(|| {
        let mut lab = Lab::up(Options { nodes: 1, ..Options::default() })?;
        let node = &mut lab.nodes[0];
        let (a, c) = (node.pod("a")?, node.pod("c")?);
        let pings = Pings::start(&a.ns, &c.ip(), 3)?;
        std::thread::sleep(Duration::from_millis(300));
        // The new one has a keeper of its own, as the new pod of a DaemonSet has.
        node.take_over()?;
        pings.all_came()?;
        eventually(5, || {
            ensure!(descriptors(node)? > 20, "the new keeper holds nothing");
            Ok(())
        })?;
        node.kill_kept()?;
        ensure!(node.log().contains("ports=3 held=3"), "{}", node.log());
        ping(&a.ns, &c.ip(), 3)?;
        let d = node.pod("d")?;
        ping(&a.ns, &d.ip(), 3)
    });
}

/// Then says that it is ready, and dies as soon as the other one's workers have stopped.
const DIE: &str = r#"
s.send(b'"Ready"')
print(s.recv(1 << 20).decode())
os._exit(9)
"#;

#[test]
fn a_new_process_that_dies_when_the_old_one_has_stopped_is_a_crash_and_no_more() {
    as_root(|| {
        let mut lab = kept(1)?;
        lab.nodes[0].expect_log("failed after this one's workers had stopped");
        let node = &lab.nodes[0];
        let (a, c) = (node.pod("a")?, node.pod("c")?);
        let before = (carrier_changes(&a)?, carrier_changes(&c)?, descriptors(node)?);
        let socket = node.file("run/handover.sock");
        for round in 0..3 {
            let pings = a.ns.spawn("ping", &["-n", "-q", "-i", "0.001", "-W", "3", "-c", "2000", &c.ip()])?;
            // Acknowledged a moment before.
            let late = node.pod("l")?;
            let old = node.pid();
            let said =
                node.ns.spawn("python3", &["-c", &format!("{TAKE}{DIE}"), &socket.to_string_lossy()])?;
            let (out, errors, _) = said.finish()?;
            ensure!(out.contains("Stopped"), "{out}{errors}");
            node.wait_for_another(old)?;
            ping(&a.ns, &late.ip(), 3)?;
            let (out, errors, _) = pings.finish()?;
            let came =
                out.split(',').find_map(|part| part.trim().strip_suffix(" received")?.parse::<u32>().ok());
            ensure!(came.is_some_and(|came| came + 4 >= 2000), "round {round}: {out}{errors}");
            node.cni().del(&late.id, &late.ns.path())?;
        }
        ensure!(node.log().matches("ports=4 held=4").count() == 3, "{}", node.log());
        upgrade(node)?;
        eventually(5, || {
            let after = (carrier_changes(&a)?, carrier_changes(&c)?, descriptors(node)?);
            ensure!(before == after, "carriers and the keeper's descriptors: {before:?}, then {after:?}");
            Ok(())
        })
    });
}

#[test]
fn pods_are_added_while_upgrades_run() {
    as_root(|| {
        let lab = kept(1)?;
        let node = &lab.nodes[0];
        let first = node.pod("first")?;
        let done = std::sync::atomic::AtomicBool::new(false);
        let pods = std::thread::scope(|scope| -> Result<Vec<Pod>> {
            let adding: Vec<_> = (0..2)
                .map(|_| {
                    scope.spawn(|| -> Result<Vec<Pod>> {
                        let mut pods = Vec::new();
                        // Relaxed: nothing else hangs on it.
                        while !done.load(std::sync::atomic::Ordering::Relaxed) && pods.len() < 60 {
                            pods.push(node.pod("p")?);
                        }
                        Ok(pods)
                    })
                })
                .collect();
            let upgrades = (0..5).try_for_each(|_| upgrade(node));
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            let mut pods = Vec::new();
            for thread in adding {
                pods.extend(thread.join().expect("no panic")?);
            }
            upgrades.map(|()| pods)
        })?;
        ensure!(pods.len() >= 10, "only {} pods were added", pods.len());
        let ports = node.weft_json(&["show"])?.to_string();
        let mut addresses = std::collections::BTreeSet::new();
        for pod in &pods {
            ensure!(ports.contains(&pod.id), "{} was acknowledged and is not there", pod.id);
            ensure!(addresses.insert(pod.ip()), "{} is given twice", pod.ip());
            ping(&first.ns, &pod.ip(), 1)?;
        }
        Ok(())
    });
}

/// Counters of a node that must never go back.
fn counted(node: &Node) -> Result<Vec<(String, u64)>> {
    let stats = node.weft_json(&["stats"])?;
    let totals = stats["totals"].as_object().into_iter().flatten();
    let totals = totals.filter(|(name, _)| *name != "learned");
    let mut all: Vec<_> = totals.map(|(name, n)| (name.clone(), n.as_u64().unwrap_or(0))).collect();
    for drop in stats["drops"].as_array().into_iter().flatten() {
        all.push((format!("drops {}", drop["reason"]), drop["count"].as_u64().unwrap_or(0)));
    }
    for tunnel in node.weft_json(&["tunnel"])?.as_array().into_iter().flatten() {
        for key in ["rx_packets", "rx_bytes", "tx_packets", "tx_bytes"] {
            ensure!(tunnel[key].is_u64(), "no {key}: {tunnel}");
            all.push((format!("peer {} {key}", tunnel["remote"]), tunnel[key].as_u64().unwrap_or(0)));
        }
    }
    Ok(all)
}

#[test]
fn counters_go_on() {
    as_root(|| {
        let lab = kept(2)?;
        let node = &lab.nodes[0];
        let (a, b) = (node.pod("a")?, lab.nodes[1].pod("b")?);
        ping(&a.ns, &b.ip(), 100)?;
        let _ = a.ns.sh("ping -n -c 2 -W 1 10.244.9.9");
        for _ in 0..3 {
            ping(&a.ns, &b.ip(), 10)?;
            let before = counted(node)?;
            ensure!(before.iter().any(|(name, n)| name.starts_with("drops") && *n > 0), "{before:?}");
            upgrade(node)?;
            let after: std::collections::BTreeMap<_, _> = counted(node)?.into_iter().collect();
            for (name, n) in before {
                if name == "cache_entries" {
                    // The new one's caches begin empty, and nothing is sent.
                    ensure!(after.get(&name).is_some_and(|after| *after < n), "{name}: {n}, then {after:?}");
                    continue;
                }
                ensure!(after.get(&name).is_some_and(|after| *after >= n), "{name}: {n}, then {after:?}");
            }
        }
        ensure!(node.total("frames")? < 2000, "counted twice: {}", node.total("frames")?);
        // A port that is gone takes its counts along.
        node.cni().del(&a.id, &a.ns.path())?;
        let d = node.pod("d")?;
        let stats = node.weft_json(&["stats"])?;
        ensure!(!stats["drops"].to_string().contains("no-route"), "{} has inherited: {stats}", d.id);
        Ok(())
    });
}
