//! UDP sockets that carry VXLAN: one receiving socket per family, a small pool of sending ones.

/// The sockets of one UDP port.
#[derive(Debug)]
pub struct Underlay {}
