//! `bpf(2)` (`linux/bpf.h`): maps, programs of a few instructions, and links that attach them. No compiler, no loader:
//! instructions are written down as they are.
//!
//! - `asm`: instructions and labels
//! - `map`: memory shared with programs
use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

mod asm;
mod map;

pub(crate) use asm::{Assembler, Insn, Reg};
pub(crate) use map::{Counter, Map, MapKind};

const PROG_LOAD: libc::c_int = 5;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
const PROG_TYPE_SCHED_CLS: u32 = 3;
const PROG_TYPE_XDP: u32 = 6;
const TCX_INGRESS: u32 = 46;
const XDP: u32 = 37;
/// The program takes frames of more than one buffer (Linux 5.18).
const F_XDP_HAS_FRAGS: u32 = 1 << 5;
/// Length of a name with its NUL (`BPF_OBJ_NAME_LEN`).
const NAME: usize = 16;
/// Room for what the verifier says.
const LOG: usize = 16 << 10;

/// Loads a program for the traffic control hooks. `license` counts where helpers are called that want the GPL.
///
/// # Errors
/// What the verifier says, or as [`Map::new`].
pub(crate) fn load_classifier(program: &[Insn], name: &CStr, license: &CStr) -> io::Result<OwnedFd> {
    load(PROG_TYPE_SCHED_CLS, 0, program, name, license)
}

/// Loads a program for the XDP hook; with `frags` one that takes frames of more than one buffer (Linux 5.18).
///
/// # Errors
/// What the verifier says, or as [`Map::new`].
pub(crate) fn load_xdp(program: &[Insn], name: &CStr, license: &CStr, frags: bool) -> io::Result<OwnedFd> {
    load(PROG_TYPE_XDP, if frags { F_XDP_HAS_FRAGS } else { 0 }, program, name, license)
}

fn load(kind: u32, flags: u32, program: &[Insn], name: &CStr, license: &CStr) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Load {
        kind: u32,
        count: u32,
        instructions: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log: u64,
        kernel: u32,
        flags: u32,
        name: [u8; NAME],
    }
    let mut request = Load {
        kind,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel: 0,
        flags,
        name: [0; NAME],
    };
    for (to, from) in request.name[..NAME - 1].iter_mut().zip(name.to_bytes()) {
        *to = *from;
    }
    // SAFETY: the fields are those of `union bpf_attr` for PROG_LOAD; instructions and license outlive the call, which
    // makes a descriptor.
    let refused = match unsafe { descriptor(PROG_LOAD, &request) } {
        Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EINVAL)) => error,
        other => return other,
    };
    // Again, for the reason.
    let mut log = vec![0u8; LOG];
    (request.log_level, request.log_size, request.log) = (1, LOG as u32, log.as_mut_ptr() as u64);
    // SAFETY: as above; the log has the size that is told, and outlives the call.
    match unsafe { descriptor(PROG_LOAD, &request) } {
        Ok(program) => Ok(program),
        Err(_) => {
            let said = String::from_utf8_lossy(&log);
            let last =
                said.trim_end_matches(['\0', '\n']).lines().rev().take(3).collect::<Vec<_>>().join("; ");
            Err(io::Error::new(refused.kind(), format!("{refused}: {last}")))
        }
    }
}

/// Runs a program for what comes in by a device, before anything else sees it (Linux 6.6). It ends with the descriptor.
///
/// # Errors
/// `InvalidInput` on older kernels; `ENODEV`.
pub(crate) fn attach_ingress(program: BorrowedFd<'_>, device: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        program: u32,
        device: u32,
        place: u32,
        flags: u32,
        beside: u64,
        revision: u64,
    }
    let request = Create {
        program: program.as_raw_fd().cast_unsigned(),
        device,
        place: TCX_INGRESS,
        flags: 0,
        beside: 0,
        revision: 0,
    };
    // SAFETY: the fields are those of `union bpf_attr` for LINK_CREATE of a tcx link; the call makes a descriptor.
    unsafe { descriptor(LINK_CREATE, &request) }
}

/// Runs a program for what comes in by a device, as XDP in the mode of `flags` (`XDP_FLAGS_*_MODE`, `linux/if_link.h`;
/// Linux 5.9). It ends with the descriptor.
///
/// # Errors
/// `EBUSY` and `EEXIST` when the device has a program; `EOPNOTSUPP`, `ERANGE` and others when the driver cannot.
pub(crate) fn attach_xdp(program: BorrowedFd<'_>, device: u32, flags: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Create {
        program: u32,
        device: u32,
        place: u32,
        flags: u32,
    }
    let request = Create { program: program.as_raw_fd().cast_unsigned(), device, place: XDP, flags };
    // SAFETY: the fields are those of `union bpf_attr` for LINK_CREATE of an XDP link; the call makes a descriptor.
    unsafe { descriptor(LINK_CREATE, &request) }
}

/// Gives a link another program of the same type; no frame meets none.
///
/// # Errors
/// `ENOLINK` when the link's device is gone; `EINVAL` for another type of program.
pub(crate) fn replace(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Update {
        link: u32,
        program: u32,
        flags: u32,
        old: u32,
    }
    let request = Update {
        link: link.as_raw_fd().cast_unsigned(),
        program: program.as_raw_fd().cast_unsigned(),
        flags: 0,
        old: 0,
    };
    // SAFETY: the fields are those of `union bpf_attr` for LINK_UPDATE.
    unsafe { bpf(LINK_UPDATE, &request) }.map(drop)
}

