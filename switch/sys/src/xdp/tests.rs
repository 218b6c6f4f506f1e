//! Sockets, programs and frames on veth pairs; the other end is an AF_PACKET socket.
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use super::*;
use crate::ethtool::{Device, Offload};
use crate::link::{LinkChange, Netlink};
use crate::testing;

mod handover;
mod refused;
mod shared;
mod traffic;

/// Runs inside a new namespace.
fn inside(f: impl FnOnce() + Send) {
    if testing::root() {
        testing::namespace().run(f).unwrap();
    }
}

/// Two devices of the current namespace, both up, with offloads off at the far end; their indices.
fn pair(near: &str, far: &str, mtu: u32) -> (u32, u32) {
    let mut netlink = Netlink::new().unwrap();
    netlink.add_veth(near, far).unwrap();
    let index = [near, far].map(|name| {
        let index = netlink.link_by_name(name).unwrap().unwrap().index;
        // No router solicitations and the like among the frames.
        let quiet = crate::sysctl::Key::interface("ipv6", name, "disable_ipv6").unwrap();
        crate::sysctl::set(&quiet, "1").unwrap();
        let change = LinkChange { up: Some(true), mtu: Some(mtu), ..LinkChange::default() };
        netlink.link_set(index, &change).unwrap();
        index
    });
    let device = Device::new(far).unwrap();
    for offload in [Offload::TxChecksums, Offload::Tso, Offload::Gso] {
        device.set_offload(offload, false).unwrap();
    }
    (index[0], index[1])
}

/// A socket with a program in front of it, and the memory's free chunks.
struct Port {
    socket: XdpSocket,
    free: Vec<Chunk>,
    map: XskMap,
    attachment: Attachment,
}

const CHUNKS: u32 = 256;

impl Port {
    fn new(device: u32, want: Want, options: &XdpOptions) -> Self {
        let (umem, free) = Umem::create(CHUNKS, 4096).unwrap();
        let map = XskMap::new(1).unwrap();
        let attachment = Attachment::new(&Program::everything(&map).unwrap(), device, want).unwrap();
        let (mut fill, free) = halves(free);
        let socket = XdpSocket::open(&umem, Place::new(device, 0), options, &mut fill).unwrap();
        map.set(0, socket.as_fd()).unwrap();
        let free = free.into_iter().chain(fill).collect();
        Self { socket, free, map, attachment }
    }

    /// The next frame's bytes; waits for it.
    fn receive(&mut self) -> Option<Vec<u8>> {
        let mut pieces = Vec::new();
        within(|| self.socket.receive(&mut pieces, 1) == 1).then(|| {
            let bytes = join(self.socket.umem(), &pieces);
            self.free.extend(pieces.into_iter().map(|piece| piece.chunk));
            bytes
        })
    }

    /// Sends a frame in pieces of at most `each` bytes.
    fn send(&mut self, frame: &[u8], each: usize) {
        let mut pieces = cut(self.socket.umem(), &mut self.free, frame, each);
        let count = pieces.len();
        assert_eq!(self.socket.send(&mut pieces).unwrap(), count);
        assert!(self.socket.wants_kick());
        self.socket.kick().unwrap();
    }

    /// All chunks are there: those that are free, and those that the kernel has. And the same when it is closed.
    fn end(mut self) {
        within(|| {
            self.socket.complete(&mut self.free);
            self.socket.unsent() == 0
        });
        let Self { socket, mut free, .. } = self;
        assert_eq!(socket.invalid(), 0);
        assert_eq!(free.len() + socket.filled() + socket.unsent(), CHUNKS as usize);
        socket.take_back(&mut free);
        all_there(&free);
    }
}

/// Half of the chunks is to be received in.
fn halves(mut chunks: Vec<Chunk>) -> (Vec<Chunk>, Vec<Chunk>) {
    let free = chunks.split_off(chunks.len() / 2);
    (chunks, free)
}

/// Every chunk once.
fn all_there(free: &[Chunk]) {
    let mut indices: Vec<u32> = free.iter().map(Chunk::index).collect();
    indices.sort_unstable();
    assert!(indices.iter().copied().eq(0..CHUNKS), "{indices:?}");
}

fn join(umem: &Umem, pieces: &[Piece]) -> Vec<u8> {
    pieces.iter().flat_map(|piece| umem.piece(piece)).copied().collect()
}

fn cut(umem: &Umem, free: &mut Vec<Chunk>, frame: &[u8], each: usize) -> Vec<Piece> {
    let count = frame.len().div_ceil(each);
    let parts = frame.chunks(each).enumerate().map(|(at, bytes)| {
        let chunk = free.pop().unwrap();
        let mut piece = Piece { chunk, offset: 64, len: bytes.len() as u32, more: at + 1 < count };
        umem.piece_mut(&mut piece).copy_from_slice(bytes);
        piece
    });
    parts.collect()
}

/// Tries until it is true, for two seconds.
fn within(mut f: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if f() {
            return true;
        }
        if start.elapsed() > Duration::from_secs(2) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Ethernet of a kind that nobody else sends: number `number`, `length` bytes in all.
fn frame(number: u8, length: usize) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, number, 0x88, 0xb5]);
    frame.extend((14..length).map(|at| (at as u8).wrapping_mul(31) ^ number));
    frame
}

/// An AF_PACKET socket at a device.
struct Packets(OwnedFd);

impl Packets {
    fn new(device: u32) -> Self {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let all = rustix::net::Protocol::from_raw(u32::from(0x88b5_u16.to_be()).try_into().unwrap());
        let kind = SocketType::RAW;
        let fd = rustix::net::socket_with(AddressFamily::PACKET, kind, flags, Some(all)).unwrap();
        crate::packet::bind(&fd, device).unwrap();
        Self(fd)
    }

    fn send(&self, frame: &[u8]) {
        let sent = rustix::net::send(&self.0, frame, rustix::net::SendFlags::empty()).unwrap();
        assert_eq!(sent, frame.len());
    }

    /// What is there now.
    fn try_receive(&self) -> Option<Vec<u8>> {
        let mut bytes = vec![0; 70_000];
        let flags = rustix::net::RecvFlags::empty();
        let (length, _) = rustix::net::recv(&self.0, &mut bytes[..], flags).ok()?;
        bytes.truncate(length);
        Some(bytes)
    }

    /// The next frame; waits for it.
    fn receive(&self) -> Option<Vec<u8>> {
        let mut found = None;
        within(|| {
            found = self.try_receive();
            found.is_some()
        });
        found
    }
}
