//! The daemon as a process: who may talk to it, what it logs, how soon it is ready, and a second one beside it.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use weft_tests::traffic::{iperf, ping, serve};
use weft_tests::{Context, Lab, Namespace, Node, Options, Result, as_root, bail, bin, ensure, eventually};

fn one() -> Result<Lab> {
    Lab::up(Options { nodes: 1, ..Options::default() })
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn chmod(path: &Path, mode: u32) -> Result<()> {
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(mode))?)
}

/// Runs `weft` as user 65534 with these options of setpriv(1) for its groups.
fn as_nobody(node: &Node, groups: &[&str], args: &[&str]) -> Result<Output> {
    let weft = node.file("weft").to_string_lossy().into_owned();
    let mut command = Command::new("setpriv");
    command.arg("--reuid=65534").args(groups).arg(weft).args(args).env("WEFT_SOCKET", node.socket());
    Ok(command.output()?)
}

/// What a program prints that gets `input`.
fn said_to(command: &mut Command, input: &str) -> Result<String> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("no stdin")?.write_all(input.as_bytes())?;
    Ok(text(&child.wait_with_output()?.stdout))
}

/// Flags win over variables, variables over the file, the file over what is built in.
#[test]
fn settings_come_from_flags_variables_and_file() {
    as_root(|| {
        let mut lab = Lab::wired(Options { nodes: 1, ..Options::default() })?;
        let cluster = lab.cluster(1);
        let node = &mut lab.nodes[0];
        node.write_cluster(&cluster)?;
        for (step, workers) in [("", 1), ("file", 2), ("variable", 3), ("flag", 4)] {
            match step {
                "file" => fs::write(node.file("weft.toml"), "workers = 2\n")?,
                "variable" => node.env("WEFT_WORKERS", "3"),
                "flag" => node.flag(&["--workers", "4"]),
                _ => {}
            }
            node.start()?;
            eventually(5, || {
                let stats = node.weft_json(&["stats"])?;
                let count = stats["worker_busy_permille"].as_array().map(Vec::len);
                ensure!(count == Some(workers), "{step:?}: {count:?} workers");
                Ok(())
            })?;
            node.stop()?;
        }
        Ok(())
    });
}

#[test]
fn members_of_the_group_are_served_and_strangers_are_not() {
    const GROUP: &str = "47311";
    as_root(|| {
        let mut lab = Lab::wired(Options { nodes: 1, ..Options::default() })?;
        let cluster = lab.cluster(1);
        let node = &mut lab.nodes[0];
        fs::write(node.file("weft.toml"), format!("socket_group = \"{GROUP}\"\n"))?;
        node.write_cluster(&cluster)?;
        node.start()?;
        // the client must reach socket and program; the socket's own mode is what counts
        chmod(&node.file(""), 0o755)?;
        chmod(&node.file("run"), 0o755)?;
        fs::copy(bin::path("weft"), node.file("weft"))?;
        let mode = fs::metadata(node.socket())?.permissions().mode() & 0o777;
        ensure!(mode == 0o660, "mode {mode:o}");
        let mode = fs::metadata(node.cni_socket())?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "the plugin's socket has mode {mode:o}");

        let (primary, extra) = (format!("--regid={GROUP}"), format!("--groups={GROUP}"));
        for groups in [&[primary.as_str(), "--clear-groups"][..], &["--regid=65534", extra.as_str()]] {
            for line in [&["status"][..], &["-o", "json", "show"], &["add-br", "mine"], &["del-br", "mine"]] {
                let output = as_nobody(node, groups, line)?;
                ensure!(output.status.success(), "{groups:?} {line:?}: {}", text(&output.stderr));
            }
            // it would run as root
            let (program, ran) = (node.file("evil"), node.file("ran"));
            fs::write(&program, format!("#!/bin/sh\ntouch {}\n", ran.display()))?;
            chmod(&program, 0o755)?;
            for line in [&["upgrade"][..], &["upgrade", "--binary", &program.to_string_lossy()]] {
                let output = as_nobody(node, groups, line)?;
                let said = text(&output.stderr);
                ensure!(
                    !output.status.success() && said.contains("only root may upgrade"),
                    "{line:?}: {said}"
                );
            }
            ensure!(!ran.exists(), "{groups:?}: a member's program ran");
        }
        let stranger = ["--regid=65534", "--clear-groups"];
        let output = as_nobody(node, &stranger, &["status"])?;
        let said = text(&output.stderr);
        ensure!(!output.status.success() && said.to_lowercase().contains("permission denied"), "{said}");
        // even where somebody opened the socket to all
        chmod(Path::new(&node.socket()), 0o666)?;
        for line in [&["status"][..], &["add-br", "theirs"]] {
            let output = as_nobody(node, &stranger, line)?;
            let said = text(&output.stderr);
            ensure!(!output.status.success() && said.contains("only root"), "{said}");
        }
        ensure!(!node.weft(&["list-br"])?.contains("theirs"), "a stranger's change was made");
        // The plugin's socket is root's alone, whatever its mode.
        fs::copy(bin::path("weft-cni"), node.file("weft-cni"))?;
        chmod(Path::new(&node.cni_socket()), 0o666)?;
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(node.file("weft-cni"));
        let config = node.cni().version("1.1.0").config(json!({})).to_string();
        let said = said_to(command.env("CNI_COMMAND", "STATUS"), &config)?;
        ensure!(said.contains("only root may use this socket, not user 65534"), "{said}");
        node.cni().version("1.1.0").status()
    });
}

