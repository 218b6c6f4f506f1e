//! `bpf(2)` (`linux/bpf.h`): a map of one counter, a program of a few instructions, and a link that attaches it. No
//! compiler, no loader: instructions are written down as they are.
use std::ffi::CStr;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const MAP_CREATE: libc::c_int = 0;
const MAP_LOOKUP_ELEM: libc::c_int = 1;
const PROG_LOAD: libc::c_int = 5;
const LINK_CREATE: libc::c_int = 28;
const MAP_TYPE_ARRAY: u32 = 2;
const PROG_TYPE_SCHED_CLS: u32 = 3;
const TCX_INGRESS: u32 = 46;
/// The two registers share a byte, in an order that depends on this.
const _: () = assert!(cfg!(target_endian = "little"));
/// Room for what the verifier says.
const LOG: usize = 16 << 10;

/// A register.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    /// Kept over calls.
    R6 = 6,
    /// The stack's end; read-only.
    Fp = 10,
}

/// One instruction (`struct bpf_insn`; `Documentation/bpf/standardization/instruction-set.rst`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub(crate) struct Insn {
    code: u8,
    /// Destination in the lower four bits, source in the upper.
    registers: u8,
    offset: i16,
    immediate: i32,
}

impl Insn {
    const fn new(code: u8, dst: Reg, src: u8, offset: i16, immediate: i32) -> Self {
        Insn { code, registers: dst as u8 | src << 4, offset, immediate }
    }

    /// `dst = value`
    pub(crate) const fn set(dst: Reg, value: i32) -> Self {
        Self::new(0xb7, dst, 0, 0, value)
    }

    /// `dst = src`
    pub(crate) const fn copy(dst: Reg, src: Reg) -> Self {
        Self::new(0xbf, dst, src as u8, 0, 0)
    }

    /// `dst += value`
    pub(crate) const fn add(dst: Reg, value: i32) -> Self {
        Self::new(0x07, dst, 0, 0, value)
    }

    /// `dst = *(u32 *)(src + offset)`
    pub(crate) const fn load32(dst: Reg, src: Reg, offset: i16) -> Self {
        Self::new(0x61, dst, src as u8, offset, 0)
    }

    /// `dst = *(u16 *)(src + offset)`
    pub(crate) const fn load16(dst: Reg, src: Reg, offset: i16) -> Self {
        Self::new(0x69, dst, src as u8, offset, 0)
    }

    /// `dst = *(u8 *)(src + offset)`
    pub(crate) const fn load8(dst: Reg, src: Reg, offset: i16) -> Self {
        Self::new(0x71, dst, src as u8, offset, 0)
    }

    /// `*(u8 *)(dst + offset) = value`
    pub(crate) const fn store8(dst: Reg, offset: i16, value: i32) -> Self {
        Self::new(0x72, dst, 0, offset, value)
    }

    /// `*(u32 *)(dst + offset) = src`
    pub(crate) const fn store32(dst: Reg, offset: i16, src: Reg) -> Self {
        Self::new(0x63, dst, src as u8, offset, 0)
    }

    /// `*(u64 *)(dst + offset) = value`
    pub(crate) const fn store64(dst: Reg, offset: i16, value: i32) -> Self {
        Self::new(0x7a, dst, 0, offset, value)
    }

    /// `*(u64 *)(dst + offset) += src`, atomically
    pub(crate) const fn add64(dst: Reg, offset: i16, src: Reg) -> Self {
        Self::new(0xdb, dst, src as u8, offset, 0)
    }

    /// Calls a helper (`enum bpf_func_id`).
    pub(crate) const fn call(helper: i32) -> Self {
        Self::new(0x85, Reg::R0, 0, 0, helper)
    }

    /// Returns R0.
    pub(crate) const fn exit() -> Self {
        Self::new(0x95, Reg::R0, 0, 0, 0)
    }

    /// `dst =` the address of the counter: two instructions.
    pub(crate) fn address_of(dst: Reg, counter: &Counter) -> [Self; 2] {
        const MAP_VALUE: u8 = 2;
        [Self::new(0x18, dst, MAP_VALUE, 0, counter.map.as_raw_fd()), Self::new(0, Reg::R0, 0, 0, 0)]
    }
}

/// A program in the making: jumps go to labels, which are set before or after.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    program: Vec<Insn>,
    jumps: Vec<(usize, Label)>,
    labels: Vec<(Label, usize)>,
}

/// A place in a program.
pub(crate) type Label = &'static str;

impl Assembler {
    /// Appends instructions.
    pub(crate) fn then(&mut self, more: impl IntoIterator<Item = Insn>) {
        self.program.extend(more);
    }

