//! The loop: wait, receive a batch, process it, flush. One thread per worker, run to completion.
//!
//! Descriptors are watched edge by edge: an event makes its source *fresh*. It has a turn, of one batch; a source with
//! more than that is *busy*, and the busy ones take turns until they say that nothing is left. In a round every fresh
//! source has its turn, then one busy source, then the kernel is asked who else is ready: a quiet port waits for one
//! batch of a busy one, however many are busy, and a busy one for one batch of each quiet one. A port whose frames are
//! mostly noise (`noise`) gets small batches, and beyond its share of the time it *rests*, if others are at work. With
//! nothing ready the worker looks on for a while (the *spin*: a peer that answers within it saves a wake-up of 40
//! microseconds or more); while bulk frames pass only shortly, and only if it hardly waits for its CPU (control looks
//! at that). Others on its CPU go first. Then it sleeps, without a timeout unless a device has frames left
//! that it did not send: an idle switch does nothing.
//!
//! The clock is read here and nowhere else on the fast path: once per batch, and once more after a batch of noise.

mod noise;
mod pace;
mod sources;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use mio::{Events, Poll, Token};
use rustix::thread::sched_yield;
use weft_encap::Reason;
use weft_sys::machine::monotonic_ns;

use super::confine::confine;
use super::counters::{Counters, Total};
use super::dataplane::{Plane, Post, lock};
use super::out::Out;
use super::process::Forwarder;
use super::shared::{Settings, Shared};
use crate::mem::{BATCH, Batch, LARGE_BATCH, Pool};
use crate::port::Rx;
use crate::port::underlay::Tally;
use crate::table::{PeerSlot, Snapshot};
use sources::{Kind, Sources};

/// The waker's token; sources have their index.
pub(super) const WAKER: Token = Token(usize::MAX);

/// Frames longer than this are bulk.
const BULK_FRAME: usize = 4096;
/// For this long after a bulk frame the spin is the one below, or none if the worker waits much for its CPU.
const BULK_NS: u64 = 1_000_000;
/// The spin while bulk passes. It spares the sender most wake-ups: about a superframe's time, and others go first.
const BULK_SPIN_NS: u64 = 20_000;
/// Bulk that comes after this long without is told to control, which looks on for longer than that after the last one.
const BULK_PAUSE_NS: u64 = 500_000_000;
/// What the worker runs for at most when others want its CPU, and so how soon it runs when it wants theirs.
const SLICE: Duration = Duration::from_micros(100);
/// The forwarder's upkeep is due this often while the worker is awake.
const TICK_NS: u64 = 1_000_000_000;
/// While sources are busy, the kernel is asked for others this often. Less than a turn takes, most of the time: then it is
/// asked after every turn, for some hundredths of the turn's time.
const POLL_NS: u64 = 25_000;
/// A source is alone after so long without frames of others.
const ALONE_NS: u64 = 10_000_000;
/// Events taken from the kernel at a time.
const EVENTS: usize = 256;

/// What a worker is told at its start.
pub(super) struct Start {
    pub(super) id: usize,
    pub(super) workers: usize,
    pub(super) spin_ns: u64,
    pub(super) pool_frames: usize,
    pub(super) settings: Settings,
}

