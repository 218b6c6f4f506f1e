//! Learned stations: which MAC is behind which port or peer. Shared by all workers.
//!
//! One mutex, which only the miss tier takes. The hit tier touches atomics: [`Fdb::touch`] refreshes a station by the
//! number that [`Fdb::learn`] gave, and [`Fdb::generation`] tells whether any learned target may have moved.
//!
//! The table is bounded twice, by its own size and by each bridge's `fdb_max`. A full bridge evicts the oldest
//! station of the port that holds most, so one port's noise never pushes out another's stations.

mod table;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use weft_encap::{MacAddr, VlanId};

use crate::mem::zeroed;
use crate::table::{BridgeSlot, FdbTarget, PortSlot};
use table::{Node, Table};

/// What a learned station is known by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Station {
    /// Its bridge.
    pub bridge: BridgeSlot,
    /// Its VLAN; `None`: the untagged one.
    pub vlan: Option<VlanId>,
    /// Its address.
    pub mac: MacAddr,
}

/// A learned station, for reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LearnedMac {
    /// Which station.
    pub station: Station,
    /// Where it is.
    pub target: FdbTarget,
    /// Seconds since it was last heard.
    pub age_seconds: u32,
}

/// How a bridge bounds and forgets its stations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Seconds until a station is forgotten.
    pub ageing_seconds: u32,
    /// Most stations.
    pub max: u32,
}

/// The number of a station in the table, for [`Fdb::touch`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StationId(u32);

/// The learned stations of all bridges.
#[derive(Debug)]
pub struct Fdb {
    table: Mutex<Table>,
    /// When each numbered station was last heard, in seconds.
    heard: Box<[AtomicU32]>,
    generation: AtomicU64,
    evictions: AtomicU64,
}

impl Fdb {
    /// An empty table with room for `capacity` stations.
    pub fn new(capacity: usize) -> Self {
        let capacity = capacity.clamp(1, 1 << 24);
        Fdb {
            table: Mutex::new(Table::default()),
            heard: zeroed(capacity),
            generation: AtomicU64::new(1),
            evictions: AtomicU64::new(0),
        }
    }

    /// Grows whenever a station moved or went: a decision made from a learned station under another generation must
    /// be looked up again.
    #[inline]
    pub fn generation(&self) -> u64 {
        // Acquire: pairs with the release in `changed`; whoever sees the number sees the table it stands for.
        self.generation.load(Ordering::Acquire)
    }

    /// Notes that the station was heard at `now` (seconds). No lock; a write only when the second changed.
    ///
    /// A stale number refreshes another station by at most one ageing period; a changed generation prevents it.
    #[inline]
    pub fn touch(&self, id: StationId, now: u32) {
        if let Some(heard) = self.heard.get(id.0 as usize) {
            // Relaxed: a time stamp alone, ordered with nothing.
            if heard.load(Ordering::Relaxed) != now {
                heard.store(now, Ordering::Relaxed);
            }
        }
    }

    /// Notes that `station` was heard at `target`. `None` when there is no room: its bridge may hold none.
    pub fn learn(&self, station: Station, target: FdbTarget, bounds: Bounds, now: u32) -> Option<StationId> {
        let mut table = self.lock();
        if let Some(id) = table.find(&station) {
            if table.target(id) != target {
                table.relocate(id, target);
                self.changed();
            }
            table.make_newest(id);
            self.stamp(id, now);
            return Some(StationId(id));
        }
        if bounds.max == 0 {
            return None;
        }
        if table.stations_of(station.bridge) >= bounds.max as usize {
            self.evict(&mut table, Some(station.bridge), now);
        }
        let id = match table.free_id(self.heard.len()) {
            Some(id) => id,
            None => {
                self.evict(&mut table, None, now);
                table.free_id(self.heard.len())?
            }
        };
        table.insert(id, station, target, now);
        self.stamp(id, now);
        Some(StationId(id))
    }

    /// Where `station` is, unless it was last heard longer ago than `ageing_seconds`.
    pub fn find(&self, station: Station, ageing_seconds: u32, now: u32) -> Option<FdbTarget> {
        let table = self.lock();
        let id = table.find(&station)?;
        (now.saturating_sub(self.heard_at(id)) < ageing_seconds).then(|| table.target(id))
    }

