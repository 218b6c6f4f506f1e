//! Neighbours that nobody declared: address → station, learned from ARP and neighbour discovery on ports that no
//! guard binds to addresses. Shared by all workers; only the miss tier comes here.
//!
//! Declared neighbours always win, so this table can only ever name addresses that no pod owns.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::fast::RandomState;
use weft_encap::MacAddr;

use crate::table::{BridgeSlot, PortSlot};

/// Most learned neighbours of one bridge.
pub const MAX_PER_BRIDGE: usize = 1024;
/// Seconds after which a neighbour is asked for again while it is still used.
pub const STALE_SECONDS: u32 = 60;
/// Seconds after which a neighbour that does not answer is forgotten.
pub const EXPIRE_SECONDS: u32 = 180;
/// Seconds between two questions for the same address.
const ASK_INTERVAL_SECONDS: u32 = 1;
/// Most addresses of one bridge that are being asked for.
const MAX_ASKED: usize = 256;

/// A learned neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Learned {
    /// The port it was heard on.
    pub port: PortSlot,
    /// Its station.
    pub mac: MacAddr,
    /// Older than [`STALE_SECONDS`].
    pub stale: bool,
}

/// A learned neighbour, for reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LearnedNeighbour {
    /// Its bridge.
    pub bridge: BridgeSlot,
    /// Its address.
    pub ip: IpAddr,
    /// The port it was heard on.
    pub port: PortSlot,
    /// Its station.
    pub mac: MacAddr,
    /// Seconds since it was last heard, below [`EXPIRE_SECONDS`].
    pub age_seconds: u32,
}

/// Learned neighbours of all bridges.
#[derive(Debug, Default)]
pub struct Neighbours {
    bridges: Mutex<HashMap<BridgeSlot, OfBridge, RandomState>>,
    generation: AtomicU64,
    evictions: AtomicU64,
}

#[derive(Debug, Default)]
struct OfBridge {
    known: HashMap<IpAddr, Entry, RandomState>,
    /// When each unknown address was last asked for, in seconds.
    asked: HashMap<IpAddr, u32, RandomState>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    port: PortSlot,
    mac: MacAddr,
    heard: u32,
}

impl OfBridge {
    /// Forgets the neighbour heard longest ago of the port that has most: one port's answers push out its own.
    fn evict(&mut self) {
        let mut held: HashMap<PortSlot, usize, RandomState> = HashMap::default();
        self.known.values().for_each(|entry| *held.entry(entry.port).or_default() += 1);
        let Some((port, _)) = held.into_iter().max_by_key(|(port, count)| (*count, *port)) else { return };
        let of_port = self.known.iter().filter(|(_, entry)| entry.port == port);
        if let Some(ip) = of_port.min_by_key(|(_, entry)| entry.heard).map(|(ip, _)| *ip) {
            self.known.remove(&ip);
        }
    }
}

impl Neighbours {
    /// Grows whenever a neighbour moved, went or became stale: see [`super::fdb::Fdb::generation`].
    #[inline]
    pub fn generation(&self) -> u64 {
        // Acquire: pairs with the release in `changed`.
        self.generation.load(Ordering::Acquire)
    }

    /// Notes that `ip` was heard from `mac` behind `port` at `now` (seconds).
    ///
    /// Only an address that was asked for, or is known already, is taken: nobody fills the table unasked.
    pub fn learn(&self, bridge: BridgeSlot, ip: IpAddr, port: PortSlot, mac: MacAddr, now: u32) {
        let mut bridges = self.lock();
        let Some(of) = bridges.get_mut(&bridge) else { return };
        let before = of.known.get(&ip).copied();
        if before.is_none() && of.asked.remove(&ip).is_none() {
            return;
        }
        if before.is_none() && of.known.len() >= MAX_PER_BRIDGE {
            of.evict();
            // Relaxed: a count for reports.
            self.evictions.fetch_add(1, Ordering::Relaxed);
        }
        of.known.insert(ip, Entry { port, mac, heard: now });
        let same = before.is_some_and(|entry| (entry.port, entry.mac) == (port, mac));
        if !same {
            self.changed();
        }
    }

    /// Takes over a neighbour that another process had learned and last heard at `heard` (seconds).
    pub fn teach(&self, bridge: BridgeSlot, ip: IpAddr, port: PortSlot, mac: MacAddr, heard: u32) {
        let mut bridges = self.lock();
        let of = bridges.entry(bridge).or_default();
        if of.known.len() < MAX_PER_BRIDGE {
            of.known.insert(ip, Entry { port, mac, heard });
        }
    }

    /// Who has `ip`.
    pub fn find(&self, bridge: BridgeSlot, ip: IpAddr, now: u32) -> Option<Learned> {
        let bridges = self.lock();
        let entry = bridges.get(&bridge)?.known.get(&ip)?;
        let age = now.saturating_sub(entry.heard);
        let stale = age >= STALE_SECONDS;
        (age < EXPIRE_SECONDS).then_some(Learned { port: entry.port, mac: entry.mac, stale })
    }

    /// Neighbours known, over all bridges.
    pub fn len(&self) -> usize {
        self.lock().values().map(|of| of.known.len()).sum()
    }

    /// True when no neighbour is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Neighbours that had to make room for others, since the start.
    pub fn evictions(&self) -> u64 {
        // Relaxed: a count for reports.
        self.evictions.load(Ordering::Relaxed)
    }

