//! The kernel's own VXLAN device as a peer: routed as flannel sets it up, and bridged.

use weft_tests::datagrams::segmented;
use weft_tests::flannel::{self, Flannel};
use weft_tests::traffic::{hashed_both_ways, iperf, iperf_all, no_checksum_errors, ping, serve};
use weft_tests::{Lab, Namespace, Options, Result, as_root, ensure, lab};

fn flannel_peer(underlay6: bool) -> Result<()> {
    let options = Options { nodes: 1, underlay6, ..Options::default() };
    let mut lab = Lab::wired(options.clone())?;
    lab.nodes[0].write_cluster(&flannel::cluster(&lab))?;
    lab.nodes[0].start()?;
    let peer = Flannel::up(&lab, &options)?;
    let a = lab.nodes[0].pod("a")?;
    let ends = [(&a.ns, &peer.pod, "10.244.3.2".to_owned(), "fd00:244:0:3::2".to_owned())];
    let back = [(&peer.pod, &a.ns, a.ip(), a.ip6())];
    for (from, server, to, to6) in ends.into_iter().chain(back) {
        for to in [&to, &to6] {
            ping(from, to, 10)?;
            iperf_all(from, server, to)?;
            // datagrams longer than the MTU: fragments of the sender
            let _server = serve(server, 5201)?;
            let long = iperf(from, to, 5201, &["-u", "-b", "50M", "-l", "16000", "-n", "5M"])?;
            ensure!(long.lost_percent < 10.0 && long.bits_per_second > 1e6, "fragmented UDP {to}: {long:?}");
            segmented(from, server, to)?;
            hashed_both_ways(from, server, to, 10)?;
        }
    }
    // host-originated traffic of the peer uses its `.0`
    ping(&peer.host, &a.ip(), 3)?;
    ping(&a.ns, "10.244.3.0", 3)?;
    ping(&lab.nodes[0].ns, "10.244.3.2", 3)?;
    no_checksum_errors([&a.ns, &peer.pod, &lab.nodes[0].ns, &peer.host])
}

#[test]
fn flannel_over_ipv4() {
    as_root(|| flannel_peer(false));
}

#[test]
fn flannel_over_ipv6() {
    as_root(|| flannel_peer(true));
}

/// A kernel bridge with a vxlan port, and weft's bridge with a `vxlan` port: one segment.
fn bridged_peer(underlay6: bool) -> Result<()> {
    let options = Options { nodes: 1, underlay6, ..Options::default() };
    let mut lab = Lab::wired(options.clone())?;
    lab.nodes[0].start()?;
    let node = &lab.nodes[0];
    let (host, there, here) = (Namespace::new("kbridge")?, Namespace::new("kpod")?, Namespace::new("wpod")?);
    lab::join(&lab.underlay, &host, 3, &options)?;
    let (local, remote, mtu) =
        if underlay6 { ("fd00:5::3", "fd00:5::1", 1430) } else { ("172.30.0.3", "172.30.0.1", 1450) };
    host.sh(&format!(
        "ip link add kbr type bridge; ip link set kbr up
         ip link add vx mtu {mtu} type vxlan id 77 local {local} remote {remote} dev eth0 dstport 4789
         ip link set vx master kbr up
         ip link add p0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}; ip link set p0 master kbr up",
        there.name()
    ))?;
    there
        .sh("ip addr add 10.7.0.2/24 dev eth0; ip addr add fd07::2/64 dev eth0 nodad; ip link set eth0 up")?;
    node.weft(&["add-br", "seg"])?;
    node.weft(&["add-port", "seg", "vx0", "type=vxlan", "vni=77", &format!("remote={local}")])?;
    let netns = format!("netns={}", here.name());
    node.weft(&["add-port", "seg", "w", &netns, "ip=10.7.0.1/24,fd07::1/64", &format!("mtu={mtu}")])?;
    for (from, server, to, to6) in
        [(&here, &there, "10.7.0.2", "fd07::2"), (&there, &here, "10.7.0.1", "fd07::1")]
    {
        for to in [to, to6] {
            ping(from, to, 10)?;
            iperf_all(from, server, to)?;
            segmented(from, server, to)?;
            hashed_both_ways(from, server, to, 10)?;
        }
    }
    let fdb = node.weft_json(&["fdb", "show", "seg"])?;
    let learned =
        fdb.as_array().is_some_and(|all| all.iter().any(|e| e["remote"] == local && e["is_static"] == false));
    ensure!(learned, "the peer's station is not learned: {fdb}");
    no_checksum_errors([&here, &there, &node.ns, &host])
}

#[test]
fn kernel_bridge_over_ipv4() {
    as_root(|| bridged_peer(false));
}

#[test]
fn kernel_bridge_over_ipv6() {
    as_root(|| bridged_peer(true));
}
