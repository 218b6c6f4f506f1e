//! All headers before an inner superframe that leaves *whole*: what a TAP takes whose device segments UDP tunnels
//! (`virtio_net_hdr_v1_hash_tunnel`, Linux 6.17, `include/uapi/linux/virtio_net.h`). The kernel, or the network card,
//! cuts the inner packet and repeats these headers, exactly as with its own VXLAN device. [`wire`]: the same headers on packets
//! that leave, and come, as whole Ethernet frames.

/// Packets of the tunnel as whole Ethernet frames.
pub mod wire;

use std::net::{IpAddr, SocketAddr};

use crate::checksum::{Sum, pseudo_v4, pseudo_v6};
use crate::wire::put16;
use crate::{Headers, MacAddr, VnetHdr, Vni, eth, ipv4, ipv6, proto, udp, vnet, vxlan};

/// Length of the vnet header with the tunnel's fields, bytes.
pub const VNET_LEN: usize = 24;
/// The most that [`Outer::write`] writes, bytes.
pub const MAX_LEN: usize = VNET_LEN + eth::LEN + ipv6::LEN + udp::LEN + vxlan::LEN;
/// Where in the Ethernet frame the length of the longest IP packet on the wire stands, in host order.
pub const LONGEST_AT: usize = eth::SRC;

