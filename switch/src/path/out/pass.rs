//! To an AF_XDP port: frames of another one stay in their chunk where they can, all others are copied.

use weft_encap::VnetHdr;
use weft_sys::tun::Offloads;

use super::Departure;
use super::port::Turn;
use crate::path::counters::Total;
use crate::port::{Refused, Sender};

impl Turn<'_> {
    /// Sends every frame; leaves them in the queue, for what they are in then has an owner. True when some have not left yet.
    pub(super) fn pass(mut self, queue: &mut [Departure]) -> bool {
        let mut passed = 0;
        for departure in queue {
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
                Ok(false) => self.copied(departure),
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
    fn copied(&mut self, departure: &mut Departure) {
        self.single(departure, Offloads::empty());
    }

    #[cold]
    fn refuse(&self, departure: &Departure, refused: Refused) {
        self.counters.drop(departure.frame.ingress, refused.reason());
        self.counters.tx_dropped(self.port.slot, 1);
    }
}
