//! Whether the machine itself stood still: what was lost then says nothing about weft.

use std::fmt;

use anyhow::{Result, bail};

use crate::ns::{Background, Namespace};

/// From here on a pause explains a loss: a TAP's ring holds 100 ms of 10,000 packets a second, and some may wait in it already.
const STALL_MS: f64 = 80.0;
/// How often a body that met stalls is tried in all.
const TRIES: u32 = 3;

/// A process that sleeps a millisecond at a time. Nothing on this machine goes before it (SCHED_FIFO), so what holds it up is
/// the machine.
const WATCH: &str = "
import sys, time
end, longest = time.monotonic() + float(sys.argv[1]), 0
while (begun := time.monotonic()) < end:
    time.sleep(0.001)
    longest = max(longest, time.monotonic() - begun)
print(longest * 1000)
";

/// Looks for so many seconds, while packets are counted.
pub struct Stalls(Background);

impl Stalls {
    /// Starts looking; `ns` is where the process runs.
    pub fn watch(ns: &Namespace, seconds: u32) -> Result<Self> {
        let seconds = seconds.to_string();
        Ok(Stalls(ns.spawn("chrt", &["-f", "50", "python3", "-c", WATCH, &seconds])?))
    }

    /// What came of the packets: if not all is well, and the machine stood still, the error is [`Stalled`].
    pub fn judge(self, counted: Result<()>) -> Result<()> {
        let (out, errors, ok) = self.0.finish()?;
        let Err(error) = counted else { return Ok(()) };
        // Where nobody may go before others, nothing is excused.
        let longest = if ok { out.trim().parse().unwrap_or(0.0) } else { 0.0 };
        if longest >= STALL_MS {
            return Err(error.context(Stalled(longest)));
        }
        Err(error.context(format!("longest stall of the machine: {longest:.1} ms {errors}")))
    }
}

/// The machine stood still for so many milliseconds, and packets were lost.
#[derive(Debug)]
struct Stalled(f64);

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the machine stood still for {:.0} ms", self.0)
    }
}

/// Tries `body` again when it lost packets while the machine stood still.
pub fn unless_stalled(mut body: impl FnMut() -> Result<()>) -> Result<()> {
    for _ in 0..TRIES {
        match body() {
            Err(error) if error.is::<Stalled>() => println!("not counted: {error:#}"),
            result => return result,
        }
    }
    bail!("packets were lost and the machine stood still, {TRIES} times in a row")
}
