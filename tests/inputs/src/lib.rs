//! What must hold for bytes that strangers send: pods, the wire, container runtimes, clients of the API, editors of
//! files, disks.
//!
//! One function per kind of input. Each takes any bytes and panics when a property does not hold; bytes that are refused
//! are fine. The fuzzer (`scripts/fuzz.sh`) feeds them with what reaches new code, and an ordinary test replays what it
//! found (`tests/corpus/<target>/`).
#![forbid(unsafe_code)]

/// Bodies of the control API.
mod api;
/// Configuration and cluster file.
mod files;
/// A forwarder, and frames from ports and peers.
mod forward;
/// Frames, virtio headers, superframes.
mod frames;
/// What the CNI plugin and the daemon read.
mod plugin;
/// Objects of the store.
mod stored;
/// VXLAN packets from the wire.
mod tunnel;
/// A small network to be attacked.
mod world;

pub use api::api;
pub use files::{cluster, config};
pub use forward::forward;
pub use frames::{frame, glue, vnet};
pub use plugin::{cni, request};
pub use stored::stored;
pub use tunnel::tunnel;

/// A kind of input: its name, which is that of its folder in `tests/corpus`, and what must hold for it.
pub type Target = (&'static str, fn(&[u8]));

/// All kinds.
pub const TARGETS: &[Target] = &[
    ("frame", frame),
    ("vnet", vnet),
    ("glue", glue),
    ("tunnel", tunnel),
    ("forward", forward),
    ("cni", cni),
    ("request", request),
    ("api", api),
    ("config", config),
    ("cluster", cluster),
    ("stored", stored),
];

/// Takes `N` bytes off the front; zeros stand for what is missing.
fn take<const N: usize>(data: &mut &[u8]) -> [u8; N] {
    let mut bytes = [0; N];
    let len = N.min(data.len());
    let (head, rest) = data.split_at(len);
    bytes[..len].copy_from_slice(head);
    *data = rest;
    bytes
}

/// Takes a length (two bytes, big endian) and as many bytes; less where there are no more. `None` at the end.
fn record<'a>(data: &mut &'a [u8]) -> Option<&'a [u8]> {
    if data.is_empty() {
        return None;
    }
    let len = usize::from(u16::from_be_bytes(take(data))).min(data.len());
    let (head, rest) = data.split_at(len);
    *data = rest;
    Some(head)
}
