//! How much of a source's small frames makes a turn, while others are at work: as many as take a bounded time, for that is what the first
//! frame of another one waits.
//!
//! What a frame costs differs by more than ten: a datagram that joins others of its flow takes a third of a microsecond, one that
//! goes to a TAP by itself two or three.

/// A turn takes about so long at most, nanoseconds.
const TURN_NS: u64 = 30_000;
/// Small frames have at most so many bytes, on average. Larger ones are bulk, which smaller turns cost more than they give others.
const SMALL: u64 = 512;
/// Frames of a turn at least.
const LEAST: usize = 8;

/// What one source's small frames cost.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// Nanoseconds per frame; 0: not known, or they are not small.
    cost: u64,
}

impl Pace {
    /// Most frames of a turn that could have `most`.
    #[inline]
    pub(super) fn limit(&self, most: usize) -> usize {
        match self.cost {
            0 => most,
            cost => most.min(LEAST.max((TURN_NS / cost) as usize)),
        }
    }

    /// Notes a turn: frames, their bytes, and how long it took, at most.
    #[inline]
    pub(super) fn note(&mut self, frames: usize, bytes: u64, took: u64) {
        let count = frames as u64;
        if bytes > SMALL * count {
            self.cost = 0;
        } else if frames >= LEAST {
            // The least of late: more is time in which the worker did not run.
            let known = if self.cost == 0 { u64::MAX } else { self.cost + self.cost / 16 + 1 };
            self.cost = (took / count).clamp(1, known);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(turns: &[(usize, u64, u64)]) -> usize {
        let mut pace = Pace::default();
        turns.iter().for_each(|(frames, bytes, took)| pace.note(*frames, *bytes, *took));
        pace.limit(64)
    }

    #[test]
    fn a_turn_of_small_frames_takes_a_bounded_time() {
        assert_eq!(after(&[]), 64);
        assert_eq!(after(&[(64, 64 * 60, 64 * 2_000)]), 15);
        assert_eq!(after(&[(64, 64 * 60, 64 * 300)]), 64, "cheap ones");
        assert_eq!(after(&[(64, 64 * 60, 64 * 30_000)]), LEAST);
        assert_eq!(after(&[(2, 120, 10_000)]), 64, "a few say nothing");
    }

    #[test]
    fn time_in_which_the_worker_did_not_run_counts_little() {
        let known = (64, 64 * 60, 64 * 1_000);
        assert_eq!(after(&[known, (30, 30 * 60, 10_000_000)]), 28);
        assert_eq!(after(&[known, (30, 30 * 60, 10_000_000), known]), 30);
    }

    #[test]
    fn superframes_are_left_alone() {
        assert_eq!(after(&[(64, 64 * 60, 64 * 2_000), (8, 8 * 64_000, 8 * 15_000)]), 64);
    }
}
