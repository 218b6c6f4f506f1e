//! Devices that frames come from and go to. Every one has the same shape: open, receive a batch, send.
//!
//! Nothing here blocks, allocates per frame, or counts: results say what became of frames, and the fast path counts.

/// In-process port, for tests and benches.
pub mod mem;
/// TAP devices.
pub mod tap;
/// UDP sockets that carry VXLAN.
pub mod underlay;
/// AF_XDP sockets that carry VXLAN.
pub mod uplink;
/// AF_XDP sockets.
pub mod xdp;

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;

use weft_encap::Reason;
use weft_sys::tun::Offloads;

pub use mem::MemDevice;
pub use tap::TapDevice;
pub use underlay::{Underlay, UnderlayConfig};
pub use uplink::Uplink;
pub use xdp::XdpDevice;

use crate::mem::{Batch, Pool};
use crate::table::PortSlot;

/// A batch ends after this many bytes, so that what is read is still in the second-level cache when it is written.
pub const BATCH_BYTES: usize = 256 << 10;

/// How a receive ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rx {
    /// Nothing is left: the descriptor will say when there is more.
    Drained,
    /// The batch is full; there may be more.
    More,
    /// The device is gone for good.
    Lost,
}

/// Why a device did not take a frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// No room.
    Full,
    /// Down, or gone.
    Down,
    /// Longer than the device takes.
    TooLong,
    /// The kernel does not like the frame or its vnet header.
    Invalid,
}

impl Refused {
    /// The reason under which the frame is counted.
    pub const fn reason(self) -> Reason {
        match self {
            Refused::Full => Reason::QueueFull,
            Refused::Down => Reason::PortDown,
            Refused::TooLong => Reason::TooBig,
            Refused::Invalid => Reason::BadVnetHeader,
        }
    }
}

/// What a port reads and writes. Cloned by control only; a worker borrows it from the snapshot.
#[derive(Clone, Debug)]
pub enum Device {
    /// A TAP device.
    Tap(Arc<TapDevice>),
    /// A veth pair with an AF_XDP socket.
    Xdp(Arc<XdpDevice>),
    /// Two in-process rings.
    Mem(Arc<MemDevice>),
    /// None of its own: a stretched segment, whose frames go to its peers.
    Segment(Arc<Vec<crate::table::PeerSlot>>),
}

impl Device {
    /// True when both are the same open device.
    pub fn is_same(&self, other: &Device) -> bool {
        match (self, other) {
            (Device::Tap(a), Device::Tap(b)) => Arc::ptr_eq(a, b),
            (Device::Xdp(a), Device::Xdp(b)) => Arc::ptr_eq(a, b),
            (Device::Mem(a), Device::Mem(b)) => Arc::ptr_eq(a, b),
            // Neither has a descriptor to watch.
            (Device::Segment(_), Device::Segment(_)) => true,
            _ => false,
        }
    }

    /// Queues to receive from.
    pub fn queues(&self) -> usize {
        match self {
            Device::Tap(tap) => tap.queues().len(),
            Device::Xdp(_) | Device::Mem(_) => 1,
            Device::Segment(_) => 0,
        }
    }

