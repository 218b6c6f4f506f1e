//! One worker's half of a switch, with in-process ports: what a worker does with a batch, without its system calls.
//!
//! Two guarded pods on a bridge with a router, and one peer behind a tunnel. A [`Traffic`] is a set of flows between
//! them; [`Scene::load`] draws a batch of frames of random flows, as fresh as a device leaves them, and the calls
//! behind it are the ones to time. What must hold afterwards is [`Scene::check`]ed: no frame was dropped.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use weft_encap::{Headers, MacAddr, Reason, VnetHdr, Vni, vxlan};
use weft_switch::mem::{BATCH, Batch, Frame, Ingress, Pool};
use weft_switch::path::fdb::{Bounds, Station};
use weft_switch::path::{Counters, Forwarder, Out, Settings, Shared, Sink, accelerate};
use weft_switch::port::{Device, MemDevice, Underlay, UnderlayConfig};
use weft_switch::table::lpm::Lpm;
use weft_switch::table::{
    Bridge, BridgeSlot, Bridges, FdbTarget, Guard, Neighbour, NextHop, Peer, PeerMode, PeerSlot, Port,
    PortSlot, Ports, Role, Router, Snapshot, Tunnels,
};
use weft_sys::tun::Offloads;
use weft_sys::udp::{UdpOptions, UdpSocket};

use crate::frames::{Ends, SMALL, tcp4, udp4};

/// The sending pod.
pub const POD_A: PortSlot = PortSlot(0);
/// The receiving pod.
pub const POD_B: PortSlot = PortSlot(1);
/// The other node.
pub const PEER: PeerSlot = PeerSlot(0);
/// The VNI of its packets.
pub const VNI: u32 = 1;
/// Where pods must not send to (RFC 7348): not the port that a socket happened to get, for in one of 64 cases that would be looked
/// at longer, in each frame.
const VXLAN_PORT: u16 = 4789;
/// What the underlay's address is in every scene.
pub const UNDERLAY: Ipv4Addr = Ipv4Addr::LOCALHOST;

const BRIDGE: BridgeSlot = BridgeSlot(0);
const MACS: [MacAddr; 2] = [MacAddr([2, 0, 0, 0, 0, 0xa]), MacAddr([2, 0, 0, 0, 0, 0xb])];
const IPS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 244, 1, 7), Ipv4Addr::new(10, 244, 1, 8)];
/// Where the receiving pod is the gateway: a million addresses.
const BEHIND_POD_B: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 16, 0, 0), 12);
/// Addresses on the other node, as many.
const BEHIND_PEER: Ipv4Net = Ipv4Net::new_assert(Ipv4Addr::new(172, 32, 0, 0), 12);
const ROUTER: MacAddr = MacAddr([2, 0, 0, 0, 1, 1]);
const VTEP: MacAddr = MacAddr([2, 0, 0, 0, 2, 1]);
const PEER_VTEP: MacAddr = MacAddr([2, 0, 0, 0, 2, 2]);
/// What pods speak in.
const POD_MTU: u32 = 1450;
/// Frames of the pool: more than any batch and what is queued of it need.
const POOL: usize = 4 * BATCH;
/// The clock of all batches; the scene's time stands still.
const NOW_NS: u64 = 1_000_000_000;

/// Which way the flows go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// Pod to pod on the same segment.
    Switched,
    /// Pod to pod through the router.
    Routed,
    /// Pod to a pod on the other node.
    ToPeer,
    /// From a pod on the other node.
    FromPeer,
}

/// What the flows speak. UDP datagrams that follow each other in one flow are made one superframe on the way out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Speech {
    /// UDP.
    Udp,
    /// TCP acknowledgements with a few bytes.
    Tcp,
}

/// How a scene is made.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Entries of the flow cache; 0: every frame misses.
    pub cache_entries: usize,
    /// Nodes besides the peer, each with a route.
    pub nodes: u32,
    /// Stations learned behind the receiving pod, besides.
    pub stations: u32,
}

