//! The rings between this process and the kernel (`net/xdp/xsk_queue.h`): one side puts entries in and moves the
//! producer index, the other takes them out and moves the consumer index. Indices count up and wrap around at 2^32;
//! an entry's slot is its index modulo the ring's size, which is a power of two.
//!
//! Each side remembers what it last saw of the other's index, and looks again only when that is not enough for what it
//! wants. So ask for as much as there is use for: who asks for one entry is content with an old view, and never
//! learns how many there are.
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, Ordering};

use super::mapping::Mapping;

/// An index that both sides see; the tests under loom have another one.
pub(super) trait Index {
    fn load(&self, order: Ordering) -> u32;
    fn store(&self, value: u32, order: Ordering);
}

impl Index for AtomicU32 {
    #[inline]
    fn load(&self, order: Ordering) -> u32 {
        self.load(order)
    }

    #[inline]
    fn store(&self, value: u32, order: Ordering) {
        self.store(value, order);
    }
}

/// What a ring consists of.
pub(super) trait Memory {
    type Index: Index;
    type Entry: Copy;
    /// Entries that it has room for, a power of two.
    fn size(&self) -> u32;
    fn producer(&self) -> &Self::Index;
    fn consumer(&self) -> &Self::Index;
    /// # Safety
    /// The other side does not write the entry of `index` now.
    unsafe fn read(&self, index: u32) -> Self::Entry;
    /// # Safety
    /// The other side does not touch the entry of `index` now.
    unsafe fn write(&self, index: u32, entry: Self::Entry);
}

/// The side that puts entries in. There is one.
#[derive(Debug)]
pub(super) struct Producer<M> {
    memory: M,
    /// The producer index as this side alone moves it.
    next: u32,
    /// The consumer index when last looked at.
    seen: u32,
}

impl<M: Memory> Producer<M> {
    /// Goes on where the ring's indices are.
    pub(super) fn new(memory: M) -> Self {
        // Relaxed: this side alone writes it, or whoever had this side before.
        let next = memory.producer().load(Ordering::Relaxed);
        // Acquire: pairs with the other side's release, as in `room`.
        let seen = memory.consumer().load(Ordering::Acquire);
        Self { memory, next, seen }
    }

    /// How many entries there is room for, at most `want`.
    #[inline]
    pub(super) fn room(&mut self, want: u32) -> u32 {
        if self.free() < want {
            // Acquire: pairs with the release in `Consumer::release`; the slots have been read before we write them.
            self.seen = self.memory.consumer().load(Ordering::Acquire);
        }
        self.free().min(want)
    }

    /// Writes the entry that is `ahead` of those submitted.
    ///
    /// # Panics
    /// When [`Producer::room`] has not said that there is room for it.
    #[inline]
    pub(super) fn write(&mut self, ahead: u32, entry: M::Entry) {
        assert!(ahead < self.free(), "no room in the ring");
        // SAFETY: the slot is free: the other side has passed it, and touches it again when it is submitted.
        unsafe { self.memory.write(self.next.wrapping_add(ahead), entry) };
    }

    /// Hands over the next `count` entries, which have been written.
    #[inline]
    pub(super) fn submit(&mut self, count: u32) {
        debug_assert!(count <= self.free());
        self.next = self.next.wrapping_add(count);
        // Release: whoever sees the index sees the entries.
        self.memory.producer().store(self.next, Ordering::Release);
    }

    /// How many entries the other side has not taken yet.
    #[inline]
    pub(super) fn waiting(&mut self) -> u32 {
        // Acquire: as in `room`.
        self.seen = self.memory.consumer().load(Ordering::Acquire);
        self.memory.size() - self.free()
    }

    /// What was written `ahead` of those submitted, by this side or by whoever had it before; nonsense if nothing was.
    ///
    /// # Panics
    /// When there is no room for it.
    pub(super) fn written(&self, ahead: u32) -> M::Entry {
        assert!(ahead < self.free(), "no room in the ring");
        // SAFETY: the slot is free, as in `write`; the other side never writes entries of this ring.
        unsafe { self.memory.read(self.next.wrapping_add(ahead)) }
    }

    /// How many entries were submitted, modulo 2^32.
    pub(super) fn submitted(&self) -> u32 {
        self.next
    }

    /// An index that makes no sense, which only a broken other side writes, means that there is no room.
    #[inline]
    fn free(&self) -> u32 {
        self.memory.size().saturating_sub(self.next.wrapping_sub(self.seen))
    }

    /// The memory, for what is beside the indices.
    #[inline]
    pub(super) fn memory(&self) -> &M {
        &self.memory
    }
}

/// The side that takes entries out. There is one.
#[derive(Debug)]
pub(super) struct Consumer<M> {
    memory: M,
    /// The consumer index as this side alone moves it.
    next: u32,
    /// The producer index when last looked at.
    seen: u32,
}

