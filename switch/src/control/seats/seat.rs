//! Which CPU a worker gets, from the kernel's accounts alone.

/// A worker moves at the earliest after this long, in nanoseconds: first a seat must show what it is worth.
const TRIAL_NS: u64 = 2_000_000_000;
/// So long after a move it is looked whether as much bulk passes as before, in nanoseconds. If not, the worker moves back.
const PROBATION_NS: u64 = 450_000_000;
/// As much, in thousandths of what passed before.
const AS_MUCH: u64 = 900;
/// The trial doubles with each move, up to this long.
const LONGEST_TRIAL_NS: u64 = 64_000_000_000;
/// A worker that waits for less than this share of the time, in thousandths, may spin, and stays. A receiver beside it takes
/// 16 % from it; two nodes' workers on one CPU take 28 to 36 % from each other, and there sleep is better.
const SHARED: u64 = 250;
/// Others that run for less than this share of the time beside a worker do not want its CPU, in thousandths.
const CROWDED: u64 = 150;
/// Others are given their CPU back for one that idles by this much more, in thousandths.
const ROOM: u64 = 200;

/// A worker's CPU, and how things stood when that was last decided.
#[derive(Clone, Debug)]
pub(super) struct Seat {
    pub(super) cpu: usize,
    since: Account,
    /// When the worker's waiting was last looked at, and how long it had waited by then, in nanoseconds.
    looked: (u64, u64),
    trial: u64,
    /// After a move, until that is judged.
    moved: Option<Moved>,
}

/// What a seat was worth that a worker left.
#[derive(Clone, Debug)]
struct Moved {
    cpu: usize,
    /// Bulk frames in a second.
    rate: u64,
}

/// The kernel's account at one time, all in nanoseconds.
#[derive(Clone, Default, Debug)]
pub(super) struct Account {
    pub(super) at: u64,
    /// How long the worker has run.
    pub(super) ran: u64,
    /// How long it has waited for a CPU.
    pub(super) waited: u64,
    /// How many bulk frames it has had: the one that is no time.
    pub(super) bulk: u64,
    /// How long each CPU that it may have has idled.
    pub(super) idle: Vec<(usize, u64)>,
}

impl Seat {
    /// Workers are spread over the CPUs, each its own as long as there are enough. Where it sat before the last pause does
    /// not count: where others are now has changed, too.
    pub(super) fn first(worker: usize, now: Account, taken: &[usize]) -> Option<Seat> {
        let count = now.idle.len();
        let mut spread = (0..count).map(|step| now.idle[(worker + step) % count].0);
        let cpu = spread.clone().find(|cpu| !taken.contains(cpu)).or_else(|| spread.next())?;
        Some(Seat { cpu, looked: (now.at, now.waited), since: now, trial: TRIAL_NS, moved: None })
    }

    /// True when the worker has waited so little since this was last asked that it may spin.
    pub(super) fn may_spin(&mut self, now: &Account) -> bool {
        let (at, waited) = std::mem::replace(&mut self.looked, (now.at, now.waited));
        share(now.waited.saturating_sub(waited), now.at.saturating_sub(at)) < SHARED
    }

    /// True when it is time to judge.
    pub(super) fn is_due(&self, now: &Account) -> bool {
        let trial = if self.moved.is_some() { PROBATION_NS } else { self.trial };
        now.at.saturating_sub(self.since.at) >= trial
    }

