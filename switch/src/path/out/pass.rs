//! To an AF_XDP port: frames of another one stay in their chunk where they can, all others are copied. Datagrams of a flow leave as one
//! superframe, and superframes as they are, by a socket of their own: each saves its receiver's kernel dozens of ways through its stack.

use weft_encap::VnetHdr;
use weft_sys::tun::Offloads;

use super::Departure;
use super::port::Turn;
use crate::path::counters::Total;
use crate::port::{Refused, Sender};

impl Turn<'_> {
    /// Sends every frame; leaves them in the queue, for what they are in then has an owner. True when some have not left yet.
    pub(super) fn pass(mut self, queue: &mut [Departure]) -> bool {
        let accepts = self.port.device.accepts();
        if self.port.device.coalesces_udp() {
            self.cutter.order.group(queue);
        }
        let (mut passed, mut at) = (0, 0);
        while at < queue.len() {
            let merged = self.coalesce(&queue[at..]);
            if merged > 0 {
                at += merged;
                continue;
            }
            let departure = &mut queue[at];
            at += 1;
            let frame = &mut departure.frame;
            let bytes = frame.len() as u64;
            let may_pass = frame.is_in_chunk() && frame.vnet == VnetHdr::NONE;
            let passes = match &mut self.sender {
                Sender::Xdp(xdp) if may_pass => xdp.pass(frame),
                _ => Ok(false),
            };
            match passes {
                Ok(true) => {
                    passed += 1;
                    self.sent = (self.sent.0 + 1, self.sent.1 + bytes);
                }
                // A small frame's checksum costs less than a call of its own.
                Ok(false) if departure.frame.vnet.gso_size == 0 => self.copied(departure, Offloads::empty()),
                Ok(false) => self.copied(departure, accepts),
                Err(refused) => self.refuse(departure, refused),
            }
        }
        if passed > 0 {
            self.counters.add(Total::XdpPassed, passed);
        }
        self.finish()
    }

    /// Apart, so that what sends to other devices is not made a call for this one's sake.
    #[inline(never)]
    fn copied(&mut self, departure: &mut Departure, accepts: Offloads) {
        self.single(departure, accepts);
    }

    #[cold]
    fn refuse(&self, departure: &Departure, refused: Refused) {
        self.counters.drop(departure.frame.ingress, refused.reason());
        self.counters.tx_dropped(self.port.slot, 1);
    }
}
