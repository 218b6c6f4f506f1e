//! The fast path, in the order a frame meets it.

mod action;
mod cache;
/// What a worker gives up.
mod confine;
mod flood;
mod guard;
mod hit;
mod l2;
mod limit;
mod load;
mod miss;
mod origin;
mod punt;
mod recent;
mod route;
/// The loop: wait, receive a batch, process it, flush.
mod worker;

/// Counters, one set per worker.
pub mod counters;
/// The handle by which control drives the workers.
pub mod dataplane;
/// Learned stations, shared by all workers.
pub mod fdb;
/// Learned neighbours, shared by all workers.
pub mod neighbour;
/// Queues to ports and peers, flushed once per batch.
pub mod out;
/// Deciding about frames.
pub mod process;
/// What workers share besides the snapshot, and what they are told and asked.
pub mod shared;

pub use counters::{Counters, Drops, PeerCounters, PortCounters, Total, Totals};
pub use dataplane::{Carried, Dataplane, DataplaneConfig};
pub use fdb::{Bounds, LearnedMac, Station};
pub use out::Out;
pub use process::{Forwarder, Sink};
pub use shared::{FlowDump, FlowTarget, Settings, Shared};

/// From now on this process sums by the vectors of its CPU. [`Dataplane::start`] does it.
pub fn accelerate() {
    if let Some(weft_sys::checksum::Kernels { sum, copy_and_sum }) = weft_sys::checksum::kernels() {
        weft_encap::checksum::accelerate(weft_encap::checksum::Kernels { sum, copy_and_sum });
    }
}

#[cfg(test)]
mod tests;