    /// Moves to another CPU if this one is no longer allowed, or if the worker waits here and others idle about as long,
    /// or if others want this one and there is room for the worker elsewhere. Moves back if less passes there.
    pub(super) fn judge(&mut self, now: Account, taken: &[usize]) {
        let rate = self.rate(&now);
        if let Some(before) = self.moved.take()
            && rate * 1000 < before.rate * AS_MUCH
            && now.idle.iter().any(|(cpu, _)| *cpu == before.cpu)
            && !taken.contains(&before.cpu)
        {
            (self.cpu, self.since) = (before.cpu, now);
            return;
        }
        let idles = |(cpu, idle): (usize, u64)| {
            let before = self.since.idle.iter().find(|(known, _)| *known == cpu);
            before.map_or(0, |(_, before)| self.share(idle, *before, &now))
        };
        let own = now.idle.iter().find(|(cpu, _)| *cpu == self.cpu).copied();
        let others = now.idle.iter().filter(|(cpu, _)| *cpu != self.cpu);
        let best = others.map(|other| (!taken.contains(&other.0), idles(*other), other.0)).max();
        let Some((is_free, idle, cpu)) = best else { return };
        let waits = self.share(now.waited, self.since.waited, &now);
        let beside = own.map(|own| {
            let ran = self.share(now.ran, self.since.ran, &now);
            1000u64.saturating_sub(idles(own)).saturating_sub(ran)
        });
        // Where all CPUs are busy a move only makes somebody else move.
        let goes = match beside {
            None => true,
            Some(_) if !is_free => false,
            Some(_) if waits >= SHARED && idle * 5 >= waits * 4 => true,
            Some(beside) => beside >= CROWDED && idle >= beside + ROOM,
        };
        self.since = now;
        if goes {
            self.moved = Some(Moved { cpu: self.cpu, rate });
            (self.cpu, self.trial) = (cpu, (self.trial * 2).min(LONGEST_TRIAL_NS));
        }
    }

    /// Bulk frames in a second, since the last decision.
    fn rate(&self, now: &Account) -> u64 {
        let span = now.at.saturating_sub(self.since.at).max(1);
        let frames = u128::from(now.bulk.saturating_sub(self.since.bulk)) * 1_000_000_000;
        u64::try_from(frames / u128::from(span)).unwrap_or(u64::MAX / 1000)
    }

    /// What passed between two readings, in thousandths of the time since the last decision.
    fn share(&self, now: u64, then: u64, at: &Account) -> u64 {
        share(now.saturating_sub(then), at.at.saturating_sub(self.since.at))
    }
}

