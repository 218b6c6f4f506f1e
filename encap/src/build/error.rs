//! ICMP errors (RFC 792, RFC 1191, RFC 1812) and ICMPv6 errors (RFC 4443).
//!
//! They quote the packet as it stands in the frame: of a superframe the beginning, of an owed checksum the
//! pseudo-header sum. Senders find the connection by addresses, ports and sequence number, which are all there.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::build::TTL;
use crate::checksum::{Sum, pseudo_v6};
use crate::wire::{put16, put32};
use crate::{Fragment, Headers, L4, MacAddr, eth, icmp, icmpv6, ipv4, ipv6, proto};

/// What went wrong with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Problem {
    /// TTL or hop limit ran out on the way.
    TimeExceeded,
    /// No route to the destination.
    NoRoute,
    /// The destination is on a link here but does not answer.
    HostUnreachable,
    /// Forbidden by policy.
    Prohibited,
    /// Longer than the next hop's MTU and not to be fragmented.
    TooBig {
        /// That MTU, bytes of IP packet.
        mtu: u16,
    },
}

/// An ICMP error of IPv4 is at most this long, bytes of IP (RFC 1812 section 4.3.2.3).
const MAX_V4: usize = 576;

/// The error about `frame`, sent back to where the frame came from.
///
/// `from` is the address of the switch's router that reports it, `mac` its MAC address; a `from` of the wrong family
/// gives `None`.
///
/// `None` where no error may be sent (RFC 1122 section 3.2.2, RFC 4443 section 2.4 e): about an ICMP error or
/// redirect, to or from a multicast or broadcast address, about a later fragment, to a source that is no single host.
/// One exception is RFC 4443's own: Packet Too Big is sent for multicast destinations too.
pub fn error(
    out: &mut [u8],
    frame: &[u8],
    headers: &Headers,
    problem: Problem,
    from: IpAddr,
    mac: MacAddr,
) -> Option<usize> {
    match from {
        IpAddr::V4(from) => error_v4(out, frame, headers, problem, from, mac),
        IpAddr::V6(from) => error_v6(out, frame, headers, problem, from, mac),
    }
}

fn error_v4(
    out: &mut [u8],
    frame: &[u8],
    headers: &Headers,
    problem: Problem,
    from: Ipv4Addr,
    mac: MacAddr,
) -> Option<usize> {
    let (src, dst) = headers.v4(frame)?;
    let answerable = headers.fragment != Fragment::Later
        && !headers.dst.is_multicast()
        && !(headers.proto == proto::ICMP && (headers.l4 != L4::Icmp || icmp::is_error(headers.icmp_type)))
        && !is_group_v4(dst)
        && is_host_v4(src);
    if !answerable {
        return None;
    }
    let (kind, code, mtu) = match problem {
        Problem::TimeExceeded => (icmp::TIME_EXCEEDED, 0, 0),
        Problem::NoRoute => (icmp::UNREACHABLE, icmp::CODE_NET, 0),
        Problem::HostUnreachable => (icmp::UNREACHABLE, icmp::CODE_HOST, 0),
        Problem::Prohibited => (icmp::UNREACHABLE, icmp::CODE_PROHIBITED, 0),
        Problem::TooBig { mtu } => (icmp::UNREACHABLE, icmp::CODE_FRAG_NEEDED, mtu),
    };
    let quote = quote(frame, headers, MAX_V4 - ipv4::LEN - icmp::LEN);
    let message_len = icmp::LEN + quote.len();
    let len = eth::LEN + ipv4::LEN + message_len;
    let out = out.get_mut(..len)?;
    eth::write(out, headers.src, mac, eth::IPV4);
    ipv4::write(&mut out[eth::LEN..], from, src, proto::ICMP, TTL, message_len as u16);
    // Errors keep the precedence "internetwork control" of RFC 1812 section 4.3.2.5; no DF, they must get through.
    out[eth::LEN + ipv4::TOS] = 0xc0;
    put16(out, eth::LEN + ipv4::FLAGS, 0);
    ipv4::fill_checksum(&mut out[eth::LEN..eth::LEN + ipv4::LEN]);
    let message = &mut out[eth::LEN + ipv4::LEN..];
    message[..icmp::LEN].fill(0);
    message[..2].copy_from_slice(&[kind, code]);
    put16(message, 6, mtu);
    message[icmp::LEN..].copy_from_slice(quote);
    let sum = Sum::of(message).finish();
    put16(message, icmp::CHECKSUM, sum);
    Some(len)
}

fn error_v6(
    out: &mut [u8],
    frame: &[u8],
    headers: &Headers,
    problem: Problem,
    from: Ipv6Addr,
    mac: MacAddr,
) -> Option<usize> {
    let (src, dst) = headers.v6(frame)?;
    let is_too_big = matches!(problem, Problem::TooBig { .. });
    let about_error = headers.proto == proto::ICMPV6
        && (headers.l4 != L4::Icmpv6
            || icmpv6::is_error(headers.icmp_type)
            || headers.icmp_type == icmpv6::REDIRECT);
    let answerable = headers.fragment != Fragment::Later
        && !about_error
        && (is_too_big || !(dst.is_multicast() || headers.dst.is_multicast()))
        && !(src.is_unspecified() || src.is_multicast() || src.is_loopback());
    if !answerable {
        return None;
    }
    let (kind, code, mtu) = match problem {
        Problem::TimeExceeded => (icmpv6::TIME_EXCEEDED, 0, 0),
        Problem::NoRoute => (icmpv6::UNREACHABLE, icmpv6::CODE_NO_ROUTE, 0),
        Problem::HostUnreachable => (icmpv6::UNREACHABLE, icmpv6::CODE_ADDRESS, 0),
        Problem::Prohibited => (icmpv6::UNREACHABLE, icmpv6::CODE_PROHIBITED, 0),
        Problem::TooBig { mtu } => (icmpv6::PACKET_TOO_BIG, 0, u32::from(mtu)),
    };
    let quote = quote(frame, headers, ipv6::MIN_MTU - ipv6::LEN - icmpv6::LEN);
    let message_len = icmpv6::LEN + quote.len();
    let len = eth::LEN + ipv6::LEN + message_len;
    let out = out.get_mut(..len)?;
    eth::write(out, headers.src, mac, eth::IPV6);
    ipv6::write(&mut out[eth::LEN..], from, src, proto::ICMPV6, TTL, message_len as u16);
    let message = &mut out[eth::LEN + ipv6::LEN..];
    message[..icmpv6::LEN].fill(0);
    message[..2].copy_from_slice(&[kind, code]);
    put32(message, 4, mtu);
    message[icmpv6::LEN..].copy_from_slice(quote);
    let pseudo = pseudo_v6(from.octets(), src.octets(), proto::ICMPV6, message_len as u32);
    let sum = pseudo.add(message).finish();
    put16(message, icmpv6::CHECKSUM, sum);
    Some(len)
}

/// As much of the IP packet as `max` allows, without Ethernet padding.
fn quote<'a>(frame: &'a [u8], headers: &Headers, max: usize) -> &'a [u8] {
    let start = usize::from(headers.l3_at);
    &frame[start..start + headers.l3_len().min(max)]
}

/// Addresses that stand for more than one host, and class E.
fn is_group_v4(ip: Ipv4Addr) -> bool {
    ip.octets()[0] >= 224
}

fn is_host_v4(ip: Ipv4Addr) -> bool {
    ip.octets()[0] != 0 && !ip.is_loopback() && !is_group_v4(ip)
}
