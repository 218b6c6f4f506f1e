//! A forwarder with frames from ports and peers: ARP, ND and ICMP answered, guards, routes, floods, the cache.

use weft_encap::VnetHdr;

use crate::world::World;
use crate::{record, take};

/// Records of: ingress, seconds that pass before it, whether a virtio header comes first, frame. Up to 64 of them go
/// through as one batch.
pub fn forward(mut data: &[u8]) {
    let mut world = World::new("192.0.2.1".parse().expect("an address"));
    while let Some(mut frame) = record(&mut data) {
        let [from, flags] = take(&mut frame);
        if flags & 2 != 0 {
            world.forward();
            world.advance(flags >> 2);
        }
        let header = if flags & 1 != 0 { VnetHdr::read(&take(&mut frame)) } else { VnetHdr::NONE };
        world.put(World::ingress(from), header, frame);
        if world.batch.is_full() {
            world.forward();
        }
    }
    world.forward();
}
