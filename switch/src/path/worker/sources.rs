//! What a worker receives from: queues of ports, sockets of underlays, and their place in its poll.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use super::noise::Noise;
use super::pace::Pace;
use crate::mem::Pool;
use crate::port::underlay::Receiver;
use crate::port::{Device, Underlay, Uplink};
use crate::table::{Generation, Port, PortSlot, Snapshot};

/// One worker's sources, by their token.
///
/// Invariant: a descriptor is registered exactly as long as its source is here, and its device is then in the
/// worker's snapshot: nothing that control closes is ever in the poll.
#[derive(Debug)]
pub(super) struct Sources {
    id: usize,
    workers: usize,
    all: Vec<Option<Source>>,
}

#[derive(Debug)]
struct Source {
    kind: Kind,
    /// It is on one of the worker's lists.
    ready: bool,
    noise: Noise,
    pace: Pace,
}

/// What a source is.
#[derive(Debug)]
pub(super) enum Kind {
    /// A queue of a port.
    Port { slot: PortSlot, queue: usize },
    /// The receiving socket of an underlay's family.
    Underlay { underlay: usize, ipv6: bool, receiver: Receiver },
    /// A queue of the uplink.
    Uplink { queue: usize },
}

/// Ports that could not be watched.
pub(super) type Lost = Vec<(PortSlot, Generation)>;

impl Sources {
    pub(super) fn new(id: usize, workers: usize) -> Self {
        Sources { id, workers, all: Vec::new() }
    }

    /// One more than the highest token.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// The source with this token.
    #[inline]
    pub(super) fn get(&mut self, index: usize) -> Option<&mut Kind> {
        self.all.get_mut(index)?.as_mut().map(|source| &mut source.kind)
    }

    /// The noise of a source, if it is a port. What comes from an underlay is many senders'.
    #[inline]
    pub(super) fn noise(&mut self, index: usize) -> Option<&mut Noise> {
        match self.all.get_mut(index) {
            Some(Some(Source { kind: Kind::Port { .. }, noise, .. })) => Some(noise),
            _ => None,
        }
    }

    /// What the frames of a source cost.
    #[inline]
    pub(super) fn pace(&mut self, index: usize) -> Option<&mut Pace> {
        self.all.get_mut(index)?.as_mut().map(|source| &mut source.pace)
    }

    /// Marks a source ready; true when it was not.
    #[inline]
    pub(super) fn mark(&mut self, index: usize) -> bool {
        match self.all.get_mut(index) {
            Some(Some(source)) => !std::mem::replace(&mut source.ready, true),
            _ => false,
        }
    }

    /// Marks a source as drained.
    #[inline]
    pub(super) fn drained(&mut self, index: usize) {
        if let Some(Some(source)) = self.all.get_mut(index) {
            source.ready = false;
        }
    }

    pub(super) fn is_ready(&self, index: usize) -> bool {
        matches!(self.all.get(index), Some(Some(source)) if source.ready)
    }

    /// Follows a change of snapshot: what went or was replaced leaves the poll, what is new enters it.
    pub(super) fn change(
        &mut self,
        registry: &Registry,
        old: &Snapshot,
        new: &Snapshot,
        pool: &mut Pool,
    ) -> Lost {
        let mut lost = Lost::new();
        if !Arc::ptr_eq(&old.ports, &new.ports) {
            self.change_ports(registry, old, new, &mut lost);
        }
        if self.id == 0 && !Arc::ptr_eq(&old.tunnels, &new.tunnels) {
            self.change_underlays(registry, &old.tunnels.underlays, &new.tunnels.underlays, pool);
        }
        self.change_uplink(registry, old.tunnels.uplink.as_ref(), new.tunnels.uplink.as_ref());
        lost
    }

    /// Takes a lost port out of the poll and says which it was.
    pub(super) fn lose(
        &mut self,
        registry: &Registry,
        snapshot: &Snapshot,
        index: usize,
    ) -> Option<(PortSlot, Generation)> {
        let Some(Kind::Port { slot, .. }) = self.get(index) else { return None };
        let slot = *slot;
        let port = snapshot.ports.get(slot)?;
        self.remove_port(registry, &port.device, slot);
        Some((slot, port.generation))
    }

    /// Takes everything out of the poll.
    pub(super) fn close(&mut self, registry: &Registry, snapshot: &Snapshot, pool: &mut Pool) {
        self.change(registry, snapshot, &Snapshot::default(), pool);
    }

