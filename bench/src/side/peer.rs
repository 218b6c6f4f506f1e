//! A switch under comparison: a name, and a lab that is up.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use weft_sys::netns::{NAMED_DIR, Netns};

use super::work::{Way, Work};

/// Where `scripts/lab.sh` keeps its labs.
const LABS: &str = "/run/weft-lab";

/// A switch and its lab.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Peer {
    name: String,
    lab: String,
    /// The same with a bigger MTU between pods of one node.
    big: Option<Box<Peer>>,
}

impl FromStr for Peer {
    type Err = String;

    /// Reads `NAME=LAB`, or `NAME=LAB,LAB` with one of the biggest MTU between pods of one node.
    fn from_str(text: &str) -> Result<Self, String> {
        let (name, labs) = text.split_once('=').ok_or("NAME=LAB is expected")?;
        let peer = |lab: &str, big| match Path::new(LABS).join(lab).is_dir() {
            true => Ok(Peer { name: name.to_owned(), lab: lab.to_owned(), big }),
            false => Err(format!("no lab {lab} is up")),
        };
        match labs.split_once(',') {
            Some((lab, big)) => peer(lab, Some(Box::new(peer(big, None)?))),
            None => peer(labs, None),
        }
    }
}

impl Peer {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// True if its lab has the ends that the work needs.
    pub fn can(&self, work: &Work) -> bool {
        let has_ends = match work.way {
            Way::SameNode => true,
            Way::SameNodeBigMtu => self.big.is_some(),
            Way::Across | Way::AcrossCut => Path::new(NAMED_DIR).join(self.name_of("n2")).exists(),
        };
        has_ends && work.nodes().is_none_or(|nodes| nodes.contains(&self.kind().as_str()))
    }

    /// With the lab that has what the way needs.
    pub(super) fn at(&self, way: Way) -> &Peer {
        self.big.as_deref().filter(|_| way == Way::SameNodeBigMtu).unwrap_or(self)
    }

    /// What its nodes are, in the words of `lab.sh`.
    fn kind(&self) -> String {
        fs::read_to_string(self.dir().join("n1/kind")).unwrap_or_default().trim().to_owned()
    }

    /// True if it is weft.
    pub(super) fn is_weft(&self) -> bool {
        self.kind() == "weft"
    }

    /// Files of its lab; removed with it.
    pub(super) fn dir(&self) -> PathBuf {
        Path::new(LABS).join(&self.lab)
    }

    /// A namespace of its lab.
    ///
    /// # Errors
    /// There is none of that name.
    pub(super) fn namespace(&self, place: &str) -> anyhow::Result<Netns> {
        let name = self.name_of(place);
        Netns::by_name(&name).with_context(|| format!("namespace {name}"))
    }

    /// Name of a place of its lab below `/run/netns`.
    pub(super) fn name_of(&self, place: &str) -> String {
        format!("{}-{place}", self.lab)
    }

    /// The pod that sends.
    pub(super) fn source(&self) -> String {
        self.name_of("n1-pod1")
    }

    /// The pod that receives.
    pub(super) fn destination(&self, way: Way) -> String {
        let is_across = matches!(way, Way::Across | Way::AcrossCut);
        let place = if is_across { "n2-pod1" } else { "n1-pod2" };
        self.name_of(place)
    }

    /// Address of a namespace's `eth0`.
    pub(super) fn address(namespace: &str) -> anyhow::Result<IpAddr> {
        let args = ["-n", namespace, "-4", "-j", "addr", "show", "dev", "eth0", "scope", "global"];
        let output = Command::new("ip").args(args).output().context("starting ip")?;
        let links: Value =
            serde_json::from_slice(&output.stdout).with_context(|| format!("addresses of {namespace}"))?;
        // `ip` may print empty objects for other devices.
        let infos =
            links.as_array().into_iter().flatten().find_map(|link| link["addr_info"][0]["local"].as_str());
        Ok(infos.with_context(|| format!("{namespace} has no address"))?.parse()?)
    }

    /// Makes the nodes' uplinks cut to their MTU what they send, or not, as after `lab.sh up`.
    pub(super) fn cut(&self, cut: bool) -> anyhow::Result<()> {
        let (own, gro) = if cut { ("off", "on") } else { ("on", "off") };
        for node in ["n1", "n2"] {
            let namespace = format!("{}-{node}", self.lab);
            let mut command = Command::new("ip");
            command.args(["netns", "exec", &namespace, "ethtool", "-K", "eth0"]);
            for feature in [
                "tso",
                "gso",
                "tx-udp-segmentation",
                "tx-udp_tnl-segmentation",
                "tx-udp_tnl-csum-segmentation",
            ] {
                command.args([feature, own]);
            }
            command.args(["gro", gro]).stdout(Stdio::null()).stderr(Stdio::null());
            ensure!(command.status().context("starting ethtool")?.success(), "ethtool in {namespace}");
        }
        Ok(())
    }

    /// Stops its programs: some of them are busy when there is nothing to do.
    pub(super) fn rest(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets its programs go on.
    pub(super) fn wake(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        // Labs without programs have no such file.
        let pids = fs::read_to_string(self.dir().join("pids")).unwrap_or_default();
        for line in pids.lines() {
            let pid = line.split(' ').next().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
            let pid = pid.with_context(|| format!("no process id: {line}"))?;
            kill_process(pid, signal).with_context(|| format!("{}: {line} has ended", self.name))?;
        }
        self.big.as_ref().map_or(Ok(()), |big| big.signal(signal))
    }
}
