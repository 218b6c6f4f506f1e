//! A worker through which bulk passes keeps its CPU. Left to the kernel's scheduler, it is pulled to the CPU of whoever
//! sends to it and waits there for the sender, while another CPU idles (decision 0016). Without bulk it goes where it
//! likes: then a wake-up on an idle CPU is worth more.
//!
//! Somebody else may need that CPU all the time. So a worker that has to wait for it moves to one that idles as long.

use std::sync::Arc;
use std::time::Duration;

use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};
use weft_sys::machine::{self, monotonic_ns};
use weft_sys::thread;

use crate::path::dataplane::Dataplane;

/// How often it is looked while bulk passes.
const PERIOD: Duration = Duration::from_millis(250);
/// A worker moves at the earliest after this long, in nanoseconds: first a seat must show what it is worth.
const TRIAL_NS: u64 = 1_000_000_000;
/// Who waits for less than this share of the time, in thousandths, has its CPU for itself.
const CROWDED: u64 = 150;

/// Seats of a dataplane's workers.
pub struct Seats {
    dataplane: Arc<Dataplane>,
    /// By worker; `None`: it goes where it likes.
    seats: Vec<Option<Seat>>,
}

/// A worker's CPU, and how things stood when that was last decided.
#[derive(Clone, Debug)]
struct Seat {
    cpu: usize,
    since: Account,
}

/// The kernel's account at one time, all in nanoseconds.
#[derive(Clone, Default, Debug)]
struct Account {
    at: u64,
    /// How long the worker has waited for a CPU.
    waited: u64,
    /// How long each CPU that it may have has idled.
    idle: Vec<(usize, u64)>,
}

impl Seats {
    /// Nobody is seated yet.
    pub fn new(dataplane: Arc<Dataplane>) -> Self {
        Seats { dataplane, seats: Vec::new() }
    }

    /// Looks for ever, while bulk passes. On a machine where this process has one CPU there is nothing to choose.
    pub async fn run(mut self) {
        if machine::cpus() < 2 {
            return std::future::pending().await;
        }
        loop {
            self.dataplane.bulk_begins().await;
            while self.look() {
                tokio::time::sleep(PERIOD).await;
            }
        }
    }

    /// Seats whom bulk passes through, and lets the others go. False: nobody is seated.
    fn look(&mut self) -> bool {
        let workers = self.dataplane.bulk();
        self.seats.resize(workers.len(), None);
        // The main thread is never seated: what it may have is what the process may.
        let Ok(allowed) = sched_getaffinity(None) else { return false };
        let idle = machine::idle_ns().unwrap_or_default().into_iter().enumerate();
        let idle: Vec<(usize, u64)> =
            idle.filter(|(cpu, _)| *cpu < CpuSet::MAX_CPU && allowed.is_set(*cpu)).collect();
        for (worker, (thread, passes)) in workers.into_iter().enumerate() {
            let Some(thread) = thread else { continue };
            if !passes {
                if self.seats[worker].take().is_some() {
                    self.dataplane.has_cpu(worker, false);
                    put(thread, &allowed);
                }
                continue;
            }
            let waited = thread::waited_ns(thread).unwrap_or_default();
            let now = Account { at: monotonic_ns(), waited, idle: idle.clone() };
            let taken: Vec<usize> = self.seats.iter().flatten().map(|seat| seat.cpu).collect();
            let cpu = match &mut self.seats[worker] {
                Some(seat) => {
                    self.dataplane.has_cpu(worker, seat.waits(&now) < CROWDED);
                    seat.moves(now, &taken)
                }
                none => {
                    *none = Seat::first(worker, now);
                    none.as_ref().map(|seat| seat.cpu)
                }
            };
            if let Some(cpu) = cpu {
                let mut one = CpuSet::new();
                one.set(cpu);
                put(thread, &one);
                tracing::debug!(worker, cpu, "seated while bulk passes");
            }
        }
        self.seats.iter().any(Option::is_some)
    }
}

impl Seat {
    /// Each worker has a CPU of its own to begin with, as long as there are enough.
    fn first(worker: usize, now: Account) -> Option<Seat> {
        let (cpu, _) = *now.idle.get(worker.checked_rem(now.idle.len())?)?;
        Some(Seat { cpu, since: now })
    }

