//! Datagrams one way: sending as fast as the kernel takes them, or at a rate, and counting what arrives.
//!
//! A datagram starts with 16 bytes: [`MAGIC`], the number of the stream, and its own number in it, big endian. A
//! counter tells streams apart, so several senders may send to one.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Serialize;
use weft_sys::udp::{MAX_DATAGRAM, MAX_SEGMENTS_OLD, UdpOptions, UdpSocket};

use crate::limits::{Limits, Running};
use crate::sequence::{Gaps, Sequence};

/// First bytes of every datagram.
pub const MAGIC: [u8; 4] = *b"weft";
/// Bytes of a datagram that are not padding.
pub const MIN_SIZE: usize = 16;
/// Streams that a counter tells apart; datagrams of more are foreign.
const MAX_STREAMS: usize = 256;

/// What to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Load {
    /// Bytes of a datagram, [`MIN_SIZE`] to [`MAX_DATAGRAM`].
    pub size: usize,
    /// Datagrams of one send, as far as the kernel's limits allow; more than 1 needs `UDP_SEGMENT` (Linux 4.18).
    pub burst: usize,
    /// Datagrams per second; 0: as fast as they go.
    pub rate: u64,
}

/// What was sent.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Sent {
    /// Datagrams that the kernel took.
    pub datagrams: u64,
    /// System calls that sent.
    pub sends: u64,
    /// Payload bytes.
    pub bytes: u64,
    /// From the first to the last, seconds.
    pub seconds: f64,
    /// Datagrams per second.
    pub pps: f64,
    /// Megabits of payload per second.
    pub mbps: f64,
}

/// What arrived.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Counted {
    /// Datagrams of any stream.
    pub datagrams: u64,
    /// Receives that brought them: runs of datagrams come as one.
    pub receives: u64,
    /// Their bytes of payload.
    pub bytes: u64,
    /// From the first to the last, seconds.
    pub seconds: f64,
    /// Datagrams per second.
    pub pps: f64,
    /// Megabits of payload per second.
    pub mbps: f64,
    /// Streams.
    pub streams: usize,
    /// Datagrams that no sender of ours has made.
    pub foreign: u64,
    /// What became of the numbers, over all streams.
    #[serde(flatten)]
    pub gaps: Gaps,
}

/// The address that stands for all of a family.
pub fn any(is_ipv6: bool) -> IpAddr {
    if is_ipv6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) }
}

/// A socket to send or to count with.
///
/// # Errors
/// Those of `bind(2)`.
pub fn bind(local: SocketAddr) -> io::Result<UdpSocket> {
    UdpSocket::bind(local, &UdpOptions { buffer: 4 << 20, ..UdpOptions::default() })
}

