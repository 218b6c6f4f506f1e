//! Least privilege: what threads of a running daemon may do, also after an upgrade; and a start without enough.

use std::process::Stdio;

use weft_tests::traffic::ping;
use weft_tests::{Lab, Namespace, Node, Options, Result, as_root, bail, ensure, eventually};

/// CHOWN, DAC_OVERRIDE, NET_ADMIN, NET_RAW, SYS_PTRACE, SYS_ADMIN (`linux/capability.h`).
const KEPT: u64 = 0x283003;
/// IPC_LOCK: kept besides where the limit of locked memory could not be raised.
const IPC_LOCK: u64 = 1 << 14;
const NONE: &str = "0000000000000000";

/// Fails unless every thread has what it should have and no more.
fn check_threads(node: &Node) -> Result<()> {
    let mut workers = 0;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", node.pid()))?;
    let locked = limits.lines().find(|line| line.starts_with("Max locked memory")).unwrap_or_default();
    let is_bounded = locked.split_whitespace().nth(3).is_none_or(|soft| soft != "unlimited");
    let kept = format!("{:016x}", KEPT | if is_bounded { IPC_LOCK } else { 0 });
    let status = node.weft_json(&["status"])?;
    for task in std::fs::read_dir(format!("/proc/{}/task", status["pid"]))?.flatten() {
        // Helper threads come and go.
        let Ok(status) = std::fs::read_to_string(task.path().join("status")) else { continue };
        let field = |name: &str| status.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(":\t"));
        let worker = field("Name").is_some_and(|name| name.starts_with("weft-w") && name != "weft-watch");
        let (capabilities, filter) = if worker { (NONE, "2") } else { (kept.as_str(), "0") };
        let wanted = [
            ("CapInh", NONE),
            ("CapPrm", capabilities),
            ("CapEff", capabilities),
            ("CapBnd", &kept),
            ("CapAmb", NONE),
            ("NoNewPrivs", "1"),
            ("Seccomp", filter),
        ];
        for (name, value) in wanted {
            ensure!(field(name) == Some(value), "{name} is not {value}:\n{status}");
        }
        workers += usize::from(worker);
    }
    ensure!(workers == 1, "{workers} workers");
    Ok(())
}

#[test]
fn threads_have_what_they_need_and_no_more() {
    as_root(|| {
        let lab = Lab::up(Options { nodes: 2, keeper: Some(Vec::new()), ..Options::default() })?;
        let node = &lab.nodes[0];
        let (a, c, b) = (node.pod("a")?, node.pod("c")?, lab.nodes[1].pod("b")?);
        for upgrades in 0..3 {
            if upgrades > 0 {
                node.weft(&["upgrade"])?;
            }
            check_threads(node)?;
            let d = node.pod("d")?;
            for to in [&c, &b, &d] {
                ping(&a.ns, &to.ip(), 5)?;
            }
            // By process, another user's.
            let other = Namespace::new("o")?;
            let sleeper = other.spawn("setpriv", &["--reuid=65534", "--clear-groups", "sleep", "60"])?;
            eventually(5, || {
                let name = std::fs::read_to_string(format!("/proc/{}/comm", sleeper.pid()))?;
                ensure!(name == "sleep\n", "it is still {name}");
                Ok(())
            })?;
            node.weft(&["add-port", "br0", "bypid", &format!("netns={}", sleeper.pid())])?;
            node.weft(&["del-port", "bypid"])?;
        }
        Ok(())
    });
}

#[test]
fn a_daemon_without_enough_says_what_is_missing() {
    as_root(|| {
        let node = Node::new("n")?;
        let daemon = node.weftd();
        let words: Vec<_> = daemon.get_args().map(|arg| arg.to_string_lossy().into_owned()).collect();
        let Some(at) = words.iter().position(|word| word.ends_with("weftd")) else { bail!("{words:?}") };
        let mut args = vec!["--bounding-set=-sys_admin"];
        args.extend(words[at..].iter().map(String::as_str));
        let ended = node.ns.command("setpriv", &args).stdin(Stdio::null()).output()?;
        let said = String::from_utf8_lossy(&ended.stderr);
        ensure!(!ended.status.success() && said.contains("lacks CAP_SYS_ADMIN"), "{said}");
        Ok(())
    });
}
