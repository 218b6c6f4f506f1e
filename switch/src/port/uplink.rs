//! The uplink: VXLAN as raw frames of the node's own interface, by AF_XDP sockets, one for each queue.
//!
//! The program at the interface sends nothing here but UDP to the node's VXLAN endpoints; everything else is the kernel's as
//! if there were no program, and so is the tunnel's where a queue has no socket, in fragments, and with options. The UDP
//! sockets ([`super::Underlay`]) stay open for that, and for peers whose next hop is not known here.
//!
//! Outer headers are our own. To whom they go is the kernel's to say: control reads its routes and neighbours and tells
//! ([`Uplink::follow`]) by which next hop, of this interface, each peer is reached.

mod rx;
mod tx;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use weft_encap::MacAddr;
use weft_sys::xdp::{
    Attachment, CopyMode, Endpoints, Place, Program, Want, XdpMode, XskMap, refuse_beside_another,
};

use super::xdp::queue::{Ends, Queue, Shape};
pub use tx::Way;

/// Chunks that the kernel has to receive in, for each queue, and so the packets that may wait there.
const RECEIVING: u32 = 2048;
/// Chunks on their way out at most, for each queue.
const SENDING: u32 = 1024;
/// Queues that get a socket at most; packets of others come by UDP.
const MAX_QUEUES: usize = 16;
/// Endpoints at most.
const MAX_ENDPOINTS: u32 = 1024;
/// Longest MTU: what a frame of several chunks has room for.
pub const MTU_MAX: u32 = 9216;

/// An interface with a program and sockets.
#[derive(Debug)]
pub struct Uplink {
    device: u32,
    mtu: u32,
    attachment: Attachment,
    queues: Vec<Queue>,
    /// Of this process's program. Empty while another process has the sockets.
    endpoints: ArcSwap<Option<Endpoints>>,
    ways: ArcSwap<Ways>,
}

/// How peers are reached, and as whom.
#[derive(Debug, Default)]
pub struct Ways {
    /// The interface's Ethernet address.
    pub mac: MacAddr,
    /// Its MTU, bytes.
    pub mtu: u32,
    /// By the peer's address.
    pub hops: HashMap<IpAddr, Arc<NextHop>, foldhash::fast::RandomState>,
}

/// Where packets for a peer go first.
#[derive(Debug)]
pub struct NextHop {
    /// Its Ethernet address.
    pub mac: MacAddr,
    /// Our address towards it.
    pub source: IpAddr,
    /// Something was sent to it since control looked.
    used: AtomicBool,
}

impl NextHop {
    /// One that nothing was sent to yet.
    pub fn new(mac: MacAddr, source: IpAddr) -> Self {
        NextHop { mac, source, used: AtomicBool::new(false) }
    }

    /// True if something was sent to it since the last call.
    pub fn was_used(&self) -> bool {
        // Relaxed, here and below: nothing hangs on it but when the kernel is told that the neighbour is in use.
        self.used.load(Ordering::Relaxed) && self.used.swap(false, Ordering::Relaxed)
    }

    #[inline]
    fn note_use(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }
}

/// Descriptors of an uplink: the program's link, then socket and memory of each queue.
#[derive(Debug)]
pub struct Parts<T> {
    /// The link of the program.
    pub program: T,
    /// Socket and memory of each queue.
    pub queues: Vec<[T; 2]>,
}

