//! AF_XDP ports: the pod has one end of a veth pair, and whatever comes out at the other goes, by a program there, into
//! memory that the kernel shares with this process.
//!
//! No system call is made for a frame received, and one for a batch sent. What comes owes no checksum and is no superframe: the pod's
//! end has its offloads off. What is sent by the socket must owe nothing, either; superframes leave by a packet socket of the same device. Socket, memory and program are three descriptors: with them another
//! process goes on where this one was, with all that waits.
//!
//! Ports share memories (`memory`). A frame in one chunk stays in it while the switch decides and edits, and leaves in it by another port
//! of the same memory; what is longer, or goes elsewhere, is copied.
//!
//! A worker locks the device for each batch that it receives, and for each that it sends ([`Outbound`]); another one has to wait
//! only where several workers send to one port. Whoever has one locked locks no other one, and the memories after it, never before.

/// The memories that ports share.
mod memory;
/// One socket with its memory, of a port or an uplink.
pub(super) mod queue;

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::MutexGuard;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use weft_encap::vnet;
use weft_sys::packet::PacketSender;
use weft_sys::tun::Offloads;
use weft_sys::xdp::{
    Attachment, Buffer, CopyMode, Place, Program, Want, XdpMode, XskMap, refuse_beside_another,
};

use super::{BATCH_BYTES, Refused, Rx};
use crate::mem::{Batch, Frame, Ingress, Pool};
use crate::table::PortSlot;
pub use memory::Shared;
use queue::{Ends, FORGETTING, Queue, SEND_BUFFER, Shape};

/// Chunks that the kernel has to receive in, and so the frames that may wait for this process, of one chunk each.
const RECEIVING: u32 = 1024;
/// Chunks on their way to the pod at most.
const SENDING: u32 = 512;
/// Longest MTU: what a frame of several chunks has room for, and the kernel for those in one socket buffer.
pub const MTU_MAX: u32 = 9216;
/// The queue of the device that the socket is for. A veth has one unless it is asked for more.
const QUEUE: u32 = 0;
/// Least bytes before a frame that stays in its chunk: for a vnet header, a tag, and outer headers.
const ROOM: usize = 128;
/// What a frame counts in a batch, bytes.
const FRAME: usize = 2048;
/// What a port that ends waits for at most that the kernel has done with its device, which is deleted before.
const UNBINDING: Duration = Duration::from_secs(1);

/// The descriptors of a device, in the order of [`XdpDevice::descriptors`].
pub type Parts<T> = [T; 3];

/// An open device.
#[derive(Debug)]
pub struct XdpDevice {
    queue: Queue,
    attachment: Attachment,
    device: u32,
    /// By which superframes leave; `None` where it could not be opened.
    whole: Option<PacketSender>,
    /// It takes those of UDP.
    uso: AtomicBool,
}

/// The way out, locked for a batch of frames.
#[derive(Debug)]
pub struct Outbound<'a> {
    ends: MutexGuard<'a, Option<Ends>>,
    whole: Option<&'a PacketSender>,
}

impl Outbound<'_> {
    /// Puts a frame on its way in the chunk that it is in, if that is of the same memory; it leaves with [`Outbound::finish`]. False:
    /// it is to be sent otherwise. What `frame` has afterwards is nothing that may be read.
    ///
    /// # Errors
    /// [`Refused`].
    #[inline]
    pub fn pass(&mut self, frame: &mut Frame) -> Result<bool, Refused> {
        self.ends.as_mut().ok_or(Refused::Down)?.pass(frame)
    }

    /// Puts one frame, behind 12 bytes of vnet header that say nothing, on its way; it leaves with [`Outbound::finish`]. One whose header
    /// says something leaves at once, behind all others.
    ///
    /// # Errors
    /// [`Refused`].
    #[inline]
    pub fn send(&mut self, frame: &[u8]) -> Result<(), Refused> {
        let ends = self.ends.as_mut().ok_or(Refused::Down)?;
        let (header, bytes) = frame.split_first_chunk::<{ vnet::LEN }>().ok_or(Refused::Invalid)?;
        match self.whole {
            Some(whole) if *header != [0; vnet::LEN] => {
                if ends.has_unsent() && ends.flush() {
                    return Err(Refused::Full);
                }
                whole.send(frame).map_err(|error| super::refused(&error))
            }
            _ => ends.send(bytes),
        }
    }

    /// Has the kernel send what was put on its way. True when some of it waits still: [`XdpDevice::flush`] after a while.
    #[inline]
    pub fn finish(mut self) -> bool {
        self.ends.as_mut().is_some_and(Ends::flush)
    }
}

