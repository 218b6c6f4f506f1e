//! The table behind the lock: stations in a slab, and per port a list of them from the oldest to the newest.

use std::collections::{BTreeSet, HashMap};

use foldhash::fast::RandomState;

use super::{Station, port_of};
use crate::table::{BridgeSlot, FdbTarget, PortSlot};

/// No station: the end of a list.
const NIL: u32 = u32::MAX;

/// One station.
#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) station: Station,
    pub(super) target: FdbTarget,
    /// When it was put at the back of its list, in seconds.
    pub(super) listed: u32,
    older: u32,
    newer: u32,
}

/// The stations of one port, as a list.
#[derive(Clone, Copy, Debug)]
struct Owned {
    count: u32,
    oldest: u32,
    newest: u32,
}

/// Who holds stations. A port's peers count together.
type Owner = (BridgeSlot, PortSlot);

#[derive(Debug, Default)]
pub(super) struct Table {
    by_station: HashMap<Station, u32, RandomState>,
    slab: Vec<Option<Node>>,
    free: Vec<u32>,
    owners: HashMap<Owner, Owned, RandomState>,
    /// Per bridge, and over all: owners by how many stations they hold.
    by_count: BTreeSet<(u32, Owner)>,
    by_bridge: HashMap<BridgeSlot, Holdings, RandomState>,
    cursor: usize,
}

/// What one bridge holds.
#[derive(Debug, Default)]
struct Holdings {
    stations: usize,
    by_count: BTreeSet<(u32, Owner)>,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.by_station.len()
    }

    pub(super) fn find(&self, station: &Station) -> Option<u32> {
        self.by_station.get(station).copied()
    }

    pub(super) fn node(&self, id: u32) -> Option<&Node> {
        self.slab.get(id as usize)?.as_ref()
    }

    /// The target of a station that [`Self::find`] gave.
    pub(super) fn target(&self, id: u32) -> FdbTarget {
        self.expect(id).target
    }

    pub(super) fn nodes(&self) -> impl Iterator<Item = (u32, &Node)> {
        self.slab.iter().enumerate().filter_map(|(id, node)| Some((id as u32, node.as_ref()?)))
    }

    pub(super) fn stations_of(&self, bridge: BridgeSlot) -> usize {
        self.by_bridge.get(&bridge).map_or(0, |holdings| holdings.stations)
    }

    /// A number for a new station; `None` when `capacity` numbers are in use.
    pub(super) fn free_id(&mut self, capacity: usize) -> Option<u32> {
        if let Some(id) = self.free.pop() {
            return Some(id);
        }
        let id = self.slab.len();
        (id < capacity).then(|| {
            self.slab.push(None);
            id as u32
        })
    }

    pub(super) fn insert(&mut self, id: u32, station: Station, target: FdbTarget, now: u32) {
        self.by_station.insert(station, id);
        self.slab[id as usize] = Some(Node { station, target, listed: now, older: NIL, newer: NIL });
        self.by_bridge.entry(station.bridge).or_default().stations += 1;
        self.link(id);
    }

    pub(super) fn remove(&mut self, id: u32) {
        self.unlink(id);
        if let Some(node) = self.slab[id as usize].take() {
            self.by_station.remove(&node.station);
            if let Some(holdings) = self.by_bridge.get_mut(&node.station.bridge) {
                holdings.stations -= 1;
                if holdings.stations == 0 {
                    self.by_bridge.remove(&node.station.bridge);
                }
            }
            self.free.push(id);
        }
    }

    /// The station moved.
    pub(super) fn relocate(&mut self, id: u32, target: FdbTarget) {
        self.unlink(id);
        self.expect_mut(id).target = target;
        self.link(id);
    }

    /// The station is the newest of its port again.
    pub(super) fn make_newest(&mut self, id: u32) {
        let node = self.expect(id);
        if node.newer != NIL {
            self.unlink(id);
            self.link(id);
        }
    }

    /// Like [`Self::make_newest`], noting that it was heard at `heard`.
    pub(super) fn list_again(&mut self, id: u32, heard: u32) {
        self.expect_mut(id).listed = heard;
        self.make_newest(id);
    }

    /// The oldest station of the port that holds most, in `bridge` or over all.
    pub(super) fn candidate(&self, bridge: Option<BridgeSlot>) -> Option<u32> {
        let by_count = match bridge {
            Some(bridge) => &self.by_bridge.get(&bridge)?.by_count,
            None => &self.by_count,
        };
        let (_, owner) = by_count.last()?;
        self.owners.get(owner).map(|owned| owned.oldest)
    }

    /// The next numbers to look at when ageing, each at most once per call.
    pub(super) fn next_ids(&mut self, steps: usize) -> impl Iterator<Item = u32> + use<> {
        let (start, len) = (self.cursor, self.slab.len());
        let steps = steps.min(len);
        self.cursor = if len == 0 { 0 } else { (start + steps) % len };
        (start..start + steps).map(move |at| (at % len) as u32)
    }

    fn link(&mut self, id: u32) {
        let owner = owner(self.expect(id));
        let owned = self.owners.entry(owner).or_insert(Owned { count: 0, oldest: NIL, newest: NIL });
        let (before, newest) = (owned.count, owned.newest);
        owned.count += 1;
        owned.newest = id;
        if newest == NIL {
            owned.oldest = id;
        } else {
            self.expect_mut(newest).newer = id;
        }
        let node = self.expect_mut(id);
        (node.older, node.newer) = (newest, NIL);
        self.recount(owner, before, before + 1);
    }

    fn unlink(&mut self, id: u32) {
        let node = *self.expect(id);
        let owner = owner(&node);
        if node.older != NIL {
            self.expect_mut(node.older).newer = node.newer;
        }
        if node.newer != NIL {
            self.expect_mut(node.newer).older = node.older;
        }
        let Some(owned) = self.owners.get_mut(&owner) else { return };
        if owned.oldest == id {
            owned.oldest = node.newer;
        }
        if owned.newest == id {
            owned.newest = node.older;
        }
        let before = owned.count;
        owned.count -= 1;
        if owned.count == 0 {
            self.owners.remove(&owner);
        }
        self.recount(owner, before, before - 1);
    }

    /// Keeps both orders by count true.
    fn recount(&mut self, owner: Owner, before: u32, after: u32) {
        let holdings = self.by_bridge.entry(owner.0).or_default();
        for order in [&mut holdings.by_count, &mut self.by_count] {
            order.remove(&(before, owner));
            if after > 0 {
                order.insert((after, owner));
            }
        }
    }

    /// A station whose number is in use. Numbers come from this table's own maps and lists only.
    fn expect(&self, id: u32) -> &Node {
        self.slab[id as usize].as_ref().expect("listed station exists")
    }

    fn expect_mut(&mut self, id: u32) -> &mut Node {
        self.slab[id as usize].as_mut().expect("listed station exists")
    }
}

fn owner(node: &Node) -> Owner {
    (node.station.bridge, port_of(node.target))
}
