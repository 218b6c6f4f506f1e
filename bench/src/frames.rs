//! Packets to measure with: Ethernet, IPv4, UDP or TCP, checksums complete.

use std::net::Ipv4Addr;

use weft_encap::{Gso, Headers, MacAddr, VnetHdr, checksum, eth, gso, ipv4, parse, proto, tcp, udp};

/// Bytes of a frame that is 64 bytes on a wire: the frame check sequence is never seen by a switch.
pub const SMALL: usize = 60;

/// Bytes of Ethernet, IPv4 and UDP headers.
const UDP_AT: usize = eth::LEN + ipv4::LEN;

/// Both ends of a flow.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// Destination and source MAC.
    pub macs: (MacAddr, MacAddr),
    /// Source and destination address.
    pub ips: (Ipv4Addr, Ipv4Addr),
    /// Source and destination port.
    pub ports: (u16, u16),
}

impl Ends {
    /// Ends for packets that meet no switch.
    pub fn sample() -> Self {
        Ends {
            macs: (MacAddr([2, 0, 0, 0, 0, 1]), MacAddr([2, 0, 0, 0, 0, 2])),
            ips: (Ipv4Addr::new(10, 1, 0, 2), Ipv4Addr::new(10, 1, 0, 3)),
            ports: (40_000, 5001),
        }
    }
}

/// A UDP frame of `len` bytes, headers included.
pub fn udp4(ends: &Ends, len: usize) -> Vec<u8> {
    let mut frame = ip4(ends, proto::UDP, len);
    let upper = len - UDP_AT;
    frame[UDP_AT + udp::LENGTH..UDP_AT + udp::LENGTH + 2].copy_from_slice(&(upper as u16).to_be_bytes());
    completed(frame)
}

/// A TCP frame of `len` bytes, headers included: ACK set, no options.
pub fn tcp4(ends: &Ends, seq: u32, len: usize) -> Vec<u8> {
    let mut frame = ip4(ends, proto::TCP, len);
    let header = &mut frame[UDP_AT..];
    header[tcp::SEQ..tcp::SEQ + 4].copy_from_slice(&seq.to_be_bytes());
    header[tcp::DATA_OFFSET] = (tcp::LEN as u8 / 4) << 4;
    header[tcp::FLAGS] = tcp::ACK;
    completed(frame)
}

/// A TCP superframe of `len` bytes as a pod sends it, to be cut into segments of `size` payload bytes: its checksum
/// is owed.
pub fn tcp4_superframe(ends: &Ends, len: usize, size: u16) -> (Vec<u8>, Headers, VnetHdr) {
    let mut frame = tcp4(ends, 1, len);
    let headers = headers(&frame);
    checksum::owe(&mut frame, &headers);
    (frame, headers, VnetHdr::describe(&headers, Gso::Tcp { size }, true))
}

/// The segments that such a superframe falls into.
pub fn segments(frame: &[u8], headers: &Headers, size: u16) -> Vec<Vec<u8>> {
    let plan = gso::Plan::new(headers, Gso::Tcp { size }).expect("a TCP superframe has a plan");
    let mut out = vec![0; plan.count() * plan.segment_len(0)];
    let all = 0..plan.count();
    let cut =
        gso::cut(frame, headers, &plan, all.clone(), 0, &mut out).expect("the buffer holds all segments");
    all.map(|index| out[cut.range(index)].to_vec()).collect()
}

/// The headers of a frame made here.
pub fn headers(frame: &[u8]) -> Headers {
    parse(frame).expect("frames made here parse")
}

/// A frame without upper header; `len` bytes of payload and headers, the payload a pattern.
fn ip4(ends: &Ends, protocol: u8, len: usize) -> Vec<u8> {
    assert!((UDP_AT + tcp::LEN..=eth::LEN + ipv4::MAX_PACKET).contains(&len), "a frame of {len} bytes");
    let mut frame: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
    let (dst, src) = ends.macs;
    eth::write(&mut frame, dst, src, eth::IPV4);
    let (src, dst) = ends.ips;
    ipv4::write(&mut frame[eth::LEN..], src, dst, protocol, 64, (len - UDP_AT) as u16);
    let upper = if protocol == proto::TCP { tcp::LEN } else { udp::LEN };
    frame[UDP_AT..UDP_AT + upper].fill(0);
    frame[UDP_AT..UDP_AT + 2].copy_from_slice(&ends.ports.0.to_be_bytes());
    frame[UDP_AT + 2..UDP_AT + 4].copy_from_slice(&ends.ports.1.to_be_bytes());
    frame
}

fn completed(mut frame: Vec<u8>) -> Vec<u8> {
    let headers = headers(&frame);
    checksum::complete(&mut frame, &headers);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_whole() {
        let ends = Ends::sample();
        for frame in [udp4(&ends, SMALL), tcp4(&ends, 1, SMALL), tcp4(&ends, 1, 1514)] {
            assert_eq!(checksum::state(&frame, &headers(&frame)), checksum::State::Verified);
        }
        let (frame, headers, vnet) = tcp4_superframe(&ends, 65_000, 1398);
        assert_eq!(vnet.validate(&headers), Ok(Gso::Tcp { size: 1398 }));
        let cut = segments(&frame, &headers, 1398);
        assert_eq!(cut.len(), (65_000usize - 54).div_ceil(1398));
        assert!(cut.iter().all(|segment| {
            checksum::state(segment, &super::headers(segment)) == checksum::State::Verified
        }));
    }
}
