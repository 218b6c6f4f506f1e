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
use rustix::net::addr::SocketAddrArg;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags as BindFlags, SocketAddrXdpWithSharedUmem, XdpDesc, XdpOptionsFlags,
    XdpStatistics, XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, sockopt};

use super::program::XskMap;
use super::ring::{Consumer, Mapped, Producer};
use super::rings::{self, Rings};
use super::sole::Sole;
use super::umem::{Chunk, Umem};
use crate::step::step;

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
    /// Bytes that may be on their way to the device at once, in copy mode; beyond the kernel stops sending. 0: what the system has
    /// set.
    pub send_buffer: usize,
}

/// What a socket is opened for.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Index of a device of the current namespace.
    pub device: u32,
    /// One of its queues.
    pub queue: u32,
    /// Frames of that queue come to it by this map.
    pub map: Option<&'a XskMap>,
}

impl Place<'_> {
    /// A queue of a device, whose frames come to the socket when it is put into a map.
    #[must_use]
    pub fn new(device: u32, queue: u32) -> Self {
        Self { device, queue, map: None }
    }
}

impl Default for XdpOptions {
    /// 2048 entries each, copies, one chunk for a frame.
    fn default() -> Self {
        let (copy, frags, send_buffer) = (CopyMode::Copy, false, 0);
        Self { rx: 2048, tx: 2048, fill: 2048, completion: 2048, copy, frags, send_buffer }
    }
}

/// A socket with its four rings.
#[derive(Debug)]
pub struct XdpSocket {
    pub(super) fd: Arc<OwnedFd>,
    pub(super) umem: Arc<Umem>,
    pub(super) rx: Consumer<Mapped<XdpDesc>>,
    pub(super) tx: Producer<Mapped<XdpDesc>>,
    pub(super) fill: Producer<Mapped<u64>>,
    pub(super) completion: Consumer<Mapped<u64>>,
    /// What stands for the fill ring and for the transmit ring in the memory.
    pub(super) receiving: u64,
    pub(super) sending: u64,
    pub(super) filled: u32,
    pub(super) unsent: u32,
    pub(super) invalid: u64,
    pub(super) frags: bool,
    pub(super) busy_polls: bool,
    zero_copy: bool,
    _sole: Sole,
}

impl XdpSocket {
    /// Opens a socket for a queue of a device.
    ///
    /// The memory is registered anew for this socket: several sockets may have the same, each in its own mode. What the
    /// fill ring has room for is taken from `free` before the socket is bound: some drivers want it full by then.
    ///
    /// # Errors
    /// After any there is no socket, and `free` has all that it had (less with zero-copy). `ResourceBusy` when the queue has a socket; `EOPNOTSUPP` and others for [`CopyMode::ZeroCopy`] where the driver
    /// cannot; `InvalidInput` for ring sizes that are no powers of two, a queue that the device does not have, and
    /// `frags` on kernels before 6.6; `PermissionDenied` without CAP_NET_RAW; `OutOfMemory` beyond RLIMIT_MEMLOCK
    /// without CAP_IPC_LOCK; those of [`XskMap::set`].
    pub fn open(
        umem: &Arc<Umem>,
        place: Place<'_>,
        options: &XdpOptions,
        free: &mut Vec<Chunk>,
    ) -> io::Result<Self> {
        let fd = socket()?;
        let (addr, len) = umem.chunks();
        let flags = XdpUmemRegFlags::empty();
        let chunk_size = umem.chunk_size();
        let register = XdpUmemReg { addr, len, chunk_size, headroom: 0, flags, tx_metadata_len: 0 };
        sockopt::set_xdp_umem_reg(&fd, register).map_err(|error| match error {
            Errno::NOBUFS => {
                let message = "XDP_UMEM_REG: more memory than RLIMIT_MEMLOCK lets it lock";
                io::Error::new(io::ErrorKind::OutOfMemory, message)
            }
            other => errno("XDP_UMEM_REG")(other),
        })?;
        let rings = Rings::create(fd.as_fd(), options)?;
        let mut flags = BindFlags::XDP_USE_NEED_WAKEUP;
        match options.copy {
            CopyMode::Copy => flags |= BindFlags::XDP_COPY,
            CopyMode::ZeroCopy => flags |= BindFlags::XDP_ZEROCOPY,
            CopyMode::Auto => {}
        }
        flags.set(BindFlags::XDP_USE_SG, options.frags);
        let address = SocketAddrXdp::new(flags, place.device, place.queue);
        Self::new(fd.into(), umem, rings, options)?.bind(&address, place, options, false, free)
    }

