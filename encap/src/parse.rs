//! One pass over a frame: what it is, where its headers are, or why it must die.
//!
//! A [`Headers`] value exists only if all its offsets are in bounds of the frame it was made from; every function of
//! this crate that takes both relies on that.

mod plain;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::checksum::Sum;
use crate::wire::be16;
use crate::{MacAddr, Reason, VlanId, arp, eth, icmp, icmpv6, ipv4, ipv6, proto, tcp, udp, vlan};

pub use plain::parse as parse_plain;

/// What is in the frame behind Ethernet and the tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L3 {
    /// Neither of the others; forwarded by MAC address only.
    Other,
    /// ARP for IPv4 over Ethernet.
    Arp,
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The upper protocol whose header was found and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum L4 {
    /// Another protocol, or none, or a fragment that is not the first.
    None,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// ICMP over IPv4.
    Icmp,
    /// ICMPv6.
    Icmpv6,
}

/// Which part of an IP packet a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fragment {
    /// All of it.
    Whole,
    /// All of it, under an IPv6 fragment header (RFC 6946).
    Atomic,
    /// The first fragment; it has the upper protocol's header.
    First,
    /// A later fragment; no ports are known.
    Later,
}

/// What [`parse`] found. Offsets count from the frame's first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Headers {
    /// Destination MAC address.
    pub dst: MacAddr,
    /// Source MAC address, always a unicast address.
    pub src: MacAddr,
    /// Control word of the 802.1Q tag, if there is one.
    pub tci: Option<u16>,
    /// Ethertype behind the tag.
    pub ethertype: u16,
    /// What the ethertype stands for.
    pub l3: L3,
    /// The upper protocol, where its header is here.
    pub l4: L4,
    /// Upper protocol number (IPv6: behind the extension headers); 0 unless IP.
    pub proto: u8,
    /// Which part of the packet this is.
    pub fragment: Fragment,
    /// More fragments follow.
    pub more_fragments: bool,
    /// IPv4 DF; always true for IPv6, which routers never fragment.
    pub dont_fragment: bool,
    /// An IPv6 routing header with segments left, or an IPv4 source route: the destination is not the last one.
    pub source_routed: bool,
    /// IPv4 time to live or IPv6 hop limit.
    pub ttl: u8,
    /// IPv4 type of service or IPv6 traffic class: DSCP and ECN.
    pub tos: u8,
    /// TCP flags, 0 for other protocols.
    pub tcp_flags: u8,
    /// ICMP or ICMPv6 type.
    pub icmp_type: u8,
    /// ICMP or ICMPv6 code.
    pub icmp_code: u8,
    /// TCP or UDP source port; identifier of an ICMP echo.
    pub src_port: u16,
    /// TCP or UDP destination port.
    pub dst_port: u16,
    /// Where this fragment's data belongs in the packet, bytes; 0 for whole packets.
    pub fragment_offset: u16,
    /// Offset of what follows Ethernet and tag.
    pub l3_at: u16,
    /// Offset of the upper protocol's header, or of the data of a later fragment or unknown protocol. `l3_at` unless IP.
    pub l4_at: u16,
    /// Offset of the upper protocol's payload; same as `l4_at` where [`L4::None`].
    pub payload_at: u16,
    /// End of the IP packet; behind it there may be Ethernet padding. Length of the frame unless IP.
    pub l3_end: u32,
    /// End of the upper protocol's data; less than `l3_end` only for UDP with a short length field.
    pub l4_end: u32,
}

impl Headers {
    /// The VLAN identifier, if there is a tag that names one.
    #[inline]
    pub fn vlan(&self) -> Option<VlanId> {
        self.tci.and_then(vlan::id)
    }

    /// True for IPv4 and IPv6.
    #[inline]
    pub fn is_ip(&self) -> bool {
        matches!(self.l3, L3::V4 | L3::V6)
    }

