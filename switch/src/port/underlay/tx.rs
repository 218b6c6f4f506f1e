//! To the wire: inner frames to as few sends as can be.
//!
//! A superframe that cannot leave whole is cut into one contiguous buffer, checksums folded into the copy, and leaves as one `UDP_SEGMENT`
//! send. Small frames of equal length that share peer, sending socket and congestion mark leave as one send too,
//! whatever flows they are of; the last may be shorter.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, IoSlice};
use std::net::SocketAddr;

use weft_encap::gso::{self, MAX_SEND, MAX_SEND_PIECES, Plan};
use weft_encap::{Gso, Headers, Reason, Vni, checksum, ecn, vxlan};

use super::{Underlay, whole};
use crate::mem::Frame;
use crate::table::Peer;

/// A frame on its way to a peer.
#[derive(Debug)]
pub struct Packet {
    /// The inner frame; from [`Packet::encapsulate`] on with the VXLAN header before it.
    pub frame: Frame,
    /// The inner frame's headers.
    pub headers: Headers,
    /// The sending socket.
    pub sender: u8,
}

/// What became of one or several packets.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Outcome {
    /// VXLAN packets that left.
    pub packets: u64,
    /// Bytes of their inner frames.
    pub bytes: u64,
    /// Sends.
    pub sends: u64,
    /// Sends that the kernel would not segment: their packets went one by one.
    pub fallbacks: u64,
    /// Packets that did not leave.
    pub refused: u64,
    /// Why the last of those did not.
    pub reason: Option<Reason>,
    /// They left as one superframe.
    pub whole: bool,
}

/// One worker's buffer for cut superframes.
#[derive(Debug)]
pub struct Transmitter {
    cut: Box<[u8]>,
    /// IPv4 identification of the next packet that leaves in a whole superframe.
    id: u16,
}

impl Default for Transmitter {
    fn default() -> Self {
        // Two workers should not use the same ones at once, and strangers not know them.
        let id = RandomState::new().hash_one(()) as u16;
        Transmitter { cut: vec![0; MAX_SEND].into_boxed_slice(), id }
    }
}

impl Packet {
    /// True for a frame that has to be cut.
    #[inline]
    pub fn is_superframe(&self) -> bool {
        self.frame.vnet.gso_size != 0
    }

    /// Computes the inner checksum if it is owed, and says whether it was.
    #[inline]
    pub fn complete(&mut self) -> bool {
        let owed = self.frame.vnet.needs_csum();
        if owed {
            checksum::complete(self.frame.bytes_mut(), &self.headers);
        }
        owed
    }

    /// Puts the VXLAN header before the frame. False when there is no room.
    #[inline]
    #[must_use]
    pub fn encapsulate(&mut self, vni: Vni) -> bool {
        let room = self.frame.push_front(vxlan::LEN);
        if room {
            vxlan::push(self.frame.bytes_mut(), vni);
        }
        room
    }

    pub(in crate::port) fn tos(&self) -> u8 {
        ecn::outer_tos(&self.headers)
    }
}

impl Transmitter {
    /// The buffer, and the identification, for who sends otherwise.
    pub(in crate::port) fn parts(&mut self) -> (&mut [u8], &mut u16) {
        (&mut self.cut, &mut self.id)
    }

    /// Sends a superframe whole, or cuts and sends it.
    ///
    /// # Errors
    /// [`Reason::BadGso`], [`Reason::BadVnetHeader`]: it cannot be cut; nothing was sent.
    pub fn superframe(
        &mut self,
        underlay: &Underlay,
        peer: &Peer,
        packet: &Packet,
    ) -> Result<Outcome, Reason> {
        let headers = &packet.headers;
        let gso = packet.frame.vnet.validate(headers)?;
        if gso == Gso::None {
            return Err(Reason::BadGso);
        }
        let plan = Plan::new(headers, gso)?;
        if let Some(outcome) = whole::send(underlay, peer, packet, &plan, self.id) {
            self.id = self.id.wrapping_add(plan.count() as u16);
            return Ok(outcome);
        }
        let most = underlay.max_segments().min(MAX_SEND_PIECES);
        let mut outcome = Outcome::default();
        let mut first = 0;
        while first < plan.count() {
            let count = plan.group(first, vxlan::LEN, MAX_SEND, most);
            if count == 0 {
                return Err(Reason::BadGso);
            }
            let range = first..first + count;
            let group = gso::cut(packet.frame.bytes(), headers, &plan, range, vxlan::LEN, &mut self.cut)?;
            for index in 0..group.count {
                vxlan::push(&mut self.cut[group.range(index)], peer.vni);
            }
            let bufs = [IoSlice::new(&self.cut[..group.bytes()])];
            let to = Way { underlay, remote: peer.remote, sender: packet.sender, tos: packet.tos() };
            let whole = to.send(&bufs, group.bytes(), group.count, group.segment_len);
            outcome.add(whole, || to.one_by_one((0..group.count).map(|index| &self.cut[group.range(index)])));
            first += count;
        }
        Ok(outcome)
    }

