//! The Internet checksum (RFC 1071), its incremental update (RFC 1624), and what a frame's own checksum says.
//!
//! Sums are kept in native byte order and swapped once at the end (RFC 1071 section 2 (B)); the loops are plain safe
//! Rust in a shape that the compiler turns into vector code for the oldest CPU of the kind. Whoever has better ones for
//! the CPU at hand passes them to [`accelerate`].

use std::sync::OnceLock;

use crate::wire::{be16, put16};
use crate::{Headers, L3, L4, ipv4, ipv6, proto};

/// A running ones' complement sum. Every part added must start at an even offset of the summed data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

/// Bytes that one turn of the vectorised loop takes.
const BLOCK: usize = 64;
const LANES: usize = BLOCK / 4;

impl Sum {
    /// Nothing added yet.
    pub const ZERO: Sum = Sum(0);

    /// The sum of `bytes`; an odd last byte is padded with zero.
    #[inline]
    pub fn of(bytes: &[u8]) -> Sum {
        Sum::ZERO.add(bytes)
    }

    /// Adds `bytes`; an odd last byte is padded with zero, so only the last part may be odd.
    #[inline]
    #[must_use]
    #[allow(clippy::should_implement_trait)]
    pub fn add(self, bytes: &[u8]) -> Sum {
        match kernels_for(bytes.len()) {
            Some(kernels) => Sum(self.0 + (kernels.sum)(bytes)),
            None => self.add_plain(bytes),
        }
    }

    #[inline]
    fn add_plain(self, bytes: &[u8]) -> Sum {
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        let mut total = self.0;
        if !blocks.is_empty() {
            let mut lanes = [0u64; LANES];
            for block in blocks {
                add_block(&mut lanes, block);
            }
            total += lanes.iter().sum::<u64>();
        }
        Sum(total + sum_rest(rest))
    }

    /// Adds a 16-bit word of the packet, given in host order.
    #[inline]
    #[must_use]
    pub fn add16(self, word: u16) -> Sum {
        Sum(self.0 + u64::from(word.to_be()))
    }

    /// Takes a 16-bit word, given in host order, out again: adds its complement.
    #[inline]
    #[must_use]
    pub fn less16(self, word: u16) -> Sum {
        self.add16(!word)
    }

    /// Adds a 32-bit word of the packet, given in host order.
    #[inline]
    #[must_use]
    pub fn add32(self, word: u32) -> Sum {
        Sum(self.0 + u64::from(word.to_be()))
    }

    /// Adds another sum.
    #[inline]
    #[must_use]
    pub fn join(self, other: Sum) -> Sum {
        // Both are below 2^63 for anything shorter than 2^32 bytes.
        Sum(self.0 + other.0)
    }

    /// The 16-bit ones' complement sum, *not* complemented: what a NEEDS_CSUM packet holds for its pseudo-header.
    #[inline]
    pub fn fold(self) -> u16 {
        let mut sum = self.0;
        sum = (sum >> 32) + (sum & 0xffff_ffff);
        sum = (sum >> 32) + (sum & 0xffff_ffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        sum = (sum >> 16) + (sum & 0xffff);
        u16::from_be(sum as u16)
    }

    /// The checksum for a header field: the complement of [`Self::fold`].
    #[inline]
    pub fn finish(self) -> u16 {
        !self.fold()
    }

    /// The checksum for a UDP header, where 0 would mean "none" (RFC 768).
    #[inline]
    pub fn finish_udp(self) -> u16 {
        match self.finish() {
            0 => 0xffff,
            sum => sum,
        }
    }

    /// True when data that includes its own checksum is intact.
    #[inline]
    pub fn is_valid(self) -> bool {
        // Folds to all ones: a multiple of 2^16 - 1, for 2^16 is 1 modulo that.
        self.0 != 0 && self.0.is_multiple_of(0xffff)
    }
}

/// Functions that sum faster than this crate's own. Each gives the sum of the 32-bit words of some bytes in native byte
/// order, the last one padded with zeros, without a carry lost.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    /// Sums.
    pub sum: fn(&[u8]) -> u64,
    /// Copies the second to the first, equally long, and sums.
    pub copy_and_sum: fn(&mut [u8], &[u8]) -> u64,
}

static KERNELS: OnceLock<Kernels> = OnceLock::new();

/// From now on long stretches are summed by these functions, in the whole process. Only the first call counts.
pub fn accelerate(kernels: Kernels) {
    let _ = KERNELS.set(kernels);
}

