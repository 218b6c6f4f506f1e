//! The flow cache: what was decided for a flow, kept by one worker.
//!
//! Set-associative and of fixed size. An entry names everything its decision rests on, by generation, so it is valid
//! exactly as long as the decision is: while the snapshot is the one it was last checked against, one comparison
//! says so; after a publication each entry is checked once, when it is next met. A port that is added or removed
//! invalidates nobody else's entries.
//!
//! Entries lie in a table that grows as flows come, up to its size: an idle cache costs address space only.

use std::cmp::Reverse;
use std::hash::{BuildHasher, RandomState};

use weft_encap::FlowKey;
use weft_encap::flow::HashSecret;

use super::action::{Action, Basis};
use super::fdb::StationId;
use super::origin::Origin;
use super::process::ingress;
use super::shared::{FlowDump, Generations, Shared};
use crate::table::{BridgeSlot, Epoch, Generation, PeerSlot, PortSlot, Snapshot};

/// Entries of a set.
const WAYS: usize = 4;
/// Bits of an index word that hold the entry's number plus one; the rest hold part of its hash.
const NUMBER_BITS: u32 = 20;
const NUMBER_MASK: u32 = (1 << NUMBER_BITS) - 1;

/// A flow that was idle for so long has no claim to its place.
const OUT_OF_USE_SECONDS: u32 = 30;

/// What became of a decision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kept {
    /// It is not kept.
    Not,
    /// In its flow's own place.
    Again,
    /// In a place that was free.
    New,
    /// In the place of another flow, which is forgotten.
    InsteadOfAnother,
}

/// A key and its hash.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lookup {
    key: FlowKey,
    hash: u64,
}

impl Lookup {
    #[inline]
    fn new(key: FlowKey, secret: &HashSecret) -> Self {
        Lookup { key, hash: key.hash(secret) }
    }

    /// The key's hash, by a secret of the cache.
    #[inline]
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }
}

/// One worker's flows.
#[derive(Debug)]
pub(super) struct FlowCache {
    /// Per set, words of part of a hash and an entry's number plus one; 0: free.
    sets: Vec<[u32; WAYS]>,
    entries: Vec<Entry>,
    /// Random: no pod can choose flows that push another's out of its set.
    secret: HashSecret,
}

/// What every hit reads comes first, in two lines of the processor's cache; of what was learned, the proof, too.
#[derive(Debug)]
#[repr(C, align(64))]
struct Entry {
    key: FlowKey,
    /// The snapshot that the proof was last checked against.
    epoch: Epoch,
    hits: u64,
    action: Action,
    /// Seconds.
    last_used: u32,
    /// The proof rests on something learned.
    is_learned: bool,
    /// The source, where it was learned.
    source: Option<StationId>,
    proof: Proof,
}

impl FlowCache {
    /// A cache of `entries`, rounded up to a power of two; 0: nothing is ever cached.
    pub(super) fn new(entries: usize) -> Self {
        let entries = entries.min(NUMBER_MASK as usize / 2 + 1);
        let sets = if entries == 0 { 0 } else { entries.div_ceil(WAYS).next_power_of_two() };
        // The standard library's hasher is keyed by the system's random numbers.
        let random = RandomState::new();
        let secret = HashSecret::new([0u8, 1, 2, 3].map(|n| random.hash_one(n)));
        FlowCache { sets: vec![[0; WAYS]; sets], entries: Vec::with_capacity(sets * WAYS), secret }
    }

    /// What to look a flow up by.
    #[inline]
    pub(super) fn lookup(&self, key: FlowKey) -> Lookup {
        Lookup::new(key, &self.secret)
    }

    /// The action for a flow, if it was decided and the decision still holds. Counts the hit.
    #[inline(always)]
    pub(super) fn find(
        &mut self,
        lookup: &Lookup,
        snapshot: &Snapshot,
        shared: &Shared,
        now: u32,
    ) -> Option<&Action> {
        let set = self.sets.get(set_of(lookup.hash, self.sets.len())?)?;
        let tag = tag_of(lookup.hash);
        let entries = &self.entries;
        let is_it = |word: &&u32| {
            **word & !NUMBER_MASK == tag
                && entries.get(index_of(**word)).is_some_and(|entry| entry.key == lookup.key)
        };
        let index = index_of(*set.iter().find(is_it)?);
        let entry = self.entries.get_mut(index)?;
        if entry.is_learned && !entry.proof.is_still_learned(shared)
            || entry.epoch != snapshot.epoch && !entry.renew(snapshot)
        {
            return None;
        }
        entry.hits += 1;
        entry.last_used = now;
        if let Some(source) = entry.source {
            shared.fdb.touch(source, now);
        }
        Some(&entry.action)
    }

