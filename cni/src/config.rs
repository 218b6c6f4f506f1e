//! The network's configuration (SPEC.md section 1) and what of it concerns this plugin. Unknown keys are ignored, as the
//! specification asks; `ipMasq`, `isGateway`, `hairpinMode` and the like, which flannel's plugin writes for its delegate,
//! are among them.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use weft_api::DEFAULT_CNI_SOCKET;
use weft_api::MacAddr;
use weft_api::PortKind;
use weft_api::cni::{CniError, ContainerInterface, DEFAULT_DEL_QUEUE, code};

use crate::env::{Args, Verb, is_identifier, parse_ip, parse_mac};
use crate::result::{Dns, Prev};
use crate::version::Version;

/// The configuration on stdin.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Config {
    cni_version: Option<String>,
    name: Option<String>,
    socket: Option<PathBuf>,
    queue_dir: Option<PathBuf>,
    /// Bridge to join; absent: the daemon's default.
    pub(crate) bridge: Option<String>,
    mtu: Option<u32>,
    port_type: Option<String>,
    ipam: Option<IpamConfig>,
    dns: Option<Dns>,
    runtime_config: Option<RuntimeConfig>,
    args: Option<ConfigArgs>,
    is_default_gateway: Option<bool>,
    prev_result: Option<Value>,
    #[serde(rename = "cni.dev/valid-attachments", default, deserialize_with = "present")]
    valid_attachments: Option<Option<Vec<ValidAttachment>>>,
    /// The same under the name of libcni's first releases with GC.
    #[serde(rename = "cni.dev/attachments", default, deserialize_with = "present")]
    attachments: Option<Option<Vec<ValidAttachment>>>,
}

#[derive(Debug, Deserialize)]
struct IpamConfig {
    #[serde(rename = "type")]
    kind: Option<String>,
}

/// Capabilities' values, given by the runtime.
#[derive(Debug, Default, Deserialize)]
struct RuntimeConfig {
    ips: Option<Vec<String>>,
    mac: Option<String>,
    dns: Option<Dns>,
    bandwidth: Option<BTreeMap<String, Value>>,
}

#[derive(Debug, Deserialize)]
struct ConfigArgs {
    cni: Option<CniArgs>,
}

/// `args.cni`, the older way to ask for addresses (CONVENTIONS.md).
#[derive(Debug, Deserialize)]
struct CniArgs {
    ips: Option<Vec<String>>,
    mac: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ValidAttachment {
    #[serde(rename = "containerID")]
    container_id: String,
    ifname: String,
}

impl Config {
    /// Decodes stdin. `version` is set to what the configuration claims, for errors. DEL needs so little of it that a
    /// mistake elsewhere, which made ADD fail, does not make DEL fail as well.
    pub(crate) fn parse(stdin: &[u8], verb: Verb, version: &mut Option<String>) -> Result<Config, CniError> {
        let config: Config = serde_json::from_slice(stdin)
            .or_else(|error| if verb == Verb::Del { essentials(stdin) } else { Err(error) })
            .map_err(|error| {
                let msg = format!("the network configuration on stdin does not decode: {error}");
                CniError::new(code::DECODE, msg)
            })?;
        *version = config.cni_version.clone();
        let name = config.network();
        if name.is_empty() {
            return Err(invalid("missing network name"));
        }
        if !is_identifier(name) {
            return Err(invalid(format!("invalid characters found in network name: {name}")));
        }
        Ok(config)
    }

    /// The configuration's version, if it is spoken and has the verb.
    pub(crate) fn checked_version(&self, verb: Verb) -> Result<Version, CniError> {
        let refuse = |msg: String| {
            let details = format!("supported: {}", Version::list().join(", "));
            Err(CniError::new(code::INCOMPATIBLE_VERSION, msg).with_details(details))
        };
        let text = self.cni_version.as_deref().unwrap_or_default();
        let Some(version) = Version::parse(text) else {
            return refuse(format!("incompatible CNI versions: the configuration's is \"{text}\""));
        };
        let since = match verb {
            Verb::Check => Version::V0_4_0,
            Verb::Status | Verb::Gc => Version::V1_1_0,
            Verb::Add | Verb::Del | Verb::Version => Version::V0_3_1,
        };
        if version < since {
            return refuse(format!(
                "config version {version} does not allow {verb:?} (it came with {since})"
            ));
        }
        Ok(version)
    }

