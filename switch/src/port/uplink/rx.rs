//! From the wire: frames with outer headers, to inner frames with a vnet header.

use std::net::IpAddr;

use weft_encap::outer::wire::arrival;
use weft_encap::{MacAddr, Reason};

use super::Uplink;
use crate::mem::{Batch, Pool};
use crate::port::underlay::{Glue, Tally, Turn};
use crate::port::{BATCH_BYTES, Rx};
use crate::table::Tunnels;

/// What a packet must have in common with the one before to be plainly its continuation: the underlay that it is for,
/// its sender, its mark.
type Flow = (usize, IpAddr, u8);

/// One receive.
struct Reader<'a, T> {
    mac: MacAddr,
    turn: Turn<'a, T>,
    glue: Option<Glue>,
    last: Option<Flow>,
}

impl Uplink {
    /// Adds inner frames to `batch`, marked as coming from their peer, and says how many packets they came in. Every frame
    /// added has an intact or an owed checksum.
    pub fn receive(
        &self,
        queue: usize,
        tunnels: &Tunnels,
        pool: &mut Pool,
        batch: &mut Batch,
        tally: &mut impl Tally,
    ) -> (Rx, usize) {
        let Some(queue) = self.queues.get(queue) else { return (Rx::Drained, 0) };
        let mut ends = queue.ends();
        let Some(ends) = ends.as_mut() else { return (Rx::Drained, 0) };
        let turn = Turn { underlay: 0, tunnels, pool, batch, tally };
        let mut reader = Reader { mac: self.ways.load().mac, turn, glue: None, last: None };
        let (mut packets, mut bytes) = (0, 0);
        let rx = loop {
            // One packet makes one frame at most.
            let room = reader.turn.batch.room().saturating_sub(usize::from(reader.glue.is_some()));
            if room == 0 || bytes >= BATCH_BYTES {
                break Rx::More;
            }
            let count = ends.socket.receive(&mut ends.received, room);
            if count == 0 {
                break Rx::Drained;
            }
            packets += count;
            for mut piece in ends.received.drain(..) {
                bytes += piece.len as usize;
                let is_part = piece.more || !ends.parts.is_empty();
                if is_part {
                    ends.parts.extend_from_slice(ends.umem.piece(&piece));
                }
                if !piece.more && is_part {
                    reader.packet(&mut ends.parts);
                    ends.parts.clear();
                } else if !piece.more {
                    reader.packet(ends.umem.piece_mut(&mut piece));
                }
                ends.free.push(piece.chunk);
            }
            ends.refill();
        };
        let Reader { mut turn, glue, .. } = reader;
        turn.finish(glue);
        (rx, packets)
    }
}

impl<T: Tally> Reader<'_, T> {
    #[inline]
    fn packet(&mut self, frame: &mut [u8]) {
        let known = arrival(frame, self.mac).and_then(|came| {
            let open = &self.turn.tunnels.underlays;
            let underlay = open.iter().position(|underlay| underlay.config().port == came.to.port());
            Ok((underlay.ok_or(Reason::TunnelStranger)?, came))
        });
        let (underlay, came) = match known {
            Ok(known) => known,
            Err(reason) => return self.turn.tally.dropped(None, reason),
        };
        let flow = (underlay, came.from, came.tos);
        let follows = self.last == Some(flow);
        self.last = Some(flow);
        self.turn.underlay = underlay;
        self.turn.one(&mut self.glue, &mut frame[came.datagram], (came.from, came.tos), follows);
    }
}
