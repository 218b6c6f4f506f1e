//! One AF_XDP socket with its memory, or its account in one that it shares: what a worker receives and sends by, and the two descriptors
//! by which another process goes on where this one was.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use weft_sys::xdp::{
    Buffer, Chunk, CopyMode, HEADROOM, Piece, Place, Umem, XdpOptions, XdpSocket, XdpStatistics,
};

use super::memory::{self, Joined, Share, Shared};
use crate::mem::{Frame, Pool};
use crate::port::Refused;

/// Bytes of a chunk; longer frames have several. Whatever the MTU is and becomes, who takes a queue over must say the same.
pub(super) const CHUNK: u32 = 2048;
/// What a new socket waits for at most that an old one of the same queue is forgotten (`xp_release_deferred`: 23 to 48 ms).
pub(crate) const FORGETTING: Duration = Duration::from_secs(2);
/// Longest frame of an MTU: Ethernet header and a tag.
const FRAME_OVERHEAD: u32 = 18;
/// Room for what the other side has not taken yet: above it the kernel sends no more (`sock_alloc_send_skb`).
pub(super) const SEND_BUFFER: usize = 4 << 20;
/// Frames that one call takes from a device that is polled, and what switches that on ([`XdpSocket::set_busy_poll`]).
const BUSY_POLL_BUDGET: u16 = 64;
const BUSY_POLL_US: u32 = 20;

/// What a queue is made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Shape {
    /// Chunks that the kernel has to receive in, and so the frames that may wait for this process, of one chunk each.
    pub(crate) receiving: u32,
    /// Chunks on their way out at most.
    pub(crate) sending: u32,
    /// Longest MTU that the device may come to have, bytes.
    pub(crate) mtu: u32,
    /// Its chunks are an account in a memory of several ports (see [`memory`]); copies only.
    pub(crate) shares: bool,
}

impl Shape {
    /// Longest frame, bytes.
    pub(crate) fn frame(&self) -> usize {
        (self.mtu + FRAME_OVERHEAD) as usize
    }

    /// All its chunks.
    pub(super) fn chunks(&self) -> u32 {
        self.receiving + self.sending
    }

    pub(super) fn options(&self, copy: CopyMode) -> XdpOptions {
        XdpOptions {
            rx: self.receiving,
            tx: self.sending,
            fill: self.receiving,
            completion: self.sending,
            copy,
            frags: true,
            send_buffer: SEND_BUFFER,
        }
    }
}

/// A socket and its memory.
#[derive(Debug)]
pub(crate) struct Queue {
    /// Of both, for the poll, and to be held.
    socket: Arc<OwnedFd>,
    memory: Arc<OwnedFd>,
    shape: Shape,
    /// `None`: another process has it still.
    ends: Mutex<Option<Ends>>,
}

/// What whoever moves frames needs.
#[derive(Debug)]
pub(crate) struct Ends {
    pub(crate) umem: Arc<Umem>,
    pub(crate) socket: XdpSocket,
    pub(crate) free: Vec<Chunk>,
    /// For who receives: empty between batches.
    pub(crate) received: Vec<Piece>,
    /// A frame of several pieces, for who wants it in one.
    pub(crate) parts: Vec<u8>,
    pub(super) sending: Vec<Piece>,
    /// Frames may have several chunks.
    frags: bool,
    shape: Shape,
    /// `None`: the memory is its own.
    pub(super) share: Option<Share>,
    /// The device was down when it was last to send.
    is_down: bool,
    /// Chunks that came back from sending so far; as many as that at the last look, and looks without any since.
    returned: u64,
    returned_before: u64,
    looks: u32,
}

