//! What the benches measure with, and the traffic tool `weft-bench`.
//!
//! [`frames`], [`scene`] and [`node`] serve the benches: packets, and a switch without a kernel, driven batch by batch as a
//! worker drives it. The rest is the tool: one module per subject, each a library function over an open socket, so
//! that tests call what the command calls. Every run is bounded in time ([`limits`]).
#![forbid(unsafe_code)]

/// What traffic notices of a daemon that dies, restarts, hangs or is reconfigured.
pub mod chaos;
/// Packets to measure with.
pub mod frames;
/// Latencies in buckets.
pub mod histogram;
/// When a run ends.
pub mod limits;
/// The other node of a scene.
pub mod node;
/// What two pods notice of a third one that floods, and of a busy API.
pub mod overload;
/// The plainest userspace switch, to compare with.
pub mod plain;
/// Requests and responses: round-trip times.
pub mod rr;
/// One worker's half of a switch, with in-process ports.
pub mod scene;
/// Which sequence numbers have come.
pub mod sequence;
/// The same work over weft and over other switches, in turns.
pub mod side;
/// Datagrams one way: sending and counting.
pub mod udp;
