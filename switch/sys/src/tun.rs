//! TAP devices (`linux/if_tun.h`, `drivers/net/tun.c`): creation, attaching, offloads, frames.
//!
//! Every device is `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR` with a 12-byte `virtio_net_hdr_v1` before each frame, both
//! ways. Facts the callers live with:
//! - Opening `/dev/net/tun` pins the namespace of the opening thread: it and the device outlive the namespace's name
//!   until the descriptor is closed. If the link is deleted, reads and writes give `EBADFD` and polls give `POLLERR`
//!   for ever.
//! - Closing the last descriptor blocks 16 to 20 ms: never on a worker.
//! - `TUNSETIFF` with other flags silently changes an existing device, and creates a missing one;
//!   [`Tap::attach`] checks both first.
use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::fs::{Mode, OFlags};

use crate::ioctl;
use crate::link::{self, Netlink};
use crate::netns::Netns;

/// Length in bytes of the `virtio_net_hdr_v1` that precedes every frame read or written.
pub const VNET_HDR_LEN: usize = 12;

/// Longest name of a network device (`IFNAMSIZ` without its NUL).
pub const NAME_MAX: usize = 15;

/// A TAP's biggest MTU (65535 minus the Ethernet header).
pub const MTU_MAX: u32 = 65521;

bitflags::bitflags! {
    /// `ifr_flags` of `TUNSETIFF` and `TUNGETIFF` (`linux/if_tun.h`).
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct TapFlags: u16 {
        /// Layer 3 device; never ours.
        const TUN = 0x0001;
        /// Ethernet device.
        const TAP = 0x0002;
        /// Frames pass through NAPI.
        const NAPI = 0x0010;
        /// NAPI with page fragments.
        const NAPI_FRAGS = 0x0020;
        /// Attach without carrier.
        const NO_CARRIER = 0x0040;
        /// More than one descriptor may attach, one queue each.
        const MULTI_QUEUE = 0x0100;
        /// Only reported: the device stays when the last descriptor closes.
        const PERSIST = 0x0800;
        /// No packet information before the frame.
        const NO_PI = 0x1000;
        /// Obsolete, reported by old kernels.
        const ONE_QUEUE = 0x2000;
        /// A virtio-net header before the frame.
        const VNET_HDR = 0x4000;
        /// Fail when the device exists.
        const TUN_EXCL = 0x8000;
    }
}

bitflags::bitflags! {
    /// What a frame read from the device may still owe, `TUN_F_*` of `TUNSETOFFLOAD` (`linux/if_tun.h`).
    ///
    /// They say what the *pod's kernel may send to us*; writing superframes needs none of them.
    #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
    pub struct Offloads: u32 {
        /// Checksums may be partial (`TUN_F_CSUM`); every other bit needs this one.
        const CSUM = 0x01;
        /// TCP over IPv4 superframes (`TUN_F_TSO4`).
        const TSO4 = 0x02;
        /// TCP over IPv6 superframes (`TUN_F_TSO6`).
        const TSO6 = 0x04;
        /// Superframes with CWR set (`TUN_F_TSO_ECN`); needs TSO4 or TSO6.
        const ECN = 0x08;
        /// UDP superframes over IPv4 and IPv6 (`TUN_F_USO4 | TUN_F_USO6`, which the kernel takes only together;
        /// Linux 6.2).
        const USO = 0x60;
    }
}

impl Offloads {
    /// The bits that make sense together: nothing without CSUM, no ECN without TSO.
    #[must_use]
    pub fn consistent(self) -> Self {
        let mut set = self;
        if !set.contains(Self::CSUM) {
            return Self::empty();
        }
        if !set.intersects(Self::TSO4 | Self::TSO6) {
            set.remove(Self::ECN);
        }
        set
    }
}

/// How a device is made or attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TapOptions {
    /// `IFF_MULTI_QUEUE`; cannot be changed after creation.
    pub multi_queue: bool,
    /// `TUNSETPERSIST`: the device outlives its last descriptor.
    pub persist: bool,
    /// At most these offloads; what the kernel lacks is left out.
    pub offloads: Offloads,
}

impl Default for TapOptions {
    /// One queue, persistent, every offload.
    fn default() -> Self {
        Self { multi_queue: false, persist: true, offloads: Offloads::all() }
    }
}

impl TapOptions {
    /// The `TUNSETIFF` flags that these options mean.
    #[must_use]
    pub fn flags(&self) -> TapFlags {
        let flags = TapFlags::TAP | TapFlags::NO_PI | TapFlags::VNET_HDR;
        if self.multi_queue { flags | TapFlags::MULTI_QUEUE } else { flags }
    }
}

