//! Packets of the tunnel as whole Ethernet frames: what a network card sends and receives, without the kernel's UDP between.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::Outer;
use crate::checksum::{Sum, field_offset, pseudo, pseudo_v4, pseudo_v6};
use crate::wire::{be16, put16};
use crate::{L4, MacAddr, Reason, eth, ipv4, ipv6, parse, proto, udp, vxlan};

/// The two Ethernet addresses of one hop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hop {
    /// The next hop's.
    pub to: MacAddr,
    /// Our device's.
    pub from: MacAddr,
}

impl Outer {
    /// Bytes before the inner frame.
    #[inline]
    pub fn wire_len(&self) -> usize {
        eth::LEN + self.overhead()
    }

    /// Completes `frame`, the inner frame with [`Outer::wire_len`] bytes of room before it, all checksums computed. False:
    /// it is too long for the outer lengths, or the addresses are of two families.
    ///
    /// The UDP checksum is there over IPv4, too: receivers that join packets want one (Linux `udp_gro_receive_segment`).
    #[inline]
    #[must_use]
    pub fn complete(&self, frame: &mut [u8], hop: Hop) -> bool {
        let ip_len = if self.destination.is_ipv4() { ipv4::LEN } else { ipv6::LEN };
        let udp_at = eth::LEN + ip_len;
        let Some(payload) = frame.len().checked_sub(udp_at).and_then(|len| u16::try_from(len).ok()) else {
            return false;
        };
        let Some((_, pseudo)) = self.write_ip(&mut frame[eth::LEN..], payload) else { return false };
        let ethertype = if self.destination.is_ipv4() { eth::IPV4 } else { eth::IPV6 };
        eth::write(frame, hop.to, hop.from, ethertype);
        let udp = &mut frame[udp_at..];
        self.write_udp(udp, payload);
        put16(udp, udp::CHECKSUM, 0);
        let sum = pseudo.add(udp).finish_udp();
        put16(udp, udp::CHECKSUM, sum);
        true
    }
}

/// A packet of the tunnel that came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// Who sent it.
    pub from: IpAddr,
    /// The address and port that it is for.
    pub to: SocketAddr,
    /// Outer type of service or traffic class.
    pub tos: u8,
    /// Where in the frame the VXLAN header and the inner frame are.
    pub datagram: Range<usize>,
}

/// Checks the outer headers of a frame for the device with address `mac`: untagged, IPv4 without options or IPv6 without
/// extension headers, UDP, no fragment.
///
/// The UDP checksum must be right, or be so once the inner one is there, if that is owed. Where the field holds the bare sum of
/// the pseudo-header the sender left it to its device, which was a virtual link. There may be none, over IPv6, too (RFC 6935):
/// the inner one protects what matters.
///
/// # Errors
/// [`Reason::TunnelOuter`].
pub fn arrival(frame: &[u8], mac: MacAddr) -> Result<Arrival, Reason> {
    read(frame, mac).ok_or(Reason::TunnelOuter)
}

#[inline]
fn read(frame: &[u8], mac: MacAddr) -> Option<Arrival> {
    let header = eth::Header::of(frame).filter(|header| header.dst == mac)?;
    let packet = &frame[eth::LEN..];
    let (from, to, tos, ip_len, end) = match header.ethertype.get() {
        eth::IPV4 => {
            let ip = ipv4::Header::of(packet)?;
            let whole = ip.flags_offset.get() & (ipv4::MF | ipv4::OFFSET) == 0;
            let fits = ip.version_ihl == 0x45 && ip.protocol == proto::UDP && whole;
            if !fits || !Sum::of(&packet[..ipv4::LEN]).is_valid() {
                return None;
            }
            let (from, to) = (ip.source().into(), IpAddr::from(ip.destination()));
            (from, to, ip.tos, ipv4::LEN, usize::from(ip.total_len.get()))
        }
        eth::IPV6 => {
            let ip = ipv6::Header::of(packet)?;
            if packet[0] >> 4 != 6 || packet[ipv6::NEXT_HEADER] != proto::UDP {
                return None;
            }
            let end = ipv6::LEN + usize::from(be16(packet, ipv6::PAYLOAD_LEN));
            (ip.source().into(), IpAddr::from(ip.destination()), ip.traffic_class(), ipv6::LEN, end)
        }
        _ => return None,
    };
    let payload = packet.get(ip_len..end)?;
    let udp = udp::Header::of(payload)?;
    let length = usize::from(udp.len.get());
    let datagram = payload.get(..length).filter(|_| length >= udp::LEN + vxlan::LEN)?;
    let checksum = udp.checksum.get();
    if checksum != 0 {
        let pseudo = match (from, to) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                pseudo_v4(src.octets(), dst.octets(), proto::UDP, length as u32)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                pseudo_v6(src.octets(), dst.octets(), proto::UDP, length as u32)
            }
            _ => return None,
        };
        let is_right = checksum == pseudo.fold()
            || pseudo.add(datagram).is_valid()
            || is_right_with_inner(pseudo, datagram);
        if !is_right {
            return None;
        }
    }
    let start = eth::LEN + ip_len + udp::LEN;
    let datagram = start..start + length - udp::LEN;
    Some(Arrival { from, to: SocketAddr::new(to, udp.dst_port.get()), tos, datagram })
}

/// True if the inner checksum is owed, and the outer one right as if it were there: a kernel peer computes it so, from the
/// headers alone, and leaves the inner one to its device (`lco_csum`, Documentation/networking/checksum-offloads.rst).
fn is_right_with_inner(outer: Sum, datagram: &[u8]) -> bool {
    let before = udp::LEN + vxlan::LEN;
    let inner = &datagram[before..];
    let Ok(headers) = parse(inner) else { return false };
    let Some(field) = field_offset(headers.l4).filter(|_| matches!(headers.l4, L4::Tcp | L4::Udp)) else {
        return false;
    };
    if headers.is_fragment() || headers.source_routed {
        return false;
    }
    let l4 = usize::from(headers.l4_at);
    let owed = pseudo(inner, &headers, headers.l4_end - u32::from(headers.l4_at)).fold();
    // What comes behind is part of no inner packet.
    let behind = &datagram[before + headers.l4_end as usize..];
    let is_even = headers.l4_end.is_multiple_of(2) || behind.is_empty();
    // With its pseudo-header an intact packet sums to all ones.
    let sum = outer.add(&datagram[..before + l4]).add16(!owed).add(behind);
    is_even && be16(inner, l4 + field) == owed && sum.is_valid()
}

#[cfg(test)]
mod tests;