    /// The share of the time that the worker waits, in thousandths.
    fn waits(&self, now: &Account) -> u64 {
        share(now.waited, self.since.waited, now, &self.since)
    }

    /// Decides, when it is time; gives the new CPU if it is another one.
    fn moves(&mut self, now: Account, taken: &[usize]) -> Option<usize> {
        let is_allowed = now.idle.iter().any(|(cpu, _)| *cpu == self.cpu);
        if is_allowed && now.at.saturating_sub(self.since.at) < TRIAL_NS {
            return None;
        }
        let before =
            |cpu: usize| self.since.idle.iter().find(|(other, _)| *other == cpu).map(|(_, idle)| *idle);
        let idles = |(cpu, idle): &(usize, u64)| {
            (share(*idle, before(*cpu).unwrap_or(*idle), &now, &self.since), *cpu)
        };
        let others = now.idle.iter().filter(|(cpu, _)| *cpu != self.cpu && !taken.contains(cpu));
        let best = others.map(idles).max();
        let waits = self.waits(&now);
        self.since = now;
        let (idle, cpu) = best?;
        // Where all CPUs are busy a move only makes somebody else move.
        if is_allowed && (waits < CROWDED || idle * 5 < waits * 4) {
            return None;
        }
        self.cpu = cpu;
        Some(cpu)
    }
}

/// In thousandths of the time between two accounts.
fn share(now: u64, then: u64, at: &Account, since: &Account) -> u64 {
    now.saturating_sub(then) * 1000 / at.at.saturating_sub(since.at).max(1)
}

/// Lets a thread run on these CPUs only.
fn put(thread: Pid, cpus: &CpuSet) {
    // The CPU may have gone, or the cgroup's set of CPUs may have changed: the next look sees it.
    if let Err(error) = sched_setaffinity(Some(thread), cpus) {
        tracing::debug!(%error, "a worker's CPU");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An account so many milliseconds after the start, by milliseconds.
    fn account(at: u64, waited: u64, idle: &[(usize, u64)]) -> Account {
        let ns = |milliseconds: u64| milliseconds * 1_000_000;
        let idle = idle.iter().map(|(cpu, idle)| (*cpu, ns(*idle))).collect();
        Account { at: ns(at), waited: ns(waited), idle }
    }

    #[test]
    fn each_worker_gets_a_cpu_of_its_own() {
        let first = |worker, idle| Seat::first(worker, account(0, 0, idle)).map(|seat| seat.cpu);
        let cpus = [(2, 0), (3, 0), (5, 0)];
        assert_eq!([0, 1, 2, 3].map(|worker| first(worker, &cpus)), [Some(2), Some(3), Some(5), Some(2)]);
        assert_eq!(first(0, &[]), None, "no CPU is known");
    }

    #[test]
    fn who_waits_moves_to_a_cpu_that_idles() {
        let after = |milliseconds: u64, waited: u64, idle: [u64; 3], taken: &[usize]| {
            let mut seat =
                Seat::first(0, account(5000, 70, &[(0, 9), (1, 9), (2, 9)])).expect("there are CPUs");
            let idle = [0, 1, 2].map(|cpu| (cpu, 9 + idle[cpu]));
            seat.moves(account(5000 + milliseconds, 70 + waited, &idle), taken)
        };
        assert_eq!(after(1000, 500, [0, 900, 950], &[0, 2]), Some(1), "2 is another worker's");
        assert_eq!(after(1000, 500, [0, 900, 950], &[0]), Some(2));
        assert_eq!(after(1000, 100, [0, 900, 900], &[0]), None, "it hardly waits");
        assert_eq!(after(1000, 400, [0, 200, 300], &[0]), None, "there it would wait, too");
        assert_eq!(after(900, 500, [0, 900, 900], &[0]), None, "too early to tell");
    }

    #[test]
    fn a_cpu_that_is_no_longer_allowed_is_left_at_once() {
        let mut seat = Seat::first(0, account(0, 0, &[(0, 0), (1, 0)])).expect("there are CPUs");
        assert_eq!(seat.moves(account(250, 0, &[(4, 0), (5, 0)]), &[0]), Some(5));
        assert_eq!(seat.cpu, 5);
    }
}
