//! Datagrams one way: sending as fast as the kernel takes them, or at a rate, and counting what arrives. Without a rate
//! single datagrams leave 64 at a time (`sendmmsg`), so that the sender is not what limits.
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
use weft_sys::udp::{Deliveries, MANY, MAX_DATAGRAM, MAX_SEGMENTS_OLD, UdpOptions, UdpSocket};

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
    /// Flows that take turns, datagram by datagram: so many destination ports from the first on. Not with bursts.
    pub flows: u16,
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

/// Sends until a limit is reached. Several sockets take turns, system call by system call: each is as many flows more.
///
/// # Errors
/// `InvalidInput` for a size out of range; those of `sendmsg(2)` but a full buffer, which is waited for.
pub fn send(sockets: &[UdpSocket], to: SocketAddr, load: &Load, limits: &Limits) -> io::Result<Sent> {
    if !(MIN_SIZE..=MAX_DATAGRAM).contains(&load.size) {
        let text = format!("a datagram has {MIN_SIZE} to {MAX_DATAGRAM} bytes, not {}", load.size);
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let (flows, burst) = (u64::from(load.flows.max(1)), load.burst.clamp(1, MAX_SEGMENTS_OLD));
    let burst = burst.min(MAX_DATAGRAM / load.size);
    if to.port().checked_add(load.flows.max(1) - 1).is_none() || (burst > 1 && flows > 1) {
        let text = "flows take as many ports, and do not go with bursts";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let most = match (burst, load.rate, sockets.len()) {
        (2.., ..) => burst,
        (_, 0, ..=1) => MANY,
        // One datagram of each flow, then the next socket.
        (_, 0, _) => MANY.min(load.flows.max(1).into()),
        _ => 1,
    };
    let mut turns = sockets.iter().cycle();
    let mut buffer = vec![0; most * load.size];
    let stream = RandomState::new().build_hasher().finish() as u32;
    let (clock, mut done, mut sends) = (limits.start(), 0, 0);
    while let Some(left) = clock.left().filter(|_| !limits.is_done(done)) {
        if let Some(early) = ahead_of_schedule(&clock, load.rate, done) {
            std::thread::sleep(early.min(left));
            continue;
        }
        let rest = if limits.count == 0 { u64::MAX } else { limits.count - done };
        let now = rest.min(most as u64);
        let bytes = &mut buffer[..now as usize * load.size];
        for (index, datagram) in (done..done + now).zip(bytes.chunks_mut(load.size)) {
            stamp(datagram, stream.wrapping_add((index % flows) as u32).to_be_bytes(), index / flows);
        }
        let Some(socket) = turns.next() else { break };
        let sent = if burst > 1 {
            // The size fits 16 bits: it is at most `MAX_DATAGRAM`.
            let size = (now > 1).then_some(load.size as u16);
            socket.send(to, &[IoSlice::new(bytes)], size, 0).map(|_| now)
        } else {
            let way = |index| SocketAddr::new(to.ip(), to.port() + (index % flows) as u16);
            let batch = (done..).map(way).zip(bytes.chunks(load.size));
            socket.send_many(batch).map(|sent| sent as u64)
        };
        match sent {
            Ok(sent) => (done, sends) = (done + sent, sends + 1),
            Err(error) if is_full(&error) => wait(socket, PollFlags::OUT, left.min(RETRY))?,
            Err(error) => return Err(error),
        }
    }
    let (seconds, bytes) = (clock.elapsed().as_secs_f64(), done * load.size as u64);
    let (pps, mbps) = rates(done, bytes, seconds);
    Ok(Sent { datagrams: done, sends, bytes, seconds, pps, mbps })
}

/// Counts what comes to any of `sockets` until a limit is reached, or nothing has come for `idle` after the first.
///
/// # Errors
/// Those of `recvmmsg(2)`.
pub fn count(sockets: &[UdpSocket], idle: Duration, limits: &Limits) -> io::Result<Counted> {
    let mut counter = Counter::default();
    let mut deliveries = Deliveries::default();
    let clock = limits.start();
    let (mut first, mut last) = (None, Duration::ZERO);
    while let Some(left) = clock.left().filter(|_| !limits.is_done(counter.datagrams)) {
        let before = counter.datagrams;
        for socket in sockets {
            match socket.recv_many(&mut deliveries) {
                Ok(()) => {
                    last = clock.elapsed();
                    first.get_or_insert(last);
                    counter.receives += deliveries.len() as u64;
                    deliveries.datagrams().for_each(|datagram| counter.note(datagram));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        if counter.datagrams == before {
            let patience = if first.is_some() { left.min(idle) } else { left };
            let asleep = clock.elapsed();
            wait_for_any(sockets, patience)?;
            if first.is_some() && clock.elapsed() - asleep >= idle {
                break;
            }
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
    poll_for(&mut [PollFd::new(fd, what)], time)
}

/// Waits until something has come to one of them, at most `time`.
fn wait_for_any(sockets: &[UdpSocket], time: Duration) -> io::Result<()> {
    poll_for(&mut sockets.iter().map(|socket| PollFd::new(socket, PollFlags::IN)).collect::<Vec<_>>(), time)
}

fn poll_for(fds: &mut [PollFd<'_>], time: Duration) -> io::Result<()> {
    let timeout = Timespec::try_from(time).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    match poll(fds, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
