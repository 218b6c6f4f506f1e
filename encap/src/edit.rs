//! Changes in place: MAC addresses, TTL, traffic class, the 802.1Q tag. Checksums follow incrementally.

use crate::checksum::update16;
use crate::wire::{be16, put16};
use crate::{Headers, L3, MacAddr, Reason, eth, ipv4, ipv6, vlan};

/// Rewrites both MAC addresses, in the frame and in `headers`.
#[inline]
pub fn set_macs(frame: &mut [u8], headers: &mut Headers, dst: MacAddr, src: MacAddr) {
    let (macs, _) = frame.split_at_mut(eth::ETHERTYPE);
    macs[eth::DST..eth::SRC].copy_from_slice(&dst.0);
    macs[eth::SRC..].copy_from_slice(&src.0);
    (headers.dst, headers.src) = (dst, src);
}

/// Takes one from TTL or hop limit, in the frame and in `headers`.
///
/// # Errors
/// [`Reason::Ttl`] when it is 0 or 1, so that the packet must not go on (RFC 1812 section 5.3.1, RFC 8200 section 3);
/// the frame is left as it was. Frames that are not IP have none and pass.
#[inline]
pub fn decrement_ttl(frame: &mut [u8], headers: &mut Headers) -> Result<(), Reason> {
    let at = usize::from(headers.l3_at);
    match headers.l3 {
        L3::V4 | L3::V6 if headers.ttl <= 1 => return Err(Reason::Ttl),
        L3::V4 => {
            let header = &mut frame[at..at + ipv4::LEN];
            let old = be16(header, ipv4::TTL);
            let new = old - 0x100;
            put16(header, ipv4::TTL, new);
            let checksum = update16(be16(header, ipv4::CHECKSUM), old, new);
            put16(header, ipv4::CHECKSUM, checksum);
        }
        L3::V6 => frame[at + ipv6::HOP_LIMIT] -= 1,
        L3::Arp | L3::Other => return Ok(()),
    }
    headers.ttl -= 1;
    Ok(())
}

/// Rewrites type of service or traffic class, in the frame and in `headers`. Frames that are not IP stay.
#[inline]
pub fn set_tos(frame: &mut [u8], headers: &mut Headers, tos: u8) {
    let at = usize::from(headers.l3_at);
    match headers.l3 {
        L3::V4 => {
            let old = be16(frame, at);
            let new = (old & 0xff00) | u16::from(tos);
            put16(frame, at, new);
            let checksum = update16(be16(frame, at + ipv4::CHECKSUM), old, new);
            put16(frame, at + ipv4::CHECKSUM, checksum);
        }
        L3::V6 => ipv6::set_traffic_class(&mut frame[at..], tos),
        L3::Arp | L3::Other => return,
    }
    headers.tos = tos;
}

/// Puts an 802.1Q tag into a frame that starts at byte 4 of `buf`, of which the first four are free: the tagged frame
/// fills all of `buf`. Give `headers` to [`moved`] and the vnet header to [`crate::VnetHdr::shifted`] with the
/// returned distance. Panics if `buf` is shorter than 18 bytes.
pub fn push_vlan(buf: &mut [u8], tci: u16) -> i16 {
    buf.copy_within(vlan::LEN..vlan::LEN + eth::ETHERTYPE, 0);
    put16(buf, eth::ETHERTYPE, eth::VLAN);
    put16(buf, eth::ETHERTYPE + 2, tci);
    vlan::LEN as i16
}

/// Takes the 802.1Q tag out of a frame: the untagged frame is `frame[4..]`. The same distance rule as
/// [`push_vlan`]. Panics if the frame is shorter than 18 bytes; it must have a tag.
pub fn pop_vlan(frame: &mut [u8]) -> i16 {
    frame.copy_within(0..eth::ETHERTYPE, vlan::LEN);
    -(vlan::LEN as i16)
}

/// `headers` after the bytes behind the MAC addresses moved by `delta`, and the tag became `tci`.
#[must_use]
pub fn moved(mut headers: Headers, delta: i16, tci: Option<u16>) -> Headers {
    headers.tci = tci;
    for at in [&mut headers.l3_at, &mut headers.l4_at, &mut headers.payload_at] {
        *at = at.saturating_add_signed(delta);
    }
    for end in [&mut headers.l3_end, &mut headers.l4_end] {
        *end = end.saturating_add_signed(i32::from(delta));
    }
    headers
}

#[cfg(test)]
mod tests;
