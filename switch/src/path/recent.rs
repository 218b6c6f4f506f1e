//! Which connections a worker has met of late. The flow cache does not tell connections of the same ends apart; whoever begins one with
//! every frame, scans or floods, and is not to take the time of others (`worker/noise.rs`).

use weft_encap::Headers;

use crate::mem::Ingress;

/// Places for the connections of a port: with twice as many in turns, most frames are of one that is not known any more.
const PLACES: usize = 1 << PLACES_BITS;
const PLACES_BITS: u32 = 15;

/// By port, so that none makes another's look new; made when the first frame hits: a part of the hash of the last connection that came to each place.
#[derive(Debug, Default)]
pub(super) struct Recent(Vec<Option<Box<[u8; PLACES]>>>);

impl Recent {
    /// Notes a frame of the flow whose keyed hash is `flow`. True when its connection is not known; one in 256 new ones is taken
    /// for another. What comes from a peer is many senders', and never new.
    #[inline]
    pub(super) fn is_new(&mut self, ingress: Ingress, flow: u64, headers: &Headers) -> bool {
        let Ingress::Port(port) = ingress else { return false };
        let Some(Some(places)) = self.0.get_mut(port.index()) else { return self.open(port.index()) };
        let ports = u64::from(headers.src_port) << 16 | u64::from(headers.dst_port);
        // An odd factor; keyed by the flow's hash, so that nobody can choose ports that meet.
        let hash = (flow ^ ports).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let place = &mut places[(hash >> (u64::BITS - PLACES_BITS)) as usize];
        std::mem::replace(place, (hash >> 40) as u8) != (hash >> 40) as u8
    }

    /// Makes a port's places. Its first frame is no news.
    #[cold]
    fn open(&mut self, port: usize) -> bool {
        if self.0.len() <= port {
            self.0.resize_with(port + 1, || None);
        }
        // Zeros: pages that are not touched are not there.
        self.0[port] = vec![0; PLACES].into_boxed_slice().try_into().ok();
        false
    }
}

#[cfg(test)]
mod tests {
    use weft_encap::{build, parse};

    use super::*;
    use crate::table::{PeerSlot, PortSlot};

    #[test]
    fn a_connection_is_new_once() {
        let mut frame = [0; 100];
        let mac = weft_encap::MacAddr([2, 0, 0, 0, 0, 1]);
        let len = build::arp::request(&mut frame, (mac, [10, 0, 0, 1].into()), [10, 0, 0, 2].into()).unwrap();
        let mut headers = parse(&frame[..len]).unwrap();
        let mut recent = Recent::default();
        let mut count = |ingress: Ingress, flow: u64, ports: std::ops::Range<u16>| {
            let is_new = |port| {
                (headers.src_port, headers.dst_port) = (port, 80);
                recent.is_new(ingress, flow, &headers)
            };
            ports.map(is_new).filter(|is_new| *is_new).count()
        };
        let [a, b] = [3, 0].map(|slot| Ingress::Port(PortSlot(slot)));
        assert!(count(a, 7, 0..1000) > 950);
        assert!(count(a, 7, 0..1000) < 100, "most are known");
        assert!(count(a, 7 << 50, 0..1000) > 950, "another flow's are others");
        assert!(count(b, 9, 0..60_000) > 59_000);
        assert!(count(a, 7, 0..1000) < 200, "another port's take no place");
        assert_eq!(count(Ingress::Peer(PeerSlot(0)), 7, 0..1000), 0);
    }
}
