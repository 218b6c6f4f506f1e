//! The nftables table `inet weft`, made and removed by the program `nft`.
//!
//! What it says (flannel's rules): pods leave the cluster under the node's address; what comes from outside the cluster
//! and goes to a pod of *another* node takes the gateway address, so that replies come back by the tunnel; everything
//! else keeps its addresses. And forwarding by the node's own port is accepted, which helps only where no other table
//! drops: see [`super::forward`]. The tunnel's packets are not tracked.
//!
//! The table is replaced in one transaction: there is no instant without it.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::process::{Command, Output, Stdio};

use ipnet::IpNet;

use super::EffectError;

/// The table.
pub const TABLE: &str = "weft";

/// What the table depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NftSpec {
    /// The node's own port.
    pub ifname: String,
    /// Prefixes of this node's pods.
    pub pod_cidrs: Vec<IpNet>,
    /// Prefixes of all pods.
    pub cluster_cidrs: Vec<IpNet>,
    /// Masquerade what pods send out of the cluster.
    pub masquerade: bool,
    /// VXLAN to and from this address of the node is not tracked.
    pub untracked: Option<SocketAddr>,
}

/// Makes the table, or replaces it, in one transaction.
///
/// # Errors
/// When `nft` is missing or refuses.
pub fn apply(spec: &NftSpec) -> Result<(), EffectError> {
    run(&ruleset(spec)).map(drop)
}

/// Removes the table; a missing one is fine.
///
/// # Errors
/// When `nft` is missing or refuses.
pub fn remove() -> Result<(), EffectError> {
    run(&format!("table inet {TABLE} {{}}\ndelete table inet {TABLE}\n")).map(drop)
}

/// True if the table is there.
pub fn exists() -> bool {
    nft(&["list", "table", "inet", TABLE]).is_ok()
}

/// The text that [`apply`] gives to `nft`.
pub fn ruleset(spec: &NftSpec) -> String {
    let mut text = format!("table inet {TABLE} {{}}\ndelete table inet {TABLE}\ntable inet {TABLE} {{\n");
    let mut rules = String::new();
    for (v4, family, multicast) in [(true, "ip", "224.0.0.0/4"), (false, "ip6", "{ ff00::/8, fe80::/10 }")] {
        let suffix = if v4 { 4 } else { 6 };
        let of_family = |nets: &[IpNet]| -> Vec<IpNet> {
            nets.iter().filter(|net| net.addr().is_ipv4() == v4).map(IpNet::trunc).collect()
        };
        let local = IpNet::aggregate(&of_family(&spec.pod_cidrs));
        let mut cluster = of_family(&spec.cluster_cidrs);
        cluster.extend(&local);
        let cluster = IpNet::aggregate(&cluster);
        if cluster.is_empty() {
            continue;
        }
        set(&mut text, &format!("cluster{suffix}"), v4, &cluster);
        set(&mut text, &format!("local{suffix}"), v4, &local);
        // Writing to a String cannot fail.
        let _ = writeln!(
            rules,
            "    oifname \"{}\" {family} saddr != @cluster{suffix} {family} daddr @cluster{suffix} \
             {family} daddr != @local{suffix} masquerade fully-random",
            spec.ifname
        );
        if spec.masquerade {
            let _ = writeln!(
                rules,
                "    oifname != {{ \"lo\", \"{}\" }} {family} saddr @cluster{suffix} \
                 {family} daddr != @cluster{suffix} {family} daddr != {multicast} masquerade fully-random",
                spec.ifname
            );
        }
    }
    let _ = write!(
        text,
        "  chain postrouting {{\n    type nat hook postrouting priority srcnat; policy accept;\n{rules}  }}\n  \
         chain forward {{\n    type filter hook forward priority filter; policy accept;\n    \
         iifname \"{0}\" accept\n    oifname \"{0}\" accept\n  }}\n",
        spec.ifname
    );
    if let Some(vtep) = spec.untracked {
        untracked(&mut text, vtep);
    }
    text.push_str("}\n");
    text
}

/// The tunnel's own packets need no connection: no rule of ours looks at one, and every look-up costs. Only the node's
/// own address counts, so that VXLAN of pods and of others behind this node is translated as ever.
fn untracked(text: &mut String, vtep: SocketAddr) {
    let family = if vtep.is_ipv4() { "ip" } else { "ip6" };
    for (chain, hook, end) in [("tunnel_in", "prerouting", "daddr"), ("tunnel_out", "output", "saddr")] {
        let _ = writeln!(
            text,
            "  chain {chain} {{\n    type filter hook {hook} priority raw; policy accept;\n    \
             {family} {end} {} udp dport {} notrack\n  }}",
            vtep.ip(),
            vtep.port()
        );
    }
}

fn set(text: &mut String, name: &str, v4: bool, nets: &[IpNet]) {
    let kind = if v4 { "ipv4_addr" } else { "ipv6_addr" };
    let elements: Vec<String> = nets.iter().map(ToString::to_string).collect();
    let _ = writeln!(text, "  set {name} {{\n    type {kind}\n    flags interval");
    if !elements.is_empty() {
        let _ = writeln!(text, "    elements = {{ {} }}", elements.join(", "));
    }
    let _ = writeln!(text, "  }}");
}

/// Runs `nft` with arguments, in the calling thread's namespace; gives what it printed.
pub(super) fn nft(arguments: &[&str]) -> Result<String, EffectError> {
    output("nft", arguments, None)
}

fn run(text: &str) -> Result<String, EffectError> {
    output("nft", &["-f", "-"], Some(text))
}

/// Runs a program that prints text; a failure carries what it said.
pub(super) fn output(
    program: &'static str,
    arguments: &[&str],
    input: Option<&str>,
) -> Result<String, EffectError> {
    let failed = |message: String| EffectError::Program { program, message };
    let Output { status, stdout, stderr } = spawn(program, arguments, input).map_err(|error| {
        failed(match error.kind() {
            io::ErrorKind::NotFound => format!("not found; install the package {}", package(program)),
            _ => format!("cannot be run: {error}"),
        })
    })?;
    if !status.success() {
        let said = String::from_utf8_lossy(&stderr);
        return Err(failed(format!("{} failed ({status}): {}", arguments.join(" "), said.trim())));
    }
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

fn package(program: &str) -> &str {
    if program == "nft" { "nftables" } else { "iptables" }
}

fn spawn(program: &str, arguments: &[&str], input: Option<&str>) -> io::Result<Output> {
    let mut child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
        // The programs read all of it before they say anything; one that dies early says why on stderr.
        let _ = stdin.write_all(input.as_bytes());
    }
    child.wait_with_output()
}

#[cfg(test)]
mod tests;
