//! What tcpdump sees on a device.

use anyhow::{Result, ensure};
use tempfile::NamedTempFile;

use crate::eventually;
use crate::ns::{Background, Namespace};

/// A running capture; ends when dropped.
#[derive(Debug)]
pub struct Capture {
    tcpdump: Background,
    text: NamedTempFile,
}

impl Capture {
    /// Starts tcpdump on a device with a filter (`pcap-filter(7)`), and waits until it listens. Numbers for names, no
    /// times.
    pub fn start(ns: &Namespace, device: &str, filter: &str) -> Result<Self> {
        let (text, errors) = (NamedTempFile::new()?, NamedTempFile::new()?);
        let line = format!(
            "exec tcpdump -nltB 16384 -i {device} --immediate-mode '{filter}' > {} 2> {}",
            text.path().display(),
            errors.path().display()
        );
        let tcpdump = ns.spawn("sh", &["-c", &line])?;
        eventually(5, || {
            // said once the filter is in place; what came before that is lost
            let said = std::fs::read_to_string(errors.path())?;
            ensure!(said.contains("listening on"), "tcpdump does not listen on {device}: {said}");
            Ok(())
        })?;
        Ok(Capture { tcpdump, text })
    }

    /// What it has printed until now.
    pub fn seen(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.text.path())?)
    }

    /// Ends it; all that it printed, without the empty line at its end.
    pub fn finish(self) -> Result<String> {
        self.tcpdump.interrupt()?;
        Ok(std::fs::read_to_string(self.text.path())?.trim().to_owned())
    }
}