#[test]
fn json_logs_are_json() {
    as_root(|| {
        let mut lab = Lab::wired(Options { nodes: 1, ..Options::default() })?;
        let cluster = lab.cluster(1);
        let node = &mut lab.nodes[0];
        node.flag(&["--log", "json", "--log-level", "debug"]);
        node.write_cluster(&cluster)?;
        node.start()?;
        drop(node.pod("p")?);
        ensure!(node.cni().add("x", "/proc/self/ns/net").is_err(), "a pod in the node's own namespace");
        node.write_cluster("[cluster\n")?;
        eventually(5, || {
            ensure!(node.log().contains("cluster file is bad"), "the bad file is not told");
            Ok(())
        })?;
        node.stop()?;
        let log = node.log();
        let mut levels = std::collections::BTreeSet::new();
        for line in log.lines() {
            let Ok(entry) = serde_json::from_str::<Value>(line) else { bail!("no JSON: {line}") };
            for key in ["timestamp", "level", "target", "message"] {
                ensure!(entry[key].is_string(), "no {key}: {line}");
            }
            levels.insert(entry["level"].as_str().unwrap_or_default().to_owned());
        }
        for level in ["DEBUG", "INFO", "ERROR"] {
            ensure!(levels.contains(level), "no line of level {level}:\n{log}");
        }
        ensure!(!levels.contains("WARN"), "{log}");
        Ok(())
    });
}

/// A daemon with directories and sockets of its own in the node's namespace.
struct Second {
    directory: tempfile::TempDir,
}

impl Second {
    fn new(config: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        fs::write(directory.path().join("weft.toml"), config)?;
        Ok(Second { directory })
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_string_lossy().into_owned()
    }

    fn args(&self, more: &[&str]) -> Vec<String> {
        let mut args = Vec::new();
        for (flag, name) in [
            ("--config", "weft.toml"),
            ("--run-dir", "run"),
            ("--state-dir", "state"),
            ("--socket", "weft.sock"),
            ("--cni-socket", "cni.sock"),
        ] {
            args.extend([flag.to_owned(), self.path(name)]);
        }
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        args
    }

    fn weft(&self, node: &Node, line: &str) -> Result<String> {
        let socket = self.path("weft.sock");
        let args: Vec<&str> = ["--socket", &socket].into_iter().chain(line.split_whitespace()).collect();
        node.ns.run(&bin::path("weft"), &args)
    }
}

