//! Configuration: `/etc/weft/weft.toml`, `WEFT_*` variables and flags, each key in all three, the later winning.
//!
//! [`Settings`] is the one list of keys, all optional; [`Config`] is the checked result with defaults filled in. An
//! error names file, line and what is expected.

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::Parser;
use ipnet::IpNet;
use serde::Deserialize;
use weft_api::prefix;
use weft_encap::Vni;

use super::names;
use super::transaction::not_of_a_host;
use crate::path::dataplane::{DataplaneConfig, MAX_SPIN_US};

/// Where the configuration is unless told otherwise; may be missing.
pub const DEFAULT_CONFIG: &str = "/etc/weft/weft.toml";
/// Where the cluster file is unless told otherwise; may be missing.
pub const DEFAULT_CLUSTER: &str = "/etc/weft/cluster.toml";
/// Largest configuration file read, in bytes.
const MAX_FILE: u64 = 1 << 20;
/// Words for how much is logged.
const LOG_LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
/// Most workers.
const MAX_WORKERS: usize = 64;

const EXAMPLES: &str = "\
Examples:
  weftd                                         run with /etc/weft/weft.toml and /etc/weft/cluster.toml
  weftd --check                                 say what is wrong with them, change nothing
  weftd --log-level debug --log json            say more, one JSON object a line
  ip netns exec node2 weftd --run-dir /run/weft-node2 --state-dir /var/lib/weft-node2 --node node2
                                                another instance, in another network namespace
  weftd --purge                                 with no weftd running: remove ports, weft0, routes, nft table, sysctls
  weftd --purge --keep-ports                    the same, but pods keep their devices and addresses for the next start

Signals: SIGTERM and SIGINT stop it (ports stay for the next start), SIGHUP reads both files again.";

/// Command line of `weftd`.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "weftd", version, about = "The weft switch daemon", after_help = EXAMPLES)]
pub struct Args {
    /// Configuration file [default: /etc/weft/weft.toml, if it exists]
    #[arg(long, env = "WEFT_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Check configuration and cluster file, then exit: 0 when both are good, 1 when not; may warn
    #[arg(long)]
    pub check: bool,
    /// Take everything over from the weftd that runs with this run directory, losing no packet; without one, just start
    #[arg(long, conflicts_with_all = ["check", "purge"])]
    pub take_over: bool,
    /// Remove everything that weftd made (ports, weft0, routes, nft table, sysctls), then exit; no weftd may run
    #[arg(long, conflicts_with = "check")]
    pub purge: bool,
    /// With --purge: leave pods their devices and addresses; the next start serves them again
    #[arg(long, requires = "purge")]
    pub keep_ports: bool,
    /// The settings.
    #[command(flatten)]
    pub settings: Settings,
}