impl Uplink {
    /// Opens the device with this index of the current namespace, for packets to `endpoints`.
    ///
    /// # Errors
    /// What the kernel refuses, with the step: another program at the device (`AlreadyExists`), another socket
    /// (`ResourceBusy`), an MTU beyond [`MTU_MAX`].
    pub fn open(device: u32, mtu: u32, endpoints: &[SocketAddr]) -> io::Result<Self> {
        if mtu > MTU_MAX {
            let message = format!("its MTU of {mtu} is more than {MTU_MAX}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        // Some drivers reset the device for a program, which is not to happen at every try: so it comes last.
        refuse_beside_another(device)?;
        let mut queues = Vec::new();
        while queues.len() < MAX_QUEUES {
            let place = Place::new(device, queues.len() as u32);
            match Queue::open(place, shape(mtu), CopyMode::Auto, Duration::ZERO) {
                Ok(queue) => queues.push(queue),
                // The device has no more.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput && !queues.is_empty() => break,
                Err(error) => return Err(error),
            }
        }
        if queues.iter().any(|queue| queue.takes() < shape(mtu).frame()) {
            let message = format!("an MTU of {mtu} needs Linux 6.6");
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
        let (sockets, map, program) = program(endpoints, device)?;
        set_all(&sockets, &queues)?;
        let attachment = Attachment::new(&program, device, Want::Auto)?;
        if attachment.mode() != XdpMode::Native && queues.iter().any(Queue::is_zero_copy) {
            let message = "its driver shares memory, but takes no program";
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
        let endpoints = ArcSwap::from_pointee(Some(map));
        Ok(Uplink { device, mtu, attachment, queues, endpoints, ways: ArcSwap::default() })
    }

    /// Takes over what another process has opened, or held, for the device with this index of the current namespace and
    /// with this MTU. Nothing is received or sent until [`Uplink::activate`].
    ///
    /// # Errors
    /// What the descriptors are instead.
    pub fn adopt(parts: Parts<OwnedFd>, device: u32, mtu: u32) -> io::Result<Self> {
        let attachment = Attachment::adopt(parts.program, device)?;
        let queues: Vec<_> = parts.queues.into_iter().map(|two| Queue::adopt(two, shape(mtu))).collect();
        if queues.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "there is no socket"));
        }
        let endpoints = ArcSwap::from_pointee(None);
        Ok(Uplink { device, mtu, attachment, queues, endpoints, ways: ArcSwap::default() })
    }

    /// Goes on where the other process was, which must not use it any more, for the packets that the program takes which that one
    /// attached. [`Uplink::settle_in`] is due when they flow.
    ///
    /// # Errors
    /// As for [`Uplink::adopt`]; `ResourceBusy` on kernels before 6.4.
    pub fn activate(&self) -> io::Result<()> {
        self.queues.iter().try_for_each(Queue::activate)
    }

    /// Does what takes time after [`Uplink::activate`], and can be done when packets flow again: from now on they are those to
    /// `endpoints`, and can be others. The kernel takes some 10 ms to put a program into another's place.
    ///
    /// # Errors
    /// What the kernel refuses, with the step.
    pub fn settle_in(&self, endpoints: &[SocketAddr]) -> io::Result<()> {
        self.queues.iter().for_each(Queue::settle_in);
        if self.endpoints.load().is_some() {
            return Ok(());
        }
        // Maps cannot be asked for: a program with its own takes the other's place, and no packet meets none.
        let (sockets, map, program) = program(endpoints, self.device)?;
        set_all(&sockets, &self.queues)?;
        self.attachment.replace(&program)?;
        self.endpoints.store(Arc::new(Some(map)));
        Ok(())
    }

    /// From now on packets to `added` come here, and those to `removed` do not.
    ///
    /// # Errors
    /// `E2BIG` for too many.
    pub fn change_endpoints(&self, added: &[SocketAddr], removed: &[SocketAddr]) -> io::Result<()> {
        let endpoints = self.endpoints.load();
        let Some(endpoints) = endpoints.as_ref() else { return Ok(()) };
        added.iter().try_for_each(|endpoint| endpoints.add(*endpoint))?;
        removed.iter().try_for_each(|endpoint| endpoints.remove(*endpoint))
    }

    /// Tells how peers are reached from now on. Those without a way are sent to by UDP.
    pub fn follow(&self, ways: Ways) {
        self.ways.store(Arc::new(ways));
    }

    /// What was told last.
    pub fn ways(&self) -> Arc<Ways> {
        self.ways.load_full()
    }

    /// Its descriptors.
    pub fn descriptors(&self) -> Parts<BorrowedFd<'_>> {
        Parts {
            program: self.attachment.as_fd(),
            queues: self.queues.iter().map(Queue::descriptors).collect(),
        }
    }

    /// How many queues have a socket.
    pub fn queues(&self) -> usize {
        self.queues.len()
    }

    /// The descriptor that becomes readable when packets wait in a queue.
    pub fn descriptor(&self, queue: usize) -> Option<BorrowedFd<'_>> {
        self.queues.get(queue).map(Queue::descriptor)
    }

    /// Index of the device.
    pub fn device(&self) -> u32 {
        self.device
    }

    /// The MTU that it was opened for.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    /// Where the program runs.
    pub fn mode(&self) -> XdpMode {
        self.attachment.mode()
    }

    /// True when the device reads and writes the memory itself, for all queues.
    pub fn is_zero_copy(&self) -> bool {
        self.queues.iter().all(Queue::is_zero_copy)
    }

    /// Bytes of memory, all of them locked.
    pub fn memory(&self) -> usize {
        self.queues.iter().map(Queue::memory).sum()
    }

    /// Has calls on the sockets poll the device, or not; to be told again after [`Uplink::activate`].
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_NET_ADMIN; `ENOPROTOOPT` on kernels that cannot.
    pub fn set_busy_poll(&self, wanted: bool) -> io::Result<()> {
        self.queues.iter().try_for_each(|queue| queue.set_busy_poll(wanted))
    }

    /// True when calls on the sockets poll the device, for all queues.
    pub fn busy_polls(&self) -> bool {
        self.queues.iter().all(Queue::busy_polls)
    }

    /// As [`XdpDevice::look`](super::XdpDevice::look), of the queue that is worst.
    pub fn look(&self) -> u32 {
        let look = |queue: &Queue| queue.ends().as_mut().map_or(0, Ends::look);
        self.queues.iter().map(look).max().unwrap_or(0)
    }

    /// Packets that the kernel has dropped because nothing was free to receive them in, or too many waited.
    pub fn dropped(&self) -> u64 {
        let of =
            |queue: &Queue| queue.statistics().map_or(0, |is| is.rx_dropped + is.rx_ring_full.unwrap_or(0));
        self.queues.iter().map(of).sum()
    }
}

fn shape(mtu: u32) -> Shape {
    Shape { receiving: RECEIVING, sending: SENDING, mtu, shares: false }
}

/// A program with its maps: the sockets, none yet, and the endpoints.
fn program(endpoints: &[SocketAddr], device: u32) -> io::Result<(XskMap, Endpoints, Program)> {
    let (sockets, map) = (XskMap::new(MAX_QUEUES as u32)?, Endpoints::new(MAX_ENDPOINTS)?);
    endpoints.iter().try_for_each(|endpoint| map.add(*endpoint))?;
    let program = Program::tunnel(&sockets, &map, Some(device))?;
    Ok((sockets, map, program))
}

fn set_all(sockets: &XskMap, queues: &[Queue]) -> io::Result<()> {
    (0..).zip(queues).try_for_each(|(number, queue)| sockets.set(number, queue.descriptor()))
}
