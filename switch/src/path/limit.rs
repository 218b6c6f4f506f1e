//! Token buckets: how often a port may cause a flood, or an answer by the switch.
//!
//! A bucket belongs to one worker: no atomics. A port whose queues are served by several workers gets the rate from
//! each of them.

use zerocopy::{FromZeros, KnownLayout};

use crate::mem::{Ingress, zeroed};
use crate::table::{MAX_PEERS, MAX_PORTS, PortSlot};

/// A token bucket, full when all is zero, whose rate is given with every draw, so that a change of configuration takes effect at once.
#[derive(Clone, Copy, Debug, Default, FromZeros, KnownLayout)]
pub(super) struct Bucket {
    /// Instant up to which tokens have been drawn, in ns: each token costs 1 s / rate, and it lags behind the
    /// present by at most the burst.
    spent_until_ns: u64,
}

impl Bucket {
    /// Takes one token at `now_ns` from a bucket of `per_second` tokens (0: unlimited) that holds `burst`.
    /// False when it is empty.
    #[inline]
    pub(super) fn draw(&mut self, now_ns: u64, per_second: u32, burst: u32) -> bool {
        self.draw_many(now_ns, per_second, burst, 1)
    }

    /// Takes `count` tokens if at least one is there, the rest on credit.
    #[inline]
    fn draw_many(&mut self, now_ns: u64, per_second: u32, burst: u32, count: usize) -> bool {
        if per_second == 0 {
            return true;
        }
        let cost = 1_000_000_000 / u64::from(per_second);
        let window = cost.saturating_mul(u64::from(burst.max(1)));
        let from = self.spent_until_ns.max(now_ns.saturating_sub(window));
        if from.saturating_add(cost) > now_ns {
            return false;
        }
        self.spent_until_ns = from.saturating_add(cost.saturating_mul(count as u64));
        true
    }
}

/// The buckets of one worker.
#[derive(Debug)]
pub(super) struct Limits {
    flood: Box<[Bucket]>,
    answers: Buckets,
    errors: Buckets,
    searches: Buckets,
}

/// ARP, neighbour and echo answers per second and ingress; the burst is as large.
const ANSWERS_PER_SECOND: u32 = 1000;
/// ICMP errors per second and ingress; the burst is as large.
const ERRORS_PER_SECOND: u32 = 200;
/// Packets to unknown neighbours per second and ingress that anything is done for; the burst is as large. Small, so
/// that one who scans the segment leaves room for others.
const SEARCHES_PER_SECOND: u32 = 50;

impl Limits {
    pub(super) fn new() -> Self {
        Limits {
            flood: zeroed(MAX_PORTS),
            answers: Buckets::new(),
            errors: Buckets::new(),
            searches: Buckets::new(),
        }
    }

    /// `pieces` flooded frames that `port` caused, of at most `per_second` (0: no limit).
    pub(super) fn flood(&mut self, port: PortSlot, (per_second, pieces): (u32, usize), now_ns: u64) -> bool {
        let Some(bucket) = self.flood.get_mut(port.index()) else { return false };
        bucket.draw_many(now_ns, per_second, per_second, pieces)
    }

    /// One answer to what came in by `ingress`.
    pub(super) fn answer(&mut self, ingress: Ingress, now_ns: u64) -> bool {
        self.answers.draw(ingress, now_ns, ANSWERS_PER_SECOND)
    }

    /// One search for a neighbour that what came in by `ingress` is for.
    pub(super) fn search(&mut self, ingress: Ingress, now_ns: u64) -> bool {
        self.searches.draw(ingress, now_ns, SEARCHES_PER_SECOND)
    }

    /// One ICMP error about what came in by `ingress`.
    pub(super) fn error(&mut self, ingress: Ingress, now_ns: u64) -> bool {
        self.errors.draw(ingress, now_ns, ERRORS_PER_SECOND)
    }
}

/// One bucket per port and peer.
#[derive(Debug)]
struct Buckets {
    ports: Box<[Bucket]>,
    peers: Box<[Bucket]>,
}

impl Buckets {
    fn new() -> Self {
        Buckets { ports: zeroed(MAX_PORTS), peers: zeroed(MAX_PEERS) }
    }

    fn draw(&mut self, ingress: Ingress, now_ns: u64, per_second: u32) -> bool {
        let bucket = match ingress {
            Ingress::Port(slot) => self.ports.get_mut(slot.index()),
            Ingress::Peer(slot) => self.peers.get_mut(slot.index()),
        };
        bucket.is_some_and(|bucket| bucket.draw(now_ns, per_second, per_second))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn burst_then_rate() {
        let mut bucket = Bucket::default();
        let start = 100 * SECOND;
        assert_eq!((0..50).filter(|_| bucket.draw(start, 10, 5)).count(), 5);
        let later = (1..=2000u64).filter(|ms| bucket.draw(start + ms * 1_000_000, 10, 5)).count();
        assert_eq!(later, 20);
    }

    #[test]
    fn credit_is_paid_back() {
        let mut bucket = Bucket::default();
        let start = 100 * SECOND;
        assert!(bucket.draw_many(start, 10, 10, 30), "ten tokens, twenty on credit");
        assert!(!bucket.draw(start + 2 * SECOND, 10, 10));
        assert!(bucket.draw(start + 2 * SECOND + SECOND / 10, 10, 10));
    }

    #[test]
    fn zero_is_no_limit_and_idle_time_fills_only_the_burst() {
        let mut bucket = Bucket::default();
        assert!((0..1000).all(|_| bucket.draw(0, 0, 1)));
        assert_eq!((0..1000).filter(|_| bucket.draw(10_000 * SECOND, 1000, 3)).count(), 3);
    }
}
