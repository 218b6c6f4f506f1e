//! Packets that nobody wants, made one by one: IPv4 through a raw socket, whose headers are the sender's own.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketType, ipproto, sendto, socket, sockopt};
use weft_encap::{ipv4, proto, tcp, udp};
use weft_sys::netns::Netns;

use super::Flood;

/// Bytes of UDP payload: those of a frame of 64 bytes.
const PAYLOAD: usize = 18;
/// Longest packet here, bytes.
const LONGEST: usize = ipv4::LEN + tcp::LEN + PAYLOAD;
/// The broadcast address of a pod's network.
const LAST: u8 = 255;
/// A sender with a pace looks at the clock after so many packets.
const BURST: u64 = 16;

/// A source of packets.
pub(super) struct Source {
    flood: Flood,
    socket: OwnedFd,
    own: Ipv4Addr,
    to: Ipv4Addr,
    /// State of a xorshift generator.
    random: u64,
}

impl Source {
    /// A source in a pod of address `own`, which floods the one with address `sink`.
    pub(super) fn new(flood: Flood, pod: &Netns, own: Ipv4Addr, sink: Ipv4Addr) -> io::Result<Self> {
        // Protocol "raw": what is sent starts with an IP header.
        let open = || socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW));
        let socket = pod.run(open)??;
        sockopt::set_socket_broadcast(&socket, true)?;
        let [a, b, c, _] = own.octets();
        let to = if flood == Flood::Broadcast { Ipv4Addr::new(a, b, c, LAST) } else { sink };
        Ok(Source { flood, socket, own, to, random: 0x9e37_79b9_7f4a_7c15 })
    }

    /// Sends until told to stop, `rate` packets per second (0: as fast as they go), and counts them.
    pub(super) fn run(&mut self, rate: u64, sent: &AtomicU64, stop: &AtomicBool) {
        let begun = Instant::now();
        let mut done = 0u64;
        let mut packet = [0; LONGEST];
        // Relaxed: plain counts and flags, nothing is handed over by them.
        while !stop.load(Ordering::Relaxed) {
            if rate != 0 && done.is_multiple_of(BURST) {
                let due = Duration::from_secs_f64(done as f64 / rate as f64);
                std::thread::sleep(due.saturating_sub(begun.elapsed()));
            }
            let len = self.make(&mut packet);
            match sendto(&self.socket, &packet[..len], SendFlags::empty(), &SocketAddrV4::new(self.to, 0)) {
                Ok(_) => {
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                // A full queue is the flood's own affair.
                Err(Errno::NOBUFS | Errno::AGAIN | Errno::INTR) => {}
                Err(_) => std::thread::sleep(Duration::from_millis(1)),
            }
            done += 1;
        }
    }

    /// Makes the next packet; its length.
    fn make(&mut self, packet: &mut [u8; LONGEST]) -> usize {
        let dice = self.draw();
        let [a, b, c, d, kind, last, ..] = dice.to_be_bytes();
        let ports = match self.flood {
            // Discard, and a port that nobody listens on.
            Flood::Broadcast => [0, 9, 0, 9],
            _ => [a | 0x80, b, c | 0x80, d],
        };
        packet.fill(0);
        let upper = udp::LEN + PAYLOAD;
        ipv4::write(packet, self.own, self.to, proto::UDP, 64, upper as u16);
        let header = &mut packet[ipv4::LEN..];
        header[..4].copy_from_slice(&ports);
        header[udp::LENGTH..udp::LENGTH + 2].copy_from_slice(&(upper as u16).to_be_bytes());
        if self.flood == Flood::Bad {
            spoil(packet, kind, last);
        }
        ipv4::LEN + upper
    }

    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// Makes one of five mistakes. The kernel writes length, checksum and a missing source of the IP header itself.
fn spoil(packet: &mut [u8], kind: u8, last: u8) {
    match kind % 5 {
        // Another's address.
        0 => packet[12..16].copy_from_slice(&[10, 244, 1, last]),
        // A UDP header that is longer, and one that is shorter, than what follows.
        1 => packet[ipv4::LEN + udp::LENGTH] = 0xff,
        2 => packet[ipv4::LEN + udp::LENGTH..][..2].copy_from_slice(&[0, last % 8]),
        // TCP whose header is shorter than any.
        3 => packet[9] = proto::TCP,
        // No version of IP.
        _ => packet[0] = 0x75,
    }
}
