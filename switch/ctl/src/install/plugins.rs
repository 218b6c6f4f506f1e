//! Plugins in the bin dirs and the CNI versions they speak.

use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::Deserialize;

/// How long a plugin may take to name its versions.
const LIMIT: Duration = Duration::from_secs(5);
/// Between two looks at a plugin.
const INTERVAL: Duration = Duration::from_millis(10);

/// Where the plugin is, among `dirs`.
pub(super) fn find(name: &str, dirs: &[PathBuf]) -> Vec<PathBuf> {
    dirs.iter().map(|dir| dir.join(name)).filter(|path| path.is_file()).collect()
}

/// Asks the plugin whether it speaks `version` (SPEC.md section "VERSION"); if not, why, to be read behind its path.
pub(super) fn speaks(plugin: &Path, version: &str) -> Result<(), String> {
    let output = ask(plugin, Instant::now() + LIMIT)?;
    let answer: Answer =
        serde_json::from_slice(&output).map_err(|error| format!("does not name its versions: {error}"))?;
    if answer.supported_versions.iter().any(|supported| supported == version) {
        return Ok(());
    }
    Err(format!("speaks only {}", answer.supported_versions.join(", ")))
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer {
    supported_versions: Vec<String>,
}

/// What the plugin prints to VERSION.
fn ask(plugin: &Path, end: Instant) -> Result<Vec<u8>, String> {
    let mut child = start(plugin, end)?;
    if let Some(mut stdin) = child.stdin.take() {
        // A plugin may answer without reading.
        let _ = stdin.write_all(br#"{"cniVersion":"1.0.0"}"#);
    }
    let stdout = child.stdout.take();
    let (send, receive) = mpsc::channel();
    // Not joined: a grandchild may keep the pipe open after the plugin was killed.
    std::thread::spawn(move || {
        let mut output = Vec::new();
        if let Some(stdout) = stdout {
            let _ = stdout.take(1 << 20).read_to_end(&mut output);
        }
        let _ = send.send(output);
    });
    let output = receive.recv_timeout(end.saturating_duration_since(Instant::now()));
    let status = loop {
        match child.try_wait() {
            Ok(None) if output.is_ok() && Instant::now() < end => std::thread::sleep(INTERVAL),
            Ok(Some(status)) => break Some(status),
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
        }
    };
    match (output, status) {
        (Ok(output), Some(status)) if status.success() => Ok(output),
        (Ok(_), Some(status)) => Err(format!("does not name its versions: {status}")),
        _ => Err(format!("does not name its versions within {} s", LIMIT.as_secs())),
    }
}

fn start(plugin: &Path, end: Instant) -> Result<Child, String> {
    loop {
        let mut command = Command::new(plugin);
        command
            .env("CNI_COMMAND", "VERSION")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        match command.spawn() {
            Ok(child) => return Ok(child),
            // Somebody is writing it this very moment.
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < end => {
                std::thread::sleep(INTERVAL);
            }
            Err(error) => return Err(format!("cannot be run: {error}")),
        }
    }
}
