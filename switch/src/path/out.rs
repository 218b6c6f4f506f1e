//! Queues to ports and peers, flushed once per batch.
//!
//! A destination's frames leave in the order in which they were queued, for a peer in that order per flow. Nothing
//! waits: what a device or socket does not take at once is dropped and counted. What an AF_XDP socket has taken and could
//! not send yet is left to it, and it is asked again ([`Out::retry`]).

mod left;
mod order;
mod pass;
mod peer;
mod port;
mod thin;

use left::Who;
use weft_encap::{Headers, Reason};

use super::counters::Counters;
use crate::mem::{Frame, Pool};
use crate::port::underlay::{Packet, SENDERS, Transmitter, Underlay};
use crate::table::{MAX_PEERS, MAX_PORTS, PeerSlot, PortSlot, Snapshot};

/// Frames on their way out.
#[derive(Debug)]
pub struct Out {
    /// Picks the queue of a device with several.
    worker: usize,
    ports: Queues<Vec<Departure>>,
    /// By sending socket.
    peers: Queues<[Vec<Packet>; SENDERS]>,
    cutter: port::Cutter,
    transmitter: Transmitter,
    left: left::Left,
}

/// A frame on its way to a port.
#[derive(Debug)]
struct Departure {
    frame: Frame,
    headers: Option<Headers>,
}

impl Out {
    /// The queues of worker number `worker`.
    pub fn new(worker: usize) -> Self {
        Out {
            worker,
            ports: Queues::new(MAX_PORTS),
            peers: Queues::new(MAX_PEERS),
            cutter: port::Cutter::default(),
            transmitter: Transmitter::default(),
            left: left::Left::default(),
        }
    }

    /// Queues `frame`, edited and ready, to a port. `headers`, if given, are the frame's current ones; without them
    /// its datagrams are not coalesced.
    #[inline]
    pub fn to_port(&mut self, port: PortSlot, frame: Frame, headers: Option<Headers>) {
        self.ports.of(port.index()).push(Departure { frame, headers });
    }

    /// Queues an inner Ethernet frame to a peer. `headers` are the frame's current ones; `flow_hash` (see
    /// [`weft_encap::flow::flow_hash`]) picks the sending socket.
    #[inline]
    pub fn to_peer(&mut self, peer: PeerSlot, frame: Frame, headers: Headers, flow_hash: u32) {
        let sender = Underlay::sender_of(flow_hash);
        self.peers.of(peer.index())[usize::from(sender)].push(Packet { frame, headers, sender });
    }

    /// Sends everything that is queued; every frame goes back to `pool`.
    pub fn flush(&mut self, snapshot: &Snapshot, pool: &mut Pool, counters: &Counters) {
        let (worker, cutter, transmitter) = (self.worker, &mut self.cutter, &mut self.transmitter);
        let left = &mut self.left;
        self.ports.each(|slot, queue| {
            let slot = PortSlot(slot as u16);
            thin::thin(queue, pool, counters);
            match snapshot.ports.get(slot) {
                Some(port) => {
                    let has_left = port::Turn::new(worker, port, pool, counters, cutter).flush(queue);
                    left.note(Who::Port(slot), has_left);
                }
                None => {
                    count_drops(queue.iter().map(|departure| &departure.frame), Reason::PortDown, counters);
                }
            }
            queue.drain(..).for_each(|departure| pool.give(departure.frame));
        });
        self.peers.each(|slot, queues| {
            let peer = snapshot.tunnels.get(PeerSlot(slot as u16));
            match peer.and_then(|peer| Some((peer, &**snapshot.tunnels.underlays.get(peer.underlay)?))) {
                Some((peer, underlay)) => {
                    let way = snapshot.tunnels.uplink.as_ref().and_then(|uplink| uplink.way(worker, peer));
                    // What goes by sockets says nothing about the uplink.
                    let is_by_uplink = way.is_some();
                    let turn = peer::Turn { peer, underlay, way, pool, counters, transmitter };
                    let has_left = turn.flush(queues);
                    if is_by_uplink {
                        left.note(Who::Uplink, has_left);
                    }
                }
                None => {
                    let frames = queues.iter().flatten().map(|packet| &packet.frame);
                    count_drops(frames, Reason::TunnelSend, counters);
                }
            }
            queues.iter_mut().for_each(|queue| queue.drain(..).for_each(|packet| pool.give(packet.frame)));
        });
    }

    /// True when a device has taken frames that it has not sent yet: [`Out::retry`] is due at [`Out::due`].
    #[inline]
    pub fn has_left(&self) -> bool {
        !self.left.is_empty()
    }

    /// When it is, on the monotonic clock; in the past before the first call of [`Out::retry`] behind a flush.
    #[inline]
    pub fn due(&self) -> Option<u64> {
        self.left.due()
    }

    /// Has those devices send whose time it is. The first call behind a flush only sets the time.
    pub fn retry(&mut self, snapshot: &Snapshot, now: u64) {
        self.left.retry(self.worker, snapshot, now);
    }
}

fn count_drops<'a>(frames: impl Iterator<Item = &'a Frame>, reason: Reason, counters: &Counters) {
    frames.for_each(|frame| counters.drop(frame.ingress, reason));
}

/// A queue for every destination of the present batch. Their memory goes round among destinations: as many queues
/// exist as one batch ever had destinations.
#[derive(Debug)]
struct Queues<Q> {
    /// By destination: which queue, or [`NONE`].
    index: Box<[u16]>,
    /// The first `used` of them with their destinations; the rest wait for the next batch.
    queues: Vec<(usize, Q)>,
    used: usize,
}

/// No queue yet.
const NONE: u16 = u16::MAX;

impl<Q: Default> Queues<Q> {
    fn new(destinations: usize) -> Self {
        Queues { index: vec![NONE; destinations].into_boxed_slice(), queues: Vec::new(), used: 0 }
    }

    /// The queue to a destination.
    #[inline]
    fn of(&mut self, destination: usize) -> &mut Q {
        if self.index[destination] == NONE {
            self.open(destination);
        }
        &mut self.queues[usize::from(self.index[destination])].1
    }

    fn open(&mut self, destination: usize) {
        if self.used == self.queues.len() {
            self.queues.push((destination, Q::default()));
        }
        self.queues[self.used].0 = destination;
        self.index[destination] = self.used as u16;
        self.used += 1;
    }

    /// Hands every queue in use to `flush`, which leaves it empty.
    #[inline]
    fn each(&mut self, mut flush: impl FnMut(usize, &mut Q)) {
        for (destination, queue) in &mut self.queues[..self.used] {
            flush(*destination, queue);
            self.index[*destination] = NONE;
        }
        self.used = 0;
    }
}
