//! Memory shared with the kernel.
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;

/// A shared mapping, readable and writable, for as long as this value lives.
#[derive(Debug)]
pub(super) struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: a mapping belongs to the process, not to a thread; who may touch which part is its users' agreement.
unsafe impl Send for Mapping {}
// SAFETY: as above; this type itself gives nothing but the address.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `length` bytes of `fd` from `offset` on. Without `populated` each page is mapped when it is first used, or by
    /// [`Mapping::populate`].
    ///
    /// # Errors
    /// Those of `mmap(2)`.
    pub(super) fn new(fd: BorrowedFd<'_>, offset: u64, length: usize, populated: bool) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_SHARED | if populated { libc::MAP_POPULATE } else { 0 };
        let offset = offset as libc::off_t;
        // SAFETY: the kernel chooses a place where nothing is.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), length, protection, flags, fd.as_raw_fd(), offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { start, length })
    }

    /// Maps all pages that are not yet.
    ///
    /// # Errors
    /// `EINVAL` before Linux 5.14; `ENOMEM`.
    pub(super) fn populate(&self) -> io::Result<()> {
        // SAFETY: the range is this mapping's; its bytes stay what they are.
        let done =
            unsafe { libc::madvise(self.start.as_ptr().cast(), self.length, libc::MADV_POPULATE_WRITE) };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// The first byte.
    #[inline]
    pub(super) fn start(&self) -> NonNull<u8> {
        self.start
    }

    /// Bytes.
    #[inline]
    pub(super) fn length(&self) -> usize {
        self.length
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: it was mapped with this length, and whoever has its address lives no longer than this value.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}