/// Why a TAP could not be made, attached or asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel would not take this as the name of a device.
    #[error("{0:?} is no device name: 1 to 15 bytes without slash, colon or white space")]
    Name(String),
    /// [`Tap::create`] of a device that exists.
    #[error("device {0} exists already")]
    Exists(String),
    /// [`Tap::attach`] to a device that does not exist.
    #[error("there is no device {0}")]
    Missing(String),
    /// The device exists but with other flags; attaching would have changed it.
    #[error("device {name} has flags {has:?}, wanted {want:?}")]
    Flags {
        /// The device.
        name: String,
        /// Its flags.
        has: TapFlags,
        /// The flags asked for.
        want: TapFlags,
    },
    /// The kernel refused one step.
    #[error("{what} of device {name:?}: {source}")]
    Kernel {
        /// The step, e.g. `TUNSETIFF`.
        what: &'static str,
        /// The device.
        name: String,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The look-up of the device failed.
    #[error(transparent)]
    Netlink(#[from] link::Error),
}

/// One attached queue of a TAP device.
#[derive(Debug)]
pub struct Tap {
    fd: OwnedFd,
    options: TapOptions,
    offloads: Offloads,
}

impl Tap {
    /// Makes device `name` in the current namespace and attaches to it.
    ///
    /// # Errors
    /// [`Error::Exists`] when a device of that name exists (`IFF_TUN_EXCL`), [`Error::Name`], [`Error::Kernel`].
    pub fn create(name: &str, options: &TapOptions) -> Result<Self, Error> {
        check_name(name)?;
        let fd = open().map_err(kernel("open /dev/net/tun", name))?;
        match set_iff(fd.as_fd(), name, options.flags() | TapFlags::TUN_EXCL) {
            Ok(()) => Self::set_up(fd, name, options),
            // EBUSY: a tun device; EINVAL with a name that resolves: a device of another kind.
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) || index_of(name).is_some() => {
                Err(Error::Exists(name.to_owned()))
            }
            Err(error) => Err(kernel("TUNSETIFF", name)(error)),
        }
    }

    /// Attaches to the existing device `name` of the current namespace. Never makes or changes a device.
    ///
    /// `TUNSETIFF` would do both, so the device's kind and flags are read first, over rtnetlink.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Flags`] when it was made with others, [`Error::Kernel`] (`EBUSY` while another
    /// process is attached to a device of one queue).
    pub fn attach(name: &str, options: &TapOptions) -> Result<Self, Error> {
        check_name(name)?;
        let fd = attach_queue(name, options.flags())?;
        Self::set_up(fd, name, options)
    }

    /// Takes over an attached descriptor from another process and sets everything again that can be.
    ///
    /// # Errors
    /// [`Error::Flags`] when the descriptor is no TAP of ours; [`Error::Kernel`] with `EBADFD` when its device is gone.
    pub fn from_fd(fd: OwnedFd, options: &TapOptions) -> Result<Self, Error> {
        let (name, has) = get_iff(fd.as_fd()).map_err(kernel("TUNGETIFF", "?"))?;
        check_flags(&name, has, options.flags())?;
        rustix::fs::fcntl_setfl(&fd, OFlags::NONBLOCK).map_err(|e| kernel("O_NONBLOCK", &name)(e.into()))?;
        Self::set_up(fd, &name, options)
    }

    /// Attaches one more queue to the same device. Call it in the device's namespace ([`Tap::netns`]).
    ///
    /// # Errors
    /// [`Error::Flags`] when the device has a single queue; else as [`Tap::attach`].
    pub fn add_queue(&self) -> Result<Self, Error> {
        let (name, _) = self.name_and_flags()?;
        let options = TapOptions { multi_queue: true, ..self.options };
        Self::attach(&name, &options)
    }

    /// The offloads that the kernel took.
    #[must_use]
    pub fn offloads(&self) -> Offloads {
        self.offloads
    }

    /// The options that this queue was attached with.
    #[must_use]
    pub fn options(&self) -> &TapOptions {
        &self.options
    }

    /// Asks for the offloads in `wanted`, falls back one by one, returns what the device has now
    /// (`tun.c: set_offload`). Applies to every queue of the device.
    ///
    /// # Errors
    /// [`Error::Kernel`] when not even "none" is taken: the device is gone.
    pub fn set_offloads(&mut self, wanted: Offloads) -> Result<Offloads, Error> {
        self.offloads = probe_offloads(self.fd.as_fd(), wanted).map_err(|source| Error::Kernel {
            what: "TUNSETOFFLOAD",
            name: self.name_or_unknown(),
            source,
        })?;
        self.options.offloads = wanted;
        Ok(self.offloads)
    }

    /// Sets whether the device outlives its last descriptor (`TUNSETPERSIST`).
    ///
    /// # Errors
    /// [`Error::Kernel`]: the device is gone.
    pub fn set_persist(&mut self, persist: bool) -> Result<(), Error> {
        set_persist(self.fd.as_fd(), persist).map_err(|source| Error::Kernel {
            what: "TUNSETPERSIST",
            name: self.name_or_unknown(),
            source,
        })?;
        self.options.persist = persist;
        Ok(())
    }

    /// The device's present name and flags (`TUNGETIFF`); works from any namespace.
    ///
    /// # Errors
    /// [`Error::Kernel`] with `EBADFD` when the link was deleted.
    pub fn name_and_flags(&self) -> Result<(String, TapFlags), Error> {
        get_iff(self.fd.as_fd()).map_err(kernel("TUNGETIFF", "?"))
    }

    /// The namespace that the device is in now (`TUNGETDEVNETNS`, Linux 5.5).
    ///
    /// # Errors
    /// [`Error::Kernel`] when the link was deleted or without CAP_NET_ADMIN.
    pub fn netns(&self) -> Result<Netns, Error> {
        netns_of(self.fd.as_fd()).map_err(kernel("TUNGETDEVNETNS", "?"))
    }

    /// Reads one frame, vnet header first; never blocks.
    ///
    /// # Errors
    /// `WouldBlock` when none is waiting; `EBADFD` when the link was deleted. A frame longer than `buf` is cut, as
    /// `tun_put_user` does: give room for [`VNET_HDR_LEN`] + 65535 + 18 bytes.
    #[inline]
    pub fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.fd, buf)?)
    }

    /// As [`Tap::read`], scattered over `bufs`.
    ///
    /// # Errors
    /// As [`Tap::read`].
    #[inline]
    pub fn readv(&self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        Ok(rustix::io::readv(&self.fd, bufs)?)
    }

    /// Writes one frame, vnet header first.
    ///
    /// # Errors
    /// `EIO` while the device is administratively down (drop the frame), `EINVAL` for a header that does not fit
    /// the frame, `EBADFD` when the link was deleted.
    #[inline]
    pub fn write(&self, frame: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.fd, frame)?)
    }

    /// As [`Tap::write`], gathered from `bufs`.
    ///
    /// # Errors
    /// As [`Tap::write`].
    #[inline]
    pub fn writev(&self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(rustix::io::writev(&self.fd, bufs)?)
    }

    /// Another descriptor of the same queue, e.g. for a keeper. The queue lives until both are closed.
    ///
    /// # Errors
    /// `EMFILE` when the process has no descriptor left.
    pub fn try_clone_fd(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    /// Everything after `TUNSETIFF`; all of it may be repeated on a device that has it already.
    fn set_up(fd: OwnedFd, name: &str, options: &TapOptions) -> Result<Self, Error> {
        set_int(fd.as_fd(), libc::TUNSETVNETHDRSZ, VNET_HDR_LEN as libc::c_int)
            .map_err(kernel("TUNSETVNETHDRSZ", name))?;
        let offloads = probe_offloads(fd.as_fd(), options.offloads).map_err(kernel("TUNSETOFFLOAD", name))?;
        // The kernel refuses -1; a smaller buffer would only drop what the ring still holds.
        set_int(fd.as_fd(), libc::TUNSETSNDBUF, libc::c_int::MAX).map_err(kernel("TUNSETSNDBUF", name))?;
        set_persist(fd.as_fd(), options.persist).map_err(kernel("TUNSETPERSIST", name))?;
        Ok(Self { fd, options: *options, offloads })
    }

    fn name_or_unknown(&self) -> String {
        get_iff(self.fd.as_fd()).map_or_else(|_| "?".to_owned(), |(name, _)| name)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Tap {
    /// For mio's `SourceFd` and tokio's `AsyncFd`.
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl From<Tap> for OwnedFd {
    fn from(tap: Tap) -> Self {
        tap.fd
    }
}

/// True for a name that `dev_valid_name` (`net/core/dev.c`) takes and that is no pattern (`%d`).
#[must_use]
pub fn valid_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= NAME_MAX
        && name != "."
        && name != ".."
        && !name.contains(|c: char| c == '/' || c == ':' || c == '%' || c == '\0' || c.is_whitespace())
}

/// `struct ifreq` (`linux/if.h`) as `TUNSETIFF` uses it: the name, then the flags.
#[repr(C)]
struct IfReq {
    name: [u8; libc::IFNAMSIZ],
    flags: u16,
    rest: [u8; 22],
}

const _: () = assert!(size_of::<IfReq>() == size_of::<libc::ifreq>());

impl IfReq {
    fn new(name: &str, flags: TapFlags) -> Self {
        let mut request = Self { name: [0; libc::IFNAMSIZ], flags: flags.bits(), rest: [0; 22] };
        for (to, from) in request.name[..NAME_MAX].iter_mut().zip(name.bytes()) {
            *to = from;
        }
        request
    }
}

fn check_name(name: &str) -> Result<(), Error> {
    if valid_name(name) { Ok(()) } else { Err(Error::Name(name.to_owned())) }
}

/// PERSIST is a state and ONE_QUEUE obsolete: neither is part of how a device was made.
fn check_flags(name: &str, has: TapFlags, want: TapFlags) -> Result<(), Error> {
    let has = has - TapFlags::PERSIST - TapFlags::ONE_QUEUE;
    if has == want { Ok(()) } else { Err(Error::Flags { name: name.to_owned(), has, want }) }
}

fn attach_queue(name: &str, want: TapFlags) -> Result<OwnedFd, Error> {
    let before = Netlink::new()?.tun_info(name)?.ok_or_else(|| Error::Missing(name.to_owned()))?;
    check_flags(name, before.flags, want)?;
    let fd = open().map_err(kernel("open /dev/net/tun", name))?;
    set_iff(fd.as_fd(), name, want).map_err(kernel("TUNSETIFF", name))?;
    // If the device went away in between, TUNSETIFF made a new one; closing it here removes it again.
    if index_of(name) == Some(before.index) { Ok(fd) } else { Err(Error::Missing(name.to_owned())) }
}

fn kernel<'a>(what: &'static str, name: &'a str) -> impl FnOnce(io::Error) -> Error + 'a {
    move |source| Error::Kernel { what, name: name.to_owned(), source }
}

pub(crate) fn open() -> io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open("/dev/net/tun", flags, Mode::empty())?)
}