impl Queue {
    /// Opens a socket for a queue of a device. One that another socket has is waited for as long as `patience` lasts.
    ///
    /// # Errors
    /// Those of [`XdpSocket::open`], with the step.
    pub(crate) fn open(
        place: Place<'_>,
        shape: Shape,
        copy: CopyMode,
        patience: Duration,
    ) -> io::Result<Self> {
        if shape.shares {
            return memory::open(place, shape, patience)
                .map(|joined| Self::with(Ends::joined(joined, shape), shape));
        }
        let (umem, mut free) = Umem::create(shape.chunks(), CHUNK)?;
        let mut options = shape.options(copy);
        let end = Instant::now() + patience;
        let socket = loop {
            match XdpSocket::open(&umem, place, &options, &mut free) {
                Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                // Before Linux 6.6: frames of one chunk only.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput && options.frags => {
                    options.frags = false;
                }
                other => break other?,
            }
        };
        Ok(Self::with(Ends::new(umem, socket, free, (shape, options.frags)), shape))
    }

    fn with(ends: Ends, shape: Shape) -> Self {
        let (socket, memory) = (ends.socket.descriptor(), ends.umem.descriptor());
        Queue { socket, memory, shape, ends: Mutex::new(Some(ends)) }
    }

    /// Takes over what another process has opened, or held. Nothing is received or sent until [`Queue::activate`].
    pub(crate) fn adopt([socket, memory]: [OwnedFd; 2], shape: Shape) -> Self {
        Queue { socket: socket.into(), memory: memory.into(), shape, ends: Mutex::new(None) }
    }

    /// Goes on where the other process was, which must not use it any more.
    ///
    /// # Errors
    /// What the descriptors are instead; `ResourceBusy` on kernels before 6.4.
    pub(crate) fn activate(&self) -> io::Result<()> {
        let mut ends = self.ends();
        // What the other process had put into the ring, and not sent, leaves now.
        if ends.is_none() && self.shape.shares {
            let joined = memory::adopt(&self.memory, &self.socket, self.shape)?;
            ends.insert(Ends::joined(joined, self.shape)).flush();
        } else if ends.is_none() {
            let (umem, mut free) = Umem::adopt(Arc::clone(&self.memory), CHUNK)?;
            let options = self.shape.options(CopyMode::Copy);
            let socket = XdpSocket::adopt(Arc::clone(&self.socket), &umem, &options, &mut free)?;
            ends.insert(Ends::new(umem, socket, free, (self.shape, true))).flush();
        }
        Ok(())
    }

    /// Does what takes time, and can be done when frames flow again. Workers go on meanwhile.
    pub(crate) fn settle_in(&self) {
        let umem = self.ends().as_ref().map(|ends| Arc::clone(&ends.umem));
        if let Some(umem) = umem {
            umem.populate();
        }
    }

    /// Closes it for good, and waits until the chunks of its account are others', as long as `patience` lasts. False: its device is still
    /// there.
    pub(crate) fn end(&self, patience: Duration) -> bool {
        self.close().is_none_or(|(share, socket)| memory::settle(share, socket, patience))
    }

    /// What is lent comes back when the device is gone.
    fn close(&self) -> Option<(Share, u64)> {
        let mut ends = self.ends().take()?;
        let (share, socket) = (ends.share?, ends.socket.id());
        ends.free.extend(ends.sending.drain(..).map(|piece| piece.chunk));
        memory::leave(share, ends.socket, ends.free);
        Some((share, socket))
    }

    /// Longest frame that the device may deliver, bytes.
    pub(crate) fn takes(&self) -> usize {
        let frags = self.ends().as_ref().is_none_or(|ends| ends.frags);
        if frags { self.shape.frame() } else { (CHUNK - HEADROOM) as usize }
    }

    /// Socket and memory.
    pub(crate) fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.socket.as_fd(), self.memory.as_fd()]
    }

    /// The descriptor that becomes readable when frames wait.
    pub(crate) fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// True when the device reads and writes the memory itself.
    pub(crate) fn is_zero_copy(&self) -> bool {
        self.ends().as_ref().is_some_and(|ends| ends.socket.is_zero_copy())
    }

    /// Bytes of memory that it may use, all of them locked.
    pub(crate) fn memory(&self) -> usize {
        let own = |ends: &Ends| match ends.share {
            Some(_) => ends.umem.size() / ends.umem.count() as usize * ends.shape.chunks() as usize,
            None => ends.umem.size(),
        };
        self.ends().as_ref().map_or(0, own)
    }

    /// The memory of which that is a part.
    pub(crate) fn shared(&self) -> Option<Shared> {
        let share = self.ends().as_ref()?.share?;
        Some(memory::shared(share))
    }

    /// Has calls on the socket poll the device, or not. One that another process has still is told when it is active.
    ///
    /// # Errors
    /// As [`XdpSocket::set_busy_poll`].
    pub(crate) fn set_busy_poll(&self, wanted: bool) -> io::Result<()> {
        match self.ends().as_mut() {
            Some(ends) if ends.socket.busy_polls() != wanted => {
                ends.socket.set_busy_poll(if wanted { BUSY_POLL_US } else { 0 }, BUSY_POLL_BUDGET)
            }
            _ => Ok(()),
        }
    }

    /// True when calls on the socket poll the device.
    pub(crate) fn busy_polls(&self) -> bool {
        self.ends().as_ref().is_some_and(|ends| ends.socket.busy_polls())
    }

    /// What the kernel counts.
    pub(crate) fn statistics(&self) -> Option<XdpStatistics> {
        self.ends().as_ref().and_then(|ends| ends.socket.statistics().ok())
    }

    /// Both ends, while no other worker uses them. `None`: another process has them.
    pub(crate) fn ends(&self) -> MutexGuard<'_, Option<Ends>> {
        // A worker that panics ends the process.
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.close();
    }
}

