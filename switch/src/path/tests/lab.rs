//! A snapshot built piece by piece, and a rig that sends frames through a forwarder and shows what comes out.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use ipnet::IpNet;
use weft_encap::{Headers, MacAddr, Reason, VlanId, VnetHdr, Vni, parse};
use weft_sys::tun::Offloads;

use crate::mem::{Batch, Frame, Ingress, Pool};
use crate::path::{Counters, Forwarder, Settings, Shared, Sink, Total};
use crate::port::{Device, MemDevice};
use crate::table::lpm::Lpm;
use crate::table::{
    Bridge, BridgeSlot, Bridges, FdbTarget, Guard, Neighbour, NextHop, Peer, PeerMode, PeerSlot, Port,
    PortSlot, Ports, Role, Router, Snapshot, Tunnels,
};

pub(super) const ROUTER: MacAddr = MacAddr([2, 0xff, 0, 0, 0, 1]);
pub(super) const VTEP: MacAddr = MacAddr([2, 0xee, 0, 0, 0, 1]);
pub(super) const BRIDGE: BridgeSlot = BridgeSlot(0);

/// The MAC of the station numbered `n`.
pub(super) fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

/// The address of the station numbered `n`.
pub(super) fn v4(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 1, n)
}

pub(super) fn v6(n: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, n.into())
}

/// An address behind peer `peer`.
pub(super) fn remote_v4(peer: u16, n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 100 + peer as u8, n)
}

pub(super) fn remote_v6(peer: u16, n: u8) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 100 + peer, 0, 0, 0, 0, 0, n.into())
}

pub(super) fn vtep(peer: u16) -> MacAddr {
    MacAddr([2, 0xee, 0, 0, 1, peer as u8])
}

pub(super) fn port(n: u16) -> Ingress {
    Ingress::Port(PortSlot(n))
}

pub(super) fn peer(n: u16) -> Ingress {
    Ingress::Peer(PeerSlot(n))
}

pub(super) fn vlan(n: u16) -> Option<VlanId> {
    Some(VlanId::new(n).unwrap())
}

/// What a snapshot is made of.
pub(super) struct Lab {
    epoch: u64,
    generation: u64,
    device: Arc<MemDevice>,
    pub(super) bridge_generation: u64,
    pub(super) ports: Vec<Option<Port>>,
    pub(super) peers: Vec<Option<Peer>>,
    pub(super) statics: HashMap<(Option<VlanId>, MacAddr), FdbTarget, foldhash::fast::RandomState>,
    pub(super) neighbours: HashMap<IpAddr, Neighbour, foldhash::fast::RandomState>,
    pub(super) gateways: Vec<IpNet>,
    pub(super) routes: Vec<(IpNet, NextHop)>,
    pub(super) node: Option<PortSlot>,
    pub(super) has_router: bool,
    pub(super) fdb_max: u32,
}

impl Lab {
    /// A bridge with a router for 10.244.1.0/24 and fd00:1::/64, its gateway the first address of each.
    pub(super) fn new() -> Self {
        Lab {
            epoch: 0,
            generation: 1,
            device: Arc::new(MemDevice::new(1, Offloads::empty()).unwrap()),
            bridge_generation: 1,
            ports: Vec::new(),
            peers: Vec::new(),
            statics: HashMap::default(),
            neighbours: HashMap::default(),
            gateways: vec!["10.244.1.1/24".parse().unwrap(), "fd00:1::1/64".parse().unwrap()],
            routes: vec![
                ("10.244.1.0/24".parse().unwrap(), NextHop::Local),
                ("fd00:1::/64".parse().unwrap(), NextHop::Local),
            ],
            node: None,
            has_router: true,
            fdb_max: 100,
        }
    }

    /// Pods on ports 2 and 3, an unguarded port 4, routed peers 0 and 1.
    pub(super) fn small() -> Self {
        let mut lab = Lab::new();
        lab.pod(2);
        lab.pod(3);
        lab.open(4);
        lab.routed(0);
        lab.routed(1);
        lab
    }

    pub(super) fn next_generation(&mut self) -> u64 {
        self.generation += 1;
        self.generation
    }

    pub(super) fn add(&mut self, n: u16, role: Role, guard: Option<Guard>) -> &mut Port {
        let index = usize::from(n);
        if self.ports.len() <= index {
            self.ports.resize_with(index + 1, || None);
        }
        let generation = self.next_generation();
        self.ports[index].insert(Port {
            slot: PortSlot(n),
            generation,
            name: format!("p{n}").into(),
            bridge: BRIDGE,
            role,
            device: Device::Mem(self.device.clone()),
            mac: mac(n as u8),
            mtu: 1500,
            tag: None,
            trunks: Vec::new(),
            guard,
            flood_pps: 0,
        })
    }