    /// How many of the first `packets` fit one send: equal in length, socket and mark, the last perhaps shorter. They
    /// are encapsulated, no superframe is among them, and there is at least one.
    #[inline]
    pub fn run_len(&self, underlay: &Underlay, packets: &[Packet]) -> usize {
        let Some(first) = packets.first() else { return 0 };
        let most = underlay.max_segments().min(MAX_SEND_PIECES).min(packets.len());
        let (len, tos) = (first.frame.len(), first.tos());
        let mut bytes = len;
        for (index, packet) in packets[..most].iter().enumerate().skip(1) {
            let next = packet.frame.len();
            bytes += next;
            let joins = next <= len
                && bytes <= MAX_SEND
                && packet.sender == first.sender
                && packet.tos() == tos
                && !packet.is_superframe();
            if !joins {
                return index;
            }
            if next < len {
                return index + 1;
            }
        }
        most.max(1)
    }

    /// Sends packets that [`Transmitter::run_len`] found to fit one send.
    pub fn run(&self, underlay: &Underlay, remote: SocketAddr, packets: &[Packet]) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(first) = packets.first() else { return outcome };
        let mut bufs = [IoSlice::new(&[]); MAX_SEND_PIECES];
        let mut bytes = 0;
        for (buf, packet) in bufs.iter_mut().zip(packets) {
            *buf = IoSlice::new(packet.frame.bytes());
            bytes += packet.frame.len();
        }
        let to = Way { underlay, remote, sender: first.sender, tos: first.tos() };
        let whole = to.send(&bufs[..packets.len()], bytes, packets.len(), first.frame.len());
        outcome.add(whole, || to.one_by_one(packets.iter().map(|packet| packet.frame.bytes())));
        outcome
    }
}

/// What the packets of one send have in common.
struct Way<'a> {
    underlay: &'a Underlay,
    remote: SocketAddr,
    sender: u8,
    tos: u8,
}

/// The result of one send.
enum Sent {
    All(Outcome),
    /// Too big for the path in one piece, or no way to segment it.
    TryOneByOne,
}

impl Way<'_> {
    fn send(&self, bufs: &[IoSlice<'_>], bytes: usize, count: usize, segment: usize) -> Sent {
        let size = (count > 1).then_some(segment as u16);
        let mut outcome = Outcome { sends: 1, ..Outcome::default() };
        match self.underlay.send(self.sender, self.remote, bufs, size, self.tos) {
            Ok(_) => {
                outcome.packets = count as u64;
                outcome.bytes = (bytes - count * vxlan::LEN) as u64;
            }
            Err(error) if count > 1 && wants_single(&error) => return Sent::TryOneByOne,
            Err(error) => {
                outcome.refused = count as u64;
                outcome.reason = Some(reason(&error));
            }
        }
        Sent::All(outcome)
    }

    #[cold]
    fn one_by_one<'b>(&self, packets: impl Iterator<Item = &'b [u8]>) -> Outcome {
        let mut outcome = Outcome { fallbacks: 1, ..Outcome::default() };
        for packet in packets {
            let sent = self.send(&[IoSlice::new(packet)], packet.len(), 1, packet.len());
            outcome.add(sent, Outcome::default);
        }
        outcome
    }
}

impl Outcome {
    fn add(&mut self, sent: Sent, one_by_one: impl FnOnce() -> Outcome) {
        let other = match sent {
            Sent::All(outcome) => outcome,
            Sent::TryOneByOne => one_by_one(),
        };
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.sends += other.sends;
        self.fallbacks += other.fallbacks;
        self.refused += other.refused;
        self.reason = other.reason.or(self.reason);
    }
}

/// EMSGSIZE: a segment exceeds the device's MTU, and only whole datagrams are fragmented. EIO: the device cannot fill
/// in checksums (older kernels). EINVAL: more segments than this kernel takes.
fn wants_single(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMSGSIZE | libc::EIO | libc::EINVAL))
}

fn reason(error: &io::Error) -> Reason {
    match error.raw_os_error() {
        Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Reason::QueueFull,
        _ => Reason::TunnelSend,
    }
}
