//! One node: a namespace with a `weftd` in it, and the pods that the plugin wired.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::cni::Cni;
use crate::ns::{Namespace, output, signal};
use crate::{bin, eventually};

/// A node. Dropped: the daemon ends, what it left is purged, its log is checked.
#[derive(Debug)]
pub struct Node {
    /// Its host namespace.
    pub ns: Namespace,
    /// Its name in the cluster.
    pub name: String,
    dir: tempfile::TempDir,
    daemon: Option<Child>,
    expected: Vec<String>,
    flags: Vec<String>,
    is_told_its_name: bool,
    /// It runs under `weft-keeper` with these flags.
    pub(crate) keeper: Option<Vec<&'static str>>,
    env: Vec<(String, String)>,
}

impl Node {
    /// A node whose daemon does not run yet.
    pub fn new(name: &str) -> Result<Self> {
        let ns = Namespace::new(name)?;
        let dir = tempfile::Builder::new().prefix("weft-test-").tempdir()?;
        for sub in ["run", "state"] {
            fs::create_dir(dir.path().join(sub))?;
        }
        fs::write(dir.path().join("weft.toml"), "")?;
        Ok(Node {
            ns,
            name: name.to_owned(),
            dir,
            daemon: None,
            expected: Vec::new(),
            flags: Vec::new(),
            is_told_its_name: true,
            keeper: None,
            env: Vec::new(),
        })
    }

    /// A file of the node: `weft.toml`, `cluster.toml`, `log`, `run/…`, `state/…`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The control socket.
    pub fn socket(&self) -> String {
        self.file("run/weft.sock").to_string_lossy().into_owned()
    }

    /// The plugin's socket.
    pub fn cni_socket(&self) -> String {
        self.file("run/cni.sock").to_string_lossy().into_owned()
    }

