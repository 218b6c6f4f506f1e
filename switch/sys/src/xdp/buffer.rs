//! Bytes of a frame, wherever they are: of the allocator, or a chunk of a memory that lasts.
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::slice;

use super::umem::{CHUNK_SIZES, Chunk, Umem};

/// Longest buffer that is a chunk, bytes. Those of the allocator are longer: so the two are told apart without another word.
const LONGEST_CHUNK: usize = CHUNK_SIZES[1] as usize;

/// Bytes that one value has alone, as a boxed slice has, and at the same cost: whoever reads or writes does not ask where they are.
///
/// Dropped, a chunk is out of use until the process ends: take it out with [`Umem::chunk_of`].
#[derive(Debug)]
pub struct Buffer {
    start: NonNull<u8>,
    len: usize,
}

// SAFETY: a value has its bytes alone, as a box has; neither allocator nor mapping belongs to a thread.
unsafe impl Send for Buffer {}
// SAFETY: as above; a shared one is only read.
unsafe impl Sync for Buffer {}

impl Buffer {
    /// `len` zeros of the allocator, more than the largest chunk. Their pages are touched when something is written. `None`:
    /// there is no memory.
    ///
    /// # Panics
    /// For a length that a chunk may have.
    #[must_use]
    pub fn zeroed(len: usize) -> Option<Self> {
        assert!(len > LONGEST_CHUNK, "a buffer of {len} bytes");
        let layout = Layout::array::<u8>(len).ok()?;
        // SAFETY: the layout is not empty.
        let start = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self { start, len })
    }

    /// No bytes.
    #[inline]
    #[must_use]
    pub fn empty() -> Self {
        Self { start: NonNull::dangling(), len: 0 }
    }

    /// All bytes of a chunk. The memory is never unmapped, and so whoever has the buffer need not keep it.
    ///
    /// # Panics
    /// For a chunk of another memory.
    #[inline]
    #[must_use]
    pub fn of(umem: &'static Umem, chunk: Chunk) -> Self {
        Self { start: umem.place(&chunk), len: umem.chunk_size() as usize }
    }

    /// Where they are.
    #[inline]
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }
}

impl Deref for Buffer {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        // SAFETY: so many bytes were allocated, and are freed with this value; or they are a chunk, mapped for ever, whose one
        // value this one stands for. They are initialized: zeros, or what was read or written.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl DerefMut for Buffer {
    #[inline]
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and this value is borrowed alone.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.len > LONGEST_CHUNK
            && let Ok(layout) = Layout::array::<u8>(self.len)
        {
            // SAFETY: it is longer than any chunk, so it was allocated, with this layout; nobody borrows it any more.
            unsafe { dealloc(self.start.as_ptr(), layout) };
        }
    }
}

#[cfg(test)]
mod tests;
