//! To a port: superframes as they are where the device takes them, cut where not; datagrams of one flow as one UDP superframe, and TCP
//! segments that came one by one as one of TCP.

use weft_encap::gro::{Gro, Push};
use weft_encap::gso::{self, Plan};
use weft_encap::{Fragment, Headers, L4, Reason, VnetHdr, checksum, parse, vnet};
use weft_sys::tun::Offloads;

use super::Departure;
use super::order::Order;
use crate::mem::{Frame, MAX_FRAME, Pool};
use crate::path::counters::{Counters, Total};
use crate::port::{Refused, Sender};
use crate::table::Port;

/// A worker's buffer for superframes that a device does not take, and its list for putting datagrams in order.
#[derive(Debug)]
pub(super) struct Cutter {
    cut: Box<[u8]>,
    pub(super) order: Order,
}

/// Bytes cut at a time; longer superframes take several turns. The longest segment fits.
const CUT_BYTES: usize = vnet::LEN + MAX_FRAME;

impl Default for Cutter {
    fn default() -> Self {
        Cutter { cut: vec![0; CUT_BYTES].into_boxed_slice(), order: Order::default() }
    }
}

/// One flush of one port's queue.
pub(super) struct Turn<'a> {
    pub(super) port: &'a Port,
    pub(super) sender: Sender<'a>,
    pool: &'a mut Pool,
    pub(super) counters: &'a Counters,
    pub(super) cutter: &'a mut Cutter,
    /// Frames that were sent, and their bytes.
    pub(super) sent: (u64, u64),
}

impl<'a> Turn<'a> {
    /// A flush by worker number `worker`.
    pub(super) fn new(
        worker: usize,
        port: &'a Port,
        pool: &'a mut Pool,
        counters: &'a Counters,
        cutter: &'a mut Cutter,
    ) -> Self {
        Turn { port, sender: port.device.sender(worker), pool, counters, cutter, sent: (0, 0) }
    }

    /// Sends every frame; leaves them in the queue for the caller to give back. True when the device has taken some that
    /// have not left it yet.
    pub(super) fn flush(mut self, queue: &mut [Departure]) -> bool {
        if let Sender::Xdp(_) = self.sender {
            return self.pass(queue);
        }
        let accepts = self.port.device.accepts();
        if self.port.device.coalesces_udp() {
            self.cutter.order.group(queue);
        }
        let mut at = 0;
        while at < queue.len() {
            let merged = self.coalesce(&queue[at..]);
            if merged == 0 {
                self.single(&mut queue[at], accepts);
            }
            at += merged.max(1);
        }
        self.finish()
    }

    /// Has what was sent leave, and counts it. True when some has not left yet.
    #[inline]
    pub(super) fn finish(self) -> bool {
        self.counters.tx(self.port.slot, self.sent.0, self.sent.1);
        self.sender.finish()
    }

    #[inline(always)]
    pub(super) fn single(&mut self, departure: &mut Departure, accepts: Offloads) {
        let sent = if accepts.contains(owes(&departure.frame.vnet)) {
            match self.send(&mut departure.frame) {
                Err(Reason::BadVnetHeader) if departure.frame.vnet.gso_type == vnet::GSO_UDP_L4 => {
                    self.unknown(departure, accepts)
                }
                other => other,
            }
        } else {
            self.settle(departure, accepts)
        };
        match sent {
            Ok(()) => self.sent = (self.sent.0 + 1, self.sent.1 + departure.frame.len() as u64),
            Err(reason) => {
                self.counters.drop(departure.frame.ingress, reason);
                self.counters.tx_dropped(self.port.slot, 1);
            }
        }
    }

    #[inline]
    fn send(&mut self, frame: &mut Frame) -> Result<(), Reason> {
        let header = frame.vnet;
        self.sender.send(frame.with_vnet(header)).map_err(Refused::reason)
    }

    /// The device refused a UDP superframe that came whole, as kernels before Linux 6.2 do: it is cut. That says nothing of others:
    /// one pod's frames must not turn off what another's port has.
    #[cold]
    fn unknown(&mut self, departure: &mut Departure, accepts: Offloads) -> Result<(), Reason> {
        self.settle(departure, accepts - Offloads::USO)
    }

    /// Does what the frame owes and the device will not: computes the checksum, cuts.
    fn settle(&mut self, departure: &mut Departure, accepts: Offloads) -> Result<(), Reason> {
        let frame = &mut departure.frame;
        let headers = match departure.headers {
            Some(headers) => headers,
            None => parse(frame.bytes())?,
        };
        let gso = frame.vnet.validate(&headers)?;
        if gso.size().is_none() {
            checksum::complete(frame.bytes_mut(), &headers);
            frame.vnet = VnetHdr::NONE;
            self.counters.add(Total::ChecksumsComputed, 1);
            return self.send(frame);
        }
        debug_assert!(!accepts.contains(owes(&frame.vnet)));
        let plan = Plan::new(&headers, gso)?;
        self.cut(frame, &headers, &plan)
    }

