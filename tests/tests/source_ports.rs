//! The underlay can tell flows apart by the outer source port (RFC 7348 section 5), and each flow keeps its own.

use std::collections::{BTreeMap, BTreeSet};

use weft_tests::capture::Capture;
use weft_tests::traffic::{iperf, serve};
use weft_tests::{Context, Lab, Options, Pod, Result, as_root, ensure, eventually};

const FLOWS: u32 = 64;
const ROUNDS: u32 = 5;

/// Sends a datagram of every flow in turn, `ROUNDS` times.
fn datagrams(from: &Pod, to: &str) -> Result<()> {
    let script = format!(
        "import socket, time
family = socket.AF_INET6 if ':' in '{to}' else socket.AF_INET
flows = [socket.socket(family, socket.SOCK_DGRAM) for _ in range({FLOWS})]
for n, s in enumerate(flows): s.bind(('', 20000 + n))
for _ in range({ROUNDS}):
    for s in flows: s.sendto(b'x' * 100, ('{to}', 9))
    time.sleep(0.02)
"
    );
    from.ns.run("/usr/bin/python3", &["-c", &script]).map(drop)
}

/// The outer source ports of every inner flow, and how many packets it had; of a capture in which tcpdump prints a VXLAN
/// packet as two lines.
fn flows(text: &str) -> Result<BTreeMap<String, (BTreeSet<String>, u32)>> {
    let mut flows: BTreeMap<String, (BTreeSet<String>, u32)> = BTreeMap::new();
    let mut lines = text.lines();
    while let Some(outer) = lines.next() {
        let Some(inner) = lines.next() else { break };
        ensure!(outer.contains("VXLAN") && inner.contains(" > "), "not a VXLAN packet: {outer}\n{inner}");
        let source = outer.split_whitespace().nth(1).and_then(|from| from.rsplit_once('.'));
        let flow = inner.split_once(": ").context("no inner flow")?.0;
        let (ports, packets) = flows.entry(flow.to_owned()).or_default();
        ports.insert(source.context("no outer port")?.1.to_owned());
        *packets += 1;
    }
    Ok(flows)
}

#[test]
fn flows_spread_and_each_keeps_its_port() {
    as_root(|| {
        let lab = Lab::up(Options::default())?;
        let [n1, n2] = &lab.nodes[..] else { unreachable!("two nodes") };
        let (a, b) = (n1.pod("a")?, n2.pod("b")?);
        // datagrams of several flows that leave by one send are to be seen one by one
        n1.ns.sh("ethtool -K eth0 tx-udp-segmentation off")?;
        let filter = "udp dst port 4789 and src host 172.30.0.1";
        let capture = Capture::start(&lab.underlay, "v1", filter)?;
        let both = || [b.ip(), b.ip6()].iter().try_for_each(|to| datagrams(&a, to));
        both()?;
        let _server = serve(&b.ns, 5201)?;
        iperf(&a.ns, &b.ip(), 5201, &["-n", "1M", "-P", "8"])?;
        // every flow is looked up anew
        let _c = n1.pod("c")?;
        both()?;
        let udp = |to: &str| format!("> {to}.9");
        let wanted = [udp(&b.ip()), udp(&b.ip6())];
        let wanted = |flow: &str| wanted.iter().any(|to| flow.ends_with(to));
        eventually(5, || {
            let flows = flows(&capture.seen()?)?;
            let seen: u32 =
                flows.iter().filter(|(flow, _)| wanted(flow)).map(|(_, (_, packets))| packets).sum();
            ensure!(seen == 2 * 2 * FLOWS * ROUNDS, "{seen} datagrams were seen");
            Ok(())
        })?;
        let flows = flows(&capture.finish()?)?;
        for (flow, (ports, packets)) in &flows {
            ensure!(ports.len() == 1, "{packets} packets of {flow} have the ports {ports:?}");
        }
        for family in ["IP ", "IP6 "] {
            let of_family = flows.iter().filter(|(flow, _)| flow.starts_with(family) && wanted(flow));
            let ports: Vec<_> = of_family.flat_map(|(_, (ports, _))| ports).collect();
            ensure!(ports.len() == FLOWS as usize, "{} flows of {family}", ports.len());
            let ports: BTreeSet<_> = ports.into_iter().collect();
            ensure!(ports.len() > 1, "all flows of {family}share the port {ports:?}");
        }
        ensure!(
            flows.keys().filter(|flow| flow.ends_with(&format!("{}.5201", b.ip()))).count() > 8,
            "{flows:?}"
        );
        Ok(())
    });
}
