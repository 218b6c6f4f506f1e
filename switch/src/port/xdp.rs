//! AF_XDP ports: the pod has one end of a veth pair, and whatever comes out at the other goes, by a program there, into
//! memory that the kernel shares with this process.
//!
//! No system call is made for a frame received, and one for a batch sent. Neither checksums nor superframes pass: the pod's end
//! has its offloads off, and what is sent must owe nothing. Socket, memory and program are three descriptors: with them another
//! process goes on where this one was, with all that waits.
//!
//! A worker locks the device once for each batch; others wait for that only where several workers send to one port.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_encap::vnet;
use weft_sys::xdp::{
    Attachment, Chunk, HEADROOM, Piece, Program, Umem, Want, XdpMode, XdpOptions, XdpSocket, XskMap,
};

use super::{BATCH_BYTES, Refused, Rx};
use crate::mem::{Batch, Ingress, Pool};
use crate::table::PortSlot;

/// Chunks that the kernel has to receive in, and so the frames that may wait for this process, of one chunk each.
const RECEIVING: u32 = 1024;
/// Chunks on their way to the pod at most.
const SENDING: u32 = 512;
/// Bytes of a chunk while a frame fits into one, and else.
const CHUNK: u32 = 2048;
const LARGE_CHUNK: u32 = 4096;
/// Longest MTU: what a frame of several chunks has room for, and the kernel for those in one socket buffer.
pub const MTU_MAX: u32 = 9216;
/// Longest frame of an MTU: Ethernet header and a tag.
const FRAME_OVERHEAD: u32 = 18;
/// Room for what the pod has not taken yet: above it the kernel sends no more (`sock_alloc_send_skb`).
const SEND_BUFFER: usize = 4 << 20;

/// The queue of the device that the socket is for. A veth has one unless it is asked for more.
const QUEUE: u32 = 0;

/// The descriptors of a device, in the order of [`XdpDevice::descriptors`].
pub type Parts<T> = [T; 3];

/// An open device.
#[derive(Debug)]
pub struct XdpDevice {
    /// Socket and memory once more, for the poll, and to be held.
    socket: OwnedFd,
    memory: OwnedFd,
    attachment: Attachment,
    /// `None`: another process has it still.
    ends: Mutex<Option<Ends>>,
    device: u32,
    mtu: u32,
}

/// What whoever moves frames needs.
#[derive(Debug)]
struct Ends {
    umem: Arc<Umem>,
    socket: XdpSocket,
    free: Vec<Chunk>,
    received: Vec<Piece>,
    sending: Vec<Piece>,
}

impl XdpDevice {
    /// Opens the host's end of a veth pair, by its index in the current namespace; `mtu` is that of both ends.
    ///
    /// # Errors
    /// What the kernel refuses, with the step: another program at the device (`AlreadyExists`), another socket.
    pub fn open(device: u32, mtu: u32) -> io::Result<Self> {
        let (umem, mut free) = Umem::create(RECEIVING + SENDING, chunk_size(mtu))?;
        let socket = XdpSocket::open(&umem, device, QUEUE, &options(mtu), &mut free)?;
        socket.set_send_buffer(SEND_BUFFER)?;
        let sockets = XskMap::new(QUEUE + 1)?;
        sockets.set(QUEUE, socket.as_fd())?;
        let attachment = Attachment::new(&Program::everything(&sockets)?, device, Want::Auto)?;
        let (fd, memory) = (socket.as_fd().try_clone_to_owned()?, umem.as_fd().try_clone_to_owned()?);
        let ends = Mutex::new(Some(Ends::new(umem, socket, free)));
        Ok(XdpDevice { socket: fd, memory, attachment, ends, device, mtu })
    }

    /// Takes over what another process has opened, or held, for the host's end `device` of the current namespace. Nothing
    /// is received or sent until [`XdpDevice::activate`].
    ///
    /// # Errors
    /// What the descriptors are instead.
    pub fn adopt([socket, memory, link]: Parts<OwnedFd>, device: u32, mtu: u32) -> io::Result<Self> {
        let attachment = Attachment::adopt(link, device)?;
        Ok(XdpDevice { socket, memory, attachment, ends: Mutex::new(None), device, mtu })
    }

    /// Goes on where the other process was, which must not use it any more.
    ///
    /// # Errors
    /// As for [`XdpDevice::adopt`]; `ResourceBusy` on kernels before 6.4.
    pub fn activate(&self) -> io::Result<()> {
        let mut ends = self.ends();
        if ends.is_none() {
            let (umem, mut free) = Umem::adopt(self.memory.try_clone()?, chunk_size(self.mtu))?;
            let options = options(self.mtu);
            let socket = XdpSocket::adopt(self.socket.try_clone()?, &umem, &options, &mut free)?;
            *ends = Some(Ends::new(umem, socket, free));
        }
        Ok(())
    }