    /// All that have not expired at `now` (seconds): at most [`MAX_PER_BRIDGE`] for each bridge, in no order.
    pub fn dump(&self, now: u32) -> Vec<LearnedNeighbour> {
        let bridges = self.lock();
        let all = bridges.iter().flat_map(|(bridge, of)| of.known.iter().map(move |known| (*bridge, known)));
        all.map(|(bridge, (ip, entry))| LearnedNeighbour {
            bridge,
            ip: *ip,
            port: entry.port,
            mac: entry.mac,
            age_seconds: now.saturating_sub(entry.heard),
        })
        .filter(|neighbour| neighbour.age_seconds < EXPIRE_SECONDS)
        .collect()
    }

    /// True when it is time to ask for `ip`; notes that it was asked for.
    pub fn may_ask(&self, bridge: BridgeSlot, ip: IpAddr, now: u32) -> bool {
        let mut bridges = self.lock();
        let of = bridges.entry(bridge).or_default();
        if of.asked.get(&ip).is_some_and(|asked| now.saturating_sub(*asked) < ASK_INTERVAL_SECONDS) {
            return false;
        }
        if of.asked.len() >= MAX_ASKED && !of.asked.contains_key(&ip) {
            of.asked.retain(|_, asked| now.saturating_sub(*asked) < ASK_INTERVAL_SECONDS);
            if of.asked.len() >= MAX_ASKED {
                return false;
            }
        }
        of.asked.insert(ip, now);
        true
    }

    /// Forgets what expired, and all of bridges that are no more; decisions made from stale ones become invalid.
    pub fn age(&self, now: u32, exists: impl Fn(BridgeSlot, PortSlot) -> bool) {
        // Another worker holding the lock is no reason to wait: the next second will do.
        let Ok(mut bridges) = self.bridges.try_lock() else { return };
        let mut changed = false;
        for (bridge, of) in bridges.iter_mut() {
            of.asked.retain(|_, asked| now.saturating_sub(*asked) <= EXPIRE_SECONDS);
            of.known.retain(|_, entry| {
                let age = now.saturating_sub(entry.heard);
                changed |= age >= STALE_SECONDS;
                age < EXPIRE_SECONDS && exists(*bridge, entry.port)
            });
        }
        bridges.retain(|_, of| !of.known.is_empty() || !of.asked.is_empty());
        if changed {
            self.changed();
        }
    }

    /// Forgets what was learned on `port`, or all of the bridge.
    pub fn flush(&self, bridge: BridgeSlot, port: Option<PortSlot>) {
        let mut bridges = self.lock();
        if let Some(of) = bridges.get_mut(&bridge) {
            of.known.retain(|_, entry| port.is_some_and(|port| entry.port != port));
            self.changed();
        }
    }

    fn changed(&self) {
        // Release: see `generation`.
        self.generation.fetch_add(1, Ordering::Release);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<BridgeSlot, OfBridge, RandomState>> {
        self.bridges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BRIDGE: BridgeSlot = BridgeSlot(0);

    #[test]
    fn only_answers_are_learned() {
        let table = Neighbours::default();
        let (ip, mac, port) = ("10.0.0.9".parse().unwrap(), MacAddr([2, 0, 0, 0, 0, 9]), PortSlot(3));
        table.learn(BRIDGE, ip, port, mac, 1);
        assert_eq!(table.find(BRIDGE, ip, 1), None, "nobody asked");
        assert!(table.may_ask(BRIDGE, ip, 2));
        assert!(!table.may_ask(BRIDGE, ip, 2), "once per second");
        table.learn(BRIDGE, ip, port, mac, 2);
        assert_eq!(table.find(BRIDGE, ip, 2), Some(Learned { port, mac, stale: false }));
        assert!(table.find(BRIDGE, ip, 62).unwrap().stale);
        assert_eq!(table.dump(62), [LearnedNeighbour { bridge: BRIDGE, ip, port, mac, age_seconds: 60 }]);
        assert_eq!(table.dump(182), []);
        let before = table.generation();
        table.age(62, |_, _| true);
        assert_ne!(table.generation(), before);
        table.age(182, |_, _| true);
        assert_eq!(table.find(BRIDGE, ip, 182), None);
    }

    #[test]
    fn bounded() {
        let table = Neighbours::default();
        let quiet = "10.9.9.9".parse().unwrap();
        assert!(table.may_ask(BRIDGE, quiet, 0));
        table.learn(BRIDGE, quiet, PortSlot(2), MacAddr([2, 0, 0, 0, 0, 2]), 0);
        for n in 0..5000u32 {
            let ip = IpAddr::from((0x0a00_0000 + n).to_be_bytes());
            if table.may_ask(BRIDGE, ip, n / 100) {
                table.learn(BRIDGE, ip, PortSlot(1), MacAddr([2, 0, 0, 0, 0, 1]), n / 100);
            }
        }
        assert_eq!(table.dump(50).len(), MAX_PER_BRIDGE);
        assert_eq!(table.evictions(), 5001 - MAX_PER_BRIDGE as u64);
        assert!(table.find(BRIDGE, quiet, 50).is_some(), "another port's flood took its place");
        let asked =
            (0..5000u32).filter(|n| table.may_ask(BRIDGE, IpAddr::from((*n).to_be_bytes()), 99)).count();
        assert!(asked <= MAX_ASKED);
    }
}