/// Fewer bytes are summed sooner than a function is called.
const LONG: usize = 256;

#[inline]
fn kernels_for(len: usize) -> Option<&'static Kernels> {
    if len < LONG { None } else { KERNELS.get() }
}

/// Bytes copied before they are summed: they are still in the first-level cache then. Measured on a Zen 5, one stretch
/// at a time is 1.5 times as fast as one loop that loads, stores and adds, which compiles to slower vector code.
const STRETCH: usize = 2048;

/// Copies `src` to `dst` and sums it on the way. Panics if the lengths differ.
#[inline]
pub fn copy_and_sum(dst: &mut [u8], src: &[u8]) -> Sum {
    assert_eq!(dst.len(), src.len());
    if let Some(kernels) = kernels_for(src.len()) {
        return Sum((kernels.copy_and_sum)(dst, src));
    }
    let mut sum = Sum::ZERO;
    for (to, from) in dst.chunks_mut(STRETCH).zip(src.chunks(STRETCH)) {
        to.copy_from_slice(from);
        sum = sum.add_plain(from);
    }
    sum
}

#[inline]
fn add_block(lanes: &mut [u64; LANES], block: &[u8; BLOCK]) {
    for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
        *lane += u64::from(u32::from_ne_bytes(*word));
    }
}

#[inline]
fn sum_rest(rest: &[u8]) -> u64 {
    let (words, tail) = rest.as_chunks::<4>();
    let mut sum: u64 = words.iter().map(|word| u64::from(u32::from_ne_bytes(*word))).sum();
    if !tail.is_empty() {
        let mut last = [0u8; 4];
        last[..tail.len()].copy_from_slice(tail);
        sum += u64::from(u32::from_ne_bytes(last));
    }
    sum
}

/// The pseudo-header of IPv4 (RFC 9293 section 3.1): `len` is header and payload of the upper protocol, bytes.
#[inline]
pub fn pseudo_v4(src: [u8; 4], dst: [u8; 4], protocol: u8, len: u32) -> Sum {
    Sum::of(&src).add(&dst).add16(u16::from(protocol)).add32(len)
}

/// The pseudo-header of IPv6 (RFC 8200 section 8.1): `len` is header and payload of the upper protocol, bytes.
#[inline]
pub fn pseudo_v6(src: [u8; 16], dst: [u8; 16], protocol: u8, len: u32) -> Sum {
    Sum::of(&src).add(&dst).add16(u16::from(protocol)).add32(len)
}

/// The pseudo-header of a parsed frame for `len` bytes of upper protocol. [`Sum::ZERO`] where the protocol has none
/// (ICMP for IPv4).
///
/// With an IPv6 routing header the destination is the last one only if the header is used up, which the sender's
/// checksum assumes; segments left make the sum differ and the checksum count as unknown (see [`state`]).
#[inline]
pub fn pseudo(frame: &[u8], headers: &Headers, len: u32) -> Sum {
    let l3 = usize::from(headers.l3_at);
    match (headers.l3, headers.proto) {
        (L3::V4, proto::ICMP) => Sum::ZERO,
        // Source and destination are neighbours in both headers.
        (L3::V4, protocol) => {
            Sum::of(&frame[l3 + ipv4::SRC..l3 + ipv4::LEN]).add16(u16::from(protocol)).add32(len)
        }
        (L3::V6, protocol) => {
            Sum::of(&frame[l3 + ipv6::SRC..l3 + ipv6::LEN]).add16(u16::from(protocol)).add32(len)
        }
        _ => Sum::ZERO,
    }
}

/// RFC 1624: the checksum after a 16-bit word changed from `old` to `new`.
#[inline]
pub fn update16(checksum: u16, old: u16, new: u16) -> u16 {
    Sum::ZERO.add16(!checksum).add16(!old).add16(new).finish()
}

/// RFC 1624 for a 32-bit word, an IPv4 address for example.
#[inline]
pub fn update32(checksum: u16, old: u32, new: u32) -> u16 {
    Sum::ZERO.add16(!checksum).add32(!old).add32(new).finish()
}

/// RFC 1624 for a 128-bit word, an IPv6 address.
#[inline]
pub fn update128(checksum: u16, old: [u8; 16], new: [u8; 16]) -> u16 {
    let old = (!u128::from_ne_bytes(old)).to_ne_bytes();
    Sum::ZERO.add16(!checksum).add(&old).add(&new).finish()
}

