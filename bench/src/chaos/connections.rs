//! Connections that carry bytes as fast as they can, every byte checked: one thread writes, one reads.
//!
//! Every second one carries towards its server, the others towards their client, so both directions are full.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weft_sys::netns::Netns;

/// Bytes until the pattern repeats: a prime, so no lost segment leaves it in step.
const PERIOD: usize = 1_000_003;
/// Bytes of a read or write.
const CHUNK: usize = 1 << 16;
/// How long a thread sleeps until it looks whether it should end, and how long opening may take.
const SLICE: Duration = Duration::from_millis(100);
const OPENING: Duration = Duration::from_secs(10);

/// Open connections; dropped: closed.
#[derive(Debug)]
pub(super) struct Connections {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    stop: AtomicBool,
    all: Vec<One>,
    pattern: Vec<u8>,
}

#[derive(Debug, Default)]
struct One {
    /// Bytes that arrived.
    carried: AtomicU64,
    /// Why it broke.
    broken: Mutex<Option<String>>,
}

impl One {
    fn has_broken(&self, why: impl ToString) {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.get_or_insert_with(|| why.to_string());
    }

    fn reason(&self) -> Option<String> {
        self.broken.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Connections {
    /// Opens `count` from one namespace to an address in another.
    pub(super) fn open(near: &Netns, far: &Netns, to: IpAddr, count: usize) -> io::Result<Self> {
        let listener = far.run(|| TcpListener::bind(SocketAddr::new(to, 0)))??;
        let address = listener.local_addr()?;
        let (mut senders, mut receivers) = (Vec::new(), Vec::new());
        for number in 0..count {
            let client = near.run(|| TcpStream::connect_timeout(&address, OPENING))??;
            let (server, _) = listener.accept()?;
            client.set_nonblocking(true)?;
            server.set_nonblocking(true)?;
            let (sender, receiver) = if number % 2 == 0 { (client, server) } else { (server, client) };
            senders.push(Some(sender));
            receivers.push(Some(receiver));
        }
        let all = (0..count).map(|_| One::default()).collect();
        let shared = Arc::new(Shared { stop: AtomicBool::new(false), all, pattern: pattern() });
        let (writing, reading) = (Arc::clone(&shared), Arc::clone(&shared));
        let threads = vec![
            std::thread::spawn(move || each_ready(&writing, senders, PollFlags::OUT, write)),
            std::thread::spawn(move || each_ready(&reading, receivers, PollFlags::IN, read)),
        ];
        Ok(Connections { shared, threads })
    }

    /// Those that broke, or carry nothing for so long from now on: number and reason of each.
    pub(super) fn broken(&self, patience: Duration) -> Vec<String> {
        let carried = |one: &One| one.carried.load(Ordering::Relaxed);
        let all = &self.shared.all;
        let (before, end) = (all.iter().map(carried).collect::<Vec<_>>(), Instant::now() + patience);
        let stalls = |(one, before): (&One, &u64)| carried(one) == *before && one.reason().is_none();
        while all.iter().zip(&before).any(stalls) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
        }
        for (one, before) in all.iter().zip(&before) {
            if stalls((one, before)) {
                one.has_broken(format!("carries nothing for {} s", patience.as_secs()));
            }
        }
        let broken = all.iter().enumerate().filter_map(|(number, one)| Some((number, one.reason()?)));
        broken.map(|(number, reason)| format!("{number}: {reason}")).collect()
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One read or write of a connection: its number, its position in the pattern. How many bytes.
type Step = fn(&mut TcpStream, &[u8], usize) -> io::Result<usize>;

/// Takes a step with each connection that is ready, until told to stop; forgets those that break.
fn each_ready(shared: &Shared, mut streams: Vec<Option<TcpStream>>, flags: PollFlags, step: Step) {
    // Each starts elsewhere in the pattern: bytes of one in another are seen.
    let mut positions: Vec<usize> = (0..streams.len()).map(|number| number * 4099).collect();
    let slice = Timespec::try_from(SLICE).ok();
    // Relaxed: a plain flag, nothing is handed over by it.
    while !shared.stop.load(Ordering::Relaxed) {
        let open =
            || streams.iter().enumerate().filter_map(|(number, stream)| Some((number, stream.as_ref()?)));
        let numbers: Vec<usize> = open().map(|(number, _)| number).collect();
        let mut fds: Vec<PollFd<'_>> = open().map(|(_, stream)| PollFd::new(stream, flags)).collect();
        if fds.is_empty() {
            return;
        }
        if poll(&mut fds, slice.as_ref()).is_err() {
            continue;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        for (number, _) in numbers.into_iter().zip(ready).filter(|(_, ready)| *ready) {
            let Some(stream) = &mut streams[number] else { continue };
            match step(stream, &shared.pattern, positions[number]) {
                Ok(len) => {
                    positions[number] = (positions[number] + len) % PERIOD;
                    if flags == PollFlags::IN {
                        shared.all[number].carried.fetch_add(len as u64, Ordering::Relaxed);
                    }
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                // The ends are closed one after the other.
                Err(_) if shared.stop.load(Ordering::Relaxed) => return,
                Err(error) => {
                    shared.all[number].has_broken(error);
                    streams[number] = None;
                }
            }
        }
    }
}

fn write(stream: &mut TcpStream, pattern: &[u8], position: usize) -> io::Result<usize> {
    stream.write(&pattern[position..position + CHUNK])
}

fn read(stream: &mut TcpStream, pattern: &[u8], position: usize) -> io::Result<usize> {
    let mut buffer = [0; CHUNK];
    let len = stream.read(&mut buffer)?;
    match len {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "ended")),
        _ if buffer[..len] != pattern[position..position + len] => {
            Err(io::Error::new(io::ErrorKind::InvalidData, "carried other bytes than were sent"))
        }
        _ => Ok(len),
    }
}

/// The pattern, and enough of its beginning that every chunk of it lies in one piece.
fn pattern() -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes: Vec<u8> = (0..PERIOD)
        .map(|_| {
            // xorshift64 (Marsaglia 2003).
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_be_bytes()[0]
        })
        .collect();
    bytes.extend_from_within(..CHUNK);
    bytes
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    #[test]
    fn connections_carry_and_break() {
        let Ok(here) = Netns::current() else { return };
        let open = |_| Connections::open(&here, &here, Ipv4Addr::LOCALHOST.into(), 3);
        // Without the right to enter a namespace, even one's own, there is nothing to test.
        let Ok(connections) = open(()) else { return };
        assert!(connections.broken(Duration::from_secs(5)).is_empty());
        connections.shared.all[1].has_broken("by hand");
        assert_eq!(connections.broken(Duration::from_secs(5)), ["1: by hand"]);
    }

    #[test]
    fn other_bytes_are_seen() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut server = listener.accept().unwrap().0;
        let pattern = pattern();
        client.write_all(&pattern[5..15]).unwrap();
        assert_eq!(read(&mut server, &pattern, 5).unwrap(), 10);
        client.write_all(&pattern[16..20]).unwrap();
        assert_eq!(read(&mut server, &pattern, 15).unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(client);
        assert_eq!(read(&mut server, &pattern, 15).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
