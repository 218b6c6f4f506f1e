//! A node without weft: the kernel's own VXLAN device, routed as flannel sets it up.

use crate::Result;
use crate::lab::{self, Lab, Options};
use crate::ns::Namespace;

/// Of weft's VTEP.
const WEFT_MAC: &str = "02:11:22:33:44:01";
/// Of its VTEP.
const MAC: &str = "12:c6:65:89:b4:e3";
/// flannel's UDP port: that of Linux, not that of RFC 7348.
const PORT: u16 = 8472;

/// The cluster file of node 1 and a kernel node as third one.
pub fn cluster(lab: &Lab) -> String {
    let cluster = lab.cluster(3).replace("name = \"n1\"", &format!("name = \"n1\"\nmac = \"{WEFT_MAC}\""));
    let cluster = cluster.replace("name = \"n3\"", &format!("name = \"n3\"\nmac = \"{MAC}\""));
    cluster.replace("[cluster]", &format!("[cluster]\nvni = 1\nport = {PORT}"))
}

/// A kernel node set up as flannel does: `flannel.1`, routes onlink to the peer's `.0`, a bridge with one pod.
#[derive(Debug)]
pub struct Flannel {
    /// The node.
    pub host: Namespace,
    /// Its pod, 10.244.3.2.
    pub pod: Namespace,
}

impl Flannel {
    /// Joins the third host of a topology.
    pub fn up(lab: &Lab, options: &Options) -> Result<Self> {
        let (host, pod) = (Namespace::new("flannel")?, Namespace::new("fpod")?);
        lab::join(&lab.underlay, &host, 3, options)?;
        let (local, remote, mtu) = if options.underlay6 {
            ("fd00:5::3", lab.underlay_address(1), 1430)
        } else {
            ("172.30.0.3", lab.underlay_address(1), 1450)
        };
        host.sh(&format!(
            "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
             ip link add flannel.1 address {MAC} mtu {mtu} type vxlan id 1 local {local} dev eth0 dstport {PORT} nolearning
             ip addr add 10.244.3.0/32 dev flannel.1; ip addr add fd00:244:0:3::/128 dev flannel.1 nodad; ip link set flannel.1 up
             ip neigh add 10.244.1.0 lladdr {WEFT_MAC} dev flannel.1 nud permanent
             ip neigh add fd00:244:0:1:: lladdr {WEFT_MAC} dev flannel.1 nud permanent
             bridge fdb add {WEFT_MAC} dev flannel.1 dst {remote} self permanent
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