/// Every key, as flag, variable and key of the file.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Static cluster file [default: /etc/weft/cluster.toml, if it exists]
    #[arg(long, env = "WEFT_CLUSTER", value_name = "FILE")]
    pub cluster: Option<PathBuf>,
    /// This node's name in the cluster file [default: the entry with a local underlay address]
    #[arg(long, env = "WEFT_NODE", value_name = "NAME")]
    pub node: Option<String>,
    /// Control socket [default: weft.sock in the run directory]
    #[arg(long, env = "WEFT_SOCKET", value_name = "PATH")]
    pub socket: Option<PathBuf>,
    /// Socket of the CNI plugin [default: cni.sock in the run directory]
    #[arg(long, env = "WEFT_CNI_SOCKET", value_name = "PATH")]
    pub cni_socket: Option<PathBuf>,
    /// Group whose members may use the control socket [default: root alone]
    #[arg(long, env = "WEFT_SOCKET_GROUP", value_name = "GROUP")]
    pub socket_group: Option<String>,
    /// Directory of what ends with the boot: ports, sockets [default: /run/weft]
    #[arg(long, env = "WEFT_RUN_DIR", value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Directory of the operator's settings [default: /var/lib/weft]
    #[arg(long, env = "WEFT_STATE_DIR", value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Worker threads, 1 to 64; 0: chosen by the number of CPUs [default: 0]
    #[arg(long, env = "WEFT_WORKERS", value_name = "N")]
    pub workers: Option<usize>,
    /// Microseconds that a worker looks for more frames before it sleeps, 0 to 200 [default: 100, or 0 with one CPU]
    #[arg(long, env = "WEFT_SPIN_US", value_name = "MICROSECONDS")]
    pub spin_us: Option<u32>,
    /// Whether a worker keeps its CPU while much bulk passes through it [default: true with 2 to 8 CPUs]
    #[arg(long, env = "WEFT_SEATS", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub seats: Option<bool>,
    /// When superframes to other nodes leave whole, if the kernel can [default: auto]
    #[arg(long, env = "WEFT_TUNNEL_GSO", value_name = "WHEN")]
    pub tunnel_gso: Option<TunnelGsoUse>,
    /// How VXLAN gets to and from the node's interface: by UDP sockets, or as raw frames by AF_XDP [default: socket]
    #[arg(long, env = "WEFT_UPLINK", value_name = "HOW")]
    pub uplink: Option<UplinkUse>,
    /// Have system calls on AF_XDP sockets poll their device (SO_PREFER_BUSY_POLL) [default: false]
    #[arg(long, env = "WEFT_BUSY_POLL", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub busy_poll: Option<bool>,
    /// What to log: error, warn, info, debug, trace, or a filter like weft_switch=debug [default: info]
    #[arg(long, env = "WEFT_LOG_LEVEL", value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// How to log, to stderr [default: text]
    #[arg(long, env = "WEFT_LOG", value_name = "FORMAT")]
    pub log: Option<LogFormat>,
    /// Name of the default bridge [default: br0]
    #[arg(long, env = "WEFT_BRIDGE", value_name = "NAME")]
    pub bridge: Option<String>,
    /// Prefixes of this node's pods when there is no cluster file [default: none, so pods get no addresses]
    #[arg(long, env = "WEFT_POD_CIDRS", value_name = "CIDR", value_delimiter = ',', value_parser = prefix)]
    pub pod_cidrs: Option<Vec<IpNet>>,
    /// The default bridge's gateways when there is no cluster file [default: first usable address of each pod CIDR]
    #[arg(long, env = "WEFT_GATEWAYS", value_name = "IP/PREFIX", value_delimiter = ',',
        value_parser = prefix)]
    pub gateways: Option<Vec<IpNet>>,
    /// Make the node's own port, through which the node reaches pods and pods the world [default: true]
    #[arg(long, env = "WEFT_INTERNAL", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub internal: Option<bool>,
    /// Name of the node's own port [default: weft0]
    #[arg(long, env = "WEFT_INTERNAL_NAME", value_name = "NAME")]
    pub internal_name: Option<String>,
    /// Masquerade what pods send out of the cluster [default: true]
    #[arg(long, env = "WEFT_MASQUERADE", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub masquerade: Option<bool>,
    /// Keep the tunnel's own packets out of the kernel's connection table [default: true]
    #[arg(long, env = "WEFT_NOTRACK", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub notrack: Option<bool>,
    /// This node's underlay address, where the cluster file's is not the one to bind [default: the cluster file's]
    #[arg(long, env = "WEFT_UNDERLAY", value_name = "IP")]
    pub underlay: Option<IpAddr>,
    /// VNI of routed traffic where the cluster file names none [default: 1]
    #[arg(long, env = "WEFT_VNI", value_name = "VNI")]
    pub vni: Option<u32>,
    /// UDP port of VXLAN where the cluster file names none [default: 4789]
    #[arg(long, env = "WEFT_VXLAN_PORT", value_name = "PORT")]
    pub vxlan_port: Option<u16>,
    /// MTU of pods in bytes, 1280 to 65521 [default: the underlay's less the overlay's overhead, followed live]
    #[arg(long, env = "WEFT_MTU", value_name = "BYTES")]
    pub mtu: Option<u32>,
    /// MTU in bytes between new pods of this node, and between them and the node, 1280 to 65521; 0: as to others [default: 0]
    #[arg(long, env = "WEFT_LOCAL_MTU", value_name = "BYTES")]
    pub local_mtu: Option<u32>,
    /// Flooded frames per second that one port of the default bridge may cause; 0: no limit [default: 10000]
    #[arg(long, env = "WEFT_FLOOD_PPS", value_name = "FRAMES")]
    pub flood_pps: Option<u32>,
}

