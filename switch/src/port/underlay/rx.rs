//! From the wire: datagrams or runs of them, to inner frames with a vnet header.

use std::net::IpAddr;

use weft_encap::gro::{self, Gro, Push};
use weft_encap::{Headers, L4, Reason, Vni, ecn, parse, vxlan};
use weft_sys::udp::{Received, UdpSocket};

use crate::mem::{BATCH, Batch, Frame, Ingress, Pool};
use crate::port::{BATCH_BYTES, Rx};
use crate::table::{Peer, PeerSlot, Tunnels};

/// Who is told what became of VXLAN packets.
pub trait Tally {
    /// `packets` of `bytes` inner bytes in all came from a peer.
    fn heard(&mut self, peer: PeerSlot, packets: usize, bytes: usize);
    /// A packet was dropped; `None`: its sender is not known.
    fn dropped(&mut self, peer: Option<PeerSlot>, reason: Reason);
    /// Segments were made one superframe.
    fn glued(&mut self);
    /// A superframe came whole.
    fn whole(&mut self);
}

/// Receives from one socket, for one worker.
#[derive(Debug, Default)]
pub struct Receiver {
    /// A run of datagrams that did not fit the last batch.
    rest: Option<Run>,
}

/// Datagrams of one sender, `segment` bytes each, in one buffer.
#[derive(Debug)]
struct Run {
    frame: Frame,
    segment: usize,
    from: IpAddr,
    ecn: u8,
}

/// A superframe in the making.
pub(in crate::port) struct Glue {
    frame: Frame,
    gro: Gro,
    peer: PeerSlot,
    /// Of the first segment.
    vxlan: [u8; vxlan::LEN],
}

/// The tables and buffers that one receive works with.
pub(in crate::port) struct Turn<'a, T> {
    pub(in crate::port) underlay: usize,
    pub(in crate::port) tunnels: &'a Tunnels,
    pub(in crate::port) pool: &'a mut Pool,
    pub(in crate::port) batch: &'a mut Batch,
    pub(in crate::port) tally: &'a mut T,
}

/// Errors of the socket that one turn skips: they belong to earlier sends, not to what waits.
const MAX_ERRORS: usize = 16;

impl Receiver {
    /// Adds inner frames to `batch`, marked as coming from their peer. `underlay` is the index in `tunnels`.
    ///
    /// Every frame added has an intact or an owed checksum.
    pub fn receive(
        &mut self,
        socket: &UdpSocket,
        underlay: usize,
        tunnels: &Tunnels,
        pool: &mut Pool,
        batch: &mut Batch,
        tally: &mut impl Tally,
    ) -> Rx {
        let mut turn = Turn { underlay, tunnels, pool, batch, tally };
        let (mut bytes, mut errors) = (0, 0);
        if let Some(run) = self.rest.take() {
            self.rest = turn.split(run);
        }
        while self.rest.is_none() && !turn.batch.is_full() && bytes < BATCH_BYTES {
            let Some(mut frame) = turn.pool.take() else { return Rx::More };
            match socket.recv(frame.spare_mut()) {
                Ok(received) => {
                    frame.set_len(received.len);
                    bytes += received.len;
                    self.rest = turn.datagram(frame, &received);
                }
                Err(error) => {
                    turn.pool.give(frame);
                    errors += 1;
                    if error.kind() == std::io::ErrorKind::WouldBlock || errors > MAX_ERRORS {
                        return Rx::Drained;
                    }
                }
            }
        }
        Rx::More
    }

    /// As [`Receiver::receive`], only what was read before and did not fit its batch. No frames: there is no more.
    pub fn drain(
        &mut self,
        underlay: usize,
        tunnels: &Tunnels,
        pool: &mut Pool,
        batch: &mut Batch,
        tally: &mut impl Tally,
    ) {
        if let Some(run) = self.rest.take() {
            self.rest = Turn { underlay, tunnels, pool, batch, tally }.split(run);
        }
    }

    /// Gives its buffers back.
    pub fn close(&mut self, pool: &mut Pool) {
        if let Some(run) = self.rest.take() {
            pool.give(run.frame);
        }
    }
}

