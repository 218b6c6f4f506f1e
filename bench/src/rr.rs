//! Requests and responses, one outstanding: round-trip times over UDP or TCP.
//!
//! A message starts with 12 bytes: its length (4) and its number (8), big endian. The server sends it back as it is.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use rustix::net::sockopt;
use serde::Serialize;

use crate::histogram::{Histogram, Latency};
use crate::limits::{Limits, Running};
use crate::udp::wait;

/// Bytes of a message that are not padding.
pub const MIN_SIZE: usize = 12;
/// Longest message, bytes: what a UDP datagram over IPv4 carries.
pub const MAX_SIZE: usize = 65_507;
/// Clients that a TCP server serves at a time; more are closed at once.
const MAX_CLIENTS: u64 = 64;
/// How long a server that waits looks away from its limits.
const SLICE: Duration = Duration::from_millis(100);

/// What a client asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Question {
    /// Bytes of a message, [`MIN_SIZE`] to [`MAX_SIZE`].
    pub size: usize,
    /// When a response counts as lost. Over TCP that ends the run.
    pub timeout: Duration,
}

/// What a client saw.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Answers {
    /// Requests sent.
    pub requests: u64,
    /// Responses in time.
    pub responses: u64,
    /// Requests without.
    pub lost: u64,
    /// How long the run took.
    pub seconds: f64,
    /// Responses per second.
    pub per_second: f64,
    /// Round-trip times.
    #[serde(flatten)]
    pub latency: Latency,
}

/// What a server did.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Served {
    /// Messages sent back.
    pub requests: u64,
    /// How long it ran.
    pub seconds: f64,
}

/// Asks over a connected UDP socket until a limit is reached.
///
/// # Errors
/// `InvalidInput` for a size out of range; those of the socket. A refused port counts as a lost response.
pub fn udp_client(socket: &UdpSocket, question: &Question, limits: &Limits) -> io::Result<Answers> {
    let mut answer = vec![0; MAX_SIZE];
    run_client(question, limits, |request, deadline| {
        if let Err(error) = socket.send(request) {
            return if is_silence(&error) { Ok(false) } else { Err(error) };
        }
        loop {
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            else {
                return Ok(false);
            };
            socket.set_read_timeout(Some(left))?;
            match socket.recv(&mut answer) {
                // Whatever else comes is late, or a stranger's.
                Ok(len) if answer[..len] == *request => return Ok(true),
                Ok(_) => {}
                Err(error) if is_silence(&error) => {}
                Err(error) => return Err(error),
            }
        }
    })
}

/// Asks over a TCP connection until a limit is reached.
///
/// # Errors
/// `InvalidInput` for a size out of range; those of the socket; a response that does not come in time.
pub fn tcp_client(mut stream: TcpStream, question: &Question, limits: &Limits) -> io::Result<Answers> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(question.timeout))?;
    stream.set_write_timeout(Some(question.timeout))?;
    let mut answer = vec![0; question.size.min(MAX_SIZE)];
    run_client(question, limits, |request, _| {
        stream.write_all(request)?;
        stream.read_exact(&mut answer)?;
        if answer == request { Ok(true) } else { Err(invalid("the response differs from the request")) }
    })
}

/// Connects, asks once and closes, over and over, until a limit is reached; the time of all three counts.
///
/// Connections are reset at their end: none is left waiting, so that ports do not run out.
///
/// # Errors
/// As [`tcp_client`].
pub fn connect_client(to: SocketAddr, question: &Question, limits: &Limits) -> io::Result<Answers> {
    let mut answer = vec![0; question.size.min(MAX_SIZE)];
    run_client(question, limits, |request, _| {
        let mut stream = TcpStream::connect_timeout(&to, question.timeout)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(question.timeout))?;
        sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
        stream.write_all(request)?;
        stream.read_exact(&mut answer)?;
        if answer == request { Ok(true) } else { Err(invalid("the response differs from the request")) }
    })
}