impl XdpDevice {
    /// Opens the host's end of a veth pair, by its index in the current namespace.
    ///
    /// # Errors
    /// What the kernel refuses, with the step: another program at the device (`AlreadyExists`), another socket. After any the device
    /// is as it was, and can be opened again.
    pub fn open(device: u32) -> io::Result<Self> {
        refuse_beside_another(device)?;
        let sockets = XskMap::new(QUEUE + 1)?;
        let attachment = Attachment::new(&Program::everything(&sockets)?, device, Want::Auto)?;
        // Last: a socket that others have seen stays bound as long as there is the device.
        let place = Place { device, queue: QUEUE, map: Some(&sockets) };
        let whole = packet_sender(device);
        let queue = Queue::open(place, SHAPE, CopyMode::Copy, FORGETTING)?;
        Ok(XdpDevice { queue, attachment, device, uso: whole.is_some().into(), whole })
    }

    /// Takes over what another process has opened, or held, for the host's end `device` of the current namespace. Nothing
    /// is received or sent until [`XdpDevice::activate`].
    ///
    /// # Errors
    /// What the descriptors are instead.
    pub fn adopt([socket, memory, link]: Parts<OwnedFd>, device: u32) -> io::Result<Self> {
        let attachment = Attachment::adopt(link, device)?;
        let (queue, whole) = (Queue::adopt([socket, memory], SHAPE), packet_sender(device));
        Ok(XdpDevice { queue, attachment, device, uso: whole.is_some().into(), whole })
    }

    /// Goes on where the other process was, which must not use it any more.
    ///
    /// # Errors
    /// As for [`XdpDevice::adopt`]; `ResourceBusy` on kernels before 6.4.
    pub fn activate(&self) -> io::Result<()> {
        self.queue.activate()
    }

    /// To be called some time after [`XdpDevice::activate`], when frames flow: does what could wait, for milliseconds.
    pub fn settle_in(&self) {
        self.queue.settle_in();
    }

    /// Gives its chunks to others, when its device is deleted and no worker has it any more. False: the device is still there, and
    /// they follow when it is not. It may wait: not on a worker.
    pub fn end(&self) -> bool {
        self.queue.end(UNBINDING)
    }

