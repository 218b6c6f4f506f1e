//! Descriptors that outlive the process: a dup of every TAP queue and underlay socket (and of the device by which superframes
//! leave whole, because closing that takes 20 ms) lies with the service manager
//! (systemd's descriptor store, or `weft-keeper`, which speaks the same protocol), and comes back at the next start.
//!
//! While such a dup is open the pod's device keeps its carrier and its queued packets, and the socket its datagrams;
//! nothing is attached or bound a second time. What comes back is only an offer: whoever wants it by its name checks
//! what it is. Without a manager, or after a loss, devices are attached to by name and sockets bound.
//!
//! Invariant: a name is held for at most one device of ours, and a device that ends is let go of before it is closed:
//! a forgotten dup would keep its namespace alive for ever.
//!
//! Of a device with several descriptors all are held, or none, as far as there is room. In between, and where the manager's
//! store ends before ours does, who takes them sees that one is missing: a port by its number of names, the uplink by its
//! program, which is held last and let go of first.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::time::Duration;

use weft_api::PortKind;
use weft_sys::notify::{MOST_NAMES, barrier, is_managed, names_len, notify_with_fds};
use weft_sys::tunnel_gso::TunnelGso;

use super::publish::Devices;
use crate::port::underlay::SocketRole;
use crate::port::{Device, TapDevice, Underlay, Uplink, XdpDevice};

/// How long the manager may take to close what it was told to let go of.
const CLOSING: Duration = Duration::from_millis(300);

/// What the manager holds for this process.
#[derive(Debug, Default)]
pub struct Holder {
    /// Of the last run, not asked for yet.
    offered: BTreeMap<String, Vec<OwnedFd>>,
    held: BTreeMap<String, Of>,
    /// The manager did not take a message: the rest waits for the next occasion.
    behind: bool,
    /// That was said already.
    deaf: bool,
    /// There were more names than fit; that was said.
    full: bool,
    /// The manager does not listen to this process yet.
    mute: bool,
}

/// Whose descriptor a name stands for. A weak reference keeps the number of the allocation, not the device.
#[derive(Clone, Debug)]
enum Of {
    Tap(Weak<TapDevice>),
    Xdp(Weak<XdpDevice>),
    Underlay(Weak<Underlay>),
    Uplink(Weak<Uplink>),
    TunnelGso(Weak<TunnelGso>),
    /// What the last run left and nobody has asked for.
    Nobody,
}

impl Of {
    /// The same for all descriptors of one device, and in the order in which devices are held: sockets first, for without them every
    /// peer is lost, without a device's queue one port's queued packets.
    fn key(&self) -> (u8, usize) {
        match self {
            Of::Underlay(it) => (0, it.as_ptr().addr()),
            Of::Uplink(it) => (1, it.as_ptr().addr()),
            Of::TunnelGso(it) => (2, it.as_ptr().addr()),
            Of::Xdp(it) => (3, it.as_ptr().addr()),
            Of::Tap(it) => (4, it.as_ptr().addr()),
            Of::Nobody => (5, 0),
        }
    }

    fn is(&self, other: &Of) -> bool {
        match (self, other) {
            (Of::Tap(a), Of::Tap(b)) => a.ptr_eq(b),
            (Of::Xdp(a), Of::Xdp(b)) => a.ptr_eq(b),
            (Of::Underlay(a), Of::Underlay(b)) => a.ptr_eq(b),
            (Of::Uplink(a), Of::Uplink(b)) => a.ptr_eq(b),
            (Of::TunnelGso(a), Of::TunnelGso(b)) => a.ptr_eq(b),
            _ => false,
        }
    }
}

/// The name under which the device is held by which superframes leave whole.
pub const TUNNEL_GSO: &str = "tunnel-gso";

/// The name under which a queue of a port is held.
fn tap_name(port: &str, queue: usize) -> String {
    format!("tap-{port}-{queue}")
}

/// The names under which the descriptors of a port's device are held, in the device's order.
pub fn port_names(port: &str, kind: PortKind, queues: u8) -> Vec<String> {
    match kind {
        PortKind::Tap | PortKind::Internal => {
            (0..usize::from(queues.max(1))).map(|queue| tap_name(port, queue)).collect()
        }
        PortKind::Afxdp => ["socket", "memory", "program"].map(|part| format!("xdp-{port}-{part}")).into(),
        PortKind::Vxlan => Vec::new(),
    }
}

/// The name under which a socket of the underlay on UDP port `port` is held.
pub fn socket_name(port: u16, ipv6: bool, role: SocketRole) -> String {
    let family = if ipv6 { "udp6" } else { "udp4" };
    match role {
        SocketRole::Receiver => format!("{family}-rx-{port}"),
        SocketRole::Sender(number) => format!("{family}-tx-{port}-{number}"),
    }
}

/// The name under which the link of the uplink's program is held.
pub const UPLINK: &str = "uplink-program";

