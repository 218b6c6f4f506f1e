//! The daemon may die; traffic may not: under the keeper, under something that plays systemd, wedged, with ports that
//! end while their descriptors are held.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use weft_sys::notify::Receiver;
use weft_sys::process::{Spawn, environment_without, find};
use weft_tests::ns::signal;
use weft_tests::traffic::{ping, serve};
use weft_tests::{Lab, Namespace, Node, Options, Pod, Result, as_root, bail, bin, ensure, eventually};

fn kept(nodes: usize, flags: &[&'static str]) -> Result<Lab> {
    Lab::up(Options { nodes, keeper: Some(flags.to_vec()), ..Options::default() })
}

/// How often the pod's device has lost or got its carrier.
fn carrier_changes(pod: &Pod) -> Result<String> {
    pod.ns.sh("cat /sys/class/net/eth0/carrier_changes")
}

fn descriptors(pid: u32) -> Result<usize> {
    Ok(std::fs::read_dir(format!("/proc/{pid}/fd"))?.count())
}

/// Waits until the keeper has as many descriptors as before.
fn keeper_has(node: &Node, before: usize) -> Result<()> {
    eventually(5, || {
        let now = descriptors(node.keeper_pid())?;
        ensure!(now == before, "the keeper has {now} descriptors, not {before}");
        Ok(())
    })
}

/// Starts pings a millisecond apart.
struct Pings(weft_tests::ns::Background);

impl Pings {
    fn start(from: &Namespace, to: &str, seconds: u32) -> Result<Self> {
        let count = (seconds * 1000).to_string();
        Ok(Pings(from.spawn("ping", &["-n", "-q", "-i", "0.001", "-W", "3", "-c", &count, to])?))
    }

    /// Fails unless every answer came, but for a few: what a process that is killed has read and not yet written is lost.
    fn came(self, missing: u64) -> Result<()> {
        let (out, errors, _) = self.0.finish()?;
        let line = out.lines().find(|line| line.contains("packets transmitted")).unwrap_or_default();
        let mut numbers = line.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
        let (sent, came) = (numbers.next(), numbers.next());
        let (Some(sent), Some(came)) = (sent, came) else { bail!("{out}{errors}") };
        ensure!(sent > 100 && came + missing >= sent, "{out}{errors}");
        Ok(())
    }
}

#[test]
fn killed_under_load_nobody_notices() {
    as_root(|| {
        let mut lab = kept(2, &[])?;
        let (a, c) = (lab.nodes[0].pod("a")?, lab.nodes[0].pod("c")?);
        let b = lab.nodes[1].pod("b")?;
        let before = [carrier_changes(&a)?, carrier_changes(&c)?];
        let _servers = (serve(&c.ns, 5201)?, serve(&b.ns, 5201)?);
        let local = a.ns.spawn("iperf3", &["-c", &c.ip(), "-t", "6", "-P", "2", "-J"])?;
        let remote = a.ns.spawn("iperf3", &["-c", &b.ip(), "-t", "6", "-P", "2", "-J"])?;
        let pings = [Pings::start(&a.ns, &c.ip(), 5)?, Pings::start(&a.ns, &b.ip(), 5)?];
        for _ in 0..4 {
            std::thread::sleep(Duration::from_millis(700));
            lab.nodes[0].kill_kept()?;
        }
        for run in [local, remote] {
            let (out, errors, ok) = run.finish()?;
            ensure!(ok, "iperf3 did not survive: {out} {errors}");
        }
        pings.into_iter().try_for_each(|pings| pings.came(4))?;
        let after = [carrier_changes(&a)?, carrier_changes(&c)?];
        ensure!(before == after, "the carrier went: {before:?}, then {after:?}");
        let log = lab.nodes[0].log();
        let restarts: Vec<&str> = log.lines().filter(|line| line.contains("forwarding")).collect();
        ensure!(restarts.len() == 5, "{log}");
        ensure!(restarts[1..].iter().all(|line| line.contains("ports=3 held=3")), "{restarts:#?}");
        ensure!(!log.contains("of no use"), "{log}");
        Ok(())
    });
}

#[test]
fn ports_that_end_while_held_leave_nothing() {
    as_root(|| {
        let mut lab = kept(1, &[])?;
        lab.nodes[0].expect_log("lost");
        let before = descriptors(lab.nodes[0].keeper_pid())?;
        for restart in [false, true] {
            let pods: Vec<Pod> = (0..3).map(|_| lab.nodes[0].pod("p")).collect::<Result<_>>()?;
            keeper_has(&lab.nodes[0], before + 3)?;
            pods.iter().try_for_each(|pod| lab.nodes[0].probe(pod.ns.name()))?;
            if restart {
                lab.nodes[0].kill_kept()?;
                keeper_has(&lab.nodes[0], before + 3)?;
            }
            let node = &lab.nodes[0];
            let lost = pods[1].id.clone();
            node.cni().del(&pods[0].id, &pods[0].ns.path())?;
            keeper_has(node, before + 2)?;
            pods[1].ns.sh("ip link del eth0")?;
            keeper_has(node, before + 1)?;
            pods.into_iter().try_for_each(|pod| pod.ns.delete())?;
            keeper_has(node, before)?;
            eventually(5, || {
                let links = node.links()?;
                ensure!(
                    !links.iter().any(|link| link.starts_with("probe")),
                    "a namespace lives on: {links:?}"
                );
                Ok(())
            })?;
            node.cni().del(&lost, "")?;
        }
        Ok(())
    });
}

#[test]
fn a_daemon_that_shows_no_life_is_started_again() {
    as_root(|| {
        let mut lab = kept(1, &["--watchdog", "2"])?;
        lab.nodes[0].expect_log("worker 0 does not move");
        let (a, c) = (lab.nodes[0].pod("a")?, lab.nodes[0].pod("c")?);
        for one_thread in [false, true] {
            let node = &lab.nodes[0];
            let old = node.pid();
            let stopper = if one_thread { Some(stop_worker(node)?) } else { None };
            if !one_thread {
                signal(old, Signal::STOP)?;
            }
            let since = Instant::now();
            eventually(10, || {
                ensure!(![0, old].contains(&node.pid()), "process {old} is still there");
                ensure!(node.weft_json(&["status"])?["ready"] == true, "not ready");
                Ok(())
            })?;
            ensure!(since.elapsed() > Duration::from_secs(1), "killed too early");
            drop(stopper);
            ping(&a.ns, &c.ip(), 5)?;
        }
        ensure!(lab.nodes[0].log().matches("shows no life").count() == 2, "{}", lab.nodes[0].log());
        // And one that is well is left alone.
        let well = lab.nodes[0].pid();
        std::thread::sleep(Duration::from_secs(5));
        ensure!(lab.nodes[0].pid() == well, "killed without need");
        Ok(())
    });
}

/// Stops one thread of the daemon, its worker, until the returned process ends.
fn stop_worker(node: &Node) -> Result<weft_tests::ns::Background> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", node.pid()))?;
    let worker = tasks.flatten().find(|task| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "weft-w0")
    });
    let Some(worker) = worker else { bail!("weftd has no worker") };
    // PTRACE_SEIZE and PTRACE_INTERRUPT, which stop one thread where a signal would stop all; __WALL, to see its end.
    let script = "import ctypes,os,sys\nc=ctypes.CDLL(None)\nc.ptrace.argtypes=[ctypes.c_long]*4\nt=int(sys.argv[1])\nassert c.ptrace(0x4206,t,0,0)==0\nassert c.ptrace(0x4207,t,0,0)==0\nwhile os.WIFSTOPPED(os.waitpid(t,0x40000000)[1]): pass";
    let tid = worker.file_name().to_string_lossy().into_owned();
    node.ns.spawn("python3", &["-c", script, &tid])
}