/// Runs a worker until the plane stops. First it is confined; `confined` is told what came of it.
pub(super) fn run(
    start: &Start,
    poll: Poll,
    plane: Arc<Plane>,
    post: Arc<Post>,
    tables: Arc<Shared>,
    confined: mpsc::Sender<io::Result<()>>,
) -> Worker {
    let _abort = AbortOnPanic;
    // Refused to who is not scheduled as others are, by an operator's hand: that is left as it is.
    let _ = weft_sys::thread::set_slice(SLICE);
    // Nobody may be listening any more.
    let _ = confined.send(confine());
    drop(confined);
    // Relaxed: see `Dataplane::bulk`.
    post.thread.store(rustix::thread::gettid().as_raw_nonzero().get(), Ordering::Relaxed);
    let snapshot = Arc::new(Snapshot::default());
    let now = monotonic_ns();
    let mut worker = Worker {
        spin_ns: start.spin_ns,
        plane,
        post,
        snapshot,
        sources: Sources::new(start.id, start.workers),
        fresh: VecDeque::new(),
        busy: VecDeque::new(),
        resting: Vec::new(),
        poll,
        events: Events::with_capacity(EVENTS),
        batch: Batch::default(),
        pool: Pool::new(start.pool_frames),
        out: Out::new(start.id),
        forwarder: Forwarder::new(start.id, &start.settings, tables),
        now,
        last_work: now,
        last_bulk: 0,
        quiet: [(usize::MAX, 0); 2],
        latest: usize::MAX,
        latest_since: now,
        last_turn: None,
        last_tick: now,
        last_poll: now,
    };
    worker.work();
    worker
}

/// A worker that dies would leave its ports silent: better the process dies and its supervisor starts it anew.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The panic's own message stands in the log already.
            eprintln!("weftd: a worker panicked; aborting so that the daemon is started again");
            std::process::abort();
        }
    }
}

/// What a worker works with.
#[derive(Debug)]
pub(super) struct Worker {
    spin_ns: u64,
    plane: Arc<Plane>,
    post: Arc<Post>,
    snapshot: Arc<Snapshot>,
    sources: Sources,
    /// Sources that had an event, and then those that had more than a batch. Each source is in one of them, once, or in
    /// none.
    fresh: VecDeque<usize>,
    busy: VecDeque<usize>,
    /// Sources that were too noisy, and until when each rests.
    resting: Vec<(u64, usize)>,
    poll: Poll,
    events: Events,
    batch: Batch,
    pool: Pool,
    out: Out,
    forwarder: Forwarder,
    /// Monotonic clock, read once per batch.
    now: u64,
    last_work: u64,
    last_bulk: u64,
    /// The two sources that last had a turn without noise, the later one first, and when.
    quiet: [(usize, u64); 2],
    /// The source whose turn was the last with frames, and since when only its turns were.
    latest: usize,
    latest_since: u64,
    /// Frames of the latest turn, and their bytes, until the clock is read.
    last_turn: Option<(usize, u64)>,
    last_tick: u64,
    last_poll: u64,
}

impl Worker {
    fn work(&mut self) {
        let mut timeout = Some(Duration::ZERO);
        let mut rounds = 0u32;
        // Acquire: see `Dataplane::stop`.
        while !self.plane.stop.load(Ordering::Acquire) {
            // In this order no publication is slept through: it sets the epoch before it uses the waker, and after
            // every wake-up that is taken the epoch is looked at.
            rounds = rounds.wrapping_add(1);
            if self.is_idle() || self.now - self.last_poll >= POLL_NS {
                self.collect(timeout);
            }
            if !self.resting.is_empty() {
                self.rouse();
            }
            self.refresh();
            if self.round() {
                self.last_work = self.now;
            }
            if self.out.has_left() {
                self.out.retry(&self.snapshot, self.now);
            }
            let awake = !self.is_idle() || self.spins();
            timeout = if awake { Some(Duration::ZERO) } else { self.rest() };
            self.tick();
            // Relaxed: see `Dataplane::beats`.
            self.post.beat.store(u64::from(rounds), Ordering::Relaxed);
        }
        self.drain();
        // Relaxed: see `Dataplane::bulk`.
        self.post.thread.store(0, Ordering::Relaxed);
        self.sources.close(self.poll.registry(), &self.snapshot, &mut self.pool);
    }

