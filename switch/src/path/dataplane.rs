//! The handle by which control drives the workers: start, publish, wait, ask, stop.
//!
//! A publication is done when every worker has *acknowledged* it: it then forwards by the new snapshot and has taken
//! the descriptors that are gone out of its poll. Publishing wakes sleepers, so that takes no longer than a batch or a
//! wake-up. Until then this handle holds the old snapshots: no worker ever drops the last reference of a device. They
//! are dropped on a thread of their own, because closing a TAP blocks for 16 to 20 ms.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use rustix::thread::Pid;
use weft_encap::{MacAddr, Reason, VlanId};
use weft_sys::machine::monotonic_ns;

use super::counters::{Counters, Drops, PeerCounters, PortCounters, Totals};
use super::fdb::{Bounds, LearnedMac, Station};
use super::load::Load;
use super::neighbour::LearnedNeighbour;
use super::shared::{FlowDump, Settings, Shared};
use super::worker::Worker;
use super::{process, worker};
use crate::table::{BridgeSlot, Epoch, FdbTarget, Generation, PeerSlot, PortSlot, Snapshot};

/// Called from a worker when there is something for control to look at, see [`Dataplane::lost_ports`]. Must be quick
/// and must not block.
pub type Notify = Arc<dyn Fn() + Send + Sync>;

/// How the data plane is made.
#[derive(Clone)]
pub struct DataplaneConfig {
    /// Worker threads. One is enough for a few cores: ports are spread over workers, each of which spins.
    pub workers: usize,
    /// How long a worker looks for more after its last frame before it sleeps, in microseconds, 0 to [`MAX_SPIN_US`].
    /// Less than 50 but not 0 costs more than it gives. While bulk passes it is 20 at most, and none for workers that
    /// have to wait for their CPU.
    pub spin_us: u32,
    /// Entries of each worker's flow cache.
    pub cache_entries: usize,
    /// Most learned stations over all bridges; 4 bytes of address space each, memory as they come.
    pub stations: usize,
    /// Frames of each worker's pool, about 67 KB of address space each; memory is used only as far as frames fill it.
    pub pool_frames: usize,
    /// Tells control that a port was lost.
    pub notify: Option<Notify>,
}

/// Longest spin, in microseconds.
pub const MAX_SPIN_US: u32 = 200;

/// Fewest frames of a pool: a batch, a tunnel's superframes in the making, and some copies.
const MIN_POOL_FRAMES: usize = 256;

impl Default for DataplaneConfig {
    /// One worker; a spin of 100 microseconds where another CPU can run the pods meanwhile, else none.
    fn default() -> Self {
        let spin_us = if weft_sys::machine::cpus() > 1 { 100 } else { 0 };
        DataplaneConfig {
            workers: 1,
            spin_us,
            cache_entries: 65_536,
            // As many as one bridge may be allowed.
            stations: 1 << 20,
            pool_frames: 2048,
            notify: None,
        }
    }
}

impl fmt::Debug for DataplaneConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataplaneConfig")
            .field("workers", &self.workers)
            .field("spin_us", &self.spin_us)
            .field("cache_entries", &self.cache_entries)
            .field("stations", &self.stations)
            .field("pool_frames", &self.pool_frames)
            .finish_non_exhaustive()
    }
}

/// How full the learned tables are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Occupancy {
    /// Learned stations.
    pub stations: usize,
    /// Those that had to make room for others, since the start.
    pub stations_evicted: u64,
    /// Learned neighbours.
    pub neighbours: usize,
    /// Those that had to make room for others, since the start.
    pub neighbours_evicted: u64,
}

/// What bulk a worker had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bulk {
    /// Its thread; `None`: it does not run (yet).
    pub thread: Option<Pid>,
    /// Bulk frames, superframes for example, since the start.
    pub frames: u64,
}

/// The running workers.
#[derive(Debug)]
pub struct Dataplane {
    plane: Arc<Plane>,
    workers: Vec<Running>,
    /// What those worked with that were stopped.
    stopped: Mutex<Vec<Worker>>,
    tables: Arc<Shared>,
    retired: Mutex<Vec<Arc<Snapshot>>>,
    reaper: Option<(mpsc::Sender<Arc<Snapshot>>, JoinHandle<()>)>,
    base: Mutex<Bases>,
    load: Mutex<Load>,
    unconfined: Option<io::Error>,
}

