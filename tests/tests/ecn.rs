//! Congestion marks of the underlay reach the streams inside (RFC 3168, RFC 6040).

use weft_tests::capture::Capture;
use weft_tests::traffic::{counters, hashed, ping};
use weft_tests::{Lab, Namespace, Options, Result, as_root, ensure, eventually};

/// Marks packets of the tunnel that reach a node: one of `every` whose ECN field is `which`.
fn mark(node: &Namespace, underlay6: bool, which: &str, every: u32) -> Result<()> {
    let ip = if underlay6 { "ip6" } else { "ip" };
    node.sh(&format!(
        "nft 'add table inet marks; add chain inet marks in {{ type filter hook prerouting priority raw; }}; \
         add rule inet marks in udp dport 4789 {ip} ecn {which} numgen inc mod {every} 0 {ip} ecn set ce'"
    ))
    .map(drop)
}

fn unmark(node: &Namespace) -> Result<()> {
    node.sh("nft delete table inet marks").map(drop)
}

/// Two pods that speak ECN: a stream learns of marks on the way and answers, and arrives as it was sent.
fn marks_reach_the_stream(underlay6: bool) -> Result<()> {
    let lab = Lab::up(Options { underlay6, ..Options::default() })?;
    let [n1, n2] = &lab.nodes[..] else { unreachable!("two nodes") };
    let (a, b) = (n1.pod("a")?, n2.pod("b")?);
    for pod in [&a, &b] {
        pod.ns.sh("sysctl -qw net.ipv4.tcp_ecn=1")?;
    }
    // CWR outside the handshake: the sender's answer to an echoed mark (byte 13 of the TCP header)
    for (to, prefix, flags) in [(b.ip(), "IpExt", "tcp[13]"), (b.ip6(), "Ip6", "ip6[6] = 6 and ip6[53]")] {
        let capable = || counters(&b.ns, &[&format!("{prefix}InECT0Pkts")]);
        let marked = || counters(&b.ns, &[&format!("{prefix}InCEPkts")]);
        let echoed = || counters(&a.ns, &["TcpExtTCPDeliveredCE"]);
        let before = (capable()?, echoed()?);
        hashed(&a.ns, &b.ns, &to, 10)?;
        ensure!(capable()? > before.0, "no ECN to {to}");
        ensure!(marked()? == 0 && echoed()? == before.1, "marked without a reason, to {to}");
        let reduced = Capture::start(&b.ns, "eth0", &format!("{flags} & 0x82 = 0x80"))?;
        mark(&n2.ns, underlay6, "ect0", 20)?;
        hashed(&a.ns, &b.ns, &to, 10)?;
        unmark(&n2.ns)?;
        ensure!(marked()? > 0, "no mark reached the pod, to {to}");
        ensure!(echoed()? > before.1, "no mark was echoed, to {to}");
        ensure!(!reduced.finish()?.is_empty(), "the sender did not answer the echo, to {to}");
        ensure!(n2.drops("ecn")? == 0, "marked packets were dropped, to {to}");
    }
    // a mark on what does not speak ECN can only be told by a loss
    mark(&n2.ns, underlay6, "not-ect", 1)?;
    for to in [b.ip(), b.ip6()] {
        let before = n2.drops("ecn")?;
        ensure!(ping(&a.ns, &to, 3).is_err(), "marked packets that do not speak ECN passed, to {to}");
        eventually(3, || {
            let counted = n2.drops("ecn")? - before;
            ensure!(counted == 3, "{counted} of 3 counted, to {to}");
            Ok(())
        })?;
    }
    unmark(&n2.ns)?;
    ping(&a.ns, &b.ip(), 3)
}

#[test]
fn marks_of_an_ipv4_underlay() {
    as_root(|| marks_reach_the_stream(false));
}

#[test]
fn marks_of_an_ipv6_underlay() {
    as_root(|| marks_reach_the_stream(true));
}