#[test]
fn two_daemons_in_one_namespace() {
    as_root(|| {
        let lab = Lab::up(Options::default())?;
        let node = &lab.nodes[0];
        let (a, b) = (node.pod("a")?, lab.nodes[1].pod("b")?);
        let ruleset = || node.ns.sh("nft list ruleset; ip route; ip addr show weft0 | sed s/.tentative//");
        let before = ruleset()?;

        // it would share weft0, routes and rules, whatever it calls its own port
        let cluster = node.file("cluster.toml").to_string_lossy().into_owned();
        for config in ["", "internal_name = \"other0\"\n"] {
            let second = Second::new(config)?;
            for flags in [&["--cluster", &cluster, "--node", "n1"][..], &["--purge"]] {
                let args = second.args(flags);
                let weftd = bin::path("weftd");
                let args: Vec<&str> =
                    ["20", &weftd].into_iter().chain(args.iter().map(String::as_str)).collect();
                let output = node.ns.command("timeout", &args).output()?;
                let said = text(&output.stderr);
                let pid = format!("another weftd (process {})", node.pid());
                ensure!(output.status.code() == Some(1) && said.contains(&pid), "{flags:?}: {said}");
            }
        }
        // nor does it give way to one that tries often
        let second = Second::new("")?;
        let args = [vec!["20".to_owned(), bin::path("weftd")], second.args(&["--purge"])].concat();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        for attempt in 0..20 {
            let output = node.ns.command("timeout", &args).output()?;
            let said = text(&output.stderr);
            let refused = output.status.code() == Some(1) && said.contains("another weftd");
            ensure!(refused, "attempt {attempt}: {said}");
        }
        // nor to one that sees no number of its process, as a container does
        let output =
            node.ns.command("unshare", &[&["--pid", "--fork", "timeout"][..], &args].concat()).output()?;
        let said = text(&output.stderr);
        ensure!(!output.status.success() && said.contains("another weftd (process 0)"), "{said}");
        ensure!(ruleset()? == before, "a refused daemon changed the host");

        // without a port of the node's own it gets on; a UDP port that is taken is said
        let second = Second::new("internal = false\n")?;
        let args = second.args(&["--cluster", &cluster, "--node", "n1"]);
        let daemon =
            node.ns.spawn(&bin::path("weftd"), &args.iter().map(String::as_str).collect::<Vec<_>>())?;
        let status = eventually(5, || second.weft(node, "status"))?;
        ensure!(status.contains("UDP port 4789 cannot be opened"), "{status}");
        let (c, d) = (Namespace::new("c")?, Namespace::new("d")?);
        second.weft(node, "add-br lan")?;
        second.weft(node, &format!("add-port lan c netns={} ip=10.9.0.1/24", c.name()))?;
        second.weft(node, &format!("add-port lan d netns={} ip=10.9.0.2/24", d.name()))?;
        ping(&c, "10.9.0.2", 3)?;
        let (_, log, ok) = {
            weft_tests::ns::signal(daemon.pid(), rustix::process::Signal::TERM)?;
            daemon.finish()?
        };
        ensure!(ok && log.contains("another program or VXLAN device has it"), "{log}");
        ensure!(ruleset()? == before, "the second daemon changed the host");
        ping(&a.ns, &b.ip(), 3)?;
        ping(&a.ns, "10.244.1.1", 3)
    });
}

#[test]
fn ready_with_a_hundred_stored_ports() {
    as_root(|| {
        let mut lab = one()?;
        let node = &mut lab.nodes[0];
        let pods: Vec<_> = (0..100).map(|_| node.pod("r")).collect::<Result<_>>()?;
        let manager = node.file("notify");
        let socket = UnixDatagram::bind(&manager)?;
        socket.set_read_timeout(Some(Duration::from_secs(20)))?;
        node.env("NOTIFY_SOCKET", &manager.to_string_lossy());
        for kill in [false, true] {
            if kill {
                node.kill()?;
            } else {
                node.stop()?;
            }
            // what the end had to say
            socket.set_nonblocking(true)?;
            while socket.recv(&mut [0; 4096]).is_ok() {}
            socket.set_nonblocking(false)?;
            let start = Instant::now();
            let ready = std::thread::scope(|scope| -> Result<Duration> {
                let told = scope.spawn(|| -> Result<Duration> {
                    loop {
                        let mut message = [0; 4096];
                        let length = socket.recv(&mut message)?;
                        if text(&message[..length]).lines().any(|line| line == "READY=1") {
                            return Ok(start.elapsed());
                        }
                    }
                });
                node.start()?;
                told.join().expect("no panic")
            })?;
            let how = if kill { "kill -9" } else { "SIGTERM" };
            println!("ready {} ms after the start, with 100 ports, after {how}", ready.as_millis());
            ensure!(ready < Duration::from_secs(1), "ready only after {ready:?}");
            for pod in pods.iter().step_by(33) {
                ping(&pod.ns, "10.244.1.1", 1)?;
            }
        }
        Ok(())
    });
}

