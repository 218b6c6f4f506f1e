//! Numbered datagrams at a steady pace, judged where they arrive: which are missing, and how long nothing came.
//!
//! Gaps are taken between arrivals, so packets that waited and came all at once do not hide that nothing came before.

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use weft_sys::netns::Netns;
use weft_sys::udp::{UdpOptions, UdpSocket};

use crate::sequence::Sequence;
use crate::udp::{self, wait};

/// Bytes of a datagram: those of a ping.
const SIZE: usize = 64;
/// Room for seconds of datagrams: what waits in a socket must not be lost there.
const OPTIONS: UdpOptions = UdpOptions { gro: false, buffer: 32 << 20, zero_checksum6: false };
/// How long a thread sleeps until it looks whether it should end.
const SLICE: Duration = Duration::from_millis(50);
/// The last ones may take so long.
const LATEST: Duration = Duration::from_secs(2);
/// Both threads are measuring instruments: they come before the load where that is allowed.
const NICENESS: i32 = -15;

/// A running stream.
#[derive(Debug)]
pub(super) struct Stream {
    shared: Arc<Shared>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    interval: Duration,
    sending: AtomicBool,
    receiving: AtomicBool,
    sent: AtomicU64,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    last: Instant,
    longest: Duration,
    sequence: Sequence,
}

impl Shared {
    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream {
    /// Starts sending from one namespace to an address of another.
    pub(super) fn start(from: &Netns, into: &Netns, to: IpAddr, interval: Duration) -> io::Result<Self> {
        let receiver = into.run(|| UdpSocket::bind(SocketAddr::new(to, 0), &OPTIONS))??;
        let any = SocketAddr::new(udp::any(to.is_ipv6()), 0);
        let sender = from.run(|| UdpSocket::bind(any, &OPTIONS))??;
        let to = receiver.local_addr()?;
        let seen = Seen { last: Instant::now(), longest: Duration::ZERO, sequence: Sequence::default() };
        let shared = Arc::new(Shared {
            interval,
            sending: AtomicBool::new(true),
            receiving: AtomicBool::new(true),
            sent: AtomicU64::new(0),
            seen: Mutex::new(seen),
        });
        let (sending, receiving) = (Arc::clone(&shared), Arc::clone(&shared));
        Ok(Stream {
            shared,
            sender: std::thread::spawn(move || send(&sending, &sender, to)),
            receiver: std::thread::spawn(move || receive(&receiving, &receiver)),
        })
    }

    /// Gaps count from now on. One that is open now counts whole.
    pub(super) fn forget_gaps(&self) {
        self.shared.seen().longest = Duration::ZERO;
    }

    /// The longest time without arrivals, less the sender's interval. One that has not ended counts.
    pub(super) fn longest_gap(&self) -> Duration {
        let seen = self.shared.seen();
        seen.longest.max(seen.last.elapsed()).saturating_sub(self.shared.interval)
    }

    /// Ends it: datagrams sent, and how many of them came.
    pub(super) fn finish(self) -> (u64, u64) {
        // Relaxed, here and below: plain flags and counts, nothing is handed over by them.
        self.shared.sending.store(false, Ordering::Relaxed);
        let _ = self.sender.join();
        let (sent, end) = (self.shared.sent.load(Ordering::Relaxed), Instant::now() + LATEST);
        while self.shared.seen().sequence.gaps().received < sent && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        self.shared.receiving.store(false, Ordering::Relaxed);
        let _ = self.receiver.join();
        (sent, self.shared.seen().sequence.gaps().received)
    }
}

fn send(shared: &Shared, socket: &UdpSocket, to: SocketAddr) {
    let _ = rustix::process::setpriority_process(None, NICENESS);
    let mut datagram = [0; SIZE];
    let (mut due, mut number) = (Instant::now(), 0);
    while shared.sending.load(Ordering::Relaxed) {
        let early = due.saturating_duration_since(Instant::now());
        if !early.is_zero() {
            std::thread::sleep(early);
            continue;
        }
        udp::stamp(&mut datagram, [0; 4], number);
        match socket.send(to, &[IoSlice::new(&datagram)], None, 0) {
            // A device that takes nothing is a packet lost, not an end of the pace.
            Ok(_) | Err(_) => number += 1,
        }
        shared.sent.store(number, Ordering::Relaxed);
        due += shared.interval;
    }
}

fn receive(shared: &Shared, socket: &UdpSocket) {
    let _ = rustix::process::setpriority_process(None, NICENESS);
    let mut buffer = [0; 2048];
    while shared.receiving.load(Ordering::Relaxed) {
        match socket.recv(&mut buffer) {
            Ok(received) => {
                let Some((_, number)) = udp::parse(&buffer[..received.len]) else { continue };
                let (now, mut seen) = (Instant::now(), shared.seen());
                seen.longest = seen.longest.max(now.saturating_duration_since(seen.last));
                seen.last = now;
                seen.sequence.note(number);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let _ = wait(socket, PollFlags::IN, SLICE);
            }
            // An ICMP error is its sender's to deal with.
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn all_that_is_sent_comes() {
        let Ok(here) = Netns::current() else { return };
        let start = || Stream::start(&here, &here, Ipv4Addr::LOCALHOST.into(), Duration::from_millis(1));
        // Without the right to enter a namespace, even one's own, there is nothing to test.
        let Ok(stream) = start() else { return };
        std::thread::sleep(Duration::from_millis(50));
        // A gap is as long as it is, less the interval, also while it lasts.
        stream.shared.seen().last = Instant::now() + Duration::from_secs(1);
        stream.shared.seen().longest = Duration::from_millis(801);
        assert_eq!(stream.longest_gap(), Duration::from_millis(800));
        let (sent, came) = stream.finish();
        assert!(sent >= 10, "{sent}");
        assert_eq!(sent, came);
    }
}
