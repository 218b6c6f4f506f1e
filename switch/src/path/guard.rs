//! The source guard: what a pod may call itself.
//!
//! It runs on the miss tier only. A flow cache entry holds the ingress port, both MACs, both addresses, and what of the ports a rule
//! here looks at ([`port_that_counts`]), and dies with the port's generation, so whatever hits one has passed here; messages whose type
//! decides (neighbour discovery, redirects) are never cached.

use std::net::{Ipv6Addr, SocketAddr};

use weft_encap::{Headers, L3, L4, MacAddr, Reason, arp, icmp, icmpv6};

use crate::table::{Guard, Router, Tunnels};

/// UDP port of DHCP servers (RFC 2131).
const DHCP_SERVER: u16 = 67;
/// UDP port of DHCPv6 servers and relays (RFC 8415).
const DHCPV6_SERVER: u16 = 547;

/// Checks a frame from a guarded port.
///
/// # Errors
/// The reason to drop it.
pub(super) fn check(
    guard: &Guard,
    router: Option<&Router>,
    headers: &Headers,
    frame: &[u8],
) -> Result<(), Reason> {
    if headers.src != guard.mac {
        return Err(Reason::GuardMac);
    }
    let own = Own { guard, router };
    match headers.l3 {
        L3::Arp => headers.arp(frame).map_or(Err(Reason::BadArp), |packet| own.arp(packet)),
        L3::V4 => own.v4(headers, frame),
        L3::V6 => own.v6(headers, frame),
        L3::Other => Ok(()),
    }
}

/// Checks that a pod does not speak VXLAN to a peer.
///
/// Such a packet would leave under the node's address, as all that pods send out of the cluster does, and the peer
/// would take what is in it for frames from this node's switch.
///
/// # Errors
/// The reason to drop it.
pub(super) fn check_tunnels(tunnels: &Tunnels, headers: &Headers, frame: &[u8]) -> Result<(), Reason> {
    if headers.l4 != L4::Udp || !tunnels.remotes.has_port(headers.dst_port) {
        return Ok(());
    }
    let to_peer = |(_, dst)| tunnels.remotes.contains(&SocketAddr::new(dst, headers.dst_port));
    if headers.ip(frame).is_some_and(to_peer) { Err(Reason::GuardTunnel) } else { Ok(()) }
}

/// The port that decisions about a frame rest on, besides addresses and protocol; 0: none. `None`: it is to be looked at
/// each time. The rules are those of [`check`] and [`check_tunnels`].
#[inline(always)]
pub(super) fn port_that_counts(headers: &Headers, tunnels: &Tunnels) -> Option<u16> {
    match headers.l4 {
        L4::Udp if matches!(headers.src_port, DHCP_SERVER | DHCPV6_SERVER) => None,
        L4::Udp if tunnels.remotes.has_port(headers.dst_port) => Some(headers.dst_port),
        _ => Some(0),
    }
}

/// What a port may call its own.
struct Own<'a> {
    guard: &'a Guard,
    router: Option<&'a Router>,
}

impl Own<'_> {
    /// True when the port is bound to addresses; otherwise only its MAC is guarded.
    fn is_bound(&self) -> bool {
        !(self.guard.v4.is_empty() && self.guard.v6.is_empty())
    }

    fn arp(&self, packet: &arp::Packet) -> Result<(), Reason> {
        let is_own = self.guard.v4.contains(&packet.sender()) || packet.is_probe() || !self.is_bound();
        if packet.sender_mac == self.guard.mac && is_own { Ok(()) } else { Err(Reason::GuardArp) }
    }

    fn v4(&self, headers: &Headers, frame: &[u8]) -> Result<(), Reason> {
        match headers.l4 {
            L4::Icmp if headers.icmp_type == icmp::REDIRECT => return Err(Reason::GuardRedirect),
            L4::Udp if headers.src_port == DHCP_SERVER => return Err(Reason::GuardDhcp),
            _ => {}
        }
        let (src, _) = headers.v4(frame).ok_or(Reason::BadIpv4)?;
        if self.is_bound() && !self.guard.v4.contains(&src) { Err(Reason::GuardIp) } else { Ok(()) }
    }

    fn v6(&self, headers: &Headers, frame: &[u8]) -> Result<(), Reason> {
        let (src, _) = headers.v6(frame).ok_or(Reason::BadIpv6)?;
        match headers.l4 {
            L4::Icmpv6 if headers.icmp_type == icmpv6::ROUTER_ADVERTISEMENT => return Err(Reason::GuardRa),
            L4::Icmpv6 if headers.icmp_type == icmpv6::REDIRECT => return Err(Reason::GuardRedirect),
            L4::Icmpv6 if headers.is_nd() => return self.nd(headers, frame, src),
            L4::Udp if headers.src_port == DHCPV6_SERVER => return Err(Reason::GuardDhcp),
            _ => {}
        }
        // Who has no address yet may still report its groups (RFC 3590).
        let is_report = headers.l4 == L4::Icmpv6 && icmpv6::is_mld(headers.icmp_type);
        let passes = self.owns_v6(src) || (src.is_unspecified() && is_report);
        if self.is_bound() && !passes { Err(Reason::GuardIp) } else { Ok(()) }
    }

    /// Solicitations and advertisements, and router solicitations.
    fn nd(&self, headers: &Headers, frame: &[u8], src: Ipv6Addr) -> Result<(), Reason> {
        // Receivers ignore fragmented ones (RFC 6980); a filter that reads them could be fooled.
        if headers.is_fragment() {
            return Err(Reason::BadFragment);
        }
        let payload = headers.payload(frame);
        let (source_passes, options) = if headers.icmp_type == icmpv6::ROUTER_SOLICITATION {
            (self.owns_v6(src) || src.is_unspecified(), payload)
        } else {
            let message = headers.neighbour(frame).ok_or(Reason::BadL4)?;
            let options = payload.get(icmpv6::Neighbour::LEN - icmpv6::LEN..).ok_or(Reason::BadL4)?;
            let passes = match message.kind {
                icmpv6::NEIGHBOUR_SOLICITATION => self.owns_v6(src) || src.is_unspecified(),
                _ => self.owns_v6(src) && self.owns_v6(message.target()),
            };
            (passes, options)
        };
        let named = [icmpv6::OPT_SOURCE_MAC, icmpv6::OPT_TARGET_MAC]
            .into_iter()
            .filter_map(|kind| icmpv6::link_layer_option(options, kind));
        let is_honest = named.into_iter().all(|mac| mac == self.guard.mac);
        if is_honest && (source_passes || !self.is_bound()) { Ok(()) } else { Err(Reason::GuardNd) }
    }

    /// Its own addresses; of fe80::/10 all but those that are certainly another's: the router's, and the one that
    /// another MAC gives (RFC 4291 appendix A).
    fn owns_v6(&self, ip: Ipv6Addr) -> bool {
        if self.guard.v6.contains(&ip) {
            return true;
        }
        let is_routers = self.router.is_some_and(|router| router.gateways.iter().any(|net| net.addr() == ip));
        ip.is_unicast_link_local() && !is_routers && eui64_mac(ip).is_none_or(|mac| mac == self.guard.mac)
    }
}

/// The MAC from which an interface identifier was made (modified EUI-64, RFC 4291 appendix A).
pub(super) fn eui64_mac(ip: Ipv6Addr) -> Option<MacAddr> {
    match ip.octets() {
        [.., a, b, c, 0xff, 0xfe, d, e, f] => Some(MacAddr([a ^ 2, b, c, d, e, f])),
        _ => None,
    }
}
