//! A lab of two nodes, as `scripts/lab.sh` makes it with `--keeper`; things happen to its node 1.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use weft_api::{BlockingClient, Client, paths};
use weft_sys::netns::Netns;

/// Where `scripts/lab.sh` keeps its labs.
const LABS: &str = "/run/weft-lab";
/// How often is looked whether the daemon is ready. Rarely: looking is load, too.
const LOOK: Duration = Duration::from_millis(20);
/// How long an answer of the daemon is waited for: one that is killed now gives none.
const ANSWER: Duration = Duration::from_secs(2);

/// A network namespace of the lab.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Place {
    /// A node, by number.
    Node(u32),
    /// A node's pod, by numbers.
    Pod(u32, u32),
}

/// A lab that is up.
#[derive(Debug)]
pub struct Lab {
    name: String,
    dir: PathBuf,
    bin_dir: PathBuf,
    /// The cluster file as it was made.
    cluster: String,
    api: BlockingClient,
    /// Process id of the keeper of node 1.
    keeper: u32,
    /// A keeper that this process has started.
    child: Option<Child>,
}

impl Lab {
    /// Finds the lab of that name, and the programs it runs.
    ///
    /// # Errors
    /// It is not up, or its daemons have no keeper.
    pub fn find(name: &str, bin_dir: &Path) -> anyhow::Result<Lab> {
        let dir = Path::new(LABS).join(name);
        let pids = fs::read_to_string(dir.join("pids")).with_context(|| format!("no lab {name} is up"))?;
        let keeper = pids.lines().next().and_then(|line| line.strip_suffix(" weft-keeper"));
        let keeper = keeper.context("node 1 has no keeper; see lab.sh up --keeper")?;
        let api = Client::new(dir.join("n1/run/weft.sock")).with_timeout(ANSWER);
        Ok(Lab {
            name: name.to_owned(),
            bin_dir: bin_dir.to_owned(),
            cluster: fs::read_to_string(dir.join("n1/cluster.toml")).context("cluster file")?,
            api: BlockingClient::new(api)?,
            keeper: keeper.parse().context("process id of the keeper")?,
            child: None,
            dir,
        })
    }

    /// Name of a namespace below `/run/netns`.
    pub fn namespace_name(&self, place: Place) -> String {
        match place {
            Place::Node(node) => format!("{}-n{node}", self.name),
            Place::Pod(node, pod) => format!("{}-n{node}-pod{pod}", self.name),
        }
    }

