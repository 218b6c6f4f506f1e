//! Devices that frames come from and go to. Every one has the same shape: open, receive a batch, send a batch.

/// In-process port, for tests and benches.
pub mod mem;
/// TAP devices.
pub mod tap;
/// UDP sockets that carry VXLAN.
pub mod underlay;

use std::sync::Arc;

pub use mem::MemDevice;
pub use tap::TapDevice;
pub use underlay::Underlay;

/// What a port reads and writes. Cloned by control only; a worker borrows it from the snapshot.
#[derive(Clone, Debug)]
pub enum Device {
    /// A TAP device.
    Tap(Arc<TapDevice>),
    /// Two in-process rings.
    Mem(Arc<MemDevice>),
    /// None of its own: a stretched segment, whose frames go to its peers.
    Segment(Arc<Vec<crate::table::PeerSlot>>),
}