    /// Opens a socket for another queue or device that shares this one's registered memory, and its mode and `frags`
    /// with it (`XDP_SHARED_UMEM`, Linux 5.10): the pages are pinned and accounted once.
    ///
    /// # Errors
    /// As [`XdpSocket::open`].
    pub fn open_beside(
        &self,
        place: Place<'_>,
        options: &XdpOptions,
        free: &mut Vec<Chunk>,
    ) -> io::Result<Self> {
        let options = XdpOptions { frags: self.frags, ..*options };
        Self::open_sharing(&self.umem, self.fd.as_fd(), place, &options, free)
    }

    /// As [`XdpSocket::open_beside`], by a descriptor of any socket that has this memory: not only the one that registered it. The
    /// registration lasts as long as one of its sockets does. `frags` must be what the first was opened with.
    ///
    /// # Errors
    /// As [`XdpSocket::open`]; `NotConnected` when the other's device is gone; `InvalidInput` before Linux 5.10, and when the other is
    /// the one that the queue has.
    pub fn open_sharing(
        umem: &Arc<Umem>,
        with: BorrowedFd<'_>,
        place: Place<'_>,
        options: &XdpOptions,
        free: &mut Vec<Chunk>,
    ) -> io::Result<Self> {
        let fd = socket()?;
        let rings = Rings::create(fd.as_fd(), options)?;
        let addr = SocketAddrXdp::new(BindFlags::XDP_SHARED_UMEM, place.device, place.queue);
        let address = SocketAddrXdpWithSharedUmem { addr, shared_umem_fd: with };
        Self::new(fd.into(), umem, rings, options)?.bind(&address, place, options, true, free)
    }