#[test]
fn the_keeper_ends_with_its_daemon_and_dies_alone() {
    as_root(|| {
        let mut lab = kept(1, &[])?;
        let (a, c) = (lab.nodes[0].pod("a")?, lab.nodes[0].pod("c")?);
        // Asked to end: both do.
        let daemon = lab.nodes[0].pid();
        lab.nodes[0].stop()?;
        ensure!(!std::path::Path::new(&format!("/proc/{daemon}")).exists(), "weftd outlives a clean end");
        lab.nodes[0].start()?;
        ping(&a.ns, &c.ip(), 5)?;
        // Killed: the daemon goes on, and ports that come later work.
        let daemon = lab.nodes[0].pid();
        lab.nodes[0].kill()?;
        ping(&a.ns, &c.ip(), 5)?;
        let d = lab.nodes[0].pod("d")?;
        ping(&a.ns, &d.ip(), 5)?;
        signal(daemon, Signal::TERM)?;
        eventually(5, || {
            let there = std::path::Path::new(&format!("/proc/{daemon}")).exists();
            ensure!(!there, "weftd does not end");
            Ok(())
        })?;
        // Without held descriptors, devices are attached to by name.
        lab.nodes[0].start()?;
        ping(&a.ns, &d.ip(), 5)
    });
}

