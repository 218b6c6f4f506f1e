//! AF_XDP sockets (`linux/if_xdp.h`, `net/xdp/xsk.c`; Linux 5.4, frames of several chunks from 6.6 on).
//!
//! A socket belongs to one queue of one device of the namespace that it was opened in. Frames come to it by way of a
//! program ([`super::Program`]) and a map ([`super::XskMap`]), and in this order: chunks go to the kernel
//! ([`XdpSocket::fill`]), come back with frames ([`XdpSocket::receive`]), go out ([`XdpSocket::send`],
//! [`XdpSocket::kick`]) and come back empty ([`XdpSocket::complete`]). Nothing blocks, and nothing allocates for a frame
//! as long as the vectors have room.
//!
//! Facts the callers live with:
//! - One socket for a device's queue at a time: the next is `ResourceBusy` until the kernel has forgotten the first, some
//!   time after it was closed (`xp_release_deferred`).
//! - Frames come without checksum offload: what the sender left to its device is not there. A veth's other end must
//!   have its offloads off ([`crate::ethtool::Device::set_offload`]).
//! - In copy mode the kernel sends in the system call of [`XdpSocket::kick`], and by `poll`.
//! - A device that is deleted makes [`XdpSocket::kick`] fail (`ENXIO`); `poll` says nothing of it.
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags as BindFlags, SocketAddrXdpWithSharedUmem, XdpDesc, XdpDescOptions,
    XdpOptionsFlags, XdpStatistics, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use super::ring::{Consumer, Mapped, Producer};
use super::rings::Rings;
use super::umem::{Chunk, Piece, Umem};
use crate::step::step;

/// Most pieces of a frame: what a socket buffer has room for (`MAX_SKB_FRAGS`). In zero-copy mode the driver may take
/// fewer.
pub const MAX_PIECES: usize = 17;

/// How frames get between the device and the memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CopyMode {
    /// The kernel copies: every device can.
    #[default]
    Copy,
    /// The device reads and writes the memory itself. While it does, chunks that it has do not come back at once when the
    /// socket is closed.
    ZeroCopy,
    /// Zero-copy where the driver can, else copies.
    Auto,
}

/// How a socket is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct XdpOptions {
    /// Entries of the ring of frames received; all four are powers of two.
    pub rx: u32,
    /// Entries of the ring of frames to be sent.
    pub tx: u32,
    /// Entries of the ring of chunks to receive in.
    pub fill: u32,
    /// Entries of the ring of chunks sent; not fewer than `tx`, or the kernel stops sending.
    pub completion: u32,
    /// How frames get there.
    pub copy: CopyMode,
    /// Frames of more than one chunk, both ways (`XDP_USE_SG`, Linux 6.6).
    pub frags: bool,
}

impl Default for XdpOptions {
    /// 2048 entries each, copies, one chunk for a frame.
    fn default() -> Self {
        Self { rx: 2048, tx: 2048, fill: 2048, completion: 2048, copy: CopyMode::Copy, frags: false }
    }
}

/// A socket with its four rings.
#[derive(Debug)]
pub struct XdpSocket {
    fd: OwnedFd,
    umem: Arc<Umem>,
    rx: Consumer<Mapped<XdpDesc>>,
    tx: Producer<Mapped<XdpDesc>>,
    fill: Producer<Mapped<u64>>,
    completion: Consumer<Mapped<u64>>,
    /// What stands for the fill ring and for the transmit ring in the memory.
    receiving: u64,
    sending: u64,
    filled: u32,
    unsent: u32,
    invalid: u64,
    frags: bool,
    zero_copy: bool,
}

