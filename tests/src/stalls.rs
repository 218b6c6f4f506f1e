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

/// Looks at every CPU for so many seconds, while packets are counted.
pub struct Stalls(Vec<Background>);

impl Stalls {
    /// Starts looking; `ns` is where the process runs.
    pub fn watch(ns: &Namespace, seconds: u32) -> Result<Self> {
        let (seconds, cpus) = (seconds.to_string(), std::thread::available_parallelism()?.get());
        let on = |cpu: usize| {
            let cpu = cpu.to_string();
            ns.spawn("taskset", &["-c", &cpu, "chrt", "-f", "50", "python3", "-c", WATCH, &seconds])
        };
        Ok(Stalls((0..cpus).map(on).collect::<Result<_>>()?))
    }

    /// What came of the packets: if not all is well, and the machine stood still, the error is [`Stalled`].
    pub fn judge(self, counted: Result<()>) -> Result<()> {
        let mut longest = 0.0f64;
        for watch in self.0 {
            let (out, _, ok) = watch.finish()?;
            // Where nobody may go before others, nothing is excused.
            longest = longest.max(if ok { out.trim().parse().unwrap_or(0.0) } else { 0.0 });
        }
        let Err(error) = counted else { return Ok(()) };
        if longest >= STALL_MS {
            return Err(error.context(Stalled(longest)));
        }
        Err(error.context(format!("longest stall of the machine: {longest:.1} ms")))
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
