//! Which CPU a worker gets, from the kernel's accounts alone.

/// A seat is judged after this long, in nanoseconds: first it must show what it is worth.
const TRIAL_NS: u64 = 2_000_000_000;
/// So long after a move it is looked whether as much bulk passes as before, in nanoseconds. If not, the worker moves back.
const PROBATION_NS: u64 = 450_000_000;
/// As much, in thousandths of what passed before.
const AS_MUCH: u64 = 900;
/// Who has to wait for at least this share of the time, in thousandths, and yet runs for [`MOST`] of it, while another CPU idles for
/// at least [`WASTED`], at two looks in a row, is stuck, and its first seat is judged at once. One stream's two workers on one
/// CPU, which are better off there, leave 13 to 39 % of the other one idle, but 50 % at first; those of four streams 44 to 66 %, of
/// one stream that an underlay cuts 49 to 57 %.
const STUCK: u64 = 350;
/// See [`STUCK`]. Of two that are in each other's way, daemons that do not know each other, seldom more than one does: not both move.
const MOST: u64 = 500;
/// See [`STUCK`].
const WASTED: u64 = 350;
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
    /// What the next judgement compares with.
    since: Account,
    /// How things stood at the last look.
    looked: Account,
    /// How things stood when it was last found not to be stuck, while it is.
    stuck_since: Option<Account>,
    /// The share of the time for which it waited before the last look, in thousandths.
    waits: u64,
    trial: u64,
    /// After a move, until that is judged.
    moved: Option<Moved>,
}

/// What a look tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Look {
    /// The worker has waited so little since the last look that it may spin.
    pub(super) may_spin: bool,
    /// It is time to judge,
    pub(super) is_due: bool,
    /// but before the trial has ended: by [`Seat::judge_early`].
    pub(super) is_early: bool,
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
        let looked = now.clone();
        Some(Seat { cpu, since: now, looked, stuck_since: None, waits: 1000, trial: TRIAL_NS, moved: None })
    }

    /// Looks at how the worker has fared since the last look.
    pub(super) fn look(&mut self, now: &Account) -> Look {
        let before = std::mem::replace(&mut self.looked, now.clone());
        self.waits = now.waits_since(&before);
        let idles = |(cpu, _): &(usize, u64)| *cpu != self.cpu && now.idles_since(&before, *cpu) >= WASTED;
        let is_stuck = self.waits >= STUCK && now.runs_since(&before) >= MOST && now.idle.iter().any(idles);
        let since = std::mem::take(&mut self.stuck_since).filter(|_| is_stuck);
        // Who has moved already has the whole trial: what was worse before would be tried again and again.
        let is_due = since.is_some() && self.trial == TRIAL_NS;
        self.stuck_since = since.or_else(|| is_stuck.then_some(before));
        let trial = if self.moved.is_some() { PROBATION_NS } else { self.trial };
        let past = now.at.saturating_sub(self.since.at);
        Look { may_spin: self.waits < SHARED, is_due: is_due || past >= trial, is_early: past < trial }
    }

    /// Moves to another CPU if this one is no longer allowed, or if the worker waits here and others idle about as long,
    /// or if others want this one and there is room for the worker elsewhere. After a move: back if less passes there.
    pub(super) fn judge(&mut self, now: Account, taken: &[usize]) {
        let has_own = now.idle.iter().any(|(cpu, _)| *cpu == self.cpu);
        if let Some(before) = self.moved.take()
            && has_own
        {
            let is_less = now.rate_since(&self.since) * 1000 < before.rate * AS_MUCH;
            let is_there = now.idle.iter().any(|(cpu, _)| *cpu == before.cpu);
            if is_less && is_there && !taken.contains(&before.cpu) {
                self.cpu = before.cpu;
            }
            (self.since, self.stuck_since) = (now, None);
            return;
        }
        let since = std::mem::replace(&mut self.since, now.clone());
        self.stuck_since = None;
        self.goes(&now, &since, taken);
    }

    /// As [`Self::judge`], by what was since the worker is stuck. If it stays, its trial goes on.
    pub(super) fn judge_early(&mut self, now: &Account, taken: &[usize]) {
        if let Some(since) = self.stuck_since.take()
            && self.goes(now, &since, taken)
        {
            self.since = now.clone();
        }
    }

    /// Moves, where what has been `since` then says so.
    fn goes(&mut self, now: &Account, since: &Account, taken: &[usize]) -> bool {
        let has_own = now.idle.iter().any(|(cpu, _)| *cpu == self.cpu);
        let idles = |cpu| now.idles_since(since, cpu);
        let others = now.idle.iter().map(|(cpu, _)| *cpu).filter(|cpu| *cpu != self.cpu);
        let best = others.map(|cpu| (!taken.contains(&cpu), idles(cpu), cpu)).max();
        let Some((is_free, idle, cpu)) = best else { return false };
        let waits = now.waits_since(since);
        let beside =
            has_own.then(|| 1000u64.saturating_sub(idles(self.cpu)).saturating_sub(now.runs_since(since)));
        // Where all CPUs are busy a move only makes somebody else move. Whom it waited for may be gone by now.
        let goes = match beside {
            None => true,
            Some(_) if !is_free => false,
            Some(_) if waits.min(self.waits) >= SHARED && idle * 5 >= waits * 4 => true,
            Some(beside) => beside >= CROWDED && idle >= beside + ROOM,
        };
        if goes {
            self.moved = Some(Moved { cpu: self.cpu, rate: now.rate_since(since) });
            (self.cpu, self.trial) = (cpu, (self.trial * 2).min(LONGEST_TRIAL_NS));
        }
        goes
    }
}

