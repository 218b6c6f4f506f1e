//! Who stands where: keys to numbers below a bound, the lowest free one first, none given again too early.

use std::collections::{BTreeMap, BTreeSet};

use super::Full;
use crate::table::Epoch;

/// Slots of one kind of object.
#[derive(Debug)]
pub(super) struct Slots<K> {
    what: &'static str,
    most: usize,
    holders: BTreeMap<K, u16>,
    free: BTreeSet<u16>,
    /// Slots whose holder is missing from the epoch's snapshot on.
    leaving: Vec<(u16, Epoch)>,
    next: u16,
}

impl<K: Ord + Clone> Slots<K> {
    pub(super) fn new(what: &'static str, most: usize) -> Self {
        Slots { what, most, holders: BTreeMap::new(), free: BTreeSet::new(), leaving: Vec::new(), next: 0 }
    }

    /// Makes `keys` the holders from `epoch` on. Slots of those that went become free once `acknowledged` has reached
    /// the epoch in which they went.
    pub(super) fn assign(
        &mut self,
        keys: impl IntoIterator<Item = K>,
        epoch: Epoch,
        acknowledged: Epoch,
    ) -> Result<(), Full> {
        let free = &mut self.free;
        self.leaving.retain(|(slot, left)| {
            let waits = acknowledged < *left;
            if !waits {
                free.insert(*slot);
            }
            waits
        });
        let mut keys: Vec<K> = keys.into_iter().collect();
        keys.sort_unstable();
        keys.dedup();
        if self.holders.keys().eq(&keys) {
            return Ok(());
        }
        let added: Vec<&K> = keys.iter().filter(|key| !self.holders.contains_key(*key)).collect();
        if added.len() > self.free.len() + (self.most - usize::from(self.next)) {
            return Err(Full { what: self.what, most: self.most });
        }
        let leaving = &mut self.leaving;
        self.holders.retain(|key, slot| {
            let stays = keys.binary_search(key).is_ok();
            if !stays {
                leaving.push((*slot, epoch));
            }
            stays
        });
        for key in added {
            let slot = self.free.pop_first().unwrap_or_else(|| {
                self.next += 1;
                self.next - 1
            });
            self.holders.insert(key.clone(), slot);
        }
        Ok(())
    }

    pub(super) fn get(&self, key: &K) -> Option<u16> {
        self.holders.get(key).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, u16)> {
        self.holders.iter().map(|(key, slot)| (key, *slot))
    }

    /// One more than the highest slot in use.
    pub(super) fn bound(&self) -> usize {
        self.holders.values().max().map_or(0, |slot| usize::from(*slot) + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_rests_until_its_end_is_acknowledged() {
        let mut slots = Slots::new("things", 3);
        slots.assign(["a", "b"], 1, 0).unwrap();
        assert_eq!((slots.get(&"a"), slots.get(&"b")), (Some(0), Some(1)));
        slots.assign(["b"], 2, 1).unwrap();
        slots.assign(["b", "c"], 3, 1).unwrap();
        assert_eq!(slots.get(&"c"), Some(2), "slot 0 may still be read");
        assert_eq!(slots.assign(["b", "c", "d"], 4, 1), Err(Full { what: "things", most: 3 }));
        slots.assign(["b", "c", "d"], 4, 2).unwrap();
        assert_eq!((slots.get(&"d"), slots.bound()), (Some(0), 3));
    }
}