/// Sends until a limit is reached.
///
/// # Errors
/// `InvalidInput` for a size out of range; those of `sendmsg(2)` but a full buffer, which is waited for.
pub fn send(socket: &UdpSocket, to: SocketAddr, load: &Load, limits: &Limits) -> io::Result<Sent> {
    if !(MIN_SIZE..=MAX_DATAGRAM).contains(&load.size) {
        let text = format!("a datagram has {MIN_SIZE} to {MAX_DATAGRAM} bytes, not {}", load.size);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let burst = load.burst.clamp(1, MAX_SEGMENTS_OLD).min(MAX_DATAGRAM / load.size);
    let mut buffer = vec![0; burst * load.size];
    let stream = (RandomState::new().build_hasher().finish() as u32).to_be_bytes();
    let (clock, mut done, mut sends) = (limits.start(), 0, 0);
    while let Some(left) = clock.left().filter(|_| !limits.is_done(done)) {
        if let Some(early) = ahead_of_schedule(&clock, load.rate, done) {
            std::thread::sleep(early.min(left));
            continue;
        }
        let rest = if limits.count == 0 { u64::MAX } else { limits.count - done };
        let now = rest.min(burst as u64);
        for (number, datagram) in (done..done + now).zip(buffer.chunks_mut(load.size)) {
            stamp(datagram, stream, number);
        }
        let bytes = &buffer[..now as usize * load.size];
        // The size fits 16 bits: it is at most `MAX_DATAGRAM`.
        match socket.send(to, &[IoSlice::new(bytes)], (now > 1).then_some(load.size as u16), 0) {
            Ok(_) => (done, sends) = (done + now, sends + 1),
            Err(error) if is_full(&error) => wait(socket, PollFlags::OUT, left.min(RETRY))?,
            Err(error) => return Err(error),
        }
    }
    let (seconds, bytes) = (clock.elapsed().as_secs_f64(), done * load.size as u64);
    let (pps, mbps) = rates(done, bytes, seconds);
    Ok(Sent { datagrams: done, sends, bytes, seconds, pps, mbps })
}

/// Counts until a limit is reached, or nothing has come for `idle` after the first datagram.
///
/// # Errors
/// Those of `recvmsg(2)`.
pub fn count(socket: &UdpSocket, idle: Duration, limits: &Limits) -> io::Result<Counted> {
    let mut counter = Counter::default();
    let mut buffer = vec![0; 1 << 16];
    let clock = limits.start();
    let (mut first, mut last) = (None, Duration::ZERO);
    while let Some(left) = clock.left().filter(|_| !limits.is_done(counter.datagrams)) {
        match socket.recv(&mut buffer) {
            Ok(received) => {
                last = clock.elapsed();
                first.get_or_insert(last);
                counter.receives += 1;
                let size = received.segment.map_or(received.len, usize::from).max(1);
                buffer[..received.len].chunks(size).for_each(|datagram| counter.note(datagram));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let patience = if first.is_some() { left.min(idle) } else { left };
                let before = clock.elapsed();
                wait(socket, PollFlags::IN, patience)?;
                if first.is_some() && clock.elapsed() - before >= idle {
                    break;
                }
            }
            Err(error) => return Err(error),
        }
    }
    Ok(counter.report(last - first.unwrap_or(last)))
}

/// Longest wait for room in a socket's buffer: the kernel does not always tell (`ENOBUFS`).
const RETRY: Duration = Duration::from_millis(1);

#[derive(Default)]
struct Counter {
    streams: HashMap<[u8; 4], Sequence>,
    datagrams: u64,
    receives: u64,
    bytes: u64,
    foreign: u64,
}

impl Counter {
    fn note(&mut self, datagram: &[u8]) {
        self.datagrams += 1;
        self.bytes += datagram.len() as u64;
        match parse(datagram) {
            Some((stream, number))
                if self.streams.len() < MAX_STREAMS || self.streams.contains_key(&stream) =>
            {
                self.streams.entry(stream).or_default().note(number);
            }
            _ => self.foreign += 1,
        }
    }

    fn report(&self, time: Duration) -> Counted {
        let seconds = time.as_secs_f64();
        let (pps, mbps) = rates(self.datagrams, self.bytes, seconds);
        let gaps = self.streams.values().map(Sequence::gaps).fold(Gaps::default(), |sum, gaps| Gaps {
            received: sum.received + gaps.received,
            lost: sum.lost.saturating_add(gaps.lost),
            gaps: sum.gaps + gaps.gaps,
            late: sum.late + gaps.late,
            duplicate: sum.duplicate + gaps.duplicate,
        });
        Counted {
            datagrams: self.datagrams,
            receives: self.receives,
            bytes: self.bytes,
            seconds,
            pps,
            mbps,
            streams: self.streams.len(),
            foreign: self.foreign,
            gaps,
        }
    }
}

/// Writes the head of a datagram of at least [`MIN_SIZE`] bytes.
pub(crate) fn stamp(datagram: &mut [u8], stream: [u8; 4], number: u64) {
    datagram[..4].copy_from_slice(&MAGIC);
    datagram[4..8].copy_from_slice(&stream);
    datagram[8..16].copy_from_slice(&number.to_be_bytes());
}

/// Stream and number.
pub(crate) fn parse(datagram: &[u8]) -> Option<([u8; 4], u64)> {
    let (magic, rest) = datagram.split_first_chunk::<4>()?;
    let (stream, rest) = rest.split_first_chunk::<4>()?;
    let number = rest.first_chunk::<8>()?;
    (*magic == MAGIC).then(|| (*stream, u64::from_be_bytes(*number)))
}

/// How long the next datagram has to wait.
fn ahead_of_schedule(clock: &Running, rate: u64, done: u64) -> Option<Duration> {
    if rate == 0 {
        return None;
    }
    let due = Duration::from_secs_f64(done as f64 / rate as f64);
    due.checked_sub(clock.elapsed()).filter(|early| !early.is_zero())
}

/// Per second: datagrams, and megabits of `bytes`. Zeros when no time has passed.
fn rates(datagrams: u64, bytes: u64, seconds: f64) -> (f64, f64) {
    if seconds > 0.0 { (datagrams as f64 / seconds, bytes as f64 * 8e-6 / seconds) } else { (0.0, 0.0) }
}

fn is_full(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
        || error.raw_os_error() == Some(rustix::io::Errno::NOBUFS.raw_os_error())
}

/// Waits until `fd` is ready for `what`, at most `time`.
pub(crate) fn wait(fd: &impl AsFd, what: PollFlags, time: Duration) -> io::Result<()> {
    let timeout = Timespec::try_from(time).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    match poll(&mut [PollFd::new(fd, what)], Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
