//! A worker's half of forwarding that decides: frames in, edited frames out, or counted drops.

use std::sync::Arc;

use weft_encap::{FlowKey, Gso, Headers, Reason, VnetHdr, parse, parse_plain};

use super::cache::FlowCache;
use super::counters::{Counters, Total};
use super::limit::Limits;
use super::out::Out;
use super::recent::Recent;
use super::shared::{FlowDump, Settings, Shared};
use super::{guard, hit, miss};
use crate::mem::{Batch, Frame, Ingress, Pool};
use crate::table::{PeerSlot, PortSlot, Snapshot};

/// Where decided frames go.
pub trait Sink {
    /// Takes `frame`, edited and ready, for a port. `headers` are its current ones.
    fn to_port(&mut self, port: PortSlot, frame: Frame, headers: Option<Headers>);
    /// Takes an inner Ethernet frame for a peer. `headers` are its current ones, `flow_hash` that of
    /// [`weft_encap::flow::flow_hash`].
    fn to_peer(&mut self, peer: PeerSlot, frame: Frame, headers: Headers, flow_hash: u32);
}

impl Sink for Out {
    #[inline]
    fn to_port(&mut self, port: PortSlot, frame: Frame, headers: Option<Headers>) {
        Out::to_port(self, port, frame, headers);
    }

    #[inline]
    fn to_peer(&mut self, peer: PeerSlot, frame: Frame, headers: Headers, flow_hash: u32) {
        Out::to_peer(self, peer, frame, headers, flow_hash);
    }
}

/// Decides for one worker.
#[derive(Debug)]
pub struct Forwarder {
    worker: usize,
    cache: FlowCache,
    recent: Recent,
    limits: Limits,
    shared: Arc<Shared>,
}

impl Forwarder {
    /// A forwarder with an empty cache.
    pub fn new(worker: usize, settings: &Settings, shared: Arc<Shared>) -> Self {
        let cache = FlowCache::new(settings.cache_entries);
        Forwarder { worker, cache, recent: Recent::default(), limits: Limits::new(), shared }
    }

    /// Takes every frame out of `batch`; each goes to `out`, or back to `pool`: consumed by the switch, or dropped and
    /// counted. `now_ns` is the monotonic clock, read once for the batch. Says how many frames no cached flow
    /// knew, or began a connection.
    pub fn process<S: Sink>(
        &mut self,
        snapshot: &Snapshot,
        now_ns: u64,
        batch: &mut Batch,
        pool: &mut Pool,
        out: &mut S,
        counters: &Counters,
    ) -> usize {
        let limits = &mut self.limits;
        let shared = &*self.shared;
        let mut env = Env { snapshot, now_ns, now: seconds(now_ns), shared, limits, pool, out, counters };
        let (mut hits, mut misses, mut new) = (0, 0u64, 0);
        for frame in batch.drain() {
            match forward(&mut self.cache, &mut self.recent, &mut env, frame) {
                Tier::Hit { is_new } => {
                    hits += 1;
                    new += u64::from(is_new);
                }
                Tier::Miss => misses += 1,
            }
        }
        if hits > 0 {
            counters.add(Total::CacheHits, hits);
        }
        if misses > 0 {
            counters.add(Total::CacheMisses, misses);
        }
        (misses + new) as usize
    }

    /// Housekeeping, about once a second; bounded work.
    pub fn tick(&mut self, snapshot: &Snapshot, now_ns: u64) {
        let now = seconds(now_ns);
        let ageing = |slot| snapshot.bridges.get(slot).map_or(0, |bridge| bridge.ageing_seconds);
        self.shared.fdb.age(now, AGED_PER_TICK, ageing);
        self.shared
            .neighbours
            .age(now, |bridge, port| snapshot.ports.get(port).is_some_and(|port| port.bridge == bridge));
    }

    /// Up to `limit` flows of the cache that are still valid, or were when last used.
    pub fn flows(&self, limit: usize, now_ns: u64) -> Vec<FlowDump> {
        self.cache.dump(self.worker, limit, seconds(now_ns))
    }
}

/// Stations that one tick looks at.
const AGED_PER_TICK: usize = 4096;

/// What a batch is processed with.
pub(super) struct Env<'a, S> {
    pub(super) snapshot: &'a Snapshot,
    pub(super) now_ns: u64,
    /// The same in seconds.
    pub(super) now: u32,
    pub(super) shared: &'a Shared,
    pub(super) limits: &'a mut Limits,
    pub(super) pool: &'a mut Pool,
    pub(super) out: &'a mut S,
    pub(super) counters: &'a Counters,
}

