//! Summing bytes, and copying them while they are summed, with the vectors that this CPU has.
//!
//! The sums are those of the Internet checksum (RFC 1071) before the last fold: 32-bit words in native byte order added
//! up in 64 bits, the last word padded with zeros. What the compiler makes of plain code for the oldest CPU takes twice
//! the time; and a copy that sums on its way reads its source once.

/// The two functions for one kind of CPU.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    /// The sum of some bytes.
    pub sum: fn(&[u8]) -> u64,
    /// Copies from the second to the first, which must be of one length (it panics otherwise), and gives the sum.
    pub copy_and_sum: fn(&mut [u8], &[u8]) -> u64,
}

/// The best for this CPU; `None` where plain code is.
#[must_use]
pub fn kernels() -> Option<Kernels> {
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("avx2") {
        return Some(Kernels { sum: x86::sum, copy_and_sum: x86::copy_and_sum });
    }
    None
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256i, _mm256_add_epi64, _mm256_and_si256, _mm256_loadu_si256, _mm256_set1_epi64x,
        _mm256_setzero_si256, _mm256_srli_epi64, _mm256_storeu_si256,
    };

    const VECTOR: usize = size_of::<__m256i>();
    /// Bytes of one turn.
    const BLOCK: usize = 4 * VECTOR;

    // Only [`super::kernels`] hands these two out, after it has asked the CPU.
    pub(super) fn sum(bytes: &[u8]) -> u64 {
        // SAFETY: this CPU has AVX2, see above.
        unsafe { sum_avx2(bytes) }
    }

    pub(super) fn copy_and_sum(dst: &mut [u8], src: &[u8]) -> u64 {
        // SAFETY: this CPU has AVX2, see above.
        unsafe { copy_and_sum_avx2(dst, src) }
    }

    /// Upper and lower halves of 64-bit words, summed apart so that no carry is lost.
    struct Sums {
        even: __m256i,
        odd: __m256i,
    }

    impl Sums {
        #[target_feature(enable = "avx2")]
        #[inline]
        fn new() -> Self {
            Sums { even: _mm256_setzero_si256(), odd: _mm256_setzero_si256() }
        }

        #[target_feature(enable = "avx2")]
        #[inline]
        fn add(&mut self, words: __m256i) {
            let low = _mm256_set1_epi64x(0xffff_ffff);
            self.even = _mm256_add_epi64(self.even, _mm256_and_si256(words, low));
            self.odd = _mm256_add_epi64(self.odd, _mm256_srli_epi64::<32>(words));
        }

        #[target_feature(enable = "avx2")]
        #[inline]
        fn total(self) -> u64 {
            let mut words = [0u64; 4];
            // SAFETY: the array is as long as the vector, and the store needs no alignment.
            unsafe {
                _mm256_storeu_si256(words.as_mut_ptr().cast(), _mm256_add_epi64(self.even, self.odd));
            }
            words.iter().sum()
        }
    }

    #[target_feature(enable = "avx2")]
    fn sum_avx2(bytes: &[u8]) -> u64 {
        let (blocks, rest) = bytes.as_chunks::<BLOCK>();
        let (mut a, mut b) = (Sums::new(), Sums::new());
        for block in blocks {
            let [v0, v1, v2, v3] = load(block);
            a.add(v0);
            b.add(v1);
            a.add(v2);
            b.add(v3);
        }
        a.total() + b.total() + sum_rest(rest)
    }

    #[target_feature(enable = "avx2")]
    fn copy_and_sum_avx2(dst: &mut [u8], src: &[u8]) -> u64 {
        assert_eq!(dst.len(), src.len());
        let (to, to_rest) = dst.as_chunks_mut::<BLOCK>();
        let (from, from_rest) = src.as_chunks::<BLOCK>();
        let (mut a, mut b) = (Sums::new(), Sums::new());
        for (to, from) in to.iter_mut().zip(from) {
            let vectors = load(from);
            store(to, vectors);
            let [v0, v1, v2, v3] = vectors;
            a.add(v0);
            b.add(v1);
            a.add(v2);
            b.add(v3);
        }
        to_rest.copy_from_slice(from_rest);
        a.total() + b.total() + sum_rest(from_rest)
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn load(block: &[u8; BLOCK]) -> [__m256i; 4] {
        let at = block.as_ptr();
        // SAFETY: the four loads read the block's bytes and no more, and need no alignment.
        unsafe {
            [
                _mm256_loadu_si256(at.cast()),
                _mm256_loadu_si256(at.add(VECTOR).cast()),
                _mm256_loadu_si256(at.add(2 * VECTOR).cast()),
                _mm256_loadu_si256(at.add(3 * VECTOR).cast()),
            ]
        }
    }

    #[target_feature(enable = "avx2")]
    #[inline]
    fn store(block: &mut [u8; BLOCK], vectors: [__m256i; 4]) {
        let at = block.as_mut_ptr();
        // SAFETY: the four stores write the block's bytes and no more, and need no alignment.
        unsafe {
            _mm256_storeu_si256(at.cast(), vectors[0]);
            _mm256_storeu_si256(at.add(VECTOR).cast(), vectors[1]);
            _mm256_storeu_si256(at.add(2 * VECTOR).cast(), vectors[2]);
            _mm256_storeu_si256(at.add(3 * VECTOR).cast(), vectors[3]);
        }
    }

    #[inline]
    fn sum_rest(rest: &[u8]) -> u64 {
        let (words, tail) = rest.as_chunks::<4>();
        let mut last = [0u8; 4];
        last[..tail.len()].copy_from_slice(tail);
        words.iter().chain(std::iter::once(&last)).map(|word| u64::from(u32::from_ne_bytes(*word))).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(bytes: &[u8]) -> u64 {
        bytes
            .chunks(4)
            .map(|chunk| {
                let mut word = [0; 4];
                word[..chunk.len()].copy_from_slice(chunk);
                u64::from(u32::from_ne_bytes(word))
            })
            .sum()
    }

    #[test]
    fn every_length_and_alignment_gives_the_plain_sum() {
        let Some(kernels) = kernels() else {
            println!("not tested: this CPU has no vectors that are used");
            return;
        };
        let bytes: Vec<u8> = (0..70_000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for at in [0, 1, 2, 7, 31] {
            for len in (0..600).chain([1398, 1460, 65_507]) {
                let from = &bytes[at..at + len];
                assert_eq!((kernels.sum)(from), plain(from), "{len} bytes at {at}");
                // One byte more on either side, which must stay.
                let mut to = vec![0xa5; len + 2];
                assert_eq!((kernels.copy_and_sum)(&mut to[1..=len], from), plain(from), "{len} at {at}");
                assert_eq!((to[0], to[len + 1]), (0xa5, 0xa5));
                assert_eq!(&to[1..=len], from);
            }
        }
        assert_eq!((kernels.sum)(&[0xff; 65_536]), plain(&[0xff; 65_536]));
    }
}
