//! A worker through which much bulk passes keeps its CPU. Left to the kernel's scheduler, it is pulled to the CPU of
//! whoever sends to it and waits there for the sender, while another CPU idles (decision 0016). Without bulk it goes
//! where it likes: then a wake-up on an idle CPU is worth more.
//!
//! Somebody else may need that CPU. So a worker that has to wait for it, or takes it from others, moves to one that idles.

mod seat;

use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_setaffinity};
use weft_sys::machine::{self, monotonic_ns};
use weft_sys::thread;

use crate::path::dataplane::{Bulk, Dataplane};
use seat::{Account, Seat};

/// The first look, after bulk has begun.
const FIRST: Duration = Duration::from_millis(50);
/// How often it is looked from then on.
const PERIOD: Duration = Duration::from_millis(250);
/// After so long without a look, in nanoseconds, the process was stopped: all get up, for where others are has changed.
const LAPSE_NS: u64 = 1_000_000_000;
/// A worker is seated from so many bulk frames per second.
const MUCH: u64 = 500;
/// Looks with less than that until a worker gets up, and without any until nobody looks any more.
const PATIENCE: u32 = 4;

/// Seats of a dataplane's workers.
pub struct Seats {
    dataplane: Arc<Dataplane>,
    guests: Vec<Guest>,
    looked_at: u64,
    told: bool,
}

/// A worker.
#[derive(Default)]
struct Guest {
    bulk: u64,
    /// Looks since it had much.
    waning: u32,
    /// Looks since it had any.
    quiet: u32,
    seat: Option<Seat>,
    /// Where it sits, as far as the log knows.
    logged: Option<usize>,
}

impl Seats {
    /// Nobody is seated yet.
    pub fn new(dataplane: Arc<Dataplane>) -> Self {
        Seats { dataplane, guests: Vec::new(), looked_at: 0, told: false }
    }

    /// Looks for ever, while bulk passes.
    pub async fn run(mut self) {
        loop {
            self.dataplane.bulk_begins().await;
            self.looked_at = monotonic_ns();
            let mut pause = FIRST;
            loop {
                tokio::time::sleep(pause).await;
                if !self.look() {
                    break;
                }
                pause = PERIOD;
            }
        }
    }

    /// Seats whom much bulk passes through, and lets the others go. False: no bulk passes, nobody is seated.
    fn look(&mut self) -> bool {
        let now = monotonic_ns();
        let past = now.saturating_sub(self.looked_at);
        let enough = past.saturating_mul(MUCH) / 1_000_000_000;
        self.looked_at = now;
        let workers = self.dataplane.bulk();
        self.guests.resize_with(workers.len(), Guest::default);
        // The main thread is never seated: what it may have is what the process may.
        let allowed = match sched_getaffinity(None) {
            Ok(allowed) => allowed,
            Err(error) => {
                self.tell("the process's CPUs", error);
                return false;
            }
        };
        for (worker, Bulk { thread, frames }) in workers.into_iter().enumerate() {
            let guest = &mut self.guests[worker];
            let new = frames.saturating_sub(guest.bulk);
            guest.bulk = frames;
            guest.waning = if new > enough { 0 } else { guest.waning.saturating_add(1) };
            guest.quiet = if new > 0 { 0 } else { guest.quiet.saturating_add(1) };
            let Some(thread) = thread else {
                guest.seat = None;
                continue;
            };
            let cpu = if guest.waning > PATIENCE || past > LAPSE_NS || allowed.count() < 2 {
                None
            } else if guest.waning > 0 && guest.seat.is_none() {
                continue;
            } else {
                self.choose(worker, thread, &allowed)
            };
            self.place(worker, thread, cpu, &allowed);
        }
        self.guests.iter().any(|guest| guest.seat.is_some() || guest.quiet <= PATIENCE)
    }

    /// The CPU for a worker through which bulk passes; `None`: the kernel does not tell what is needed to choose.
    fn choose(&mut self, worker: usize, thread: Pid, allowed: &CpuSet) -> Option<usize> {
        let taken: Vec<usize> =
            self.guests.iter().filter_map(|guest| Some(guest.seat.as_ref()?.cpu)).collect();
        let (ran, waited) = thread::ran_and_waited_ns(thread)?;
        let guest = &mut self.guests[worker];
        let now = Account { at: monotonic_ns(), ran, waited, bulk: guest.bulk, idle: idle(allowed)? };
        let Some(seat) = &mut guest.seat else {
            return Some(guest.seat.insert(Seat::first(worker, now, &taken)?).cpu);
        };
        let look = seat.look(&now);
        self.dataplane.set_may_spin(worker, look.may_spin);
        if !allowed.is_set(seat.cpu) || look.is_due && !look.is_early {
            seat.judge(now, &taken);
        } else if look.is_due {
            seat.judge_early(&now, &taken);
        }
        Some(seat.cpu)
    }

    /// Puts a worker onto this CPU, every time anew: whoever changes the cgroup's CPUs undoes it. `None`: wherever it likes.
    fn place(&mut self, worker: usize, thread: Pid, cpu: Option<usize>, allowed: &CpuSet) {
        let guest = &mut self.guests[worker];
        if cpu.is_none() && guest.seat.is_none() {
            return;
        }
        let mut cpus = CpuSet::new();
        match cpu {
            Some(cpu) => cpus.set(cpu),
            None => cpus = *allowed,
        }
        let placed = sched_setaffinity(Some(thread), &cpus);
        let seated = cpu.filter(|_| placed.is_ok());
        if guest.logged != seated {
            match seated {
                Some(cpu) => tracing::debug!(worker, cpu, "seated while bulk passes"),
                None => tracing::debug!(worker, "no longer seated"),
            }
            guest.logged = seated;
        }
        if seated.is_none() {
            self.dataplane.set_may_spin(worker, false);
        }
        match placed {
            Ok(()) if cpu.is_none() => guest.seat = None,
            Ok(()) => {}
            // The CPU may have gone: the next look chooses anew. Or the worker has ended, as after an upgrade.
            // Whom nobody could let go is let go at the next look.
            Err(error) => {
                if cpu.is_some() || error == Errno::SRCH {
                    guest.seat = None;
                }
                if error != Errno::SRCH {
                    self.tell("a worker's CPU", error);
                }
            }
        }
    }

    /// Once: what does not work now will not work in a quarter of a second.
    fn tell(&mut self, what: &str, error: Errno) {
        if !self.told {
            tracing::warn!(%error, "{what}: workers run wherever the kernel puts them");
        }
        self.told = true;
    }
}

/// How long each of these CPUs has idled. `None`: not known of each, as in containers where `/proc/stat` is another one.
fn idle(allowed: &CpuSet) -> Option<Vec<(usize, u64)>> {
    let idle = machine::idle_ns().ok()?;
    (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).map(|cpu| Some((cpu, *idle.get(&cpu)?))).collect()
}
