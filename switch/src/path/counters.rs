//! Counters: one set per worker, written by that worker alone, summed by whoever reads.
//!
//! The tables have a row for every port and peer that can exist, so that nothing is ever allocated or looked up. They
//! are made of zero pages, which cost memory only where something is counted.

use std::ops::Deref;
use std::sync::atomic::{AtomicU64, Ordering};

use weft_encap::Reason;
use zerocopy::{FromZeros, KnownLayout};

use crate::mem::{Ingress, zeroed};
use crate::table::{MAX_PEERS, MAX_PORTS, PeerSlot, PortSlot};

macro_rules! totals {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// What is counted for the node as a whole.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        #[repr(usize)]
        pub enum Total {
            $($(#[$doc])* $variant,)*
        }

        impl Total {
            /// All of them, in the order of their numbers.
            pub const ALL: &'static [Total] = &[$(Total::$variant,)*];
            /// How many there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The stable, machine-readable name (snake case).
            pub const fn name(self) -> &'static str {
                match self { $(Total::$variant => $name,)* }
            }
        }
    };
}

totals! {
    /// TCP and UDP checksums that the switch computed. 0 for traffic between local ports.
    ChecksumsComputed = "checksums_computed",
    /// Superframes that the switch cut. 0 for traffic between local ports.
    SuperframesCut = "superframes_cut",
    /// Superframes that left for a peer whole, to be cut by the kernel or the network card.
    SuperframesSent = "superframes_sent",
    /// Superframes that the switch made of a tunnel's segments.
    SuperframesGlued = "superframes_glued",
    /// Superframes from a tunnel that came whole.
    SuperframesWhole = "superframes_whole",
    /// UDP superframes that the switch made of a port's datagrams.
    UdpCoalesced = "udp_coalesced",
    /// TCP superframes that the switch made of the segments of ports that send none, such as AF_XDP ports.
    TcpCoalesced = "tcp_coalesced",
    /// TCP acknowledgments left out because a later one in the same batch says all that they say.
    AcksThinned = "acks_thinned",
    /// Sends to peers.
    TunnelSends = "tunnel_sends",
    /// Sends to peers that the kernel would not segment and that went out one by one.
    SegmentFallbacks = "segment_fallbacks",
    /// Packets of the tunnel that came as raw frames by the uplink.
    UplinkReceived = "uplink_received",
    /// Packets of the tunnel that left as raw frames by the uplink.
    UplinkSent = "uplink_sent",
    /// Frames that went from one AF_XDP port to another in the chunk of memory in which they came.
    XdpPassed = "xdp_passed",
    /// Frames that were forwarded by a cached flow.
    CacheHits = "cache_hits",
    /// Frames that were looked at one by one.
    CacheMisses = "cache_misses",
    /// Places of the flow caches that are taken: none is ever given back, so it only grows, too.
    CacheEntries = "cache_entries",
    /// Cached flows that had to make room for others.
    CacheEvictions = "cache_evictions",
    /// Answers by the switch itself: ARP, neighbour discovery, ICMP.
    Punts = "punts",
    /// Copies made of flooded frames.
    FloodCopies = "flood_copies",
    /// Fragments that the router made of IPv4 packets too long for their way.
    FragmentsMade = "fragments_made",
    /// Times that a worker woke up.
    Wakeups = "wakeups",
    /// Batches of frames.
    Batches = "batches",
}

/// One port's row. Not aligned to a line: the allocator has zero pages for what needs no alignment only, and fills the rest.
#[derive(Debug, FromZeros, KnownLayout)]
#[repr(C)]
struct PortRow {
    rx_frames: AtomicU64,
    rx_bytes: AtomicU64,
    tx_frames: AtomicU64,
    tx_bytes: AtomicU64,
    tx_dropped: AtomicU64,
    drops: [AtomicU64; Reason::COUNT],
}

/// One peer's row.
#[derive(Debug, FromZeros, KnownLayout)]
#[repr(C)]
struct PeerRow {
    rx_frames: AtomicU64,
    rx_bytes: AtomicU64,
    tx_frames: AtomicU64,
    tx_bytes: AtomicU64,
    last_heard_ns: AtomicU64,
    drops: [AtomicU64; Reason::COUNT],
}

