//! TAP devices: one descriptor per queue, frames with a `virtio_net_hdr`.

use std::io;

use weft_sys::tun::{Offloads, Tap};

/// An open TAP device.
#[derive(Debug)]
pub struct TapDevice {
    queues: Vec<Tap>,
}

impl TapDevice {
    /// A device of these queues, all of one device.
    ///
    /// # Errors
    /// `InvalidInput` when there is none.
    pub fn new(queues: Vec<Tap>) -> io::Result<Self> {
        if queues.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a device needs at least one queue"));
        }
        Ok(TapDevice { queues })
    }

    /// Its queues.
    pub fn queues(&self) -> &[Tap] {
        &self.queues
    }

    /// What frames from the device may owe.
    pub fn offloads(&self) -> Offloads {
        self.queues.first().map_or(Offloads::empty(), Tap::offloads)
    }
}