impl Ends {
    fn joined(joined: Joined, shape: Shape) -> Self {
        let Joined { share, umem, socket, free, frags, .. } = joined;
        Ends { share: Some(share), ..Ends::new(umem, socket, free, (shape, frags)) }
    }

    fn new(umem: Arc<Umem>, socket: XdpSocket, free: Vec<Chunk>, (shape, frags): (Shape, bool)) -> Self {
        let mut ends = Ends {
            umem,
            socket,
            free,
            received: Vec::with_capacity(shape.receiving as usize),
            parts: Vec::with_capacity(shape.frame()),
            sending: Vec::with_capacity(shape.sending as usize),
            frags,
            shape,
            share: None,
            is_down: false,
            returned: 0,
            returned_before: 0,
            looks: 0,
        };
        ends.free.reserve(shape.chunks() as usize);
        ends.refill();
        ends
    }

    /// Gives the kernel chunks to receive in. The rest is for sending.
    pub(crate) fn refill(&mut self) {
        let lacking = (self.shape.receiving as usize).saturating_sub(self.socket.filled());
        self.socket.fill(&mut self.free, lacking);
        // It fails where the device is gone, which control is told.
        let _ = self.socket.wake_receive();
    }

    /// Puts one frame on its way; it leaves with [`Ends::flush`].
    ///
    /// # Errors
    /// [`Refused::Invalid`] for one that is empty, [`Refused::TooLong`]; [`Refused::Full`].
    #[inline]
    pub(crate) fn send(&mut self, frame: &[u8]) -> Result<(), Refused> {
        if frame.is_empty() {
            return Err(Refused::Invalid);
        }
        if frame.len() > self.shape.frame() {
            return Err(Refused::TooLong);
        }
        let size = self.umem.chunk_size() as usize;
        let needed = frame.len().div_ceil(size);
        if needed > 1 && !self.frags {
            return Err(Refused::TooLong);
        }
        self.make_room(needed)?;
        let mut rest = frame;
        while !rest.is_empty() {
            let (part, behind) = rest.split_at(rest.len().min(size));
            let Some(mut chunk) = self.free.pop() else { return Err(Refused::Full) };
            self.umem.bytes_mut(&mut chunk)[..part.len()].copy_from_slice(part);
            let more = !behind.is_empty();
            self.sending.push(Piece { chunk, offset: 0, len: part.len() as u32, more });
            rest = behind;
        }
        Ok(())
    }