/// What counters stood at when their slot was given to its present owner, and what that owner had before.
#[derive(Debug, Default)]
struct Bases {
    ports: HashMap<PortSlot, PortCounters>,
    peers: HashMap<PeerSlot, PeerCounters>,
    carried: Carried,
}

/// What another process had counted before this one took over.
#[derive(Clone, Debug, Default)]
pub struct Carried {
    /// For the node as a whole.
    pub totals: Totals,
    /// What died of what came by tunnels.
    pub tunnel_drops: Drops,
    /// By port.
    pub ports: HashMap<PortSlot, PortCounters>,
    /// By peer.
    pub peers: HashMap<PeerSlot, PeerCounters>,
}

#[derive(Debug)]
struct Running {
    post: Arc<Post>,
    thread: Mutex<Option<JoinHandle<Worker>>>,
}

/// What all workers and the handle share.
pub(super) struct Plane {
    /// The newest snapshot.
    pub(super) snapshot: ArcSwap<Snapshot>,
    /// Its epoch, to be compared once per batch.
    pub(super) epoch: AtomicU64,
    pub(super) stop: AtomicBool,
    acknowledged: Mutex<()>,
    progress: Condvar,
    lost: Mutex<Vec<(PortSlot, Generation)>>,
    notify: Option<Notify>,
    /// Bulk begins to pass through a worker.
    pub(super) bulk: tokio::sync::Notify,
}

/// One worker's letter box.
#[derive(Debug)]
pub(super) struct Post {
    pub(super) counters: Counters,
    pub(super) acknowledged: AtomicU64,
    /// Another number after every round of the loop.
    pub(super) beat: AtomicU64,
    /// The thread's id, 0 while it does not run.
    pub(super) thread: AtomicI32,
    /// Others want its CPU little enough for it to look on for more while bulk passes.
    pub(super) may_spin: AtomicBool,
    /// Bulk frames so far.
    pub(super) bulk: AtomicU64,
    pub(super) waker: mio::Waker,
    pub(super) questions: Mutex<Vec<Question>>,
}

/// What is asked of a worker.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) limit: usize,
    pub(super) answer: mpsc::Sender<Vec<FlowDump>>,
}

impl Dataplane {
    /// Starts the workers, with an empty snapshot of epoch 0.
    ///
    /// # Errors
    /// When threads or descriptors cannot be made.
    pub fn start(config: &DataplaneConfig) -> io::Result<Self> {
        super::accelerate();
        let plane = Arc::new(Plane {
            snapshot: ArcSwap::from_pointee(Snapshot::default()),
            epoch: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            acknowledged: Mutex::new(()),
            progress: Condvar::new(),
            lost: Mutex::default(),
            notify: config.notify.clone(),
            bulk: tokio::sync::Notify::new(),
        });
        let tables = Arc::new(Shared::new(config.stations));
        let (sender, retired) = mpsc::channel();
        let reaper = std::thread::Builder::new().name("weft-reaper".to_owned()).spawn(move || {
            retired.into_iter().for_each(drop);
        })?;
        let mut dataplane = Dataplane {
            plane,
            workers: Vec::new(),
            stopped: Mutex::default(),
            tables,
            retired: Mutex::default(),
            reaper: Some((sender, reaper)),
            base: Mutex::default(),
            load: Mutex::default(),
            unconfined: None,
        };
        let (confined, outcomes) = mpsc::channel();
        for id in 0..config.workers.max(1) {
            // On an error the handle's drop stops those that run.
            let running = dataplane.start_worker(id, config, confined.clone())?;
            dataplane.workers.push(running);
        }
        drop(confined);
        dataplane.unconfined = outcomes.into_iter().find_map(Result::err);
        Ok(dataplane)
    }

    /// Why a worker could not give up its capabilities and the system calls that it does not need; `None`: all did.
    pub fn unconfined(&self) -> Option<&io::Error> {
        self.unconfined.as_ref()
    }