/// How log lines look.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// When superframes to other nodes leave whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum TunnelGsoUse {
    /// Where the underlay's device is known to gain by it: virtual links, virtio.
    #[default]
    Auto,
    /// By every device.
    Always,
    /// By none: weftd cuts them.
    Never,
}

/// How VXLAN gets to and from the node's interface.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum UplinkUse {
    /// By UDP sockets.
    #[default]
    Socket,
    /// As raw frames by AF_XDP sockets, and by UDP sockets what those cannot.
    Afxdp,
}

/// The checked configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The file it was read from, if there is one.
    pub file: Option<PathBuf>,
    /// The cluster file.
    pub cluster: PathBuf,
    /// It was asked for, so it must be there; else it may come later.
    pub cluster_is_told: bool,
    /// This node's name in it, if told.
    pub node: Option<String>,
    /// Control socket.
    pub socket: PathBuf,
    /// Plugin's socket.
    pub cni_socket: PathBuf,
    /// Group that may use the control socket.
    pub socket_group: Option<String>,
    /// Directory of what ends with the boot.
    pub run_dir: PathBuf,
    /// Directory of the operator's settings.
    pub state_dir: PathBuf,
    /// Worker threads; 0: by the number of CPUs.
    pub workers: usize,
    /// Spin before sleep, in microseconds.
    pub spin_us: u32,
    /// Workers keep their CPU while bulk passes.
    pub seats: bool,
    /// When superframes to other nodes leave whole.
    pub tunnel_gso: TunnelGsoUse,
    /// How VXLAN gets to and from the node's interface.
    pub uplink: UplinkUse,
    /// System calls on AF_XDP sockets poll their device.
    pub busy_poll: bool,
    /// Log filter.
    pub log_level: String,
    /// Log format.
    pub log: LogFormat,
    /// The default bridge.
    pub bridge: String,
    /// Pod CIDRs without a cluster file.
    pub pod_cidrs: Vec<IpNet>,
    /// Gateways without a cluster file.
    pub gateways: Vec<IpNet>,
    /// Name of the node's own port; `None`: it is not wanted.
    pub internal: Option<String>,
    /// Masquerade.
    pub masquerade: bool,
    /// Keep the tunnel's packets out of the connection table.
    pub notrack: bool,
    /// Underlay address to use in place of the cluster file's.
    pub underlay: Option<IpAddr>,
    /// Default VNI.
    pub vni: Vni,
    /// Default UDP port.
    pub vxlan_port: u16,
    /// MTU of pods in bytes, if told.
    pub mtu: Option<u32>,
    /// MTU in bytes between new pods of this node, where it is to be bigger.
    pub local_mtu: Option<u32>,
    /// Flood limit of the default bridge.
    pub flood_pps: u32,
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// A file cannot be read.
    #[error("{}: {source}; expected a readable file", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line of the file is wrong.
    #[error("{}:{line}: {message}", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// Line, counted from 1.
        line: usize,
        /// What is wrong and what is expected.
        message: String,
    },
    /// A flag or variable is wrong.
    #[error("--{} (or WEFT_{}): {message}", key.replace('_', "-"), key.to_uppercase())]
    Flag {
        /// The key.
        key: &'static str,
        /// What is wrong and what is expected.
        message: String,
    },
}