/// What belongs to no port.
#[derive(Debug, FromZeros, KnownLayout)]
#[repr(C, align(64))]
struct NodeRow {
    totals: [AtomicU64; Total::COUNT],
    tunnel_drops: [AtomicU64; Reason::COUNT],
}

/// One worker's counters. Only that worker calls the methods that count.
#[derive(Debug)]
pub struct Counters {
    ports: Box<[PortRow]>,
    peers: Box<[PeerRow]>,
    node: Box<NodeRow>,
}

impl Counters {
    /// All zero.
    pub fn new() -> Self {
        let node = Box::new(NodeRow::new_zeroed());
        Counters { ports: zeroed(MAX_PORTS), peers: zeroed(MAX_PEERS), node }
    }

    /// A frame was dropped.
    #[inline]
    pub fn drop(&self, ingress: Ingress, reason: Reason) {
        match ingress {
            Ingress::Port(slot) => bump(&self.ports[slot.index()].drops[reason as usize], 1),
            Ingress::Peer(slot) => {
                bump(&self.peers[slot.index()].drops[reason as usize], 1);
                self.drop_tunnel(reason);
            }
        }
    }

    /// A VXLAN packet was dropped whose sender is not known.
    #[inline]
    pub fn drop_tunnel(&self, reason: Reason) {
        bump(&self.node.tunnel_drops[reason as usize], 1);
    }

    /// Frames came in by a port.
    #[inline]
    pub fn rx(&self, slot: PortSlot, frames: u64, bytes: u64) {
        let row = &self.ports[slot.index()];
        bump(&row.rx_frames, frames);
        bump(&row.rx_bytes, bytes);
    }

    /// A frame left by a port.
    #[inline]
    pub fn tx(&self, slot: PortSlot, frames: u64, bytes: u64) {
        let row = &self.ports[slot.index()];
        bump(&row.tx_frames, frames);
        bump(&row.tx_bytes, bytes);
    }

    /// Frames for a port did not get there. They are counted as drops where they came from, too.
    #[inline]
    pub fn tx_dropped(&self, slot: PortSlot, frames: u64) {
        bump(&self.ports[slot.index()].tx_dropped, frames);
    }

    /// VXLAN packets came from a peer; `bytes` of inner frames.
    #[inline]
    pub fn rx_peer(&self, slot: PeerSlot, frames: u64, bytes: u64, now_ns: u64) {
        let row = &self.peers[slot.index()];
        bump(&row.rx_frames, frames);
        bump(&row.rx_bytes, bytes);
        // Relaxed: a lone value, read for display.
        row.last_heard_ns.store(now_ns, Ordering::Relaxed);
    }

    /// VXLAN packets left for a peer; `bytes` of inner frames.
    #[inline]
    pub fn tx_peer(&self, slot: PeerSlot, frames: u64, bytes: u64) {
        let row = &self.peers[slot.index()];
        bump(&row.tx_frames, frames);
        bump(&row.tx_bytes, bytes);
    }

    /// Counts `n` of what concerns the whole node.
    #[inline]
    pub fn add(&self, total: Total, n: u64) {
        bump(&self.node.totals[total as usize], n);
    }

    /// The value of one total.
    pub fn total(&self, total: Total) -> u64 {
        get(&self.node.totals[total as usize])
    }

    /// A port's row, by value.
    pub fn port(&self, slot: PortSlot) -> PortCounters {
        let Some(row) = self.ports.get(slot.index()) else { return PortCounters::default() };
        let mut drops = Drops::default();
        drops.add_row(&row.drops);
        PortCounters {
            rx_frames: get(&row.rx_frames),
            rx_bytes: get(&row.rx_bytes),
            tx_frames: get(&row.tx_frames),
            tx_bytes: get(&row.tx_bytes),
            tx_dropped: get(&row.tx_dropped),
            drops,
        }
    }

