use std::ops::Range;

use weft_encap::VnetHdr;
use weft_sys::xdp::Buffer;

use super::{Body, Frame, HEADROOM, Ingress, Pool};

/// Where frames in chunks are at home. No other frame is: those have headroom.
const HOME: u32 = 0;

const _: () = assert!(HEADROOM > HOME as usize);

/// What a pool has for frames in chunks.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    /// Frames that have come back, in their chunks.
    back: Vec<Frame>,
    /// Frames without any bytes, to be used again.
    empty: Vec<Frame>,
}

impl Chunks {
    /// Where frames go that come back.
    #[inline]
    pub(super) fn back(&mut self) -> &mut Vec<Frame> {
        &mut self.back
    }
}

impl Pool {
    /// A frame of the bytes at `range` of a chunk, as they came. It can become as long as the chunk has room for, and has what is
    /// before `range` as headroom. When it comes back its chunk waits for [`Pool::take_chunk`].
    ///
    /// # Panics
    /// When `range` is not inside.
    #[inline]
    pub fn in_chunk(&mut self, buffer: Buffer, range: Range<usize>, ingress: Ingress) -> Frame {
        assert!(range.start <= range.end && range.end <= buffer.len());
        let (start, len) = (range.start as u32, range.len() as u32);
        let body = Body { buffer, home: HOME, start, len, vnet: VnetHdr::NONE, ingress };
        match self.chunks.empty.pop() {
            Some(mut frame) => {
                *frame = body;
                frame
            }
            None => Frame(Box::new(body)),
        }
    }

    /// True when frames in chunks have come back.
    #[inline]
    pub fn has_chunks(&self) -> bool {
        !self.chunks.back.is_empty()
    }

    /// The chunk of a frame that has come back.
    #[inline]
    pub fn take_chunk(&mut self) -> Option<Buffer> {
        let mut frame = self.chunks.back.pop()?;
        let (buffer, _) = frame.exchange(Buffer::empty());
        self.chunks.empty.push(frame);
        Some(buffer)
    }
}

impl Body {
    /// True when it is in a chunk.
    #[inline]
    pub fn is_in_chunk(&self) -> bool {
        self.home == HOME
    }

    /// The chunk that it is in.
    #[inline]
    pub fn chunk(&self) -> Option<&Buffer> {
        self.is_in_chunk().then_some(&self.buffer)
    }

    /// Takes the chunk that it is in, and says where in it the frame is. What it has instead is empty.
    #[inline]
    pub fn exchange(&mut self, chunk: Buffer) -> (Buffer, Range<usize>) {
        debug_assert!(self.is_in_chunk());
        let start = self.start as usize;
        let range = start..start + self.len();
        (self.start, self.len) = (0, 0);
        (std::mem::replace(&mut self.buffer, chunk), range)
    }
}

#[cfg(test)]
mod tests;
