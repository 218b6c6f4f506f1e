//! When a run ends.

use std::time::{Duration, Instant};

/// The bounds of a run; whichever comes first ends it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Longest time.
    pub time: Duration,
    /// Most datagrams, requests or responses; 0: as many as the time allows.
    pub count: u64,
}

impl Limits {
    /// True once as many are done as may be.
    pub fn is_done(&self, done: u64) -> bool {
        self.count != 0 && done >= self.count
    }

    /// Starts the clock.
    pub fn start(&self) -> Running {
        let started = Instant::now();
        Running { started, deadline: started + self.time }
    }
}

/// The clock of a run.
#[derive(Clone, Copy, Debug)]
pub struct Running {
    started: Instant,
    deadline: Instant,
}

impl Running {
    /// Since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Until the deadline; `None` once it has passed.
    pub fn left(&self) -> Option<Duration> {
        self.deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }
}
