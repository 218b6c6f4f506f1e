//! The short way for what most frames are: TCP or UDP over IPv4, with nothing special about it.

use super::{Fragment, Headers, L3, L4};
use crate::checksum::Sum;
use crate::wire::be16;
use crate::{eth, ipv4, proto, tcp, udp};

const IP: usize = eth::LEN;
const L4: usize = IP + ipv4::LEN;
/// What is looked at of every such frame: it is in bounds from the first check on.
const LEN: usize = L4 + udp::LEN;

/// What [`super::parse`] finds in an untagged frame with a whole IPv4 packet without options, whose TCP or UDP header is
/// right. `None` for every other, which may be good or bad.
#[inline(always)]
pub fn parse(frame: &[u8]) -> Option<Headers> {
    let head = frame.first_chunk::<LEN>()?;
    let ether = eth::Header::of(head)?;
    let kind = u32::from(ether.ethertype.get()) << 8 | u32::from(head[IP]);
    let flags = be16(head, IP + ipv4::FLAGS);
    let (end, proto) = (IP + usize::from(be16(head, IP + ipv4::TOTAL_LEN)), head[IP + ipv4::PROTOCOL]);
    let is_plain = kind == u32::from(eth::IPV4) << 8 | 0x45
        && flags & !ipv4::DF == 0
        && (LEN..=frame.len()).contains(&end)
        && ether.src.is_unicast()
        && Sum::of(&head[IP..L4]).is_valid();
    if !is_plain {
        return None;
    }
    let (l4, header_len, l4_end, tcp_flags) = match proto {
        proto::UDP => {
            let l4_end = L4 + usize::from(be16(head, L4 + udp::LENGTH));
            (LEN..=end).contains(&l4_end).then_some((L4::Udp, udp::LEN, l4_end, 0))?
        }
        proto::TCP => {
            let rest = frame[L4..end].first_chunk::<{ tcp::LEN }>()?;
            let len = usize::from(rest[tcp::DATA_OFFSET] >> 4) * 4;
            (tcp::LEN..=end - L4).contains(&len).then_some((L4::Tcp, len, end, rest[tcp::FLAGS]))?
        }
        _ => return None,
    };
    Some(Headers {
        dst: ether.dst,
        src: ether.src,
        tci: None,
        ethertype: eth::IPV4,
        l3: L3::V4,
        l4,
        proto,
        fragment: Fragment::Whole,
        more_fragments: false,
        dont_fragment: flags & ipv4::DF != 0,
        source_routed: false,
        ttl: head[IP + ipv4::TTL],
        tos: head[IP + ipv4::TOS],
        tcp_flags,
        icmp_type: 0,
        icmp_code: 0,
        src_port: be16(head, L4),
        dst_port: be16(head, L4 + 2),
        fragment_offset: 0,
        l3_at: IP as u16,
        l4_at: L4 as u16,
        payload_at: (L4 + header_len) as u16,
        l3_end: end as u32,
        l4_end: l4_end as u32,
    })
}