    /// Socket, memory and link of the program.
    pub fn descriptors(&self) -> Parts<BorrowedFd<'_>> {
        [self.socket.as_fd(), self.memory.as_fd(), self.attachment.as_fd()]
    }

    /// The descriptor that becomes readable when frames wait.
    pub fn descriptor(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
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
        self.ends().as_ref().is_some_and(|ends| ends.socket.is_zero_copy())
    }

    /// Bytes of memory, all of them locked.
    pub fn memory(&self) -> usize {
        self.ends().as_ref().map_or(0, |ends| ends.umem.size())
    }

    /// Adds waiting frames to `batch`.
    pub fn receive(&self, slot: PortSlot, pool: &mut Pool, batch: &mut Batch) -> Rx {
        let mut ends = self.ends();
        let Some(ends) = ends.as_mut() else { return Rx::Drained };
        let (mut bytes, most) = (0, batch.room().min(BATCH_BYTES / self.mtu as usize));
        let frames = ends.socket.receive(&mut ends.received, most);
        let mut frame = None;
        for piece in ends.received.drain(..) {
            if frame.is_none() {
                frame = pool.take();
            }
            if let Some(frame) = &mut frame {
                frame.append(ends.umem.piece(&piece));
            }
            let ends_here = !piece.more;
            ends.free.push(piece.chunk);
            // Without a buffer the frame is lost, as it is where a batch finds no room.
            if let Some(mut frame) = frame.take_if(|_| ends_here) {
                frame.ingress = Ingress::Port(slot);
                bytes += frame.len();
                batch.add(frame);
            }
        }
        ends.refill();
        if frames < most && bytes < BATCH_BYTES { Rx::Drained } else { Rx::More }
    }

    /// Puts one frame, behind 12 bytes of vnet header, on its way; it leaves with [`XdpDevice::flush`].
    ///
    /// # Errors
    /// [`Refused`].
    #[inline]
    pub fn send(&self, frame: &[u8]) -> Result<(), Refused> {
        let mut ends = self.ends();
        let ends = ends.as_mut().ok_or(Refused::Down)?;
        let frame = frame.get(vnet::LEN..).filter(|frame| !frame.is_empty()).ok_or(Refused::Invalid)?;
        if frame.len() > (self.mtu + FRAME_OVERHEAD) as usize {
            return Err(Refused::Invalid);
        }
        ends.send(frame)
    }

    /// Has the kernel send what was put on its way.
    pub fn flush(&self) {
        if let Some(ends) = self.ends().as_mut() {
            ends.flush();
        }
    }

    fn ends(&self) -> MutexGuard<'_, Option<Ends>> {
        // A worker that panics ends the process.
        self.ends.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ends {
    fn new(umem: Arc<Umem>, socket: XdpSocket, free: Vec<Chunk>) -> Self {
        let room = (RECEIVING + SENDING) as usize;
        let mut ends = Ends {
            umem,
            socket,
            free,
            received: Vec::with_capacity(RECEIVING as usize),
            sending: Vec::with_capacity(SENDING as usize),
        };
        ends.free.reserve(room);
        ends.refill();
        ends
    }

    /// The rest is for sending.
    fn refill(&mut self) {
        let lacking = (RECEIVING as usize).saturating_sub(self.socket.filled());
        self.socket.fill(&mut self.free, lacking);
        // It fails where the device is gone, which control is told.
        let _ = self.socket.wake_receive();
    }

    #[inline]
    fn send(&mut self, frame: &[u8]) -> Result<(), Refused> {
        let size = self.umem.chunk_size() as usize;
        let needed = frame.len().div_ceil(size);
        let room = |ends: &Ends| {
            let under_way = ends.socket.unsent() + ends.sending.len();
            (SENDING as usize).saturating_sub(under_way).min(ends.free.len()) >= needed
        };
        if !room(self) {
            self.socket.complete(&mut self.free);
            if !room(self) {
                return Err(Refused::Full);
            }
        }
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

    fn flush(&mut self) {
        // There is room for all: see `send`. What may not be sent was not put there.
        let _ = self.socket.send(&mut self.sending);
        // While it is down, and when it is gone, nothing leaves; what waits is sent when it is up again.
        let _ = self.socket.kick();
        self.socket.complete(&mut self.free);
    }
}

fn chunk_size(mtu: u32) -> u32 {
    if mtu + FRAME_OVERHEAD <= CHUNK - HEADROOM { CHUNK } else { LARGE_CHUNK }
}

fn options(mtu: u32) -> XdpOptions {
    XdpOptions {
        rx: RECEIVING,
        tx: SENDING,
        fill: RECEIVING,
        completion: SENDING,
        frags: mtu + FRAME_OVERHEAD > chunk_size(mtu) - HEADROOM,
        ..XdpOptions::default()
    }
}
