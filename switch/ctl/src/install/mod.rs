//! Putting the CNI plugin and its configuration in place, and taking them away.
//!
//! Everything that can be refused is refused before anything is written, and the daemon must be ready. Then the binary,
//! then the conflist: from that moment the container runtime sends pods. Every file appears whole or not at all.

/// The conflist's text.
pub(crate) mod conflist;
/// Files that appear whole or not at all.
pub(crate) mod file;
/// Plugins in the bin dirs and the CNI versions they speak.
mod plugins;
/// Other networks' configurations that sort before ours.
mod rivals;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use weft_api::report::Status;
use weft_api::{BlockingClient, ClientError};

/// Name of our configuration in the runtime's directory.
pub(crate) const CONFLIST: &str = "10-weft.conflist";
/// Name of our plugin in the bin dirs.
pub(crate) const PLUGIN: &str = "weft-cni";

/// Why the plugin cannot be put in place or taken away.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InstallError {
    #[error("cannot {what} {}: {cause}", path.display())]
    File { what: &'static str, path: PathBuf, cause: io::Error },
    #[error("{} is no file; build weft-cni, or name it with --plugin", path.display())]
    NoPlugin { path: PathBuf },
    #[error(
        "{} sorts before {CONFLIST}: the runtime would go on using it; remove it, or set it aside with --exclusive",
        path.display()
    )]
    Rival { path: PathBuf },
    #[error("the plugin {name} is in none of {dirs}; install it there (Debian: containernetworking-plugins)")]
    MissingPlugin { name: String, dirs: String },
    #[error("{what} `{text}` is not usable: {expected}")]
    Value { what: &'static str, text: String, expected: &'static str },
    #[error(
        "the daemon has no pod CIDR to make a host-local configuration from; give one with --ipam-json FILE"
    )]
    NoPool,
    #[error("{} holds no IPAM configuration, an object with a \"type\": {message}", path.display())]
    BadIpam { path: PathBuf, message: String },
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Where addresses of pods come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ipam {
    /// The daemon's own pools.
    BuiltIn,
    /// A delegated plugin of this type, configured from the daemon's pod CIDRs.
    Plugin(String),
    /// A delegated plugin with this configuration.
    Object(Value),
}

/// What to put in place.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// Directories of plugins; empty: those of the known ones that exist.
    pub(crate) bin_dirs: Vec<PathBuf>,
    /// Directory of configurations.
    pub(crate) conf_dir: PathBuf,
    /// Our plugin.
    pub(crate) plugin: PathBuf,
    /// Name of the network.
    pub(crate) name: String,
    /// Bridge that pods join, if it is not the daemon's default one.
    pub(crate) bridge: Option<String>,
    /// MTU of pods in bytes, if it is not the bridge's.
    pub(crate) mtu: Option<u32>,
    /// Plugins called after ours.
    pub(crate) chain: Vec<String>,
    /// Where addresses come from.
    pub(crate) ipam: Ipam,
    /// The daemon's CNI socket, if it is not the default one.
    pub(crate) socket: Option<PathBuf>,
    /// Where DELs wait while the daemon is down, if it is not the default directory.
    pub(crate) queue_dir: Option<PathBuf>,
    /// Set configurations that sort before ours aside.
    pub(crate) exclusive: bool,
    /// How long to wait for the daemon.
    pub(crate) wait: Duration,
}

/// What was put in place or taken away.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Report {
    /// Files written or removed.
    pub(crate) files: Vec<PathBuf>,
    /// Configurations of others that were set aside or put back, by their own name.
    pub(crate) others: Vec<PathBuf>,
    /// CNI versions offered.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) cni_versions: Vec<String>,
    /// What the operator may want to know.
    pub(crate) notes: Vec<String>,
}

/// Puts plugin and conflist in place.
pub(crate) fn install(options: &Options, client: &BlockingClient) -> Result<Report, InstallError> {
    let mut report = Report::default();
    let bin_dirs = bin_dirs(&options.bin_dirs);
    conflist::check(options)?;
    if !options.plugin.is_file() {
        return Err(InstallError::NoPlugin { path: options.plugin.clone() });
    }
    let rivals = rivals::before(&options.conf_dir)?;
    if let Some(path) = rivals.first().filter(|_| !options.exclusive) {
        return Err(InstallError::Rival { path: path.clone() });
    }
    let modern = speaks_latest(options, &bin_dirs, &mut report.notes)?;

    let status = client.wait_ready(options.wait)?;
    if options.ipam == Ipam::BuiltIn && status.pools.is_empty() {
        report.notes.push(
            "no pod gets an address until the daemon has a pod CIDR: give this node an entry in the cluster file, or \
             set `pod_cidrs` in weft.toml"
                .to_owned(),
        );
    }
    let list = conflist::make(options, ipam(&options.ipam, &status)?, modern);
    for dir in &bin_dirs {
        let path = dir.join(PLUGIN);
        file::copy(&options.plugin, &path)?;
        report.files.push(path);
    }
    let path = options.conf_dir.join(CONFLIST);
    file::write(&path, list.text().as_bytes(), 0o644)?;
    // Ours first, theirs after it: at no moment is the runtime without a network.
    if let Err(error) = rivals::set_aside(&rivals) {
        let _ = std::fs::remove_file(&path);
        return Err(error);
    }
    report.files.push(path);
    report.others = rivals;
    report.cni_versions = list.cni_versions;
    Ok(report)
}

