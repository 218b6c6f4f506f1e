//! Gluing consecutive segments of one flow into a superframe, each checksum verified while its payload is copied.
//!
//! What [`crate::gso::cut`] makes of the superframe are the segments again: only segments are glued that a cut could
//! have made.

mod pattern;

use pattern::Pattern;

use crate::checksum::{self, State, Sum, copy_and_sum, judge};
use crate::vnet::MIN_TCP_SIZE;
use crate::wire::{be16, be32, put16};
use crate::{Fragment, Gso, Headers, L3, L4, Reason, VnetHdr, eth, ipv4, ipv6, tcp, udp};

/// Datagrams in a UDP superframe at most: what every kernel takes (`UDP_MAX_SEGMENTS` before 6.9).
pub const MAX_UDP_PIECES: usize = 64;
/// Longest superframe, bytes: IP may be 65,535 bytes long, Ethernet and a tag come before it.
pub const MAX_FRAME: usize = ipv4::MAX_PACKET + eth::LEN + crate::vlan::LEN;

/// What became of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Push {
    /// It is part of the superframe.
    Merged,
    /// It does not continue the superframe: finish that one, then start anew with this segment.
    Flush,
    /// It is corrupt and must be dropped; the superframe is as before.
    Drop(Reason),
}

/// A superframe in the making. The bytes are in a buffer that the caller passes, always the same, to every call.
#[derive(Clone, Copy, Debug)]
pub struct Gro {
    /// Of the first segment.
    headers: Headers,
    /// Bytes of the buffer in use.
    len: usize,
    /// Payload bytes of the first segment, which the others must have too.
    size: usize,
    /// Segments so far.
    count: usize,
    /// Sequence number that continues it.
    next_seq: u32,
    /// PSH and FIN seen, to be set in the superframe.
    late_flags: u8,
    /// The last segment was shorter, or pushed: nothing may follow.
    closed: bool,
    /// The first segment's checksum was owed.
    owed: bool,
    pattern: Pattern,
}

/// True for a segment that could be part of a superframe.
#[inline]
pub fn is_candidate(frame: &[u8], headers: &Headers) -> bool {
    // Options and extension headers may differ in ways a cut cannot restore.
    let plain_ip = match headers.l3 {
        L3::V4 => usize::from(headers.l4_at - headers.l3_at) == ipv4::LEN,
        L3::V6 => usize::from(headers.l4_at - headers.l3_at) == ipv6::LEN,
        L3::Arp | L3::Other => false,
    };
    if !plain_ip || headers.fragment != Fragment::Whole || headers.payload_len() == 0 {
        return false;
    }
    match headers.l4 {
        L4::Tcp => headers.tcp_flags & (tcp::SYN | tcp::RST | tcp::URG | tcp::ACK) == tcp::ACK,
        L4::Udp => {
            headers.l4_end == headers.l3_end && be16(frame, usize::from(headers.l4_at) + udp::CHECKSUM) != 0
        }
        L4::None | L4::Icmp | L4::Icmpv6 => false,
    }
}

impl Gro {
    /// Starts with `segment`, which is copied to `buf`. Any frame will do; one that is no [`is_candidate`] stays
    /// alone. Ethernet padding is left behind.
    ///
    /// # Errors
    /// [`Reason::BadChecksum`]; [`Reason::NoBuffer`] when `buf` is too short.
    pub fn start(buf: &mut [u8], segment: &[u8], headers: &Headers) -> Result<Gro, Reason> {
        let len = headers.l3_end as usize;
        let room = buf.get_mut(..len).ok_or(Reason::NoBuffer)?;
        let sum = copy(room, segment, headers);
        let owed = match judge(segment, headers, sum) {
            State::Wrong => return Err(Reason::BadChecksum),
            State::Owed => true,
            State::Verified | State::NoChecksum => false,
        };
        let candidate = is_candidate(segment, headers);
        // A superframe of smaller ones would be refused everywhere, by this switch too.
        let is_tiny = headers.l4 == L4::Tcp && headers.payload_len() < usize::from(MIN_TCP_SIZE);
        let ends = is_tiny || headers.tcp_flags & (tcp::PSH | tcp::FIN) != 0;
        let next_seq = match headers.l4 {
            L4::Tcp => be32(segment, usize::from(headers.l4_at) + tcp::SEQ)
                .wrapping_add(headers.payload_len() as u32),
            _ => 0,
        };
        Ok(Gro {
            headers: *headers,
            len,
            size: headers.payload_len(),
            count: 1,
            next_seq,
            late_flags: 0,
            closed: ends || !candidate,
            owed,
            pattern: if candidate { Pattern::new(segment, headers) } else { Pattern::default() },
        })
    }

