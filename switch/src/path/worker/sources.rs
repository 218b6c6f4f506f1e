//! What a worker receives from: queues of ports, sockets of underlays, and their place in its poll.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Arc;

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};

use crate::mem::Pool;
use crate::port::underlay::Receiver;
use crate::port::{Device, Underlay};
use crate::table::{Generation, PortSlot, Snapshot};

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
    /// It is on the ready list.
    ready: bool,
}

/// What a source is.
#[derive(Debug)]
pub(super) enum Kind {
    /// A queue of a port.
    Port { slot: PortSlot, queue: usize },
    /// The receiving socket of an underlay's family.
    Underlay { underlay: usize, ipv6: bool, receiver: Receiver },
}

/// Ports that could not be watched.
pub(super) type Lost = Vec<(PortSlot, Generation)>;

impl Sources {
    pub(super) fn new(id: usize, workers: usize) -> Self {
        Sources { id, workers, all: Vec::new() }
    }

    /// The source with this token.
    #[inline]
    pub(super) fn get(&mut self, index: usize) -> Option<&mut Kind> {
        self.all.get_mut(index)?.as_mut().map(|source| &mut source.kind)
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
            let slots = old.ports.slots.len().max(new.ports.slots.len());
            for slot in (0..slots).map(|slot| PortSlot(slot as u16)) {
                self.change_port(registry, old, new, slot, &mut lost);
            }
        }
        if self.id == 0 && !Arc::ptr_eq(&old.tunnels, &new.tunnels) {
            let (before, after) = (&old.tunnels.underlays, &new.tunnels.underlays);
            for index in 0..before.len().max(after.len()) {
                self.change_underlay(registry, index, before.get(index), after.get(index), pool);
            }
        }
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

    fn change_port(
        &mut self,
        registry: &Registry,
        old: &Snapshot,
        new: &Snapshot,
        slot: PortSlot,
        lost: &mut Lost,
    ) {
        let (before, after) = (old.ports.get(slot), new.ports.get(slot));
        match (before, after) {
            (Some(before), Some(after)) if before.device.is_same(&after.device) => return,
            (Some(before), _) => self.remove_port(registry, &before.device, slot),
            (None, _) => {}
        }
        let Some(port) = after else { return };
        for queue in 0..port.device.queues() {
            let Some(descriptor) = port.device.descriptor(queue).filter(|_| self.serves(slot, queue)) else {
                continue;
            };
            if self.add(registry, descriptor, Kind::Port { slot, queue }).is_err() {
                self.remove_port(registry, &port.device, slot);
                lost.push((slot, port.generation));
                return;
            }
        }
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

    fn change_underlay(
        &mut self,
        registry: &Registry,
        index: usize,
        old: Option<&Arc<Underlay>>,
        new: Option<&Arc<Underlay>>,
        pool: &mut Pool,
    ) {
        if let (Some(old), Some(new)) = (old, new)
            && Arc::ptr_eq(old, new)
        {
            return;
        }
        if let Some(old) = old {
            self.remove_underlay(registry, index, old, pool);
        }
        let Some(new) = new else { return };
        for ipv6 in [false, true] {
            let Some(socket) = new.receiver(ipv6) else { continue };
            let kind = Kind::Underlay { underlay: index, ipv6, receiver: Receiver::default() };
            // A fresh socket is refused only without memory; its peers then stay silent, and `weft tunnel` shows it.
            let _ = self.add(registry, socket.as_fd(), kind);
        }
    }

    fn remove_underlay(&mut self, registry: &Registry, index: usize, underlay: &Underlay, pool: &mut Pool) {
        for entry in &mut self.all {
            let Some(Source { kind: Kind::Underlay { underlay: of, ipv6, receiver }, .. }) = entry else {
                continue;
            };
            if *of == index {
                if let Some(socket) = underlay.receiver(*ipv6) {
                    remove(registry, socket.as_fd());
                }
                receiver.close(pool);
                *entry = None;
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
        self.all[index] = Some(Source { kind, ready: false });
        Ok(())
    }
}

fn remove(registry: &Registry, descriptor: BorrowedFd<'_>) {
    // It fails only for a descriptor that is not in the poll, which is what is wanted.
    let _ = registry.deregister(&mut SourceFd(&descriptor.as_raw_fd()));
}