    /// The network's name.
    pub(crate) fn network(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// The daemon's socket: configuration, environment, default.
    pub(crate) fn socket(&self) -> PathBuf {
        path_or_env(self.socket.as_deref(), "WEFT_CNI_SOCKET", DEFAULT_CNI_SOCKET)
    }

    /// Where DELs wait while the daemon is down: configuration, environment, default.
    pub(crate) fn queue_dir(&self) -> PathBuf {
        path_or_env(self.queue_dir.as_deref(), "WEFT_CNI_QUEUE_DIR", DEFAULT_DEL_QUEUE)
    }

    /// What the pod's port is to be made of.
    pub(crate) fn port_type(&self) -> Result<PortKind, CniError> {
        match self.port_type.as_deref() {
            None | Some("tap") => Ok(PortKind::Tap),
            Some("afxdp") => Ok(PortKind::Afxdp),
            Some(other) => Err(invalid(format!("portType `{other}`; expected tap or afxdp"))),
        }
    }

    /// MTU asked for; 0 means none, as with the reference plugins.
    pub(crate) fn mtu(&self) -> Option<u32> {
        self.mtu.filter(|mtu| *mtu != 0)
    }

    /// The delegated address plugin; none: addresses are the daemon's.
    pub(crate) fn delegated_ipam(&self) -> Option<&str> {
        let kind = self.ipam.as_ref()?.kind.as_deref()?;
        (!matches!(kind, "" | "weft")).then_some(kind)
    }

    /// True if a default route through the gateway is asked for whatever the address plugin says.
    pub(crate) fn is_default_gateway(&self) -> bool {
        self.is_default_gateway.unwrap_or(false)
    }

    /// Addresses asked for: capability `ips`, `args.cni.ips`, `IP=` in CNI_ARGS; the first that names any.
    pub(crate) fn wanted_ips(&self, args: &Args) -> Result<Vec<IpAddr>, CniError> {
        let runtime = self.runtime_config.as_ref().and_then(|runtime| runtime.ips.as_ref());
        let cni = self.cni_args().and_then(|cni| cni.ips.as_ref());
        match [runtime, cni].into_iter().flatten().find(|ips| !ips.is_empty()) {
            Some(texts) => texts.iter().map(|text| parse_ip(text).map_err(as_config)).collect(),
            None => Ok(args.ips.clone()),
        }
    }

    /// MAC asked for: capability `mac`, `args.cni.mac`, `MAC=` in CNI_ARGS; the first that names one.
    pub(crate) fn wanted_mac(&self, args: &Args) -> Result<Option<MacAddr>, CniError> {
        let runtime = self.runtime_config.as_ref().and_then(|runtime| runtime.mac.as_deref());
        let cni = self.cni_args().and_then(|cni| cni.mac.as_deref());
        match [runtime, cni].into_iter().flatten().find(|text| !text.is_empty()) {
            Some(text) => parse_mac(text).map(Some).map_err(as_config),
            None => Ok(args.mac),
        }
    }

    /// Name service for the result: capability `dns`, else the configuration's, else the address plugin's.
    pub(crate) fn dns(&self, from_ipam: Dns) -> Dns {
        let runtime = self.runtime_config.as_ref().and_then(|runtime| runtime.dns.as_ref());
        [runtime, self.dns.as_ref()]
            .into_iter()
            .flatten()
            .find(|dns| !dns.is_empty())
            .cloned()
            .unwrap_or(from_ipam)
    }

    /// Refuses what is promised by a capability but not done: a rate that would silently not hold.
    pub(crate) fn refuse_unsupported(&self) -> Result<(), CniError> {
        let Some(bandwidth) = self.runtime_config.as_ref().and_then(|runtime| runtime.bandwidth.as_ref())
        else {
            return Ok(());
        };
        // containerd fills in a burst whenever the capability is declared; only a rate is a limit.
        for key in ["ingressRate", "egressRate"] {
            if bandwidth.get(key).and_then(Value::as_f64).is_some_and(|rate| rate > 0.0) {
                let msg = format!("capability bandwidth is not supported: {key} is set");
                let hint =
                    "remove kubernetes.io/ingress-bandwidth and egress-bandwidth from the pod's annotations";
                return Err(CniError::new(code::UNSUPPORTED_FIELD, msg).with_details(hint));
            }
        }
        Ok(())
    }

    /// prevResult, decoded.
    pub(crate) fn prev_result(&self) -> Result<Option<Prev>, CniError> {
        let Some(value) = &self.prev_result else { return Ok(None) };
        let prev = serde_json::from_value(value.clone());
        prev.map(Some)
            .map_err(|error| CniError::new(code::DECODE, format!("prevResult does not decode: {error}")))
    }

    /// What GC must leave; null is an empty list. `None`: the key is absent, which says nothing about what lives.
    pub(crate) fn valid_attachments(&self) -> Option<Vec<ContainerInterface>> {
        let list = self.valid_attachments.as_ref().or(self.attachments.as_ref())?;
        let convert = |valid: &ValidAttachment| ContainerInterface {
            container_id: valid.container_id.clone(),
            ifname: valid.ifname.clone(),
        };
        Some(list.iter().flatten().map(convert).collect())
    }

    fn cni_args(&self) -> Option<&CniArgs> {
        self.args.as_ref()?.cni.as_ref()
    }
}

/// Only the keys that DEL needs.
fn essentials(stdin: &[u8]) -> serde_json::Result<Config> {
    let mut all: serde_json::Map<String, Value> = serde_json::from_slice(stdin)?;
    all.retain(|key, _| matches!(key.as_str(), "cniVersion" | "name" | "socket" | "queueDir" | "ipam"));
    serde_json::from_value(Value::Object(all))
}

/// A list that may be null (as Go writes an empty one), told apart from an absent one.
fn present<'de, D, T>(deserializer: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    T::deserialize(deserializer).map(Some)
}

fn path_or_env(configured: Option<&Path>, variable: &str, default: &str) -> PathBuf {
    let configured = configured.filter(|path| !path.as_os_str().is_empty()).map(Path::to_owned);
    let from_env = || std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    configured.or_else(from_env).unwrap_or_else(|| PathBuf::from(default))
}

fn as_config(error: CniError) -> CniError {
    CniError { code: code::INVALID_CONFIG, ..error }
}

fn invalid(msg: impl Into<String>) -> CniError {
    CniError::new(code::INVALID_CONFIG, msg)
}