/// What the checksum of a frame's upper protocol says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Right.
    Verified,
    /// The field holds the bare pseudo-header sum: the sender left it to an offload that never ran. The frame goes on
    /// as NEEDS_CSUM. A kernel VXLAN peer over a virtual link sends so.
    Owed,
    /// Wrong.
    Wrong,
    /// Nothing to check here: UDP without a checksum (over IPv6 too: RFC 6936 leaves that to the endpoint), a
    /// fragment, another protocol, a packet under way on a source route.
    NoChecksum,
}

/// Offset of the checksum field within the upper protocol's header, for those whose checksum this crate knows.
#[inline]
pub const fn field_offset(l4: L4) -> Option<usize> {
    match l4 {
        L4::Tcp => Some(crate::tcp::CHECKSUM),
        L4::Udp => Some(crate::udp::CHECKSUM),
        L4::Icmp => Some(crate::icmp::CHECKSUM),
        L4::Icmpv6 => Some(crate::icmpv6::CHECKSUM),
        L4::None => None,
    }
}

/// Checks TCP, UDP, ICMP and ICMPv6. `headers` must be the frame's own.
///
/// Reads the whole payload; where it is copied anyway, the copy sums it ([`copy_and_sum`], [`judge`]).
pub fn state(frame: &[u8], headers: &Headers) -> State {
    let (l4, end) = (usize::from(headers.l4_at), headers.l4_end as usize);
    if !has_checksum(frame, headers) {
        return State::NoChecksum;
    }
    judge(frame, headers, Sum::of(&frame[l4..end]))
}

/// Completes [`state`] with `sum`, the sum of the upper protocol's header and payload as they stand in the frame.
#[inline]
pub fn judge(frame: &[u8], headers: &Headers, sum: Sum) -> State {
    let Some(field) = field_offset(headers.l4) else { return State::NoChecksum };
    if !has_checksum(frame, headers) {
        return State::NoChecksum;
    }
    let l4 = usize::from(headers.l4_at);
    let pseudo = pseudo(frame, headers, headers.l4_end - u32::from(headers.l4_at));
    if sum.join(pseudo).is_valid() {
        State::Verified
    } else if matches!(headers.l4, L4::Tcp | L4::Udp) && be16(frame, l4 + field) == pseudo.fold() {
        State::Owed
    } else {
        State::Wrong
    }
}

/// Computes the checksum of TCP, UDP, ICMP or ICMPv6 in place, whatever the field holds. Frames without such a header,
/// and fragments, stay as they are. For a packet on a source route, whose last destination only the sender knows,
/// the field must hold the pseudo-header sum, as it does where the checksum is owed.
pub fn complete(frame: &mut [u8], headers: &Headers) {
    let Some(field) = field_offset(headers.l4).filter(|_| !headers.is_fragment()) else { return };
    let (l4, end) = (usize::from(headers.l4_at), headers.l4_end as usize);
    let pseudo = if headers.source_routed {
        Sum::ZERO.add16(be16(frame, l4 + field))
    } else {
        pseudo(frame, headers, (end - l4) as u32)
    };
    put16(frame, l4 + field, 0);
    let sum = pseudo.add(&frame[l4..end]);
    let sum = if headers.l4 == L4::Udp { sum.finish_udp() } else { sum.finish() };
    put16(frame, l4 + field, sum);
}

/// Writes the uncomplemented pseudo-header sum into the checksum field, as NEEDS_CSUM wants it.
pub fn owe(frame: &mut [u8], headers: &Headers) {
    let Some(field) = field_offset(headers.l4).filter(|_| !headers.is_fragment()) else { return };
    if headers.source_routed {
        return;
    }
    let len = headers.l4_end - u32::from(headers.l4_at);
    let sum = pseudo(frame, headers, len).fold();
    put16(frame, usize::from(headers.l4_at) + field, sum);
}

fn has_checksum(frame: &[u8], headers: &Headers) -> bool {
    if headers.is_fragment() || headers.source_routed {
        return false;
    }
    match headers.l4 {
        L4::None => false,
        L4::Udp => be16(frame, usize::from(headers.l4_at) + crate::udp::CHECKSUM) != 0,
        L4::Tcp | L4::Icmp | L4::Icmpv6 => true,
    }
}

#[cfg(test)]
mod tests;