    /// Forwards the datagrams that receivers have read and not yet given: they are in no socket any more.
    #[cold]
    fn drain(&mut self) {
        for index in 0..self.sources.len() {
            loop {
                let counters = &self.post.counters;
                let (pool, batch) = (&mut self.pool, &mut self.batch);
                let Some(Kind::Underlay { underlay, receiver, .. }) = self.sources.get(index) else { break };
                let mut tally = Count { counters, now: self.now };
                receiver.drain(*underlay, &self.snapshot.tunnels, pool, batch, &mut tally);
                if self.batch.is_empty() {
                    break;
                }
                self.forward();
            }
        }
    }

    /// Takes the newest snapshot, if there is a newer one.
    #[inline]
    fn refresh(&mut self) {
        // Acquire: see `Dataplane::publish`.
        if self.plane.epoch.load(Ordering::Acquire) != self.snapshot.epoch {
            self.renew();
        }
    }

    #[cold]
    fn renew(&mut self) {
        let new = self.plane.snapshot.load_full();
        let lost = self.sources.change(self.poll.registry(), &self.snapshot, &new, &mut self.pool);
        self.fresh.retain(|index| self.sources.is_ready(*index));
        self.busy.retain(|index| self.sources.is_ready(*index));
        self.resting.retain(|(_, index)| self.sources.is_ready(*index));
        for (slot, generation) in lost {
            self.plane.lost(slot, generation);
        }
        // The handle holds the old one until it has seen the number below.
        self.snapshot = new;
        // Release: whoever sees the number sees a worker without the old snapshot.
        self.post.acknowledged.store(self.snapshot.epoch, Ordering::Release);
        self.plane.progressed();
    }

    /// True when no source is known to have frames.
    #[inline]
    fn is_idle(&self) -> bool {
        self.fresh.is_empty() && self.busy.is_empty()
    }

    /// Makes sources with events fresh. Without `timeout` it sleeps until there is an event.
    #[inline]
    fn collect(&mut self, timeout: Option<Duration>) {
        self.last_poll = self.now;
        // EINTR, the only error: nothing was taken, and the loop comes again.
        let polled = self.poll.poll(&mut self.events, timeout);
        if timeout != Some(Duration::ZERO) {
            self.woke(timeout.is_none());
        }
        if polled.is_err() {
            return;
        }
        let mut asked = false;
        for event in &self.events {
            if event.token() == WAKER {
                asked = true;
            } else if self.sources.mark(event.token().0) {
                self.fresh.push_back(event.token().0);
            }
        }
        if asked {
            self.answer();
        }
    }

    /// After a sleep; `to_work`: not because a rest is over.
    fn woke(&mut self, to_work: bool) {
        self.last_turn = None;
        self.post.counters.add(Total::Wakeups, 1);
        self.now = monotonic_ns();
        if to_work {
            self.last_work = self.now;
        }
    }

    /// Ends the rests that are over.
    #[cold]
    fn rouse(&mut self) {
        self.read_clock();
        let (now, busy) = (self.now, &mut self.busy);
        self.resting.retain(|(until, index)| {
            let rests = *until > now;
            if !rests {
                busy.push_back(*index);
            }
            rests
        });
    }

    /// How long to sleep at most: until the first rest is over, or a device is to be asked again. The poll rounds it up to
    /// milliseconds, and the share that was not used meanwhile is used then.
    #[inline]
    fn rest(&self) -> Option<Duration> {
        let first = self.resting.iter().map(|(until, _)| *until).chain(self.out.due()).min()?;
        Some(Duration::from_nanos(first.saturating_sub(self.now)))
    }

    /// One turn for every fresh source, and one for a busy one. True when frames were moved.
    #[inline]
    fn round(&mut self) -> bool {
        let busy = self.busy.pop_front();
        let mut moved = false;
        while let Some(index) = self.fresh.pop_front() {
            moved |= self.turn(index);
        }
        if let Some(index) = busy {
            moved |= self.turn(index);
        }
        moved
    }