    /// True for a part of a packet. An atomic fragment is none.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        matches!(self.fragment, Fragment::First | Fragment::Later)
    }

    /// Length of the IP packet, bytes; of everything behind Ethernet and tag unless IP.
    #[inline]
    pub fn l3_len(&self) -> usize {
        self.l3_end as usize - usize::from(self.l3_at)
    }

    /// Length of the upper protocol's payload, bytes.
    #[inline]
    pub fn payload_len(&self) -> usize {
        self.l4_end as usize - usize::from(self.payload_at)
    }

    /// Length of IP and upper headers, which every segment of a superframe repeats, bytes.
    #[inline]
    pub fn l3_header_len(&self) -> usize {
        usize::from(self.payload_at - self.l3_at)
    }

    /// The upper protocol's payload.
    #[inline]
    pub fn payload<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        &frame[usize::from(self.payload_at)..self.l4_end as usize]
    }

    /// Source and destination of an IPv4 packet.
    #[inline]
    pub fn v4(&self, frame: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
        if self.l3 != L3::V4 {
            return None;
        }
        let header = ipv4::Header::of(&frame[usize::from(self.l3_at)..])?;
        Some((header.source(), header.destination()))
    }

    /// Source and destination of an IPv6 packet.
    #[inline]
    pub fn v6(&self, frame: &[u8]) -> Option<(Ipv6Addr, Ipv6Addr)> {
        if self.l3 != L3::V6 {
            return None;
        }
        let header = ipv6::Header::of(&frame[usize::from(self.l3_at)..])?;
        Some((header.source(), header.destination()))
    }

    /// Source and destination of an IP packet.
    #[inline]
    pub fn ip(&self, frame: &[u8]) -> Option<(IpAddr, IpAddr)> {
        match self.l3 {
            L3::V4 => self.v4(frame).map(|(src, dst)| (src.into(), dst.into())),
            L3::V6 => self.v6(frame).map(|(src, dst)| (src.into(), dst.into())),
            L3::Arp | L3::Other => None,
        }
    }

    /// The ARP packet.
    #[inline]
    pub fn arp<'a>(&self, frame: &'a [u8]) -> Option<&'a arp::Packet> {
        if self.l3 != L3::Arp {
            return None;
        }
        arp::Packet::of(&frame[usize::from(self.l3_at)..])
    }

    /// True for the five messages of neighbour discovery.
    #[inline]
    pub fn is_nd(&self) -> bool {
        self.l4 == L4::Icmpv6 && icmpv6::is_nd(self.icmp_type)
    }

    /// The neighbour solicitation or advertisement, if it is valid by RFC 4861 section 7.1: hop limit 255, code 0.
    pub fn neighbour<'a>(&self, frame: &'a [u8]) -> Option<&'a icmpv6::Neighbour> {
        let kinds = [icmpv6::NEIGHBOUR_SOLICITATION, icmpv6::NEIGHBOUR_ADVERTISEMENT];
        let valid = self.l4 == L4::Icmpv6
            && kinds.contains(&self.icmp_type)
            && !self.is_fragment()
            && self.ttl == 255
            && self.icmp_code == 0;
        let message = &frame[usize::from(self.l4_at)..self.l4_end as usize];
        icmpv6::Neighbour::of(message).filter(|_| valid)
    }

    /// True for an echo request or reply, of either ICMP.
    #[inline]
    pub fn is_echo(&self) -> bool {
        match self.l4 {
            L4::Icmp => matches!(self.icmp_type, icmp::ECHO_REQUEST | icmp::ECHO_REPLY),
            L4::Icmpv6 => matches!(self.icmp_type, icmpv6::ECHO_REQUEST | icmpv6::ECHO_REPLY),
            _ => false,
        }
    }
}

/// Reads a frame from its Ethernet header on.
///
/// The IPv4 header checksum is verified; checksums of upper protocols are not (see [`crate::checksum::state`]).
/// Superframes up to 65,535 bytes of IP are frames like others; jumbograms and BIG TCP are refused.
///
/// # Errors
/// The reason to drop it.
#[inline]
pub fn parse(frame: &[u8]) -> Result<Headers, Reason> {
    match plain::parse(frame) {
        Some(headers) => Ok(headers),
        None => parse_any(frame),
    }
}

fn parse_any(frame: &[u8]) -> Result<Headers, Reason> {
    let ether = eth::Header::of(frame).ok_or(Reason::Runt)?;
    if !ether.src.is_unicast() {
        return Err(Reason::BadSource);
    }
    let (mut ethertype, mut at, mut tci) = (ether.ethertype.get(), eth::LEN, None);
    if ethertype == eth::VLAN {
        let tag = vlan::Tag::of(&frame[at..]).ok_or(Reason::Runt)?;
        (ethertype, tci) = (tag.ethertype.get(), Some(tag.tci.get()));
        at += vlan::LEN;
    }
    let end = u32::try_from(frame.len()).map_err(|_| Reason::Runt)?;
    let mut headers = Headers {
        dst: ether.dst,
        src: ether.src,
        tci,
        ethertype,
        l3: L3::Other,
        l4: L4::None,
        proto: 0,
        fragment: Fragment::Whole,
        more_fragments: false,
        dont_fragment: false,
        source_routed: false,
        ttl: 0,
        tos: 0,
        tcp_flags: 0,
        icmp_type: 0,
        icmp_code: 0,
        src_port: 0,
        dst_port: 0,
        fragment_offset: 0,
        l3_at: at as u16,
        l4_at: at as u16,
        payload_at: at as u16,
        l3_end: end,
        l4_end: end,
    };
    match ethertype {
        eth::IPV4 => parse_v4(frame, &mut headers)?,
        eth::IPV6 => parse_v6(frame, &mut headers)?,
        eth::ARP => match arp::Packet::of(&frame[at..]) {
            Some(packet) if packet.is_valid() => headers.l3 = L3::Arp,
            _ => return Err(Reason::BadArp),
        },
        _ => {}
    }
    Ok(headers)
}