    /// What follows has this name.
    pub(crate) fn label(&mut self, label: Label) {
        self.labels.push((label, self.program.len()));
    }

    /// Goes on there.
    pub(crate) fn jump(&mut self, to: Label) {
        self.jump_by(Insn::new(0x05, Reg::R0, 0, 0, 0), to);
    }

    /// Goes on there if `dst == value`.
    pub(crate) fn jump_if_equal(&mut self, dst: Reg, value: i32, to: Label) {
        self.jump_by(Insn::new(0x15, dst, 0, 0, value), to);
    }

    /// Goes on there if `dst != value`.
    pub(crate) fn jump_unless_equal(&mut self, dst: Reg, value: i32, to: Label) {
        self.jump_by(Insn::new(0x55, dst, 0, 0, value), to);
    }

    /// Goes on there if `dst > src`, unsigned.
    pub(crate) fn jump_if_greater(&mut self, dst: Reg, src: Reg, to: Label) {
        self.jump_by(Insn::new(0x2d, dst, src as u8, 0, 0), to);
    }

    /// The program. A label that was never set is a mistake that the verifier refuses: the jump stays where it is.
    pub(crate) fn finish(mut self) -> Vec<Insn> {
        for (at, to) in self.jumps {
            let target = self.labels.iter().find(|(label, _)| *label == to).map_or(at, |(_, place)| *place);
            self.program[at].offset = (target as isize - at as isize - 1) as i16;
        }
        self.program
    }

    fn jump_by(&mut self, jump: Insn, to: Label) {
        self.jumps.push((self.program.len(), to));
        self.program.push(jump);
    }
}

/// A number that a program counts up (an array map of one `u64`).
#[derive(Debug)]
pub(crate) struct Counter {
    map: OwnedFd,
}

impl Counter {
    /// # Errors
    /// `PermissionDenied` without CAP_BPF or CAP_SYS_ADMIN; ENOSYS on a kernel without `bpf(2)`.
    pub(crate) fn new() -> io::Result<Self> {
        #[repr(C)]
        struct Create {
            kind: u32,
            key_size: u32,
            value_size: u32,
            entries: u32,
        }
        let request = Create { kind: MAP_TYPE_ARRAY, key_size: 4, value_size: 8, entries: 1 };
        // SAFETY: the fields are those of `union bpf_attr` for MAP_CREATE; the call makes a descriptor.
        Ok(Counter { map: unsafe { descriptor(MAP_CREATE, &request) }? })
    }

    /// # Errors
    /// None in practice.
    pub(crate) fn get(&self) -> io::Result<u64> {
        #[repr(C)]
        struct Lookup {
            map: u32,
            pad: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        let (key, mut value) = (0u32, 0u64);
        let request = Lookup {
            map: self.map.as_raw_fd().cast_unsigned(),
            pad: 0,
            key: (&raw const key) as u64,
            value: (&raw mut value) as u64,
            flags: 0,
        };
        // SAFETY: the fields are those of `union bpf_attr` for MAP_LOOKUP_ELEM; key and value have the sizes of the map
        // and outlive the call.
        unsafe { bpf(MAP_LOOKUP_ELEM, &request) }?;
        Ok(value)
    }
}

/// Loads a program for the traffic control hooks. `license` counts where helpers are called that want the GPL.
///
/// # Errors
/// What the verifier says, or as [`Counter::new`].
pub(crate) fn load_classifier(program: &[Insn], name: &CStr, license: &CStr) -> io::Result<OwnedFd> {
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
        name: [u8; 16],
    }
    let mut request = Load {
        kind: PROG_TYPE_SCHED_CLS,
        count: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel: 0,
        flags: 0,
        name: [0; 16],
    };
    for (to, from) in request.name[..15].iter_mut().zip(name.to_bytes()) {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn jumps_lead_to_labels_before_and_after() {
        let mut program = Assembler::default();
        program.jump("end");
        program.label("back");
        program.then([Insn::set(Reg::R0, 1), Insn::exit()]);
        program.label("end");
        program.jump_if_equal(Reg::R1, 7, "back");
        let offsets: Vec<i16> = program.finish().iter().map(|insn| insn.offset).collect();
        assert_eq!(offsets, [2, 0, 0, -3]);
    }

    #[test]
    fn a_program_that_is_refused_says_why() {
        if !testing::root() {
            return;
        }
        load_classifier(&[Insn::set(Reg::R0, 0), Insn::exit()], c"fine", c"").unwrap();
        let refused = load_classifier(&[Insn::exit()], c"wrong", c"").unwrap_err().to_string();
        assert!(refused.contains("R0 !read_ok"), "{refused}");
        assert_eq!(Counter::new().unwrap().get().unwrap(), 0);
    }
}