    /// Takes over a bound socket of another process, which does not use it any more: the kernel goes on with it all the
    /// while. `umem` is its memory ([`Umem::adopt`]), `options` those that it was opened with; `free` gets the chunks
    /// that were just coming back, or just going out.
    ///
    /// That the three belong together is seen in the memory: it says of each chunk which socket it was given to, and of
    /// which sizes that one's rings are. Nothing is touched before.
    ///
    /// # Errors
    /// `InvalidInput` when it is no AF_XDP socket, when its rings are not as the options say, and when it has no chunk of
    /// the memory; `AlreadyExists` while this process has another value of the same socket; `ResourceBusy` on kernels
    /// before 6.4, which do not map the rings of a bound socket.
    pub fn adopt(
        fd: impl Into<Arc<OwnedFd>>,
        umem: &Arc<Umem>,
        options: &XdpOptions,
        free: &mut Vec<Chunk>,
    ) -> io::Result<Self> {
        let fd = fd.into();
        if sockopt::socket_domain(&fd).map_err(errno("SO_DOMAIN"))? != AddressFamily::XDP {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an AF_XDP socket"));
        }
        let rings = Rings::map(fd.as_fd(), options)?;
        let mut socket = Self::new(fd, umem, rings, options)?;
        let ready = socket.rx.available(u32::MAX);
        let received = (0..ready).map(|at| socket.rx.read(at).addr).collect::<Vec<_>>();
        socket.filled = umem.recover(socket.receiving, &received, free);
        let ready = socket.completion.available(u32::MAX);
        let sent = (0..ready).map(|at| socket.completion.read(at)).collect::<Vec<_>>();
        socket.unsent = umem.recover(socket.sending, &sent, free);
        if socket.filled == 0 && socket.unsent == 0 {
            let message = "the memory is not this AF_XDP socket's, or its rings have other sizes";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        socket.recover_unsubmitted(free);
        socket.note_mode()?;
        Ok(socket)
    }

    /// Takes chunks back that were lent and never submitted, because the other process has ended in between: so many as are
    /// lent beyond what the indices say that the kernel has. They were written behind those submitted.
    fn recover_unsubmitted(&mut self, free: &mut Vec<Chunk>) {
        let before = free.len();
        let has = self.fill.submitted().wrapping_sub(self.rx.released());
        let count = self.fill.room(self.filled.saturating_sub(has));
        let lost = (0..count).map(|ahead| self.fill.written(ahead));
        free.extend(
            lost.filter_map(|address| self.umem.claim(address, self.receiving)).map(|(chunk, _)| chunk),
        );
        self.filled -= (free.len() - before) as u32;
        let between = free.len();
        let has = self.tx.submitted().wrapping_sub(self.completion.released());
        let count = self.tx.room(self.unsent.saturating_sub(has));
        let lost = (0..count).map(|ahead| self.tx.written(ahead).addr);
        free.extend(
            lost.filter_map(|address| self.umem.claim(address, self.sending)).map(|(chunk, _)| chunk),
        );
        self.unsent -= (free.len() - between) as u32;
        free[before..].iter().for_each(|chunk| self.umem.settle(chunk));
    }

    fn new(fd: Arc<OwnedFd>, umem: &Arc<Umem>, rings: Rings, options: &XdpOptions) -> io::Result<Self> {
        // No other socket of this machine has the same, in whatever process.
        let cookie = sockopt::socket_cookie(&fd).map_err(errno("SO_COOKIE"))?;
        let identity = identity(cookie, options)?;
        Ok(Self {
            umem: Arc::clone(umem),
            rx: Consumer::new(rings.rx),
            tx: Producer::new(rings.tx),
            fill: Producer::new(rings.fill),
            completion: Consumer::new(rings.completion),
            receiving: identity << 2,
            sending: identity << 2 | 1,
            filled: 0,
            unsent: 0,
            invalid: 0,
            frags: options.frags,
            busy_polls: false,
            zero_copy: false,
            _sole: Sole::new(cookie)?,
            fd,
        })
    }

    /// The last step of all: what fails comes before, or leaves a socket that nobody else has had.
    fn bind(
        mut self,
        address: &impl SocketAddrArg,
        place: Place<'_>,
        options: &XdpOptions,
        shares: bool,
        free: &mut Vec<Chunk>,
    ) -> io::Result<Self> {
        if options.send_buffer > 0 {
            sockopt::set_socket_send_buffer_size_force(&self.fd, options.send_buffer)
                .map_err(errno("SO_SNDBUFFORCE"))?;
        }
        self.fill(free, usize::MAX);
        let bound = rustix::net::bind(&self.fd, address).map_err(|error| match error {
            Errno::BADF => {
                let message = "bind: the socket that it is to share a memory with has lost its device";
                io::Error::new(io::ErrorKind::NotConnected, message)
            }
            Errno::INVAL => io::Error::new(io::ErrorKind::InvalidInput, invalid(place, options, shares)),
            other => errno("bind")(other),
        });
        if bound.is_ok() {
            self.note_mode()?;
        }
        let set = |()| place.map.map_or(Ok(()), |map| map.set(place.queue, self.fd.as_fd()));
        match bound.and_then(set) {
            Ok(()) => Ok(self),
            // The driver has some of them still.
            Err(error) if self.zero_copy => Err(error),
            Err(error) => {
                // No frame ever came to it, it has sent none, and this is its only descriptor.
                self.take_back(free);
                Err(error)
            }
        }
    }

    fn note_mode(&mut self) -> io::Result<()> {
        let options = sockopt::xdp_options(&self.fd).map_err(errno("XDP_OPTIONS"))?;
        self.zero_copy = options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY);
        // Kernels that do not know it do not do it.
        self.busy_polls = rings::prefers_busy_poll(self.fd.as_fd()).unwrap_or(false);
        Ok(())
    }