    /// Puts the frame in a chunk of the same memory on its way as it is; it leaves with [`Ends::flush`]. What `frame` has then is a free
    /// chunk, for the port that it came from. False, and nothing done, for one of another memory.
    ///
    /// # Errors
    /// [`Refused::Full`]; the frame stays as it was.
    #[inline]
    pub(crate) fn pass(&mut self, frame: &mut Frame) -> Result<bool, Refused> {
        let Some(Share { umem, .. }) = self.share else { return Ok(false) };
        if frame.is_empty() || !frame.chunk().is_some_and(|buffer| umem.has(buffer)) {
            return Ok(false);
        }
        self.make_room(1)?;
        // Both accounts stay what they were: one chunk comes, and one goes.
        let Some(free) = self.free.pop() else { return Err(Refused::Full) };
        let (buffer, range) = frame.exchange(Buffer::of(umem, free));
        if let Ok(chunk) = umem.chunk_of(buffer) {
            let (offset, len) = (range.start as u32, range.len() as u32);
            self.sending.push(Piece { chunk, offset, len, more: false });
        }
        Ok(true)
    }

    /// True when something is on its way that has not left.
    #[inline]
    pub(super) fn has_unsent(&self) -> bool {
        !self.sending.is_empty() || self.socket.unsent() > 0
    }

    /// Takes the chunks of frames back that came from here, and gives the kernel as many to receive in as it lacks.
    #[inline]
    pub(crate) fn take_back(&mut self, pool: &mut Pool) {
        while let Some(buffer) = pool.take_chunk() {
            match self.umem.chunk_of(buffer) {
                Ok(chunk) => self.free.push(chunk),
                Err(buffer) => memory::take_back(buffer),
            }
        }
        self.refill();
    }

    /// Looks that so many chunks may be sent.
    ///
    /// # Errors
    /// [`Refused::Full`].
    #[inline]
    fn make_room(&mut self, needed: usize) -> Result<(), Refused> {
        let room = |ends: &Ends| {
            let under_way = ends.socket.unsent() + ends.sending.len();
            (ends.shape.sending as usize).saturating_sub(under_way).min(ends.free.len()) >= needed
        };
        if !room(self) {
            // What was put on its way in this turn may be all that fills it.
            self.flush();
            if !room(self) {
                return Err(Refused::Full);
            }
        }
        Ok(())
    }

    /// Has the kernel send what was put on its way. True when some of it waits still: flush again after a while.
    pub(crate) fn flush(&mut self) -> bool {
        // There is room for all: see `send`. Otherwise nothing may stay that all behind it would wait for.
        if self.socket.send(&mut self.sending).is_err() {
            self.free.extend(self.sending.drain(..).map(|piece| piece.chunk));
        }
        // A device that is down may come up again; one that is gone does not.
        let kicked = self.socket.kick();
        self.is_down = kicked.is_err();
        let waits = match kicked {
            Ok(left) => left && self.socket.wants_kick(),
            Err(error) => error.raw_os_error() != Some(libc::ENXIO) && self.socket.wants_kick(),
        };
        self.returned += self.socket.complete(&mut self.free) as u64;
        waits
    }

    /// Looks whether what is on its way out comes back sent. For how many looks in a row nothing has, though the device is up.
    pub(crate) fn look(&mut self) -> u32 {
        if self.socket.unsent() > 0 {
            self.flush();
        }
        let moves = self.returned != self.returned_before || self.socket.unsent() == 0 || self.is_down;
        self.looks = if moves { 0 } else { self.looks + 1 };
        self.returned_before = self.returned;
        self.looks
    }
}