    /// Writes the cluster file, as an editor does: a new file in the old one's place.
    pub fn write_cluster(&self, text: &str) -> Result<()> {
        let new = self.file("cluster.toml.new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, self.file("cluster.toml"))?)
    }

    /// Further flags for the daemon.
    pub fn flag(&mut self, flags: &[&str]) {
        self.flags.extend(flags.iter().map(|flag| (*flag).to_owned()));
    }

    /// Whether the daemon is told its name in the cluster, as it is to begin with, or finds its entry itself.
    pub fn tell_its_name(&mut self, told: bool) {
        self.is_told_its_name = told;
    }

    /// A variable of the daemon's environment.
    pub fn env(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// The daemon with its flags, not started.
    pub fn weftd(&self) -> Command {
        let args = self.weftd_args();
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let mut command = self.ns.command(&bin::path("weftd"), &args);
        command.envs(self.env.iter().cloned());
        command
    }

    /// The daemon under its keeper, if it has one.
    fn kept(&self) -> Command {
        let Some(flags) = &self.keeper else { return self.weftd() };
        let mut args: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        args.extend(["--".to_owned(), bin::path("weftd")]);
        args.extend(self.weftd_args());
        self.ns.command(&bin::path("weft-keeper"), &args.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn weftd_args(&self) -> Vec<String> {
        let path = |name| self.file(name).to_string_lossy().into_owned();
        let mut args = vec!["--config".to_owned(), path("weft.toml")];
        if self.file("cluster.toml").exists() {
            args.extend(["--cluster".to_owned(), path("cluster.toml")]);
        }
        if self.is_told_its_name {
            args.extend(["--node".to_owned(), self.name.clone()]);
        }
        args.extend(["--run-dir".to_owned(), path("run"), "--state-dir".to_owned(), path("state")]);
        args.extend(["--socket".to_owned(), self.socket(), "--cni-socket".to_owned(), self.cni_socket()]);
        args.extend(self.flags.clone());
        args
    }

    /// Starts the daemon and waits until it is ready.
    pub fn start(&mut self) -> Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.file("log"))?;
        let mut command = self.kept();
        command.stdout(Stdio::null()).stderr(log);
        self.adopt(command.spawn().context("starting weftd")?)
    }

    /// Takes a daemon that was started otherwise, and waits until it is ready.
    pub fn adopt(&mut self, daemon: Child) -> Result<()> {
        self.daemon = Some(daemon);
        eventually(10, || {
            if let Some(status) = self.daemon.as_mut().and_then(|child| child.try_wait().ok().flatten()) {
                bail!("weftd ended: {status}\n{}", self.log());
            }
            let status = self.weft_json(&["status"])?;
            ensure!(status["ready"] == true, "not ready: {status}");
            Ok(())
        })
        .with_context(|| format!("log of {}:\n{}", self.name, self.log()))
    }

    /// Starts a second daemon, under a keeper, that takes over from the running one, and waits until that has ended.
    pub fn take_over(&mut self) -> Result<()> {
        let Some(mut first) = self.daemon.take() else { bail!("no daemon runs") };
        self.keeper = Some(Vec::new());
        self.flag(&["--take-over"]);
        let log = fs::OpenOptions::new().append(true).open(self.file("log"))?;
        let mut command = self.kept();
        self.flags.pop();
        command.stdout(Stdio::null()).stderr(log);
        self.daemon = Some(command.spawn().context("starting the second weftd")?);
        eventually(10, || {
            let ended = first.try_wait()?;
            ensure!(ended.is_some_and(|status| status.success()), "the first weftd: {ended:?}");
            ensure!(self.weft_json(&["status"])?["pid"] == self.pid(), "the second one does not answer");
            Ok(())
        })
    }

    /// Process id of the running daemon. With a keeper it changes; 0: it is just being started.
    pub fn pid(&self) -> u32 {
        let child = self.daemon.as_ref().expect("weftd runs").id();
        if self.keeper.is_none() {
            return child;
        }
        let children = fs::read_to_string(format!("/proc/{child}/task/{child}/children"));
        let children = children.unwrap_or_default();
        children.split_whitespace().next().and_then(|pid| pid.parse().ok()).unwrap_or(0)
    }

    /// Process id of the keeper.
    pub fn keeper_pid(&self) -> u32 {
        self.daemon.as_ref().expect("the keeper runs").id()
    }

    /// Kills the daemon under its keeper, and waits for the next one.
    pub fn kill_kept(&mut self) -> Result<()> {
        let old = self.pid();
        signal(old, Signal::KILL)?;
        self.wait_for_another(old)
    }

    /// Waits until another daemon than `old` is ready under the keeper.
    pub fn wait_for_another(&self, old: u32) -> Result<()> {
        eventually(10, || {
            ensure!(![0, old].contains(&self.pid()), "no new weftd");
            ensure!(self.weft_json(&["status"])?["ready"] == true, "not ready");
            Ok(())
        })
    }

    /// Ends the daemon by SIGTERM; ports stay.
    pub fn stop(&mut self) -> Result<()> {
        self.end(Signal::TERM)
    }

    /// Kills the daemon.
    pub fn kill(&mut self) -> Result<()> {
        self.end(Signal::KILL)
    }

    fn end(&mut self, how: Signal) -> Result<()> {
        let Some(mut child) = self.daemon.take() else { return Ok(()) };
        signal(child.id(), how)?;
        for _ in 0..100 {
            if let Some(status) = child.try_wait()? {
                ensure!(
                    how == Signal::KILL || status.success(),
                    "weftd ended with {status}:\n{}",
                    self.log()
                );
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        child.kill()?;
        child.wait()?;
        bail!("weftd did not end within 5 s of {how:?}:\n{}", self.log())
    }

    /// Runs `weft` on this node; its standard output.
    pub fn weft(&self, args: &[&str]) -> Result<String> {
        output(self.weft_command(args))
    }

    /// Runs a line of `weft` on this node, whatever comes of it: exit code, standard output, standard error.
    pub fn weft_line(&self, line: &str) -> Result<(i32, String, String)> {
        let output = self.weft_command(&line.split_whitespace().collect::<Vec<_>>()).output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        Ok((output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr)))
    }

    /// `weft` on this node, not run yet.
    pub fn weft_command(&self, args: &[&str]) -> Command {
        let mut command = self.ns.command(&bin::path("weft"), args);
        command.env("WEFT_SOCKET", self.socket());
        command
    }

    /// Runs `weft -o json` on this node.
    pub fn weft_json(&self, args: &[&str]) -> Result<Value> {
        let text = self.weft(&[&["-o", "json"], args].concat())?;
        serde_json::from_str(&text).with_context(|| format!("weft {args:?} printed no JSON: {text}"))
    }

    /// A total of `weft stats`; 0 when it never occurred.
    pub fn total(&self, name: &str) -> Result<u64> {
        Ok(self.weft_json(&["stats"])?["totals"][name].as_u64().unwrap_or(0))
    }

    /// How many frames died for a reason.
    pub fn drops(&self, reason: &str) -> Result<u64> {
        let stats = self.weft_json(&["stats"])?;
        let drops = stats["drops"].as_array().context("no drops in stats")?;
        Ok(drops.iter().filter(|d| d["reason"] == reason).filter_map(|d| d["count"].as_u64()).sum())
    }

    /// What the daemon logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.file("log")).unwrap_or_default()
    }

    /// A WARN or ERROR line that holds this text is part of the test.
    pub fn expect_log(&mut self, text: &str) {
        self.expected.push(text.to_owned());
    }

    /// Fails if the log has a WARN or ERROR that the test does not expect, or a panic.
    pub fn check_log(&self) -> Result<()> {
        let log = self.log();
        let bad: Vec<&str> = log
            .lines()
            .filter(|line| line.contains(" WARN ") || line.contains("ERROR ") || line.contains("panicked"))
            .filter(|line| !self.expected.iter().any(|text| line.contains(text)))
            .collect();
        ensure!(bad.is_empty(), "the log of {} has\n{}", self.name, bad.join("\n"));
        Ok(())
    }

    /// The plugin, called on this node.
    pub fn cni(&self) -> Cni<'_> {
        Cni::new(self)
    }

    /// A pod wired in by the plugin.
    pub fn pod(&self, name: &str) -> Result<Pod> {
        Pod::wire(name, &self.cni())
    }

    /// The same with an AF_XDP port.
    pub fn xdp_pod(&self, name: &str) -> Result<Pod> {
        Pod::wire(name, &self.cni().with(json!({ "portType": "afxdp" })))
    }

    /// Shows whether a network namespace (a name, or a process in it) lives on: of a pair of devices one is put into it,
    /// and the other one is among the node's [`links`](Node::links) until the namespace really ends, which is when
    /// nothing holds it any more: no name, no process, no descriptor of a device or socket.
    pub fn probe(&self, netns: &str) -> Result<()> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Relaxed: only the number's uniqueness counts.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        self.ns.sh(&format!("ip link add probe{number} type veth peer name probe netns {netns}")).map(drop)
    }