    /// Its descriptor. It is open as long as anybody has this.
    #[must_use]
    pub fn descriptor(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.fd)
    }

    /// Its memory.
    #[must_use]
    pub fn umem(&self) -> &Arc<Umem> {
        &self.umem
    }

    /// True for a descriptor of this very socket.
    #[must_use]
    pub fn is(&self, fd: BorrowedFd<'_>) -> bool {
        let cookie = sockopt::socket_cookie(fd);
        cookie.is_ok_and(|cookie| sockopt::socket_cookie(&self.fd) == Ok(cookie))
    }

    /// A number that no other socket with this memory has.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.receiving
    }

    /// Closes it when its device is gone, and takes back what the kernel has. A socket that has lost its device never gets
    /// another, and the kernel does not touch the memory for it any more, whoever has a descriptor of it: a device is closed and its
    /// receivers have ended before it is unbound, and senders hold the lock that unbinding takes (`xsk_notifier`). Frames on their
    /// way are copies. Gives the socket back while the device is
    /// there, and always with zero-copy.
    #[must_use = "a socket that is closed with its device keeps its chunks"]
    pub fn retire(self, free: &mut Vec<Chunk>) -> Option<Self> {
        // `xsk_check_common`, before anything else.
        let asked = rustix::net::recv(&self.fd, &mut [0u8; 0][..], RecvFlags::DONTWAIT);
        let unbound = matches!(asked, Err(Errno::NXIO));
        if self.zero_copy || !unbound {
            return Some(self);
        }
        self.take_back(free);
        None
    }

    /// True when the device reads and writes the memory itself.
    #[must_use]
    pub fn is_zero_copy(&self) -> bool {
        self.zero_copy
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
    /// Linux 5.11): for at most `budget` frames at a time. 0 `micros` end it; otherwise their number does not matter, as
    /// the socket does not block: each call polls once (`sk_busy_loop`).
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_NET_ADMIN; `ENOPROTOOPT` on kernels that cannot.
    pub fn set_busy_poll(&mut self, micros: u32, budget: u16) -> io::Result<()> {
        let set = rings::set_busy_poll(self.fd.as_fd(), micros, budget);
        self.busy_polls = rings::prefers_busy_poll(self.fd.as_fd()).unwrap_or(false);
        set
    }

    /// True when system calls on the socket poll the device, whoever has set that.
    #[must_use]
    pub fn busy_polls(&self) -> bool {
        self.busy_polls
    }

    /// Closes it, and takes back what the kernel has. Only in this crate: the device may write to these chunks as long as
    /// another descriptor of the socket is open, in whatever process, and with zero-copy until the next socket for the queue
    /// opens, or for some time (`xp_release_deferred`); the kernel has no sign for either.
    ///
    /// The kernel waits for the driver, some 10 ms: not on a worker.
    pub(super) fn take_back(self, free: &mut Vec<Chunk>) {
        let (umem, rings) = (Arc::clone(&self.umem), [self.receiving, self.sending]);
        drop(self);
        umem.take_all(rings, free);
    }
}

impl AsFd for XdpSocket {
    /// Readable when frames are there to be received, writable when the transmit ring is at most half full.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// What stands for a socket and its rings in the memory, two bits of it for the ring and its state: the cookie, and the
/// binary logarithms of the sizes.
fn identity(cookie: u64, options: &XdpOptions) -> io::Result<u64> {
    let sizes = [options.rx, options.tx, options.fill, options.completion];
    let sizes = sizes.into_iter().fold(0, |all, size| all << 5 | u64::from(size.trailing_zeros()));
    // Cookies are counted from 1 on (`linux/cookie.h`).
    if cookie >= 1 << 42 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket's cookie is too large"));
    }
    Ok(cookie << 20 | sizes)
}

/// What `xsk_bind` and `xp_assign_dev` (`net/xdp`) can mean by `EINVAL`, with what is asked of them here. The kernel does not say which.
fn invalid(place: Place<'_>, options: &XdpOptions, shares: bool) -> String {
    let Place { device, queue, .. } = place;
    let mut causes = vec![format!("device {device} has no queue {queue}")];
    if shares {
        causes.push("that queue has the very socket that it is to share a memory with".to_owned());
        causes.push("sockets of several queues share none before Linux 5.10".to_owned());
    } else if options.frags {
        causes.push("frames of several chunks need Linux 6.6".to_owned());
    }
    if options.copy == CopyMode::ZeroCopy {
        causes.push("the driver refuses zero-copy".to_owned());
    }
    format!("bind: {}", causes.join(", or "))
}

fn socket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, flags, None).map_err(errno("socket"))
}

pub(super) fn errno(what: &'static str) -> impl Fn(Errno) -> io::Error {
    move |error| step(what)(error.into())
}
