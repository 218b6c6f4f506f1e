//! What `CNI_*` say (SPEC.md section "Parameters"), checked as the reference implementation does.

use std::net::IpAddr;

use weft_api::MacAddr;
use weft_api::cni::{Attachment, CniError, code};

/// CNI_COMMAND.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verb {
    /// Wire a container in.
    Add,
    /// Take it out.
    Del,
    /// Is it as ADD left it?
    Check,
    /// Which versions are spoken?
    Version,
    /// Can an ADD be served?
    Status,
    /// Drop what is not listed.
    Gc,
}

/// The environment of one call.
#[derive(Debug)]
pub(crate) struct Env {
    /// CNI_COMMAND.
    pub(crate) verb: Verb,
    /// CNI_CONTAINERID.
    pub(crate) container_id: String,
    /// CNI_NETNS, verbatim; empty when absent.
    pub(crate) netns: String,
    /// CNI_IFNAME.
    pub(crate) ifname: String,
    /// CNI_ARGS.
    pub(crate) args: String,
    /// CNI_PATH.
    pub(crate) path: String,
    /// CNI_NETNS_OVERRIDE: the plugin's own namespace is acceptable.
    pub(crate) netns_override: bool,
}

impl Env {
    /// Reads the environment; variables that the verb requires must be there.
    pub(crate) fn read() -> Result<Env, CniError> {
        Env::of(|name| {
            std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()).unwrap_or_default()
        })
    }

    /// The same from variables that `get` gives, empty where there is none.
    pub(crate) fn of(get: impl Fn(&str) -> String) -> Result<Env, CniError> {
        let command = get("CNI_COMMAND");
        let verb = match command.as_str() {
            "ADD" => Verb::Add,
            "DEL" => Verb::Del,
            "CHECK" => Verb::Check,
            "VERSION" => Verb::Version,
            "STATUS" => Verb::Status,
            "GC" => Verb::Gc,
            _ => return Err(bad(format!("unknown CNI_COMMAND: {command}"))),
        };
        let env = Env {
            verb,
            container_id: get("CNI_CONTAINERID"),
            netns: get("CNI_NETNS"),
            ifname: get("CNI_IFNAME"),
            args: get("CNI_ARGS"),
            path: get("CNI_PATH"),
            netns_override: matches!(get("CNI_NETNS_OVERRIDE").to_ascii_lowercase().as_str(), "1" | "true"),
        };
        env.require()?;
        Ok(env)
    }

    /// Names that go into file names and into the kernel.
    pub(crate) fn validate(&self) -> Result<(), CniError> {
        if !matches!(self.verb, Verb::Add | Verb::Del | Verb::Check) {
            return Ok(());
        }
        if !is_identifier(&self.container_id) {
            return Err(bad(format!("invalid characters in containerID: {}", self.container_id)));
        }
        let ifname = &self.ifname;
        if ifname.len() > 15 {
            return Err(bad(format!("interface name {ifname} is longer than 15 characters")));
        }
        if ifname == "." || ifname == ".." {
            return Err(bad("interface name is . or .."));
        }
        if ifname.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control()) {
            return Err(bad("interface name contains / or : or whitespace characters"));
        }
        Ok(())
    }

    /// The attachment that the call is about.
    pub(crate) fn attachment(&self, network: &str) -> Attachment {
        Attachment {
            network: network.to_owned(),
            container_id: self.container_id.clone(),
            ifname: self.ifname.clone(),
        }
    }

    fn require(&self) -> Result<(), CniError> {
        let container = matches!(self.verb, Verb::Add | Verb::Del | Verb::Check);
        let namespace = matches!(self.verb, Verb::Add | Verb::Check);
        let missing: Vec<&str> = [
            ("CNI_CONTAINERID", container, &self.container_id),
            ("CNI_NETNS", namespace, &self.netns),
            ("CNI_IFNAME", container, &self.ifname),
            ("CNI_PATH", container, &self.path),
        ]
        .into_iter()
        .filter(|(_, required, value)| *required && value.is_empty())
        .map(|(name, ..)| name)
        .collect();
        if missing.is_empty() {
            return Ok(());
        }
        Err(bad(format!("required env variables [{}] missing", missing.join(","))))
    }
}

/// CNI_ARGS, `K=V;K=V`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Args {
    /// `IP`: addresses asked for, with or without a prefix.
    pub(crate) ips: Vec<IpAddr>,
    /// `MAC` asked for.
    pub(crate) mac: Option<MacAddr>,
    /// `K8S_POD_NAMESPACE`.
    pub(crate) pod_namespace: Option<String>,
    /// `K8S_POD_NAME`.
    pub(crate) pod_name: Option<String>,
}

