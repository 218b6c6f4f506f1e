//! Packets of the tunnel as whole Ethernet frames: what a network card sends and receives, without the kernel's UDP between.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use super::Outer;
use crate::checksum::{Sum, pseudo_v4, pseudo_v6};
use crate::wire::{be16, put16};
use crate::{MacAddr, Reason, eth, ipv4, ipv6, proto, udp, vxlan};

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
/// The UDP checksum must be right. Where the field holds the bare sum of the pseudo-header the sender left it to its
/// device, which was a virtual link; over IPv4 there may be none (RFC 768), over IPv6 there must, as the kernel's sockets
/// have it.
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
        if checksum != pseudo.fold() && !pseudo.add(datagram).is_valid() {
            return None;
        }
    } else if to.is_ipv6() {
        return None;
    }
    let start = eth::LEN + ip_len + udp::LEN;
    let datagram = start..start + length - udp::LEN;
    Some(Arrival { from, to: SocketAddr::new(to, udp.dst_port.get()), tos, datagram })
}

#[cfg(test)]
mod tests;
