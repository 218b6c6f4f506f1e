//! Accept rules in *foreign* forward chains that drop (Docker, ufw, firewalld): an accept in our own table does not undo
//! another table's drop.
//!
//! Where a base chain at the forward hook has policy drop, or ends in an unconditional drop or reject, two rules go to
//! its top: accept what comes in by the node's own port, accept what leaves by it. They carry the comment `weft`, are
//! looked after every few seconds (firewalls reload), and are removed on stop. Chains that iptables looks after get
//! theirs by iptables, which would choke on rules that it did not make.

use std::collections::BTreeSet;
use std::fmt;

use serde_json::Value;

use super::EffectError;
use super::nft::{nft, output};

/// The comment of every rule of ours.
pub const COMMENT: &str = "weft";

/// A foreign chain with rules of ours.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Chain {
    /// A base chain of nftables: family, table, chain.
    Nft(String, String, String),
    /// The chain FORWARD of `filter`, by this program of the iptables family.
    Iptables(&'static str),
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Chain::Nft(family, table, chain) => write!(f, "{family} {table} {chain}"),
            Chain::Iptables(program) => write!(f, "filter FORWARD ({program})"),
        }
    }
}

/// Looks after our rules in foreign chains.
#[derive(Debug, Default)]
pub struct ForeignForward {
    ifname: String,
    chains: BTreeSet<Chain>,
}

impl ForeignForward {
    /// For the node's own port `ifname`. Nothing is done yet.
    pub fn new(ifname: &str) -> Self {
        ForeignForward { ifname: ifname.to_owned(), chains: BTreeSet::new() }
    }

    /// Where rules of ours are, for the status.
    pub fn chains(&self) -> Vec<String> {
        self.chains.iter().map(ToString::to_string).collect()
    }

    /// Adds what is missing in every chain that drops. Returns true if rules were added. Takes some 5 to 10 ms (one to
    /// a few programs), so not on a thread that is in a hurry.
    ///
    /// # Errors
    /// When a program refuses; other chains have been looked after nevertheless.
    pub fn check(&mut self) -> Result<bool, EffectError> {
        let mut added = false;
        let mut result = Ok(());
        let mut found = BTreeSet::new();
        for chain in dropping(&self.ifname)? {
            match chain.ensure(&self.ifname) {
                Ok(new) => {
                    added |= new;
                    found.insert(chain);
                }
                Err(error) => result = Err(error),
            }
        }
        self.chains = found;
        result.map(|()| added)
    }

    /// Removes every rule of ours, also those of an earlier run and of chains that do not drop any more.
    ///
    /// # Errors
    /// The first refusal; it goes on after it.
    pub fn remove(&mut self) -> Result<(), EffectError> {
        let mut result = Ok(());
        for (chain, _) in forward_chains()? {
            result = result.and(chain.clear(&self.ifname));
        }
        for program in legacy_programs() {
            result = result.and(Chain::Iptables(program).clear(&self.ifname));
        }
        self.chains.clear();
        result
    }
}

impl Chain {
    /// Adds what is missing of our two rules.
    fn ensure(&self, ifname: &str) -> Result<bool, EffectError> {
        let mut added = false;
        match self {
            Chain::Iptables(program) => {
                for rule in iptables_rules(ifname) {
                    if iptables(program, "-C", &rule).is_err() {
                        iptables(program, "-I", &rule)?;
                        added = true;
                    }
                }
            }
            Chain::Nft(family, table, chain) => {
                let ours = our_rules(&rules(family, table, chain)?);
                for key in ["iifname", "oifname"] {
                    if ours.iter().any(|(_, has)| has == key) {
                        continue;
                    }
                    nft(&[
                        "insert", "rule", family, table, chain, key, ifname, "accept", "comment", COMMENT,
                    ])?;
                    added = true;
                }
            }
        }
        Ok(added)
    }

    fn clear(&self, ifname: &str) -> Result<(), EffectError> {
        match self {
            Chain::Iptables(program) => {
                for rule in iptables_rules(ifname) {
                    while iptables(program, "-C", &rule).is_ok() {
                        iptables(program, "-D", &rule)?;
                    }
                }
            }
            Chain::Nft(family, table, chain) => {
                for (handle, _) in our_rules(&rules(family, table, chain)?) {
                    nft(&["delete", "rule", family, table, chain, "handle", &handle.to_string()])?;
                }
            }
        }
        Ok(())
    }
}

/// Chains that drop forwarded packets.
fn dropping(_ifname: &str) -> Result<Vec<Chain>, EffectError> {
    let mut found = Vec::new();
    for (chain, policy_drops) in forward_chains()? {
        let drops = policy_drops
            || match &chain {
                Chain::Nft(family, table, name) => rules(family, table, name)?.iter().any(drops_all),
                Chain::Iptables(program) => iptables_drops(program),
            };
        if drops {
            found.push(chain);
        }
    }
    let legacy = legacy_programs().into_iter().filter(|program| iptables_drops(program));
    found.extend(legacy.map(Chain::Iptables));
    Ok(found)
}

