//! Whether the machine itself stood still: what was lost then says nothing about weft. A TAP's ring holds 100 ms of 10,000
//! packets a second, and a sender that was held up sends the missing ones at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;

/// From here on a pause of everything counts as a stall.
const STALL: Duration = Duration::from_millis(40);
/// How often a body that met stalls is tried in all.
const TRIES: u32 = 4;

/// Tries `body` again when it failed while the machine stood still. What fails every time fails.
pub fn unless_stalled(mut body: impl FnMut() -> Result<()>) -> Result<()> {
    let mut tries = 1;
    loop {
        let watch = Watch::start();
        let result = body();
        let longest = watch.longest();
        match result {
            Err(error) if longest >= STALL && tries < TRIES => {
                println!("tried again, for the machine stood still for {longest:?}: {error:#}");
                tries += 1;
            }
            result => return result.map_err(|error| error.context(format!("longest stall: {longest:?}"))),
        }
    }
}

/// A thread that only sleeps a millisecond at a time.
struct Watch {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Watch {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut longest = Duration::ZERO;
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                std::thread::sleep(Duration::from_millis(1));
                longest = longest.max(begun.elapsed());
            }
            longest
        });
        Watch { stop, thread }
    }

    fn longest(self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}