impl Args {
    /// Reads the file and puts flags and variables over it.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn load(&self) -> Result<Config, ConfigError> {
        let (path, text) = match &self.config {
            Some(path) => (path.clone(), Some(read(path)?)),
            None => {
                let path = PathBuf::from(DEFAULT_CONFIG);
                let text = if path.exists() { Some(read(&path)?) } else { None };
                (path, text)
            }
        };
        let file = text.map(|text| File { path, text });
        let from_file = file.as_ref().map(File::parse).transpose()?.unwrap_or_default();
        Config::check(&self.settings, from_file, file.as_ref())
    }
}

impl Config {
    /// The defaults.
    pub fn defaults() -> Config {
        Config {
            file: None,
            cluster: DEFAULT_CLUSTER.into(),
            cluster_is_told: false,
            node: None,
            socket: "/run/weft/weft.sock".into(),
            cni_socket: "/run/weft/cni.sock".into(),
            socket_group: None,
            run_dir: "/run/weft".into(),
            state_dir: "/var/lib/weft".into(),
            workers: 0,
            spin_us: DataplaneConfig::default().spin_us,
            // Not measured with more.
            seats: (2..=8).contains(&weft_sys::machine::cpus()),
            tunnel_gso: TunnelGsoUse::Auto,
            uplink: UplinkUse::Socket,
            busy_poll: false,
            log_level: "info".into(),
            log: LogFormat::Text,
            bridge: "br0".into(),
            pod_cidrs: Vec::new(),
            gateways: Vec::new(),
            internal: Some("weft0".into()),
            masquerade: true,
            notrack: true,
            underlay: None,
            vni: Vni::new(1).expect("in range"),
            vxlan_port: 4789,
            mtu: None,
            local_mtu: None,
            flood_pps: weft_api::bridge::default_flood_pps(),
        }
    }

