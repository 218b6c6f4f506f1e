//! Latencies in buckets: 32 per power of two, so that a quantile is at most 3.2 % too high.

use std::time::Duration;

use serde::Serialize;

/// Buckets of one power of two.
const SUB_BITS: u32 = 5;
const SUB: u64 = 1 << SUB_BITS;
/// As many as 64-bit nanoseconds need.
const BUCKETS: usize = ((64 - SUB_BITS + 1) as usize) << SUB_BITS;

/// Counts of durations.
#[derive(Clone, Debug)]
pub struct Histogram {
    counts: Box<[u64]>,
    total: u64,
    sum_ns: u128,
    min_ns: u64,
    max_ns: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: vec![0; BUCKETS].into(), total: 0, sum_ns: 0, min_ns: u64::MAX, max_ns: 0 }
    }
}

/// What a histogram says, in microseconds; zeros when it is empty.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize)]
pub struct Latency {
    /// Shortest.
    pub min_us: f64,
    /// Mean.
    pub mean_us: f64,
    /// Half took at most this.
    pub p50_us: f64,
    /// 90 % took at most this.
    pub p90_us: f64,
    /// 99 % took at most this.
    pub p99_us: f64,
    /// 99.9 % took at most this.
    pub p999_us: f64,
    /// Longest.
    pub max_us: f64,
}

impl Histogram {
    /// Counts one.
    pub fn record(&mut self, taken: Duration) {
        let ns = u64::try_from(taken.as_nanos()).unwrap_or(u64::MAX);
        self.counts[bucket(ns)] += 1;
        self.total += 1;
        self.sum_ns += u128::from(ns);
        self.min_ns = self.min_ns.min(ns);
        self.max_ns = self.max_ns.max(ns);
    }

    /// How many were counted.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The upper bound of the bucket below whose end `share` (0 to 1) of all lie, ns; 0 when empty.
    pub fn quantile_ns(&self, share: f64) -> u64 {
        let rank = ((self.total as f64 * share).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return upper_bound(index).min(self.max_ns);
            }
        }
        self.max_ns
    }

    /// The summary.
    pub fn latency(&self) -> Latency {
        if self.total == 0 {
            return Latency::default();
        }
        let us = |ns: u64| ns as f64 / 1000.0;
        Latency {
            min_us: us(self.min_ns),
            mean_us: self.sum_ns as f64 / self.total as f64 / 1000.0,
            p50_us: us(self.quantile_ns(0.5)),
            p90_us: us(self.quantile_ns(0.9)),
            p99_us: us(self.quantile_ns(0.99)),
            p999_us: us(self.quantile_ns(0.999)),
            max_us: us(self.max_ns),
        }
    }
}

/// Values below [`SUB`] have a bucket each; above, the upper bits choose.
fn bucket(ns: u64) -> usize {
    if ns < SUB {
        return ns as usize;
    }
    let shift = 63 - ns.leading_zeros() - SUB_BITS;
    ((u64::from(shift) + 1) * SUB + (ns >> shift) - SUB) as usize
}

/// The largest value of a bucket.
fn upper_bound(index: usize) -> u64 {
    let (row, column) = (index as u64 / SUB, index as u64 % SUB);
    if row == 0 {
        return column;
    }
    let shift = row - 1;
    let start = (SUB + column) << shift;
    start + ((1 << shift) - 1)
}

/// The median of a few values; `None` of none.
pub fn median(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        len if len % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_their_values() {
        let values = (0..64).flat_map(|bit| {
            let power = 1u64 << bit;
            [power - 1, power, power + 1, power + power / 3]
        });
        for ns in values.chain([u64::MAX]) {
            let bound = upper_bound(bucket(ns));
            assert!(bound >= ns && bound - ns <= ns / SUB, "{ns}: {bound}");
            assert!(bucket(ns) < BUCKETS);
        }
    }

    #[test]
    fn quantiles_of_a_ramp() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.latency(), Latency::default());
        (1..=1000).for_each(|us| histogram.record(Duration::from_micros(us)));
        let latency = histogram.latency();
        for (got, want) in [
            (latency.p50_us, 500.0),
            (latency.p90_us, 900.0),
            (latency.p99_us, 990.0),
            (latency.p999_us, 999.0),
        ] {
            assert!(got >= want && got <= want * 1.04, "{got} for {want}");
        }
        assert_eq!((latency.min_us, latency.max_us, histogram.count()), (1.0, 1000.0, 1000));
    }
}