    fn start_worker(
        &self,
        id: usize,
        config: &DataplaneConfig,
        confined: mpsc::Sender<io::Result<()>>,
    ) -> io::Result<Running> {
        let start = worker::Start {
            id,
            workers: config.workers.max(1),
            spin_ns: u64::from(config.spin_us.min(MAX_SPIN_US)) * 1000,
            pool_frames: config.pool_frames.max(MIN_POOL_FRAMES),
            settings: Settings { cache_entries: config.cache_entries },
        };
        let poll = mio::Poll::new()?;
        let post = Arc::new(Post {
            counters: Counters::new(),
            acknowledged: AtomicU64::new(0),
            beat: AtomicU64::new(0),
            thread: AtomicI32::new(0),
            may_spin: AtomicBool::new(false),
            bulk: AtomicU64::new(0),
            waker: mio::Waker::new(poll.registry(), worker::WAKER)?,
            questions: Mutex::default(),
        });
        let (plane, letters, tables) = (Arc::clone(&self.plane), Arc::clone(&post), Arc::clone(&self.tables));
        let thread = std::thread::Builder::new()
            .name(format!("weft-w{id}"))
            .spawn(move || worker::run(&start, poll, plane, letters, tables, confined))?;
        Ok(Running { post, thread: Mutex::new(Some(thread)) })
    }

    /// Makes `snapshot` what workers forward by. Its epoch must be higher than the last one's.
    pub fn publish(&self, snapshot: Arc<Snapshot>) {
        let epoch = snapshot.epoch;
        let old = self.plane.snapshot.swap(snapshot);
        lock(&self.retired).push(old);
        // Release: a worker that sees the number finds at least this snapshot behind the pointer.
        self.plane.epoch.store(epoch, Ordering::Release);
        self.wake_all();
        self.reap();
    }

    /// The lowest epoch that a worker may still forward by.
    pub fn acknowledged(&self) -> Epoch {
        // Acquire: what the worker did before it acknowledged has happened for whoever acts on the number.
        let lowest = self.workers.iter().map(|w| w.post.acknowledged.load(Ordering::Acquire)).min();
        lowest.unwrap_or_else(|| self.plane.epoch.load(Ordering::Acquire))
    }