    /// A guarded pod on port `n`, with the station number `n`.
    pub(super) fn pod(&mut self, n: u16) -> &mut Port {
        let k = n as u8;
        let at = Neighbour { port: PortSlot(n), mac: mac(k) };
        self.statics.insert((None, mac(k)), FdbTarget::Port(PortSlot(n)));
        self.neighbours.insert(v4(k).into(), at);
        self.neighbours.insert(v6(k).into(), at);
        self.add(n, Role::Pod, Some(Guard { mac: mac(k), v4: vec![v4(k)], v6: vec![v6(k)] }))
    }

    /// An unguarded port.
    pub(super) fn open(&mut self, n: u16) -> &mut Port {
        self.add(n, Role::Pod, None)
    }

    /// The node's own port, which owns the gateway addresses.
    pub(super) fn host(&mut self, n: u16) -> &mut Port {
        self.node = Some(PortSlot(n));
        let at = Neighbour { port: PortSlot(n), mac: mac(n as u8) };
        self.statics.insert((None, mac(n as u8)), FdbTarget::Port(PortSlot(n)));
        for net in &self.gateways {
            self.neighbours.insert(net.addr(), at);
        }
        self.routes.push(("0.0.0.0/0".parse().unwrap(), NextHop::Node));
        self.routes.push(("::/0".parse().unwrap(), NextHop::Node));
        self.add(n, Role::Node, None)
    }

    fn add_peer(&mut self, n: u16, mode: PeerMode) {
        let index = usize::from(n);
        if self.peers.len() <= index {
            self.peers.resize_with(index + 1, || None);
        }
        let generation = self.next_generation();
        self.peers[index] = Some(Peer {
            slot: PeerSlot(n),
            generation,
            remote: format!("192.0.2.{n}:4789").parse().unwrap(),
            underlay: 0,
            vni: Vni::new(1).unwrap(),
            mtu: 1450,
            mode,
        });
    }

    /// A routed peer with a prefix of each family.
    pub(super) fn routed(&mut self, n: u16) {
        self.add_peer(n, PeerMode::Routed { mac: vtep(n), local_mac: VTEP, bridge: BRIDGE });
        let slot = NextHop::Tunnel(PeerSlot(n));
        self.routes.push((IpNet::new(remote_v4(n, 0).into(), 24).unwrap(), slot));
        self.routes.push((IpNet::new(remote_v6(n, 0).into(), 64).unwrap(), slot));
    }

    /// A stretched segment on port `n` with these peers.
    pub(super) fn segment(&mut self, n: u16, peers: &[u16]) {
        for peer in peers {
            self.add_peer(*peer, PeerMode::Segment { port: PortSlot(n) });
        }
        let peers = peers.iter().map(|peer| PeerSlot(*peer)).collect();
        self.add(n, Role::Segment, None).device = Device::Segment(Arc::new(peers));
    }

    /// Publishes: the next epoch.
    pub(super) fn snapshot(&mut self) -> Snapshot {
        self.epoch += 1;
        let members = self.ports.iter().flatten().map(|port| port.slot).collect();
        let router = self.has_router.then(|| Router {
            mac: ROUTER,
            gateways: self.gateways.clone(),
            node: self.node,
            routes: Arc::new(Lpm::build(self.routes.iter().copied())),
            neighbours: Arc::new(self.neighbours.clone()),
        });
        let bridge = Bridge {
            slot: BRIDGE,
            generation: self.bridge_generation,
            name: "br0".into(),
            members,
            statics: Arc::new(self.statics.clone()),
            ageing_seconds: 300,
            fdb_max: self.fdb_max,
            router,
        };
        let tunnels = Tunnels {
            peers: self.peers.iter().map(|peer| peer.clone().map(Arc::new)).collect(),
            remotes: self.peers.iter().flatten().map(|peer| peer.remote).collect(),
            ..Tunnels::default()
        };
        Snapshot {
            epoch: self.epoch,
            ports: Arc::new(Ports {
                slots: self.ports.iter().map(|port| port.clone().map(Arc::new)).collect(),
            }),
            bridges: Arc::new(Bridges { slots: vec![Some(Arc::new(bridge))] }),
            tunnels: Arc::new(tunnels),
        }
    }
}

/// A frame that came out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Sent {
    pub(super) to: Ingress,
    pub(super) bytes: Vec<u8>,
    pub(super) vnet: VnetHdr,
}

impl Sent {
    pub(super) fn headers(&self) -> Headers {
        parse(&self.bytes).expect("what the switch sends parses")
    }

    pub(super) fn ip(&self) -> (IpAddr, IpAddr) {
        self.headers().ip(&self.bytes).unwrap()
    }
}

#[derive(Default)]
struct Collector(Vec<(Ingress, Frame)>);

impl Sink for Collector {
    fn to_port(&mut self, slot: PortSlot, frame: Frame, headers: Option<Headers>) {
        assert_eq!(headers, parse(frame.bytes()).ok(), "headers are current");
        self.0.push((Ingress::Port(slot), frame));
    }