impl Default for Setting {
    /// The daemon's default cache, no more nodes, nothing learned.
    fn default() -> Self {
        Setting { cache_entries: Settings::default().cache_entries, nodes: 0, stations: 0 }
    }
}

/// A worker's half of a switch.
pub struct Scene {
    /// What it forwards by.
    pub snapshot: Snapshot,
    /// Its frames.
    pub pool: Pool,
    /// The batch under way.
    pub batch: Batch,
    /// What it counts.
    pub counters: Counters,
    forwarder: Forwarder,
    out: Out,
    shared: Arc<Shared>,
    devices: [Arc<MemDevice>; 2],
    /// Never read: packets to the peer die in its buffer.
    _peer: UdpSocket,
}

impl Scene {
    /// A scene.
    ///
    /// # Errors
    /// When sockets cannot be opened on the loopback device.
    pub fn new(setting: Setting) -> io::Result<Self> {
        Scene::of_worker(0, setting, Arc::new(learned(setting.stations)))
    }

    /// The half of another worker, which shares what is learned. Its pods and their tables are its own.
    ///
    /// # Errors
    /// As [`Scene::new`].
    pub fn beside(&self, worker: usize, setting: Setting) -> io::Result<Self> {
        Scene::of_worker(worker, setting, Arc::clone(&self.shared))
    }

    fn of_worker(worker: usize, setting: Setting, shared: Arc<Shared>) -> io::Result<Self> {
        // As a data plane does before its workers start.
        accelerate();
        let device = || Ok::<_, io::Error>(Arc::new(MemDevice::new(2 * BATCH, Offloads::all())?));
        let devices = [device()?, device()?];
        let loopback = SocketAddr::from((UNDERLAY, 0));
        let sink = UdpSocket::bind(loopback, &UdpOptions { buffer: 1, ..UdpOptions::default() })?;
        let underlay = Underlay::open(UnderlayConfig { port: 0, v4: Some(UNDERLAY), v6: None })?;
        let ports = [pod(POD_A, &devices[0]), pod(POD_B, &devices[1])];
        let snapshot = Snapshot {
            epoch: 1,
            ports: Arc::new(Ports { slots: ports.into_iter().map(|port| Some(Arc::new(port))).collect() }),
            bridges: Arc::new(Bridges { slots: vec![Some(Arc::new(bridge(setting.nodes)))] }),
            tunnels: Arc::new(tunnels(underlay, sink.local_addr()?, setting.nodes)),
        };
        let settings = Settings { cache_entries: setting.cache_entries };
        Ok(Scene {
            snapshot,
            pool: Pool::new(POOL),
            batch: Batch::default(),
            counters: Counters::new(),
            forwarder: Forwarder::new(worker, &settings, Arc::clone(&shared)),
            out: Out::new(worker),
            shared,
            devices,
            _peer: sink,
        })
    }

    /// Fills the batch with frames of random flows.
    pub fn load(&mut self, traffic: &mut Traffic) {
        while !self.batch.is_full() {
            let Some(mut frame) = self.pool.take() else { return };
            let (ingress, bytes) = traffic.draw();
            frame.vnet = VnetHdr::NONE;
            frame.ingress = ingress;
            frame.fill(bytes);
            self.batch.add(frame);
        }
    }

    /// Decides about the batch: half of a worker's turn.
    #[inline]
    pub fn process(&mut self) {
        let (pool, out) = (&mut self.pool, &mut self.out);
        self.forwarder.process(&self.snapshot, NOW_NS, &mut self.batch, pool, out, &self.counters);
    }

    /// Decides about the batch, into another sink.
    #[inline]
    pub fn process_to(&mut self, out: &mut impl Sink) {
        let pool = &mut self.pool;
        self.forwarder.process(&self.snapshot, NOW_NS, &mut self.batch, pool, out, &self.counters);
    }

    /// Sends what is queued: the other half.
    #[inline]
    pub fn flush(&mut self) {
        self.out.flush(&self.snapshot, &mut self.pool, &self.counters);
    }

