//! Datagrams from a sender that leaves the cutting to others (`UDP_SEGMENT`, `linux/udp.h`), checked one by one.
//!
//! A datagram starts with its number; the rest is a pattern that the number gives, so one byte of another datagram, or
//! at another place, is seen.

use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use weft_sys::netns::Netns;
use weft_sys::udp::{Received, UdpOptions, UdpSocket};

use crate::ns::Namespace;

/// Where the receiver listens.
const PORT: u16 = 5998;
/// Sends per kind of burst. The bursts differ in length; all together they fit the receiver's buffer.
const SENDS: usize = 60;
/// Pause after a send: about 12,000 datagrams per second, with which every machine keeps up.
const PAUSE: Duration = Duration::from_millis(2);
/// How long a datagram may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends bursts of up to 40 datagrams from one namespace to another and back, each burst as one send; the receiver
/// reads them one at a time, then in runs (`UDP_GRO`). Fails unless every datagram came, once, whole and in order.
pub fn segmented(from: &Namespace, server: &Namespace, to: &str) -> Result<()> {
    let to: IpAddr = to.parse().context("no address")?;
    let headers = if to.is_ipv6() { 48 } else { 28 };
    let longest = mtu(from)?.min(mtu(server)?).min(1500) - headers;
    for gro in [false, true] {
        let (near, far) = (socket(from, to, 0, gro)?, socket(server, to, PORT, gro)?);
        for size in [1200, 1300, longest] {
            let what =
                |way| format!("{way}, {size} bytes, {} to {to}, receiver with GRO: {gro}", from.name());
            let back = bursts(&near, &far, SocketAddr::new(to, PORT), size).with_context(|| what("there"))?;
            bursts(&far, &near, back, size).with_context(|| what("back"))?;
        }
    }
    Ok(())
}

/// Sends and checks all bursts of a size; the address that the receiver saw.
fn bursts(sender: &UdpSocket, receiver: &UdpSocket, to: SocketAddr, size: usize) -> Result<SocketAddr> {
    let segment = u16::try_from(size)?;
    let mut sent = Vec::new();
    for send in 0..SENDS {
        let pieces = [20, 40, 33, 2, 1][send % 5];
        // every other burst ends with a shorter datagram
        let last = if send % 2 == 0 { size } else { size / 3 };
        let burst = (1..=pieces).map(|piece| if piece == pieces { last } else { size });
        let burst: Vec<Vec<u8>> =
            (sent.len()..).zip(burst).map(|(number, len)| datagram(number, len)).collect();
        sender.send(to, &[IoSlice::new(&burst.concat())], Some(segment), 0).context("sending a burst")?;
        sent.extend(burst);
        std::thread::sleep(PAUSE);
    }
    let (mut seen, mut buffer) = (0, vec![0; 1 << 16]);
    loop {
        let received = receive(receiver, &mut buffer)?;
        let Some(Received { len, from, segment, .. }) = received else {
            bail!("{} of {} datagrams missing", sent.len() - seen, sent.len());
        };
        for found in buffer[..len].chunks(segment.map_or(len, usize::from).max(1)) {
            let expected = sent.get(seen).context("a datagram too many")?;
            ensure!(found == expected, "datagram {seen} of {} bytes: {}", expected.len(), describe(found));
            seen += 1;
        }
        if seen == sent.len() {
            return Ok(from);
        }
    }
}

/// The next delivery; `None` when nothing comes.
fn receive(socket: &UdpSocket, buffer: &mut [u8]) -> Result<Option<Received>> {
    let end = Instant::now() + PATIENCE;
    loop {
        match socket.recv(buffer) {
            Ok(received) => return Ok(Some(received)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let left = end.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(None);
                }
                poll(&mut [PollFd::new(socket, PollFlags::IN)], Some(&Timespec::try_from(left)?))?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn datagram(number: usize, len: usize) -> Vec<u8> {
    let mut bytes = (number as u32).to_be_bytes().to_vec();
    let seed = number.wrapping_mul(0x9e37_79b9) >> 7;
    bytes.extend((4..len).map(|at| (seed + at * 7 + at / 251) as u8));
    bytes
}

fn describe(bytes: &[u8]) -> String {
    let number = bytes.first_chunk().map_or(0, |number| u32::from_be_bytes(*number));
    format!("found {} bytes that say that they are number {number}", bytes.len())
}

/// A socket of the family of `like`, bound to all addresses of a namespace.
fn socket(ns: &Namespace, like: IpAddr, port: u16, gro: bool) -> Result<UdpSocket> {
    let any: IpAddr =
        if like.is_ipv6() { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    let options = UdpOptions { gro, buffer: 32 << 20, zero_checksum6: false };
    let bound = Netns::open(ns.path())?.run(|| UdpSocket::bind(SocketAddr::new(any, port), &options))?;
    bound.with_context(|| format!("binding port {port}"))
}

/// The smallest MTU of its devices.
fn mtu(ns: &Namespace) -> Result<usize> {
    let all = ns.sh("cat /sys/class/net/*/mtu")?;
    all.lines()
        .map(|mtu| Ok(mtu.parse()?))
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .min()
        .context("no device")
}
