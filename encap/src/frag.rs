//! Fragmenting an IPv4 packet that may be fragmented (RFC 791 section 3.2). IPv6 is never fragmented on the way.

use crate::wire::{be16, put16};
use crate::{Headers, L3, Reason, checksum, ipv4};

/// Completes what fragments could not carry: call it before [`fragments`] on a frame whose checksum is owed.
pub fn prepare(frame: &mut [u8], headers: &Headers, needs_csum: bool) {
    if needs_csum {
        checksum::complete(frame, headers);
    }
}

/// The fragments of one packet, see [`fragments`].
#[derive(Clone, Debug)]
pub struct Fragments<'a> {
    frame: &'a [u8],
    headers: &'a Headers,
    mtu: usize,
    /// Data bytes done.
    done: usize,
    /// The options that later fragments repeat, padded to a multiple of four.
    options: [u8; ipv4::MAX_LEN - ipv4::LEN],
    options_len: usize,
}

/// Cuts `frame`'s packet into fragments of at most `mtu` bytes of IP. The frame may be a fragment itself.
///
/// # Errors
/// [`Reason::TooBig`] with DF, unless IPv4, or when `mtu` has no room for a header and 8 bytes.
pub fn fragments<'a>(frame: &'a [u8], headers: &'a Headers, mtu: usize) -> Result<Fragments<'a>, Reason> {
    let (l3_at, l4_at) = (usize::from(headers.l3_at), usize::from(headers.l4_at));
    if headers.l3 != L3::V4 || headers.dont_fragment || mtu < l4_at - l3_at + 8 {
        return Err(Reason::TooBig);
    }
    let mut options = [0u8; ipv4::MAX_LEN - ipv4::LEN];
    let options_len = copied_options(&frame[l3_at + ipv4::LEN..l4_at], &mut options);
    Ok(Fragments { frame, headers, mtu, done: 0, options, options_len })
}

impl Fragments<'_> {
    /// Writes the next fragment, a whole frame with the original's Ethernet header and tag; gives its length in
    /// bytes. `None` when all are done, or `out` is shorter than Ethernet header and MTU would need.
    pub fn next_into(&mut self, out: &mut [u8]) -> Option<usize> {
        let h = self.headers;
        let (l3_at, l4_at) = (usize::from(h.l3_at), usize::from(h.l4_at));
        let data = &self.frame[l4_at..h.l3_end as usize];
        let is_first = self.done == 0;
        if self.done >= data.len() && !is_first {
            return None;
        }
        let header_len = if is_first { l4_at - l3_at } else { ipv4::LEN + self.options_len };
        let rest = data.len() - self.done;
        let room = self.mtu - header_len;
        let (take, is_last) = if rest <= room { (rest, true) } else { (room & !7, false) };
        let len = l3_at + header_len + take;
        let out = out.get_mut(..len)?;
        out[..l3_at + ipv4::LEN].copy_from_slice(&self.frame[..l3_at + ipv4::LEN]);
        let ip = &mut out[l3_at..];
        let options =
            if is_first { &self.frame[l3_at + ipv4::LEN..l4_at] } else { &self.options[..self.options_len] };
        ip[ipv4::LEN..header_len].copy_from_slice(options);
        ip[header_len..].copy_from_slice(&data[self.done..self.done + take]);
        ip[0] = 0x40 | (header_len / 4) as u8;
        put16(ip, ipv4::TOTAL_LEN, (header_len + take) as u16);
        let offset = (usize::from(h.fragment_offset) + self.done) / 8;
        let reserved = be16(self.frame, l3_at + ipv4::FLAGS) & !(ipv4::DF | ipv4::MF | ipv4::OFFSET);
        let more = if is_last && !h.more_fragments { 0 } else { ipv4::MF };
        put16(ip, ipv4::FLAGS, reserved | more | offset as u16);
        ipv4::fill_checksum(&mut ip[..header_len]);
        self.done = if is_last { data.len().max(1) } else { self.done + take };
        Some(len)
    }
}

/// Copies the options whose copied bit (0x80) is set, padded with end-of-list; gives the padded length. A malformed
/// list ends where it stops making sense.
fn copied_options(mut options: &[u8], out: &mut [u8; ipv4::MAX_LEN - ipv4::LEN]) -> usize {
    let mut len = 0;
    while let [kind, rest @ ..] = options {
        let size = match kind {
            0 => break,
            1 => 1,
            _ => match rest.first() {
                Some(size) if *size >= 2 && usize::from(*size) <= options.len() => usize::from(*size),
                _ => break,
            },
        };
        if kind & 0x80 != 0 {
            out[len..len + size].copy_from_slice(&options[..size]);
            len += size;
        }
        options = &options[size..];
    }
    len.next_multiple_of(4)
}

#[cfg(test)]
mod tests;
