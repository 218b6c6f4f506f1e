//! The machine below: CPUs, boot, clock, name.
use std::collections::BTreeMap;
use std::io;

/// CPUs that this process may use (affinity and cgroup quota counted), at least 1.
#[must_use]
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// The boot's random id (`/proc/sys/kernel/random/boot_id`): another one means that every pod is gone.
///
/// # Errors
/// Those of reading the file.
pub fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim_end().to_owned())
}

/// Nanoseconds of `CLOCK_MONOTONIC`: since boot, without suspend, the same in every process of the machine.
///
/// By the C library, which reads the clock without a system call wherever the kernel lets it (`vdso(7)`); `rustix` does
/// not find the vDSO of Linux 6.18 and enters the kernel each time.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `now` is a valid place for the answer; every Linux has this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    // Neither is ever negative on this clock.
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// How long each CPU has idled since boot, in nanoseconds (`/proc/stat`, proc_stat(5)), by number. CPUs that are offline are
/// missing.
///
/// # Errors
/// Those of reading the file.
pub fn idle_ns() -> io::Result<BTreeMap<usize, u64>> {
    Ok(parse_idle(&std::fs::read_to_string("/proc/stat")?))
}

/// The fields are user, nice, system, idle and iowait, in hundredths of a second (`USER_HZ`, the same on every machine).
fn parse_idle(stat: &str) -> BTreeMap<usize, u64> {
    const NS_PER_TICK: u64 = 10_000_000;
    let parse = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let cpu = fields.next()?.strip_prefix("cpu")?.parse().ok()?;
        let ticks: u64 = fields.skip(3).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Some((cpu, ticks * NS_PER_TICK))
    };
    stat.lines().filter_map(parse).collect()
}

/// The host name (`uname(2)` `nodename`), of the current UTS namespace.
#[must_use]
pub fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_are_plausible() {
        assert!(cpus() >= 1);
        assert_eq!(boot_id().unwrap().len(), 36);
        assert!(!hostname().is_empty());
        let first = monotonic_ns();
        assert!(first > 0 && monotonic_ns() >= first);
        assert!(!idle_ns().unwrap().is_empty());
    }

    #[test]
    fn idle_time_is_idle_and_iowait_of_each_cpu() {
        let stat = "cpu  9 9 9 99 9 0 0\ncpu0 1 2 3 40 5 6 7\ncpu2 1 2 3 50 0 6 7\nintr 12 3\nctxt 5\n";
        assert_eq!(parse_idle(stat), BTreeMap::from([(0, 450_000_000), (2, 500_000_000)]));
        assert!(parse_idle("").is_empty());
    }
}