    /// Reads the clock, which ends the last turn.
    #[inline]
    fn read_clock(&mut self) {
        let begun = std::mem::replace(&mut self.now, monotonic_ns());
        if let Some((frames, bytes)) = self.last_turn.take()
            && let Some(pace) = self.sources.pace(self.latest)
        {
            pace.note(frames, bytes, self.now - begun);
        }
    }

    /// One batch of one source, or its rest. True when frames were moved.
    #[inline]
    fn turn(&mut self, index: usize) -> bool {
        self.read_clock();
        let mut most = self.share(index);
        let others = self.others_last_worked(index);
        if let Some(noise) = self.sources.noise(index) {
            if let Some(until) = noise.rests_until(self.now, others) {
                self.resting.push((until, index));
                return false;
            }
            most = most.min(noise.batch(self.now, others));
        }
        self.batch.set_limit(most);
        let rx = self.receive(index);
        let frames = self.batch.len();
        if frames > 0 {
            self.note(index);
            let new = self.forward();
            if self.pool.has_chunks() {
                self.take_back(index);
            }
            let noise = self.sources.noise(index);
            let is_noisy = noise.is_some_and(|noise| {
                noise.account((frames, new), self.now, monotonic_ns);
                noise.is_noisy()
            });
            if !is_noisy {
                if self.quiet[0].0 != index {
                    self.quiet[1] = self.quiet[0];
                }
                self.quiet[0] = (index, self.now);
            }
        }
        match rx {
            Rx::More => self.busy.push_back(index),
            Rx::Drained => self.sources.drained(index),
            Rx::Lost => self.lose(index),
        }
        frames > 0
    }

    /// Most frames of a source's next turn: more while nobody else has any, for the more datagrams of a flow a batch has, the
    /// fewer system calls it takes to send them; fewer of those that take long, while others wait.
    #[inline]
    fn share(&mut self, index: usize) -> usize {
        if index == self.latest && self.now - self.latest_since > ALONE_NS {
            return LARGE_BATCH;
        }
        self.sources.pace(index).map_or(BATCH, |pace| pace.limit(BATCH))
    }

    /// When another source last had a turn without noise.
    #[inline]
    fn others_last_worked(&self, index: usize) -> u64 {
        let [latest, before] = self.quiet;
        if latest.0 == index { before.1 } else { latest.1 }
    }

    /// Notes whose turn had frames.
    #[inline]
    fn note(&mut self, index: usize) {
        if index != self.latest {
            (self.latest, self.latest_since) = (index, self.now);
        }
    }

    #[inline]
    fn receive(&mut self, index: usize) -> Rx {
        let snapshot = &*self.snapshot;
        let counters = &self.post.counters;
        let (pool, batch) = (&mut self.pool, &mut self.batch);
        match self.sources.get(index) {
            Some(Kind::Port { slot, queue, .. }) => {
                let Some(port) = snapshot.ports.get(*slot) else { return Rx::Drained };
                let rx = port.device.receive(*queue, *slot, pool, batch);
                let bytes = batch.frames().iter().map(|frame| frame.len() as u64).sum();
                counters.rx(*slot, batch.len() as u64, bytes);
                rx
            }
            Some(Kind::Underlay { underlay, ipv6, receiver }) => {
                let tunnels = &*snapshot.tunnels;
                let socket = tunnels.underlays.get(*underlay).and_then(|open| open.receiver(*ipv6));
                let Some(socket) = socket else { return Rx::Drained };
                let mut tally = Count { counters, now: self.now };
                receiver.receive(socket, *underlay, tunnels, pool, batch, &mut tally)
            }
            Some(Kind::Uplink { queue }) => {
                let tunnels = &*snapshot.tunnels;
                let Some(uplink) = tunnels.uplink.as_deref() else { return Rx::Drained };
                let mut tally = Count { counters, now: self.now };
                let (rx, packets) = uplink.receive(*queue, tunnels, pool, batch, &mut tally);
                counters.add(Total::UplinkReceived, packets as u64);
                rx
            }
            None => Rx::Drained,
        }
    }

