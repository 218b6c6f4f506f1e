//! The memory that frames are in (UMEM, `Documentation/networking/af_xdp.rst`): chunks of one size, each of which either
//! this process has or the kernel has.
//!
//! Whoever holds a [`Chunk`] has it, and only who has it sees its bytes. There is one value for each chunk: made with
//! the memory, given away to the kernel by a socket's ring, and made anew when the kernel gives the chunk back. For every
//! chunk the memory says, beside the chunks, which socket's ring it was given to; what that ring has not been given
//! is not taken from it, whatever the kernel writes there.
//!
//! The memory is a memfd, and so can be handed to another process together with its sockets. In one process there is one
//! value of it, and of each socket ([`super::XdpSocket::adopt`]). That another process has stopped to use it is between the
//! two, as with any shared mapping.
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::{FallocateFlags, MemfdFlags, SealFlags};
use rustix::io::Errno;

use super::buffer::Buffer;
use super::mapping::Mapping;
use crate::step::step;

/// Largest memory of one [`Umem`], bytes.
pub const MAX_SIZE: u64 = 1 << 30;
/// The kernel takes chunks of these sizes in bytes: a power of two, at least 2048, at most a page
/// (`xdp_umem_reg`, `net/xdp/xdp_umem.c`).
pub const CHUNK_SIZES: [u32; 2] = [2048, 4096];
/// Room that the kernel leaves in front of a frame that it receives, bytes (`XDP_PACKET_HEADROOM`, `linux/bpf.h`).
pub const HEADROOM: u32 = 256;

/// The chunk is this process's.
const OURS: u64 = 0;
/// Beside the ring that had it: it has come back, and the ring may not know yet.
const CLAIMED: u64 = 2;
/// Distinguishes the memories of this process.
static NEXT_ID: AtomicU32 = AtomicU32::new(1);

/// A chunk that this process has. Dropped, it is out of use until the process ends: give it back to a free list.
#[derive(PartialEq, Eq, Debug)]
#[must_use = "a dropped chunk is lost"]
pub struct Chunk {
    umem: u32,
    index: u32,
}

impl Chunk {
    /// Its number in the memory, from 0.
    #[must_use]
    pub fn index(&self) -> u32 {
        self.index
    }
}

/// A frame, or a part of one: bytes in a chunk.
#[derive(PartialEq, Eq, Debug)]
pub struct Piece {
    /// Where the bytes are.
    pub chunk: Chunk,
    /// The first byte's place in the chunk.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
    /// The frame goes on in the next piece (`XDP_PKT_CONTD`).
    pub more: bool,
}

impl Piece {
    /// Where in the chunk the bytes are.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.offset as usize..self.offset as usize + self.len as usize
    }
}

/// The memory. Its size is bounded by [`MAX_SIZE`], and never changes.
#[derive(Debug)]
pub struct Umem {
    id: u32,
    memory: Arc<OwnedFd>,
    mapping: Mapping,
    /// All pages are mapped, or it is not worth another try.
    populated: AtomicBool,
    chunk_size: u32,
    count: u32,
    _held: Held,
}

impl Umem {
    /// Makes a memory of `count` chunks, and gives all of them. The pages are there from the beginning.
    ///
    /// Every socket costs the kernel more than 100 bytes for each chunk of its memory (`xp_create_and_assign_umem`), used
    /// or not.
    ///
    /// # Errors
    /// `InvalidInput` for a size that is not allowed; `ENOMEM`.
    pub fn create(count: u32, chunk_size: u32) -> io::Result<(Arc<Self>, Vec<Chunk>)> {
        check_size(count, chunk_size)?;
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let memory = rustix::fs::memfd_create("weft-umem", flags).map_err(io::Error::from);
        let memory = memory.map_err(step("memfd_create"))?;
        let length = length(count, chunk_size);
        rustix::fs::ftruncate(&memory, length as u64).map_err(io::Error::from).map_err(step("ftruncate"))?;
        // Nobody cuts it under our feet.
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        rustix::fs::fcntl_add_seals(&memory, seals).map_err(io::Error::from).map_err(step("F_ADD_SEALS"))?;
        Self::map(memory.into(), count, chunk_size, true)
    }

