//! The daemon as a process, in a network namespace of its own: ports made through the API, kill -9, restart, a
//! namespace that ends, purge. Needs CAP_NET_ADMIN.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use weft_api::report::Status;
use weft_api::{BlockingClient, Client, PortInfo, PortState, Transaction, paths};

/// Namespaces of one test, deleted with it.
struct Lab {
    tag: String,
    dir: tempfile::TempDir,
}

impl Lab {
    /// `None` without the rights.
    fn new(tag: &str) -> Option<Lab> {
        let lab = Lab { tag: format!("wd{tag}{}", std::process::id()), dir: tempfile::tempdir().unwrap() };
        if !rustix::process::geteuid().is_root() || !Path::new("/dev/net/tun").exists() {
            eprintln!("skipped: needs CAP_NET_ADMIN");
            return None;
        }
        for name in ["node", "a", "b"] {
            run("ip", &["netns", "add", &lab.ns(name)]);
            run("ip", &["-n", &lab.ns(name), "link", "set", "lo", "up"]);
        }
        Some(lab)
    }

    fn ns(&self, name: &str) -> String {
        format!("{}{name}", self.tag)
    }

    fn flags(&self) -> Vec<String> {
        let dir = |name: &str| self.dir.path().join(name).display().to_string();
        let pairs = [
            ("--config", "/dev/null".to_owned()),
            ("--run-dir", dir("run")),
            ("--state-dir", dir("state")),
            ("--pod-cidrs", "10.244.1.0/24,fd00:10:244:1::/64".to_owned()),
        ];
        pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect()
    }

    fn weftd(&self, more: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.ns("node"), env!("CARGO_BIN_EXE_weftd")]);
        command.args(self.flags()).args(more).stdin(Stdio::null());
        command
    }

    fn start(&self) -> (Daemon, BlockingClient) {
        let log = std::fs::File::options().create(true).append(true).open(self.log()).unwrap();
        let child = self.weftd(&[]).stderr(log).spawn().unwrap();
        let client = BlockingClient::new(Client::new(self.dir.path().join("run/weft.sock"))).unwrap();
        let status = client.wait_ready(Duration::from_secs(10)).expect("ready");
        assert_eq!(status.pid, child.id());
        (Daemon(child), client)
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn ping(&self, from: &str, to: &str) {
        run("ip", &["netns", "exec", &self.ns(from), "ping", "-c", "2", "-i", "0.1", "-W", "2", to]);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in ["node", "a", "b"] {
            let _ = Command::new("ip").args(["netns", "del", &self.ns(name)]).output();
        }
    }
}

/// Killed when the test ends before it.
struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run(program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).output().expect(program);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {}{text}", String::from_utf8_lossy(&output.stdout));
    output
}

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn transaction(text: &str) -> Transaction {
    serde_json::from_str(text).unwrap()
}

#[test]
fn ports_live_through_kill_and_end_with_their_namespaces() {
    let Some(lab) = Lab::new("k") else { return };
    let (mut daemon, client) = lab.start();
    let port = |name: &str, host: u8| {
        format!(
            r#"{{"do":"add-port","port":{{"name":"{name}","bridge":"br0","netns":"{}",
            "ips":["10.244.1.{host}/24","fd00:10:244:1::{host}/64"]}}}}"#,
            lab.ns(name)
        )
    };
    let both = transaction(&format!(r#"{{"commands":[{},{}]}}"#, port("a", 2), port("b", 3)));
    client.transaction(&both).unwrap();
    lab.ping("a", "10.244.1.3");
    lab.ping("a", "fd00:10:244:1::3");
    lab.ping("a", "10.244.1.1");
    lab.ping("node", "10.244.1.2");

    // All or nothing, also when it is the kernel that refuses.
    let half = transaction(
        r#"{"commands":[{"do":"add-bridge","bridge":{"name":"br9"}},
        {"do":"add-port","port":{"name":"x","bridge":"br9","netns":"no-such"}}]}"#,
    );
    let refused = client.transaction(&half).unwrap_err().to_string();
    assert!(refused.contains("no-such"), "{refused}");
    let bridges: Vec<weft_api::BridgeInfo> = client.get(paths::BRIDGES).unwrap();
    assert_eq!(bridges.len(), 1, "br9 was taken back");

    // A second daemon does not take over.
    let second = lab.weftd(&[]).output().unwrap();
    assert!(!second.status.success());
    assert!(String::from_utf8_lossy(&second.stderr).contains("in use by another weftd"));

    daemon.0.kill().unwrap();
    daemon.0.wait().unwrap();
    let (mut daemon, client) = lab.start();
    lab.ping("a", "10.244.1.3");

    run("ip", &["-n", &lab.ns("a"), "link", "del", "eth0"]);
    let ports = || client.get::<Vec<PortInfo>>(paths::PORTS).unwrap();
    eventually("port a is lost", || ports().iter().any(|p| p.spec.name == "a" && p.state == PortState::Lost));
    run("ip", &["netns", "del", &lab.ns("b")]);
    eventually("port b is gone", || ports().iter().all(|p| p.spec.name != "b"));
    let status: Status = client.get(paths::STATUS).unwrap();
    assert!(status.degraded.is_empty(), "{:?}", status.degraded);

    run("kill", &["-TERM", &daemon.0.id().to_string()]);
    assert!(daemon.0.wait().unwrap().success());
    let purged = lab.weftd(&["--purge"]).output().unwrap();
    assert!(purged.status.success(), "{}", String::from_utf8_lossy(&purged.stderr));
    let links = run("ip", &["-n", &lab.ns("node"), "-o", "link"]);
    assert_eq!(String::from_utf8_lossy(&links.stdout).lines().count(), 1, "only lo is left");
    let log = std::fs::read_to_string(lab.log()).unwrap();
    assert!(!log.contains(" WARN ") && !log.contains(" ERROR "), "{log}");
}

#[test]
fn check_says_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("weft.toml");
    let check = || {
        let output =
            Command::new(env!("CARGO_BIN_EXE_weftd")).arg("--check").arg("--config").arg(&file).output();
        let output = output.unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    std::fs::write(&file, "cluster = \"/nonexistent/cluster.toml\"\n").unwrap();
    let (code, text) = check();
    assert!(code == Some(1) && text.contains("/nonexistent/cluster.toml"), "{text}");
    std::fs::write(&file, "# nothing\nworkrs = 3\n").unwrap();
    let (code, text) = check();
    assert!(code == Some(2) && text.contains("weft.toml:2: unknown field `workrs`"), "{text}");
}

#[test]
fn systemd_does_not_start_what_cannot_start_as_fast_as_it_can() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("weft.toml");
    std::fs::write(&file, "workrs = 3\n").unwrap();
    // The shell's process id is that of the program that takes its place.
    let waits = |pid: &str, line: &str| {
        let program = env!("CARGO_BIN_EXE_weftd");
        let line = format!("SYSTEMD_EXEC_PID={pid} exec {program} {line} --config {}", file.display());
        let begun = Instant::now();
        let output = Command::new("sh").arg("-c").arg(&line).output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{line}: {output:?}");
        begun.elapsed() >= Duration::from_millis(990)
    };
    assert!(waits("$$", "") && waits("$$", "--nonsense") && waits("$$", "--workers two"));
    // It may take so long for another reason, but not every time.
    for (pid, line) in [("1", ""), ("1", "--nonsense"), ("$$", "--check")] {
        assert!((0..5).any(|_| !waits(pid, line)), "{pid} {line}");
    }
}
