//! Cutting a superframe into the segments a wire can carry, the checksum folded into the copy.
//!
//! Segments are written one behind the other, each with `prefix` bytes of room before it (8 for a VXLAN header, 0 for
//! a port that takes plain frames), so that a group leaves as one `UDP_SEGMENT` send.

use std::ops::Range;

use crate::checksum::{Sum, copy_and_sum, pseudo};
use crate::wire::{be16, be32, put16, put32};
use crate::{Gso, Headers, L3, L4, Reason, ipv4, ipv6, tcp, udp};

/// The most payload one UDP send over IPv4 carries, bytes; over IPv6 20 more, which nobody needs.
pub const MAX_SEND: usize = 65_507;
/// Datagrams in one `UDP_SEGMENT` send at most (Linux `UDP_MAX_SEGMENTS`; 64 before 6.9).
pub const MAX_SEND_PIECES: usize = 128;

/// How a superframe falls into segments.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Bytes of Ethernet, IP and upper headers, which each segment repeats.
    header_len: usize,
    /// Payload bytes of each segment but the last.
    size: usize,
    /// Payload bytes of the superframe.
    payload: usize,
}

/// A group of segments in a caller's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segments {
    /// Segments in the group.
    pub count: usize,
    /// Bytes of each but the last, prefix included.
    pub segment_len: usize,
    /// Bytes of the last, prefix included.
    pub last_len: usize,
}

impl Segments {
    /// Bytes in all, prefixes included.
    pub fn bytes(&self) -> usize {
        self.count.saturating_sub(1) * self.segment_len + self.last_len
    }

    /// Where segment `index` of the group lies in the buffer, prefix included.
    pub fn range(&self, index: usize) -> Range<usize> {
        let start = index * self.segment_len;
        let len = if index + 1 == self.count { self.last_len } else { self.segment_len };
        start..start + len
    }
}

impl Plan {
    /// The plan for a frame with these headers.
    ///
    /// `gso` is what [`crate::VnetHdr::validate`] gave, or a size of the caller's own to cut a frame that is longer
    /// than the next MTU although its sender did not ask for it. In the second case, unless its checksum is owed, ask
    /// [`crate::checksum::state`] first: a cut computes checksums anew, and would hide that the frame was corrupt.
    ///
    /// # Errors
    /// [`Reason::BadGso`] when `gso` does not fit the headers, or is [`Gso::None`].
    #[inline]
    pub fn new(headers: &Headers, gso: Gso) -> Result<Plan, Reason> {
        let size = match (gso, headers.l4) {
            (Gso::Tcp { size }, L4::Tcp) if headers.tcp_flags & tcp::SYN == 0 => size,
            (Gso::Udp { size }, L4::Udp) => size,
            _ => 0,
        };
        if size == 0 || headers.is_fragment() || headers.source_routed {
            return Err(Reason::BadGso);
        }
        Ok(Plan {
            header_len: usize::from(headers.payload_at),
            size: usize::from(size),
            payload: headers.payload_len(),
        })
    }

    /// Segments in all, at least one.
    #[inline]
    pub fn count(&self) -> usize {
        self.payload.div_ceil(self.size).max(1)
    }

    /// Bytes of all segments, without prefixes.
    #[inline]
    pub fn bytes(&self) -> usize {
        self.count() * self.header_len + self.payload
    }

    /// Length of segment `index`, without prefix, bytes.
    #[inline]
    pub fn segment_len(&self, index: usize) -> usize {
        let (start, end) = self.payload_range(index);
        self.header_len + (end - start)
    }

    /// How many segments from `first` on fit `max_bytes` (prefixes included) and `max_count`; 0 only when not even
    /// one fits, or none is left.
    #[inline]
    pub fn group(&self, first: usize, prefix: usize, max_bytes: usize, max_count: usize) -> usize {
        let left = self.count().saturating_sub(first);
        if left == 0 {
            return 0;
        }
        let full = prefix + self.header_len + self.size.min(self.payload);
        let fit = max_bytes / full;
        // The last one may be shorter and so fit where a full one does not.
        let last_fits = left == fit + 1 && fit * full + prefix + self.segment_len(first + fit) <= max_bytes;
        (fit + usize::from(last_fits)).min(left).min(max_count)
    }

    fn payload_range(&self, index: usize) -> (usize, usize) {
        let start = (index * self.size).min(self.payload);
        (start, (start + self.size).min(self.payload))
    }
}