impl XdpSocket {
    /// Opens a socket for `queue` of `device` (an index) in the current namespace.
    ///
    /// The memory is registered anew for this socket: several sockets may have the same, each in its own mode.
    ///
    /// # Errors
    /// `ResourceBusy` when the queue has a socket; `EOPNOTSUPP` and others for [`CopyMode::ZeroCopy`] where the driver
    /// cannot; `InvalidInput` for ring sizes that are no powers of two, a queue that the device does not have, and
    /// `frags` on kernels before 6.6; `PermissionDenied` without CAP_NET_RAW; `ENOBUFS` beyond RLIMIT_MEMLOCK without
    /// CAP_IPC_LOCK.
    pub fn open(umem: &Arc<Umem>, device: u32, queue: u32, options: &XdpOptions) -> io::Result<Self> {
        let fd = socket()?;
        let (addr, len) = umem.chunks();
        let flags = XdpUmemRegFlags::empty();
        let chunk_size = umem.chunk_size();
        let register = XdpUmemReg { addr, len, chunk_size, headroom: 0, flags, tx_metadata_len: 0 };
        sockopt::set_xdp_umem_reg(&fd, register).map_err(errno("XDP_UMEM_REG"))?;
        let rings = Rings::create(fd.as_fd(), options)?;
        let mut flags = BindFlags::XDP_USE_NEED_WAKEUP;
        match options.copy {
            CopyMode::Copy => flags |= BindFlags::XDP_COPY,
            CopyMode::ZeroCopy => flags |= BindFlags::XDP_ZEROCOPY,
            CopyMode::Auto => {}
        }
        flags.set(BindFlags::XDP_USE_SG, options.frags);
        let address = SocketAddrXdp::new(flags, device, queue);
        rustix::net::bind(&fd, &address).map_err(errno("bind"))?;
        Self::new(fd, umem, rings, options.frags)
    }

    /// Opens a socket for another queue or device that shares this one's registered memory, and its mode and `frags`
    /// with it (`XDP_SHARED_UMEM`, Linux 5.10): the pages are pinned and accounted once.
    ///
    /// # Errors
    /// As [`XdpSocket::open`].
    pub fn open_beside(&self, device: u32, queue: u32, options: &XdpOptions) -> io::Result<Self> {
        let fd = socket()?;
        let rings = Rings::create(fd.as_fd(), options)?;
        let addr = SocketAddrXdp::new(BindFlags::XDP_SHARED_UMEM, device, queue);
        let address = SocketAddrXdpWithSharedUmem { addr, shared_umem_fd: self.fd.as_fd() };
        rustix::net::bind(&fd, &address).map_err(errno("bind"))?;
        Self::new(fd, &self.umem, rings, self.frags)
    }

