//! Instructions, and an assembler that knows where its labels are.
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use super::map::Counter;

/// The two registers share a byte, in an order that depends on this.
const _: () = assert!(cfg!(target_endian = "little"));
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

    /// `dst &= value`
    pub(crate) const fn and(dst: Reg, value: i32) -> Self {
        Self::new(0x57, dst, 0, 0, value)
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

    /// `*(u16 *)(dst + offset) = src`
    pub(crate) const fn store16(dst: Reg, offset: i16, src: Reg) -> Self {
        Self::new(0x6b, dst, src as u8, offset, 0)
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
        Self::wide(dst, MAP_VALUE, counter.as_fd())
    }

    /// `dst =` the map, for helpers that take one: two instructions.
    pub(crate) fn map(dst: Reg, map: BorrowedFd<'_>) -> [Self; 2] {
        const MAP_FD: u8 = 1;
        Self::wide(dst, MAP_FD, map)
    }

    /// As in memory.
    #[cfg(test)]
    pub(crate) fn bytes(self) -> [u8; 8] {
        let ([o0, o1], [i0, i1, i2, i3]) = (self.offset.to_le_bytes(), self.immediate.to_le_bytes());
        [self.code, self.registers, o0, o1, i0, i1, i2, i3]
    }

    fn wide(dst: Reg, meaning: u8, fd: BorrowedFd<'_>) -> [Self; 2] {
        [Self::new(0x18, dst, meaning, 0, fd.as_raw_fd()), Self::new(0, Reg::R0, 0, 0, 0)]
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

#[cfg(test)]
mod tests {
    use super::*;

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
}