/// Writes segments `first..first + count` of `frame` to `out`, `prefix` bytes of room before each, left as they were.
///
/// Lengths, IPv4 identification and checksum, TCP sequence and flags, and the upper checksum are those that a kernel
/// would send: identification counts up, FIN and PSH stay on the last, CWR on the first (RFC 3168 section 6.1.2).
///
/// # Errors
/// [`Reason::BadGso`] when the range is empty or `out` too short; `out` then holds nothing of use.
pub fn cut(
    frame: &[u8],
    headers: &Headers,
    plan: &Plan,
    segments: Range<usize>,
    prefix: usize,
    out: &mut [u8],
) -> Result<Segments, Reason> {
    if segments.is_empty() || segments.end > plan.count() {
        return Err(Reason::BadGso);
    }
    let count = segments.len();
    let group = Segments {
        count,
        segment_len: prefix + plan.segment_len(segments.start),
        last_len: prefix + plan.segment_len(segments.end - 1),
    };
    let out = out.get_mut(..group.bytes()).ok_or(Reason::BadGso)?;
    let template = Template::new(frame, headers, plan);
    for (index, room) in segments.zip(out.chunks_mut(group.segment_len)) {
        template.write(index, &mut room[prefix..]);
    }
    Ok(group)
}

/// What is the same for all segments of one superframe.
struct Template<'a> {
    frame: &'a [u8],
    headers: &'a Headers,
    plan: &'a Plan,
    /// IPv4 header without length, identification and checksum.
    ip: Sum,
    /// Pseudo-header without length, upper header without sequence number, flags, length and checksum.
    l4: Sum,
    id: u16,
    seq: u32,
    /// The 16 bits that end with the TCP flags.
    flags: u16,
}

impl<'a> Template<'a> {
    fn new(frame: &'a [u8], headers: &'a Headers, plan: &'a Plan) -> Self {
        let (l3_at, l4_at) = (usize::from(headers.l3_at), usize::from(headers.l4_at));
        let (ip, l4) = (&frame[l3_at..l4_at], &frame[l4_at..plan.header_len]);
        let sum = pseudo(frame, headers, 0).add(l4);
        let mut template = Template { frame, headers, plan, ip: Sum::ZERO, l4: sum, id: 0, seq: 0, flags: 0 };
        if headers.l4 == L4::Tcp {
            template.seq = be32(l4, tcp::SEQ);
            template.flags = be16(l4, tcp::DATA_OFFSET);
            let sum = sum.less16(be16(l4, tcp::CHECKSUM)).less16(template.flags);
            template.l4 = sum.less16(be16(l4, tcp::SEQ)).less16(be16(l4, tcp::SEQ + 2));
        } else {
            template.l4 = sum.less16(be16(l4, udp::CHECKSUM)).less16(be16(l4, udp::LENGTH));
        }
        if headers.l3 == L3::V4 {
            template.id = be16(ip, ipv4::ID);
            let sum = Sum::of(ip).less16(be16(ip, ipv4::CHECKSUM)).less16(template.id);
            template.ip = sum.less16(be16(ip, ipv4::TOTAL_LEN));
        }
        template
    }

    #[inline]
    fn write(&self, index: usize, out: &mut [u8]) {
        let (start, end) = self.plan.payload_range(index);
        let header_len = self.plan.header_len;
        let (head, body) = out.split_at_mut(header_len);
        head.copy_from_slice(&self.frame[..header_len]);
        let payload = copy_and_sum(body, &self.frame[header_len + start..header_len + end]);
        self.fix_ip(head, index, end - start);
        let l4 = &mut head[usize::from(self.headers.l4_at)..];
        let l4_len = l4.len() + (end - start);
        let sum = self.l4.add32(l4_len as u32).join(payload);
        if self.headers.l4 == L4::Tcp {
            let seq = self.seq.wrapping_add(start as u32);
            let flags = self.flags(index);
            put32(l4, tcp::SEQ, seq);
            put16(l4, tcp::DATA_OFFSET, flags);
            put16(l4, tcp::CHECKSUM, sum.add32(seq).add16(flags).finish());
        } else {
            put16(l4, udp::LENGTH, l4_len as u16);
            put16(l4, udp::CHECKSUM, sum.add16(l4_len as u16).finish_udp());
        }
    }

    #[inline]
    fn fix_ip(&self, head: &mut [u8], index: usize, payload: usize) {
        let at = usize::from(self.headers.l3_at);
        let len = head.len() - at + payload;
        if self.headers.l3 == L3::V4 {
            let id = self.id.wrapping_add(index as u16);
            put16(head, at + ipv4::TOTAL_LEN, len as u16);
            put16(head, at + ipv4::ID, id);
            put16(head, at + ipv4::CHECKSUM, self.ip.add16(len as u16).add16(id).finish());
        } else {
            put16(head, at + ipv6::PAYLOAD_LEN, (len - ipv6::LEN) as u16);
        }
    }

    #[inline]
    fn flags(&self, index: usize) -> u16 {
        let mut cleared = 0;
        if index + 1 != self.plan.count() {
            cleared |= tcp::FIN | tcp::PSH;
        }
        if index != 0 {
            cleared |= tcp::CWR;
        }
        self.flags & !u16::from(cleared)
    }
}

#[cfg(test)]
mod tests;
