//! Devices that have taken frames and not sent them yet, because their queue was full or they are down. Nobody tells when
//! that is over, so they are asked again after a while, also when no frame follows.

use crate::table::{PortSlot, Snapshot};

/// The first time so long after frames were left, then each time after twice as long, up to [`LONGEST_NS`].
const FIRST_NS: u64 = 200_000;
const LONGEST_NS: u64 = 1_000_000_000;

/// A device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Who {
    Port(PortSlot),
    Uplink,
}

/// One that has frames left.
#[derive(Debug)]
struct Waiting {
    who: Who,
    /// Between the last time that it was asked and the next; 0: that is not set yet.
    pause: u64,
    due: u64,
}

/// Those that have. Without any it costs nothing.
#[derive(Debug, Default)]
pub(super) struct Left {
    waiting: Vec<Waiting>,
}

impl Left {
    /// Notes what a flush has said: whether the device has frames left.
    #[inline]
    pub(super) fn note(&mut self, who: Who, has_left: bool) {
        if has_left || !self.is_empty() {
            self.change(who, has_left);
        }
    }

    #[cold]
    fn change(&mut self, who: Who, has_left: bool) {
        match self.waiting.iter().position(|it| it.who == who) {
            Some(at) if has_left => self.waiting[at].pause = 0,
            Some(at) => drop(self.waiting.swap_remove(at)),
            None if has_left => self.waiting.push(Waiting { who, pause: 0, due: 0 }),
            None => {}
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When the first of them is to be asked; `None`: nobody.
    #[inline]
    pub(super) fn due(&self) -> Option<u64> {
        self.waiting.iter().map(|it| it.due).min()
    }

    /// Asks those whose time it is, of those that worker number `worker` sends by.
    #[cold]
    pub(super) fn retry(&mut self, worker: usize, snapshot: &Snapshot, now: u64) {
        self.ask(now, |who| match who {
            Who::Port(slot) => snapshot.ports.get(slot).is_some_and(|port| port.device.flush()),
            Who::Uplink => snapshot.tunnels.uplink.as_ref().is_some_and(|uplink| uplink.flush(worker)),
        });
    }

    fn ask(&mut self, now: u64, mut has_left: impl FnMut(Who) -> bool) {
        self.waiting.retain_mut(|it| {
            if it.pause == 0 {
                it.pause = FIRST_NS;
            } else if now < it.due {
                return true;
            } else if has_left(it.who) {
                it.pause = (2 * it.pause).min(LONGEST_NS);
            } else {
                return false;
            }
            it.due = now + it.pause;
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: Who = Who::Port(PortSlot(7));

    /// When each was asked, within a time, where none ever has sent all.
    fn asked(left: &mut Left, lasting: u64) -> Vec<(u64, Who)> {
        let (mut now, mut asked) = (0, Vec::new());
        while now <= lasting {
            left.ask(now, |who| {
                asked.push((now / FIRST_NS, who));
                true
            });
            now = left.due().unwrap_or(lasting + 1).max(now + 1);
        }
        asked
    }

    #[test]
    fn each_is_asked_after_ever_longer_pauses_of_its_own() {
        let mut left = Left::default();
        left.note(PORT, true);
        let times = asked(&mut left, 20 * FIRST_NS);
        assert_eq!(times, [(1, PORT), (3, PORT), (7, PORT), (15, PORT)]);
        left.note(Who::Uplink, true);
        left.ask(20 * FIRST_NS, |_| unreachable!("it is nobody's time"));
        let mut who = Vec::new();
        left.ask(21 * FIRST_NS, |it| {
            who.push(it);
            true
        });
        assert_eq!(who, [Who::Uplink], "the port's pause is as long as before");
    }

    #[test]
    fn one_that_sends_begins_anew_and_one_that_has_sent_all_goes() {
        let mut left = Left::default();
        left.note(PORT, true);
        asked(&mut left, 20 * FIRST_NS);
        // A frame followed, and it has some left again.
        left.note(PORT, true);
        left.ask(20 * FIRST_NS, |_| unreachable!("its time is set anew"));
        assert_eq!(left.due(), Some(21 * FIRST_NS));
        left.note(PORT, false);
        assert!(left.is_empty() && left.due().is_none());
        left.note(PORT, true);
        left.ask(0, |_| true);
        left.ask(FIRST_NS, |_| false);
        assert!(left.is_empty());
    }
}