/// The names under which socket and memory of one of the uplink's queues are held.
pub fn uplink_names(queue: usize) -> [String; 2] {
    ["socket", "memory"].map(|part| format!("uplink-{part}-{queue}"))
}

/// True for one of those names.
pub fn is_of_uplink(name: &str) -> bool {
    name.starts_with("uplink-")
}

impl Holder {
    /// Starts with what was passed to this process.
    pub fn new(inherited: Vec<(String, OwnedFd)>) -> Self {
        let mut holder = Holder::default();
        for (name, fd) in inherited {
            holder.held.insert(name.clone(), Of::Nobody);
            holder.offered.entry(name).or_default().push(fd);
        }
        holder
    }

    /// Starts with what another process has handed over. The service manager listens to that one until
    /// [`Holder::speak`]; it holds the same descriptors if it is the `same_manager`.
    pub fn handed_over(descriptors: Vec<(String, OwnedFd)>, same_manager: bool) -> Self {
        let mut holder = Holder::new(descriptors);
        if !same_manager {
            holder.held.clear();
        }
        holder.mute = true;
        holder
    }

    /// The service manager listens to this process from now on.
    pub fn speak(&mut self) {
        self.mute = false;
    }

    /// Descriptors of the last run by name: several when a manager holds more than one under it.
    pub fn take(&mut self, name: &str) -> Vec<OwnedFd> {
        self.offered.remove(name).unwrap_or_default()
    }

    /// True if there are descriptors of the last run whose name `wanted` takes.
    pub fn offers(&self, wanted: impl Fn(&str) -> bool) -> bool {
        self.offered.keys().any(|name| wanted(name))
    }

    /// Lets go of offers whose name `wanted` denies, and waits until the manager has closed them: until then addresses
    /// and devices are taken.
    pub fn refuse(&mut self, wanted: impl Fn(&str) -> bool) {
        let names: Vec<String> = self.offered.keys().filter(|name| !wanted(name)).cloned().collect();
        let closing: Vec<OwnedFd> = names.iter().flat_map(|name| self.take(name)).collect();
        if closing.is_empty() {
            return;
        }
        tracing::info!(count = closing.len(), "held descriptors are not wanted any more; closed");
        // The manager still has them, so this does not block.
        drop(closing);
        self.let_go(&names);
    }

    /// Lets the manager close what it holds under these names, and waits until it has.
    pub fn let_go(&mut self, names: &[String]) {
        let mut told = false;
        for name in names {
            told |= self.held.contains_key(name) && self.tell_removed(name);
        }
        if told {
            // Without the wait, at worst an attachment or a bind fails and is tried again later.
            let _ = barrier(CLOSING);
        }
    }

    /// Makes what the manager holds equal to what is open: what went is let go of, what is new is held.
    pub fn sync(&mut self, devices: &Devices) {
        if self.mute || !is_managed() {
            return;
        }
        self.behind = false;
        let wanted = wanted(devices);
        let stays = |(name, of): (&String, &Of)| wanted.get(name).is_some_and(|(is, _)| of.is(is));
        let mut gone: Vec<(String, bool)> = self
            .held
            .iter()
            .filter(|held| !stays(*held))
            .map(|(name, of)| (name.clone(), matches!(of, Of::Underlay(_))))
            .collect();
        gone.sort_by_key(|(name, _)| name != UPLINK);
        let mut unbound = false;
        for (name, is_socket) in gone {
            unbound |= self.tell_removed(&name) && is_socket;
        }
        if unbound {
            // An address is taken until the manager has closed its descriptor, too.
            let _ = barrier(CLOSING);
        }
        let room = MOST_NAMES.saturating_sub(names_len(self.held.keys().map(String::as_str)));
        let missing = wanted.into_iter().filter(|(name, _)| !self.held.contains_key(name));
        let (fitting, all) = whole_devices(missing, room);
        if !all {
            self.overflow();
        }
        for (name, of, fd) in fitting {
            if self.behind {
                break;
            }
            match notify_with_fds(&format!("FDSTORE=1\nFDNAME={name}\nFDPOLL=0"), &[fd]) {
                Ok(_) => drop(self.held.insert(name, of)),
                Err(error) => self.fall_behind(&error),
            }
        }
        self.deaf &= self.behind;
    }

    /// True if the manager is to be told again.
    pub fn is_behind(&self) -> bool {
        self.behind
    }

    /// A descriptor that came back is in use, as it was: it need not be sent again.
    pub fn keeps_device(&mut self, name: String, device: &Device) {
        match device {
            Device::Tap(tap) => self.keeps(name, Of::Tap(Arc::downgrade(tap))),
            Device::Xdp(xdp) => self.keeps(name, Of::Xdp(Arc::downgrade(xdp))),
            Device::Mem(_) | Device::Segment(_) => {}
        }
    }