    /// A peer's row, by value.
    pub fn peer(&self, slot: PeerSlot) -> PeerCounters {
        let Some(row) = self.peers.get(slot.index()) else { return PeerCounters::default() };
        let mut drops = Drops::default();
        drops.add_row(&row.drops);
        PeerCounters {
            rx_frames: get(&row.rx_frames),
            rx_bytes: get(&row.rx_bytes),
            tx_frames: get(&row.tx_frames),
            tx_bytes: get(&row.tx_bytes),
            drops,
            last_heard_ns: get(&row.last_heard_ns),
        }
    }

    /// Drops of everything that came by a tunnel.
    pub fn tunnel_drops(&self) -> Drops {
        let mut drops = Drops::default();
        drops.add_row(&self.node.tunnel_drops);
        drops
    }
}

impl Default for Counters {
    fn default() -> Self {
        Counters::new()
    }
}

/// Counts of drops by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Drops([u64; Reason::COUNT]);

impl Default for Drops {
    fn default() -> Self {
        Drops([0; Reason::COUNT])
    }
}

impl Drops {
    /// How many frames died of `reason`.
    pub fn get(&self, reason: Reason) -> u64 {
        self.0[reason as usize]
    }

    /// All frames that died.
    pub fn sum(&self) -> u64 {
        self.0.iter().sum()
    }

    /// The reasons that occurred, with their counts.
    pub fn iter(&self) -> impl Iterator<Item = (Reason, u64)> + '_ {
        Reason::ALL
            .iter()
            .zip(self.0)
            .filter(|(_, count)| *count != 0)
            .map(|(reason, count)| (*reason, count))
    }

    /// Adds `other`.
    pub fn merge(&mut self, other: &Drops) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, count)| *sum += count);
    }

    /// Adds `count` frames that died of `reason`.
    pub fn add(&mut self, reason: Reason, count: u64) {
        self.0[reason as usize] += count;
    }

    fn subtract(&mut self, other: &Drops) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, count)| *sum = sum.saturating_sub(count));
    }

    fn add_row(&mut self, row: &[AtomicU64; Reason::COUNT]) {
        self.0.iter_mut().zip(row).for_each(|(sum, count)| *sum += get(count));
    }
}

/// A port's counters. A superframe counts as one frame.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct PortCounters {
    /// Frames that the switch took from the port.
    pub rx_frames: u64,
    /// Their bytes, Ethernet headers included.
    pub rx_bytes: u64,
    /// Frames that the switch gave to the port.
    pub tx_frames: u64,
    /// Their bytes, Ethernet headers included.
    pub tx_bytes: u64,
    /// Frames that were for the port and did not get there. Wherever they came from, they are among its `drops`.
    pub tx_dropped: u64,
    /// What became of those that came from the port and were dropped.
    pub drops: Drops,
}

impl PortCounters {
    /// Adds `other`.
    pub fn merge(&mut self, other: &PortCounters) {
        self.rx_frames += other.rx_frames;
        self.rx_bytes += other.rx_bytes;
        self.tx_frames += other.tx_frames;
        self.tx_bytes += other.tx_bytes;
        self.tx_dropped += other.tx_dropped;
        self.drops.merge(&other.drops);
    }

    /// What was counted since `base` was taken.
    pub fn since(mut self, base: &PortCounters) -> PortCounters {
        self.rx_frames = self.rx_frames.saturating_sub(base.rx_frames);
        self.rx_bytes = self.rx_bytes.saturating_sub(base.rx_bytes);
        self.tx_frames = self.tx_frames.saturating_sub(base.tx_frames);
        self.tx_bytes = self.tx_bytes.saturating_sub(base.tx_bytes);
        self.tx_dropped = self.tx_dropped.saturating_sub(base.tx_dropped);
        self.drops.subtract(&base.drops);
        self
    }
}

/// A peer's counters, in VXLAN packets and bytes of their inner frames.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct PeerCounters {
    /// VXLAN packets taken from the peer (a superframe of a kernel peer that came whole is one).
    pub rx_frames: u64,
    /// Bytes of their inner frames.
    pub rx_bytes: u64,
    /// VXLAN packets sent to the peer.
    pub tx_frames: u64,
    /// Bytes of their inner frames.
    pub tx_bytes: u64,
    /// What became of frames from the peer that were dropped.
    pub drops: Drops,
    /// When the peer was last heard, ns of the monotonic clock; 0: never.
    pub last_heard_ns: u64,
}

