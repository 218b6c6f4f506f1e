//! Why a frame died. One enum, shared by the fast path, counters, `weft drops` and metrics.

use std::fmt;

macro_rules! reasons {
    ($($variant:ident = $name:literal, $about:literal;)*) => {
        /// The reason for which a frame was dropped. Every drop has exactly one.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[repr(u8)]
        pub enum Reason {
            $(#[doc = $about] $variant,)*
        }

        impl Reason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant,)*];

            /// The stable, machine-readable name (kebab case).
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$variant => $name,)* }
            }

            /// One sentence for people: what was wrong.
            pub const fn about(self) -> &'static str {
                match self { $(Reason::$variant => $about,)* }
            }
        }
    };
}

reasons! {
    Runt = "runt", "shorter than its own headers say, or than an Ethernet header";
    BadIpv4 = "bad-ipv4", "IPv4 header malformed: version, length, total length or header checksum (RFC 791)";
    BadIpv6 = "bad-ipv6", "IPv6 header or extension chain malformed (RFC 8200)";
    BadL4 = "bad-l4", "TCP, UDP or ICMP header does not fit its packet";
    BadArp = "bad-arp", "ARP packet malformed (RFC 826)";
    BadFragment = "bad-fragment", "fragment offset or length impossible";
    BadVnetHeader = "bad-vnet-header", "the port's virtio_net_hdr does not match the frame's own headers";
    BadGso = "bad-gso", "superframe with a segment size or piece count out of bounds";
    BadChecksum = "bad-checksum", "inner TCP or UDP checksum wrong";
    BadSource = "bad-source", "source MAC is a group address or zero";
    ReservedMac = "reserved-mac", "destination is a link-local control address (IEEE 802.1D 01:80:c2:00:00:0x)";
    Vlan = "vlan", "VLAN tag that the port does not carry";
    GuardMac = "guard-mac", "source MAC is not the port's own";
    GuardIp = "guard-ip", "source IP address is not the port's own";
    GuardArp = "guard-arp", "ARP sender address is not the port's own";
    GuardNd = "guard-nd", "neighbour discovery sender or target address is not the port's own";
    GuardRa = "guard-ra", "router advertisement from a pod port";
    GuardRedirect = "guard-redirect", "ICMP redirect from a pod port";
    GuardDhcp = "guard-dhcp", "DHCP server message from a pod port";
    GuardTunnel = "guard-tunnel", "VXLAN from a pod to a peer, which would take it for the node's own";
    SamePort = "same-port", "would leave by the port it came from";
    FloodLimit = "flood-limit", "port exceeded its rate of broadcast, unknown unicast and multicast";
    Ttl = "ttl", "TTL or hop limit exceeded";
    NoRoute = "no-route", "no route to the destination address";
    NoNeighbour = "no-neighbour", "no such pod or neighbour on this node";
    Martian = "martian", "source or destination address that must not be routed";
    TooBig = "too-big", "longer than the next MTU and not to be fragmented; the sender was told";
    NotForRouter = "not-for-router", "routed tunnel frame whose inner destination MAC is not ours";
    TunnelStranger = "tunnel-stranger", "VXLAN from an address that is no peer";
    TunnelVni = "tunnel-vni", "VXLAN with a VNI that is not known for that peer";
    TunnelHeader = "tunnel-header", "VXLAN header truncated, I flag clear or a reserved bit set (RFC 7348)";
    TunnelOuter = "tunnel-outer", "tunnel packet whose outer header is malformed, not for this node, or has a wrong checksum";
    TunnelSend = "tunnel-send", "the kernel refused the datagram to the peer";
    Ecn = "ecn", "congestion marked outside, inner packet not ECN capable (RFC 6040)";
    QueueFull = "queue-full", "the receiving port or socket had no room";
    PortDown = "port-down", "the receiving port's device is down or gone";
    NoBuffer = "no-buffer", "the worker's frame pool was empty";
    PuntLimit = "punt-limit", "an answer by the switch was due but over its rate limit";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Reason {
    /// How many reasons there are; the size of a table of counters.
    pub const COUNT: usize = Self::ALL.len();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_indices_and_names_are_unique() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
        }
        let names: std::collections::BTreeSet<_> = Reason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), Reason::COUNT);
    }
}
