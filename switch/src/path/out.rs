//! Queues to ports and peers, flushed once per batch.

use weft_encap::Headers;

use super::counters::Counters;
use crate::mem::{Frame, Pool};
use crate::table::{PeerSlot, PortSlot, Snapshot};

/// Frames on their way out.
#[derive(Debug, Default)]
pub struct Out {
    frames: Vec<Frame>,
}

impl Out {
    /// Queues `frame`, edited and ready, to a port. `headers`, if given, are the frame's current ones.
    pub fn to_port(&mut self, _port: PortSlot, frame: Frame, _headers: Option<Headers>) {
        self.frames.push(frame);
    }

    /// Queues an inner Ethernet frame to a peer. `headers` are the frame's current ones; `flow_hash` (see
    /// [`weft_encap::flow::flow_hash`]) picks the sending socket.
    pub fn to_peer(&mut self, _peer: PeerSlot, frame: Frame, _headers: Headers, _flow_hash: u32) {
        self.frames.push(frame);
    }

    /// Sends everything that is queued.
    pub fn flush(&mut self, _snapshot: &Snapshot, pool: &mut Pool, _counters: &Counters) {
        self.frames.drain(..).for_each(|frame| pool.give(frame));
    }
}
