//! The delegated address plugin (SPEC.md section 4): found in CNI_PATH, run with the same environment and the whole
//! configuration on stdin.

use std::fs::File;
use std::io::{Seek, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use rustix::fs::{MemfdFlags, memfd_create};
use serde::Deserialize;
use weft_api::cni::{CniError, code};

use crate::result::Prev;

/// A delegated plugin of one call.
#[derive(Debug)]
pub(crate) struct Delegate<'a> {
    kind: &'a str,
    binary: PathBuf,
    stdin: &'a [u8],
}

/// The error of a plugin, on its stdout.
#[derive(Debug, Deserialize)]
struct Failure {
    code: u32,
    #[serde(default)]
    msg: String,
    #[serde(default)]
    details: String,
}

impl<'a> Delegate<'a> {
    /// Looks the binary of plugin `kind` up in `path` (CNI_PATH, `:` between directories).
    pub(crate) fn find(kind: &'a str, path: &str, stdin: &'a [u8]) -> Result<Self, CniError> {
        if kind.contains('/') {
            return Err(CniError::new(
                code::INVALID_CONFIG,
                format!("invalid plugin name in ipam.type: {kind}"),
            ));
        }
        let runnable = |file: &PathBuf| {
            file.metadata().is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
        };
        let mut candidates = path
            .split(':')
            .filter(|directory| !directory.is_empty())
            .map(|dir| PathBuf::from(dir).join(kind));
        match candidates.find(runnable) {
            Some(binary) => Ok(Delegate { kind, binary, stdin }),
            None => Err(CniError::new(
                code::INVALID_CONFIG,
                format!("failed to find plugin \"{kind}\" in path {path}"),
            )
            .with_details("ipam.type names a plugin that is not installed")),
        }
    }

    /// ADD. An allocation left by a call that was killed makes plugins refuse the same container: it is freed first,
    /// then asked for once more.
    pub(crate) fn add(&self) -> Result<Prev, CniError> {
        let output = match self.run("ADD") {
            Ok(output) => output,
            Err(error) => {
                self.run("DEL").map_err(|_| error)?;
                self.run("ADD")?
            }
        };
        let prev: Prev = serde_json::from_slice(&output).map_err(|error| {
            CniError::new(
                code::DECODE,
                format!("the result of IPAM plugin \"{}\" does not decode: {error}", self.kind),
            )
        })?;
        Ok(prev)
    }

    /// Another verb, whose result is not read.
    pub(crate) fn call(&self, command: &str) -> Result<(), CniError> {
        self.run(command).map(drop)
    }

    /// STATUS and GC, which only plugins since 1.1.0 know: older ones answer with code 1 or 4, which is no failure.
    pub(crate) fn call_if_known(&self, command: &str) -> Result<(), CniError> {
        match self.run(command) {
            Err(error) if matches!(error.code, code::INCOMPATIBLE_VERSION | code::INVALID_ENVIRONMENT) => {
                Ok(())
            }
            result => result.map(drop),
        }
    }

    fn run(&self, command: &str) -> Result<Vec<u8>, CniError> {
        let io = |error: std::io::Error| {
            CniError::new(code::IO, format!("running IPAM plugin {}: {error}", self.binary.display()))
        };
        let output = Command::new(&self.binary)
            .env("CNI_COMMAND", command)
            .stdin(self.stdin_file().map_err(io)?)
            .stderr(Stdio::inherit())
            .output()
            .map_err(io)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let kind = self.kind;
        Err(match serde_json::from_slice::<Failure>(&output.stdout) {
            Ok(failure) => CniError::new(failure.code, format!("IPAM plugin \"{kind}\": {}", failure.msg))
                .with_details(failure.details),
            Err(_) => CniError::new(
                code::INTERNAL,
                format!("IPAM plugin \"{kind}\" failed on {command}: {}", output.status),
            ),
        })
    }

    /// The configuration as a file in memory: unlike a pipe it never blocks, whatever the plugin reads.
    fn stdin_file(&self) -> std::io::Result<Stdio> {
        let mut file = File::from(memfd_create("cni-config", MemfdFlags::CLOEXEC)?);
        file.write_all(self.stdin)?;
        file.rewind()?;
        Ok(file.into())
    }
}
