//! Echo replies (RFC 792, RFC 4443 section 4.2).

use std::net::IpAddr;

use crate::build::TTL;
use crate::checksum::{self, State, update16};
use crate::wire::{be16, put16};
use crate::{Headers, L3, L4, edit, icmp, icmpv6, ipv4, ipv6, parse};

/// True for an echo request that can be answered: whole, from and to one host, on no source route, with a right
/// checksum.
pub fn is_request(frame: &[u8], headers: &Headers) -> bool {
    let kind = match headers.l4 {
        L4::Icmp => icmp::ECHO_REQUEST,
        L4::Icmpv6 => icmpv6::ECHO_REQUEST,
        L4::None | L4::Tcp | L4::Udp => return false,
    };
    let unicast = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => !ip.is_multicast() && !ip.is_broadcast() && !ip.is_unspecified(),
        IpAddr::V6(ip) => !ip.is_multicast() && !ip.is_unspecified(),
    };
    headers.icmp_type == kind
        && headers.icmp_code == 0
        && !headers.is_fragment()
        && !headers.source_routed
        && headers.dst.is_unicast()
        && headers.ip(frame).is_some_and(|(src, dst)| unicast(&src) && unicast(&dst))
        && checksum::state(frame, headers) == State::Verified
}

/// Turns an echo request into its reply, in place: addresses swapped, fresh TTL, the reply's MAC addresses are the
/// request's swapped. The tag, if there is one, stays. Returns false, and changes nothing, unless [`is_request`].
///
/// IPv4 options go back as they came.
pub fn reply_in_place(frame: &mut [u8], headers: &mut Headers) -> bool {
    if !is_request(frame, headers) {
        return false;
    }
    let (l3_at, l4_at) = (usize::from(headers.l3_at), usize::from(headers.l4_at));
    let (dst, src) = (headers.src, headers.dst);
    edit::set_macs(frame, headers, dst, src);
    let (kind, addr, len) = match headers.l3 {
        L3::V4 => (icmp::ECHO_REPLY, l3_at + ipv4::SRC, 4),
        _ => (icmpv6::ECHO_REPLY, l3_at + ipv6::SRC, 16),
    };
    let (from, to) = frame[addr..addr + 2 * len].split_at_mut(len);
    from.swap_with_slice(to);
    if headers.l3 == L3::V4 {
        frame[l3_at + ipv4::TTL] = TTL;
        ipv4::fill_checksum(&mut frame[l3_at..l4_at]);
    } else {
        frame[l3_at + ipv6::HOP_LIMIT] = TTL;
    }
    headers.ttl = TTL;
    // The pseudo-header's sum is symmetric: only the type changed.
    let old = be16(frame, l4_at);
    frame[l4_at] = kind;
    let sum = update16(be16(frame, l4_at + icmp::CHECKSUM), old, be16(frame, l4_at));
    put16(frame, l4_at + icmp::CHECKSUM, sum);
    headers.icmp_type = kind;
    true
}

/// Like [`reply_in_place`], into `out`; gives the frame's length.
pub fn reply(out: &mut [u8], request: &[u8], headers: &Headers) -> Option<usize> {
    let out = out.get_mut(..headers.l3_end as usize)?;
    out.copy_from_slice(&request[..headers.l3_end as usize]);
    let mut headers = parse(out).ok()?;
    reply_in_place(out, &mut headers).then_some(out.len())
}
