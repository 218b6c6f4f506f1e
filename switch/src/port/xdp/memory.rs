//! Memories that AF_XDP ports share: a frame from one to another of the same memory goes there in the chunk in which it came.
//!
//! **Accounts.** A port has as many chunks as its [`Shape`] says, from the day it joins to the day it leaves: in its rings, in its list
//! of free ones, or in frames of the turn that received from it. A chunk that goes to another port is exchanged, in the same instant,
//! for a free one of that ([`Ends::pass`](super::queue::Ends::pass)); where the other has none to give, because all are in its
//! transmit ring, the frame is dropped as for any full ring. So every account stays what it was, nobody but the port itself can use it
//! up, and what a port has to receive in is full again after each of its turns, whatever others do or fail to do.
//!
//! **Size.** A registered memory cannot grow, so there are several: each has room for [`PORTS`] ports, and the next is made when
//! all are full. More ports would cost more than their chunks: the kernel keeps a record of 128 bytes of every chunk of the memory for
//! each socket (`xp_create_and_assign_umem`), 200 KB for each port of the memory.
//!
//! **Registration.** What a chunk's address is in the kernel depends on the memory alone. So it does not matter which socket
//! registered it, nor whether it was registered twice. The kernel counts the sockets of a registration, and ends it with the last.
//!
//! **Leaving.** A port's chunks are others' as soon as its device is gone, for then the kernel does not touch them for it any more,
//! and not before: another process may have the socket. What sockets had that nobody took over stays out of use until the
//! memory's last port has left; then the whole memory starts anew.
//!
//! A memory's mapping stays for ever, and serves the next ports: frames in its chunks need nothing that keeps it.

use std::cmp::Reverse;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use weft_sys::xdp::{Buffer, Chunk, CopyMode, Place, Umem, XdpOptions, XdpSocket};

use super::queue::{CHUNK, Shape};

/// Ports of one memory, of up to 25 MB. Of less where not so much can be locked.
const PORTS: u32 = 8;

static MEMORIES: Mutex<Memories> = Mutex::new(Memories { all: Vec::new(), alone: false });

/// What a port has of a memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share {
    /// The memory.
    pub(crate) umem: &'static Umem,
    /// Its number in this process, from 0.
    pub(crate) number: usize,
}

/// A port that has joined a memory.
#[derive(Debug)]
pub(crate) struct Joined {
    pub(crate) share: Share,
    pub(crate) umem: Arc<Umem>,
    pub(crate) socket: XdpSocket,
    /// Those of its account that the kernel does not have.
    pub(crate) free: Vec<Chunk>,
    pub(crate) frags: bool,
}

/// What of a memory can be shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shared {
    /// Its number in this process, from 0.
    pub number: usize,
    /// Bytes, all of them locked.
    pub size: usize,
    /// Ports that have it now.
    pub ports: usize,
}

#[derive(Debug)]
struct Memories {
    /// By number. None ever goes.
    all: Vec<Memory>,
    /// Before Linux 5.10 sockets of several devices cannot share a registration: one was refused that could have its own.
    alone: bool,
}

#[derive(Debug)]
struct Memory {
    umem: &'static Arc<Umem>,
    /// Device and inode of the memfd.
    file: (u64, u64),
    /// Chunks of no port.
    spare: Vec<Chunk>,
    /// With those that are leaving.
    members: Vec<Member>,
    /// Of ports that are closed; the kernel may still have chunks of them.
    leaving: Vec<XdpSocket>,
    /// Frames may have several chunks.
    frags: bool,
}

/// A memory that no port has had, and that goes if none is to have it.
#[derive(Debug)]
struct Blank {
    umem: Arc<Umem>,
    file: (u64, u64),
    spare: Vec<Chunk>,
    frags: bool,
}

#[derive(Debug)]
struct Member {
    socket: u64,
    fd: Weak<OwnedFd>,
}

/// Opens a socket for a queue of a device, with an account in a memory that has room for it. One that another socket has is
/// waited for as long as `patience` lasts.
///
/// # Errors
/// Those of [`XdpSocket::open`], with the step. After any there is no socket, and no memory has a chunk less.
pub(crate) fn open(place: Place<'_>, shape: Shape, patience: Duration) -> io::Result<Joined> {
    let end = Instant::now() + patience;
    let mut blank = None;
    memories().sweep();
    let opened = loop {
        match memories().open(place, shape, &mut blank) {
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(5));
            }
            other => break other,
        }
    };
    if opened.is_err() {
        // One without ports, which it was to have, has pages again.
        memories().sweep();
    }
    opened
}

