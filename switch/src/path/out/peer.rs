//! To a peer: by the uplink, if there is one and it knows the way; else by sockets, superframes whole or cut, one send each,
//! small frames of equal length joined into one.

use weft_encap::Reason;

use crate::mem::Pool;
use crate::path::counters::{Counters, Total};
use crate::port::underlay::{Outcome, Packet, Transmitter, Underlay};
use crate::port::uplink::Way;
use crate::table::Peer;

/// One flush of one peer's queue.
pub(super) struct Turn<'a> {
    pub(super) peer: &'a Peer,
    pub(super) underlay: &'a Underlay,
    pub(super) way: Option<Way<'a>>,
    pub(super) pool: &'a mut Pool,
    pub(super) counters: &'a Counters,
    pub(super) transmitter: &'a mut Transmitter,
}

impl Turn<'_> {
    /// Sends every packet; leaves them in the queues for the caller to give back. True when the uplink has taken some that
    /// have not left it yet.
    pub(super) fn flush(mut self, queues: &mut [Vec<Packet>]) -> bool {
        queues.iter_mut().filter(|queue| !queue.is_empty()).for_each(|queue| self.send(queue));
        let Some(way) = &mut self.way else { return false };
        self.counters.add(Total::TunnelSends, 1);
        way.flush()
    }

    /// Sends the packets of one sender.
    fn send(&mut self, queue: &mut Vec<Packet>) {
        super::thin::thin(queue, self.pool, self.counters);
        self.prepare(queue);
        let mut at = 0;
        while at < queue.len() {
            if self.by_uplink(&mut queue[at]) {
                at += 1;
            } else if queue[at].is_superframe() {
                self.superframe(&queue[at]);
                at += 1;
            } else {
                let len = self.transmitter.run_len(self.underlay, &queue[at..]);
                self.run(&queue[at..at + len]);
                at += len;
            }
        }
    }

    /// False: it is to go by a socket.
    #[inline]
    fn by_uplink(&mut self, packet: &mut Packet) -> bool {
        let Some(way) = self.way.as_mut().filter(|way| way.takes(packet)) else { return false };
        let ingress = packet.frame.ingress;
        let sent = if packet.is_superframe() {
            let sent = way.superframe(self.underlay, packet, self.transmitter);
            let packets = sent.map_or(0, |outcome| outcome.packets + outcome.refused);
            self.counters.add(Total::SuperframesCut, u64::from(packets > 0));
            self.counters.add(Total::ChecksumsComputed, packets);
            sent
        } else {
            Ok(way.packet(self.underlay, packet, self.transmitter))
        };
        match sent {
            Ok(outcome) => {
                self.counters.add(Total::UplinkSent, outcome.packets);
                self.count(&outcome);
                if let Some(reason) = outcome.reason {
                    self.counters.drop(ingress, reason);
                }
            }
            Err(reason) => self.counters.drop(ingress, reason),
        }
        true
    }

    /// Completes and encapsulates all that are not cut.
    fn prepare(&mut self, queue: &mut Vec<Packet>) {
        let (peer, counters) = (self.peer, self.counters);
        let no_room = queue.extract_if(.., |packet| {
            if packet.is_superframe() {
                return false;
            }
            if packet.complete() {
                counters.add(Total::ChecksumsComputed, 1);
            }
            !packet.encapsulate(peer.vni)
        });
        for packet in no_room {
            counters.drop(packet.frame.ingress, Reason::NoBuffer);
            self.pool.give(packet.frame);
        }
    }

    fn superframe(&mut self, packet: &Packet) {
        let ingress = packet.frame.ingress;
        match self.transmitter.superframe(self.underlay, self.peer, packet) {
            Ok(outcome) if outcome.whole => {
                self.counters.add(Total::SuperframesSent, u64::from(outcome.packets > 0));
                self.count(&outcome);
                if let Some(reason) = outcome.reason {
                    self.counters.drop(ingress, reason);
                }
            }
            Ok(outcome) => {
                self.counters.add(Total::SuperframesCut, 1);
                self.counters.add(Total::ChecksumsComputed, outcome.packets + outcome.refused);
                self.count(&outcome);
                if let Some(reason) = outcome.reason {
                    self.counters.drop(ingress, reason);
                }
            }
            Err(reason) => self.counters.drop(ingress, reason),
        }
    }

    fn run(&mut self, packets: &[Packet]) {
        let outcome = self.transmitter.run(self.underlay, self.peer.remote, packets);
        self.count(&outcome);
        if let Some(reason) = outcome.reason {
            let refused = packets.iter().take(outcome.refused as usize);
            super::count_drops(refused.map(|packet| &packet.frame), reason, self.counters);
        }
    }

    fn count(&self, outcome: &Outcome) {
        self.counters.tx_peer(self.peer.slot, outcome.packets, outcome.bytes);
        self.counters.add(Total::TunnelSends, outcome.sends);
        if outcome.fallbacks != 0 {
            self.counters.add(Total::SegmentFallbacks, outcome.fallbacks);
        }
    }
}