    /// Adds `segment` if it continues the superframe.
    #[inline]
    pub fn push(&mut self, buf: &mut [u8], segment: &[u8], headers: &Headers) -> Push {
        let same_shape = (headers.l3_at, headers.l4_at, headers.payload_at, headers.l4)
            == (self.headers.l3_at, self.headers.l4_at, self.headers.payload_at, self.headers.l4);
        let segment = &segment[..headers.l3_end as usize];
        if !same_shape || !is_candidate(segment, headers) || !self.continues(buf, segment) {
            return Push::Flush;
        }
        self.append(buf, segment)
    }

    /// As [`Self::push`], for a segment that nobody has parsed. `None`, and nothing done, unless it is plain to see that
    /// it continues the superframe: then parse it, and push it.
    ///
    /// Every header byte that [`crate::parse`] would look at must be that of the first segment, which was parsed; but
    /// for lengths, checksums and the flags that may end a superframe, which are looked at here.
    #[inline]
    pub fn push_unparsed(&mut self, buf: &mut [u8], segment: &[u8]) -> Option<Push> {
        let (l3, l4) = (usize::from(self.headers.l3_at), usize::from(self.headers.l4_at));
        if segment.len() <= usize::from(self.headers.payload_at) || !self.continues(buf, segment) {
            return None;
        }
        let l3_len = segment.len() - l3;
        let fits = match self.headers.l3 {
            L3::V4 => {
                usize::from(be16(segment, l3 + ipv4::TOTAL_LEN)) == l3_len
                    && Sum::of(&segment[l3..l4]).is_valid()
            }
            _ => usize::from(be16(segment, l3 + ipv6::PAYLOAD_LEN)) + ipv6::LEN == l3_len,
        };
        let fits_udp = self.headers.l4 != L4::Udp
            || usize::from(be16(segment, l4 + udp::LENGTH)) == segment.len() - l4
                && be16(segment, l4 + udp::CHECKSUM) != 0;
        (fits && fits_udp).then(|| self.append(buf, segment))
    }

    /// Copies the payload of a segment that continues the superframe but for its checksum.
    #[inline]
    fn append(&mut self, buf: &mut [u8], segment: &[u8]) -> Push {
        let (l4_at, payload_at) = (usize::from(self.headers.l4_at), usize::from(self.headers.payload_at));
        let payload = segment.len() - payload_at;
        let end = self.len + payload;
        let mut headers = self.headers;
        headers.l3_end = segment.len() as u32;
        headers.l4_end = headers.l3_end;
        let body = copy_and_sum(&mut buf[self.len..end], &segment[payload_at..]);
        let sum = Sum::of(&segment[l4_at..payload_at]).join(body);
        if judge(segment, &headers, sum) == State::Wrong {
            return Push::Drop(Reason::BadChecksum);
        }
        self.len = end;
        self.count += 1;
        if headers.l4 == L4::Tcp {
            self.next_seq = self.next_seq.wrapping_add(payload as u32);
            self.late_flags |= segment[l4_at + tcp::FLAGS] & (tcp::PSH | tcp::FIN);
        }
        self.closed = payload < self.size || self.late_flags != 0;
        Push::Merged
    }

    /// Completes the frame `buf[..len()]` and describes it.
    ///
    /// A superframe's lengths and IPv4 checksum are set and its upper checksum becomes the pseudo-header sum. A
    /// segment that stayed alone is as it came.
    pub fn finish(&self, buf: &mut [u8]) -> VnetHdr {
        if self.count == 1 {
            return VnetHdr::describe(&self.headers, Gso::None, self.owed);
        }
        let mut headers = self.headers;
        headers.l3_end = self.len as u32;
        headers.l4_end = self.len as u32;
        let (l3_at, l4_at) = (usize::from(headers.l3_at), usize::from(headers.l4_at));
        let l3_len = self.len - l3_at;
        if headers.l3 == L3::V4 {
            put16(buf, l3_at + ipv4::TOTAL_LEN, l3_len as u16);
            ipv4::fill_checksum(&mut buf[l3_at..l4_at]);
        } else {
            put16(buf, l3_at + ipv6::PAYLOAD_LEN, (l3_len - ipv6::LEN) as u16);
        }
        let size = self.size as u16;
        let gso = if headers.l4 == L4::Tcp {
            buf[l4_at + tcp::FLAGS] |= self.late_flags;
            Gso::Tcp { size }
        } else {
            put16(buf, l4_at + udp::LENGTH, (self.len - l4_at) as u16);
            Gso::Udp { size }
        };
        checksum::owe(buf, &headers);
        VnetHdr::describe(&headers, gso, true)
    }

