//! `cni install|uninstall`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Subcommand};
use serde_json::Value;
use weft_api::cni::DEFAULT_DEL_QUEUE;
use weft_api::{DEFAULT_CNI_SOCKET, DEFAULT_SOCKET};

use super::Verb;
use crate::install::{self, InstallError, Ipam, Options, Report};
use crate::session::{Exit, Session};

/// The plugin that wires pods in
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  weft cni install --chain portmap")]
pub(crate) struct Cni {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Put plugin and configuration in place, once the daemon is ready
    #[command(after_help = "\
Another network's configuration that sorts before 10-weft.conflist is an error; --exclusive renames it to
NAME.weft-disabled, `weft cni uninstall` names it back.

Examples:
  weft cni install
  weft cni install --chain portmap,tuning
  weft cni install --ipam host-local --exclusive")]
    Install(Box<Install>),
    /// Take configuration and plugin away, and put back what --exclusive set aside
    #[command(after_help = "\
Pods that still run need the plugin to be deleted: drain the node first.

Example:
  weft cni uninstall")]
    Uninstall(Dirs),
}

#[derive(Debug, Args)]
struct Dirs {
    /// Directory of plugins, repeatable; absent: those of /opt/cni/bin and /usr/lib/cni that exist
    #[arg(long, value_name = "DIR", value_delimiter = ',')]
    bin_dir: Vec<PathBuf>,
    /// Directory of configurations
    #[arg(long, value_name = "DIR", default_value = "/etc/cni/net.d")]
    conf_dir: PathBuf,
}

#[derive(Debug, Args)]
struct Install {
    #[command(flatten)]
    dirs: Dirs,
    /// The plugin's binary; absent: weft-cni beside this command
    #[arg(long, value_name = "PATH")]
    plugin: Option<PathBuf>,
    /// Name of the network
    #[arg(long, default_value = "weft")]
    name: String,
    /// Bridge that pods join; absent: the daemon's default one. Another one needs --ipam
    #[arg(long, value_name = "NAME")]
    bridge: Option<String>,
    /// MTU of pods in bytes; absent: the bridge's, followed live
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(68..=65_521))]
    mtu: Option<u32>,
    /// Plugins called after weft-cni: portmap for host ports, tuning, …
    #[arg(long, value_name = "PLUGIN,...", value_delimiter = ',')]
    chain: Vec<String>,
    /// Let this plugin give addresses; host-local gets the daemon's pod CIDRs
    #[arg(long, value_name = "PLUGIN", conflicts_with = "ipam_json")]
    ipam: Option<String>,
    /// The same with its configuration, the value of "ipam"
    #[arg(long, value_name = "FILE")]
    ipam_json: Option<PathBuf>,
    /// The daemon's socket for the plugin; absent: cni.sock beside --socket
    #[arg(long, value_name = "PATH", env = "WEFT_CNI_SOCKET", hide_env_values = true)]
    cni_socket: Option<PathBuf>,
    /// Where deletions wait while the daemon is down
    #[arg(long, value_name = "DIR", env = "WEFT_CNI_QUEUE_DIR", hide_env_values = true, default_value = DEFAULT_DEL_QUEUE)]
    queue_dir: PathBuf,
    /// Set configurations that sort before ours aside
    #[arg(long)]
    exclusive: bool,
    /// How long to wait for the daemon to be ready
    #[arg(long, value_name = "SECONDS", default_value = "30")]
    wait: u64,
}

impl Verb for Cni {
    fn run(&self, session: &mut Session) -> anyhow::Result<Exit> {
        match &self.action {
            Action::Install(args) => {
                let options = args.options(&session.settings.socket)?;
                let report = install::install(&options, session.client()?)?;
                session.print(&report, |report| text(report, "wrote", "set aside"));
            }
            Action::Uninstall(dirs) => {
                let report = install::uninstall(&dirs.bin_dir, &dirs.conf_dir)?;
                session.print(&report, |report| text(report, "removed", "put back"));
            }
        }
        Ok(Exit::Ok)
    }
}

impl Install {
    fn options(&self, socket: &Path) -> anyhow::Result<Options> {
        let plugin = match &self.plugin {
            Some(path) => path.clone(),
            None => std::env::current_exe()
                .context("cannot tell where this command is; name the plugin with --plugin")?
                .with_file_name(install::PLUGIN),
        };
        let ipam = match (&self.ipam, &self.ipam_json) {
            (_, Some(path)) => Ipam::Object(ipam_object(path)?),
            (Some(name), None) if name != "weft" => Ipam::Plugin(name.clone()),
            _ => Ipam::BuiltIn,
        };
        let cni_socket = match &self.cni_socket {
            Some(path) => path.clone(),
            None if socket == Path::new(DEFAULT_SOCKET) => DEFAULT_CNI_SOCKET.into(),
            None => socket.with_file_name("cni.sock"),
        };
        Ok(Options {
            bin_dirs: self.dirs.bin_dir.clone(),
            conf_dir: self.dirs.conf_dir.clone(),
            plugin,
            name: self.name.clone(),
            bridge: self.bridge.clone(),
            mtu: self.mtu,
            chain: self.chain.clone(),
            ipam,
            socket: other_than(DEFAULT_CNI_SOCKET, cni_socket)?,
            queue_dir: other_than(DEFAULT_DEL_QUEUE, self.queue_dir.clone())?,
            exclusive: self.exclusive,
            wait: Duration::from_secs(self.wait),
        })
    }
}

/// The path, absolute as the plugin's directory is any, if it is not the default.
fn other_than(default: &str, path: PathBuf) -> anyhow::Result<Option<PathBuf>> {
    if path == Path::new(default) {
        return Ok(None);
    }
    let absolute = std::path::absolute(&path).with_context(|| format!("{} is no path", path.display()))?;
    Ok(Some(absolute))
}

fn ipam_object(path: &Path) -> Result<Value, InstallError> {
    let bad = |message: String| InstallError::BadIpam { path: path.to_owned(), message };
    let text = std::fs::read(path).map_err(|cause| InstallError::File {
        what: "read",
        path: path.to_owned(),
        cause,
    })?;
    let value: Value = serde_json::from_slice(&text).map_err(|error| bad(error.to_string()))?;
    match value["type"].as_str() {
        Some(_) => Ok(value),
        None => Err(bad("it has no \"type\"".to_owned())),
    }
}

fn text(report: &Report, files: &str, others: &str) -> String {
    let mut text = String::new();
    for path in &report.files {
        text.push_str(&format!("{files} {}\n", path.display()));
    }
    for path in &report.others {
        text.push_str(&format!("{others} {}\n", path.display()));
    }
    if !report.cni_versions.is_empty() {
        text.push_str(&format!("offers CNI {}\n", report.cni_versions.join(", ")));
    }
    for note in &report.notes {
        text.push_str(&format!("note: {note}\n"));
    }
    if text.is_empty() {
        text.push_str("nothing to do\n");
    }
    text
}