    /// Takes away what arrived at the pods, so that the next batch finds room; says how many frames that were.
    pub fn drain(&mut self) -> usize {
        let arrived = |device: &Arc<MemDevice>| std::iter::from_fn(|| device.extract(|_, _| ())).count();
        self.devices.iter().map(arrived).sum()
    }

    /// Meets every flow once, so that the cache knows as many as it holds.
    pub fn warm(&mut self, traffic: &mut Traffic) {
        traffic.in_order();
        for _ in 0..traffic.flows().div_ceil(BATCH) {
            self.load(traffic);
            self.process();
            self.flush();
            self.drain();
        }
        traffic.at_random();
    }

    /// What was dropped since the start, whatever the reason.
    pub fn drops(&self) -> Vec<(Reason, u64)> {
        let mut all = self.counters.port(POD_A).drops;
        all.merge(&self.counters.port(POD_B).drops);
        all.merge(&self.counters.tunnel_drops());
        all.iter().filter(|(_, count)| *count > 0).collect()
    }

    /// Panics when a frame was dropped or lost: the numbers would be of something else.
    pub fn check(&self) {
        assert_eq!(self.drops(), [], "frames were dropped while being measured");
        assert_eq!(self.pool.available() + self.batch.len(), POOL, "frames were lost while being measured");
    }
}

/// A sink that keeps what it is given, at the least cost there is.
#[derive(Debug)]
pub struct Keep {
    frames: Vec<Frame>,
}

impl Default for Keep {
    fn default() -> Self {
        Keep { frames: Vec::with_capacity(POOL) }
    }
}

impl Keep {
    /// Gives everything back.
    pub fn empty(&mut self, pool: &mut Pool) {
        self.frames.drain(..).for_each(|frame| pool.give(frame));
    }
}

impl Sink for Keep {
    #[inline]
    fn to_port(&mut self, _: PortSlot, frame: Frame, _: Option<Headers>) {
        self.frames.push(frame);
    }

    #[inline]
    fn to_peer(&mut self, _: PeerSlot, frame: Frame, _: Headers, _: u32) {
        self.frames.push(frame);
    }
}

/// A set of flows and the next frame of them.
#[derive(Debug)]
pub struct Traffic {
    ingress: Ingress,
    /// All of one length, back to back.
    frames: Vec<u8>,
    next: usize,
    /// State of a xorshift generator; `None`: flow after flow.
    random: Option<u64>,
}

impl Traffic {
    /// `flows` flows of small frames, each with an address of its own: the switch tells them all apart.
    pub fn new(way: Way, speech: Speech, flows: usize) -> Self {
        Traffic::of_pairs(way, speech, flows, flows)
    }

    /// `flows` flows of small frames, all between so many pairs of addresses.
    pub fn of_pairs(way: Way, speech: Speech, flows: usize, pairs: usize) -> Self {
        let ingress = match way {
            Way::FromPeer => Ingress::Peer(PEER),
            Way::Switched | Way::Routed | Way::ToPeer => Ingress::Port(POD_A),
        };
        let frames = (0..flows).flat_map(|flow| {
            let ends = Traffic::ends(way, flow % pairs, flow);
            match speech {
                Speech::Udp => udp4(&ends, SMALL),
                Speech::Tcp => tcp4(&ends, 1, SMALL),
            }
        });
        Traffic { ingress, frames: frames.collect(), next: 0, random: Some(SEED) }
    }