    /// Takes over a memory of another process, which does not use it any more, and gives the chunks that the kernel does
    /// not have. Then take over its sockets ([`super::XdpSocket::adopt`]): they may give more. No page is mapped before it is
    /// used, for there may be little time: [`Umem::populate`] does it later.
    ///
    /// # Errors
    /// `InvalidInput` when it is not what [`Umem::create`] makes with this size of chunks; `AlreadyExists` when this
    /// process has it.
    pub fn adopt(memory: impl Into<Arc<OwnedFd>>, chunk_size: u32) -> io::Result<(Arc<Self>, Vec<Chunk>)> {
        let memory = memory.into();
        let other = |_| io::Error::new(io::ErrorKind::InvalidInput, "not a memory for frames");
        let seals = rustix::fs::fcntl_get_seals(&memory).map_err(other)?;
        let bytes = rustix::fs::fstat(&memory)?.st_size.unsigned_abs();
        let count = u32::try_from(bytes / (u64::from(chunk_size) + 8)).map_err(|_| other(Errno::INVAL))?;
        check_size(count, chunk_size)?;
        if !seals.contains(SealFlags::SHRINK) || length(count, chunk_size) as u64 != bytes {
            return Err(other(Errno::INVAL));
        }
        Self::map(memory, count, chunk_size, false)
    }

    fn map(
        memory: Arc<OwnedFd>,
        count: u32,
        chunk_size: u32,
        is_new: bool,
    ) -> io::Result<(Arc<Self>, Vec<Chunk>)> {
        let length = length(count, chunk_size);
        let held = Held::new(memory.as_fd())?;
        let mapping = Mapping::new(memory.as_fd(), 0, length, is_new).map_err(step("map the memory"))?;
        // Relaxed: a number that nobody else has.
        let id = NEXT_ID.fetch_add(1, Ordering::Relaxed);
        let populated = AtomicBool::new(is_new);
        let umem = Arc::new(Self { id, memory, mapping, populated, chunk_size, count, _held: held });
        // Acquire: pairs with the releases of the process that had it before.
        let is_ours = |index: &u32| umem.owner(*index).load(Ordering::Acquire) == OURS;
        let chunks = (0..count).rev().filter(is_ours).map(|index| Chunk { umem: id, index }).collect();
        Ok((umem, chunks))
    }

    /// Maps those pages that this process has not used yet, which is less work than to fault them in one by one, but all at once. Only
    /// the first call does anything; before Linux 5.14 none.
    pub fn populate(&self) {
        // Relaxed: to do it twice does no harm.
        if !self.populated.swap(true, Ordering::Relaxed) {
            let _ = self.mapping.populate();
        }
    }

