//! Single frames that no stack answers: sent as they are, tagged or not, and counted where they come in.

use anyhow::{Context, Result};

use crate::ns::Namespace;

/// EtherType for local experiments (IEEE 802).
const EXPERIMENT: &str = "88b5";

/// Sends `count` frames of that type by `eth0` to a MAC, with a tag of `vlan` if there is one.
pub fn send(from: &Namespace, to: &str, vlan: Option<u16>, count: usize) -> Result<()> {
    let (to, tag) = (to.trim().replace(':', ""), vlan.map(|id| format!("8100{id:04x}")).unwrap_or_default());
    let script = format!(
        "import socket, time
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW); s.bind(('eth0', 0))
own = open('/sys/class/net/eth0/address').read().strip().replace(':', '')
frame = bytes.fromhex('{to}' + own + '{tag}{EXPERIMENT}') + bytes(46)
for i in range({count}): s.send(frame); time.sleep(0.005)
"
    );
    from.run("/usr/bin/python3", &["-c", &script]).map(drop)
}

/// Counts from now on what comes in by `eth0`, also what is for others: untagged, and of each VLAN.
pub fn count(ns: &Namespace, vlans: &[u16]) -> Result<()> {
    let of_vlan = |id: &u16| format!("add rule netdev t c vlan id {id} vlan type 0x{EXPERIMENT} counter; ");
    let rules: String = vlans.iter().map(of_vlan).collect();
    ns.sh(&format!(
        "nft 'add table netdev t; add chain netdev t c {{ type filter hook ingress device eth0 priority 0; }}; \
         add rule netdev t c ether type 0x{EXPERIMENT} counter; {rules}'"
    ))
    .map(drop)
}

/// How many came in since [`count`]: untagged first, then of each VLAN in the order given there.
pub fn counted(ns: &Namespace) -> Result<Vec<u64>> {
    let list = ns.sh("nft list chain netdev t c")?;
    let of_rule = |line: &str| line.split(" packets ").nth(1)?.split(' ').next()?.parse().ok();
    let rules = list.lines().filter(|line| line.contains(" counter "));
    rules.map(|line| of_rule(line).with_context(|| format!("no counter: {list}"))).collect()
}
