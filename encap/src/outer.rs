//! All headers before an inner superframe that leaves *whole*: what a TAP takes whose device segments UDP tunnels
//! (`virtio_net_hdr_v1_hash_tunnel`, Linux 6.17, `include/uapi/linux/virtio_net.h`). The kernel, or the network card,
//! cuts the inner packet and repeats these headers, exactly as with its own VXLAN device.

use std::net::{IpAddr, SocketAddr};

use crate::checksum::pseudo_v6;
use crate::wire::put16;
use crate::{Headers, MacAddr, VnetHdr, Vni, eth, ipv4, ipv6, proto, udp, vnet, vxlan};

/// Length of the vnet header with the tunnel's fields, bytes.
pub const VNET_LEN: usize = 24;
/// The most that [`Outer::write`] writes, bytes.
pub const MAX_LEN: usize = VNET_LEN + eth::LEN + ipv6::LEN + udp::LEN + vxlan::LEN;
/// Where in the Ethernet frame the length of the longest IP packet on the wire stands, in host order.
pub const LONGEST_AT: usize = eth::SRC;

/// Flag: the outer UDP checksum is owed, too.
const UDP_TUNNEL_CSUM: u8 = 8;
/// Added to the type: within UDP over IPv4.
const UDP_TUNNEL_IPV4: u8 = 0x20;
/// Added to the type: within UDP over IPv6.
const UDP_TUNNEL_IPV6: u8 = 0x40;
/// Where the offset of the outer transport header stands.
const OUTER_TRANSPORT: usize = 20;
/// Where the offset of the inner network header stands.
const INNER_NETWORK: usize = 22;
/// Hops that the outer packet may take.
const TTL: u8 = 64;
/// Nobody reads it: the device hands frames on by their IP header.
const NOBODY: MacAddr = MacAddr([0x02, 0, 0, 0, 0, 0]);

/// The way of a superframe through a tunnel.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    /// Address and port that it comes from.
    pub source: SocketAddr,
    /// Address and port that it goes to, of the same family.
    pub destination: SocketAddr,
    /// Outer type of service or traffic class.
    pub tos: u8,
    /// IPv4 identification of the first packet.
    pub id: u16,
    /// The VNI.
    pub vni: Vni,
}

impl Outer {
    /// Bytes between the outer IP header's begin and the inner frame.
    #[inline]
    pub fn overhead(&self) -> usize {
        let ip = if self.destination.is_ipv4() { ipv4::LEN } else { ipv6::LEN };
        ip + udp::LEN + vxlan::LEN
    }

    /// Writes what comes before the inner frame, and says how long it is. `None`: such a frame cannot leave whole (no
    /// superframe, tagged, padded, too long for the outer lengths), or the addresses are of two families.
    ///
    /// `vnet` describes the inner frame and holds for it. The outer Ethernet header is for the device alone: the first
    /// two bytes of its source are, in host order, the length of the longest IP packet on the wire, for [`LONGEST_AT`].
    #[must_use]
    pub fn write(
        &self,
        out: &mut [u8; MAX_LEN],
        vnet: &VnetHdr,
        headers: &Headers,
        inner_len: usize,
    ) -> Option<usize> {
        let fits = vnet.gso_size != 0
            && vnet.needs_csum()
            && usize::from(headers.l3_at) == eth::LEN
            && headers.l3_end as usize == inner_len;
        if !fits {
            return None;
        }
        let payload = u16::try_from(udp::LEN + vxlan::LEN + inner_len).ok()?;
        let longest = self.overhead() + usize::from(headers.payload_at) + usize::from(vnet.gso_size);
        let longest = u16::try_from(longest).ok()?;
        let ip_at = VNET_LEN + eth::LEN;
        let (tunnel, ethertype, ip_len) = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                payload.checked_add(ipv4::LEN as u16)?;
                let ip = &mut out[ip_at..ip_at + ipv4::LEN];
                ipv4::write(ip, src, dst, proto::UDP, TTL, payload);
                // As the sockets send: a path of a smaller MTU fragments.
                put16(ip, ipv4::FLAGS, 0);
                put16(ip, ipv4::ID, self.id);
                ip[ipv4::TOS] = self.tos;
                ipv4::fill_checksum(ip);
                (UDP_TUNNEL_IPV4, eth::IPV4, ipv4::LEN)
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let ip = &mut out[ip_at..ip_at + ipv6::LEN];
                ipv6::write(ip, src, dst, proto::UDP, TTL, payload);
                ipv6::set_traffic_class(ip, self.tos);
                (UDP_TUNNEL_IPV6, eth::IPV6, ipv6::LEN)
            }
            _ => return None,
        };
        let udp_at = ip_at + ip_len;
        let end = udp_at + udp::LEN + vxlan::LEN;
        let udp = &mut out[udp_at..end];
        put16(udp, 0, self.source.port());
        put16(udp, 2, self.destination.port());
        put16(udp, udp::LENGTH, payload);
        let checksum = match (self.source.ip(), self.destination.ip()) {
            // RFC 6935: over IPv6 it may not be left out. Owed: the field holds the pseudo-header's sum.
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                pseudo_v6(src.octets(), dst.octets(), proto::UDP, u32::from(payload)).fold()
            }
            _ => 0,
        };
        put16(udp, udp::CHECKSUM, checksum);
        vxlan::push(&mut udp[udp::LEN..], self.vni);
        let mut source = [0; 6];
        source[..2].copy_from_slice(&longest.to_ne_bytes());
        eth::write(&mut out[VNET_LEN..ip_at], NOBODY, MacAddr(source), ethertype);
        let before = (end - VNET_LEN) as u16;
        let mut vnet = vnet.shifted(before as i16);
        vnet.gso_type |= tunnel;
        if tunnel == UDP_TUNNEL_IPV6 {
            vnet.flags |= UDP_TUNNEL_CSUM;
        }
        out[..vnet::LEN].copy_from_slice(&vnet.bytes());
        out[vnet::LEN..VNET_LEN].fill(0);
        let inner_network = before + headers.l3_at;
        for (at, offset) in [(OUTER_TRANSPORT, (udp_at - VNET_LEN) as u16), (INNER_NETWORK, inner_network)] {
            out[at..at + 2].copy_from_slice(&offset.to_le_bytes());
        }
        Some(end)
    }
}