    /// Names of the node's devices.
    pub fn links(&self) -> Result<BTreeSet<String>> {
        Ok(self.ns.sh("ls /sys/class/net")?.lines().map(str::to_owned).collect())
    }

    /// Clock ticks, of 10 ms, that the daemon and the programs that it has run have had a CPU for.
    pub fn cpu_ticks(&self) -> Result<u64> {
        // Fields 14 to 17, proc_pid_stat(5); the name before them may hold anything but is in brackets.
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(4);
        fields.map(|field| Ok(field.parse::<u64>()?)).sum()
    }

    /// Open descriptors of the daemon.
    pub fn descriptors(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.end(Signal::TERM);
        let mut purge = self.weftd();
        let _ = purge.arg("--purge").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !std::thread::panicking() {
            if let Err(error) = self.check_log() {
                panic!("{error}");
            }
        } else {
            eprintln!("log of {}:\n{}", self.name, self.log());
        }
    }
}

/// A pod: a namespace that the plugin wired in.
#[derive(Debug)]
pub struct Pod {
    /// Its namespace.
    pub ns: Namespace,
    /// Its container id.
    pub id: String,
    /// The plugin's result.
    pub result: Value,
}

impl Pod {
    fn wire(name: &str, cni: &Cni<'_>) -> Result<Self> {
        let ns = Namespace::new(name)?;
        let id = ns.name().to_owned();
        let result = cni.add(&id, &ns.path())?;
        Ok(Pod { ns, id, result })
    }

    /// Its first IPv4 address, without prefix.
    pub fn ip(&self) -> String {
        self.address(|ip| !ip.contains(':')).expect("the pod has an IPv4 address")
    }

    /// Its first IPv6 address, without prefix.
    pub fn ip6(&self) -> String {
        self.address(|ip| ip.contains(':')).expect("the pod has an IPv6 address")
    }

    fn address(&self, want: impl Fn(&str) -> bool) -> Option<String> {
        let ips = self.result["ips"].as_array()?;
        let mut ips = ips.iter().filter_map(|ip| ip["address"].as_str()?.split('/').next());
        ips.find(|ip| want(ip)).map(str::to_owned)
    }
}