    /// The configuration of a file with this text, without flags and variables.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn of_text(path: &Path, text: &str) -> Result<Config, ConfigError> {
        let file = File { path: path.to_owned(), text: text.to_owned() };
        Config::check(&Settings::default(), file.parse()?, Some(&file))
    }

    fn check(flags: &Settings, from_file: Settings, file: Option<&File>) -> Result<Config, ConfigError> {
        let default = Config::defaults();
        let check = Check { flags, file };
        let all = flags.clone().over(from_file);
        let run_dir = all.run_dir.unwrap_or(default.run_dir);
        let config = Config {
            file: file.map(|file| file.path.clone()),
            cluster_is_told: all.cluster.is_some(),
            cluster: all.cluster.unwrap_or(default.cluster),
            node: all.node,
            socket: all.socket.unwrap_or_else(|| run_dir.join("weft.sock")),
            cni_socket: all.cni_socket.unwrap_or_else(|| run_dir.join("cni.sock")),
            socket_group: all.socket_group.filter(|group| !group.is_empty()),
            state_dir: all.state_dir.unwrap_or(default.state_dir),
            run_dir,
            workers: all.workers.unwrap_or(default.workers),
            spin_us: all.spin_us.unwrap_or(default.spin_us),
            seats: all.seats.unwrap_or(default.seats),
            tunnel_gso: all.tunnel_gso.unwrap_or(default.tunnel_gso),
            uplink: all.uplink.unwrap_or(default.uplink),
            busy_poll: all.busy_poll.unwrap_or(default.busy_poll),
            log_level: all.log_level.unwrap_or(default.log_level),
            log: all.log.unwrap_or(default.log),
            bridge: all.bridge.unwrap_or(default.bridge),
            pod_cidrs: all.pod_cidrs.unwrap_or_default(),
            gateways: all.gateways.unwrap_or_default(),
            internal: match all.internal {
                Some(false) => None,
                _ => all.internal_name.or(default.internal),
            },
            masquerade: all.masquerade.unwrap_or(default.masquerade),
            notrack: all.notrack.unwrap_or(default.notrack),
            underlay: all.underlay,
            vni: match all.vni {
                None => default.vni,
                Some(vni) => Vni::new(vni)
                    .ok_or_else(|| check.wrong("vni", format!("{vni}; expected 1 to 16777215")))?,
            },
            vxlan_port: all.vxlan_port.unwrap_or(default.vxlan_port),
            mtu: all.mtu,
            local_mtu: all.local_mtu.filter(|mtu| *mtu != 0),
            flood_pps: all.flood_pps.unwrap_or(default.flood_pps),
        };
        config.ranges(&check)?;
        Ok(config)
    }

    /// What is wrong with a value that only the daemon's surroundings tell to be so: `value` of `key`.
    pub fn wrong(&self, key: &'static str, value: &str, message: String) -> ConfigError {
        let file =
            self.file.as_ref().and_then(|path| Some(File { path: path.clone(), text: read(path).ok()? }));
        let found = file.and_then(|file| {
            let line = file.line_of(key)?;
            // A flag or variable may have hidden it.
            let is_it = file.text.lines().nth(line - 1).is_some_and(|text| text.contains(value));
            is_it.then_some((file.path, line))
        });
        match found {
            Some((path, line)) => ConfigError::Line { path, line, message },
            None => ConfigError::Flag { key, message },
        }
    }

    fn ranges(&self, check: &Check<'_>) -> Result<(), ConfigError> {
        let bad = |key, message: String| Err(check.wrong(key, message));
        if self.workers > MAX_WORKERS {
            return bad(
                "workers",
                format!("{}; expected 1 to {MAX_WORKERS}, or 0 for the default", self.workers),
            );
        }
        if self.spin_us > MAX_SPIN_US {
            return bad("spin_us", format!("{}; expected 0 to {MAX_SPIN_US} microseconds", self.spin_us));
        }
        if let Some(mtu) = self.mtu.filter(|mtu| !(1280..=65_521).contains(mtu)) {
            return bad("mtu", format!("{mtu}; expected 1280 to 65521 bytes"));
        }
        if let Some(mtu) = self.local_mtu.filter(|mtu| !(1280..=65_521).contains(mtu)) {
            return bad("local_mtu", format!("{mtu}; expected 1280 to 65521 bytes, or 0 for none"));
        }
        if self.vxlan_port == 0 {
            return bad("vxlan_port", "0; expected 1 to 65535".into());
        }
        if let Err(message) = names::device(&self.bridge) {
            return bad("bridge", message);
        }
        if let Some(Err(message)) = self.internal.as_deref().map(names::device) {
            return bad("internal_name", message);
        }
        for cidr in &self.pod_cidrs {
            if cidr.trunc() != *cidr {
                return bad(
                    "pod_cidrs",
                    format!("{cidr}, which has host bits set; expected {}", cidr.trunc()),
                );
            }
        }
        for gateway in &self.gateways {
            // Also of a prefix of one address, which would leave none for pods.
            let is_network = gateway.trunc().addr() == gateway.addr();
            if is_network || not_of_a_host(gateway.addr(), gateway).is_some() {
                return bad(
                    "gateways",
                    format!("{gateway}, which is no host's address; expected one like 10.244.0.1/24"),
                );
            }
        }
        if !is_log_filter(&self.log_level) {
            return bad(
                "log_level",
                format!(
                    "`{}`; expected {} or a filter like weft_switch=debug",
                    self.log_level,
                    LOG_LEVELS.join(", ")
                ),
            );
        }
        for (key, path) in [("run_dir", &self.run_dir), ("state_dir", &self.state_dir)] {
            if !path.is_absolute() {
                return bad(key, format!("`{}`; expected an absolute path", path.display()));
            }
        }
        for (key, path) in [("socket", &self.socket), ("cni_socket", &self.cni_socket)] {
            // sun_path of sockaddr_un, `linux/un.h`.
            if !path.is_absolute() || path.as_os_str().len() > 107 {
                return bad(
                    key,
                    format!("`{}`; expected an absolute path of at most 107 bytes", path.display()),
                );
            }
        }
        Ok(())
    }
}