    fn new(fd: OwnedFd, umem: &Arc<Umem>, rings: Rings, frags: bool) -> io::Result<Self> {
        let options = sockopt::xdp_options(&fd).map_err(errno("XDP_OPTIONS"))?;
        // No other socket of this machine has the same, in whatever process.
        let cookie = sockopt::socket_cookie(&fd).map_err(errno("SO_COOKIE"))?;
        Ok(Self {
            umem: Arc::clone(umem),
            rx: Consumer::new(rings.rx),
            tx: Producer::new(rings.tx),
            fill: Producer::new(rings.fill),
            completion: Consumer::new(rings.completion),
            receiving: cookie << 2,
            sending: cookie << 2 | 1,
            filled: 0,
            unsent: 0,
            invalid: 0,
            frags,
            zero_copy: options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY),
            fd,
        })
    }

    /// Its memory.
    #[must_use]
    pub fn umem(&self) -> &Arc<Umem> {
        &self.umem
    }

    /// True when the device reads and writes the memory itself.
    #[must_use]
    pub fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Gives the kernel chunks to receive in, at most `most` and as many as the ring has room for. How many it took.
    ///
    /// # Panics
    /// For a chunk of another memory.
    #[inline]
    pub fn fill(&mut self, free: &mut Vec<Chunk>, most: usize) -> usize {
        let want = most.min(free.len());
        let count = self.fill.room(u32::try_from(want).unwrap_or(u32::MAX));
        for ahead in 0..count {
            let Some(chunk) = free.pop() else { break };
            self.fill.write(ahead, self.umem.lend(chunk, self.receiving));
        }
        if count > 0 {
            self.fill.submit(count);
            self.filled += count;
        }
        count as usize
    }

    /// Appends at most `most` frames to `into`, each of one or more pieces of which all but the last say
    /// [`Piece::more`]. How many frames.
    #[inline]
    pub fn receive(&mut self, into: &mut Vec<Piece>, most: usize) -> usize {
        let ready = self.rx.available(u32::MAX);
        let (start, mut taken, mut frames) = (into.len(), 0, 0);
        while frames < most {
            // The kernel submits whole frames; if not, the rest is still to come.
            let Some(end) = (taken..ready).find(|at| !continues(&self.rx.read(*at))) else { break };
            frames += usize::from(self.receive_frame(taken..end + 1, into));
            taken = end + 1;
        }
        if taken > 0 {
            self.rx.release(taken);
            let received = &into[start..];
            received.iter().for_each(|piece| self.umem.settle(&piece.chunk));
            self.filled -= received.len() as u32;
        }
        frames
    }

    /// False: a descriptor makes no sense, and the frame is lost. What chunks it has stay with the kernel.
    fn receive_frame(&mut self, descriptors: std::ops::Range<u32>, into: &mut Vec<Piece>) -> bool {
        let start = into.len();
        for at in descriptors {
            let descriptor = self.rx.read(at);
            if let Some((chunk, offset)) = self.umem.claim(descriptor.addr, self.receiving) {
                let piece = Piece { chunk, offset, len: descriptor.len, more: continues(&descriptor) };
                let is_valid = self.umem.is_valid(&piece);
                into.push(piece);
                if is_valid {
                    continue;
                }
            }
            self.invalid += 1;
            for piece in into.drain(start..) {
                self.umem.lend(piece.chunk, self.receiving);
            }
            return false;
        }
        true
    }

    /// Puts frames into the ring, whole ones from the front of `frames` and as many as there is room for, and takes
    /// them out of `frames`. How many pieces it took. They leave with [`XdpSocket::kick`].
    ///
    /// # Errors
    /// `InvalidInput`, and nothing is taken, for a piece that is empty or not inside its chunk, a frame of more than
    /// [`MAX_PIECES`] or that does not end, and one of more than one piece without `frags`.
    #[inline]
    pub fn send(&mut self, frames: &mut Vec<Piece>) -> io::Result<usize> {
        let (mut whole, mut begin) = (0, 0);
        let room = self.tx.room(u32::try_from(frames.len()).unwrap_or(u32::MAX)) as usize;
        for (at, piece) in frames.iter().enumerate() {
            let most = if self.frags { MAX_PIECES } else { 1 };
            let is_valid = self.umem.is_valid(piece) && at - begin < most;
            if !is_valid || piece.more && at + 1 == frames.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "a frame that cannot be sent"));
            }
            if !piece.more {
                begin = at + 1;
                whole = if begin <= room { begin } else { whole };
            }
        }
        for (ahead, piece) in (0..).zip(frames.drain(..whole)) {
            let options = if piece.more { XdpDescOptions::XDP_PKT_CONTD } else { XdpDescOptions::empty() };
            let (offset, len) = (u64::from(piece.offset), piece.len);
            let addr = self.umem.lend(piece.chunk, self.sending) + offset;
            self.tx.write(ahead, XdpDesc { addr, len, options });
        }
        if whole > 0 {
            self.tx.submit(whole as u32);
            self.unsent += whole as u32;
        }
        Ok(whole)
    }

    /// Has the kernel send what is in the ring. True when some is left there: its queue is full, or the completion ring
    /// is. Then, and as long as [`XdpSocket::unsent`] says so, kick again after a while.
    ///
    /// # Errors
    /// `ENETDOWN` while the device is down, `ENXIO` when it is gone.
    pub fn kick(&mut self) -> io::Result<bool> {
        let mut before = self.tx.waiting();
        loop {
            let sent = rustix::net::send(&self.fd, &[], SendFlags::DONTWAIT);
            let left = self.tx.waiting();
            match sent {
                // One call sends 32 of them in copy mode (`TX_BATCH_SIZE`).
                Err(Errno::AGAIN) if left > 0 && left < before => before = left,
                Ok(_) | Err(Errno::AGAIN | Errno::BUSY | Errno::NOBUFS) => return Ok(left > 0),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// True when [`XdpSocket::kick`] is called for: there is something in the ring, and the kernel does not look by itself.
    #[inline]
    #[must_use]
    pub fn wants_kick(&mut self) -> bool {
        self.tx.waiting() > 0 && self.tx.memory().needs_wakeup()
    }

    /// Appends the chunks that have been sent to `free`. How many.
    #[inline]
    pub fn complete(&mut self, free: &mut Vec<Chunk>) -> usize {
        let count = self.completion.available(u32::MAX);
        let start = free.len();
        for at in 0..count {
            match self.umem.claim(self.completion.read(at), self.sending) {
                Some((chunk, _)) => free.push(chunk),
                None => self.invalid += 1,
            }
        }
        if count > 0 {
            self.completion.release(count);
            free[start..].iter().for_each(|chunk| self.umem.settle(chunk));
            self.unsent -= (free.len() - start) as u32;
        }
        free.len() - start
    }

    /// Has the driver look for chunks to receive in, where it waits for being told. Call it after [`XdpSocket::fill`] and
    /// when nothing is received; it costs a system call only when the driver waits (zero-copy).
    ///
    /// # Errors
    /// As [`XdpSocket::kick`].
    #[inline]
    pub fn wake_receive(&self) -> io::Result<()> {
        if !self.fill.memory().needs_wakeup() {
            return Ok(());
        }
        match rustix::net::recv(&self.fd, &mut [0u8; 0][..], RecvFlags::DONTWAIT) {
            Ok(_) | Err(Errno::AGAIN | Errno::BUSY | Errno::NOBUFS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// How many chunks the kernel has to receive in.
    #[must_use]
    pub fn filled(&self) -> usize {
        self.filled as usize
    }

    /// How many chunks the kernel has that are to be sent, or have been and are still to be taken.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.unsent as usize
    }

    /// How many descriptors of the kernel's made no sense. None ever should.
    #[must_use]
    pub fn invalid(&self) -> u64 {
        self.invalid
    }

    /// What the kernel counts (`struct xdp_statistics`; the last three since Linux 5.9).
    ///
    /// # Errors
    /// None in practice.
    pub fn statistics(&self) -> io::Result<XdpStatistics> {
        sockopt::xdp_statistics(&self.fd).map_err(errno("XDP_STATISTICS"))
    }

    /// Has system calls on the socket poll the device instead of waiting for its interrupts (`SO_PREFER_BUSY_POLL`,
    /// Linux 5.11): for `micros`, and at most `budget` frames at a time. 0 microseconds end it.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_NET_ADMIN.
    pub fn set_busy_poll(&self, micros: u32, budget: u16) -> io::Result<()> {
        super::rings::set_busy_poll(self.fd.as_fd(), micros, budget)
    }

    /// Closes it. The chunks that the kernel has are [`Lent`] still.
    ///
    /// The kernel waits for the driver: some 10 ms.
    pub fn close(self) -> Lent {
        let rings = [self.receiving, self.sending];
        let umem = Arc::clone(&self.umem);
        Lent { umem, rings, zero_copy: self.zero_copy }
    }
}

impl AsFd for XdpSocket {
    /// Readable when frames are there to be received, writable when the transmit ring is at most half full.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Chunks that a closed socket has left in the kernel.
#[derive(Debug)]
#[must_use = "chunks that are not taken back are lost"]
pub struct Lent {
    umem: Arc<Umem>,
    rings: [u64; 2],
    zero_copy: bool,
}

impl Lent {
    /// True when the device may still write to them: it ends with the next socket for the queue that opens, or some time
    /// after the last descriptor was closed (`xp_release_deferred`), for which the kernel has no sign.
    #[must_use]
    pub fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Takes them back. No other descriptor of the socket may be open, in whatever process.
    pub fn take_back(self, free: &mut Vec<Chunk>) {
        self.umem.take_all(self.rings, free);
    }
}

#[inline]
fn continues(descriptor: &XdpDesc) -> bool {
    descriptor.options.contains(XdpDescOptions::XDP_PKT_CONTD)
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, flags, None).map_err(errno("socket"))
}

pub(super) fn errno(what: &'static str) -> impl Fn(Errno) -> io::Error {
    move |error| step(what)(error.into())
}