impl Args {
    /// Parses CNI_ARGS. An unknown key is an error unless `IgnoreUnknown` is true.
    pub(crate) fn parse(text: &str) -> Result<Args, CniError> {
        let mut args = Args::default();
        let mut unknown = Vec::new();
        let mut ignore_unknown = false;
        for pair in text.split(';').filter(|_| !text.is_empty()) {
            let Some((key, value)) = pair.split_once('=').filter(|(_, value)| !value.contains('=')) else {
                return Err(bad(format!("CNI_ARGS: invalid pair \"{pair}\"")));
            };
            match key {
                "IgnoreUnknown" => ignore_unknown = parse_bool(pair, value)?,
                "IP" => args.ips = value.split(',').map(parse_ip).collect::<Result<_, _>>()?,
                "MAC" => args.mac = Some(parse_mac(value)?),
                "K8S_POD_NAMESPACE" => args.pod_namespace = some(value),
                "K8S_POD_NAME" => args.pod_name = some(value),
                // GATEWAY goes with IP, for the delegated plugin `static`.
                "K8S_POD_UID" | "K8S_POD_INFRA_CONTAINER_ID" | "GATEWAY" => {}
                _ => unknown.push(pair),
            }
        }
        if !unknown.is_empty() && !ignore_unknown {
            return Err(bad(format!(
                "CNI_ARGS: unknown args {unknown:?} (IgnoreUnknown=1 would allow them)"
            )));
        }
        Ok(args)
    }
}

/// An address, with or without a prefix length.
pub(crate) fn parse_ip(text: &str) -> Result<IpAddr, CniError> {
    let text = text.trim();
    let ip = match text.split_once('/') {
        None => text.parse().ok(),
        Some(_) => text.parse::<ipnet::IpNet>().ok().map(|net| net.addr()),
    };
    ip.ok_or_else(|| bad(format!("`{text}` is not an IP address")))
}

/// A MAC that one station may own.
pub(crate) fn parse_mac(text: &str) -> Result<MacAddr, CniError> {
    match text.parse::<MacAddr>() {
        Ok(mac) if mac.is_unicast() => Ok(mac),
        Ok(_) => Err(bad(format!("`{text}` is not a MAC address that one interface can have"))),
        Err(error) => Err(bad(error.to_string())),
    }
}

/// `^[a-zA-Z0-9][a-zA-Z0-9_.\-]*$`, for container ids and network names.
pub(crate) fn is_identifier(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

fn some(value: &str) -> Option<String> {
    (!value.is_empty()).then(|| value.to_owned())
}

fn parse_bool(pair: &str, value: &str) -> Result<bool, CniError> {
    match value.to_ascii_lowercase().as_str() {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(bad(format!("CNI_ARGS: \"{pair}\" is neither true nor false"))),
    }
}

fn bad(msg: impl Into<String>) -> CniError {
    CniError::new(code::INVALID_ENVIRONMENT, msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn args_of_a_kubelet() {
        let text = "IgnoreUnknown=1;K8S_POD_NAMESPACE=web;K8S_POD_NAME=a-0;K8S_POD_UID=u;X=y";
        let args = Args::parse(text).unwrap();
        assert_eq!(args.pod_namespace.as_deref(), Some("web"));
        assert_eq!(args.pod_name.as_deref(), Some("a-0"));
    }

    #[test]
    fn args_of_podman() {
        let args = Args::parse("IP=10.1.2.3;MAC=02:00:00:00:00:01").unwrap();
        assert_eq!(args.ips, ["10.1.2.3".parse::<IpAddr>().unwrap()]);
        assert_eq!(args.mac.unwrap().to_string(), "02:00:00:00:00:01");
    }

    #[test]
    fn args_that_are_refused() {
        for text in ["X=y", "IP", "IP=1.2.3", "MAC=ff:ff:ff:ff:ff:ff", "IgnoreUnknown=maybe", "A=b=c", ";"] {
            assert_eq!(Args::parse(text).unwrap_err().code, code::INVALID_ENVIRONMENT, "{text}");
        }
        assert_eq!(Args::parse("").unwrap(), Args::default());
    }

    #[test]
    fn identifiers() {
        assert!(is_identifier("a") && is_identifier("0a_.-"));
        for bad in ["", ".a", "-a", "a/b", "a b", "ä"] {
            assert!(!is_identifier(bad), "{bad}");
        }
    }
}