    /// The descriptor that becomes readable when a queue has frames.
    pub fn descriptor(&self, queue: usize) -> Option<BorrowedFd<'_>> {
        match self {
            Device::Tap(tap) => tap.descriptor(queue),
            Device::Xdp(xdp) => Some(xdp.descriptor()),
            Device::Mem(mem) => Some(mem.descriptor()),
            Device::Segment(_) => None,
        }
    }

    /// Adds waiting frames to `batch`, marked as coming from `slot`.
    #[inline]
    pub fn receive(&self, queue: usize, slot: PortSlot, pool: &mut Pool, batch: &mut Batch) -> Rx {
        match self {
            Device::Tap(tap) => tap.receive(queue, slot, pool, batch),
            Device::Xdp(xdp) => xdp.receive(slot, pool, batch),
            Device::Mem(mem) => mem.receive(slot, pool, batch),
            Device::Segment(_) => Rx::Drained,
        }
    }

    /// The way in for the frames of one batch. `worker` picks the queue. Some devices are locked as long as it lives: whoever has one
    /// asks the device for nothing else.
    #[inline]
    pub fn sender(&self, worker: usize) -> Sender<'_> {
        match self {
            Device::Tap(tap) => Sender::Tap(tap, worker),
            Device::Xdp(xdp) => Sender::Xdp(xdp.outbound()),
            Device::Mem(mem) => Sender::Mem(mem.outbound()),
            Device::Segment(_) => Sender::Nowhere,
        }
    }

    /// Has what was sent before leave that waits still, as [`Sender::finish`].
    #[inline]
    pub fn flush(&self) -> bool {
        match self {
            Device::Xdp(xdp) => xdp.flush(),
            Device::Tap(_) | Device::Mem(_) | Device::Segment(_) => false,
        }
    }

    /// Takes back what frames that it had given were in, when all of them are done.
    #[inline]
    pub fn take_back(&self, pool: &mut Pool) {
        if let Device::Xdp(xdp) = self {
            xdp.take_back(pool);
        }
    }

    /// What a frame sent to it may still owe. A TAP takes everything, whatever its pod may send; an AF_XDP port so much of
    /// superframes alone.
    #[inline]
    pub fn accepts(&self) -> Offloads {
        let accepts = match self {
            Device::Tap(_) => Offloads::all(),
            Device::Mem(mem) => mem.accepts(),
            Device::Xdp(xdp) => xdp.accepts(),
            Device::Segment(_) => Offloads::empty(),
        };
        if self.coalesces_udp() { accepts } else { accepts - Offloads::USO }
    }

    /// True when datagrams of one flow should be made one UDP superframe for it.
    #[inline]
    pub fn coalesces_udp(&self) -> bool {
        match self {
            Device::Tap(tap) => tap.coalesces_udp(),
            Device::Mem(mem) => mem.accepts().contains(Offloads::USO),
            Device::Xdp(xdp) => xdp.coalesces_udp(),
            Device::Segment(_) => false,
        }
    }

    /// True when segments of one flow, which an AF_XDP port receives one by one, may be made one TCP superframe for it.
    #[inline]
    pub fn coalesces_tcp(&self) -> bool {
        match self {
            Device::Tap(_) => true,
            Device::Xdp(xdp) => xdp.accepts().contains(Offloads::TSO4 | Offloads::TSO6),
            Device::Mem(_) | Device::Segment(_) => false,
        }
    }

    /// The device refused a UDP superframe: its kernel is older than Linux 6.2.
    pub fn stop_coalescing_udp(&self) {
        match self {
            Device::Tap(tap) => tap.stop_coalescing_udp(),
            Device::Xdp(xdp) => xdp.stop_coalescing_udp(),
            Device::Mem(_) | Device::Segment(_) => {}
        }
    }
}

/// Takes the frames of one batch into a device.
#[derive(Debug)]
pub enum Sender<'a> {
    /// A TAP, and the worker that sends.
    Tap(&'a TapDevice, usize),
    /// An AF_XDP socket.
    Xdp(xdp::Outbound<'a>),
    /// An in-process ring.
    Mem(mem::Outbound<'a>),
    /// No device.
    Nowhere,
}

impl Sender<'_> {
    /// Sends one frame, the 12 bytes of its vnet header first (see [`crate::mem::Frame::with_vnet`]).
    ///
    /// # Errors
    /// [`Refused`]; the frame is then dropped.
    #[inline]
    pub fn send(&mut self, frame: &[u8]) -> Result<(), Refused> {
        match self {
            Sender::Tap(tap, worker) => tap.send(*worker, frame),
            Sender::Xdp(xdp) => xdp.send(frame),
            Sender::Mem(ring) => ring.send(frame),
            Sender::Nowhere => Err(Refused::Down),
        }
    }

    /// Has what was sent leave, where that takes a call for a whole batch. True when some of it waits still, and nobody
    /// will tell when it can leave: [`Device::flush`] after a while.
    #[inline]
    pub fn finish(self) -> bool {
        match self {
            Sender::Xdp(xdp) => xdp.finish(),
            Sender::Tap(..) | Sender::Mem(_) | Sender::Nowhere => false,
        }
    }
}

/// What an error of a write to a device means for the frame.
fn refused(error: &io::Error) -> Refused {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM | libc::EINTR) => Refused::Full,
        Some(libc::EINVAL | libc::EMSGSIZE | libc::EPROTO) => Refused::Invalid,
        // EIO: administratively down. EBADFD: the link was deleted.
        _ => Refused::Down,
    }
}