/// The device that an XDP link is attached to, `None` when it is gone; by index in the device's namespace.
///
/// # Errors
/// `InvalidInput` for a descriptor of another kind.
pub(crate) fn xdp_link_device(link: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    /// `enum bpf_link_type`.
    const XDP_LINK: u32 = 6;
    /// `struct bpf_link_info`: type, id, program, and for XDP the device.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        kind: u32,
        id: u32,
        program: u32,
        pad: u32,
        device: u32,
    }
    let mut info = Info::default();
    info_of(link, &mut info)?;
    if info.kind != XDP_LINK {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not an XDP link"));
    }
    Ok(Some(info.device).filter(|device| *device != 0))
}

/// The name of the program with this id (Linux 4.15).
///
/// # Errors
/// `NotFound`; `PermissionDenied` without CAP_SYS_ADMIN.
pub(crate) fn program_name(id: u32) -> io::Result<String> {
    #[repr(C)]
    struct Get {
        id: u32,
        next: u32,
        flags: u32,
    }
    /// `struct bpf_prog_info` up to the name.
    #[repr(C)]
    struct Info {
        before: [u32; 16],
        name: [u8; NAME],
    }
    // SAFETY: the fields are those of `union bpf_attr` for PROG_GET_FD_BY_ID, which makes a descriptor.
    let program = unsafe { descriptor(PROG_GET_FD_BY_ID, &Get { id, next: 0, flags: 0 }) }?;
    let mut info = Info { before: [0; 16], name: [0; NAME] };
    info_of(std::os::fd::AsFd::as_fd(&program), &mut info)?;
    let length = info.name.iter().position(|byte| *byte == 0).unwrap_or(NAME);
    Ok(String::from_utf8_lossy(&info.name[..length]).into_owned())
}

/// What the kernel says of an object: as much of its description as `T` has room for.
fn info_of<T>(object: BorrowedFd<'_>, info: &mut T) -> io::Result<()> {
    #[repr(C)]
    struct Ask {
        object: u32,
        length: u32,
        info: u64,
    }
    let request = Ask {
        object: object.as_raw_fd().cast_unsigned(),
        length: size_of::<T>() as u32,
        info: std::ptr::from_mut(info) as u64,
    };
    // SAFETY: the fields are those of `union bpf_attr` for OBJ_GET_INFO_BY_FD; the kernel writes at most `length` bytes,
    // and both callers' structures are of integers alone, with zeroes where the kernel would follow pointers.
    unsafe { bpf(OBJ_GET_INFO_BY_FD, &request) }.map(drop)
}

/// # Safety
/// As [`bpf`], and `command` is one that makes a descriptor.
unsafe fn descriptor<T>(command: libc::c_int, request: &T) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise.
    let raw = unsafe { bpf(command, request) }?;
    // SAFETY: the kernel just made this descriptor for us (always close-on-exec).
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}

/// # Safety
/// `T` must be laid out as `union bpf_attr` for this command, without padding, and what it points to must be valid for
/// what the command does with it.
unsafe fn bpf<T>(command: libc::c_int, request: &T) -> io::Result<libc::c_int> {
    // SAFETY: `request` is valid for its size; the rest is the caller's promise.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(request), size_of::<T>()) };
    libc::c_int::try_from(done).ok().filter(|done| *done >= 0).ok_or_else(io::Error::last_os_error)
}

/// What a program returns for a frame (`BPF_PROG_TEST_RUN`).
#[cfg(test)]
pub(crate) fn test_run(program: BorrowedFd<'_>, frame: &[u8]) -> io::Result<u32> {
    const PROG_TEST_RUN: libc::c_int = 10;
    #[repr(C)]
    struct Run {
        program: u32,
        returned: u32,
        length: u32,
        length_out: u32,
        data: u64,
        data_out: u64,
        repeat: u32,
        duration: u32,
    }
    let mut request = Run {
        program: program.as_raw_fd().cast_unsigned(),
        returned: 0,
        length: frame.len() as u32,
        length_out: 0,
        data: frame.as_ptr() as u64,
        data_out: 0,
        repeat: 1,
        duration: 0,
    };
    let (place, size) = ((&raw mut request).cast::<libc::c_void>(), size_of::<Run>());
    // SAFETY: the fields are those of `union bpf_attr` for PROG_TEST_RUN; the kernel reads the frame, and writes to the
    // request alone.
    let done = unsafe { libc::syscall(libc::SYS_bpf, PROG_TEST_RUN, place, size) };
    if done == 0 { Ok(request.returned) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn a_program_that_is_refused_says_why() {
        if !testing::root() {
            return;
        }
        load_classifier(&[Insn::set(Reg::R0, 0), Insn::exit()], c"fine", c"").unwrap();
        let refused = load_classifier(&[Insn::exit()], c"wrong", c"").unwrap_err().to_string();
        assert!(refused.contains("R0 !read_ok"), "{refused}");
    }
}