/// Answers over UDP until a limit is reached.
///
/// # Errors
/// Those of the socket.
pub fn udp_server(socket: &UdpSocket, limits: &Limits) -> io::Result<Served> {
    let mut buffer = vec![0; MAX_SIZE];
    let (clock, mut requests) = (limits.start(), 0);
    while let Some(left) = clock.left().filter(|_| !limits.is_done(requests)) {
        socket.set_read_timeout(Some(left))?;
        match socket.recv_from(&mut buffer) {
            Ok((len, from)) => {
                socket.send_to(&buffer[..len], from)?;
                requests += 1;
            }
            Err(error) if is_silence(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Served { requests, seconds: clock.elapsed().as_secs_f64() })
}

/// Answers one request of each connection until a limit is reached, one connection after the other: what
/// [`connect_client`] talks to.
///
/// # Errors
/// Those of the listener.
pub fn connect_server(listener: &TcpListener, limits: &Limits) -> io::Result<Served> {
    listener.set_nonblocking(true)?;
    let mut buffer = vec![0; MAX_SIZE];
    let (clock, mut requests) = (limits.start(), 0);
    while let Some(left) = clock.left().filter(|_| !limits.is_done(requests)) {
        match listener.accept() {
            Ok((mut stream, _)) => {
                stream.set_nonblocking(false)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(left.min(SLICE)))?;
                // A client that breaks off is its own affair.
                let answered =
                    read_message(&mut stream, &mut buffer).and_then(|message| stream.write_all(message));
                requests += u64::from(answered.is_ok());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                wait(listener, PollFlags::IN, left.min(SLICE))?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Served { requests, seconds: clock.elapsed().as_secs_f64() })
}

/// Answers over TCP until a limit is reached, every client on a thread of its own.
///
/// # Errors
/// Those of the listener. A client that misbehaves loses its connection.
pub fn tcp_server(listener: &TcpListener, limits: &Limits) -> io::Result<Served> {
    listener.set_nonblocking(true)?;
    let service = Service { clock: limits.start(), limits: *limits, requests: AtomicU64::new(0) };
    let clients = AtomicU64::new(0);
    std::thread::scope(|scope| {
        while let Some(left) = service.left() {
            match listener.accept() {
                // Relaxed: plain counts, nothing is handed over by them.
                Ok((stream, _)) if clients.load(Ordering::Relaxed) < MAX_CLIENTS => {
                    clients.fetch_add(1, Ordering::Relaxed);
                    scope.spawn(|| {
                        // Its error is the client's to see.
                        let _ = service.serve(stream);
                        clients.fetch_sub(1, Ordering::Relaxed);
                    });
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait(listener, PollFlags::IN, left.min(SLICE))?;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    })?;
    let seconds = service.clock.elapsed().as_secs_f64();
    Ok(Served { requests: service.requests.into_inner(), seconds })
}

/// Connects within `timeout`, trying again while nobody listens yet.
///
/// # Errors
/// The last one of `connect(2)`.
pub fn connect(to: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let deadline = Instant::now() + timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match TcpStream::connect_timeout(&to, left.max(Duration::from_millis(1))) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused && left > SLICE => {
                std::thread::sleep(SLICE);
            }
            result => return result,
        }
    }
}

/// Numbers requests and measures; `ask` sends one and says whether its response came in time.
fn run_client(
    question: &Question,
    limits: &Limits,
    mut ask: impl FnMut(&[u8], Instant) -> io::Result<bool>,
) -> io::Result<Answers> {
    if !(MIN_SIZE..=MAX_SIZE).contains(&question.size) {
        return Err(invalid(&format!("a message has {MIN_SIZE} to {MAX_SIZE} bytes, not {}", question.size)));
    }
    let mut request = vec![0; question.size];
    request[..4].copy_from_slice(&(question.size as u32).to_be_bytes());
    let (mut requests, mut histogram, clock) = (0u64, Histogram::default(), limits.start());
    while clock.left().is_some() && !limits.is_done(requests) {
        request[4..12].copy_from_slice(&requests.to_be_bytes());
        requests += 1;
        let sent = Instant::now();
        if ask(&request, sent + question.timeout)? {
            histogram.record(sent.elapsed());
        }
    }
    let (responses, seconds) = (histogram.count(), clock.elapsed().as_secs_f64());
    let per_second = if seconds > 0.0 { responses as f64 / seconds } else { 0.0 };
    let (lost, latency) = (requests - responses, histogram.latency());
    Ok(Answers { requests, responses, lost, seconds, per_second, latency })
}

/// What the threads of a TCP server share.
struct Service {
    clock: Running,
    limits: Limits,
    requests: AtomicU64,
}

impl Service {
    fn left(&self) -> Option<Duration> {
        // Relaxed: a limit that is seen a moment late lets a request or two more through.
        self.clock.left().filter(|_| !self.limits.is_done(self.requests.load(Ordering::Relaxed)))
    }

    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        let mut buffer = vec![0; MAX_SIZE];
        while let Some(left) = self.left() {
            // Only a wait that takes nothing off the stream may be cut short.
            stream.set_read_timeout(Some(left.min(SLICE)))?;
            match stream.peek(&mut buffer[..1]) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) if is_silence(&error) => continue,
                Err(error) => return Err(error),
            }
            stream.set_read_timeout(Some(left))?;
            stream.set_write_timeout(Some(left))?;
            let message = read_message(&mut stream, &mut buffer)?;
            stream.write_all(message)?;
            self.requests.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

fn read_message<'a>(stream: &mut TcpStream, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let mut head = [0; 4];
    stream.read_exact(&mut head)?;
    let len = u32::from_be_bytes(head) as usize;
    if !(MIN_SIZE..=MAX_SIZE).contains(&len) {
        return Err(invalid("no message of ours"));
    }
    buffer[..4].copy_from_slice(&head);
    stream.read_exact(&mut buffer[4..len])?;
    Ok(&buffer[..len])
}

/// Errors that mean: nothing came, or nobody listens yet.
fn is_silence(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted | ConnectionRefused)
}

fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}
