//! To the wire: inner frames with outer headers of our own, into the ring of a queue.

use std::net::{IpAddr, SocketAddr};
use std::sync::MutexGuard;

use weft_encap::gso::{self, MAX_SEND, MAX_SEND_PIECES, Plan};
use weft_encap::outer::Outer;
use weft_encap::outer::wire::Hop;
use weft_encap::{Gso, Reason, Vni, eth, vxlan};

use super::Uplink;
use crate::port::Refused;
use crate::port::underlay::{Outcome, Packet, Transmitter, Underlay};
use crate::port::xdp::queue::{Ends, Queue};
use crate::table::Peer;

/// The way to one peer, while its packets are being sent. What was sent leaves with [`Way::flush`].
#[derive(Debug)]
pub struct Way<'a> {
    ends: MutexGuard<'a, Option<Ends>>,
    hop: Hop,
    mtu: usize,
    /// Our address, for sockets that are bound to none.
    own: IpAddr,
    remote: SocketAddr,
    vni: Vni,
}

impl Uplink {
    /// The way to a peer, by the queue that a worker has; `None` while its next hop is not known, or not of this interface.
    #[inline]
    pub fn way(&self, worker: usize, peer: &Peer) -> Option<Way<'_>> {
        let ways = self.ways.load();
        let next = ways.hops.get(&peer.remote.ip())?;
        let ends = self.sends_by(worker).ends();
        if ends.is_none() {
            return None;
        }
        next.note_use();
        let (hop, own) = (Hop { to: next.mac, from: ways.mac }, next.source);
        Some(Way { ends, hop, mtu: ways.mtu as usize, own, remote: peer.remote, vni: peer.vni })
    }

    /// Has the kernel send what a worker has put on its way. True when some of it waits still: flush again after a while.
    pub fn flush(&self, worker: usize) -> bool {
        self.sends_by(worker).ends().as_mut().is_some_and(Ends::flush)
    }

    #[inline]
    fn sends_by(&self, worker: usize) -> &Queue {
        &self.queues[worker % self.queues.len()]
    }
}

impl Way<'_> {
    /// True for a packet that the interface takes in one piece. Others are the kernel's to fragment.
    #[inline]
    pub fn takes(&self, packet: &Packet) -> bool {
        let inner = match packet.is_superframe() {
            // Encapsulated already.
            false => packet.frame.len() - vxlan::LEN,
            true => usize::from(packet.headers.payload_at) + usize::from(packet.frame.vnet.gso_size),
        };
        let outer = if self.remote.is_ipv4() { vxlan::OVERHEAD_V4 } else { vxlan::OVERHEAD_V6 };
        inner - eth::LEN + outer <= self.mtu
    }

    /// Sends one encapsulated packet that is no superframe.
    pub fn packet(
        &mut self,
        underlay: &Underlay,
        packet: &mut Packet,
        transmitter: &mut Transmitter,
    ) -> Outcome {
        let (_, id) = transmitter.parts();
        let Some(outer) = self.outer(underlay, packet, *id) else { return refused(1, Reason::TunnelSend) };
        *id = id.wrapping_add(1);
        let inner = packet.frame.len() - vxlan::LEN;
        if !packet.frame.push_front(outer.wire_len() - vxlan::LEN) {
            return refused(1, Reason::NoBuffer);
        }
        match self.put(&outer, packet.frame.bytes_mut()) {
            Ok(()) => Outcome { packets: 1, bytes: inner as u64, ..Outcome::default() },
            Err(reason) => refused(1, reason),
        }
    }

    /// Cuts a superframe, and sends its packets.
    ///
    /// # Errors
    /// As [`Transmitter::superframe`]; nothing was sent.
    pub fn superframe(
        &mut self,
        underlay: &Underlay,
        packet: &Packet,
        transmitter: &mut Transmitter,
    ) -> Result<Outcome, Reason> {
        let headers = &packet.headers;
        let gso = packet.frame.vnet.validate(headers)?;
        if gso == Gso::None {
            return Err(Reason::BadGso);
        }
        let plan = Plan::new(headers, gso)?;
        let (cut, id) = transmitter.parts();
        let mut outer = self.outer(underlay, packet, *id).ok_or(Reason::TunnelSend)?;
        let before = outer.wire_len();
        let (mut outcome, mut first) = (Outcome::default(), 0);
        while first < plan.count() {
            let count = plan.group(first, before, MAX_SEND, MAX_SEND_PIECES);
            if count == 0 {
                return Err(Reason::BadGso);
            }
            let group = gso::cut(packet.frame.bytes(), headers, &plan, first..first + count, before, cut)?;
            for index in 0..group.count {
                let range = group.range(index);
                match self.put(&outer, &mut cut[range.clone()]) {
                    Ok(()) => {
                        outcome.packets += 1;
                        outcome.bytes += (range.len() - before) as u64;
                    }
                    Err(reason) => {
                        outcome.refused += 1;
                        outcome.reason = Some(reason);
                    }
                }
                outer.id = outer.id.wrapping_add(1);
            }
            first += count;
        }
        *id = outer.id;
        Ok(outcome)
    }

    /// Has the kernel send what was put on its way. True when some of it waits still: see [`Uplink::flush`].
    pub fn flush(&mut self) -> bool {
        self.ends.as_mut().is_some_and(Ends::flush)
    }

    /// The port is that of the sending socket, which spreads flows and hears what comes back.
    #[inline]
    fn outer(&self, underlay: &Underlay, packet: &Packet, id: u16) -> Option<Outer> {
        let mut source = underlay.source(self.remote.is_ipv6(), packet.sender)?;
        if source.ip().is_unspecified() {
            source.set_ip(self.own);
        }
        Some(Outer { source, destination: self.remote, tos: packet.tos(), id, vni: self.vni })
    }

    #[inline]
    fn put(&mut self, outer: &Outer, frame: &mut [u8]) -> Result<(), Reason> {
        if !outer.complete(frame, self.hop) {
            return Err(Reason::TunnelSend);
        }
        let Some(ends) = self.ends.as_mut() else { return Err(Reason::TunnelSend) };
        match ends.send(frame) {
            // More than the ring holds is due at once: what is in it goes first.
            Err(Refused::Full) => {
                ends.flush();
                ends.send(frame)
            }
            sent => sent,
        }
        .map_err(|why| if why == Refused::Full { Reason::QueueFull } else { Reason::TunnelSend })
    }
}

fn refused(packets: u64, reason: Reason) -> Outcome {
    Outcome { refused: packets, reason: Some(reason), ..Outcome::default() }
}
