//! What keeps a port that makes noise from the time of others.
//!
//! Noise is batches of which most frames no cached flow knows, or each begins a connection: scans, broadcasts, frames that are dropped
//! for what they are. A port may make as much as it likes while nobody else is at work, or while it takes less than a share of the
//! worker's time; beyond, it rests, what it sends waits in its device's queue, and what does not fit there the device drops at the sender's
//! expense, as every full queue does. Traffic of known connections is no noise, whatever its rate.

use crate::mem::{BATCH, LARGE_BATCH};

/// Noise of one port may take one in so many nanoseconds.
const SHARE: u64 = 8;
/// A port that was quiet may make noise for this long at once, in nanoseconds.
const BURST_NS: u64 = 500_000;
/// Others are at work if one had a turn without noise within this time, nanoseconds.
const QUIET_NS: u64 = 10_000_000;
/// A frame is charged for no more than this, nanoseconds: what a turn takes beyond it is time in which the worker did not
/// run, which is not the port's fault.
const MOST_PER_FRAME: u64 = 4_000;
/// Frames in a turn of a noisy port beside others: some tens of microseconds, for which they wait.
const NOISY_BATCH: usize = 8;

/// One source's account.
#[derive(Debug, Default)]
pub(super) struct Noise {
    /// The share up to this instant has been used.
    used_until: u64,
    /// Its last batch was noise.
    is_noisy: bool,
}

impl Noise {
    /// Most frames of the next turn at `now`, where others were last at work at `others`.
    #[inline]
    pub(super) fn batch(&self, now: u64, others: u64) -> usize {
        match self.is_noisy {
            true if others_work(now, others) => NOISY_BATCH,
            // Who speaks seldom meets such a turn each time.
            true => BATCH,
            false => LARGE_BATCH,
        }
    }

    /// Until when the source rests, if it does at `now`, and others were at work at `others`.
    #[inline]
    pub(super) fn rests_until(&self, now: u64, others: u64) -> Option<u64> {
        (self.used_until > now && others_work(now, others)).then_some(self.used_until)
    }

    /// True if its last batch was noise.
    #[inline]
    pub(super) fn is_noisy(&self) -> bool {
        self.is_noisy
    }

    /// Notes a turn: how many frames, how many of them new or by no cached flow, its begin, and its end, which is asked for only
    /// if it was noise.
    #[inline]
    pub(super) fn account(&mut self, (frames, new): (usize, usize), begun: u64, end: impl FnOnce() -> u64) {
        self.is_noisy = new * 2 > frames;
        if self.is_noisy {
            // Not beyond the begin: what was taken while nobody else was at work is no debt.
            let from = self.used_until.clamp(begun.saturating_sub(BURST_NS * SHARE), begun);
            let took = end().saturating_sub(begun).min(frames as u64 * MOST_PER_FRAME);
            self.used_until = from + took * SHARE;
        }
    }
}

#[inline]
fn others_work(now: u64, others: u64) -> bool {
    now.saturating_sub(others) < QUIET_NS
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nanoseconds that a turn with noise takes here.
    const TURN: u64 = 20_000;

    /// Turns that a source with noise to no end gets from `now` on for so long; the rest of the time is for others.
    fn turns(noise: &mut Noise, mut now: u64, lasting: u64) -> u64 {
        let (end, mut turns) = (now + lasting, 0);
        while now < end {
            match noise.rests_until(now, now) {
                Some(until) => now = until,
                None => {
                    noise.account((8, 8), now, || now + TURN);
                    (now, turns) = (now + TURN, turns + 1);
                }
            }
        }
        turns
    }

    #[test]
    fn noise_gets_a_burst_and_then_its_share() {
        let (mut noise, start, second) = (Noise::default(), 1_000_000_000_000, 1_000_000_000);
        let got = turns(&mut noise, start, second) * TURN;
        assert!((second / SHARE..=second / SHARE + BURST_NS + TURN).contains(&got), "{got}");
        assert_eq!((noise.batch(start, start), noise.batch(start, 0)), (NOISY_BATCH, BATCH));
        let quiet = start + 2 * second;
        assert_eq!(noise.rests_until(quiet, quiet), None);
        assert_eq!(turns(&mut noise, quiet, BURST_NS), BURST_NS / TURN, "all at once");
    }

    #[test]
    fn time_in_which_the_worker_did_not_run_is_not_charged() {
        let (mut noise, now) = (Noise::default(), 1_000_000_000_000);
        noise.account((1, 1), now, || now + 3_000_000);
        assert_eq!(noise.rests_until(now, now), None);
    }

    #[test]
    fn alone_it_never_rests_and_owes_nothing_for_that() {
        let (mut noise, mut now, alone) = (Noise::default(), 1_000_000_000_000, 0);
        for _ in 0..100_000 {
            assert_eq!(noise.rests_until(now, alone), None);
            noise.account((8, 8), now, || now + TURN);
            now += TURN;
        }
        let rest = noise.rests_until(now, now).expect("others came") - now;
        assert!(rest <= TURN * SHARE, "{rest}");
    }

    #[test]
    fn known_flows_are_no_noise() {
        let mut noise = Noise::default();
        for n in 0..1_000_000 {
            noise.account((64, 32), n, || unreachable!("nobody asks for the time"));
            assert_eq!((noise.rests_until(n, n), noise.batch(n, n)), (None, LARGE_BATCH));
        }
    }
}