    /// Forgets expired stations among the next `steps` numbers; a caller that comes every second goes round.
    /// `ageing` gives a bridge's period in seconds, 0 for a bridge that is no more.
    pub fn age(&self, now: u32, steps: usize, ageing: impl Fn(BridgeSlot) -> u32) {
        // Another worker holding the lock is no reason to wait: the next second will do.
        let Ok(mut table) = self.table.try_lock() else { return };
        let mut changed = false;
        for id in table.next_ids(steps) {
            let Some(node) = table.node(id) else { continue };
            if now.saturating_sub(self.heard_at(id)) >= ageing(node.station.bridge) {
                table.remove(id);
                changed = true;
            }
        }
        if changed {
            self.changed();
        }
    }

    /// Forgets the stations of `bridge` (those behind `port`, if given; that one station, if given). Says how many.
    pub fn flush(
        &self,
        bridge: BridgeSlot,
        port: Option<PortSlot>,
        station: Option<(Option<VlanId>, MacAddr)>,
    ) -> usize {
        let mut table = self.lock();
        let matches = |node: &Node| {
            node.station.bridge == bridge
                && port.is_none_or(|port| port_of(node.target) == port)
                && station.is_none_or(|station| (node.station.vlan, node.station.mac) == station)
        };
        let ids: Vec<u32> = table.nodes().filter(|(_, node)| matches(node)).map(|(id, _)| id).collect();
        for id in &ids {
            table.remove(*id);
        }
        if !ids.is_empty() {
            self.changed();
        }
        ids.len()
    }

    /// All stations at `now` (seconds), in the order of bridge, VLAN, MAC.
    pub fn dump(&self, now: u32) -> Vec<LearnedMac> {
        let table = self.lock();
        let mut all: Vec<LearnedMac> = table
            .nodes()
            .map(|(id, node)| LearnedMac {
                station: node.station,
                target: node.target,
                age_seconds: now.saturating_sub(self.heard_at(id)),
            })
            .collect();
        drop(table);
        all.sort_by_key(|learned| learned.station);
        all
    }

    /// Stations known.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Stations that had to make room for others, since the start.
    pub fn evictions(&self) -> u64 {
        // Relaxed: a count for reports.
        self.evictions.load(Ordering::Relaxed)
    }

    /// True when no station is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes room for one: in `bridge`, or anywhere.
    fn evict(&self, table: &mut Table, bridge: Option<BridgeSlot>, now: u32) {
        // Stations that hits refreshed since they were listed go to the back of their port's list, so that the one at
        // the front is the oldest, or nearly: the search is bounded because it runs under the lock.
        for _ in 0..SECOND_CHANCES {
            let Some(id) = table.candidate(bridge) else { return };
            let heard = self.heard_at(id);
            let refreshed = table.node(id).is_some_and(|node| heard > node.listed && heard <= now);
            if !refreshed {
                break;
            }
            table.list_again(id, heard);
        }
        if let Some(id) = table.candidate(bridge) {
            table.remove(id);
            // Relaxed: a count for reports.
            self.evictions.fetch_add(1, Ordering::Relaxed);
            self.changed();
        }
    }

    fn changed(&self) {
        // Release: see `generation`.
        self.generation.fetch_add(1, Ordering::Release);
    }

    fn heard_at(&self, id: u32) -> u32 {
        // Relaxed: a time stamp alone.
        self.heard[id as usize].load(Ordering::Relaxed)
    }

    fn stamp(&self, id: u32, now: u32) {
        // Relaxed: a time stamp alone.
        self.heard[id as usize].store(now, Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // A worker that panicked inside left a table that is bounded and, at worst, incomplete.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refreshed stations that one eviction passes over at most.
const SECOND_CHANCES: usize = 16;

/// The port of the bridge behind which a target is.
fn port_of(target: FdbTarget) -> PortSlot {
    match target {
        FdbTarget::Port(port) | FdbTarget::Peer(port, _) => port,
    }
}

#[cfg(test)]
mod tests;
