//! A worker through which bulk passes keeps its CPU. Left to the kernel's scheduler, it is pulled to the CPU of whoever
//! sends to it and waits there for the sender, while another CPU idles (decision 0016). Without bulk it goes where it
//! likes: then a wake-up on an idle CPU is worth more.
//!
//! Somebody else may need that CPU all the time. So a worker that has to wait for it moves to one that idles more.

use std::sync::Arc;
use std::time::Duration;

use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};
use weft_sys::machine::{self, monotonic_ns};
use weft_sys::thread;

use crate::path::dataplane::Dataplane;

/// How often it is looked while bulk passes.
const PERIOD: Duration = Duration::from_millis(250);
/// Waiting for less than this share of the time, in thousandths, is no reason to move.
const PATIENCE: u64 = 200;
/// Who waits for more than this share of the time, in thousandths, has no CPU for itself.
const CROWDED: u64 = 150;
/// Another CPU must idle by this much more than the worker waits, in thousandths of the time.
const GAIN: u64 = 200;
/// After a move this many looks without another: first it must show.
const SETTLE: u32 = 4;

/// Seats of a dataplane's workers.
pub struct Seats {
    dataplane: Arc<Dataplane>,
    seats: Vec<Seat>,
    idle: Vec<u64>,
    at: u64,
}

#[derive(Clone, Copy, Default)]
struct Seat {
    cpu: Option<usize>,
    waited: u64,
    settling: u32,
}

/// What happened since the last look.
struct Look<'a> {
    /// How long that was, in nanoseconds.
    span: u64,
    /// How long the worker waited for a CPU meanwhile, in nanoseconds.
    waited: u64,
    /// CPUs it may have, and how long each idled, in nanoseconds.
    idle: &'a [(usize, u64)],
}

impl Seats {
    /// Nobody is seated yet.
    pub fn new(dataplane: Arc<Dataplane>) -> Self {
        Seats { dataplane, seats: Vec::new(), idle: Vec::new(), at: monotonic_ns() }
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
        self.seats.resize(workers.len(), Seat::default());
        let now = monotonic_ns();
        // The main thread is never seated: what it may have is what the process may.
        let Ok(allowed) = sched_getaffinity(None) else { return false };
        let idle_now = machine::idle_ns().unwrap_or_default();
        let idle: Vec<(usize, u64)> = (0..CpuSet::MAX_CPU)
            .filter(|cpu| allowed.is_set(*cpu))
            .map(|cpu| {
                let [now, before] = [&idle_now, &self.idle].map(|idle| idle.get(cpu).copied());
                (cpu, now.zip(before).map_or(0, |(now, before)| now.saturating_sub(before)))
            })
            .collect();
        let span = now.saturating_sub(self.at);
        (self.at, self.idle) = (now, idle_now);

        for (index, (pid, passes)) in workers.into_iter().enumerate() {
            let Some(pid) = pid else { continue };
            let mut seat = self.seats[index];
            if !passes {
                if seat.cpu.take().is_some() {
                    self.dataplane.has_cpu(index, false);
                    settle(pid, &allowed);
                }
                self.seats[index] = seat;
                continue;
            }
            let waited = thread::waited_ns(pid).unwrap_or_default();
            let look = Look { span, waited: waited.saturating_sub(seat.waited), idle: &idle };
            seat.waited = waited;
            let is_new = seat.cpu.is_none();
            let taken: Vec<usize> = self.seats.iter().filter_map(|seat| seat.cpu).collect();
            if let Some(cpu) = choose(&mut seat, index, &taken, &look) {
                let mut one = CpuSet::new();
                one.set(cpu);
                settle(pid, &one);
                tracing::debug!(worker = index, cpu, "seated while bulk passes");
            }
            self.dataplane.has_cpu(index, !is_new && share(look.waited, span) < CROWDED);
            self.seats[index] = seat;
        }
        self.seats.iter().any(|seat| seat.cpu.is_some())
    }
}

/// The CPU that the worker is to have from now on, if that is another one than before.
fn choose(seat: &mut Seat, worker: usize, taken: &[usize], look: &Look<'_>) -> Option<usize> {
    let Some(cpu) = seat.cpu.filter(|cpu| look.idle.iter().any(|(allowed, _)| allowed == cpu)) else {
        let (cpu, _) = look.idle.get(worker % look.idle.len().max(1))?;
        (seat.cpu, seat.settling) = (Some(*cpu), SETTLE);
        return seat.cpu;
    };
    if seat.settling > 0 {
        seat.settling -= 1;
        return None;
    }
    let free = look.idle.iter().filter(|(other, _)| *other != cpu && !taken.contains(other));
    let (other, idle) = free.max_by_key(|(_, idle)| *idle)?;
    let [waited, idle] = [look.waited, *idle].map(|time| share(time, look.span));
    if waited < PATIENCE || idle < waited + GAIN {
        return None;
    }
    (seat.cpu, seat.settling) = (Some(*other), SETTLE);
    seat.cpu
}

/// In thousandths.
fn share(time: u64, span: u64) -> u64 {
    time * 1000 / span.max(1)
}

fn settle(worker: Pid, cpus: &CpuSet) {
    // The CPU may have gone, or the cgroup's set of CPUs may have changed: the next look sees it.
    if let Err(error) = sched_setaffinity(Some(worker), cpus) {
        tracing::debug!(%error, "a worker's CPU");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn look(waited: u64, idle: &[(usize, u64)]) -> Look<'_> {
        Look { span: SECOND, waited: waited * 1_000_000, idle }
    }

    fn idle(milliseconds: &[(usize, u64)]) -> Vec<(usize, u64)> {
        milliseconds.iter().map(|(cpu, idle)| (*cpu, idle * 1_000_000)).collect()
    }

    #[test]
    fn each_worker_gets_a_cpu_of_its_own() {
        let idle = idle(&[(2, 0), (3, 0), (5, 0)]);
        let seats = [0, 1, 2, 3].map(|worker| choose(&mut Seat::default(), worker, &[], &look(0, &idle)));
        assert_eq!(seats, [Some(2), Some(3), Some(5), Some(2)]);
        assert_eq!(choose(&mut Seat::default(), 0, &[], &look(0, &[])), None, "no CPU is known");
    }

    #[test]
    fn who_waits_moves_to_a_cpu_that_idles() {
        let mut seat = Seat { cpu: Some(0), ..Seat::default() };
        let mut after = |waited, cpus: &[(usize, u64)], taken: &[usize]| {
            choose(&mut seat, 0, taken, &look(waited, &idle(cpus)))
        };
        assert_eq!(after(100, &[(0, 0), (1, 1000)], &[0]), None, "it hardly waits");
        assert_eq!(after(400, &[(0, 0), (1, 500)], &[0]), None, "there it would wait, too");
        assert_eq!(after(500, &[(0, 0), (1, 900), (2, 950)], &[0, 2]), Some(1), "2 is another worker's");
        for _ in 0..SETTLE {
            assert_eq!(after(900, &[(0, 1000), (1, 0)], &[1]), None, "it has just moved");
        }
        assert_eq!(after(900, &[(0, 1000), (1, 0)], &[1]), Some(0));
    }

    #[test]
    fn a_cpu_that_is_no_longer_allowed_is_left() {
        let mut seat = Seat { cpu: Some(0), ..Seat::default() };
        assert_eq!(choose(&mut seat, 0, &[0], &look(0, &idle(&[(4, 0), (5, 0)]))), Some(4));
    }
}