impl<S> Env<'_, S> {
    /// Counts a drop and takes the frame back.
    pub(super) fn drop(&mut self, frame: Frame, reason: Reason) {
        self.counters.drop(frame.ingress, reason);
        self.pool.give(frame);
    }
}

enum Tier {
    /// `is_new`: of a connection not met of late.
    Hit {
        is_new: bool,
    },
    Miss,
}

#[inline]
fn forward<S: Sink>(
    cache: &mut FlowCache,
    recent: &mut Recent,
    env: &mut Env<'_, S>,
    mut frame: Frame,
) -> Tier {
    match admit_plain(&mut frame) {
        // Compiled for such frames alone, of which much is known.
        Some(headers) => decide(cache, recent, env, frame, headers, Gso::None),
        None => forward_any(cache, recent, env, frame),
    }
}

#[inline(never)]
fn forward_any<S: Sink>(
    cache: &mut FlowCache,
    recent: &mut Recent,
    env: &mut Env<'_, S>,
    mut frame: Frame,
) -> Tier {
    match admit(&mut frame) {
        Ok((headers, gso)) => decide(cache, recent, env, frame, headers, gso),
        Err(reason) => {
            env.drop(frame, reason);
            Tier::Miss
        }
    }
}

#[inline(always)]
fn decide<S: Sink>(
    cache: &mut FlowCache,
    recent: &mut Recent,
    env: &mut Env<'_, S>,
    frame: Frame,
    headers: Headers,
    gso: Gso,
) -> Tier {
    let key = guard::port_that_counts(&headers, &env.snapshot.tunnels)
        .and_then(|port| FlowKey::new(number(frame.ingress), port, &headers, frame.bytes()));
    let lookup = key.map(|key| cache.lookup(key));
    if let Some(lookup) = &lookup
        && let Some(action) = cache.find(lookup, env.snapshot, env.shared, env.now)
        && action.suits(&headers, gso)
    {
        let is_new = recent.is_new(frame.ingress, lookup.hash(), &headers);
        hit::run(env, action, frame, headers);
        return Tier::Hit { is_new };
    }
    miss::run(cache, lookup, env, frame, headers, gso);
    Tier::Miss
}

/// [`admit`] for the frames that are most. `None`, and nothing changed: it is none of them.
#[inline(always)]
fn admit_plain(frame: &mut Frame) -> Option<Headers> {
    let headers = parse_plain(frame.bytes())?;
    if !frame.vnet.admit_plain(&headers) {
        return None;
    }
    frame.cut(headers.l3_end as usize);
    Some(headers)
}

/// What every frame must pass: its headers parse, and its vnet header agrees with them.
///
/// Bytes behind the IP packet are cut off: they would count into no MTU, and a kernel would take those of a
/// superframe for payload. What a port claims about checksums is kept only where it was checked; the inner one of a
/// tunnel that runs in a pod is computed here.
#[inline]
fn admit(frame: &mut Frame) -> Result<(Headers, Gso), Reason> {
    let headers = parse(frame.bytes())?;
    frame.cut(headers.l3_end as usize);
    let gso = if matches!(frame.ingress, Ingress::Port(_)) && frame.vnet != VnetHdr::NONE {
        let mut vnet = frame.vnet;
        let gso = vnet.admit(frame.bytes_mut(), &headers)?;
        frame.vnet = vnet;
        gso
    } else {
        frame.vnet.validate(&headers)?
    };
    Ok((headers, gso))
}

/// The number of an ingress in a flow key. Peers stand for their VNI too: a slot is one (peer, VNI) pair.
fn number(ingress: Ingress) -> u32 {
    match ingress {
        Ingress::Port(slot) => u32::from(slot.0),
        Ingress::Peer(slot) => PEER_BIT | u32::from(slot.0),
    }
}

/// The ingress of such a number.
pub(super) fn ingress(number: u32) -> Ingress {
    let slot = number as u16;
    if number & PEER_BIT == 0 { Ingress::Port(PortSlot(slot)) } else { Ingress::Peer(PeerSlot(slot)) }
}

const PEER_BIT: u32 = 1 << 16;

/// The monotonic clock in seconds.
pub(super) fn seconds(now_ns: u64) -> u32 {
    u32::try_from(now_ns / 1_000_000_000).unwrap_or(u32::MAX)
}