/// All foreign base chains of nftables at the forward hook; `true`: its policy is drop.
fn forward_chains() -> Result<Vec<(Chain, bool)>, EffectError> {
    let mut found = Vec::new();
    for object in objects(&nft(&["-j", "list", "chains"])?) {
        let Some(chain) = object.get("chain") else { continue };
        let text = |key: &str| chain.get(key).and_then(Value::as_str).unwrap_or_default();
        let (family, table, name) = (text("family"), text("table"), text("name"));
        if text("hook") != "forward"
            || !matches!(family, "ip" | "ip6" | "inet")
            || (family, table) == ("inet", super::nft::TABLE)
        {
            continue;
        }
        let managed = if table == "filter" && name == "FORWARD" { nft_iptables(family) } else { None };
        let chain = match managed {
            Some(program) => Chain::Iptables(program),
            None => Chain::Nft(family.to_owned(), table.to_owned(), name.to_owned()),
        };
        found.push((chain, text("policy") == "drop"));
    }
    Ok(found)
}

fn rules(family: &str, table: &str, chain: &str) -> Result<Vec<Value>, EffectError> {
    let listed = nft(&["-j", "-a", "list", "chain", family, table, chain])?;
    Ok(objects(&listed)
        .into_iter()
        .filter_map(|mut object| object.get_mut("rule").map(Value::take))
        .collect())
}

fn objects(json: &str) -> Vec<Value> {
    let mut all: Value = serde_json::from_str(json).unwrap_or_default();
    match all.get_mut("nftables").map(Value::take) {
        Some(Value::Array(objects)) => objects,
        _ => Vec::new(),
    }
}

/// Handle and matched key of our rules.
fn our_rules(rules: &[Value]) -> Vec<(u64, String)> {
    rules
        .iter()
        .filter(|rule| rule.get("comment").and_then(Value::as_str) == Some(COMMENT))
        .filter_map(|rule| {
            let key = rule.pointer("/expr/0/match/left/meta/key").and_then(Value::as_str)?;
            Some((rule.get("handle")?.as_u64()?, key.to_owned()))
        })
        .collect()
}

/// True for a rule that drops or rejects whatever comes.
fn drops_all(rule: &Value) -> bool {
    let Some(parts) = rule.get("expr").and_then(Value::as_array) else { return false };
    let has = |part: &Value, keys: &[&str]| keys.iter().any(|key| part.get(key).is_some());
    parts.iter().any(|part| has(part, &["drop", "reject"]))
        && parts.iter().all(|part| has(part, &["drop", "reject", "counter", "log"]))
}

fn iptables_rules(ifname: &str) -> [[&str; 9]; 2] {
    ["-i", "-o"].map(|way| ["FORWARD", way, ifname, "-m", "comment", "--comment", COMMENT, "-j", "ACCEPT"])
}

/// `-w 5`: another program may hold the lock.
fn iptables(program: &'static str, action: &str, rule: &[&str]) -> Result<String, EffectError> {
    let arguments: Vec<&str> = ["-w", "5", action].into_iter().chain(rule.iter().copied()).collect();
    output(program, &arguments, None)
}

fn iptables_drops(program: &'static str) -> bool {
    let listed = iptables(program, "-S", &["FORWARD"]).unwrap_or_default();
    listed.lines().any(|line| {
        matches!(line, "-P FORWARD DROP" | "-A FORWARD -j DROP") || line.starts_with("-A FORWARD -j REJECT")
    })
}

/// The iptables that writes to nftables, for a family, if it is installed.
fn nft_iptables(family: &str) -> Option<&'static str> {
    let (explicit, default) = match family {
        "ip" => ("iptables-nft", "iptables"),
        "ip6" => ("ip6tables-nft", "ip6tables"),
        _ => return None,
    };
    if output(explicit, &["-V"], None).is_ok() {
        return Some(explicit);
    }
    output(default, &["-V"], None).is_ok_and(|version| version.contains("nf_tables")).then_some(default)
}

/// The iptables programs of the old kind whose table `filter` is in use in this namespace. Asking one where it is not
/// would load it.
fn legacy_programs() -> Vec<&'static str> {
    let mut found = Vec::new();
    for (_, explicit, default) in LEGACY.into_iter().filter(|(names, ..)| has_filter(names)) {
        if output(explicit, &["-V"], None).is_ok() {
            found.push(explicit);
        } else if output(default, &["-V"], None).is_ok_and(|version| version.contains("legacy")) {
            found.push(default);
        }
    }
    found
}

/// The old iptables: the kernel's list of tables of the namespace, the program by its own name and by the name that it may
/// have.
const LEGACY: [(&str, &str, &str); 2] = [
    ("ip_tables_names", "iptables-legacy", "iptables"),
    ("ip6_tables_names", "ip6tables-legacy", "ip6tables"),
];

/// True if the old iptables filters here.
pub fn has_legacy_filter() -> bool {
    LEGACY.iter().any(|(names, ..)| has_filter(names))
}

fn has_filter(names: &str) -> bool {
    let names = std::fs::read_to_string(format!("/proc/thread-self/net/{names}")).unwrap_or_default();
    names.lines().any(|name| name == "filter")
}

#[cfg(test)]
mod tests;