    fn cut(&mut self, frame: &Frame, headers: &Headers, plan: &Plan) -> Result<(), Reason> {
        self.counters.add(Total::SuperframesCut, 1);
        self.counters.add(Total::ChecksumsComputed, plan.count() as u64);
        let mut first = 0;
        while first < plan.count() {
            let count = plan.group(first, vnet::LEN, CUT_BYTES, usize::MAX);
            let group = gso::cut(
                frame.bytes(),
                headers,
                plan,
                first..first + count,
                vnet::LEN,
                &mut self.cutter.cut,
            )?;
            for index in 0..group.count {
                let segment = &mut self.cutter.cut[group.range(index)];
                segment[..vnet::LEN].copy_from_slice(&VnetHdr::NONE.bytes());
                self.sender.send(segment).map_err(Refused::reason)?;
            }
            first += count;
        }
        Ok(())
    }

    /// Makes the first datagrams one superframe and sends it, if there are at least two of one flow. Says how many
    /// left, or were dropped; 0: none, take the first by itself.
    #[inline]
    pub(super) fn coalesce(&mut self, queue: &[Departure]) -> usize {
        match queue {
            [first, second, ..] if continues(first, second) => match second.headers {
                Some(Headers { l4: L4::Udp, .. }) if self.port.device.coalesces_udp() => {
                    self.coalesce_run(queue, Total::UdpCoalesced)
                }
                // From an AF_XDP port: a TAP's come in superframes.
                Some(Headers { l4: L4::Tcp, .. })
                    if first.frame.is_in_chunk() && self.port.device.coalesces_tcp() && is_run(queue) =>
                {
                    self.coalesce_run(queue, Total::TcpCoalesced)
                }
                _ => 0,
            },
            _ => 0,
        }
    }

    /// They are copied: their checksums have to be looked at anyway before one of the superframe vouches
    /// for all, and if the kernel knows no such superframes they are still there.
    fn coalesce_run(&mut self, queue: &[Departure], total: Total) -> usize {
        let Some(mut whole) = self.pool.take() else { return 0 };
        let merged = glue(&mut whole, queue);
        let sent = if merged > 1 { self.send_superframe(&mut whole, &queue[..merged], total) } else { false };
        self.pool.give(whole);
        if sent { merged } else { 0 }
    }

    /// False when the kernel does not know such superframes.
    fn send_superframe(&mut self, whole: &mut Frame, parts: &[Departure], total: Total) -> bool {
        let header = whole.vnet;
        match self.sender.send(whole.with_vnet(header)) {
            Ok(()) => {
                let bytes: u64 = parts.iter().map(|part| part.frame.len() as u64).sum();
                self.sent = (self.sent.0 + parts.len() as u64, self.sent.1 + bytes);
                self.counters.add(total, 1);
                true
            }
            Err(Refused::Invalid) => {
                if matches!(total, Total::UdpCoalesced) {
                    self.port.device.stop_coalescing_udp();
                }
                false
            }
            Err(refused) => {
                super::count_drops(parts.iter().map(|part| &part.frame), refused.reason(), self.counters);
                self.counters.tx_dropped(self.port.slot, parts.len() as u64);
                true
            }
        }
    }
}

/// True when so many segments seem to continue each other that one call for all of them is worth its copies.
fn is_run(queue: &[Departure]) -> bool {
    const LEAST: usize = 4;
    queue.len() >= LEAST && queue[..LEAST].windows(2).all(|pair| continues(&pair[0], &pair[1]))
}

/// A cheap look before the close one of [`Gro::push`].
#[inline]
fn continues(first: &Departure, second: &Departure) -> bool {
    let (Some(a), Some(b)) = (&first.headers, &second.headers) else { return false };
    a.l4 == b.l4
        && matches!(a.l4, L4::Udp | L4::Tcp)
        && (a.src_port, a.dst_port) == (b.src_port, b.dst_port)
        && (1..=a.payload_len()).contains(&b.payload_len())
        && a.dst == b.dst
        && a.fragment == Fragment::Whole
        && first.frame.vnet.gso_size == 0
        && second.frame.vnet.gso_size == 0
}

/// Glues what continues the first datagram into `whole`; says how many datagrams that are. A datagram whose checksum
/// is wrong stays out: its receiver shall see it as it is.
fn glue(whole: &mut Frame, queue: &[Departure]) -> usize {
    let mut parts = queue.iter().filter_map(|part| Some((&part.frame, part.headers.as_ref()?)));
    let Some((frame, headers)) = parts.next() else { return 0 };
    let Ok(mut gro) = Gro::start(whole.spare_mut(), frame.bytes(), headers) else { return 0 };
    for (part, departure) in queue[1..].iter().enumerate() {
        let Some(headers) = &departure.headers else { break };
        let plain = departure.frame.vnet.gso_size == 0;
        if !plain || gro.push(whole.spare_mut(), departure.frame.bytes(), headers) != Push::Merged {
            break;
        }
        debug_assert_eq!(gro.count(), part + 2);
    }
    whole.vnet = gro.finish(whole.spare_mut());
    whole.set_len(gro.len());
    gro.count()
}

/// What a frame needs its receiver to do.
#[inline]
fn owes(header: &VnetHdr) -> Offloads {
    if *header == VnetHdr::NONE {
        return Offloads::empty();
    }
    let kind = match header.gso_type & !vnet::GSO_ECN {
        vnet::GSO_TCPV4 => Offloads::CSUM | Offloads::TSO4,
        vnet::GSO_TCPV6 => Offloads::CSUM | Offloads::TSO6,
        vnet::GSO_UDP_L4 => Offloads::CSUM | Offloads::USO,
        _ if header.needs_csum() => Offloads::CSUM,
        _ => Offloads::empty(),
    };
    if header.gso_type & vnet::GSO_ECN != 0 { kind | Offloads::ECN } else { kind }
}