#[test]
fn busy_workers_are_told() {
    as_root(|| {
        let lab = one()?;
        let node = &lab.nodes[0];
        let (a, b) = (node.pod("a")?, node.pod("b")?);
        let shares = || -> Result<Vec<u64>> {
            let stats = node.weft_json(&["stats"])?;
            let shares = stats["worker_busy_permille"].as_array().cloned().unwrap_or_default();
            Ok(shares.iter().filter_map(Value::as_u64).collect())
        };
        eventually(10, || {
            let idle = shares()?;
            ensure!(idle.len() == 1 && idle[0] < 50, "an idle worker's share: {idle:?}");
            Ok(())
        })?;
        let _server = serve(&b.ns, 5201)?;
        let busiest = std::thread::scope(|scope| -> Result<u64> {
            let traffic = scope.spawn(|| iperf(&a.ns, &b.ip(), 5201, &["-t", "4", "-P", "4"]));
            let mut busiest = 0;
            while !traffic.is_finished() {
                busiest = busiest.max(shares()?.iter().copied().max().unwrap_or(0));
                std::thread::sleep(Duration::from_millis(100));
            }
            traffic.join().expect("no panic")?;
            Ok(busiest)
        })?;
        ensure!((100..=1000).contains(&busiest), "a busy worker's share: {busiest} permille");
        ensure!(node.weft(&["status"])?.contains(", busy "), "status does not tell");
        eventually(10, || {
            let idle = shares()?;
            ensure!(idle[0] < 50, "an idle worker's share: {idle:?}");
            Ok(())
        })
    });
}

#[test]
fn without_a_pod_cidr_it_says_so() {
    as_root(|| {
        let mut lab = Lab::wired(Options { nodes: 1, ..Options::default() })?;
        let node = &mut lab.nodes[0];
        let warning = "pods get no addresses: no pod CIDR is configured: give this node an entry in the cluster file, \
                       or set `pod_cidrs` in weft.toml";
        let said = text(&node.weftd().arg("--check").output()?.stdout);
        ensure!(said.ends_with(&format!("there are no other nodes\nwarning: {warning}\n")), "{said}");
        node.start()?;
        let status = node.weft(&["status"])?;
        ensure!(status.contains(&format!("degraded     {warning}")), "{status}");
        fs::write(node.file("weft.toml"), "pod_cidrs = [\"10.244.1.0/24\"]\n")?;
        let output = node.weftd().arg("--check").output()?;
        ensure!(output.status.success() && !text(&output.stdout).contains("warning"), "{output:?}");
        weft_tests::ns::signal(node.pid(), rustix::process::Signal::HUP)?;
        eventually(5, || {
            let status = node.weft(&["status"])?;
            ensure!(!status.contains("pods get no addresses"), "{status}");
            Ok(())
        })
    });
}

#[test]
fn a_bad_configuration_is_told_until_a_good_one_comes() {
    as_root(|| {
        let mut lab = one()?;
        let node = &mut lab.nodes[0];
        node.expect_log("configuration is bad");
        let hang_up = |text: &str| -> Result<()> {
            fs::write(node.file("weft.toml"), text)?;
            weft_tests::ns::signal(node.pid(), rustix::process::Signal::HUP)
        };
        let degraded = || node.weft(&["status"]);
        for (bad, told) in [
            ("spin_us = 50\nflood_pps = \"all\"\n", "weft.toml:2: flood_pps: invalid type"),
            ("mtu = 70000\n", "weft.toml:1: mtu is 70000; expected 1280 to 65521 bytes"),
        ] {
            hang_up(bad)?;
            eventually(5, || {
                let status = degraded()?;
                ensure!(
                    status.contains("the running configuration stays in force") && status.contains(told),
                    "{status}"
                );
                Ok(())
            })?;
        }
        hang_up("flood_pps = 500\n")?;
        eventually(5, || {
            let status = degraded()?;
            ensure!(!status.contains("stays in force"), "{status}");
            Ok(())
        })?;
        ensure!(
            node.weft(&["get", "bridge", "br0", "flood_pps"])?.trim() == "500",
            "the good one is not in force"
        );
        // And without a daemon: the key, the file, the line. A group that is not there may come; what is misspelt stays so.
        for (bad, told, code) in [
            (
                "vni = 1\nsocket_group = \"no-such-group\"\n",
                "weft.toml:2: socket_group is `no-such-group`",
                1,
            ),
            ("\n\nunderlay = \"somewhere\"\n", "weft.toml:3: underlay: invalid IP address", 2),
            ("log_level = \"a=b=c\"\n", "weft.toml:1: log_level is `a=b=c`", 2),
        ] {
            fs::write(node.file("weft.toml"), bad)?;
            let mut check = node.weftd();
            let output = check.arg("--check").output()?;
            let said = text(&output.stderr);
            ensure!(output.status.code() == Some(code) && said.contains(told), "{bad}: {said}");
        }
        fs::write(node.file("weft.toml"), "")?;
        Ok(())
    });
}
