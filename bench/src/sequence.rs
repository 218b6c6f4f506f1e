//! Which sequence numbers have come: lost, late and twice are told apart within a window.

use serde::Serialize;

/// Numbers that are remembered behind the highest one.
const WINDOW: u64 = 1 << 16;

/// A receiver's memory of sequence numbers from 0 on.
#[derive(Clone, Debug)]
pub struct Sequence {
    /// One bit per number of the window.
    seen: Box<[u64]>,
    /// The number after the highest one seen.
    next: u64,
    report: Gaps,
}

/// What became of the numbers up to the highest one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Gaps {
    /// Different numbers that came.
    pub received: u64,
    /// Numbers below the highest one that did not come.
    pub lost: u64,
    /// Runs of numbers that were missing when a higher one came.
    pub gaps: u64,
    /// Numbers that came after a higher one.
    pub late: u64,
    /// Numbers that had come before, or came too late to tell.
    pub duplicate: u64,
}

impl Default for Sequence {
    fn default() -> Self {
        Sequence { seen: vec![0; (WINDOW / 64) as usize].into(), next: 0, report: Gaps::default() }
    }
}

impl Sequence {
    /// Notes a number.
    pub fn note(&mut self, number: u64) {
        if number >= self.next {
            self.advance(number);
        } else if self.next - number > WINDOW || self.is_seen(number) {
            self.report.duplicate += 1;
            return;
        } else {
            self.report.late += 1;
            self.report.lost -= 1;
        }
        self.mark(number, true);
        self.report.received += 1;
    }

    /// The report so far.
    pub fn gaps(&self) -> Gaps {
        self.report
    }

    fn advance(&mut self, number: u64) {
        let skipped = number - self.next;
        if skipped > 0 {
            self.report.gaps += 1;
            self.report.lost += skipped;
            // Of those that leave the window at once nothing is remembered.
            let first = self.next.max(number.saturating_sub(WINDOW));
            (first..number).for_each(|missing| self.mark(missing, false));
        }
        self.next = number.saturating_add(1);
    }

    fn is_seen(&self, number: u64) -> bool {
        let (word, bit) = place(number);
        self.seen[word] & bit != 0
    }

    fn mark(&mut self, number: u64, is_seen: bool) {
        let (word, bit) = place(number);
        if is_seen { self.seen[word] |= bit } else { self.seen[word] &= !bit }
    }
}

fn place(number: u64) -> (usize, u64) {
    let at = number % WINDOW;
    ((at / 64) as usize, 1 << (at % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(numbers: impl IntoIterator<Item = u64>) -> Gaps {
        let mut sequence = Sequence::default();
        numbers.into_iter().for_each(|number| sequence.note(number));
        sequence.gaps()
    }

    #[test]
    fn lost_late_and_twice() {
        assert_eq!(run(0..200_000), Gaps { received: 200_000, ..Gaps::default() });
        assert_eq!(run([0, 1, 5, 6, 9]), Gaps { received: 5, lost: 5, gaps: 2, ..Gaps::default() });
        assert_eq!(run([0, 2, 1]), Gaps { received: 3, gaps: 1, late: 1, ..Gaps::default() });
        assert_eq!(run([0, 0, 1, 0]), Gaps { received: 2, duplicate: 2, ..Gaps::default() });
        // The window has gone round: old bits do not vouch for new numbers.
        let skips = (0..70_000).chain([140_000, 139_999, 1]);
        let gaps = run(skips);
        assert_eq!((gaps.received, gaps.late, gaps.duplicate, gaps.lost), (70_002, 1, 1, 69_999));
    }

    #[test]
    fn the_highest_number_is_no_trap() {
        let gaps = run([u64::MAX, 5]);
        assert_eq!((gaps.received, gaps.gaps), (1, 1));
    }
}
