//! The loop: wait, receive a batch, process it, flush. One thread per worker, run to completion.
//!
//! Descriptors are watched edge by edge: an event puts its source on the ready list, and the source stays there until
//! it says that nothing is left. Sources on the list take turns, a batch each, so none starves another. With nothing
//! ready the worker looks on for a while (the *spin*: a peer that answers within it saves a wake-up of 40 microseconds
//! or more), but not while bulk frames pass: then the other CPUs have better use for the time. Then it sleeps without
//! a timeout: an idle switch does nothing.
//!
//! The clock is read here and nowhere else on the fast path, once per batch.

mod sources;

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use mio::{Events, Poll, Token};
use weft_encap::Reason;
use weft_sys::machine::monotonic_ns;

use super::confine::confine;
use super::counters::{Counters, Total};
use super::dataplane::{Plane, Post, lock};
use super::out::Out;
use super::process::Forwarder;
use super::shared::{Settings, Shared};
use crate::mem::{Batch, Pool};
use crate::port::Rx;
use crate::port::underlay::Tally;
use crate::table::{PeerSlot, Snapshot};
use sources::{Kind, Sources};

/// The waker's token; sources have their index.
pub(super) const WAKER: Token = Token(usize::MAX);

/// Frames longer than this are bulk.
const BULK_FRAME: usize = 4096;
/// No spin for this long after a bulk frame.
const BULK_NS: u64 = 1_000_000;
/// The forwarder's upkeep is due this often while the worker is awake.
const TICK_NS: u64 = 1_000_000_000;
/// While sources are ready, the kernel is asked for others once in so many rounds.
const POLL_EVERY: u32 = 4;
/// Events taken from the kernel at a time.
const EVENTS: usize = 256;

/// What a worker is told at its start.
pub(super) struct Seat {
    pub(super) id: usize,
    pub(super) workers: usize,
    pub(super) spin_ns: u64,
    pub(super) pool_frames: usize,
    pub(super) settings: Settings,
}

/// Runs a worker until the plane stops. First it is confined; `confined` is told what came of it.
pub(super) fn run(
    seat: &Seat,
    poll: Poll,
    plane: Arc<Plane>,
    post: Arc<Post>,
    tables: Arc<Shared>,
    confined: mpsc::Sender<io::Result<()>>,
) {
    let _abort = AbortOnPanic;
    // Nobody may be listening any more.
    let _ = confined.send(confine());
    drop(confined);
    let snapshot = Arc::new(Snapshot::default());
    let now = monotonic_ns();
    Worker {
        spin_ns: seat.spin_ns,
        plane,
        post,
        snapshot,
        sources: Sources::new(seat.id, seat.workers),
        ready: VecDeque::new(),
        poll,
        events: Events::with_capacity(EVENTS),
        batch: Batch::default(),
        pool: Pool::new(seat.pool_frames),
        out: Out::new(seat.id),
        forwarder: Forwarder::new(seat.id, &seat.settings, tables),
        now,
        last_work: now,
        last_bulk: 0,
        last_tick: now,
    }
    .work();
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

struct Worker {
    spin_ns: u64,
    plane: Arc<Plane>,
    post: Arc<Post>,
    snapshot: Arc<Snapshot>,
    sources: Sources,
    /// Sources that may have frames, each at most once.
    ready: VecDeque<usize>,
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
    last_tick: u64,
}

impl Worker {
    fn work(mut self) {
        let mut timeout = Some(Duration::ZERO);
        let mut rounds = 0u32;
        // Acquire: see `Dataplane::stop`.
        while !self.plane.stop.load(Ordering::Acquire) {
            // In this order no publication is slept through: it sets the epoch before it uses the waker, and after
            // every wake-up that is taken the epoch is looked at.
            rounds = rounds.wrapping_add(1);
            if self.ready.is_empty() || rounds.is_multiple_of(POLL_EVERY) {
                self.collect(timeout);
            }
            self.refresh();
            if self.round() {
                self.last_work = self.now;
            }
            let awake = !self.ready.is_empty() || self.spins();
            timeout = awake.then_some(Duration::ZERO);
            self.tick();
            // Relaxed: see `Dataplane::beats`.
            self.post.beat.store(u64::from(rounds), Ordering::Relaxed);
        }
        self.drain();
        let Worker { snapshot, mut sources, poll, mut pool, .. } = self;
        sources.close(poll.registry(), &snapshot, &mut pool);
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
        self.ready.retain(|index| self.sources.is_ready(*index));
        for (slot, generation) in lost {
            self.plane.lost(slot, generation);
        }
        // The handle holds the old one until it has seen the number below.
        self.snapshot = new;
        // Release: whoever sees the number sees a worker without the old snapshot.
        self.post.acknowledged.store(self.snapshot.epoch, Ordering::Release);
        self.plane.progressed();
    }

    /// Puts sources with events on the ready list. Without `timeout` it sleeps until there is an event.
    #[inline]
    fn collect(&mut self, timeout: Option<Duration>) {
        // EINTR, the only error: nothing was taken, and the loop comes again.
        let polled = self.poll.poll(&mut self.events, timeout);
        if timeout.is_none() {
            self.woke();
        }
        if polled.is_err() {
            return;
        }
        let mut asked = false;
        for event in &self.events {
            if event.token() == WAKER {
                asked = true;
            } else if self.sources.mark(event.token().0) {
                self.ready.push_back(event.token().0);
            }
        }
        if asked {
            self.answer();
        }
    }

    fn woke(&mut self) {
        self.post.counters.add(Total::Wakeups, 1);
        self.now = monotonic_ns();
        self.last_work = self.now;
    }

    /// One turn for every source that is ready. True when frames were moved.
    #[inline]
    fn round(&mut self) -> bool {
        let mut moved = false;
        for _ in 0..self.ready.len() {
            let Some(index) = self.ready.pop_front() else { break };
            moved |= self.turn(index);
        }
        moved
    }

    /// One batch of one source.
    #[inline]
    fn turn(&mut self, index: usize) -> bool {
        self.now = monotonic_ns();
        let rx = self.receive(index);
        let moved = !self.batch.is_empty();
        if moved {
            self.forward();
        }
        match rx {
            Rx::More => self.ready.push_back(index),
            Rx::Drained => self.sources.drained(index),
            Rx::Lost => self.lose(index),
        }
        moved
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
            None => Rx::Drained,
        }
    }

    #[inline]
    fn forward(&mut self) {
        let counters = &self.post.counters;
        if self.batch.frames().iter().any(|frame| frame.len() > BULK_FRAME) {
            self.last_bulk = self.now;
        }
        counters.add(Total::Batches, 1);
        self.forwarder.process(
            &self.snapshot,
            self.now,
            &mut self.batch,
            &mut self.pool,
            &mut self.out,
            counters,
        );
        self.out.flush(&self.snapshot, &mut self.pool, counters);
    }

    /// The link behind a port was deleted: its descriptor would report errors for ever.
    #[cold]
    fn lose(&mut self, index: usize) {
        if let Some((slot, generation)) = self.sources.lose(self.poll.registry(), &self.snapshot, index) {
            self.plane.lost(slot, generation);
        }
    }

    /// True while it is worth looking on for more instead of going to sleep.
    #[inline]
    fn spins(&mut self) -> bool {
        if self.spin_ns == 0 {
            return false;
        }
        self.now = monotonic_ns();
        self.now - self.last_work < self.spin_ns && self.now - self.last_bulk > BULK_NS
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