pub(crate) fn set_iff(fd: BorrowedFd<'_>, name: &str, flags: TapFlags) -> io::Result<()> {
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, whose size `IfReq` has; all its fields are integers.
    unsafe { ioctl::by_ref(fd, libc::TUNSETIFF, &mut IfReq::new(name, flags)) }.map(drop)
}

pub(crate) fn get_iff(fd: BorrowedFd<'_>) -> io::Result<(String, TapFlags)> {
    let mut request = IfReq::new("", TapFlags::empty());
    // SAFETY: TUNGETIFF writes one `struct ifreq`, whose size `IfReq` has; all its fields are integers.
    unsafe { ioctl::by_ref(fd, libc::TUNGETIFF, &mut request) }?;
    let len = request.name.iter().position(|&b| b == 0).unwrap_or(request.name.len());
    let name = String::from_utf8_lossy(&request.name[..len]).into_owned();
    Ok((name, TapFlags::from_bits_retain(request.flags)))
}

pub(crate) fn netns_of(fd: BorrowedFd<'_>) -> io::Result<Netns> {
    // SAFETY: TUNGETDEVNETNS takes no argument and returns a new descriptor.
    let raw = unsafe { ioctl::by_value(fd, libc::TUNGETDEVNETNS, 0) }?;
    // SAFETY: the kernel just made this descriptor for us (`open_related_ns`); nothing else owns it.
    Netns::from_fd(unsafe { OwnedFd::from_raw_fd(raw) })
}

