//! Frame pool with headroom, frame, batch.
//!
//! Every worker owns one [`Pool`]. Buffers are all of one size, and go round: pool, batch, out queue, pool. A few are made
//! at the start, which pods may wait for, and one whenever more are needed than ever before: nothing is allocated per
//! frame. A buffer's pages are touched only when a frame reaches them, and the buffer given back last is taken first, so that few
//! and warm pages serve small loads.

/// Frames that are in a chunk of memory that a device shares with the kernel.
mod chunk;

use std::alloc::{Layout, handle_alloc_error};
use std::ops::{Deref, DerefMut};

use weft_encap::{VnetHdr, vnet};
use weft_sys::xdp::Buffer;
use zerocopy::{FromZeros, KnownLayout};

use crate::table::{PeerSlot, PortSlot};

/// Bytes before a fresh frame: room for a vnet header, a VXLAN header and a tag.
pub const HEADROOM: usize = 192;

/// Longest frame: a UDP datagram's 65,535 bytes, or an IP packet of that length behind Ethernet and a tag.
pub const MAX_FRAME: usize = 65_553;

/// Frames of a [`Batch`] unless it is told otherwise.
pub const BATCH: usize = 64;

/// Most frames of a [`Batch`].
pub const LARGE_BATCH: usize = 256;

/// Frames of a [`Pool`] that are made at once: two batches.
const MADE_AT_START: usize = 2 * BATCH;

/// Starts of buffers differ by this much, and repeat after [`STAGGER_COUNT`]: equal offsets in many buffers would
/// compete for the same few lines of the first cache.
const STAGGER_BYTES: usize = 128;
const STAGGER_COUNT: usize = 16;

const CAPACITY: usize = STAGGER_BYTES * (STAGGER_COUNT - 1) + HEADROOM + MAX_FRAME;

/// Where a frame came from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Ingress {
    /// A port of this node.
    Port(PortSlot),
    /// Another node.
    Peer(PeerSlot),
}

/// A frame in a pooled buffer.
///
/// Give it back with [`Pool::give`]: a dropped frame is memory that the pool lacks from then on.
#[derive(Debug)]
pub struct Frame(Box<Body>);

/// What a [`Frame`] stands for: it goes from hand to hand as a pointer.
#[derive(Debug)]
pub struct Body {
    buffer: Buffer,
    /// Where a fresh frame starts in this buffer; 0 in a chunk.
    home: u32,
    start: u32,
    len: u32,
    /// What it still owes, and how it is to be cut.
    pub vnet: VnetHdr,
    /// Where it came from.
    pub ingress: Ingress,
}

/// So many values, all zero, of the allocator's zero pages: memory is used where something is written. Ends the process when
/// there is no address space, as other allocations do.
pub fn zeroed<T: FromZeros + KnownLayout<PointerMetadata = ()>>(count: usize) -> Box<[T]> {
    <[T]>::new_box_zeroed_with_elems(count).unwrap_or_else(|_| {
        handle_alloc_error(Layout::array::<T>(count).unwrap_or_else(|_| Layout::new::<T>()))
    })
}

impl Deref for Frame {
    type Target = Body;

    #[inline]
    fn deref(&self) -> &Body {
        &self.0
    }
}

impl DerefMut for Frame {
    #[inline]
    fn deref_mut(&mut self) -> &mut Body {
        &mut self.0
    }
}

impl Frame {
    /// `None`: there is no memory.
    fn new(index: usize) -> Option<Self> {
        let home = (STAGGER_BYTES * (index % STAGGER_COUNT) + HEADROOM) as u32;
        Some(Frame(Box::new(Body {
            buffer: Buffer::zeroed(CAPACITY)?,
            home,
            start: home,
            len: 0,
            vnet: VnetHdr::NONE,
            ingress: Ingress::Port(PortSlot(0)),
        })))
    }
}