impl<M: Memory> Consumer<M> {
    /// Goes on where the ring's indices are.
    pub(super) fn new(memory: M) -> Self {
        // Relaxed: this side alone writes it, or whoever had this side before.
        let next = memory.consumer().load(Ordering::Relaxed);
        Self { memory, next, seen: next }
    }

    /// How many entries can be read, at most `want`.
    #[inline]
    pub(super) fn available(&mut self, want: u32) -> u32 {
        if self.filled() < want {
            // Acquire: pairs with the release in `Producer::submit`; the entries are there.
            self.seen = self.memory.producer().load(Ordering::Acquire);
        }
        self.filled().min(want)
    }

    /// The entry that is `ahead` of those released.
    ///
    /// # Panics
    /// When [`Consumer::available`] has not said that it is there.
    #[inline]
    pub(super) fn read(&self, ahead: u32) -> M::Entry {
        assert!(ahead < self.filled(), "nothing there in the ring");
        // SAFETY: the entry was submitted, and the other side writes the slot again when it is released.
        unsafe { self.memory.read(self.next.wrapping_add(ahead)) }
    }

    /// Gives the slots of the next `count` entries back.
    #[inline]
    pub(super) fn release(&mut self, count: u32) {
        debug_assert!(count <= self.filled());
        self.next = self.next.wrapping_add(count);
        // Release: the entries are read before the other side sees that their slots are free.
        self.memory.consumer().store(self.next, Ordering::Release);
    }

    /// How many entries were taken out, modulo 2^32.
    pub(super) fn released(&self) -> u32 {
        self.next
    }

    /// An index that makes no sense, which only a broken other side writes, means that nothing is there.
    #[inline]
    fn filled(&self) -> u32 {
        let filled = self.seen.wrapping_sub(self.next);
        if filled <= self.memory.size() { filled } else { 0 }
    }
}

/// Where the parts of a ring are in its mapping, bytes (`struct xdp_ring_offset`).
#[derive(Clone, Copy, Debug)]
pub(super) struct Offsets {
    pub(super) producer: usize,
    pub(super) consumer: usize,
    pub(super) flags: usize,
    pub(super) entries: usize,
}

/// A ring that is shared with the kernel.
#[derive(Debug)]
pub(super) struct Mapped<T> {
    mapping: Mapping,
    offsets: Offsets,
    size: u32,
    entry: PhantomData<T>,
}

// SAFETY: the mapping may be used from any thread, and the entries are plain numbers.
unsafe impl<T> Send for Mapped<T> {}

impl<T: Copy> Mapped<T> {
    /// Length of the mapping of a ring of `size` entries, bytes.
    pub(super) fn length(offsets: &Offsets, size: u32) -> usize {
        offsets.entries + size as usize * size_of::<T>()
    }

    /// # Safety
    /// The mapping is a ring of `size` entries of type `T`, which is plain numbers; its parts are where `offsets` says.
    ///
    /// # Panics
    /// When a part is outside of the mapping.
    pub(super) unsafe fn new(mapping: Mapping, offsets: Offsets, size: u32) -> Self {
        let indices = [offsets.producer, offsets.consumer, offsets.flags];
        let inside = indices.iter().all(|at| at.is_multiple_of(4) && at + 4 <= mapping.length());
        assert!(inside && offsets.entries.is_multiple_of(align_of::<T>()) && size.is_power_of_two());
        assert!(Self::length(&offsets, size) <= mapping.length());
        Self { mapping, offsets, size, entry: PhantomData }
    }

    /// The kernel wants a system call before it goes on (`XDP_RING_NEED_WAKEUP`).
    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        // Relaxed: nothing else is read on account of it.
        self.word(self.offsets.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    #[inline]
    fn word(&self, at: usize) -> &AtomicU32 {
        // SAFETY: `new` has seen that the word is inside and aligned; the kernel, too, accesses it as a whole.
        unsafe { self.mapping.start().add(at).cast().as_ref() }
    }

    #[inline]
    fn slot(&self, index: u32) -> *mut T {
        let slot = (index & (self.size - 1)) as usize;
        // SAFETY: the slot is below the size, and `new` has seen that all slots are inside.
        unsafe { self.mapping.start().add(self.offsets.entries).cast::<T>().add(slot).as_ptr() }
    }
}

impl<T: Copy> Memory for Mapped<T> {
    type Index = AtomicU32;
    type Entry = T;

    #[inline]
    fn size(&self) -> u32 {
        self.size
    }

    #[inline]
    fn producer(&self) -> &AtomicU32 {
        self.word(self.offsets.producer)
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        self.word(self.offsets.consumer)
    }

    #[inline]
    unsafe fn read(&self, index: u32) -> T {
        // SAFETY: `slot` is inside and aligned; the caller says that nobody writes it. Volatile, so that what is checked
        // is what is used.
        unsafe { self.slot(index).read_volatile() }
    }

    #[inline]
    unsafe fn write(&self, index: u32, entry: T) {
        // SAFETY: `slot` is inside and aligned; the caller says that nobody touches it.
        unsafe { self.slot(index).write_volatile(entry) };
    }
}

#[cfg(test)]
mod tests;