    /// A namespace of it.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn namespace(&self, place: Place) -> anyhow::Result<Netns> {
        let name = self.namespace_name(place);
        Netns::by_name(&name).with_context(|| format!("namespace {name}"))
    }

    /// Address of a pod, by which nodes and pods reach it.
    ///
    /// # Errors
    /// It is not a pod, or the plugin has left no result.
    pub fn address(&self, place: Place) -> anyhow::Result<IpAddr> {
        let Place::Pod(node, _) = place else { bail!("only pods have an address that all reach") };
        let file = self.dir.join(format!("n{node}/{}.result", self.namespace_name(place)));
        let result = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let result: Value = serde_json::from_str(&result)?;
        let address = result["ips"][0]["address"].as_str().and_then(|text| text.split('/').next());
        address.context("the pod has no address")?.parse().context("address of the pod")
    }

    /// The daemon's answer to one of [`paths`].
    ///
    /// # Errors
    /// It gives none.
    pub fn ask(&self, path: &str) -> anyhow::Result<Value> {
        Ok(self.api.get(path)?)
    }

    /// Runs `weft` for the node.
    ///
    /// # Errors
    /// With what it printed.
    pub fn weft(&self, args: &[&str]) -> anyhow::Result<()> {
        let mut command = Command::new(self.bin_dir.join("weft"));
        command.args(args).env("WEFT_SOCKET", self.dir.join("n1/run/weft.sock")).stdin(Stdio::null());
        let output = command.output().context("starting weft")?;
        let text = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "weft {}: {}", args.join(" "), text.trim());
        Ok(())
    }

    /// True if the programs of this lab know that verb of `weft`.
    pub fn knows_verb(&self, verb: &str) -> bool {
        succeeds(Command::new(self.bin_dir.join("weft")).args([verb, "--help"]))
    }

    /// True if the keeper's help has this word.
    pub fn keeper_knows(&self, word: &str) -> bool {
        let output = Command::new(self.bin_dir.join("weft-keeper")).arg("--help").output();
        output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(word))
    }

    /// A daemon's program.
    pub(super) fn program(&self) -> PathBuf {
        self.bin_dir.join("weftd")
    }

    /// The cluster file as it was made.
    pub(super) fn cluster(&self) -> &str {
        &self.cluster
    }

    /// Puts a cluster file in the old one's place, as an editor does.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn write_cluster(&self, text: &str) -> anyhow::Result<()> {
        let file = self.dir.join("n1/cluster.toml");
        let new = file.with_extension("new");
        fs::write(&new, text).and_then(|()| fs::rename(&new, &file)).context("writing the cluster file")
    }

    /// Process id of the node's daemon; `None` while the keeper starts it.
    pub fn daemon(&self) -> Option<u32> {
        let keeper = self.keeper;
        let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// Sends a signal to the daemon; its process id.
    ///
    /// # Errors
    /// There is none.
    pub fn signal(&self, what: Signal) -> anyhow::Result<u32> {
        let pid = self.daemon().context("node 1 has no daemon")?;
        signal(pid, what)?;
        Ok(pid)
    }

    /// Sends a signal to the keeper.
    ///
    /// # Errors
    /// There is none.
    pub fn signal_keeper(&self, what: Signal) -> anyhow::Result<()> {
        signal(self.keeper, what)
    }

    /// Waits until another daemon than `old` is ready.
    ///
    /// # Errors
    /// None is within the time.
    pub fn wait_for_another(&self, old: u32, most: Duration) -> anyhow::Result<()> {
        self.eventually(most, "no new daemon is ready", || {
            let is_new = self.daemon().is_some_and(|pid| pid != old);
            is_new && self.ask(paths::STATUS).is_ok_and(|status| status["ready"] == true)
        })
    }

    /// Waits until something is so.
    ///
    /// # Errors
    /// It never was: `otherwise`, and the end of the daemon's log.
    pub fn eventually(
        &self,
        most: Duration,
        otherwise: &str,
        mut is_so: impl FnMut() -> bool,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + most;
        while !is_so() {
            if Instant::now() > end {
                let log = fs::read_to_string(self.dir.join("n1/log")).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let last = lines[lines.len().saturating_sub(10)..].join("\n");
                bail!("{otherwise} after {} s; end of the log:\n{last}", most.as_secs());
            }
            sleep(LOOK);
        }
        Ok(())
    }

    /// Ends keeper and daemon as a service is stopped, and starts them again with the same words.
    ///
    /// # Errors
    /// They do not end, or do not come back.
    pub fn stop_and_start(&mut self, most: Duration) -> anyhow::Result<()> {
        let words =
            fs::read(format!("/proc/{}/cmdline", self.keeper)).context("command line of the keeper")?;
        let words: Vec<String> = words
            .split(|byte| *byte == 0)
            .filter(|word| !word.is_empty())
            .map(|word| String::from_utf8_lossy(word).into_owned())
            .collect();
        let daemon = self.daemon().unwrap_or_default();
        self.signal_keeper(Signal::TERM)?;
        let keeper = self.keeper;
        let mut child = self.child.take();
        self.eventually(most, "the daemon does not end", || {
            if let Some(child) = &mut child {
                let _ = child.try_wait();
            }
            !is_running(keeper) && !is_running(daemon)
        })?;
        let log = fs::OpenOptions::new().append(true).open(self.dir.join("n1/log"))?;
        // As lab.sh does: setsid and ip become the program.
        let mut command = Command::new("setsid");
        command.args(["ip", "netns", "exec", &self.namespace_name(Place::Node(1))]).args(&words);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let child = command.spawn().context("starting the keeper")?;
        self.keeper = child.id();
        self.child = Some(child);
        // What ends with the lab.
        let mut pids = fs::OpenOptions::new().append(true).open(self.dir.join("pids"))?;
        writeln!(pids, "{} weft-keeper", self.keeper)?;
        self.wait_for_another(daemon, most)
    }
}

fn is_running(pid: u32) -> bool {
    // A process that has ended but was not waited for has no command line.
    pid != 0 && fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|words| !words.is_empty())
}

fn succeeds(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Sends a signal to a process.
fn signal(pid: u32, what: Signal) -> anyhow::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no process has that id")?;
    kill_process(pid, what).with_context(|| format!("signal to process {}", pid.as_raw_pid()))
}
