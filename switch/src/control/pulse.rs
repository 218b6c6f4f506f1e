//! The sign of life for the service manager (`WATCHDOG=1`, `sd_watchdog_enabled(3)`): given as long as every worker
//! moves and the engine answers. A manager that misses it kills the process and starts it again, as after a crash.

use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;
use weft_sys::notify::notify;

use super::engine::{Handle, Job};
use crate::path::dataplane::Dataplane;

/// Signs given in the manager's time, so that one that is late kills nobody.
const SIGNS: u32 = 4;
/// How long the engine may be busy with one thing: frames flow meanwhile, so there is no hurry.
const ENGINE: Duration = Duration::from_secs(60);

/// What is looked at.
pub struct Pulse {
    period: Option<Duration>,
    handle: Handle,
    dataplane: Arc<Dataplane>,
}

impl Pulse {
    /// Does nothing unless the manager of this process asked for signs of life.
    pub fn new(handle: Handle, dataplane: Arc<Dataplane>) -> Self {
        let variable = |name| std::env::var(name).ok();
        let period = period(variable("WATCHDOG_USEC"), variable("WATCHDOG_PID"), std::process::id());
        Pulse { period, handle, dataplane }
    }

    /// Gives signs for ever.
    pub async fn run(self) {
        let Some(period) = self.period else { return std::future::pending().await };
        let mut interval = tokio::time::interval(period / SIGNS);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut beats = Vec::new();
        let mut engine = Engine { answer: None, answered: Instant::now() };
        let mut well = true;
        loop {
            interval.tick().await;
            let now = self.dataplane.beats();
            let stuck = now.iter().zip(&beats).position(|(now, before)| now == before);
            beats = now;
            let trouble = match stuck {
                Some(worker) => Some(format!("worker {worker} does not move")),
                None if !engine.lives(&self.handle) => Some("the engine does not answer".to_owned()),
                None => None,
            };
            match &trouble {
                None => drop(notify("WATCHDOG=1")),
                Some(trouble) if well => tracing::error!("{trouble}; no sign of life until it does"),
                Some(_) => {}
            }
            well = trouble.is_none();
        }
    }
}

/// Signs of life while a process that has taken over is not up yet: given by a thread, for a while, until dropped.
pub struct Alive {
    // Hung up by the drop.
    _end: mpsc::Sender<()>,
}

impl Alive {
    /// Gives the first sign at once, the last at the drop or after a minute.
    pub fn start() -> Alive {
        let (end, ended) = mpsc::channel();
        let period = std::env::var("WATCHDOG_USEC").ok();
        if let Some(period) = self::period(period, None, std::process::id()) {
            let _ = notify("WATCHDOG=1");
            let give = move || {
                let begun = std::time::Instant::now();
                while begun.elapsed() < ENGINE
                    && ended.recv_timeout(period / SIGNS) == Err(mpsc::RecvTimeoutError::Timeout)
                {
                    let _ = notify("WATCHDOG=1");
                }
                let _ = notify("WATCHDOG=1");
            };
            if let Err(error) = std::thread::Builder::new().name("weft-alive".to_owned()).spawn(give) {
                tracing::warn!(%error, "no signs of life during the start");
            }
        }
        Alive { _end: end }
    }
}

struct Engine {
    answer: Option<oneshot::Receiver<()>>,
    answered: Instant,
}

impl Engine {
    fn lives(&mut self, handle: &Handle) -> bool {
        let waits = self
            .answer
            .as_mut()
            .is_some_and(|answer| matches!(answer.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        if !waits {
            let (ask, answer) = oneshot::channel();
            self.answered = Instant::now();
            // A full queue is work to do, not death; it is asked again.
            self.answer = handle.send(Job::Ping(ask)).is_ok().then_some(answer);
        }
        self.answered.elapsed() < ENGINE
    }
}

/// The time within which a sign must come, if this process is meant.
fn period(usec: Option<String>, pid: Option<String>, own: u32) -> Option<Duration> {
    let meant = pid.is_none_or(|pid| pid.parse() == Ok(own));
    let usec = usec?.parse().ok().filter(|usec| *usec > 0 && meant)?;
    Some(Duration::from_micros(usec))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_are_given_to_whom_they_are_due() {
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(period(text("5000000"), text("7"), 7), Some(Duration::from_secs(5)));
        assert_eq!(period(text("5000000"), None, 7), Some(Duration::from_secs(5)));
        assert_eq!(period(text("5000000"), text("8"), 7), None);
        assert_eq!(period(text("0"), None, 7), None);
        assert_eq!(period(None, None, 7), None);
    }
}