    /// Decides about the batch and sends it. Says how many frames no cached flow knew, or began a connection.
    #[inline]
    fn forward(&mut self) -> usize {
        let counters = &self.post.counters;
        let (mut bulk, mut bytes) = (0, 0);
        for frame in self.batch.frames() {
            bulk += usize::from(frame.len() > BULK_FRAME);
            bytes += frame.len() as u64;
        }
        self.last_turn = Some((self.batch.len(), bytes));
        if bulk > 0 {
            let is_first = self.now - self.last_bulk > BULK_PAUSE_NS;
            self.last_bulk = self.now;
            // Relaxed: see `Dataplane::bulk`. Nobody else writes it.
            let before = self.post.bulk.load(Ordering::Relaxed);
            self.post.bulk.store(before + bulk as u64, Ordering::Relaxed);
            if is_first {
                self.plane.bulk.notify_one();
            }
        }
        counters.add(Total::Batches, 1);
        let new = self.forwarder.process(
            &self.snapshot,
            self.now,
            &mut self.batch,
            &mut self.pool,
            &mut self.out,
            counters,
        );
        self.out.flush(&self.snapshot, &mut self.pool, counters);
        new
    }

    /// Frames that were in their device's own memory are done.
    #[inline(never)]
    fn take_back(&mut self, index: usize) {
        let Some(Kind::Port { slot, .. }) = self.sources.get(index) else { return };
        if let Some(port) = self.snapshot.ports.get(*slot) {
            port.device.take_back(&mut self.pool);
        }
    }

    /// The link behind a port was deleted: its descriptor would report errors for ever.
    #[cold]
    fn lose(&mut self, index: usize) {
        if let Some((slot, generation)) = self.sources.lose(self.poll.registry(), &self.snapshot, index) {
            self.plane.lost(slot, generation);
        }
    }

    /// True while it is worth looking on for more instead of going to sleep. Others go first: whoever is to be answered,
    /// or to answer, often sits on this CPU, too, and would wait until the spin ends.
    #[inline]
    fn spins(&mut self) -> bool {
        if self.spin_ns == 0 {
            return false;
        }
        self.read_clock();
        let spin_ns = if self.now - self.last_bulk > BULK_NS {
            self.spin_ns
        } else if self.post.may_spin.load(Ordering::Relaxed) {
            // Relaxed: see `Dataplane::set_may_spin`.
            self.spin_ns.min(BULK_SPIN_NS)
        } else {
            0
        };
        let spins = self.now - self.last_work < spin_ns;
        if spins {
            sched_yield();
        }
        spins
    }

    #[inline]
    fn tick(&mut self) {
        if self.now - self.last_tick >= TICK_NS {
            self.last_tick = self.now;
            self.forwarder.tick(&self.snapshot, self.now);
        }
    }

    #[cold]
    fn answer(&mut self) {
        for question in lock(&self.post.questions).drain(..) {
            // Whoever asked may have gone.
            let _ = question.answer.send(self.forwarder.flows(question.limit, self.now));
        }
    }
}

/// Counts what a receiving socket reports.
struct Count<'a> {
    counters: &'a Counters,
    now: u64,
}

impl Tally for Count<'_> {
    #[inline]
    fn heard(&mut self, peer: PeerSlot, packets: usize, bytes: usize) {
        self.counters.rx_peer(peer, packets as u64, bytes as u64, self.now);
    }

    fn dropped(&mut self, peer: Option<PeerSlot>, reason: Reason) {
        match peer {
            Some(peer) => self.counters.drop(crate::mem::Ingress::Peer(peer), reason),
            None => self.counters.drop_tunnel(reason),
        }
    }

    #[inline]
    fn glued(&mut self) {
        self.counters.add(Total::SuperframesGlued, 1);
    }

    #[inline]
    fn whole(&mut self) {
        self.counters.add(Total::SuperframesWhole, 1);
    }
}