impl Settings {
    /// Self where it says something, else `below`.
    fn over(self, below: Settings) -> Settings {
        macro_rules! over {
            ($($key:ident)*) => { Settings { $($key: self.$key.or(below.$key),)* } };
        }
        over!(cluster node socket cni_socket socket_group run_dir state_dir workers spin_us seats tunnel_gso uplink busy_poll log_level log
            bridge pod_cidrs gateways internal internal_name masquerade notrack underlay vni vxlan_port mtu local_mtu
            flood_pps)
    }
}

/// A file and its text.
struct File {
    path: PathBuf,
    text: String,
}

impl File {
    fn parse(&self) -> Result<Settings, ConfigError> {
        toml::from_str(&self.text).map_err(|error| {
            let line = error.span().map_or(1, |span| self.line_at(span.start));
            let message = error.message().trim().replace('\n', ", ");
            // The parser tells of a bad value what it is, not whose.
            let message = match self.key_at(line) {
                Some(key) if !message.contains(&format!("`{key}`")) => format!("{key}: {message}"),
                _ => message,
            };
            let message = match self.key_at(line) {
                Some("pod_cidrs" | "gateways") if message.ends_with("invalid IP address syntax") => {
                    format!("{message}; expected an address with its prefix length, like 10.244.1.0/24")
                }
                _ => message,
            };
            ConfigError::Line { path: self.path.clone(), line, message }
        })
    }

    /// The key whose value stands in `line`, counted from 1: the last one set up to there.
    fn key_at(&self, line: usize) -> Option<&str> {
        let is_key = |key: &&str| {
            !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
        };
        let keys = self.text.lines().take(line).filter_map(|line| Some(line.split_once('=')?.0.trim()));
        keys.filter(is_key).last()
    }

    fn line_at(&self, offset: usize) -> usize {
        self.text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count() + 1
    }

    /// The line that sets `key`. There are no tables, so a key stands at the start of its line.
    fn line_of(&self, key: &str) -> Option<usize> {
        let sets = |line: &str| {
            let rest = line.trim_start().strip_prefix(key);
            rest.is_some_and(|rest| rest.trim_start().starts_with('='))
        };
        self.text.lines().position(sets).map(|index| index + 1)
    }
}

/// Where a value came from, to say so when it is wrong.
struct Check<'a> {
    flags: &'a Settings,
    file: Option<&'a File>,
}

impl Check<'_> {
    fn wrong(&self, key: &'static str, message: String) -> ConfigError {
        let message = format!("{key} is {message}");
        // A flag hides the file's value; none of the checked keys is set by a flag unless clap filled it in.
        let flag = self.flags.clone().over(Settings::default());
        let set_by_flag = format!("{flag:?}").contains(&format!(" {key}: Some("));
        match self.file.and_then(|file| Some((file, file.line_of(key)?))) {
            Some((file, line)) if !set_by_flag => {
                ConfigError::Line { path: file.path.clone(), line, message }
            }
            _ => ConfigError::Flag { key, message },
        }
    }
}

/// Is it a level, or a list of directives? A misspelt level would pass for the name of a target and silence all others.
fn is_log_filter(text: &str) -> bool {
    let is_known = |word: &str| {
        let word = word.trim();
        word.is_empty()
            || word.contains('=')
            || LOG_LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level))
    };
    text.split(',').all(is_known) && tracing_subscriber::EnvFilter::builder().parse(text).is_ok()
}

fn read(path: &Path) -> Result<String, ConfigError> {
    let failed = |source| ConfigError::Read { path: path.to_owned(), source };
    let length = fs::metadata(path).map_err(failed)?.len();
    if length > MAX_FILE {
        return Err(failed(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("longer than {MAX_FILE} bytes"),
        )));
    }
    fs::read_to_string(path).map_err(failed)
}

#[cfg(test)]
mod tests;
