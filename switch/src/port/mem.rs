//! Two bounded in-process rings, for tests and benches: a port without a kernel.
//!
//! Buffers go round between the rings and their spares, so that a measured loop allocates nothing.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crossbeam_queue::ArrayQueue;
use rustix::event::EventfdFlags;
use weft_encap::{VnetHdr, vnet};
use weft_sys::tun::Offloads;

use super::{BATCH_BYTES, Refused, Rx};
use crate::mem::{Batch, Ingress, MAX_FRAME, Pool};
use crate::table::PortSlot;

/// A port without a kernel. What is injected comes in by the port; what the switch sends is extracted.
#[derive(Debug)]
pub struct MemDevice {
    inbound: Ring,
    outbound: Ring,
    accepts: Offloads,
    /// Readable for ever after the first injection; every injection is a new edge.
    event: OwnedFd,
}

/// Frames, vnet header first, and empty buffers to put the next ones in.
#[derive(Debug)]
struct Ring {
    frames: ArrayQueue<Vec<u8>>,
    spares: ArrayQueue<Vec<u8>>,
}

impl Ring {
    fn new(capacity: usize) -> Self {
        let spares = ArrayQueue::new(capacity);
        while spares.push(Vec::with_capacity(vnet::LEN + MAX_FRAME)).is_ok() {}
        Ring { frames: ArrayQueue::new(capacity), spares }
    }

    fn push(&self, head: &[u8], body: &[u8]) -> bool {
        let mut buffer = self.spares.pop().unwrap_or_default();
        buffer.clear();
        buffer.extend_from_slice(head);
        buffer.extend_from_slice(body);
        self.frames.push(buffer).map_err(|buffer| self.recycle(buffer)).is_ok()
    }

    fn pop<R>(&self, read: impl FnOnce(VnetHdr, &[u8]) -> R) -> Option<R> {
        let buffer = self.frames.pop()?;
        let result = buffer.split_first_chunk().map(|(head, body)| read(VnetHdr::read(head), body));
        self.recycle(buffer);
        result
    }

    fn recycle(&self, buffer: Vec<u8>) {
        // A full list of spares means that there are enough.
        drop(self.spares.push(buffer));
    }
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
        let taken = self.inbound.push(&header.bytes(), frame);
        // It can fail only when 2^64 - 2 injections were never read: then it is readable anyway.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
        taken
    }

    /// Takes the next frame that the switch has sent.
    pub fn extract<R>(&self, read: impl FnOnce(VnetHdr, &[u8]) -> R) -> Option<R> {
        self.outbound.pop(read)
    }

    /// Frames that wait to be received by the switch.
    pub fn backlog(&self) -> usize {
        self.inbound.frames.len()
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
        let mut bytes = 0;
        while !batch.is_full() && bytes < BATCH_BYTES {
            let Some(mut frame) = pool.take() else { return Rx::More };
            let read = self.inbound.pop(|header, body| {
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

    /// Takes a frame from the switch, vnet header first.
    ///
    /// # Errors
    /// [`Refused::Full`], [`Refused::Invalid`] without a whole vnet header.
    pub fn send(&self, frame: &[u8]) -> Result<(), Refused> {
        let Some((head, body)) = frame.split_at_checked(vnet::LEN) else { return Err(Refused::Invalid) };
        if self.outbound.push(head, body) { Ok(()) } else { Err(Refused::Full) }
    }
}