    /// Socket, memory and link of the program.
    pub fn descriptors(&self) -> Parts<BorrowedFd<'_>> {
        let [socket, memory] = self.queue.descriptors();
        [socket, memory, self.attachment.as_fd()]
    }

    /// The descriptor that becomes readable when frames wait.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.queue.descriptor()
    }

    /// Index of the host's end.
    pub fn device(&self) -> u32 {
        self.device
    }

    /// Where the program runs.
    pub fn mode(&self) -> XdpMode {
        self.attachment.mode()
    }

    /// True when the device reads and writes the memory itself.
    pub fn is_zero_copy(&self) -> bool {
        self.queue.is_zero_copy()
    }

    /// Bytes of memory that it may use, all of them locked.
    pub fn memory(&self) -> usize {
        self.queue.memory()
    }

    /// The memory of which that is a part; `None` before it is activated.
    pub fn shared(&self) -> Option<Shared> {
        self.queue.shared()
    }

    /// Has calls on the socket poll the device, or not; to be told again after [`XdpDevice::activate`].
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_NET_ADMIN; `ENOPROTOOPT` on kernels that cannot.
    pub fn set_busy_poll(&self, wanted: bool) -> io::Result<()> {
        self.queue.set_busy_poll(wanted)
    }

    /// True when calls on the socket poll the device.
    pub fn busy_polls(&self) -> bool {
        self.queue.busy_polls()
    }

    /// For how many calls in a row nothing that was sent has left the device, though there is something and it is up. To be
    /// called at leisure.
    pub fn look(&self) -> u32 {
        self.queue.ends().as_mut().map_or(0, Ends::look)
    }

    /// Frames that the kernel had no room for since the socket was opened.
    pub fn dropped(&self) -> u64 {
        self.queue.statistics().map_or(0, |it| it.rx_dropped + it.rx_ring_full.unwrap_or(0))
    }

    /// Adds waiting frames to `batch`. When they have gone their ways, [`XdpDevice::take_back`] is due.
    pub fn receive(&self, slot: PortSlot, pool: &mut Pool, batch: &mut Batch) -> Rx {
        let mut ends = self.queue.ends();
        let Some(ends) = ends.as_mut() else { return Rx::Drained };
        // A frame that finds no buffer waits in the ring.
        let most = batch.room().min(pool.available()).min(BATCH_BYTES / FRAME);
        let frames = ends.socket.receive(&mut ends.received, most);
        let (mut frame, mut copied, mut goes_on) = (None, false, false);
        for piece in ends.received.drain(..) {
            // What is before it has room for headers: the kernel leaves 256 bytes.
            let is_whole = !goes_on && !piece.more && piece.offset as usize >= ROOM;
            goes_on = piece.more;
            if let Some(share) = ends.share.filter(|_| is_whole) {
                let range = piece.range();
                batch.add(pool.in_chunk(Buffer::of(share.umem, piece.chunk), range, Ingress::Port(slot)));
                continue;
            }
            copied = true;
            if frame.is_none() {
                frame = pool.take();
            }
            if let Some(frame) = &mut frame {
                frame.append(ends.umem.piece(&piece));
            }
            let ends_here = !piece.more;
            ends.free.push(piece.chunk);
            if let Some(mut frame) = frame.take_if(|_| ends_here) {
                frame.ingress = Ingress::Port(slot);
                batch.add(frame);
            }
        }
        // What is in chunks comes back later.
        if copied || frames == 0 {
            ends.refill();
        }
        if frames < most { Rx::Drained } else { Rx::More }
    }

    /// Takes the chunks of frames that came from here, or what others gave for them.
    pub fn take_back(&self, pool: &mut Pool) {
        match self.queue.ends().as_mut() {
            Some(ends) => ends.take_back(pool),
            None => std::iter::from_fn(|| pool.take_chunk()).for_each(memory::take_back),
        }
    }

    /// The way out. Nobody else receives or sends meanwhile.
    #[inline]
    pub fn outbound(&self) -> Outbound<'_> {
        Outbound { ends: self.queue.ends(), whole: self.whole.as_ref() }
    }

    /// What a superframe sent to it may still owe. Of all other frames everything has to be done.
    #[inline]
    pub fn accepts(&self) -> Offloads {
        if self.whole.is_some() { Offloads::all() } else { Offloads::empty() }
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

    /// Has the kernel send what was put on its way before. True when some of it waits still: flush again after a while.
    pub fn flush(&self) -> bool {
        self.outbound().finish()
    }
}

/// `None` where it cannot be had, for whatever reason: the port goes on without, packet by packet.
fn packet_sender(device: u32) -> Option<PacketSender> {
    PacketSender::open(device, SEND_BUFFER).ok()
}

/// The same for every MTU, which may change.
const SHAPE: Shape = Shape { receiving: RECEIVING, sending: SENDING, mtu: MTU_MAX, shares: true };