    /// The memfd.
    #[must_use]
    pub fn descriptor(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.memory)
    }

    /// Number of chunks.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes of a chunk.
    #[must_use]
    pub fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    /// Bytes of all that is mapped: the chunks, and who has them.
    #[must_use]
    pub fn size(&self) -> usize {
        self.mapping.length()
    }

    /// A chunk's bytes.
    ///
    /// # Panics
    /// For a chunk of another memory.
    #[inline]
    #[must_use]
    pub fn bytes<'a>(&'a self, chunk: &'a Chunk) -> &'a [u8] {
        // SAFETY: the start is inside, and as many bytes follow. Who has the value has the chunk, and the borrow keeps
        // both; whoever writes borrows it alone.
        unsafe { std::slice::from_raw_parts(self.place(chunk).as_ptr(), self.chunk_size as usize) }
    }

    /// A chunk's bytes, to be written.
    ///
    /// # Panics
    /// For a chunk of another memory.
    #[inline]
    #[must_use]
    pub fn bytes_mut<'a>(&'a self, chunk: &'a mut Chunk) -> &'a mut [u8] {
        // SAFETY: as above; the value is borrowed alone, and there is no second one of the same chunk.
        unsafe { std::slice::from_raw_parts_mut(self.place(chunk).as_ptr(), self.chunk_size as usize) }
    }

    /// The bytes of a piece.
    ///
    /// # Panics
    /// When they are not inside the chunk, which they are in every piece received.
    #[inline]
    #[must_use]
    pub fn piece<'a>(&'a self, piece: &'a Piece) -> &'a [u8] {
        &self.bytes(&piece.chunk)[piece.range()]
    }

    /// The bytes of a piece, to be written.
    ///
    /// # Panics
    /// As [`Umem::piece`].
    #[inline]
    #[must_use]
    pub fn piece_mut<'a>(&'a self, piece: &'a mut Piece) -> &'a mut [u8] {
        let range = piece.range();
        &mut self.bytes_mut(&mut piece.chunk)[range]
    }

    /// True for a buffer that is a chunk of this memory.
    #[inline]
    #[must_use]
    pub fn has(&self, buffer: &Buffer) -> bool {
        !buffer.is_empty() && self.offset(buffer) < self.count as usize * self.chunk_size as usize
    }

    /// The chunk that a buffer is.
    ///
    /// # Errors
    /// The buffer, when it is none of this memory.
    #[inline]
    pub fn chunk_of(&self, buffer: Buffer) -> Result<Chunk, Buffer> {
        if !self.has(&buffer) {
            return Err(buffer);
        }
        let index = self.offset(&buffer) / self.chunk_size as usize;
        // A buffer in this memory is a whole chunk, and drops nothing: from here on this value is the one of that chunk.
        Ok(Chunk { umem: self.id, index: index as u32 })
    }

    /// Where in the memory a buffer begins, bytes; beyond its end for what is elsewhere.
    #[inline]
    fn offset(&self, buffer: &Buffer) -> usize {
        buffer.start().addr().get().wrapping_sub(self.mapping.start().addr().get())
    }

    /// Gives the pages back to the system: what is in them is lost. Appends the chunks to `free` that rings have been given, so that it
    /// has all that no other list has. Sockets that are open still, in whatever process, keep the pages that they have pinned,
    /// which are no longer this memory's: they do no harm.
    ///
    /// # Errors
    /// `ResourceBusy`, and nothing is changed, while this process has a socket with it, or another reference, or a chunk that is
    /// not in `free`: somebody may be reading it.
    pub fn renew(umem: &Arc<Self>, free: &mut Vec<Chunk>) -> io::Result<()> {
        if Arc::strong_count(umem) > 1 {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        // Relaxed: no socket, so nobody else writes.
        let is_lent = |index: &u32| umem.owner(*index).load(Ordering::Relaxed) != OURS;
        let lent: Vec<u32> = (0..umem.count).filter(is_lent).collect();
        if free.iter().filter(|chunk| chunk.umem == umem.id).count() + lent.len() != umem.count as usize {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        // Zeros say that this process has a chunk.
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let punched = rustix::fs::fallocate(&umem.memory, flags, 0, umem.size() as u64);
        punched.map_err(io::Error::from).map_err(step("give the memory's pages back"))?;
        free.extend(lent.into_iter().map(|index| Chunk { umem: umem.id, index }));
        Ok(())
    }

    /// A chunk's address for the kernel.
    #[inline]
    pub(super) fn address(&self, chunk: &Chunk) -> u64 {
        assert_eq!(chunk.umem, self.id, "chunk of another memory");
        u64::from(chunk.index) * u64::from(self.chunk_size)
    }

    /// Gives a chunk to the ring that `ring` stands for, in which its address is written already: whoever finds it lent and
    /// not submitted, after this process has ended in between, finds it there.
    #[inline]
    pub(super) fn lend(&self, chunk: Chunk, ring: u64) {
        debug_assert_ne!(ring, OURS);
        assert_eq!(chunk.umem, self.id, "chunk of another memory");
        // Release, here and below: another process that has the memory later sees what was before it.
        self.owner(chunk.index).store(ring, Ordering::Release);
    }

    /// The chunk, and the place in it, that an address of the kernel's means, if it is one of those that `ring` was
    /// given. [`Umem::settle`] completes it once the kernel's ring has forgotten the chunk.
    #[inline]
    pub(super) fn claim(&self, address: u64, ring: u64) -> Option<(Chunk, u32)> {
        let size = u64::from(self.chunk_size);
        let index = u32::try_from(address / size).ok().filter(|index| *index < self.count)?;
        let owner = self.owner(index);
        // Relaxed: while the ring has it, this ring's side alone reads and writes it.
        if owner.load(Ordering::Relaxed) != ring {
            return None;
        }
        owner.store(ring | CLAIMED, Ordering::Release);
        Some((Chunk { umem: self.id, index }, (address % size) as u32))
    }

    /// The chunk is this process's for good.
    #[inline]
    pub(super) fn settle(&self, chunk: &Chunk) {
        self.owner(chunk.index).store(OURS, Ordering::Release);
    }

    /// Takes all back that the rings have been given.
    pub(super) fn take_all(&self, rings: [u64; 2], free: &mut Vec<Chunk>) {
        for index in 0..self.count {
            // Relaxed: the rings are no longer used.
            let owner = self.owner(index).load(Ordering::Relaxed);
            if rings.contains(&owner) {
                let chunk = Chunk { umem: self.id, index };
                self.settle(&chunk);
                free.push(chunk);
            }
        }
    }

    /// How many chunks `ring` still has, when the process before has ended at any point. Of those that it was about to have
    /// back, those that are in the ring, at `waiting`, are the ring's, and the others are free.
    pub(super) fn recover(&self, ring: u64, waiting: &[u64], free: &mut Vec<Chunk>) -> u32 {
        let size = u64::from(self.chunk_size);
        for index in 0..self.count {
            // Relaxed: nobody else uses this ring now.
            if self.owner(index).load(Ordering::Relaxed) == ring | CLAIMED {
                let chunk = Chunk { umem: self.id, index };
                if waiting.iter().any(|address| address / size == u64::from(index)) {
                    self.lend(chunk, ring);
                } else {
                    self.settle(&chunk);
                    free.push(chunk);
                }
            }
        }
        let is_lent = |index: &u32| self.owner(*index).load(Ordering::Relaxed) == ring;
        (0..self.count).filter(is_lent).count() as u32
    }

    /// True for a piece that can be sent from here.
    #[inline]
    pub(super) fn is_valid(&self, piece: &Piece) -> bool {
        let end = piece.offset.checked_add(piece.len);
        piece.chunk.umem == self.id && piece.len > 0 && end.is_some_and(|end| end <= self.chunk_size)
    }

    /// Where the chunks are, for `XDP_UMEM_REG`: address and length.
    pub(super) fn chunks(&self) -> (u64, u64) {
        let length = u64::from(self.count) * u64::from(self.chunk_size);
        (self.mapping.start().as_ptr() as u64, length)
    }

    /// A chunk's first byte.
    ///
    /// # Panics
    /// For a chunk of another memory.
    #[inline]
    pub(super) fn place(&self, chunk: &Chunk) -> NonNull<u8> {
        assert_eq!(chunk.umem, self.id, "chunk of another memory");
        // SAFETY: chunks of this memory have indices below `count`, and so many are mapped.
        unsafe { self.mapping.start().add(chunk.index as usize * self.chunk_size as usize) }
    }

    /// Who has a chunk.
    #[inline]
    fn owner(&self, index: u32) -> &AtomicU64 {
        debug_assert!(index < self.count);
        let at = self.count as usize * self.chunk_size as usize + index as usize * size_of::<u64>();
        // SAFETY: `length` made room for one word for each chunk behind the chunks, which end on a multiple of 8.
        unsafe { self.mapping.start().add(at).cast().as_ref() }
    }
}

impl AsFd for Umem {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.memory.as_fd()
    }
}

/// A memory that this process has: there is one [`Umem`] of it, so that there is one [`Chunk`] of each chunk.
#[derive(Debug)]
struct Held((u64, u64));

/// By device and inode of the memfd.
static HELD: Mutex<Vec<(u64, u64)>> = Mutex::new(Vec::new());

impl Held {
    fn new(memory: BorrowedFd<'_>) -> io::Result<Self> {
        let stat = rustix::fs::fstat(memory)?;
        let file = (stat.st_dev, stat.st_ino);
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        if held.contains(&file) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        held.push(file);
        Ok(Self(file))
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|file| *file != self.0);
    }
}

fn check_size(count: u32, chunk_size: u32) -> io::Result<()> {
    let size = u64::from(count) * u64::from(chunk_size);
    if count > 0 && CHUNK_SIZES.contains(&chunk_size) && size <= MAX_SIZE {
        return Ok(());
    }
    let message = format!("{count} chunks of {chunk_size} bytes: of 2048 or 4096 bytes, {MAX_SIZE} in all");
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

/// Bytes of the memory: the chunks, and a word for each.
fn length(count: u32, chunk_size: u32) -> usize {
    count as usize * (chunk_size as usize + size_of::<u64>())
}

#[cfg(test)]
mod tests;
