//! Whole decisions on handcrafted snapshots: a frame in, what comes out where, or why it died.

mod answers;
mod cached;
mod frames;
mod guarded;
mod hostile;
mod lab;
mod mtu;
mod routed;
mod switched;
