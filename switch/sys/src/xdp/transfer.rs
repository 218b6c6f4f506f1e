//! Chunks and frames between a socket and the kernel.
use std::io;
use std::ops::Range;

use rustix::io::Errno;
use rustix::net::xdp::{XdpDesc, XdpDescOptions};
use rustix::net::{RecvFlags, SendFlags};

use super::socket::XdpSocket;
use super::umem::{Chunk, Piece};

/// Most pieces of a frame: what a socket buffer has room for (`MAX_SKB_FRAGS`). In zero-copy mode the driver may take
/// fewer.
pub const MAX_PIECES: usize = 17;

impl XdpSocket {
    /// Gives the kernel chunks to receive in, at most `most` and as many as the ring has room for. How many it took.
    ///
    /// # Panics
    /// For a chunk of another memory.
    #[inline]
    pub fn fill(&mut self, free: &mut Vec<Chunk>, most: usize) -> usize {
        let want = most.min(free.len());
        let count = self.fill.room(u32::try_from(want).unwrap_or(u32::MAX));
        for ahead in 0..count {
            let Some(chunk) = free.pop() else { break };
            self.fill.write(ahead, self.umem.address(&chunk));
            self.umem.lend(chunk, self.receiving);
        }
        if count > 0 {
            self.fill.submit(count);
            self.filled += count;
        }
        count as usize
    }

    /// Appends at most `most` frames to `into`, each of one or more pieces of which all but the last say
    /// [`Piece::more`]. How many frames.
    #[inline]
    pub fn receive(&mut self, into: &mut Vec<Piece>, most: usize) -> usize {
        let ready = self.rx.available(u32::MAX);
        let (start, mut taken, mut frames) = (into.len(), 0, 0);
        while frames < most {
            // The kernel submits whole frames; if not, the rest is still to come.
            let Some(end) = (taken..ready).find(|at| !continues(&self.rx.read(*at))) else { break };
            frames += usize::from(self.receive_frame(taken..end + 1, into));
            taken = end + 1;
        }
        if taken > 0 {
            self.rx.release(taken);
            let received = &into[start..];
            received.iter().for_each(|piece| self.umem.settle(&piece.chunk));
            self.filled -= received.len() as u32;
        }
        frames
    }

    /// False: a descriptor makes no sense, and the frame is lost. What chunks it has stay with the kernel.
    fn receive_frame(&mut self, descriptors: Range<u32>, into: &mut Vec<Piece>) -> bool {
        let start = into.len();
        for at in descriptors {
            let descriptor = self.rx.read(at);
            if let Some((chunk, offset)) = self.umem.claim(descriptor.addr, self.receiving) {
                let piece = Piece { chunk, offset, len: descriptor.len, more: continues(&descriptor) };
                let is_valid = self.umem.is_valid(&piece);
                into.push(piece);
                if is_valid {
                    continue;
                }
            }
            self.invalid += 1;
            for piece in into.drain(start..) {
                self.umem.lend(piece.chunk, self.receiving);
            }
            return false;
        }
        true
    }

    /// Puts frames into the ring, whole ones from the front of `frames` and as many as there is room for, and takes
    /// them out of `frames`. How many pieces it took. They leave with [`XdpSocket::kick`].
    ///
    /// # Errors
    /// `InvalidInput`, and nothing is taken, for a piece that is empty or not inside its chunk, a frame of more than
    /// [`MAX_PIECES`] or that does not end, and one of more than one piece without `frags`.
    #[inline]
    pub fn send(&mut self, frames: &mut Vec<Piece>) -> io::Result<usize> {
        let (mut whole, mut begin) = (0, 0);
        let room = self.tx.room(u32::try_from(frames.len()).unwrap_or(u32::MAX)) as usize;
        for (at, piece) in frames.iter().enumerate() {
            let most = if self.frags { MAX_PIECES } else { 1 };
            let is_valid = self.umem.is_valid(piece) && at - begin < most;
            if !is_valid || piece.more && at + 1 == frames.len() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "a frame that cannot be sent"));
            }
            if !piece.more {
                begin = at + 1;
                whole = if begin <= room { begin } else { whole };
            }
        }
        for (ahead, piece) in (0..).zip(frames.drain(..whole)) {
            let options = if piece.more { XdpDescOptions::XDP_PKT_CONTD } else { XdpDescOptions::empty() };
            let (offset, len) = (u64::from(piece.offset), piece.len);
            let addr = self.umem.address(&piece.chunk) + offset;
            self.tx.write(ahead, XdpDesc { addr, len, options });
            self.umem.lend(piece.chunk, self.sending);
        }
        if whole > 0 {
            self.tx.submit(whole as u32);
            self.unsent += whole as u32;
        }
        Ok(whole)
    }

    /// Has the kernel send what is in the ring. True when some is left there: its queue is full, or the completion ring
    /// is. Then, and as long as [`XdpSocket::unsent`] says so, kick again after a while.
    ///
    /// # Errors
    /// `ENETDOWN` while the device is down, `ENXIO` when it is gone.
    pub fn kick(&mut self) -> io::Result<bool> {
        let mut before = self.tx.waiting();
        loop {
            let sent = rustix::net::send(&self.fd, &[], SendFlags::DONTWAIT);
            let left = self.tx.waiting();
            match sent {
                // Before Linux 6.18 one call sends 32 of them in copy mode (`TX_BATCH_SIZE`); one that the device's
                // queue refuses ends it, too.
                Err(Errno::AGAIN | Errno::BUSY) if left > 0 && left < before => before = left,
                Ok(_) | Err(Errno::AGAIN | Errno::BUSY | Errno::NOBUFS) => return Ok(left > 0),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// True when [`XdpSocket::kick`] is called for: there is something in the ring, and the kernel does not look by itself.
    #[inline]
    #[must_use]
    pub fn wants_kick(&mut self) -> bool {
        self.tx.waiting() > 0 && self.tx.memory().needs_wakeup()
    }

    /// Appends the chunks that have been sent to `free`. How many.
    #[inline]
    pub fn complete(&mut self, free: &mut Vec<Chunk>) -> usize {
        let count = self.completion.available(u32::MAX);
        let start = free.len();
        for at in 0..count {
            match self.umem.claim(self.completion.read(at), self.sending) {
                Some((chunk, _)) => free.push(chunk),
                None => self.invalid += 1,
            }
        }
        if count > 0 {
            self.completion.release(count);
            free[start..].iter().for_each(|chunk| self.umem.settle(chunk));
            self.unsent -= (free.len() - start) as u32;
        }
        free.len() - start
    }

    /// Has the driver look for chunks to receive in, where it waits for being told, and for frames, where the socket polls
    /// it ([`XdpSocket::set_busy_poll`]). Call it after [`XdpSocket::fill`] and when nothing is received; it costs a system
    /// call only in these two cases.
    ///
    /// # Errors
    /// As [`XdpSocket::kick`].
    #[inline]
    pub fn wake_receive(&self) -> io::Result<()> {
        if !self.busy_polls && !self.fill.memory().needs_wakeup() {
            return Ok(());
        }
        match rustix::net::recv(&self.fd, &mut [0u8; 0][..], RecvFlags::DONTWAIT) {
            Ok(_) | Err(Errno::AGAIN | Errno::BUSY | Errno::NOBUFS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

#[inline]
fn continues(descriptor: &XdpDesc) -> bool {
    descriptor.options.contains(XdpDescOptions::XDP_PKT_CONTD)
}