pub(crate) fn set_int(fd: BorrowedFd<'_>, request: libc::Ioctl, mut value: libc::c_int) -> io::Result<()> {
    // SAFETY: used with TUNSETVNETHDRSZ and TUNSETSNDBUF, which read one int.
    unsafe { ioctl::by_ref(fd, request, &mut value) }.map(drop)
}

fn set_persist(fd: BorrowedFd<'_>, persist: bool) -> io::Result<()> {
    // SAFETY: TUNSETPERSIST takes a value.
    unsafe { ioctl::by_value(fd, libc::TUNSETPERSIST, persist.into()) }.map(drop)
}

fn set_offloads(fd: BorrowedFd<'_>, offloads: Offloads) -> io::Result<()> {
    set_offload_bits(fd, offloads.bits().into())
}

pub(crate) fn set_offload_bits(fd: BorrowedFd<'_>, bits: libc::c_ulong) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes a value.
    unsafe { ioctl::by_value(fd, libc::TUNSETOFFLOAD, bits) }.map(drop)
}

/// All at once first; then, on an older kernel, each bit on top of those already taken.
fn probe_offloads(fd: BorrowedFd<'_>, wanted: Offloads) -> io::Result<Offloads> {
    let wanted = wanted.consistent();
    if set_offloads(fd, wanted).is_ok() {
        return Ok(wanted);
    }
    let mut taken = Offloads::empty();
    for bit in wanted.iter() {
        let attempt = taken | bit;
        if attempt.consistent() == attempt && set_offloads(fd, attempt).is_ok() {
            taken = attempt;
        }
    }
    set_offloads(fd, taken).map(|()| taken)
}

/// The index of device `name` in the current namespace.
fn index_of(name: &str) -> Option<u32> {
    let any = rustix::net::socket_with(
        rustix::net::AddressFamily::UNIX,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    );
    rustix::net::netdevice::name_to_index(any.ok()?, name).ok()
}

#[cfg(test)]
mod tests;
