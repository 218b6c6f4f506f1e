//! TAP devices: one descriptor per queue, frames with a `virtio_net_hdr`.
//!
//! A superframe or an owed checksum passes as it is, in both directions. What the device's own kernel may send is
//! [`TapDevice::offloads`]; what may be sent to it has no limit.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use weft_encap::{eth, vlan, vnet};
use weft_sys::tun::{MTU_MAX, Offloads, Tap};

use super::{BATCH_BYTES, Refused, Rx};
use crate::mem::{Batch, Ingress, MAX_FRAME, Pool};
use crate::table::PortSlot;

// A longer frame would be cut short by the read.
const _: () = assert!(MTU_MAX as usize + eth::LEN + vlan::LEN <= MAX_FRAME);

/// An open TAP device. Closing it blocks for 16 to 20 ms: the last reference must not be a worker's.
#[derive(Debug)]
pub struct TapDevice {
    queues: Vec<Tap>,
    /// UDP superframes are sent until the kernel refuses one.
    uso: AtomicBool,
    lost: AtomicBool,
}

impl TapDevice {
    /// A device of these queues, all of one device.
    ///
    /// # Errors
    /// `InvalidInput` when there is none.
    pub fn new(queues: Vec<Tap>) -> io::Result<Self> {
        if queues.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a device needs at least one queue"));
        }
        Ok(TapDevice { queues, uso: AtomicBool::new(true), lost: AtomicBool::new(false) })
    }

    /// Its queues.
    pub fn queues(&self) -> &[Tap] {
        &self.queues
    }

    /// What frames from the device may owe.
    pub fn offloads(&self) -> Offloads {
        self.queues.first().map_or(Offloads::empty(), Tap::offloads)
    }

    /// True once a read or write has shown that the link was deleted.
    pub fn is_lost(&self) -> bool {
        // Relaxed: a lone flag that never goes back.
        self.lost.load(Ordering::Relaxed)
    }

    /// The descriptor of a queue.
    pub fn descriptor(&self, queue: usize) -> Option<BorrowedFd<'_>> {
        self.queues.get(queue).map(Tap::as_fd)
    }

    /// Adds waiting frames to `batch`. The vnet header of each is as the pod's side gave it, to be checked.
    pub fn receive(&self, queue: usize, slot: PortSlot, pool: &mut Pool, batch: &mut Batch) -> Rx {
        let Some(tap) = self.queues.get(queue) else { return Rx::Drained };
        let mut bytes = 0;
        while !batch.is_full() && bytes < BATCH_BYTES {
            let Some(mut frame) = pool.take() else { return Rx::More };
            let read = tap.read(frame.spare_with_vnet_mut());
            match read {
                Ok(len) if len > vnet::LEN => {
                    frame.set_len(len - vnet::LEN);
                    frame.take_vnet();
                    frame.ingress = Ingress::Port(slot);
                    bytes += frame.len();
                    batch.add(frame);
                }
                Ok(_) => pool.give(frame),
                Err(error) => {
                    pool.give(frame);
                    match error.raw_os_error() {
                        Some(libc::EINTR) => {}
                        Some(libc::EBADFD) => {
                            self.lose();
                            return Rx::Lost;
                        }
                        // EAGAIN; anything else is told again by the next edge, if it lasts.
                        _ => return Rx::Drained,
                    }
                }
            }
        }
        Rx::More
    }

    /// Writes one frame, vnet header first, to the queue of `worker`.
    ///
    /// # Errors
    /// [`Refused`].
    #[inline]
    pub fn send(&self, worker: usize, frame: &[u8]) -> Result<(), Refused> {
        let queue = if self.queues.len() == 1 { 0 } else { worker % self.queues.len() };
        self.queues[queue].write(frame).map(drop).map_err(|error| self.failed(&error))
    }

    /// True until the kernel has refused a UDP superframe.
    #[inline]
    pub fn coalesces_udp(&self) -> bool {
        // Relaxed: a lone flag; to try once more is harmless.
        self.uso.load(Ordering::Relaxed)
    }

    /// Stops sending UDP superframes.
    pub fn stop_coalescing_udp(&self) {
        self.uso.store(false, Ordering::Relaxed);
    }

    #[cold]
    fn failed(&self, error: &io::Error) -> Refused {
        if error.raw_os_error() == Some(libc::EBADFD) {
            self.lose();
        }
        super::refused(error)
    }

    fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }
}
