//! Datagrams of many flows in turns, as a busy server's clients send them, put so that those of one flow follow each other:
//! then they leave as one superframe. The order within a flow stays; between flows there is none to keep.

use weft_encap::{Fragment, Headers, L3, L4};

use super::Departure;
use crate::mem::{Frame, LARGE_BATCH};

/// Fewer frames are left as they are.
const LEAST: usize = 16;
/// So are queues of which not one frame in so many continues a flow that is in it already.
const WORTH: usize = 4;
/// Flows that are told apart when those are counted.
const SEEN: usize = 512;

/// Lists that are used again for every batch.
#[derive(Debug)]
pub(super) struct Order {
    places: Vec<Place>,
    seen: Box<[u32; SEEN]>,
}

/// A flow's number and the place of one of its datagrams. Flows that share a number only miss a chance.
type Place = (u32, u16);

impl Default for Order {
    fn default() -> Self {
        Order { places: Vec::with_capacity(LARGE_BATCH), seen: Box::new([0; SEEN]) }
    }
}

impl Order {
    /// Groups the queue by flow, if it is whole datagrams of several flows and nothing else.
    #[inline]
    pub(super) fn group(&mut self, queue: &mut [Departure]) {
        if queue.len() >= LEAST && flow(&queue[0]) != flow(&queue[1]) && self.is_worth_it(queue) {
            self.sort(queue);
        }
    }

    fn is_worth_it(&mut self, queue: &[Departure]) -> bool {
        self.places.clear();
        self.seen.fill(0);
        let mut repeated = 0;
        for (departure, at) in queue.iter().zip(0..) {
            let Some(flow) = flow(departure) else { return false };
            self.places.push((flow, at));
            let seen = &mut self.seen[(flow ^ flow >> 16) as usize % SEEN];
            repeated += usize::from(*seen == flow);
            *seen = flow;
        }
        repeated * WORTH >= queue.len()
    }

    fn sort(&mut self, queue: &mut [Departure]) {
        let places = &mut self.places;
        places.sort_unstable();
        for at in 0..places.len() {
            // What was there is now where it was swapped to.
            let mut from = usize::from(places[at].1);
            while from < at {
                from = usize::from(places[from].1);
            }
            queue.swap(at, from);
        }
    }
}

/// The number of a datagram's flow.
#[inline]
fn flow(Departure { frame, headers }: &Departure) -> Option<u32> {
    let headers = headers.as_ref().filter(|headers| is_datagram(frame, headers))?;
    let ports = u32::from(headers.src_port) << 16 | u32::from(headers.dst_port);
    // The low bits of the source's address.
    let at = usize::from(headers.l3_at) + if headers.l3 == L3::V4 { 12 } else { 20 };
    let source = frame.bytes().get(at..)?.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
    Some(ports.wrapping_add(source.wrapping_mul(0x9e37_79b1)))
}

fn is_datagram(frame: &Frame, headers: &Headers) -> bool {
    headers.l4 == L4::Udp && headers.fragment == Fragment::Whole && frame.vnet.gso_size == 0
}

#[cfg(test)]
mod tests;