/// What no new start mends ends the keeper, too, but only before the daemon was ever ready.
#[test]
fn the_keeper_ends_with_a_daemon_that_cannot_be_mended() -> Result<()> {
    let dir = tempfile::tempdir()?;
    // A program that ends otherwise when it is started again.
    let twice = |first: &str| format!("[ -e again ] && exit 0; touch again; {first}");
    let ready = "exec python3 -c 'import os, socket
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b\"READY=1\", os.environ[\"NOTIFY_SOCKET\"])
os._exit(2)'";
    let (bad, fails, ends) = (twice("exit 2"), twice("exit 1"), twice(ready));
    for (program, wanted) in [
        (vec![bin::path("weftd"), "--mtu".into(), "3".into()], 2),
        (vec![bin::path("weftd"), "--no-such-flag".into()], 2),
        (vec!["sh".into(), "-c".into(), bad], 2),
        (vec!["sh".into(), "-c".into(), fails], 0),
        (vec!["sh".into(), "-c".into(), ends], 0),
    ] {
        let mut command = Command::new("timeout");
        command.args(["60", &bin::path("weft-keeper"), "--dir"]).arg(dir.path()).arg("--").args(&program);
        let output = command.current_dir(dir.path()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.code() == Some(wanted), "{program:?}: {output:?}");
        ensure!(said.contains("not started again") == (wanted == 2), "{program:?}: {said}");
        let _ = std::fs::remove_file(dir.path().join("again"));
    }
    ensure!(std::fs::read_dir(dir.path())?.next().is_none(), "a keeper that ended left its directory");
    Ok(())
}

#[test]
fn the_keeper_restarts_on_demand() {
    as_root(|| {
        let lab = kept(1, &[])?;
        let node = &lab.nodes[0];
        let (a, c) = (node.pod("a")?, node.pod("c")?);
        let before = carrier_changes(&a)?;
        for _ in 0..2 {
            let old = node.pid();
            signal(node.keeper_pid(), Signal::USR1)?;
            node.wait_for_another(old)?;
            ping(&a.ns, &c.ip(), 5)?;
        }
        ensure!(node.log().matches("ports=3 held=3").count() == 2, "{}", node.log());
        ensure!(carrier_changes(&a)? == before, "the carrier went");
        Ok(())
    });
}

/// The manager's side of the protocol, as systemd has it.
struct Manager {
    receiver: Receiver,
    socket: OsString,
    _dir: tempfile::TempDir,
    store: BTreeMap<String, OwnedFd>,
}

impl Manager {
    fn new() -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let socket = dir.path().join("notify");
        let receiver = Receiver::bind(&socket)?;
        Ok(Manager { receiver, socket: socket.into(), _dir: dir, store: BTreeMap::new() })
    }

    /// Takes what was sent; true if it had a line.
    fn hear(&mut self, wanted: &str) -> Result<bool> {
        let mut heard = false;
        while let Some(mut message) = self.receiver.receive()? {
            heard |= message.text.lines().any(|line| line == wanted);
            let name = message.get("FDNAME").unwrap_or_default().to_owned();
            if message.get("FDSTORE") == Some("1") {
                ensure!(message.get("FDPOLL") == Some("0"), "{}: would be polled", message.text);
                let fd = message.fds.pop();
                let Some(fd) = fd else { bail!("{}: no descriptor", message.text) };
                ensure!(!self.store.contains_key(&name), "{name} is stored twice");
                self.store.insert(name, fd);
            } else if message.get("FDSTOREREMOVE") == Some("1") {
                ensure!(self.store.remove(&name).is_some(), "{name} is removed but not stored");
            }
        }
        Ok(heard)
    }

    fn wait_for(&mut self, line: &str) -> Result<()> {
        eventually(10, || {
            ensure!(self.hear(line)?, "no {line}");
            Ok(())
        })
    }

    /// Starts the node's daemon with all that is stored.
    fn start(&mut self, node: &Node) -> Result<u32> {
        let command = node.weftd();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(node.file("log"))?;
        // Through a shell, for the log; everything execs, so that the process id stays.
        let mut args: Vec<OsString> =
            vec!["-c".into(), "exec \"$@\" 2>>\"$0\"".into(), node.file("log").into()];
        args.push(command.get_program().into());
        args.extend(command.get_args().map(OsStr::to_owned));
        drop(log);
        let mut env = environment_without(&["NOTIFY_SOCKET"]);
        env.push(("NOTIFY_SOCKET".into(), self.socket.clone()));
        env.push(("LISTEN_FDS".into(), self.store.len().to_string().into()));
        let names: Vec<&str> = self.store.keys().map(String::as_str).collect();
        env.push(("LISTEN_FDNAMES".into(), names.join(":").into()));
        let fds: Vec<_> = self.store.values().map(AsFd::as_fd).collect();
        let program = find(OsStr::new("sh"))?;
        let spawn = Spawn { program: &program, args: &args, env: &env, pid_vars: &["LISTEN_PID"], fds: &fds };
        let pid = spawn.start()?.as_raw_pid().cast_unsigned();
        self.wait_for("READY=1")?;
        Ok(pid)
    }

    fn end(&mut self, pid: u32, how: Signal) -> Result<()> {
        signal(pid, how)?;
        let pid = rustix::process::Pid::from_raw(pid.cast_signed());
        rustix::process::waitpid(pid, rustix::process::WaitOptions::empty())?;
        self.hear("").map(drop)
    }
}

