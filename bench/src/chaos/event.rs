//! What happens to the node, one function per event. Each returns when the daemon says that all is as it should be.

use std::fmt;
use std::thread::sleep;
use std::time::Duration;

use clap::ValueEnum;
use rustix::process::Signal;
use serde_json::Value;
use weft_api::paths;

use super::lab::{Lab, Place};
use super::tables;

/// A daemon that died or was replaced must be ready within this time.
const BACK: Duration = Duration::from_secs(10);
/// A daemon that hangs is waited for in vain, and replaced, within this time.
const NOTICED: Duration = Duration::from_secs(30);
/// A change must take effect within this time.
const CHANGED: Duration = Duration::from_secs(5);
/// What has no visible end counts for so long.
const A_WHILE: Duration = Duration::from_millis(300);
/// The word in the keeper's help that says that it knows restarts.
const RESTART_SIGNAL: &str = "SIGUSR1";
/// The port and the bridge that come and go.
const PORT: &str = "chaos";
const BRIDGE: &str = "brchaos";

/// Something that happens to node 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Event {
    /// Nothing: what the machine's scheduling alone does
    Nothing,
    /// SIGKILL to weftd; its keeper starts it again
    Crash,
    /// A port and a bridge come, change and go, and the cluster file changes twice
    Config,
    /// SIGHUP to weftd: configuration and cluster file are read again
    Reload,
    /// weftd ends in order and is started again, as `systemctl restart` does
    Restart,
    /// `weft upgrade`: a new process takes over from the old one
    Upgrade,
    /// The cluster file changes while weftd is killed; then the tables must be those of a fresh node
    ClusterWhileDown,
    /// SIGSTOP to weftd; the watchdog (5 s) ends it
    Wedged,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

impl Event {
    /// Why it cannot happen in this lab, if so.
    pub fn obstacle(self, lab: &Lab) -> Option<&'static str> {
        match self {
            Event::Upgrade if !lab.knows_verb("upgrade") => Some("this weft has no `upgrade`"),
            _ => None,
        }
    }

    /// Lets it happen. `round`: how often it has happened before.
    pub(super) fn happen(self, lab: &mut Lab, round: usize) -> anyhow::Result<()> {
        match self {
            Event::Nothing => sleep(A_WHILE),
            Event::Crash => {
                let old = lab.signal(Signal::KILL)?;
                lab.wait_for_another(old, BACK)?;
            }
            Event::Config => config(lab)?,
            Event::Reload => {
                lab.signal(Signal::HUP)?;
                sleep(A_WHILE);
            }
            Event::Restart => restart(lab)?,
            Event::Upgrade => {
                let old = lab.daemon().unwrap_or_default();
                lab.weft(&["upgrade"])?;
                lab.wait_for_another(old, BACK)?;
            }
            Event::ClusterWhileDown => cluster_while_down(lab, round)?,
            Event::Wedged => {
                let old = lab.signal(Signal::STOP)?;
                lab.wait_for_another(old, NOTICED)?;
            }
        }
        Ok(())
    }
}

fn config(lab: &Lab) -> anyhow::Result<()> {
    let netns = format!("netns={}", lab.namespace_name(Place::Pod(1, 2)));
    lab.weft(&["add-port", "br0", PORT, &netns, "ifname=chaos0", "ip=10.244.1.250/32", "gateway=none"])?;
    lab.weft(&["set", "port", PORT, "tag=5", "external_ids:by=chaos"])?;
    lab.weft(&["add-br", BRIDGE])?;
    lab.weft(&["set", "bridge", BRIDGE, "ageing-seconds=60"])?;
    lab.write_cluster(&format!("{}{}", lab.cluster(), third_node(3)))?;
    let knows_third = || lab.ask(paths::TUNNELS).is_ok_and(|tunnels| third_of(&tunnels).is_some());
    lab.eventually(CHANGED, "the new node is not known", knows_third)?;
    lab.weft(&["del-port", "br0", PORT])?;
    lab.weft(&["del-br", BRIDGE])?;
    lab.write_cluster(lab.cluster())?;
    lab.eventually(CHANGED, "the old node is still known", || !knows_third())
}

fn restart(lab: &mut Lab) -> anyhow::Result<()> {
    if !lab.keeper_knows(RESTART_SIGNAL) {
        return lab.stop_and_start(BACK);
    }
    let old = lab.daemon().unwrap_or_default();
    lab.signal_keeper(Signal::USR1)?;
    lab.wait_for_another(old, BACK)
}

/// In turn a node joins, changes, and leaves.
fn cluster_while_down(lab: &Lab, round: usize) -> anyhow::Result<()> {
    let more = match round % 3 {
        0 => third_node(3),
        1 => third_node(4),
        _ => String::new(),
    };
    let cluster = format!("{}{more}", lab.cluster());
    // It sees nothing of the change: a stopped process is dead to the world, and this one never wakes.
    let old = lab.signal(Signal::STOP)?;
    lab.write_cluster(&cluster)?;
    lab.signal(Signal::KILL)?;
    lab.wait_for_another(old, BACK)?;
    tables::equal_those_of_a_fresh_node(lab, &cluster, CHANGED)
}

/// Lines of a cluster file. `number` chooses its MAC and its prefix.
fn third_node(number: u8) -> String {
    format!(
        "\n[[node]]\nname = \"n3\"\nunderlay = \"172.31.77.3\"\nmac = \"02:77:65:66:74:0{number}\"\n\
         pod_cidrs = [\"10.244.{number}.0/24\"]\n"
    )
}

fn third_of(tunnels: &Value) -> Option<&Value> {
    tunnels.as_array()?.iter().find(|tunnel| tunnel["node"] == "n3")
}