    /// The ends of a flow between a pair of addresses. It has ports of its own.
    pub fn ends(way: Way, pair: usize, flow: usize) -> Ends {
        let macs = match way {
            Way::Switched => (MACS[1], MACS[0]),
            Way::Routed | Way::ToPeer => (ROUTER, MACS[0]),
            Way::FromPeer => (VTEP, PEER_VTEP),
        };
        let address = |net: Ipv4Net| Ipv4Addr::from(net.addr().to_bits() + pair as u32);
        let ips = match way {
            Way::Switched | Way::Routed => (IPS[0], address(BEHIND_POD_B)),
            Way::ToPeer => (IPS[0], address(BEHIND_PEER)),
            Way::FromPeer => (address(BEHIND_PEER), IPS[1]),
        };
        let (high, low) = (flow / 50_000, flow % 50_000);
        Ends { macs, ips, ports: (10_000 + low as u16, 5001 + high as u16) }
    }

    /// How many flows there are.
    pub fn flows(&self) -> usize {
        self.frames.len() / SMALL
    }

    /// Draws flows at random: a cache finds no help in their order.
    pub fn at_random(&mut self) {
        self.random = Some(SEED);
    }

    /// Draws flows one after the other.
    pub fn in_order(&mut self) {
        (self.random, self.next) = (None, 0);
    }

    /// The next frame and where it comes from.
    pub fn draw(&mut self) -> (Ingress, &[u8]) {
        let flow = self.choose();
        (self.ingress, &self.frames[flow * SMALL..][..SMALL])
    }

    /// The next batch of frames.
    pub fn batch(&mut self) -> impl Iterator<Item = &[u8]> {
        let flows: [usize; BATCH] = std::array::from_fn(|_| self.choose());
        let frames = &self.frames;
        flows.into_iter().map(move |flow| &frames[flow * SMALL..][..SMALL])
    }

    fn choose(&mut self) -> usize {
        let flows = self.flows();
        match &mut self.random {
            Some(state) => {
                *state ^= *state << 13;
                *state ^= *state >> 7;
                *state ^= *state << 17;
                ((u128::from(*state) * flows as u128) >> 64) as usize
            }
            None => {
                self.next = (self.next + 1) % flows;
                self.next
            }
        }
    }
}

const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// A port of a pod, as control makes it for one.
pub fn pod(slot: PortSlot, device: &Arc<MemDevice>) -> Port {
    let (mac, ip) = (pod_mac(slot), pod_ip(slot));
    Port {
        slot,
        generation: 1 + u64::from(slot.0),
        name: format!("pod{}", slot.0).into(),
        bridge: BRIDGE,
        role: Role::Pod,
        device: Device::Mem(Arc::clone(device)),
        mac,
        mtu: POD_MTU,
        tag: None,
        trunks: Vec::new(),
        guard: Some(Guard { mac, v4: vec![ip], v6: Vec::new() }),
        flood_pps: 0,
    }
}

fn pod_mac(slot: PortSlot) -> MacAddr {
    MACS.get(slot.index()).copied().unwrap_or_else(|| MacAddr::derived(&slot.0.to_be_bytes()))
}

fn pod_ip(slot: PortSlot) -> Ipv4Addr {
    let far = Ipv4Addr::from(Ipv4Addr::new(10, 244, 64, 0).to_bits() + u32::from(slot.0));
    IPS.get(slot.index()).copied().unwrap_or(far)
}

/// The bridge of a scene, its router knowing a route to each of so many [`nodes`] besides those that traffic needs.
pub fn bridge(more: u32) -> Bridge {
    let station = |slot: PortSlot| ((None, pod_mac(slot)), FdbTarget::Port(slot));
    let neighbour = |port: PortSlot| (IpAddr::V4(pod_ip(port)), Neighbour { port, mac: pod_mac(port) });
    let near = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 1, 0), 24));
    let any = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));
    let routes = [
        (near, NextHop::Local),
        (IpNet::V4(BEHIND_POD_B), NextHop::Gateway(IpAddr::V4(pod_ip(POD_B)))),
        (IpNet::V4(BEHIND_PEER), NextHop::Tunnel(PEER)),
        (any, NextHop::Unreachable),
    ];
    let router = Router {
        mac: ROUTER,
        gateways: vec![IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(10, 244, 1, 1), 24))],
        node: None,
        routes: Arc::new(Lpm::build(
            prefixes(more).zip((1..).map(|slot| NextHop::Tunnel(PeerSlot(slot)))).chain(routes),
        )),
        neighbours: Arc::new([POD_A, POD_B].map(neighbour).into_iter().collect()),
    };
    Bridge {
        slot: BRIDGE,
        generation: 1,
        name: "br0".into(),
        members: [POD_A, POD_B].into(),
        statics: Arc::new([POD_A, POD_B].map(station).into_iter().collect()),
        ageing_seconds: 300,
        fdb_max: 4096,
        router: Some(router),
    }
}