impl Body {
    /// The Ethernet frame.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        let start = self.start as usize;
        &self.buffer[start..start + self.len as usize]
    }

    /// The Ethernet frame, to change it.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let start = self.start as usize;
        &mut self.buffer[start..start + self.len as usize]
    }

    /// Its length, bytes.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// True when nothing is in it.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets the length; capped at what the buffer holds. New bytes at the end are whatever lay there.
    #[inline]
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(self.buffer.len() - self.start as usize) as u32;
    }

    /// Cuts off what is longer than `len` bytes.
    #[inline]
    pub fn cut(&mut self, len: usize) {
        self.len = self.len.min(len as u32);
    }

    /// Makes the frame longer by `n` bytes at the front, whose content is undefined. False, and nothing changed,
    /// where the headroom (less what a vnet header needs) is too small.
    #[inline]
    #[must_use]
    pub fn push_front(&mut self, n: usize) -> bool {
        if (self.start as usize) < n + vnet::LEN {
            return false;
        }
        self.start -= n as u32;
        self.len += n as u32;
        true
    }

    /// Takes up to `n` bytes off the front.
    #[inline]
    pub fn pull_front(&mut self, n: usize) {
        let n = (n as u32).min(self.len);
        self.start += n;
        self.len -= n;
    }

    /// Everything from the frame's first byte to the buffer's end, at least [`MAX_FRAME`] bytes for a fresh frame.
    /// The length stays.
    #[inline]
    pub fn spare_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start as usize..]
    }

    /// As [`Frame::spare_mut`], preceded by the 12 bytes of a vnet header: what a TAP reads into.
    #[inline]
    pub fn spare_with_vnet_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start as usize - vnet::LEN..]
    }

    /// Writes `header` into the headroom and gives header and frame in one piece: what a TAP writes.
    #[inline]
    pub fn with_vnet(&mut self, header: VnetHdr) -> &[u8] {
        let (start, end) = (self.start as usize, (self.start + self.len) as usize);
        self.buffer[start - vnet::LEN..start].copy_from_slice(&header.bytes());
        &self.buffer[start - vnet::LEN..end]
    }

    /// Takes the vnet header that a read left in the headroom.
    #[inline]
    pub fn take_vnet(&mut self) {
        let start = self.start as usize;
        if let Some(bytes) = self.buffer[..start].last_chunk() {
            self.vnet = VnetHdr::read(bytes);
        }
    }

    /// Makes the frame longer by `bytes`, cut to what the buffer holds.
    #[inline]
    pub fn append(&mut self, bytes: &[u8]) {
        let end = self.len();
        self.set_len(end + bytes.len());
        let room = self.len() - end;
        self.bytes_mut()[end..].copy_from_slice(&bytes[..room]);
    }

    /// Replaces the content. `bytes` are cut to what the buffer holds.
    #[inline]
    pub fn fill(&mut self, bytes: &[u8]) {
        self.set_len(bytes.len());
        let len = self.len();
        self.bytes_mut().copy_from_slice(&bytes[..len]);
    }

    fn reset(&mut self) {
        self.start = self.home;
        self.len = 0;
        self.vnet = VnetHdr::NONE;
    }
}

/// A worker's frames. Last in, first out.
#[derive(Debug)]
pub struct Pool {
    free: Vec<Frame>,
    /// Frames that were made.
    made: usize,
    /// Frames that may be made.
    most: usize,
    /// For frames in chunks, and those that came back.
    chunks: chunk::Chunks,
}

impl Pool {
    /// A pool of up to `frames` buffers of about 67 KB of address space each.
    pub fn new(frames: usize) -> Self {
        let mut free = Vec::with_capacity(frames);
        let made = frames.min(MADE_AT_START);
        free.extend((0..made).rev().filter_map(Frame::new));
        Pool { made: free.len(), free, most: frames, chunks: chunk::Chunks::default() }
    }

    /// An empty frame; `None` when all are out: drop what needs it, with `NoBuffer`.
    #[inline]
    pub fn take(&mut self) -> Option<Frame> {
        self.free.pop().or_else(|| self.make())
    }

    #[cold]
    fn make(&mut self) -> Option<Frame> {
        let frame = (self.made < self.most).then(|| Frame::new(self.made)).flatten()?;
        self.made += 1;
        Some(frame)
    }

    /// Takes a frame back.
    #[inline]
    pub fn give(&mut self, mut frame: Frame) {
        frame.reset();
        let to = if frame.is_in_chunk() { self.chunks.back() } else { &mut self.free };
        to.push(frame);
    }

    /// Another frame with the same content, vnet header and ingress.
    #[inline]
    pub fn copy(&mut self, frame: &Frame) -> Option<Frame> {
        let mut copy = self.take()?;
        copy.vnet = frame.vnet;
        copy.ingress = frame.ingress;
        copy.fill(frame.bytes());
        Some(copy)
    }

    /// Frames that may be taken now.
    pub fn available(&self) -> usize {
        self.free.len() + self.most - self.made
    }
}

/// Up to [`LARGE_BATCH`] frames, in the order in which they came.
#[derive(Debug)]
pub struct Batch {
    frames: Vec<Frame>,
    limit: usize,
}

impl Default for Batch {
    fn default() -> Self {
        Batch { frames: Vec::with_capacity(LARGE_BATCH), limit: BATCH }
    }
}

impl Batch {
    /// Lets it be full with so many frames, 1 to [`LARGE_BATCH`]; those that are in it stay.
    #[inline]
    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit.clamp(1, LARGE_BATCH);
    }

    /// Adds a frame; gives it back when the batch is full.
    ///
    /// # Errors
    /// The frame itself.
    #[inline]
    pub fn push(&mut self, frame: Frame) -> Result<(), Frame> {
        if self.is_full() {
            return Err(frame);
        }
        self.frames.push(frame);
        Ok(())
    }

    /// Adds a frame. The caller has looked that the batch [`is not full`](Batch::is_full); one frame more would only
    /// make it allocate.
    #[inline]
    pub fn add(&mut self, frame: Frame) {
        debug_assert!(!self.is_full());
        self.frames.push(frame);
    }

    /// Takes all frames out, first come first.
    #[inline]
    pub fn drain(&mut self) -> std::vec::Drain<'_, Frame> {
        self.frames.drain(..)
    }

    /// The frames.
    #[inline]
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// How many frames are in it.
    #[inline]
    pub fn len(&self) -> usize {
        self.frames.len()
    }

    /// True when none is.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// How many more fit.
    #[inline]
    pub fn room(&self) -> usize {
        self.limit.saturating_sub(self.frames.len())
    }

    /// True when no more fit.
    #[inline]
    pub fn is_full(&self) -> bool {
        self.frames.len() >= self.limit
    }
}

#[cfg(test)]
mod tests;
