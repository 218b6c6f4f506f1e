//! The two shapes of `ioctl(2)` used here, with the errno turned into [`io::Error`].
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// An ioctl whose third argument is a plain value; returns the call's non-negative result.
///
/// # Safety
/// `request` must be one that reads its argument as a value, never as a pointer.
pub(crate) unsafe fn by_value(
    fd: BorrowedFd<'_>,
    request: libc::Ioctl,
    value: libc::c_ulong,
) -> io::Result<libc::c_int> {
    // SAFETY: the descriptor is open for the borrow's lifetime; the caller promises that `value` is not a pointer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, value) })
}

/// An ioctl whose third argument points at a `T` that the kernel reads, writes, or both.
///
/// # Safety
/// `request` must be one whose argument is a `T`: the kernel writes no more than `size_of::<T>()` bytes, and
/// every bit pattern that it may write is a valid `T`.
pub(crate) unsafe fn by_ref<T>(
    fd: BorrowedFd<'_>,
    request: libc::Ioctl,
    value: &mut T,
) -> io::Result<libc::c_int> {
    // SAFETY: the descriptor is open and `value` is valid for reads and writes for the duration of the call; the
    // caller promises that the kernel takes it as a `T`.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), request, std::ptr::from_mut(value)) })
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
