//! The weft switch.
//!
//! Frames: [`port`] reads them into buffers of [`mem`]; [`path`] decides by what stands in [`table`] and sends them
//! out by [`port`] again. Changes: [`control`] is the only writer; it publishes immutable [`table::Snapshot`]s.
//! `path` never uses `control`, serde, tracing, the file system or the clock; `table` is plain data; `port` uses
//! neither `path` nor `control`.
#![forbid(unsafe_code)]

/// The only writer: desired state, plan, effects, publication, API, store.
pub mod control;
/// Frame pool with headroom, frame, batch.
pub mod mem;
/// The fast path, in the order a frame meets it.
pub mod path;
/// Devices that frames come from and go to.
pub mod port;
/// What a worker reads.
pub mod table;