#[inline]
fn parse_v4(frame: &[u8], h: &mut Headers) -> Result<(), Reason> {
    let at = usize::from(h.l3_at);
    let packet = &frame[at..];
    let header = ipv4::Header::of(packet).ok_or(Reason::Runt)?;
    let (header_len, total) = (header.header_len(), usize::from(header.total_len.get()));
    if header.version_ihl >> 4 != 4 || header_len < ipv4::LEN || total < header_len {
        return Err(Reason::BadIpv4);
    }
    if total > packet.len() {
        return Err(Reason::Runt);
    }
    // Nearly all headers are of one length, for which the sum has no loop.
    let sum = match packet.first_chunk::<{ ipv4::LEN }>() {
        Some(plain) if header_len == ipv4::LEN => Sum::of(plain),
        _ => Sum::of(&packet[..header_len]),
    };
    if !sum.is_valid() {
        return Err(Reason::BadIpv4);
    }
    h.l3 = L3::V4;
    h.proto = header.protocol;
    (h.ttl, h.tos) = (header.ttl, header.tos);
    let flags = header.flags_offset.get();
    h.dont_fragment = flags & ipv4::DF != 0;
    h.more_fragments = flags & ipv4::MF != 0;
    h.fragment_offset = header.fragment_offset();
    set_extent(h, at + header_len, at + total);
    h.source_routed = has_source_route(&packet[ipv4::LEN..header_len])?;
    if h.more_fragments || h.fragment_offset != 0 {
        h.fragment = if h.fragment_offset == 0 { Fragment::First } else { Fragment::Later };
        check_fragment(h, total - header_len, header_len)?;
    }
    parse_l4(frame, h)
}

/// Walks IPv4 options (RFC 791 section 3.1): is there a loose or strict source route? Hosts refuse option lists that do
/// not add up, and so does this.
fn has_source_route(mut options: &[u8]) -> Result<bool, Reason> {
    loop {
        options = match options {
            [] | [0, ..] => return Ok(false),
            [1, rest @ ..] => rest,
            [131 | 137, ..] => return Ok(true),
            [_, len, ..] if *len >= 2 => options.get(usize::from(*len)..).ok_or(Reason::BadIpv4)?,
            _ => return Err(Reason::BadIpv4),
        }
    }
}

/// Extension headers that are walked; honest packets have one or two.
const MAX_EXTENSIONS: usize = 8;

fn parse_v6(frame: &[u8], h: &mut Headers) -> Result<(), Reason> {
    let at = usize::from(h.l3_at);
    let packet = &frame[at..];
    let header = ipv6::Header::of(packet).ok_or(Reason::Runt)?;
    if packet[0] >> 4 != 6 {
        return Err(Reason::BadIpv6);
    }
    let payload = usize::from(header.payload_len.get());
    // Length 0 is a jumbogram (RFC 2675) or BIG TCP unless there is no next header.
    if payload == 0 && header.next_header != ipv6::NO_NEXT {
        return Err(Reason::BadIpv6);
    }
    let packet = packet.get(..ipv6::LEN + payload).ok_or(Reason::Runt)?;
    h.l3 = L3::V6;
    h.dont_fragment = true;
    (h.ttl, h.tos) = (header.hop_limit, header.traffic_class());
    let mut walk = Walk { next: header.next_header, at: ipv6::LEN };
    let mut seen = 0;
    while walk.step(packet, h)? {
        seen += 1;
        if seen > MAX_EXTENSIONS {
            return Err(Reason::BadIpv6);
        }
    }
    h.proto = walk.next;
    // Eight headers of at most 2,048 bytes each: fits.
    set_extent(h, at + walk.at, at + packet.len());
    if h.is_fragment() {
        // Reassembly counts everything behind the fragment header (RFC 8200 section 4.5); extension headers that
        // follow it in a first fragment are part of that, and a multiple of 8 themselves.
        check_fragment(h, packet.len() - walk.at, 0)?;
    }
    parse_l4(frame, h)
}