impl Account {
    /// For which share of the time since `then` the worker has run, in thousandths.
    fn runs_since(&self, then: &Account) -> u64 {
        self.share(self.ran.saturating_sub(then.ran), then)
    }

    /// For which share of it the worker has waited, in thousandths.
    fn waits_since(&self, then: &Account) -> u64 {
        self.share(self.waited.saturating_sub(then.waited), then)
    }

    /// For which share of it a CPU has idled, in thousandths; 0: it was not known then.
    fn idles_since(&self, then: &Account, cpu: usize) -> u64 {
        let of =
            |account: &Account| account.idle.iter().find(|(known, _)| *known == cpu).map(|(_, idle)| *idle);
        of(self).zip(of(then)).map_or(0, |(now, before)| self.share(now.saturating_sub(before), then))
    }

    /// Bulk frames in a second since `then`.
    fn rate_since(&self, then: &Account) -> u64 {
        let span = self.at.saturating_sub(then.at).max(1);
        let frames = u128::from(self.bulk.saturating_sub(then.bulk)) * 1_000_000_000;
        u64::try_from(frames / u128::from(span)).unwrap_or(u64::MAX / 1000)
    }

    /// A part of the time since `then`, in thousandths.
    fn share(&self, part: u64, then: &Account) -> u64 {
        let whole = self.at.saturating_sub(then.at);
        part.min(whole) * 1000 / whole.max(1)
    }
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
            assert_eq!(seat.look(&account(at, (0, waited), &[])).may_spin, spins, "after {at} ms");
        }
    }

    fn is_due(seat: &mut Seat, at: u64) -> bool {
        seat.look(&account(at, (0, 0), &[])).is_due
    }

    /// A worker that has waited for two seconds on CPU 0 of two, and had so many bulk frames; it has moved.
    fn moved(bulk: u64) -> Seat {
        let mut seat = Seat::first(0, account(0, (0, 0), &[(0, 0), (1, 0)]), &[]).expect("there are CPUs");
        assert!(!is_due(&mut seat, 1900));
        let now = Account { bulk, ..account(2000, (0, 1900), &[(0, 0), (1, 1900)]) };
        assert!(seat.look(&now).is_due);
        seat.judge(now, &[0]);
        assert_eq!(seat.cpu, 1);
        assert!(!is_due(&mut seat, 2400) && is_due(&mut seat, 2500));
        seat
    }

    #[test]
    fn seats_are_tried_longer_after_each_move() {
        let mut seat = moved(20_000);
        seat.judge(Account { bulk: 24_600, ..account(2500, (0, 1900), &[(0, 0), (1, 1900)]) }, &[1]);
        assert_eq!(seat.cpu, 1, "9,200 frames a second after 10,000");
        assert!(!is_due(&mut seat, 6499) && is_due(&mut seat, 6500));
    }

    #[test]
    fn who_finds_it_worse_elsewhere_comes_back_and_stays_longer() {
        let mut seat = moved(20_000);
        seat.judge(Account { bulk: 24_400, ..account(2500, (0, 1900), &[(0, 0), (1, 1900)]) }, &[1]);
        assert_eq!(seat.cpu, 0, "8,800 frames a second after 10,000");
        assert!(!is_due(&mut seat, 6499) && is_due(&mut seat, 6500));
        let mut seat = moved(20_000);
        seat.judge(account(2500, (0, 1900), &[(1, 1900), (2, 0)]), &[1]);
        assert_eq!(seat.cpu, 1, "where it was it may not be any more");
        let mut seat = moved(20_000);
        seat.judge(account(2500, (0, 1900), &[(0, 0), (1, 1900)]), &[0, 1]);
        assert_eq!(seat.cpu, 1, "another worker has its seat");
    }

    /// A worker on CPU 0 of two that was well off for 400 ms; then, at looks 200 ms apart, it ran and waited, and CPU 1 idled, so long.
    fn after_good_times(looks: &[(u64, u64, u64)]) -> (Look, Account, Seat) {
        let mut seat = Seat::first(0, account(0, (0, 0), &[(0, 0), (1, 0)]), &[]).expect("there are CPUs");
        let (mut at, mut ran, mut waited, mut idle) = (400, 300, 10, 50);
        let mut now = account(at, (ran, waited), &[(0, 0), (1, idle)]);
        let mut look = seat.look(&now);
        for (runs, waits, idles) in looks {
            (at, ran, waited, idle) = (at + 200, ran + runs, waited + waits, idle + idles);
            now = account(at, (ran, waited), &[(0, 0), (1, idle)]);
            look = seat.look(&now);
        }
        (look, now, seat)
    }

    #[test]
    fn who_waits_while_another_cpu_is_wasted_moves_soon() {
        const STUCK: (u64, u64, u64) = (110, 80, 100);
        let (look, now, mut seat) = after_good_times(&[STUCK, STUCK]);
        assert_eq!(look, Look { may_spin: false, is_due: true, is_early: true });
        seat.judge_early(&now, &[0]);
        assert_eq!(seat.cpu, 1, "what came before does not count");
        let is_due = |looks: &[_]| after_good_times(looks).0.is_due;
        assert!(!is_due(&[STUCK]), "it may be the beginning of a stream");
        assert!(!is_due(&[STUCK, (110, 60, 100)]), "30 %, as beside another worker");
        assert!(!is_due(&[STUCK, (90, 80, 100)]), "the one beside it runs more, and moves");
        assert!(!is_due(&[STUCK, (110, 80, 60)]), "one stream needs that CPU");
        assert!(!is_due(&[STUCK, (110, 80, 60), STUCK]) && is_due(&[STUCK, (110, 80, 60), STUCK, STUCK]));
        // After a move the whole trial passes, however stuck it is.
        let waits_on = |at: u64| account(at, (at, at), &[(0, at), (1, 0)]);
        seat.judge(waits_on(1300), &[1]);
        assert_eq!(seat.cpu, 1, "no less passes");
        for at in [1600, 1900, 2200, 5299] {
            assert!(!seat.look(&waits_on(at)).is_due, "after {at} ms");
        }
        assert!(seat.look(&waits_on(5300)).is_due);
    }

    #[test]
    fn who_is_stuck_and_stays_is_judged_as_if_it_had_not_been_looked() {
        let (look, now, mut seat) = after_good_times(&[(110, 80, 100), (110, 80, 100)]);
        assert!(look.is_early);
        seat.judge_early(&now, &[0, 1]);
        assert_eq!(seat.cpu, 0, "another worker has that CPU");
        assert!(!is_due(&mut seat, 1999) && is_due(&mut seat, 2000), "its trial goes on");
    }

    #[test]
    fn who_need_not_wait_any_more_stays() {
        let mut seat = Seat::first(0, account(0, (0, 0), &[(0, 0), (1, 0)]), &[]).expect("there are CPUs");
        seat.look(&account(1750, (870, 870), &[(0, 0), (1, 1000)]));
        let now = account(2000, (1100, 880), &[(0, 0), (1, 1000)]);
        assert!(seat.look(&now).is_due);
        seat.judge(now, &[0]);
        assert_eq!(seat.cpu, 0, "the one beside it has moved there");
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