/// Flag: the outer UDP checksum is owed, too, in every packet.
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

    /// Writes what comes before the inner frame, and says how long it is. `None`: such a frame cannot leave whole (less
    /// than two packets, tagged, padded, too long for the outer lengths), or the addresses are of two families.
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
            && headers.payload_len() > usize::from(vnet.gso_size)
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
        let (ip_len, pseudo) = self.write_ip(&mut out[ip_at..], payload)?;
        let (tunnel, ethertype) = match self.destination {
            SocketAddr::V4(_) => (UDP_TUNNEL_IPV4, eth::IPV4),
            SocketAddr::V6(_) => (UDP_TUNNEL_IPV6, eth::IPV6),
        };
        let udp_at = ip_at + ip_len;
        let end = udp_at + udp::LEN + vxlan::LEN;
        let udp = &mut out[udp_at..end];
        self.write_udp(udp, payload);
        // Owed: the field holds the pseudo-header's sum. Without a checksum, receivers would not join packets (Linux
        // `udp_gro_receive_segment`), and over IPv6 it may not be left out (RFC 6935).
        put16(udp, udp::CHECKSUM, pseudo.fold());
        let mut source = [0; 6];
        source[..2].copy_from_slice(&longest.to_ne_bytes());
        eth::write(&mut out[VNET_LEN..ip_at], NOBODY, MacAddr(source), ethertype);
        let before = (end - VNET_LEN) as u16;
        let mut vnet = vnet.shifted(before as i16);
        vnet.gso_type |= tunnel;
        vnet.flags |= UDP_TUNNEL_CSUM;
        out[..vnet::LEN].copy_from_slice(&vnet.bytes());
        out[vnet::LEN..VNET_LEN].fill(0);
        let inner_network = before + headers.l3_at;
        for (at, offset) in [(OUTER_TRANSPORT, (udp_at - VNET_LEN) as u16), (INNER_NETWORK, inner_network)] {
            out[at..at + 2].copy_from_slice(&offset.to_le_bytes());
        }
        Some(end)
    }

    /// Writes the IP header before a UDP header and payload of `payload` bytes in all. How long it is, and the sum of UDP's
    /// pseudo-header. `None`: the addresses are of two families, or the packet is too long.
    #[inline]
    fn write_ip(&self, out: &mut [u8], payload: u16) -> Option<(usize, Sum)> {
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                payload.checked_add(ipv4::LEN as u16)?;
                let ip = &mut out[..ipv4::LEN];
                ipv4::write(ip, src, dst, proto::UDP, TTL, payload);
                // As the sockets send: a path of a smaller MTU fragments.
                put16(ip, ipv4::FLAGS, 0);
                put16(ip, ipv4::ID, self.id);
                ip[ipv4::TOS] = self.tos;
                ipv4::fill_checksum(ip);
                Some((ipv4::LEN, pseudo_v4(src.octets(), dst.octets(), proto::UDP, u32::from(payload))))
            }
            (IpAddr::V6(src), IpAddr::V6(dst)) => {
                let ip = &mut out[..ipv6::LEN];
                ipv6::write(ip, src, dst, proto::UDP, TTL, payload);
                ipv6::set_traffic_class(ip, self.tos);
                Some((ipv6::LEN, pseudo_v6(src.octets(), dst.octets(), proto::UDP, u32::from(payload))))
            }
            _ => None,
        }
    }

    /// Writes the UDP header but for its checksum, and the VXLAN header.
    #[inline]
    fn write_udp(&self, udp: &mut [u8], payload: u16) {
        put16(udp, 0, self.source.port());
        put16(udp, 2, self.destination.port());
        put16(udp, udp::LENGTH, payload);
        vxlan::push(&mut udp[udp::LEN..], self.vni);
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, SlicedPacket, TransportSlice};

    use super::*;
    use crate::support::Spec;
    use crate::{Gso, checksum, parse};

    const VNI: u32 = 0x12_3456;

    /// What stands before a frame, and the frame.
    fn sent(spec: &Spec, v6: bool, gso: Gso) -> Option<(Vec<u8>, Vec<u8>)> {
        let mut frame = spec.build();
        let headers = parse(&frame).unwrap();
        checksum::owe(&mut frame, &headers);
        let vnet = VnetHdr::describe(&headers, gso, true);
        let (source, destination) = match v6 {
            true => ("[2001:db8::1]:40000", "[2001:db8::2]:4789"),
            false => ("192.0.2.1:40000", "192.0.2.2:4789"),
        };
        let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
        let outer = Outer { source, destination, tos: 2, id: 77, vni: Vni::new(VNI).unwrap() };
        let mut out = [0xaa; MAX_LEN];
        let len = outer.write(&mut out, &vnet, &headers, frame.len())?;
        Some((out[..len].to_vec(), frame))
    }

    #[test]
    fn outer_headers_are_what_another_implementation_reads() {
        for (v6, ip) in [(false, ipv4::LEN), (true, ipv6::LEN)] {
            let (before, frame) = sent(&Spec::tcp4(vec![7; 5000]), v6, Gso::Tcp { size: 1000 }).unwrap();
            let all = [&before[VNET_LEN..], &frame].concat();
            let packet = SlicedPacket::from_ethernet(&all).unwrap();
            let udp = match packet.transport.unwrap() {
                TransportSlice::Udp(udp) => udp,
                other => panic!("{other:?}"),
            };
            assert_eq!((udp.source_port(), udp.destination_port()), (40_000, 4789));
            assert_eq!(usize::from(udp.length()), 8 + 8 + frame.len());
            let (vni, inner) = vxlan::pop(udp.payload()).unwrap();
            assert_eq!((vni.get(), inner), (VNI, &frame[..]));
            // Owed: with the sum over the rest it comes out right.
            let mut rest = [&before[VNET_LEN + eth::LEN + ip..], &frame].concat();
            let owed = u16::from_be_bytes([rest[6], rest[7]]);
            rest[6..8].fill(0);
            let sum = Sum::of(&rest).add16(owed).finish();
            let udp = etherparse::UdpHeader { checksum: 0, ..udp.to_header() };
            let right = match packet.net.unwrap() {
                NetSlice::Ipv4(slice) => {
                    let header = slice.header().to_header();
                    assert_eq!(header.header_checksum, header.calc_header_checksum());
                    assert_eq!(
                        (header.identification, header.dont_fragment, header.time_to_live),
                        (77, false, TTL)
                    );
                    assert_eq!(header.ecn.value(), 2);
                    udp.calc_checksum_ipv4(&header, &rest[8..])
                }
                NetSlice::Ipv6(slice) => {
                    let header = slice.header().to_header();
                    assert_eq!((header.traffic_class, header.hop_limit), (2, TTL));
                    udp.calc_checksum_ipv6(&header, &rest[8..])
                }
                NetSlice::Arp(_) => panic!("no IP"),
            };
            assert_eq!(sum, right.unwrap());
        }
    }

    #[test]
    fn the_vnet_header_names_the_inner_headers() {
        let word = |bytes: &[u8], at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
        for (v6, outer, kind) in [(false, 50, 0x21), (true, 70, 0x41)] {
            let (before, frame) = sent(&Spec::tcp4(vec![7; 5000]), v6, Gso::Tcp { size: 1000 }).unwrap();
            let headers = parse(&frame).unwrap();
            assert_eq!((before[0], before[1]), (1 | 8, kind));
            let words = [2, 4, 6, 8, 20, 22].map(|at| word(&before, at));
            let l4 = outer + headers.l4_at;
            assert_eq!(words, [outer + headers.payload_at, 1000, l4, 16, outer - 16, outer + headers.l3_at]);
            let longest =
                u16::from_ne_bytes([before[VNET_LEN + LONGEST_AT], before[VNET_LEN + LONGEST_AT + 1]]);
            assert_eq!(longest, outer - 14 + headers.payload_at + 1000);
        }
        let (before, _) = sent(&Spec::udp4(vec![7; 5000]).v6(), false, Gso::Udp { size: 1000 }).unwrap();
        assert_eq!(before[1], 0x25);
    }

    #[test]
    fn what_cannot_leave_whole_is_refused() {
        let whole = |spec: &Spec, gso| sent(spec, false, gso).is_some();
        let (fine, gso) = (Spec::tcp4(vec![7; 5000]), Gso::Tcp { size: 1000 });
        assert!(whole(&fine, gso));
        assert!(!whole(&fine, Gso::None));
        assert!(!whole(&fine, Gso::Tcp { size: 5000 }), "one packet");
        assert!(whole(&fine, Gso::Tcp { size: 4999 }));
        assert!(!whole(&Spec { vlan: Some(5), ..fine }, gso));
        // Inner packets may be as long as IPv4's lengths go, outer ones too.
        let longest = 65_535 - 52;
        assert!(!whole(&Spec::tcp4(vec![7; longest]), gso));
        assert!(whole(&Spec::tcp4(vec![7; longest - 50]), gso));
        assert!(!whole(&Spec::tcp4(vec![7; longest - 49]), gso));
    }
}
