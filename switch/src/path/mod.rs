//! The fast path, in the order a frame meets it.

/// Counters, one set per worker.
pub mod counters;
/// Queues to ports and peers, flushed once per batch.
pub mod out;

pub use counters::{Counters, Total};
pub use out::Out;
