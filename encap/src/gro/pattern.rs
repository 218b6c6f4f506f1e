//! What the headers of all segments of one superframe have in common, to be compared by words.

use crate::{Headers, L3, L4, ipv4, ipv6, tcp, udp};

/// Headers of a candidate: Ethernet and a tag, IP without options, TCP with all of them.
const MAX: usize = 128;
const WORD: usize = 8;

/// The header bytes that a cut copies into every segment; those that it counts up or computes are left out.
/// The default matches nothing.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Pattern {
    words: [u64; MAX / WORD],
    mask: [u64; MAX / WORD],
    /// Words in use.
    count: usize,
}

impl Pattern {
    /// The pattern of a first segment, a candidate.
    pub(super) fn new(first: &[u8], headers: &Headers) -> Self {
        // 14 + 4 + 40 + 60 bytes at most.
        let end = usize::from(headers.payload_at).min(MAX);
        let (mut bytes, mut mask) = ([0; MAX], [0; MAX]);
        bytes[..end].copy_from_slice(&first[..end]);
        mask[..end].fill(0xff);
        let (l3, l4) = (usize::from(headers.l3_at), usize::from(headers.l4_at));
        let mut leave_out = |at: usize, len: usize| mask[at..at + len].fill(0);
        match headers.l3 {
            L3::V4 => [ipv4::TOTAL_LEN, ipv4::ID, ipv4::CHECKSUM].iter().for_each(|at| leave_out(l3 + at, 2)),
            _ => leave_out(l3 + ipv6::PAYLOAD_LEN, 2),
        }
        if headers.l4 == L4::Tcp {
            leave_out(l4 + tcp::SEQ, 4);
            leave_out(l4 + tcp::CHECKSUM, 2);
            // PSH and FIN are the last one's. CWR is the first one's, and the others do without.
            mask[l4 + tcp::FLAGS] = !(tcp::PSH | tcp::FIN);
            bytes[l4 + tcp::FLAGS] &= !tcp::CWR;
        } else {
            leave_out(l4 + udp::LENGTH, 2);
            leave_out(l4 + udp::CHECKSUM, 2);
        }
        bytes.iter_mut().zip(mask).for_each(|(byte, mask)| *byte &= mask);
        Pattern { words: words(&bytes), mask: words(&mask), count: end.div_ceil(WORD) }
    }

    /// True for a segment whose headers are as those of the first. It is longer than those.
    #[inline]
    pub(super) fn matches(&self, segment: &[u8]) -> bool {
        let need = self.count * WORD;
        match segment.get(..need) {
            Some(head) => self.compare(head),
            None => {
                let mut padded = [0; MAX];
                padded[..segment.len()].copy_from_slice(segment);
                self.compare(&padded[..need])
            }
        }
    }

    #[inline]
    fn compare(&self, head: &[u8]) -> bool {
        let mut differ = u64::from(self.count == 0);
        for ((bytes, word), mask) in head.as_chunks::<WORD>().0.iter().zip(&self.words).zip(&self.mask) {
            differ |= (u64::from_ne_bytes(*bytes) & mask) ^ word;
        }
        differ == 0
    }
}

fn words(bytes: &[u8; MAX]) -> [u64; MAX / WORD] {
    let mut words = [0; MAX / WORD];
    words
        .iter_mut()
        .zip(bytes.as_chunks::<WORD>().0)
        .for_each(|(word, bytes)| *word = u64::from_ne_bytes(*bytes));
    words
}