    /// Blocks until every worker has acknowledged `epoch`; false when that takes longer than `timeout`.
    pub fn wait(&self, epoch: Epoch, timeout: Duration) -> bool {
        let deadline = Instant::now() + timeout;
        let mut guard = lock(&self.plane.acknowledged);
        while self.acknowledged() < epoch {
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            guard = self.plane.progress.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        drop(guard);
        self.reap();
        true
    }

    /// Counts for the node as a whole.
    pub fn totals(&self) -> Totals {
        let mut sum = Totals::sum(self.counters());
        sum.merge(&lock(&self.base).carried.totals);
        sum
    }

    /// A port's counts since its slot was last [reset](Self::reset_port).
    pub fn port_counters(&self, slot: PortSlot) -> PortCounters {
        let base = lock(&self.base);
        let mut counters = self.raw_port(slot).since(&base.ports.get(&slot).copied().unwrap_or_default());
        counters.merge(&base.carried.ports.get(&slot).copied().unwrap_or_default());
        counters
    }

    /// A peer's counts since its slot was last [reset](Self::reset_peer).
    pub fn peer_counters(&self, slot: PeerSlot) -> PeerCounters {
        let base = lock(&self.base);
        let mut counters = self.raw_peer(slot).since(&base.peers.get(&slot).copied().unwrap_or_default());
        counters.merge(&base.carried.peers.get(&slot).copied().unwrap_or_default());
        counters
    }

    /// What died of what came by tunnels, strangers' packets included.
    pub fn tunnel_drops(&self) -> Drops {
        let mut sum = Drops::default();
        self.counters().for_each(|counters| sum.merge(&counters.tunnel_drops()));
        sum.merge(&lock(&self.base).carried.tunnel_drops);
        sum
    }

    /// Lets a port's counters start from zero and forgets what was learned behind it: its slot gets a new owner.
    pub fn reset_port(&self, bridge: BridgeSlot, slot: PortSlot) {
        self.tables.forget_port(bridge, slot);
        let base = self.raw_port(slot);
        let mut bases = lock(&self.base);
        bases.ports.insert(slot, base);
        bases.carried.ports.remove(&slot);
    }

    /// Lets a peer's counters start from zero: its slot gets a new owner.
    pub fn reset_peer(&self, slot: PeerSlot) {
        let base = self.raw_peer(slot);
        let mut bases = lock(&self.base);
        bases.peers.insert(slot, base);
        bases.carried.peers.remove(&slot);
    }

    /// The learned stations.
    pub fn learned(&self) -> Vec<LearnedMac> {
        self.tables.fdb.dump(process::seconds(monotonic_ns()))
    }

    /// How full the learned tables are, and what had to make room in them since the start.
    pub fn occupancy(&self) -> Occupancy {
        let Shared { fdb, neighbours } = &*self.tables;
        Occupancy {
            stations: fdb.len(),
            stations_evicted: fdb.evictions(),
            neighbours: neighbours.len(),
            neighbours_evicted: neighbours.evictions(),
        }
    }

    /// The learned neighbours.
    pub fn learned_neighbours(&self) -> Vec<LearnedNeighbour> {
        self.tables.neighbours.dump(process::seconds(monotonic_ns()))
    }

    /// Looks how much CPU time the workers have used since the last call; to be called every second.
    pub fn look_at_load(&self) {
        let cpu = self
            .workers
            .iter()
            .map(|worker| lock(&worker.thread).as_ref().and_then(weft_sys::thread::cpu_ns))
            .collect();
        lock(&self.load).look(monotonic_ns(), cpu);
    }

    /// Each worker's share of a CPU between the last two calls of [`Self::look_at_load`], its spin included, in
    /// thousandths; empty: not known (yet).
    pub fn load_permille(&self) -> Vec<u64> {
        lock(&self.load).permille()
    }

    /// Waits until bulk begins to pass through one of the workers.
    pub async fn bulk_begins(&self) {
        self.plane.bulk.notified().await;
    }

    /// Each worker's thread, and what bulk it had.
    pub fn bulk(&self) -> Vec<Bulk> {
        // Relaxed: whoever asks guesses from the past what comes next.
        let look = |Running { post, .. }: &Running| Bulk {
            thread: Pid::from_raw(post.thread.load(Ordering::Relaxed)),
            frames: post.bulk.load(Ordering::Relaxed),
        };
        self.workers.iter().map(look).collect()
    }

    /// Tells a worker whether it may look on for more while bulk passes, because it hardly waits for its CPU.
    pub fn set_may_spin(&self, worker: usize, may: bool) {
        if let Some(worker) = self.workers.get(worker) {
            // Relaxed: it may see it a while later.
            worker.post.may_spin.store(may, Ordering::Relaxed);
        }
    }

    /// Goes on from what another process had counted.
    pub fn carry_on(&self, carried: Carried) {
        lock(&self.base).carried = carried;
    }

    /// Counts what died behind the workers' backs.
    pub fn add_tunnel_drops(&self, reason: Reason, count: u64) {
        lock(&self.base).carried.tunnel_drops.add(reason, count);
    }

    /// Takes over a station that another process had learned and last heard `age_seconds` ago.
    pub fn teach_station(&self, station: Station, target: FdbTarget, bounds: Bounds, age_seconds: u32) {
        let heard = process::seconds(monotonic_ns()).saturating_sub(age_seconds);
        self.tables.fdb.learn(station, target, bounds, heard);
    }

    /// Takes over a neighbour that another process had learned and last heard `age_seconds` ago.
    pub fn teach_neighbour(
        &self,
        bridge: BridgeSlot,
        ip: IpAddr,
        port: PortSlot,
        mac: MacAddr,
        age_seconds: u32,
    ) {
        let heard = process::seconds(monotonic_ns()).saturating_sub(age_seconds);
        self.tables.neighbours.teach(bridge, ip, port, mac, heard);
    }

    /// Stops the workers for good, each after what it had read has left: what is in devices and sockets stays there. Their
    /// memory is kept until the drop: giving it back takes milliseconds, and another process may wait to forward.
    pub fn stop(&self) {
        // Release pairs with the worker's acquire.
        self.plane.stop.store(true, Ordering::Release);
        self.wake_all();
        for worker in &self.workers {
            if let Some(thread) = lock(&worker.thread).take() {
                // A worker that panicked has aborted the process.
                lock(&self.stopped).extend(thread.join());
            }
        }
    }

    /// Forgets learned stations of a bridge: all, those behind a port, or one. Says how many.
    pub fn flush_learned(
        &self,
        bridge: BridgeSlot,
        port: Option<PortSlot>,
        station: Option<(Option<VlanId>, MacAddr)>,
    ) -> usize {
        self.tables.fdb.flush(bridge, port, station)
    }

    /// Up to `limit` cached flows of each worker. Blocks until the workers have answered, a second at most.
    pub fn flows(&self, limit: usize) -> Vec<FlowDump> {
        let (answer, answers) = mpsc::channel();
        for worker in &self.workers {
            lock(&worker.post.questions).push(Question { limit, answer: answer.clone() });
        }
        drop(answer);
        self.wake_all();
        let deadline = Instant::now() + Duration::from_secs(1);
        let left = || deadline.saturating_duration_since(Instant::now());
        std::iter::from_fn(|| answers.recv_timeout(left()).ok()).flatten().collect()
    }

    /// One number for each worker, which is another one after every round of its loop, and wakes all of them: a worker
    /// whose number is still the same a second later does not move. Empty once they were stopped.
    pub fn beats(&self) -> Vec<u64> {
        // Relaxed: it never goes back.
        if self.plane.stop.load(Ordering::Relaxed) {
            return Vec::new();
        }
        // Relaxed: only whether the number moves counts.
        let beats = self.workers.iter().map(|worker| worker.post.beat.load(Ordering::Relaxed)).collect();
        self.wake_all();
        beats
    }

    /// Ports whose link was deleted, since the last call. Their descriptors are no longer watched.
    pub fn lost_ports(&self) -> Vec<(PortSlot, Generation)> {
        std::mem::take(&mut lock(&self.plane.lost))
    }

    /// Stops the workers and drops what they worked with and every snapshot: what is in no other hands is closed.
    pub fn end(&self) {
        self.stop();
        lock(&self.stopped).clear();
        self.plane.snapshot.store(Arc::default());
        lock(&self.retired).clear();
    }

    /// Hands what every worker has let go of to the reaper.
    fn reap(&self) {
        let acknowledged = self.acknowledged();
        let Some((reaper, _)) = &self.reaper else { return };
        for snapshot in lock(&self.retired).extract_if(.., |snapshot| snapshot.epoch < acknowledged) {
            // It fails only when the reaper is gone; then the snapshot is dropped here.
            let _ = reaper.send(snapshot);
        }
    }

    fn raw_port(&self, slot: PortSlot) -> PortCounters {
        let mut sum = PortCounters::default();
        self.counters().for_each(|counters| sum.merge(&counters.port(slot)));
        sum
    }

    fn raw_peer(&self, slot: PeerSlot) -> PeerCounters {
        let mut sum = PeerCounters::default();
        self.counters().for_each(|counters| sum.merge(&counters.peer(slot)));
        sum
    }

    fn counters(&self) -> impl Iterator<Item = &Counters> {
        self.workers.iter().map(|worker| &worker.post.counters)
    }

    fn wake_all(&self) {
        for worker in &self.workers {
            // It fails only when the counter behind it is full: then the worker is awake already.
            let _ = worker.post.waker.wake();
        }
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        self.end();
        if let Some((sender, thread)) = self.reaper.take() {
            drop(sender);
            let _ = thread.join();
        }
    }
}

impl Plane {
    /// A worker has acknowledged.
    pub(super) fn progressed(&self) {
        // Taking the lock orders this after the check of a waiter that is about to sleep.
        drop(lock(&self.acknowledged));
        self.progress.notify_all();
    }

    /// A worker has lost a port.
    pub(super) fn lost(&self, slot: PortSlot, generation: Generation) {
        lock(&self.lost).push((slot, generation));
        if let Some(notify) = &self.notify {
            notify();
        }
    }
}

impl fmt::Debug for Plane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plane").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// Nothing behind these locks can be left half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