/// Position in a chain of extension headers: `at` counts from the IPv6 header.
struct Walk {
    next: u8,
    at: usize,
}

impl Walk {
    /// Steps over one extension header; false when `next` is none, or belongs to a later fragment's first part.
    fn step(&mut self, packet: &[u8], h: &mut Headers) -> Result<bool, Reason> {
        if !matches!(
            self.next,
            ipv6::HOP_BY_HOP | ipv6::ROUTING | ipv6::FRAGMENT | ipv6::AUTHENTICATION | ipv6::DESTINATION
        ) {
            return Ok(false);
        }
        let [next, len, rest @ ..] = &packet[self.at..] else { return Err(Reason::BadIpv6) };
        let len = match self.next {
            ipv6::FRAGMENT => 8,
            ipv6::AUTHENTICATION => (usize::from(*len) + 2) * 4,
            _ => (usize::from(*len) + 1) * 8,
        };
        if packet.len() - self.at < len {
            return Err(Reason::BadIpv6);
        }
        match self.next {
            // Only right behind the fixed header (RFC 8200 section 4.1).
            ipv6::HOP_BY_HOP if self.at != ipv6::LEN => return Err(Reason::BadIpv6),
            ipv6::ROUTING if rest[1] != 0 => h.source_routed = true,
            ipv6::FRAGMENT => {
                if h.fragment != Fragment::Whole {
                    return Err(Reason::BadIpv6);
                }
                let word = be16(rest, 0);
                h.fragment_offset = word & 0xfff8;
                h.more_fragments = word & 1 != 0;
                h.fragment = match (h.fragment_offset, h.more_fragments) {
                    (0, false) => Fragment::Atomic,
                    (0, true) => Fragment::First,
                    _ => Fragment::Later,
                };
            }
            _ => {}
        }
        self.next = *next;
        self.at += len;
        Ok(h.fragment != Fragment::Later)
    }
}

fn set_extent(h: &mut Headers, l4_at: usize, end: usize) {
    h.l4_at = l4_at as u16;
    h.payload_at = l4_at as u16;
    h.l3_end = end as u32;
    h.l4_end = end as u32;
}

/// `header_len` counts into the length of the packet that reassembly gives (IPv4 only).
fn check_fragment(h: &Headers, data: usize, header_len: usize) -> Result<(), Reason> {
    let torn = h.more_fragments && (data == 0 || !data.is_multiple_of(8));
    let too_long = usize::from(h.fragment_offset) + data + header_len > ipv4::MAX_PACKET;
    if torn || too_long { Err(Reason::BadFragment) } else { Ok(()) }
}

#[inline]
fn parse_l4(frame: &[u8], h: &mut Headers) -> Result<(), Reason> {
    if h.fragment == Fragment::Later {
        return Ok(());
    }
    // A first fragment without its whole upper header hides it from every filter (RFC 1858, RFC 7112).
    let short = if h.fragment == Fragment::First { Reason::BadFragment } else { Reason::BadL4 };
    let data = &frame[usize::from(h.l4_at)..h.l3_end as usize];
    let header_len = match (h.proto, h.l3) {
        (proto::TCP, _) => {
            let header = tcp::Header::of(data).ok_or(short)?;
            let len = header.header_len();
            if len < tcp::LEN {
                return Err(Reason::BadL4);
            }
            h.l4 = L4::Tcp;
            h.tcp_flags = header.flags;
            (h.src_port, h.dst_port) = (header.src_port.get(), header.dst_port.get());
            len
        }
        (proto::UDP, _) => {
            let header = udp::Header::of(data).ok_or(short)?;
            let len = usize::from(header.len.get());
            if h.fragment != Fragment::First {
                if len < udp::LEN || len > data.len() {
                    return Err(Reason::BadL4);
                }
                h.l4_end = u32::from(h.l4_at) + len as u32;
            }
            h.l4 = L4::Udp;
            (h.src_port, h.dst_port) = (header.src_port.get(), header.dst_port.get());
            udp::LEN
        }
        (proto::ICMP, L3::V4) | (proto::ICMPV6, L3::V6) => {
            let header = icmp::Header::of(data).ok_or(short)?;
            h.l4 = if h.l3 == L3::V4 { L4::Icmp } else { L4::Icmpv6 };
            (h.icmp_type, h.icmp_code) = (header.kind, header.code);
            if h.is_echo() {
                h.src_port = header.id.get();
            }
            icmp::LEN
        }
        _ => return Ok(()),
    };
    if header_len > data.len() {
        return Err(short);
    }
    h.payload_at = h.l4_at + header_len as u16;
    Ok(())
}

#[cfg(test)]
mod tests;