/// Takes over the memory and the socket of a port where another process has left them.
///
/// # Errors
/// What they are instead; those of [`XdpSocket::adopt`].
pub(crate) fn adopt(memory: &Arc<OwnedFd>, fd: &Arc<OwnedFd>, shape: Shape) -> io::Result<Joined> {
    let mut memories = memories();
    let number = memories.adopt(memory)?;
    memories.all[number].adopt(number, fd, shape)
}

/// A port is closed, and gives the chunks that it has. The others of its account follow when its device is gone.
pub(crate) fn leave(share: Share, socket: XdpSocket, free: Vec<Chunk>) {
    memories().all[share.number].leave(socket, free);
}

/// Waits until all chunks have come back of a port that is closed, as long as `patience` lasts; without ports the memory's pages
/// are the system's again. False: its device is still there.
pub(crate) fn settle(share: Share, socket: u64, patience: Duration) -> bool {
    let end = Instant::now() + patience;
    loop {
        let settled = memories().all[share.number].sweep(socket);
        if settled || Instant::now() >= end {
            return settled;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// What can be shown of a port's memory.
pub(crate) fn shared(share: Share) -> Shared {
    let memory = &memories().all[share.number];
    Shared { number: share.number, size: memory.umem.size(), ports: memory.members.len() }
}

/// Takes a chunk back that belongs to no port any more.
#[cold]
pub(crate) fn take_back(buffer: Buffer) {
    let mut memories = memories();
    let memory = memories.all.iter_mut().find(|memory| memory.umem.has(&buffer));
    // One of no memory is the allocator's.
    if let Some(memory) = memory {
        memory.spare.extend(memory.umem.chunk_of(buffer));
    }
}

fn memories() -> MutexGuard<'static, Memories> {
    // A panic ends the process.
    MEMORIES.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Memories {
    fn sweep(&mut self) {
        self.all.iter_mut().for_each(|memory| {
            memory.sweep(0);
        });
    }

    /// `blank` is for the next try, when this one has failed.
    fn open(&mut self, place: Place<'_>, shape: Shape, blank: &mut Option<Blank>) -> io::Result<Joined> {
        // The fullest that has room: the more ports a memory has, the more frames are not copied.
        let mut numbers: Vec<usize> = (0..self.all.len()).collect();
        numbers.sort_by_key(|number| Reverse(self.all[*number].members.len()));
        let mut is_refused = self.alone;
        for number in numbers {
            let memory = &mut self.all[number];
            let is_shared = !memory.members.is_empty();
            if memory.spare.len() < shape.chunks() as usize || is_refused && is_shared {
                continue;
            }
            match memory.open(number, place, shape) {
                // Its place may be the reason.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput && is_shared => is_refused = true,
                // A smaller one may be allowed.
                Err(error) if error.kind() == io::ErrorKind::OutOfMemory => {}
                Ok(joined) => {
                    self.alone = is_refused;
                    return Ok(joined);
                }
                error => return error,
            }
        }
        let mut ports = if is_refused { 1 } else { PORTS };
        let (made, socket) = loop {
            match Blank::register(blank, ports, place, shape) {
                Err(error) if error.kind() == io::ErrorKind::OutOfMemory && ports > 1 => {
                    *blank = None;
                    ports /= 2;
                }
                other => break other?,
            }
        };
        // It is not: there is a socket, with a registration of its own.
        self.alone = is_refused;
        let number = self.all.len();
        self.all.push(Memory::new(made));
        let memory = &mut self.all[number];
        let rest = (shape.chunks() as usize).saturating_sub(socket.filled());
        let free = memory.spare.split_off(memory.spare.len() - rest);
        Ok(memory.admit(number, socket, free))
    }

    /// The number of a memory that this process has, or has from now on.
    fn adopt(&mut self, memory: &Arc<OwnedFd>) -> io::Result<usize> {
        let file = file(memory)?;
        if let Some(number) = self.all.iter().position(|memory| memory.file == file) {
            return Ok(number);
        }
        let (umem, spare) = Umem::adopt(Arc::clone(memory), CHUNK)?;
        self.all.push(Memory::new(Blank { umem, file, spare, frags: true }));
        Ok(self.all.len() - 1)
    }
}

impl Blank {
    /// With room for `ports`.
    fn new(ports: u32, shape: Shape) -> io::Result<Self> {
        let (umem, spare) = Umem::create(ports * shape.chunks(), CHUNK)?;
        Ok(Blank { file: file(&umem)?, umem, spare, frags: true })
    }

    /// Opens a socket that registers the one at hand, or a new one with room for `ports`. After an error it is at hand.
    fn register(
        at_hand: &mut Option<Self>,
        ports: u32,
        place: Place<'_>,
        shape: Shape,
    ) -> io::Result<(Self, XdpSocket)> {
        let mut blank = match at_hand.take() {
            Some(blank) => blank,
            None => Self::new(ports, shape)?,
        };
        loop {
            let options = XdpOptions { frags: blank.frags, ..shape.options(CopyMode::Copy) };
            match XdpSocket::open(&blank.umem, place, &options, &mut blank.spare) {
                Ok(socket) => return Ok((blank, socket)),
                // Before Linux 6.6: frames of one chunk only.
                Err(error) if error.kind() == io::ErrorKind::InvalidInput && blank.frags => {
                    blank.frags = false;
                }
                Err(error) => {
                    *at_hand = Some(blank);
                    return Err(error);
                }
            }
        }
    }
}

impl Memory {
    fn new(Blank { umem, file, spare, frags }: Blank) -> Self {
        let umem = Box::leak(Box::new(umem));
        Memory { umem, file, spare, members: Vec::new(), leaving: Vec::new(), frags }
    }

    /// Opens a socket with an account of the spare chunks.
    fn open(&mut self, number: usize, place: Place<'_>, shape: Shape) -> io::Result<Joined> {
        let mut free = self.spare.split_off(self.spare.len() - shape.chunks() as usize);
        let options = XdpOptions { frags: self.frags, ..shape.options(CopyMode::Copy) };
        match self.socket(place, &options, &mut free) {
            Ok(socket) => Ok(self.admit(number, socket, free)),
            Err(error) => {
                self.spare.append(&mut free);
                Err(error)
            }
        }
    }

    /// By the registration of any port whose device is still there; without one, by another.
    fn socket(&self, place: Place<'_>, options: &XdpOptions, free: &mut Vec<Chunk>) -> io::Result<XdpSocket> {
        for member in self.members.iter().filter_map(|member| member.fd.upgrade()) {
            match XdpSocket::open_sharing(self.umem, member.as_fd(), place, options, free) {
                Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
                other => return other,
            }
        }
        XdpSocket::open(self.umem, place, options, free)
    }

    fn admit(&mut self, number: usize, socket: XdpSocket, free: Vec<Chunk>) -> Joined {
        self.members.push(Member { socket: socket.id(), fd: Arc::downgrade(&socket.descriptor()) });
        let share = Share { umem: self.umem, number };
        Joined { share, umem: Arc::clone(self.umem), socket, free, frags: self.frags }
    }

    fn adopt(&mut self, number: usize, fd: &Arc<OwnedFd>, shape: Shape) -> io::Result<Joined> {
        let socket = match self.leaving.iter().position(|socket| socket.is(fd.as_fd())) {
            // Closed by this process, its device still there.
            Some(at) => {
                let socket = self.leaving.remove(at);
                self.members.retain(|member| member.socket != socket.id());
                socket
            }
            None => {
                let mut free = Vec::new();
                let options = shape.options(CopyMode::Copy);
                let socket = XdpSocket::adopt(Arc::clone(fd), self.umem, &options, &mut free);
                // Whatever was just coming back is of no port until it has its account.
                self.spare.append(&mut free);
                socket?
            }
        };
        // All accounts fit, for they did in the process before, and a chunk of a ring is of that port's.
        let lacking = (shape.chunks() as usize).saturating_sub(socket.filled() + socket.unsent());
        let free = self.spare.split_off(self.spare.len().saturating_sub(lacking));
        Ok(self.admit(number, socket, free))
    }

    /// Closed is not left: whoever closes its ports because another process has them must not take anything from those.
    fn leave(&mut self, socket: XdpSocket, mut free: Vec<Chunk>) {
        self.spare.append(&mut free);
        self.leaving.push(socket);
    }

    /// Takes back what closed ports have left behind whose device is gone. Whether `socket` is not among the others.
    fn sweep(&mut self, socket: u64) -> bool {
        let asked = socket;
        for socket in std::mem::take(&mut self.leaving) {
            let id = socket.id();
            match socket.retire(&mut self.spare) {
                None => self.members.retain(|member| member.socket != id),
                Some(socket) => self.leaving.push(socket),
            }
        }
        if self.members.is_empty() && self.leaving.is_empty() {
            // It fails only where a memfd cannot have holes: then its pages stay.
            let _ = Umem::renew(self.umem, &mut self.spare);
        }
        self.leaving.iter().all(|socket| socket.id() != asked)
    }
}

fn file(memory: impl AsFd) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(memory)?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests;
