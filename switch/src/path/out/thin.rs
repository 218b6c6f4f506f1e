//! Acknowledgments that the next one in line makes needless leave the queue: each would cost the receiver, and on a
//! tunnel both ends, as much as a superframe does in system calls.

use weft_encap::checksum::{self, State};
use weft_encap::{Headers, ack};

use super::Departure;
use crate::mem::{Frame, Pool};
use crate::path::counters::{Counters, Total};
use crate::port::underlay::Packet;

/// What lies in a queue.
pub(super) trait Queued {
    fn headers(&self) -> Option<&Headers>;
    fn frame(&self) -> &Frame;
    fn into_frame(self) -> Frame;
}

impl Queued for Departure {
    fn headers(&self) -> Option<&Headers> {
        self.headers.as_ref()
    }

    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn into_frame(self) -> Frame {
        self.frame
    }
}

impl Queued for Packet {
    fn headers(&self) -> Option<&Headers> {
        Some(&self.headers)
    }

    fn frame(&self) -> &Frame {
        &self.frame
    }

    fn into_frame(self) -> Frame {
        self.frame
    }
}

/// Thins a queue out; the order of what stays is the same.
#[inline]
pub(super) fn thin<T: Queued>(queue: &mut Vec<T>, pool: &mut Pool, counters: &Counters) {
    if !has_neighbours(queue) {
        return;
    }
    let mut kept = 0;
    for at in 0..queue.len() {
        if queue.get(at + 1).is_some_and(|next| is_needless(&queue[at], next)) {
            continue;
        }
        if kept != at {
            queue.swap(kept, at);
        }
        kept += 1;
    }
    if kept < queue.len() {
        counters.add(Total::AcksThinned, (queue.len() - kept) as u64);
        queue.drain(kept..).for_each(|needless| pool.give(needless.into_frame()));
    }
}

/// True when two acknowledgments follow each other: in most queues none do.
#[inline]
fn has_neighbours<T: Queued>(queue: &[T]) -> bool {
    let (mut found, mut before) = (false, false);
    for it in queue {
        let is_pure = it.headers().is_some_and(ack::is_pure);
        found |= before & is_pure;
        before = is_pure;
    }
    found
}

#[inline]
fn is_needless<T: Queued>(it: &T, next: &T) -> bool {
    match (it.headers(), next.headers()) {
        (Some(its), Some(nexts)) => {
            let (frame, later) = (it.frame().bytes(), next.frame().bytes());
            // A corrupt one will be dropped by who receives it, and must not take a good one with it.
            ack::supersedes((later, nexts), (frame, its))
                && matches!(checksum::state(later, nexts), State::Verified | State::Owed)
        }
        _ => false,
    }
}