#[test]
fn descriptors_lie_in_the_service_managers_store() {
    as_root(|| {
        let mut lab = Lab::wired(Options { nodes: 1, ..Options::default() })?;
        let cluster = lab.cluster(2);
        lab.nodes[0].write_cluster(&cluster)?;
        let node = &mut lab.nodes[0];
        node.expect_log("held");
        let mut manager = Manager::new()?;
        let first = manager.start(node)?;
        manager.hear("")?;
        let sockets =
            |manager: &Manager| manager.store.keys().filter(|name| name.starts_with("udp4-")).count();
        ensure!(
            sockets(&manager) == 9 && manager.store.contains_key("udp4-rx-4789"),
            "{:?}",
            manager.store.keys()
        );
        ensure!(manager.store.contains_key("tap-weft0-0"), "{:?}", manager.store.keys());
        let without = manager.store.len();
        let (a, c) = (node.pod("a")?, node.pod("c")?);
        manager.hear("")?;
        let before = manager.store.len();
        ensure!(before == without + 2, "{:?}", manager.store.keys());
        ping(&a.ns, &c.ip(), 3)?;

        // Dead: packets wait in the devices, and the next process finds them.
        manager.end(first, Signal::KILL)?;
        let pings = a.ns.spawn("ping", &["-n", "-q", "-i", "0.01", "-W", "5", "-c", "20", &c.ip()])?;
        std::thread::sleep(Duration::from_millis(300));
        let second = manager.start(node)?;
        let (out, errors, _) = pings.finish()?;
        ensure!(out.contains("20 received"), "{out}{errors}");
        ensure!(node.log().contains("ports=3 held=3"), "{}", node.log());
        ensure!(manager.store.len() == before, "{:?}", manager.store.keys());

        // Wrong and stale ones under right and wrong names.
        manager.end(second, Signal::KILL)?;
        let null = || -> Result<OwnedFd> { Ok(std::fs::File::open("/dev/null")?.into()) };
        let taps: Vec<String> = manager
            .store
            .keys()
            .filter(|name| name.starts_with("tap-") && *name != "tap-weft0-0")
            .cloned()
            .collect();
        let stranger = std::net::UdpSocket::bind("127.0.0.1:0")?;
        manager.store.insert("tap-nobody-0".into(), null()?);
        let (one, other) = (taps[0].clone(), taps[1].clone());
        let tap = manager.store.insert(one, null()?).map(|fd| fd.try_clone()).transpose()?;
        // The descriptor of another pod's device.
        manager.store.insert(other, tap.as_ref().map(OwnedFd::try_clone).transpose()?.expect("it was held"));
        drop(tap);
        manager.store.insert("udp4-tx-4789-3".into(), stranger.into());
        manager.store.insert("udp4-rx-4789".into(), null()?);
        let third = manager.start(node)?;
        manager.hear("")?;
        ping(&a.ns, &c.ip(), 3)?;
        let log = node.log();
        ensure!(log.matches("held descriptor is of no use").count() == 2, "{log}");
        ensure!(log.matches("held socket is of no use").count() == 2, "{log}");
        ensure!(log.matches("not wanted any more").count() == 1, "{log}");
        ensure!(
            manager.store.len() == before && !manager.store.contains_key("tap-nobody-0"),
            "{:?}",
            manager.store.keys()
        );
        manager.end(third, Signal::TERM)
    });
}
