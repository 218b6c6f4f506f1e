//! TAP devices: one descriptor per queue, frames with a `virtio_net_hdr`.

/// An open TAP device.
#[derive(Debug)]
pub struct TapDevice {}
