//! A socket's four rings: made, and mapped.
use std::io;
use std::mem::size_of_val;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::net::sockopt;
use rustix::net::xdp::{
    XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING, XDP_UMEM_PGOFF_COMPLETION_RING, XDP_UMEM_PGOFF_FILL_RING, XdpDesc,
    XdpMmapOffsets, XdpRingOffset,
};

use super::mapping::Mapping;
use super::ring::{Mapped, Offsets};
use super::socket::{XdpOptions, errno};
use crate::step::step;

/// How many descriptors one call sends in copy mode (Linux 6.18; not in the headers of all systems).
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// The rings, mapped.
pub(super) struct Rings {
    pub(super) rx: Mapped<XdpDesc>,
    pub(super) tx: Mapped<XdpDesc>,
    pub(super) fill: Mapped<u64>,
    pub(super) completion: Mapped<u64>,
}

impl Rings {
    /// Has a socket that is not bound make its rings, and maps them.
    pub(super) fn create(fd: BorrowedFd<'_>, options: &XdpOptions) -> io::Result<Self> {
        sockopt::set_xdp_umem_fill_ring_size(fd, options.fill).map_err(errno("XDP_UMEM_FILL_RING"))?;
        let completion = sockopt::set_xdp_umem_completion_ring_size(fd, options.completion);
        completion.map_err(errno("XDP_UMEM_COMPLETION_RING"))?;
        sockopt::set_xdp_rx_ring_size(fd, options.rx).map_err(errno("XDP_RX_RING"))?;
        sockopt::set_xdp_tx_ring_size(fd, options.tx).map_err(errno("XDP_TX_RING"))?;
        // All at once, where the kernel can; else `kick` repeats it.
        let _ = set_option(fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, options.tx);
        Self::map(fd, options)
    }

    /// Maps the rings of a socket that was made with these options; since Linux 6.4 also of one that is bound (`xsk_mmap`).
    pub(super) fn map(fd: BorrowedFd<'_>, options: &XdpOptions) -> io::Result<Self> {
        let sizes = [options.rx, options.tx, options.fill, options.completion];
        if !sizes.into_iter().all(u32::is_power_of_two) {
            let message = "the size of a ring is no power of two";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        let XdpMmapOffsets { rx, tx, fr, cr } =
            sockopt::xdp_mmap_offsets(fd).map_err(errno("XDP_MMAP_OFFSETS"))?;
        // SAFETY: the kernel says where the parts of each kind of ring are, and what its entries are is fixed by
        // `linux/if_xdp.h`. A ring that is smaller than the options say cannot be mapped at this length; of one that is larger
        // `XdpSocket::adopt` touches nothing.
        unsafe {
            Ok(Self {
                rx: map(fd, XDP_PGOFF_RX_RING, &rx, options.rx).map_err(step("map the rx ring"))?,
                tx: map(fd, XDP_PGOFF_TX_RING, &tx, options.tx).map_err(step("map the tx ring"))?,
                fill: map(fd, XDP_UMEM_PGOFF_FILL_RING, &fr, options.fill)
                    .map_err(step("map the fill ring"))?,
                completion: map(fd, XDP_UMEM_PGOFF_COMPLETION_RING, &cr, options.completion)
                    .map_err(step("map the completion ring"))?,
            })
        }
    }
}

/// # Safety
/// The ring at `place` has entries of type `T`, where `offsets` says.
unsafe fn map<T: Copy>(
    fd: BorrowedFd<'_>,
    place: u64,
    offsets: &XdpRingOffset,
    size: u32,
) -> io::Result<Mapped<T>> {
    let flags = offsets.flags.ok_or(io::ErrorKind::Unsupported)?;
    let offsets = Offsets {
        producer: offsets.producer as usize,
        consumer: offsets.consumer as usize,
        flags: flags as usize,
        entries: offsets.desc as usize,
    };
    let mapping = Mapping::new(fd, place, Mapped::<T>::length(&offsets, size), true)?;
    // SAFETY: the caller's promise; a mapping of this length has room for `size` entries.
    Ok(unsafe { Mapped::new(mapping, offsets, size) })
}

pub(super) fn set_busy_poll(fd: BorrowedFd<'_>, micros: u32, budget: u16) -> io::Result<()> {
    let options = [
        (libc::SO_PREFER_BUSY_POLL, u32::from(micros > 0)),
        (libc::SO_BUSY_POLL, micros),
        (libc::SO_BUSY_POLL_BUDGET, budget.into()),
    ];
    for (option, value) in options {
        set_option(fd, libc::SOL_SOCKET, option, value).map_err(step("busy polling"))?;
    }
    Ok(())
}

/// Whether that is set.
pub(super) fn prefers_busy_poll(fd: BorrowedFd<'_>) -> io::Result<bool> {
    get_option(fd, libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL).map(|value| value != 0)
}

fn set_option(fd: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int, value: u32) -> io::Result<()> {
    let length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the options used here take an int, which `value` is, and outlives the call.
    let done = unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, (&raw const value).cast(), length) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn get_option(fd: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int) -> io::Result<u32> {
    let mut value = 0u32;
    let mut length = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the kernel writes at most `length` bytes to `value`, and to `length` how many; both outlive the call.
    let done =
        unsafe { libc::getsockopt(fd.as_raw_fd(), level, option, (&raw mut value).cast(), &raw mut length) };
    if done == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}