impl<T: Tally> Turn<'_, T> {
    /// Takes one delivery; what did not fit the batch comes back.
    ///
    /// A kernel peer over a virtual link delivers an inner superframe as *one* datagram, for UDP with the *inner*
    /// segment size as that of the run. So: an inner packet that spans everything is one frame.
    fn datagram(&mut self, frame: Frame, received: &Received) -> Option<Run> {
        let from = received.from.ip();
        let Some(segment) = received.segment else {
            self.single(frame, from, received.ecn, None);
            return None;
        };
        let spans = vxlan::pop(frame.bytes()).ok().is_some_and(|(_, inner)| {
            parse(inner).is_ok_and(|headers| headers.is_ip() && headers.l3_end as usize == inner.len())
        });
        if spans {
            self.single(frame, from, received.ecn, Some(segment));
            return None;
        }
        self.split(Run { frame, segment: usize::from(segment), from, ecn: received.ecn })
    }

    /// One VXLAN packet that fills the buffer: handed on without a copy.
    fn single(&mut self, mut frame: Frame, from: IpAddr, ecn: u8, segment: Option<u16>) {
        match self.decapsulate(&mut frame, from, ecn, segment) {
            Ok(()) => self.batch.add(frame),
            Err((peer, reason)) => {
                self.tally.dropped(peer, reason);
                self.pool.give(frame);
            }
        }
    }

    fn decapsulate(
        &mut self,
        frame: &mut Frame,
        from: IpAddr,
        ecn: u8,
        segment: Option<u16>,
    ) -> Result<(), (Option<PeerSlot>, Reason)> {
        let (vni, inner) = vxlan::pop(frame.bytes()).map_err(|reason| (None, reason))?;
        let len = inner.len();
        let peer = self.peer(from, vni).map_err(|reason| (None, reason))?;
        let slot = peer.slot;
        let mtu = peer.mtu as usize;
        self.tally.heard(slot, 1, len);
        let known = |reason| (Some(slot), reason);
        frame.pull_front(vxlan::LEN);
        let mut headers = parse(frame.bytes()).map_err(known)?;
        ecn::decapsulate(frame.bytes_mut(), &mut headers, ecn).map_err(known)?;
        let size = match headers.l4 {
            L4::Tcp => mtu.saturating_sub(headers.l3_header_len()).min(usize::from(u16::MAX)) as u16,
            _ => segment.unwrap_or(u16::MAX),
        };
        frame.vnet = gro::superframe(frame.bytes_mut(), &headers, size).map_err(known)?;
        frame.ingress = Ingress::Peer(slot);
        if frame.vnet.gso_size != 0 {
            self.tally.whole();
        }
        Ok(())
    }

    /// A run of VXLAN packets: inner segments that continue each other are glued.
    fn split(&mut self, mut run: Run) -> Option<Run> {
        let mut glue: Option<Glue> = None;
        while !run.frame.is_empty() {
            // Not more than a plain batch, however large this one may become.
            let open = usize::from(glue.is_some());
            if self.batch.room() <= open || self.batch.len() + open >= BATCH {
                self.finish(glue);
                return Some(run);
            }
            let len = run.segment.min(run.frame.len());
            let packet = &mut run.frame.bytes_mut()[..len];
            match self.packet(packet, run.from, run.ecn) {
                Ok((peer, headers)) => self.glue(&mut glue, peer, packet, &headers),
                Err((peer, reason)) => self.tally.dropped(peer, reason),
            }
            run.frame.pull_front(len);
            if let Some(open) = &mut glue
                && ecn::keeps_inner(run.ecn)
            {
                self.follow(open, &mut run);
            }
        }
        self.finish(glue);
        self.pool.give(run.frame);
        None
    }

    /// Glues packets of the run as long as each plainly continues the last: same VXLAN header, and inner headers that
    /// say the same. They need no parsing and no look-up of their peer.
    #[inline]
    fn follow(&mut self, open: &mut Glue, run: &mut Run) {
        let (mut packets, mut bytes) = (0, 0);
        loop {
            let packet = run.frame.bytes();
            let packet = &packet[..run.segment.min(packet.len())];
            let len = packet.len();
            if !self.append(open, packet) {
                break;
            }
            packets += 1;
            bytes += len - vxlan::LEN;
            run.frame.pull_front(len);
        }
        if packets > 0 {
            self.tally.heard(open.peer, packets, bytes);
        }
    }

    /// Glues one packet that plainly continues the last: see [`Turn::follow`]. False, and nothing done, if it does not.
    #[inline]
    fn append(&mut self, open: &mut Glue, packet: &[u8]) -> bool {
        let Some((header, rest)) = packet.split_first_chunk() else { return false };
        if *header != open.vxlan {
            return false;
        }
        match open.gro.push_unparsed(open.frame.spare_mut(), rest) {
            Some(Push::Merged) => true,
            Some(Push::Drop(reason)) => {
                self.tally.dropped(Some(open.peer), reason);
                true
            }
            Some(Push::Flush) | None => false,
        }
    }

    /// Takes one VXLAN packet of those that come one by one. `follows`: it has the sender and the mark of the packet before.
    /// At most one frame is added to the batch, and one more by the end of [`Turn::finish`].
    #[inline]
    pub(in crate::port) fn one(
        &mut self,
        glue: &mut Option<Glue>,
        packet: &mut [u8],
        (from, ecn): (IpAddr, u8),
        follows: bool,
    ) {
        if let Some(open) = glue
            && follows
            && ecn::keeps_inner(ecn)
            && self.append(open, packet)
        {
            return self.tally.heard(open.peer, 1, packet.len() - vxlan::LEN);
        }
        match self.packet(packet, from, ecn) {
            Ok((peer, headers)) => self.glue(glue, peer, packet, &headers),
            Err((peer, reason)) => self.tally.dropped(peer, reason),
        }
    }

    /// Checks one VXLAN packet of a run and applies the outer congestion mark.
    #[inline]
    fn packet(
        &mut self,
        packet: &mut [u8],
        from: IpAddr,
        ecn: u8,
    ) -> Result<(PeerSlot, Headers), (Option<PeerSlot>, Reason)> {
        let (vni, inner) = vxlan::pop(packet).map_err(|reason| (None, reason))?;
        let slot = self.peer(from, vni).map_err(|reason| (None, reason))?.slot;
        self.tally.heard(slot, 1, inner.len());
        let mut headers = parse(inner).map_err(|reason| (Some(slot), reason))?;
        ecn::decapsulate(&mut packet[vxlan::LEN..], &mut headers, ecn)
            .map_err(|reason| (Some(slot), reason))?;
        Ok((slot, headers))
    }

    /// Adds a segment to the superframe in the making, or finishes that and starts another.
    #[inline]
    fn glue(&mut self, glue: &mut Option<Glue>, peer: PeerSlot, packet: &[u8], headers: &Headers) {
        let Some((header, segment)) = packet.split_first_chunk() else { return };
        if let Some(open) = glue.as_mut().filter(|open| open.peer == peer) {
            match open.gro.push(open.frame.spare_mut(), segment, headers) {
                Push::Merged => return,
                Push::Drop(reason) => return self.tally.dropped(Some(peer), reason),
                Push::Flush => {}
            }
        }
        self.finish(glue.take());
        let Some(mut frame) = self.pool.take() else {
            return self.tally.dropped(Some(peer), Reason::NoBuffer);
        };
        match Gro::start(frame.spare_mut(), segment, headers) {
            Ok(gro) => *glue = Some(Glue { frame, gro, peer, vxlan: *header }),
            Err(reason) => {
                self.tally.dropped(Some(peer), reason);
                self.pool.give(frame);
            }
        }
    }

    /// Adds the superframe in the making to the batch.
    pub(in crate::port) fn finish(&mut self, glue: Option<Glue>) {
        let Some(Glue { mut frame, gro, peer, .. }) = glue else { return };
        frame.vnet = gro.finish(frame.spare_mut());
        frame.set_len(gro.len());
        frame.ingress = Ingress::Peer(peer);
        if gro.count() > 1 {
            self.tally.glued();
        }
        self.batch.add(frame);
    }

    #[inline]
    fn peer(&self, from: IpAddr, vni: Vni) -> Result<&Peer, Reason> {
        match self.tunnels.by_source.get(&(self.underlay, from, vni)) {
            Some(slot) => self.tunnels.get(*slot).ok_or(Reason::TunnelStranger),
            None if self.tunnels.sources.contains(&from) => Err(Reason::TunnelVni),
            None => Err(Reason::TunnelStranger),
        }
    }
}
