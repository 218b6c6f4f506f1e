//! Which connections a worker has met of late. The flow cache does not tell connections of the same ends apart; whoever begins one with
//! every frame, scans or floods, and is not to take the time of others (`worker/noise.rs`).

use weft_encap::Headers;

/// Connections, most of which are remembered: as many as the default flow cache holds flows.
const PLACES: usize = 1 << 16;

/// A part of the hash of the last connection that came to each place.
#[derive(Debug)]
pub(super) struct Recent(Box<[u8; PLACES]>);

impl Recent {
    pub(super) fn new() -> Self {
        // Zeros: pages that are not touched are not there.
        let places = vec![0; PLACES].into_boxed_slice();
        Recent(places.try_into().unwrap_or_else(|_| unreachable!("it has so many")))
    }

    /// Notes a frame of the flow whose keyed hash is `flow`. True when its connection is not known; one in 256 new ones is taken
    /// for another.
    #[inline]
    pub(super) fn is_new(&mut self, flow: u64, headers: &Headers) -> bool {
        let ports = u64::from(headers.src_port) << 16 | u64::from(headers.dst_port);
        // An odd factor; keyed by the flow's hash, so that nobody can choose ports that meet.
        let hash = (flow ^ ports).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let place = &mut self.0[(hash >> 48) as usize];
        std::mem::replace(place, (hash >> 40) as u8) != (hash >> 40) as u8
    }
}

#[cfg(test)]
mod tests {
    use weft_encap::{build, parse};

    use super::*;

    #[test]
    fn a_connection_is_new_once() {
        let mut frame = [0; 100];
        let mac = weft_encap::MacAddr([2, 0, 0, 0, 0, 1]);
        let len = build::arp::request(&mut frame, (mac, [10, 0, 0, 1].into()), [10, 0, 0, 2].into()).unwrap();
        let mut headers = parse(&frame[..len]).unwrap();
        let mut recent = Recent::new();
        let mut count = |flow: u64, ports: std::ops::Range<u16>| {
            let is_new = |port| {
                (headers.src_port, headers.dst_port) = (port, 80);
                recent.is_new(flow, &headers)
            };
            ports.map(is_new).filter(|is_new| *is_new).count()
        };
        assert!(count(7, 0..2000) > 1900);
        assert!(count(7, 0..2000) < 200, "most are known");
        assert!(count(7 << 50, 0..2000) > 1900, "another flow's are others");
        assert!(count(9, 0..60_000) > 59_000);
    }
}