    /// As [`Holder::keeps_device`], for a socket.
    pub fn keeps_socket(&mut self, name: String, underlay: &Arc<Underlay>) {
        self.keeps(name, Of::Underlay(Arc::downgrade(underlay)));
    }

    /// As [`Holder::keeps_device`], for the uplink.
    pub fn keeps_uplink(&mut self, uplink: &Arc<Uplink>) {
        let queues = (0..uplink.queues()).flat_map(uplink_names);
        for name in queues.chain([UPLINK.to_owned()]) {
            self.keeps(name, Of::Uplink(Arc::downgrade(uplink)));
        }
    }

    /// As [`Holder::keeps_device`], for the device by which superframes leave whole.
    pub fn keeps_tunnel_gso(&mut self, device: &Arc<TunnelGso>) {
        self.keeps(TUNNEL_GSO.to_owned(), Of::TunnelGso(Arc::downgrade(device)));
    }

    fn keeps(&mut self, name: String, of: Of) {
        if let Some(held) = self.held.get_mut(&name) {
            *held = of;
        }
    }

    fn tell_removed(&mut self, name: &str) -> bool {
        if self.behind || self.mute {
            return false;
        }
        match notify_with_fds(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[]) {
            Ok(_) => self.held.remove(name).is_some(),
            Err(error) => {
                self.fall_behind(&error);
                false
            }
        }
    }

    /// What the manager cannot hand back is attached to by name at the next start.
    fn overflow(&mut self) {
        if !std::mem::replace(&mut self.full, true) {
            tracing::warn!("too many ports for the service manager's descriptor store; some are not held");
        }
    }

    /// One failure is enough for now: each may have taken its full time.
    fn fall_behind(&mut self, error: &io::Error) {
        self.behind = true;
        if !std::mem::replace(&mut self.deaf, true) {
            tracing::info!(%error, "the service manager takes no descriptors; tried again every second");
        }
    }
}

/// What of `missing` fits in `room` bytes of names, in the order in which it is to be held: all of a device, or nothing. False:
/// not all of it does.
fn whole_devices<T>(
    missing: impl Iterator<Item = (String, (Of, T))>,
    mut room: usize,
) -> (Vec<(String, Of, T)>, bool) {
    let mut devices: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for (name, (of, descriptor)) in missing {
        devices.entry(of.key()).or_default().push((name, of, descriptor));
    }
    let (mut fitting, mut all) = (Vec::new(), true);
    for mut device in devices.into_values() {
        let len = names_len(device.iter().map(|(name, ..)| name.as_str()));
        if len > room {
            all = false;
            continue;
        }
        room -= len;
        device.sort_by_key(|(name, ..)| name == UPLINK);
        fitting.append(&mut device);
    }
    (fitting, all)
}

/// Another descriptor of everything that is open, by name.
///
/// # Errors
/// `EMFILE`.
pub fn duplicates(devices: &Devices) -> io::Result<Vec<(String, OwnedFd)>> {
    wanted(devices).into_iter().map(|(name, (_, fd))| Ok((name, fd.try_clone_to_owned()?))).collect()
}

/// Everything that is open, by the name under which it is to be held.
fn wanted(devices: &Devices) -> BTreeMap<String, (Of, BorrowedFd<'_>)> {
    let mut all = BTreeMap::new();
    for (port, device) in &devices.ports {
        match device {
            Device::Tap(tap) if !tap.is_lost() => {
                for (number, queue) in tap.queues().iter().enumerate() {
                    all.insert(tap_name(port, number), (Of::Tap(Arc::downgrade(tap)), queue.as_fd()));
                }
            }
            Device::Xdp(xdp) => {
                let names = port_names(port, PortKind::Afxdp, 1);
                for (name, part) in names.into_iter().zip(xdp.descriptors()) {
                    all.insert(name, (Of::Xdp(Arc::downgrade(xdp)), part));
                }
            }
            Device::Tap(_) | Device::Mem(_) | Device::Segment(_) => {}
        }
    }
    for (port, underlay) in &devices.underlays {
        for (ipv6, role, socket) in underlay.sockets() {
            let of = Of::Underlay(Arc::downgrade(underlay));
            all.insert(socket_name(*port, ipv6, role), (of, socket.as_fd()));
        }
    }
    if let Some(uplink) = &devices.uplink {
        let parts = uplink.descriptors();
        let names = (0..).flat_map(uplink_names);
        let held = names.zip(parts.queues.into_iter().flatten()).chain([(UPLINK.to_owned(), parts.program)]);
        all.extend(held.map(|(name, part)| (name, (Of::Uplink(Arc::downgrade(uplink)), part))));
    }
    if let Some(device) = &devices.tunnel_gso {
        all.insert(TUNNEL_GSO.to_owned(), (Of::TunnelGso(Arc::downgrade(device)), device.as_fd()));
    }
    all
}

#[cfg(test)]
mod tests;
