//! Two bounded in-process rings, for tests and benches: a port without a kernel.
//!
//! Buffers stay in their ring, so that a measured loop allocates nothing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::event::EventfdFlags;
use weft_encap::{VnetHdr, vnet};
use weft_sys::tun::Offloads;

use super::{BATCH_BYTES, Refused, Rx};
use crate::mem::{Batch, Ingress, MAX_FRAME, Pool};
use crate::table::PortSlot;

/// A port without a kernel. What is injected comes in by the port; what the switch sends is extracted.
#[derive(Debug)]
pub struct MemDevice {
    inbound: Mutex<Ring>,
    outbound: Mutex<Ring>,
    accepts: Offloads,
    /// Readable for ever after the first injection; every injection is a new edge.
    event: OwnedFd,
}

/// The ring of frames that the switch sends, locked for a batch of them.
#[derive(Debug)]
pub struct Outbound<'a>(MutexGuard<'a, Ring>);

impl Outbound<'_> {
    /// Takes a frame from the switch, vnet header first.
    ///
    /// # Errors
    /// [`Refused::Full`], [`Refused::Invalid`] without a whole vnet header.
    #[inline]
    pub(super) fn send(&mut self, frame: &[u8]) -> Result<(), Refused> {
        if frame.len() < vnet::LEN {
            return Err(Refused::Invalid);
        }
        self.0.next().ok_or(Refused::Full)?.extend_from_slice(frame);
        Ok(())
    }
}

/// Frames in turn, vnet header first, in buffers that stay.
#[derive(Debug)]
struct Ring {
    frames: Box<[Vec<u8>]>,
    first: usize,
    count: usize,
}

impl Ring {
    fn new(capacity: usize) -> Mutex<Ring> {
        let frames = (0..capacity).map(|_| Vec::with_capacity(vnet::LEN + MAX_FRAME)).collect();
        Mutex::new(Ring { frames, first: 0, count: 0 })
    }

    /// The place of the next frame; `None` when all are taken.
    #[inline]
    fn next(&mut self) -> Option<&mut Vec<u8>> {
        if self.count == self.frames.len() {
            return None;
        }
        let at = self.place(self.count);
        self.count += 1;
        let buffer = &mut self.frames[at];
        buffer.clear();
        Some(buffer)
    }

    #[inline]
    fn place(&self, nth: usize) -> usize {
        let at = self.first + nth;
        if at < self.frames.len() { at } else { at - self.frames.len() }
    }

    fn pop<R>(&mut self, read: impl FnOnce(VnetHdr, &[u8]) -> R) -> Option<R> {
        if self.count == 0 {
            return None;
        }
        let at = self.first;
        (self.first, self.count) = (self.place(1), self.count - 1);
        self.frames[at].split_first_chunk().map(|(head, body)| read(VnetHdr::read(head), body))
    }
}

fn lock(ring: &Mutex<Ring>) -> MutexGuard<'_, Ring> {
    // Whoever panicked did so in reading a frame, which is out of the ring by then.
    ring.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MemDevice {
    /// Rings of `capacity` frames each way, of about 66 KB of address space each; frames sent to it may owe what
    /// `accepts` names.
    ///
    /// # Errors
    /// `EMFILE` when the process has no descriptor left.
    pub fn new(capacity: usize, accepts: Offloads) -> io::Result<Self> {
        let event = rustix::event::eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(MemDevice { inbound: Ring::new(capacity), outbound: Ring::new(capacity), accepts, event })
    }

    /// Puts a frame where the switch will receive it; false when the ring is full.
    pub fn inject(&self, header: VnetHdr, frame: &[u8]) -> bool {
        let taken = match lock(&self.inbound).next() {
            Some(buffer) => {
                buffer.extend_from_slice(&header.bytes());
                buffer.extend_from_slice(frame);
                true
            }
            None => false,
        };
        // It can fail only when 2^64 - 2 injections were never read: then it is readable anyway.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        taken
    }

    /// Takes the next frame that the switch has sent. The ring is locked while `read` runs: it must not extract another one.
    pub fn extract<R>(&self, read: impl FnOnce(VnetHdr, &[u8]) -> R) -> Option<R> {
        lock(&self.outbound).pop(read)
    }

    /// Frames that wait to be received by the switch.
    pub fn backlog(&self) -> usize {
        lock(&self.inbound).count
    }

    /// What frames sent to it may owe.
    #[inline]
    pub fn accepts(&self) -> Offloads {
        self.accepts
    }

    /// Becomes readable, edge by edge, with every injection.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    /// Adds waiting frames to `batch`.
    pub fn receive(&self, slot: PortSlot, pool: &mut Pool, batch: &mut Batch) -> Rx {
        let (mut ring, mut bytes) = (lock(&self.inbound), 0);
        while !batch.is_full() && bytes < BATCH_BYTES {
            let Some(mut frame) = pool.take() else { return Rx::More };
            let read = ring.pop(|header, body| {
                frame.vnet = header;
                frame.fill(body);
            });
            if read.is_none() {
                pool.give(frame);
                return Rx::Drained;
            }
            frame.ingress = Ingress::Port(slot);
            bytes += frame.len();
            batch.add(frame);
        }
        Rx::More
    }

    /// Where the switch puts frames.
    #[inline]
    pub(super) fn outbound(&self) -> Outbound<'_> {
        Outbound(lock(&self.outbound))
    }
}
