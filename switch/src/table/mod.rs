//! What a worker reads: immutable tables behind one pointer.
//!
//! Control builds a [`Snapshot`] and publishes it; a worker holds one `Arc` per batch. Unchanged tables are shared
//! between snapshots. Each object carries a `generation`: a number never used before for any object, given anew
//! whenever anything of the object changes. A flow cache entry remembers the generations it was made from.

/// Bridges with their router: routes and neighbours.
pub mod bridge;
/// Longest-prefix match.
pub mod lpm;
/// Ports.
pub mod port;
/// Underlays and peers.
pub mod tunnel;

use std::sync::Arc;

pub use bridge::{Bridge, Bridges, FdbTarget, Neighbour, NextHop, Router};
pub use port::{Guard, Port, Ports, Role};
pub use tunnel::{Peer, PeerMode, Tunnels};

/// Number of a snapshot; grows by one per publication.
pub type Epoch = u64;
/// Number of a version of one object; never used twice.
pub type Generation = u64;

/// Most ports of a node; the size of per-worker counter tables.
pub const MAX_PORTS: usize = 4096;
/// Most peers of a node (layer 2 and 3 together).
pub const MAX_PEERS: usize = 16_384;

macro_rules! slot {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(pub u16);

        impl $name {
            /// As an index into a table.
            pub const fn index(self) -> usize {
                self.0 as usize
            }
        }
    };
}

slot!(
    /// Where a port stands in [`Ports`]; below [`MAX_PORTS`]. Given again only after every worker has acknowledged
    /// a snapshot without the old port.
    PortSlot
);
slot!(
    /// Where a bridge stands in [`Bridges`].
    BridgeSlot
);
slot!(
    /// Where a peer stands in [`Tunnels`]; below [`MAX_PEERS`].
    PeerSlot
);

/// Everything a worker needs to forward, at one instant.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Its number.
    pub epoch: Epoch,
    /// Ports by slot.
    pub ports: Arc<Ports>,
    /// Bridges by slot.
    pub bridges: Arc<Bridges>,
    /// Underlays and peers.
    pub tunnels: Arc<Tunnels>,
}
