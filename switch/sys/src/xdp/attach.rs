//! A program at a device (`BPF_LINK_CREATE` with `BPF_XDP`, Linux 5.9). It stays as long as a descriptor of the link is
//! open, in whatever process, and never takes the place of another program.
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::program::Program;
use crate::bpf;
use crate::link::{Netlink, XdpMode};
use crate::step::step;

/// `XDP_FLAGS_SKB_MODE` and `XDP_FLAGS_DRV_MODE` (`linux/if_link.h`).
const SKB_MODE: u32 = 1 << 1;
const DRV_MODE: u32 = 1 << 2;

/// Where a program is to run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Want {
    /// In the driver if it can, else after it.
    #[default]
    Auto,
    /// In the driver: before there is a socket buffer.
    Native,
    /// After the driver, for every device: slower.
    Generic,
}

/// A program that is attached. Dropped, it is detached, unless another descriptor of the link is open.
#[derive(Debug)]
pub struct Attachment {
    link: OwnedFd,
    mode: XdpMode,
    native_refused: Option<io::Error>,
}

impl Attachment {
    /// Attaches `program` to `device` (an index) of the current namespace.
    ///
    /// # Errors
    /// `AlreadyExists` that names the program that the device has; `ENODEV`; for [`Want::Native`] what the driver says:
    /// `EOPNOTSUPP`, `ERANGE` for a program without frags at too large an MTU. `PermissionDenied` without CAP_NET_ADMIN.
    pub fn new(program: &Program, device: u32, want: Want) -> io::Result<Self> {
        let attach = |flags| bpf::attach_xdp(program.as_fd(), device, flags);
        let mut native_refused = None;
        if want != Want::Generic {
            match attach(DRV_MODE) {
                Ok(link) => return Ok(Self { link, mode: XdpMode::Native, native_refused }),
                Err(error) => {
                    let error = explain(error, device);
                    if want == Want::Native || is_final(&error) {
                        return Err(error);
                    }
                    native_refused = Some(error);
                }
            }
        }
        match attach(SKB_MODE) {
            Ok(link) => Ok(Self { link, mode: XdpMode::Generic, native_refused }),
            Err(error) => Err(explain(error, device)),
        }
    }

    /// Takes over a link of another process, which must be attached to `device` of the current namespace.
    ///
    /// # Errors
    /// `InvalidInput` when it is no XDP link, or another device's; `NotFound` when its device is gone.
    pub fn adopt(link: OwnedFd, device: u32) -> io::Result<Self> {
        match bpf::xdp_link_device(link.as_fd()).map_err(step("BPF_OBJ_GET_INFO_BY_FD"))? {
            None => Err(io::ErrorKind::NotFound.into()),
            Some(index) if index != device => {
                let message = format!("the XDP link is attached to device {index}, not to {device}");
                Err(io::Error::new(io::ErrorKind::InvalidInput, message))
            }
            Some(_) => {
                let found = Netlink::new().and_then(|mut netlink| netlink.xdp_program(device));
                let found = found.map_err(io::Error::other)?.ok_or(io::ErrorKind::NotFound)?;
                Ok(Self { link, mode: found.mode, native_refused: None })
            }
        }
    }

    /// Puts another program in the place of its own; no frame meets none. Maps come with programs.
    ///
    /// # Errors
    /// `ENOLINK` when the device is gone; as [`Attachment::new`] for the driver's reasons.
    pub fn replace(&self, program: &Program) -> io::Result<()> {
        bpf::replace(self.link.as_fd(), program.as_fd()).map_err(step("BPF_LINK_UPDATE"))
    }

    /// Where it runs.
    #[must_use]
    pub fn mode(&self) -> XdpMode {
        self.mode
    }

    /// Why it does not run in the driver, although that was wanted.
    #[must_use]
    pub fn native_refused(&self) -> Option<&io::Error> {
        self.native_refused.as_ref()
    }
}

impl AsFd for Attachment {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }
}

impl From<Attachment> for OwnedFd {
    fn from(attachment: Attachment) -> Self {
        attachment.link
    }
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offloaded => "offloaded",
        })
    }
}

/// To try the other mode makes no sense.
fn is_final(error: &io::Error) -> bool {
    let kinds = [io::ErrorKind::AlreadyExists, io::ErrorKind::PermissionDenied];
    kinds.contains(&error.kind()) || error.raw_os_error() == Some(libc::ENODEV)
}

/// `dev_xdp_attach` (`net/core/dev.c`) refuses with `EBUSY` what would take the place of a program, and with `EEXIST` what
/// would be beside one of the other mode. A driver may say so for other reasons.
fn explain(error: io::Error, device: u32) -> io::Error {
    if !matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) {
        return if is_final(&error) { error } else { step("attach the XDP program")(error) };
    }
    refuse_beside_another(device).err().unwrap_or_else(|| step("attach the XDP program")(error))
}

/// Looks whether a device of the current namespace has a program, without touching it.
///
/// # Errors
/// `AlreadyExists` that names the program.
pub fn refuse_beside_another(device: u32) -> io::Result<()> {
    let found = Netlink::new().and_then(|mut netlink| {
        let link = netlink.link_by_index(device)?;
        Ok((link, netlink.xdp_program(device)?))
    });
    let Ok((Some(link), Some(other))) = found else { return Ok(()) };
    let name = bpf::program_name(other.id).unwrap_or_else(|_| "?".to_owned());
    let message =
        format!("{} has an XDP program already: {name} (id {}), {}", link.name, other.id, other.mode);
    Err(io::Error::new(io::ErrorKind::AlreadyExists, message))
}