/// Takes conflist and plugin away, and puts back what was set aside.
pub(crate) fn uninstall(bin_dirs_given: &[PathBuf], conf_dir: &Path) -> Result<Report, InstallError> {
    let mut report = Report::default();
    let conflist = conf_dir.join(CONFLIST);
    // Theirs first: at no moment is the runtime without a network.
    report.others = rivals::put_back(conf_dir, &mut report.notes)?;
    let plugins = bin_dirs(bin_dirs_given).into_iter().map(|dir| dir.join(PLUGIN));
    for path in std::iter::once(conflist).chain(plugins) {
        match std::fs::remove_file(&path) {
            Ok(()) => report.files.push(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(InstallError::File { what: "remove", path, cause }),
        }
    }
    Ok(report)
}

/// The directories given, or those where runtimes look that exist, or the first of them.
fn bin_dirs(given: &[PathBuf]) -> Vec<PathBuf> {
    if !given.is_empty() {
        return given.to_vec();
    }
    // The CNI project's and containerd 2's; Debian's.
    let known = ["/opt/cni/bin", "/usr/lib/cni"].map(PathBuf::from);
    let found: Vec<PathBuf> = known.iter().filter(|dir| dir.is_dir()).cloned().collect();
    if found.is_empty() { known[..1].to_vec() } else { found }
}

/// Whether every other plugin of the list speaks CNI 1.1.0; each must be there.
fn speaks_latest(
    options: &Options,
    bin_dirs: &[PathBuf],
    notes: &mut Vec<String>,
) -> Result<bool, InstallError> {
    let ipam = conflist::ipam_type(&options.ipam);
    let mut modern = true;
    for name in options.chain.iter().map(String::as_str).chain(ipam) {
        let found = plugins::find(name, bin_dirs);
        if found.is_empty() {
            let dirs = bin_dirs.iter().map(|dir| dir.display().to_string()).collect::<Vec<_>>().join(", ");
            return Err(InstallError::MissingPlugin { name: name.to_owned(), dirs });
        }
        for dir in bin_dirs.iter().filter(|dir| !found.contains(&dir.join(name))) {
            notes.push(format!("{name} is not in {}: a runtime that looks only there fails", dir.display()));
        }
        for path in found {
            if let Err(reason) = plugins::speaks(&path, conflist::LATEST) {
                notes.push(format!("CNI {} is not offered: {} {reason}", conflist::LATEST, path.display()));
                modern = false;
            }
        }
    }
    Ok(modern)
}

/// The delegated plugin's configuration, if there is one.
fn ipam(ipam: &Ipam, status: &Status) -> Result<Option<Value>, InstallError> {
    Ok(match ipam {
        Ipam::BuiltIn => None,
        Ipam::Object(object) => Some(object.clone()),
        Ipam::Plugin(name) if name == "host-local" => {
            if status.pools.is_empty() {
                return Err(InstallError::NoPool);
            }
            let cidrs = || status.pools.iter().map(|pool| pool.cidr.trunc());
            // One range set for each prefix: a pod gets an address of each. host-local names a prefix's first address
            // as its gateway, as the daemon does; without routes a pod would have none to the outside.
            let ranges: Vec<Value> = cidrs().map(|cidr| json!([{ "subnet": cidr }])).collect();
            let has = |v4: bool| cidrs().any(|cidr| cidr.addr().is_ipv4() == v4);
            let routes: Vec<Value> = [(true, "0.0.0.0/0"), (false, "::/0")]
                .into_iter()
                .filter(|(v4, _)| has(*v4))
                .map(|(_, dst)| json!({ "dst": dst }))
                .collect();
            Some(json!({ "type": "host-local", "ranges": ranges, "routes": routes }))
        }
        Ipam::Plugin(name) => Some(json!({ "type": name })),
    })
}

#[cfg(test)]
mod tests;