impl PeerCounters {
    /// Adds `other`; the later time counts.
    pub fn merge(&mut self, other: &PeerCounters) {
        self.rx_frames += other.rx_frames;
        self.rx_bytes += other.rx_bytes;
        self.tx_frames += other.tx_frames;
        self.tx_bytes += other.tx_bytes;
        self.drops.merge(&other.drops);
        self.last_heard_ns = self.last_heard_ns.max(other.last_heard_ns);
    }

    /// What was counted since `base` was taken. A peer not heard since has never been heard.
    pub fn since(mut self, base: &PeerCounters) -> PeerCounters {
        self.rx_frames = self.rx_frames.saturating_sub(base.rx_frames);
        self.rx_bytes = self.rx_bytes.saturating_sub(base.rx_bytes);
        self.tx_frames = self.tx_frames.saturating_sub(base.tx_frames);
        self.tx_bytes = self.tx_bytes.saturating_sub(base.tx_bytes);
        self.drops.subtract(&base.drops);
        if self.last_heard_ns == base.last_heard_ns {
            self.last_heard_ns = 0;
        }
        self
    }
}

/// The node's totals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Totals([u64; Total::COUNT]);

impl Default for Totals {
    fn default() -> Self {
        Totals([0; Total::COUNT])
    }
}

impl Totals {
    /// Sums `workers`.
    pub fn sum<C: Deref<Target = Counters>>(workers: impl IntoIterator<Item = C>) -> Self {
        let mut sums = [0; Total::COUNT];
        for counters in workers {
            for (sum, total) in sums.iter_mut().zip(Total::ALL) {
                *sum += counters.total(*total);
            }
        }
        Totals(sums)
    }

    /// Adds `other`.
    pub fn merge(&mut self, other: &Totals) {
        self.0.iter_mut().zip(other.0).for_each(|(sum, count)| *sum += count);
    }

    /// Adds `count` to one of them.
    pub fn add(&mut self, total: Total, count: u64) {
        self.0[total as usize] += count;
    }

    /// One of them.
    pub fn get(&self, total: Total) -> u64 {
        self.0[total as usize]
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Total, u64)> + '_ {
        Total::ALL.iter().copied().zip(self.0)
    }
}

/// Relaxed on both sides: one writer, and readers want single values, not a consistent set.
#[inline]
fn bump(counter: &AtomicU64, n: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
}

fn get(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_where_they_belong() {
        let counters = Counters::new();
        let (port, peer) = (PortSlot(MAX_PORTS as u16 - 1), PeerSlot(MAX_PEERS as u16 - 1));
        counters.rx(port, 2, 200);
        counters.tx(port, 1, 50);
        counters.drop(Ingress::Port(port), Reason::Runt);
        counters.drop(Ingress::Peer(peer), Reason::BadChecksum);
        counters.drop_tunnel(Reason::TunnelStranger);
        counters.rx_peer(peer, 3, 300, 7);
        counters.add(Total::Wakeups, 5);
        let mut sum = counters.port(port);
        assert_eq!((sum.rx_frames, sum.rx_bytes, sum.tx_frames, sum.tx_bytes), (2, 200, 1, 50));
        assert_eq!(sum.drops.iter().collect::<Vec<_>>(), [(Reason::Runt, 1)]);
        sum.merge(&counters.port(port));
        assert_eq!(sum.since(&counters.port(port)), counters.port(port));
        assert_eq!(counters.peer(peer).drops.iter().collect::<Vec<_>>(), [(Reason::BadChecksum, 1)]);
        assert_eq!(counters.peer(peer).last_heard_ns, 7);
        assert_eq!(counters.tunnel_drops().sum(), 2);
        assert_eq!(Totals::sum([&counters, &counters]).get(Total::Wakeups), 10);
        assert_eq!(counters.port(PortSlot(0)), PortCounters::default());
    }
}