    /// Keeps a decision. It replaces the flow's own entry, else takes a free place, else that of another flow of its
    /// set ([`Self::least_worthy`]).
    pub(super) fn insert(
        &mut self,
        lookup: Lookup,
        snapshot: &Snapshot,
        origin: &Origin<'_>,
        (action, basis): (Action, Basis),
        (source, learned): (Option<StationId>, Generations),
        now: u32,
    ) -> Kept {
        let Some(set) = set_of(lookup.hash, self.sets.len()) else { return Kept::Not };
        let Some(proof) = Proof::new(snapshot, origin, &action, basis, source.is_some(), learned) else {
            return Kept::Not;
        };
        let entry = Entry {
            key: lookup.key,
            epoch: snapshot.epoch,
            hits: 0,
            action,
            last_used: now,
            is_learned: proof.is_learned(),
            source,
            proof,
        };
        let words = self.sets[set];
        let own = |word: &u32| self.entry(*word).is_some_and(|old| old.key == lookup.key);
        let free = || words.iter().position(|word| *word == 0).map(|way| (way, Kept::New));
        let (way, kept) =
            words.iter().position(own).map(|way| (way, Kept::Again)).or_else(free).unwrap_or_else(|| {
                (self.least_worthy(words, lookup.key.ingress(), now), Kept::InsteadOfAnother)
            });
        let word = &mut self.sets[set][way];
        if *word == 0 {
            // At most one entry per word exists, so the number fits.
            self.entries.push(entry);
            *word = tag_of(lookup.hash) | self.entries.len() as u32;
        } else {
            self.entries[index_of(*word)] = entry;
            *word = tag_of(lookup.hash) | (*word & NUMBER_MASK);
        }
        kept
    }

    /// Which flow of a full set makes room for one of `ingress`: one that is out of use, else the longest idle one of
    /// the ingress that would have most in the set. So a flood of new flows pushes out its own port's flows, not those
    /// that others are using.
    fn least_worthy(&self, set: [u32; WAYS], ingress: u32, now: u32) -> usize {
        const HITS_BITS: u32 = 28;
        let owner = |flow: Option<&Entry>| flow.map_or(0, |flow| flow.key.ingress());
        let flows = set.map(|word| self.entry(word));
        let owners = flows.map(owner);
        // In use or not, how little its owner has, when it was used last, how often: compared in this order.
        let claim = |flow: Option<&Entry>| {
            let Some(flow) = flow else { return 0 };
            let hits = flow.hits.min((1 << HITS_BITS) - 1);
            let last = (u64::from(flow.last_used) << HITS_BITS) | hits;
            if now.saturating_sub(flow.last_used) >= OUT_OF_USE_SECONDS {
                return last;
            }
            let owner = flow.key.ingress();
            let held =
                owners.into_iter().filter(|other| *other == owner).count() + usize::from(owner == ingress);
            ((2 * WAYS - held) as u64) << (HITS_BITS + u32::BITS) | last
        };
        let claims = flows.map(claim);
        (0..WAYS).min_by_key(|way| claims[*way]).unwrap_or(0)
    }

    #[inline]
    fn entry(&self, word: u32) -> Option<&Entry> {
        self.entries.get(index_of(word))
    }

    /// Up to `limit` flows, the latest used first.
    pub(super) fn dump(&self, worker: usize, limit: usize, now: u32) -> Vec<FlowDump> {
        let mut entries: Vec<&Entry> = self.entries.iter().collect();
        let latest = |entry: &&Entry| Reverse(entry.last_used);
        // The worker does this between two batches: no more is sorted than shown.
        if limit < entries.len() {
            entries.select_nth_unstable_by_key(limit, latest);
            entries.truncate(limit);
        }
        entries.sort_by_key(latest);
        entries.into_iter().map(|entry| entry.dump(worker, now)).collect()
    }
}

const _: () = assert!(std::mem::offset_of!(Entry, proof) <= 128);

impl Entry {
    /// The full check, once per publication.
    #[cold]
    fn renew(&mut self, snapshot: &Snapshot) -> bool {
        let holds = self.proof.holds_in(snapshot);
        if holds {
            self.epoch = snapshot.epoch;
        }
        holds
    }

    fn dump(&self, worker: usize, now: u32) -> FlowDump {
        let fields = self.key.fields();
        FlowDump {
            worker,
            ingress: ingress(fields.ingress),
            tci: fields.tci,
            src_mac: fields.src,
            dst_mac: fields.dst,
            ethertype: fields.ethertype,
            ip: fields.ip,
            proto: fields.proto,
            dst_port: (fields.port != 0).then_some(fields.port),
            target: self.action.target,
            routed: self.action.macs.is_some(),
            hits: self.hits,
            idle_seconds: now.saturating_sub(self.last_used),
        }
    }
}