/// `count` prefixes of /24 as pod networks of nodes are, none of them a scene's own.
pub fn prefixes(count: u32) -> impl Iterator<Item = IpNet> {
    let first = Ipv4Addr::new(10, 0, 0, 0).to_bits();
    (0..count).map(move |i| IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::from(first + (i << 8)), 24)))
}

/// What was learned: so many stations behind the receiving pod.
fn learned(stations: u32) -> Shared {
    let shared = Shared::new(stations.max(65_536) as usize);
    let bounds = Bounds { ageing_seconds: 300, max: u32::MAX };
    for mac in (0..stations).map(|i| MacAddr::derived(&i.to_be_bytes())) {
        let station = Station { bridge: BRIDGE, vlan: None, mac };
        let known =
            shared.fdb.learn(station, FdbTarget::Port(POD_B), bounds, (NOW_NS / 1_000_000_000) as u32);
        assert!(known.is_some(), "there is room");
    }
    shared
}

/// Peers besides [`PEER`], as many nodes, none of them reachable.
pub fn nodes(count: u32) -> Tunnels {
    let first = Ipv4Addr::new(198, 18, 0, 0).to_bits();
    let node = |i| SocketAddr::from((Ipv4Addr::from(first + i), vxlan::PORT));
    let mut tunnels = Tunnels { peers: vec![None], ..Tunnels::default() };
    (1..=count).for_each(|i| add(&mut tunnels, PeerSlot(i as u16), node(i)));
    tunnels
}

fn tunnels(underlay: Underlay, remote: SocketAddr, more: u32) -> Tunnels {
    let mut tunnels = nodes(more);
    tunnels.underlays.push(Arc::new(underlay));
    add(&mut tunnels, PEER, remote);
    tunnels
}

fn add(tunnels: &mut Tunnels, slot: PeerSlot, remote: SocketAddr) {
    let vni = Vni::new(VNI).expect("in range");
    let peer = Peer {
        slot,
        generation: 1,
        remote,
        underlay: 0,
        vni,
        mtu: POD_MTU,
        mode: PeerMode::Routed { mac: PEER_VTEP, local_mac: VTEP, bridge: BRIDGE },
    };
    tunnels.peers.resize(tunnels.peers.len().max(slot.index() + 1), None);
    tunnels.peers[slot.index()] = Some(Arc::new(peer));
    tunnels.by_source.insert((0, remote.ip(), vni), slot);
    tunnels.sources.insert(remote.ip());
    tunnels.remotes.insert(SocketAddr::new(remote.ip(), VXLAN_PORT));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_forwards_every_frame() {
        for way in [Way::Switched, Way::Routed, Way::ToPeer, Way::FromPeer] {
            for speech in [Speech::Udp, Speech::Tcp] {
                let mut scene =
                    Scene::new(Setting { cache_entries: 1024, nodes: 100, stations: 100 }).unwrap();
                let mut traffic = Traffic::new(way, speech, 1000);
                scene.warm(&mut traffic);
                scene.load(&mut traffic);
                scene.process();
                scene.flush();
                let sent = match way {
                    Way::ToPeer => scene.counters.peer(PEER).tx_frames,
                    _ => scene.counters.port(POD_B).tx_frames,
                };
                assert_eq!(sent, (1000usize.div_ceil(BATCH) as u64 + 1) * BATCH as u64, "{way:?}");
                scene.check();
            }
        }
    }
}
