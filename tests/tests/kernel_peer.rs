//! The kernel's own VXLAN device as a peer: routed as flannel sets it up, and bridged.

use weft_tests::datagrams::segmented;
use weft_tests::traffic::{hashed_both_ways, iperf, iperf_all, no_checksum_errors, ping, serve};
use weft_tests::{Lab, Namespace, Options, Result, as_root, ensure, lab};

/// A kernel node set up as flannel does: `flannel.1`, routes onlink to the peer's `.0`, a bridge with one pod.
struct Flannel {
    host: Namespace,
    pod: Namespace,
}

const FLANNEL_MAC: &str = "12:c6:65:89:b4:e3";
/// flannel's UDP port: that of Linux, not that of RFC 7348.
const FLANNEL_PORT: u16 = 8472;

impl Flannel {
    fn up(lab: &Lab, options: &Options, peer_mac: &str) -> Result<Self> {
        let (host, pod) = (Namespace::new("flannel")?, Namespace::new("fpod")?);
        lab::join(&lab.underlay, &host, 3, options)?;
        let (local, remote, mtu) = if options.underlay6 {
            ("fd00:5::3", lab.underlay_address(1), 1430)
        } else {
            ("172.30.0.3", lab.underlay_address(1), 1450)
        };
        host.sh(&format!(
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
             ip link add flannel.1 address {FLANNEL_MAC} mtu {mtu} type vxlan id 1 local {local} dev eth0 dstport {FLANNEL_PORT} nolearning
             ip addr add 10.244.3.0/32 dev flannel.1; ip addr add fd00:244:0:3::/128 dev flannel.1 nodad; ip link set flannel.1 up
             ip neigh add 10.244.1.0 lladdr {peer_mac} dev flannel.1 nud permanent
             ip neigh add fd00:244:0:1:: lladdr {peer_mac} dev flannel.1 nud permanent
             bridge fdb add {peer_mac} dev flannel.1 dst {remote} self permanent
             ip route add 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink
             ip -6 route add fd00:244:0:1::/64 via fd00:244:0:1:: dev flannel.1 onlink
             ip link add cni0 mtu {mtu} type bridge; ip link set cni0 up
             ip addr add 10.244.3.1/24 dev cni0; ip addr add fd00:244:0:3::1/64 dev cni0 nodad
             ip link add p0 mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}; ip link set p0 master cni0 up",
            pod.name()
        ))?;
        pod.sh(
            "ip addr add 10.244.3.2/24 dev eth0; ip addr add fd00:244:0:3::2/64 dev eth0 nodad; ip link set eth0 up
             ip route add default via 10.244.3.1; ip -6 route add default via fd00:244:0:3::1",
        )?;
        Ok(Flannel { host, pod })
    }
}

fn flannel_peer(underlay6: bool) -> Result<()> {
    let options = Options { nodes: 1, underlay6, ..Options::default() };
    let mut lab = Lab::wired(options.clone())?;
    let mac = "02:11:22:33:44:01";
    let cluster = lab.cluster(3).replace("name = \"n1\"", &format!("name = \"n1\"\nmac = \"{mac}\""));
    let cluster = cluster.replace("name = \"n3\"", &format!("name = \"n3\"\nmac = \"{FLANNEL_MAC}\""));
    let cluster = cluster.replace("[cluster]", &format!("[cluster]\nvni = 1\nport = {FLANNEL_PORT}"));
    lab.nodes[0].write_cluster(&cluster)?;
    lab.nodes[0].start()?;
    let peer = Flannel::up(&lab, &options, mac)?;
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
