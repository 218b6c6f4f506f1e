//! Network namespaces that are made for one measurement.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use super::peer::Peer;

/// Namespaces of a lab; dropped: removed. What an interrupted run leaves of them goes with the lab, programs included.
pub(super) struct Namespaces(Vec<String>);

impl Namespaces {
    /// Makes those of places `PLACE1` to `PLACEcount`.
    ///
    /// # Errors
    /// They cannot be made; then none is.
    pub(super) fn add(peer: &Peer, place: &str, count: usize) -> anyhow::Result<Namespaces> {
        let names = (1..=count).map(|number| peer.name_of(&format!("{place}{number}"))).collect();
        let namespaces = Namespaces(names);
        namespaces.record(peer)?;
        namespaces.batch("add")?;
        Ok(namespaces)
    }

    /// Their names below `/run/netns`.
    pub(super) fn names(&self) -> &[String] {
        &self.0
    }

    /// Tells `lab.sh down` of them.
    fn record(&self, peer: &Peer) -> anyhow::Result<()> {
        let file = peer.dir().join("namespaces");
        let known = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let known: HashSet<&str> = known.lines().collect();
        let mut new = String::new();
        for name in self.0.iter().filter(|name| !known.contains(name.as_str())) {
            _ = writeln!(new, "{name}");
        }
        Ok(fs::OpenOptions::new().append(true).open(&file)?.write_all(new.as_bytes())?)
    }

    /// Does one thing to all of them, as far as that goes.
    fn batch(&self, verb: &str) -> anyhow::Result<()> {
        let mut command = Command::new("ip");
        command.args(["-force", "-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("starting ip")?;
        let mut lines = String::new();
        self.0.iter().for_each(|name| _ = writeln!(lines, "netns {verb} {name}"));
        child.stdin.take().context("ip has no input")?.write_all(lines.as_bytes())?;
        let output = child.wait_with_output()?;
        ensure!(output.status.success(), "ip netns {verb}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // Some may be missing: then there was an error before.
        let _ = self.batch("del");
    }
}