/// A part of a time, in thousandths.
fn share(part: u64, whole: u64) -> u64 {
    part.min(whole) * 1000 / whole.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An account so many milliseconds after the start, in milliseconds.
    fn account(at: u64, (ran, waited): (u64, u64), idle: &[(usize, u64)]) -> Account {
        let ns = |milliseconds: u64| milliseconds * 1_000_000;
        let idle = idle.iter().map(|(cpu, idle)| (*cpu, ns(*idle))).collect();
        Account { at: ns(at), ran: ns(ran), waited: ns(waited), bulk: 0, idle }
    }

    #[test]
    fn each_worker_gets_a_cpu_of_its_own() {
        let cpus = [(2, 0), (3, 0), (5, 0)];
        let first = |worker, taken: &[usize]| {
            Seat::first(worker, account(0, (0, 0), &cpus), taken).map(|seat| seat.cpu)
        };
        assert_eq!([0, 1, 2, 3].map(|worker| first(worker, &[])), [Some(2), Some(3), Some(5), Some(2)]);
        assert_eq!(first(0, &[2]), Some(3));
        assert_eq!(first(1, &[2, 3, 5]), Some(3), "more workers than CPUs");
        assert!(Seat::first(0, account(0, (0, 0), &[]), &[]).is_none(), "no CPU is known");
    }

    /// Where a worker on CPU 0 of three sits after a second in which it ran and waited, and the CPUs idled, so long.
    fn after(used: (u64, u64), idle: [u64; 3], taken: &[usize]) -> usize {
        let begun = account(5000, (30, 70), &[(0, 9), (1, 9), (2, 9)]);
        let mut seat = Seat::first(0, begun, &[]).expect("there are CPUs");
        let idle = [0, 1, 2].map(|cpu| (cpu, 9 + idle[cpu]));
        seat.judge(account(6000, (30 + used.0, 70 + used.1), &idle), taken);
        seat.cpu
    }

    #[test]
    fn who_waits_moves_to_a_cpu_that_idles() {
        assert_eq!(after((500, 500), [0, 900, 950], &[0, 2]), 1, "2 is another worker's");
        assert_eq!(after((500, 500), [0, 900, 950], &[0]), 2);
        assert_eq!(after((700, 200), [200, 900, 900], &[0]), 0, "it only lets a receiver go first");
        assert_eq!(after((500, 400), [0, 200, 300], &[0]), 0, "there it would wait, too");
    }

    #[test]
    fn who_makes_others_wait_moves_where_there_is_room() {
        assert_eq!(after((300, 50), [0, 950, 900], &[0]), 1);
        assert_eq!(after((300, 50), [0, 700, 800], &[0]), 0, "no room for as much");
        assert_eq!(after((300, 50), [600, 950, 900], &[0]), 0, "nobody else wants it");
    }

    #[test]
    fn who_has_to_wait_stops_to_spin_however_long_it_did_not() {
        let mut seat = Seat::first(0, account(0, (0, 0), &[(0, 0)]), &[]).expect("there is a CPU");
        for (at, waited, spins) in [(50_000, 0, true), (50_250, 100, false), (50_500, 160, true)] {
            assert_eq!(seat.may_spin(&account(at, (0, waited), &[])), spins, "after {at} ms");
        }
    }

    /// A worker that has waited for two seconds on CPU 0 of two, and had so many bulk frames; it has moved.
    fn moved(bulk: u64) -> Seat {
        let mut seat = Seat::first(0, account(0, (0, 0), &[(0, 0), (1, 0)]), &[]).expect("there are CPUs");
        assert!(!seat.is_due(&account(1999, (0, 0), &[])) && seat.is_due(&account(2000, (0, 0), &[])));
        seat.judge(Account { bulk, ..account(2000, (0, 1900), &[(0, 0), (1, 1900)]) }, &[0]);
        assert_eq!(seat.cpu, 1);
        assert!(!seat.is_due(&account(2400, (0, 0), &[])) && seat.is_due(&account(2500, (0, 0), &[])));
        seat
    }

    #[test]
    fn seats_are_tried_longer_after_each_move() {
        let mut seat = moved(20_000);
        seat.judge(Account { bulk: 24_600, ..account(2500, (0, 1900), &[(0, 0), (1, 1900)]) }, &[1]);
        assert_eq!(seat.cpu, 1, "9,200 frames a second after 10,000");
        assert!(!seat.is_due(&account(6499, (0, 0), &[])) && seat.is_due(&account(6500, (0, 0), &[])));
    }

    #[test]
    fn who_finds_it_worse_elsewhere_comes_back_and_stays_longer() {
        let mut seat = moved(20_000);
        seat.judge(Account { bulk: 24_400, ..account(2500, (0, 1900), &[(0, 0), (1, 1900)]) }, &[1]);
        assert_eq!(seat.cpu, 0, "8,800 frames a second after 10,000");
        assert!(!seat.is_due(&account(6499, (0, 0), &[])) && seat.is_due(&account(6500, (0, 0), &[])));
        let mut seat = moved(20_000);
        seat.judge(account(2500, (0, 1900), &[(1, 1900), (2, 0)]), &[1]);
        assert_eq!(seat.cpu, 1, "where it was it may not be any more");
        let mut seat = moved(20_000);
        seat.judge(account(2500, (0, 1900), &[(0, 0), (1, 1900)]), &[0, 1]);
        assert_eq!(seat.cpu, 1, "another worker has its seat");
    }

    #[test]
    fn a_cpu_that_is_no_longer_allowed_is_left() {
        let first = || Seat::first(0, account(0, (0, 0), &[(0, 0), (1, 0)]), &[]).expect("there are CPUs");
        let [mut seat, mut crowded] = [first(), first()];
        seat.judge(account(250, (0, 0), &[(4, 0), (5, 0)]), &[0]);
        assert_eq!(seat.cpu, 5);
        crowded.judge(account(250, (0, 0), &[(4, 0), (5, 0)]), &[0, 4, 5]);
        assert_eq!(crowded.cpu, 5, "shared with another worker");
    }
}
