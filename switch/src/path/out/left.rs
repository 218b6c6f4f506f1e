//! Devices that have taken frames and not sent them yet, because their queue was full or they are down. Nobody tells when
//! that is over, so they are asked again after a while, also when no frame follows.

use crate::table::{PortSlot, Snapshot};

/// The first time after this, then each time after twice as long, up to [`LONGEST_NS`].
const FIRST_NS: u64 = 200_000;
const LONGEST_NS: u64 = 1_000_000_000;

/// Who they are. Without frames that are left, it costs nothing.
#[derive(Debug, Default)]
pub(super) struct Left {
    ports: Vec<PortSlot>,
    uplink: bool,
    /// Between the last time that they were asked and the next; 0: they have not been asked yet.
    pause: u64,
    due: u64,
}

impl Left {
    /// A port has some.
    #[cold]
    pub(super) fn note_port(&mut self, slot: PortSlot) {
        if !self.ports.contains(&slot) {
            self.ports.push(slot);
            self.pause = 0;
        }
    }

    /// The uplink has some.
    #[cold]
    pub(super) fn note_uplink(&mut self) {
        if !std::mem::replace(&mut self.uplink, true) {
            self.pause = 0;
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.ports.is_empty() && !self.uplink
    }

    /// When they are to be asked; `None`: nobody.
    #[inline]
    pub(super) fn due(&self) -> Option<u64> {
        (!self.is_empty()).then_some(self.due)
    }

    /// Asks those that worker number `worker` sends by, if it is time.
    #[cold]
    pub(super) fn retry(&mut self, worker: usize, snapshot: &Snapshot, now: u64) {
        if self.pause == 0 {
            self.pause = FIRST_NS;
        } else if now < self.due {
            return;
        } else {
            self.ports.retain(|slot| snapshot.ports.get(*slot).is_some_and(|port| port.device.flush()));
            self.uplink &= snapshot.tunnels.uplink.as_ref().is_some_and(|uplink| uplink.flush(worker));
            self.pause = (2 * self.pause).min(LONGEST_NS);
        }
        self.due = now + self.pause;
    }
}