/// Where the entry of an index word is. Number 0 wraps to an index that no entry has.
#[inline]
fn index_of(word: u32) -> usize {
    (word & NUMBER_MASK).wrapping_sub(1) as usize
}

#[inline]
fn set_of(hash: u64, sets: usize) -> Option<usize> {
    // A power of two, or none.
    Some(hash as usize & sets.checked_sub(1)?)
}

#[inline]
fn tag_of(hash: u64) -> u32 {
    (hash >> 32) as u32 & !NUMBER_MASK
}

/// What a decision was made from. It holds while all of it is unchanged.
#[derive(Debug)]
struct Proof {
    bridge: (BridgeSlot, Generation),
    /// Ports on the way in and out; a segment's port stands before its peer.
    ports: [Option<(PortSlot, Generation)>; 2],
    /// Peers on the way in and out.
    peers: [Option<(PeerSlot, Generation)>; 2],
    basis: Basis,
    /// Generation of learned stations, where one is the source or the target.
    stations: Option<u64>,
    /// Generation of learned neighbours, where one is the target.
    neighbours: Option<u64>,
}

impl Proof {
    fn new(
        snapshot: &Snapshot,
        origin: &Origin<'_>,
        action: &Action,
        basis: Basis,
        learned_source: bool,
        learned: Generations,
    ) -> Option<Self> {
        use super::shared::FlowTarget;
        use crate::table::PeerMode;

        let port_out = |slot| snapshot.ports.get(slot).map(|port| (slot, port.generation));
        let (out_port, out_peer) = match action.target {
            FlowTarget::Port(slot) => (Some(port_out(slot)?), None),
            FlowTarget::Peer(slot) => {
                let peer = snapshot.tunnels.get(slot)?;
                let port = match peer.mode {
                    PeerMode::Segment { port } => Some(port_out(port)?),
                    PeerMode::Routed { .. } => None,
                };
                (port, Some((slot, peer.generation)))
            }
        };
        // A routed frame to a station behind a segment rests on where that station was learned, too.
        let learned_target =
            matches!(basis, Basis::Learned(..)) || (out_peer.is_some() && out_port.is_some());
        Some(Proof {
            bridge: (origin.bridge.slot, origin.bridge.generation),
            ports: [origin.port.map(|port| (port.slot, port.generation)), out_port],
            peers: [origin.peer.map(|peer| (peer.slot, peer.generation)), out_peer],
            basis,
            stations: (learned_source || learned_target).then_some(learned.stations),
            neighbours: matches!(basis, Basis::LearnedNeighbour(_)).then_some(learned.neighbours),
        })
    }

    fn is_learned(&self) -> bool {
        self.stations.is_some() || self.neighbours.is_some()
    }

    /// False once a station or neighbour that it rests on may have moved.
    fn is_still_learned(&self, shared: &Shared) -> bool {
        self.stations.is_none_or(|generation| generation == shared.fdb.generation())
            && self.neighbours.is_none_or(|generation| generation == shared.neighbours.generation())
    }

    /// True while all that is not learned is as it was.
    fn holds_in(&self, snapshot: &Snapshot) -> bool {
        let port_holds =
            |(slot, generation)| snapshot.ports.get(slot).is_some_and(|port| port.generation == generation);
        let peer_holds =
            |(slot, generation)| snapshot.tunnels.get(slot).is_some_and(|peer| peer.generation == generation);
        let Some(bridge) = snapshot.bridges.get(self.bridge.0) else { return false };
        let neighbour = |ip| bridge.router.as_ref().and_then(|router| router.neighbours.get(&ip));
        let basis_holds = match self.basis {
            Basis::Bridge => true,
            Basis::Static(vlan, mac, target) => bridge.statics.get(&(vlan, mac)) == Some(&target),
            Basis::Learned(vlan, mac) => !bridge.statics.contains_key(&(vlan, mac)),
            Basis::Neighbour(ip, mac) => {
                // The port is checked as the way out.
                neighbour(ip).is_some_and(|found| found.mac == mac && self.leaves_by(found.port))
            }
            Basis::LearnedNeighbour(ip) => neighbour(ip).is_none(),
        };
        basis_holds
            && bridge.generation == self.bridge.1
            && self.ports.into_iter().flatten().all(port_holds)
            && self.peers.into_iter().flatten().all(peer_holds)
    }

    fn leaves_by(&self, port: PortSlot) -> bool {
        self.ports[1].is_some_and(|(slot, _)| slot == port)
    }
}