    /// Bytes of the buffer in use.
    pub fn len(&self) -> usize {
        self.len
    }

    /// False: a superframe has at least one segment.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Segments so far.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Headers of the first segment; after [`Self::finish`] the frame is longer than they say.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// True when nothing can be added any more.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// True when all header bytes that a cut copies are those of the first segment, those that it counts up are right,
    /// and there is room. `segment` ends with its IP packet, and is longer than the headers of the first.
    #[inline]
    fn continues(&self, buf: &[u8], segment: &[u8]) -> bool {
        let first = &self.headers;
        let (l3, l4) = (usize::from(first.l3_at), usize::from(first.l4_at));
        let payload = segment.len() - usize::from(first.payload_at);
        let end = self.len + payload;
        let fits = !self.closed
            && payload <= self.size
            && end - l3 <= ipv4::MAX_PACKET
            && end <= buf.len()
            && (first.l4 != L4::Udp || self.count < MAX_UDP_PIECES);
        fits && self.pattern.matches(segment)
            && (first.l4 != L4::Tcp || be32(segment, l4 + tcp::SEQ) == self.next_seq)
            && self.id_fits(buf, segment)
    }

    /// With DF the IPv4 identification means nothing (RFC 6864); without, it must be what a cut would count. Datagrams
    /// are delivered one by one, so theirs is never read again.
    #[inline]
    fn id_fits(&self, buf: &[u8], segment: &[u8]) -> bool {
        let first = &self.headers;
        if first.l3 != L3::V4 || first.dont_fragment || first.l4 == L4::Udp {
            return true;
        }
        let at = usize::from(first.l3_at) + ipv4::ID;
        be16(segment, at) == be16(buf, at).wrapping_add(self.count as u16)
    }
}

/// A frame that came whole but is longer than a wire carries: an inner packet that spans a whole datagram, because a
/// kernel peer's offload was never undone. Makes it a superframe in place and describes it.
///
/// `size` is payload per segment: the `UDP_GRO` control message's value for UDP (which then is the *inner* size), the
/// tunnel MTU less [`Headers::l3_header_len`] for TCP.
///
/// A frame with no more payload than `size`, and one that cannot be cut, comes back as a plain one.
///
/// # Errors
/// [`Reason::BadChecksum`]; [`Reason::BadGso`] for a size that [`VnetHdr::validate`] refuses.
pub fn superframe(frame: &mut [u8], headers: &Headers, size: u16) -> Result<VnetHdr, Reason> {
    let state = checksum::state(frame, headers);
    if state == State::Wrong {
        return Err(Reason::BadChecksum);
    }
    let gso = match headers.l4 {
        L4::Tcp => Gso::Tcp { size },
        L4::Udp if state != State::NoChecksum => Gso::Udp { size },
        _ => Gso::None,
    };
    let cuts = gso != Gso::None && headers.fragment == Fragment::Whole && !headers.source_routed;
    if !cuts || headers.payload_len() <= usize::from(size) {
        return Ok(VnetHdr::describe(headers, Gso::None, state == State::Owed));
    }
    let vnet = VnetHdr::describe(headers, gso, true);
    vnet.validate(headers)?;
    if state == State::Verified {
        checksum::owe(frame, headers);
    }
    Ok(vnet)
}

/// Copies a frame and gives the sum of its upper protocol's header and payload.
#[inline]
fn copy(out: &mut [u8], segment: &[u8], headers: &Headers) -> Sum {
    let l4_at = usize::from(headers.l4_at);
    let l4_end = headers.l4_end as usize;
    out[..l4_at].copy_from_slice(&segment[..l4_at]);
    let sum = copy_and_sum(&mut out[l4_at..l4_end], &segment[l4_at..l4_end]);
    out[l4_end..].copy_from_slice(&segment[l4_end..headers.l3_end as usize]);
    sum
}

#[cfg(test)]
mod tests;