    /// What goes, goes first: a device that has another slot now is refused while it is in the poll.
    fn change_ports(&mut self, registry: &Registry, old: &Snapshot, new: &Snapshot, lost: &mut Lost) {
        let stays = |slot| match (old.ports.get(slot), new.ports.get(slot)) {
            (Some(before), Some(after)) => before.device.is_same(&after.device),
            _ => false,
        };
        for port in old.ports.slots.iter().flatten().filter(|port| !stays(port.slot)) {
            self.remove_port(registry, &port.device, port.slot);
        }
        for port in new.ports.slots.iter().flatten().filter(|port| !stays(port.slot)) {
            if self.add_port(registry, port).is_err() {
                self.remove_port(registry, &port.device, port.slot);
                lost.push((port.slot, port.generation));
            }
        }
    }

    fn add_port(&mut self, registry: &Registry, port: &Port) -> io::Result<()> {
        let slot = port.slot;
        for queue in 0..port.device.queues() {
            if let Some(descriptor) = port.device.descriptor(queue).filter(|_| self.serves(slot, queue)) {
                self.add(registry, descriptor, Kind::Port { slot, queue })?;
            }
        }
        Ok(())
    }

    /// Ports are spread over the workers by their slot, the queues of one port by their number on top.
    fn serves(&self, slot: PortSlot, queue: usize) -> bool {
        (slot.index() + queue) % self.workers == self.id
    }

    fn remove_port(&mut self, registry: &Registry, device: &Device, slot: PortSlot) {
        for entry in &mut self.all {
            let Some(Source { kind: Kind::Port { slot: of, queue }, .. }) = entry else { continue };
            if *of == slot {
                if let Some(descriptor) = device.descriptor(*queue) {
                    remove(registry, descriptor);
                }
                *entry = None;
            }
        }
    }

    /// An underlay that stays keeps its place in the poll, and what waits in its receiver, though its index may change.
    fn change_underlays(
        &mut self,
        registry: &Registry,
        old: &[Arc<Underlay>],
        new: &[Arc<Underlay>],
        pool: &mut Pool,
    ) {
        for entry in &mut self.all {
            let Some(Source { kind: Kind::Underlay { underlay, ipv6, receiver }, .. }) = entry else {
                continue;
            };
            let before = old.get(*underlay);
            match new.iter().position(|after| before.is_some_and(|before| Arc::ptr_eq(before, after))) {
                Some(index) => *underlay = index,
                None => {
                    if let Some(socket) = before.and_then(|before| before.receiver(*ipv6)) {
                        remove(registry, socket.as_fd());
                    }
                    receiver.close(pool);
                    *entry = None;
                }
            }
        }
        for (index, underlay) in new.iter().enumerate() {
            if old.iter().any(|before| Arc::ptr_eq(before, underlay)) {
                continue;
            }
            for ipv6 in [false, true] {
                let Some(socket) = underlay.receiver(ipv6) else { continue };
                let kind = Kind::Underlay { underlay: index, ipv6, receiver: Receiver::default() };
                // A fresh socket is refused only without memory; its peers then stay silent, and `weft tunnel` shows it.
                let _ = self.add(registry, socket.as_fd(), kind);
            }
        }
    }

    /// Its queues are spread over the workers.
    fn change_uplink(&mut self, registry: &Registry, old: Option<&Arc<Uplink>>, new: Option<&Arc<Uplink>>) {
        if old.map(Arc::as_ptr) == new.map(Arc::as_ptr) {
            return;
        }
        for entry in &mut self.all {
            let Some(Source { kind: Kind::Uplink { queue }, .. }) = entry else { continue };
            if let Some(descriptor) = old.and_then(|old| old.descriptor(*queue)) {
                remove(registry, descriptor);
            }
            *entry = None;
        }
        let Some(new) = new else { return };
        for queue in (self.id..new.queues()).step_by(self.workers) {
            if let Some(descriptor) = new.descriptor(queue) {
                // Refused only without memory; its packets are lost then, and `weft status` counts them.
                let _ = self.add(registry, descriptor, Kind::Uplink { queue });
            }
        }
    }

    fn add(&mut self, registry: &Registry, descriptor: BorrowedFd<'_>, kind: Kind) -> io::Result<()> {
        let index = self.all.iter().position(Option::is_none).unwrap_or(self.all.len());
        let raw = descriptor.as_raw_fd();
        // Registering tells at once when frames wait already.
        registry.register(&mut SourceFd(&raw), Token(index), Interest::READABLE)?;
        if index == self.all.len() {
            self.all.push(None);
        }
        self.all[index] = Some(Source { kind, ready: false, noise: Noise::default(), pace: Pace::default() });
        Ok(())
    }
}

fn remove(registry: &Registry, descriptor: BorrowedFd<'_>) {
    // It fails only for a descriptor that is not in the poll, which is what is wanted.
    let _ = registry.deregister(&mut SourceFd(&descriptor.as_raw_fd()));
}