    fn to_peer(&mut self, slot: PeerSlot, frame: Frame, headers: Headers, flow_hash: u32) {
        assert_eq!(Some(headers), parse(frame.bytes()).ok(), "headers are current");
        assert_eq!(flow_hash, weft_encap::flow::flow_hash(&headers, frame.bytes()));
        self.0.push((Ingress::Peer(slot), frame));
    }
}

const POOL: usize = 160;

/// A forwarder on a snapshot.
pub(super) struct Rig {
    pub(super) forwarder: Forwarder,
    pub(super) shared: Arc<Shared>,
    pub(super) snapshot: Snapshot,
    pub(super) counters: Counters,
    pub(super) pool: Pool,
    pub(super) now_ns: u64,
}

impl Rig {
    pub(super) fn new(lab: &mut Lab) -> Self {
        Rig::with_cache(lab, 1024)
    }

    pub(super) fn with_cache(lab: &mut Lab, cache_entries: usize) -> Self {
        let shared = Arc::new(Shared::new(1000));
        Rig {
            forwarder: Forwarder::new(0, &Settings { cache_entries }, shared.clone()),
            shared,
            snapshot: lab.snapshot(),
            counters: Counters::new(),
            pool: Pool::new(POOL),
            now_ns: 1_000_000_000_000,
        }
    }

    pub(super) fn advance(&mut self, seconds: u64) {
        self.now_ns += seconds * 1_000_000_000;
    }

    /// Sends one plain frame through.
    pub(super) fn send(&mut self, from: Ingress, bytes: &[u8]) -> Vec<Sent> {
        self.send_with(from, bytes, VnetHdr::NONE)
    }

    /// Sends one frame through; every buffer must be accounted for afterwards.
    pub(super) fn send_with(&mut self, from: Ingress, bytes: &[u8], vnet: VnetHdr) -> Vec<Sent> {
        let mut frame = self.pool.take().unwrap();
        frame.fill(bytes);
        frame.vnet = vnet;
        frame.ingress = from;
        let mut batch = Batch::default();
        batch.add(frame);
        let mut out = Collector::default();
        let (snapshot, counters) = (&self.snapshot, &self.counters);
        self.forwarder.process(snapshot, self.now_ns, &mut batch, &mut self.pool, &mut out, counters);
        let sent = out.0.into_iter().map(|(to, frame)| {
            let sent = Sent { to, bytes: frame.bytes().to_vec(), vnet: frame.vnet };
            self.pool.give(frame);
            sent
        });
        let sent = sent.collect();
        assert_eq!(self.pool.available(), POOL, "a buffer leaked");
        sent
    }

    /// Sends a frame that must go to exactly one place.
    pub(super) fn one(&mut self, from: Ingress, bytes: &[u8]) -> Sent {
        let drops = self.dropped();
        let mut sent = self.send(from, bytes);
        assert_eq!(sent.len(), 1, "one frame out; dropped {:?}", self.reasons());
        assert_eq!(self.dropped(), drops);
        sent.remove(0)
    }

    /// Sends a frame that must die, for `reason` alone; gives what was sent instead.
    pub(super) fn dies(&mut self, from: Ingress, bytes: &[u8], reason: Reason) -> Vec<Sent> {
        let (all, this) = (self.dropped(), self.count(reason));
        let sent = self.send(from, bytes);
        assert_eq!(self.count(reason), this + 1, "dropped as {reason}; got {:?}", self.reasons());
        assert_eq!(self.dropped(), all + 1, "one reason only");
        sent
    }

    /// Sends a frame that the switch swallows without a drop and without an answer.
    pub(super) fn silent(&mut self, from: Ingress, bytes: &[u8]) {
        let drops = self.dropped();
        assert_eq!(self.send(from, bytes), []);
        assert_eq!(self.dropped(), drops);
    }

    /// Where a frame goes, in the order of slots.
    pub(super) fn places(&mut self, from: Ingress, bytes: &[u8]) -> Vec<Ingress> {
        self.send(from, bytes).into_iter().map(|sent| sent.to).collect()
    }

    pub(super) fn dropped(&self) -> u64 {
        self.reasons().iter().map(|(_, count)| count).sum()
    }

    pub(super) fn reasons(&self) -> Vec<(Reason, u64)> {
        let mut sum = self.counters.tunnel_drops();
        for slot in 0..64 {
            sum.merge(&self.counters.port(PortSlot(slot)).drops);
        }
        sum.iter().collect()
    }

    pub(super) fn hits(&self) -> u64 {
        self.counters.total(Total::CacheHits)
    }

    fn count(&self, reason: Reason) -> u64 {
        self.reasons().iter().find(|(other, _)| *other == reason).map_or(0, |(_, count)| *count)
    }
}
