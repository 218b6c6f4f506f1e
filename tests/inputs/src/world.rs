//! A small network to be attacked: two guarded pods, an unguarded port with a trunk, the node's own port, a stretched
//! segment, routed peers of both families.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use weft_encap::gso::Plan;
use weft_encap::{Gso, Headers, L3, L4, MacAddr, VlanId, VnetHdr, Vni, parse};
use weft_switch::mem::{Batch, Frame, Ingress, Pool};
use weft_switch::path::{Counters, Forwarder, Settings, Shared, Sink, accelerate};
use weft_switch::port::{Device, MemDevice};
use weft_switch::table::lpm::Lpm;
use weft_switch::table::{
    Bridge, BridgeSlot, Bridges, FdbTarget, Guard, Neighbour, NextHop, Peer, PeerMode, PeerSlot, Port,
    PortSlot, Ports, Role, Router, Snapshot, Tunnels,
};
use weft_sys::tun::Offloads;

const ROUTER: MacAddr = MacAddr([2, 0xff, 0, 0, 0, 1]);
const VTEP: MacAddr = MacAddr([2, 0xee, 0, 0, 0, 1]);
const BRIDGE: BridgeSlot = BridgeSlot(0);
/// Ports: 1 is the node's, 2 and 3 are pods', 4 is unguarded, 5 is the segment.
const PORTS: u16 = 6;
/// Peers: 0 and 1 are routed, 2 is behind the segment.
const PEERS: u16 = 3;
/// The peers' overlay MTU, bytes.
const OVERLAY_MTU: u32 = 1450;
const POOL: usize = 160;

/// The MAC of the station on port `n`.
const fn mac(n: u16) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n as u8])
}

const fn v4(n: u16) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 1, n as u8)
}

const fn v6(n: u16) -> Ipv6Addr {
    Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, n)
}

/// A forwarder and what it forwards by.
pub(crate) struct World {
    forwarder: Forwarder,
    pub(crate) snapshot: Snapshot,
    counters: Counters,
    pub(crate) pool: Pool,
    pub(crate) batch: Batch,
    now_ns: u64,
}

impl World {
    /// A network in which nothing has happened yet. `remote`: where the peers are.
    pub(crate) fn new(remote: IpAddr) -> Self {
        accelerate();
        World {
            forwarder: Forwarder::new(0, &Settings { cache_entries: 64 }, Arc::new(Shared::new(1000))),
            snapshot: snapshot(remote),
            counters: Counters::new(),
            pool: Pool::new(POOL),
            batch: Batch::default(),
            now_ns: 1_000_000_000_000,
        }
    }

    /// Where a number chosen by the input points.
    pub(crate) fn ingress(number: u8) -> Ingress {
        match u16::from(number) % (PORTS + PEERS + 1) {
            n if n <= PORTS => Ingress::Port(PortSlot(n)),
            n => Ingress::Peer(PeerSlot(n - PORTS - 1)),
        }
    }

    /// Puts a frame into the batch. From a peer it comes as the underlay hands it on: with a header that is valid.
    pub(crate) fn put(&mut self, from: Ingress, header: VnetHdr, bytes: &[u8]) {
        if matches!(from, Ingress::Peer(_)) && !parse(bytes).is_ok_and(|h| header.validate(&h).is_ok()) {
            return;
        }
        let Some(mut frame) = self.pool.take() else { return };
        frame.fill(bytes);
        frame.vnet = header;
        frame.ingress = from;
        self.batch.add(frame);
    }

    /// Forwards the batch and looks at all that comes out. Every buffer must come back.
    pub(crate) fn forward(&mut self) {
        let came = self.batch.len() as u64;
        let before = self.dropped();
        let mut out = Collector::default();
        let (snapshot, counters) = (&self.snapshot, &self.counters);
        self.forwarder.process(snapshot, self.now_ns, &mut self.batch, &mut self.pool, &mut out, counters);
        // A flood that finds no buffer is one drop a copy.
        assert!(
            self.dropped() - before <= came * u64::from(PORTS + PEERS),
            "a reason for each frame at most"
        );
        for (to, frame) in out.0 {
            check(&self.snapshot, to, &frame);
            self.pool.give(frame);
        }
        assert_eq!(self.pool.available(), POOL, "a buffer leaked");
    }

    /// Time passes.
    pub(crate) fn advance(&mut self, seconds: u8) {
        self.now_ns += u64::from(seconds) * 1_000_000_000;
        self.forwarder.tick(&self.snapshot, self.now_ns);
    }

    fn dropped(&self) -> u64 {
        let of_ports = (0..=PORTS).map(|n| self.counters.port(PortSlot(n)).drops.sum());
        self.counters.tunnel_drops().sum() + of_ports.sum::<u64>()
    }
}

/// What is sent parses, is described truly, stays within the MTU, and names no station that is not its sender.
fn check(snapshot: &Snapshot, to: Ingress, frame: &Frame) {
    let headers = parse(frame.bytes()).expect("what the switch sends parses");
    let gso = frame.vnet.validate(&headers).expect("what the switch sends is described truly");
    let says_something = headers.l3 == L3::Arp || matches!(headers.l4, L4::Icmp | L4::Icmpv6);
    let goes_back = to == frame.ingress;
    assert!(!goes_back || headers.src == ROUTER || says_something, "switched back to where it came from");
    let mtu = match to {
        Ingress::Port(slot) => snapshot.ports.get(slot).expect("a port that is there").mtu,
        Ingress::Peer(slot) => snapshot.tunnels.get(slot).expect("a peer that is there").mtu,
    } as usize;
    assert!(gso.l3_len(&headers) <= mtu, "{headers:?} {gso:?} does not fit {to:?}");
    if gso != Gso::None {
        Plan::new(&headers, gso).expect("what is to be cut can be cut");
    }
    if let Ingress::Port(PortSlot(n @ (2 | 3))) = frame.ingress
        && !goes_back
    {
        let own = [mac(n), ROUTER, VTEP].contains(&headers.src);
        assert!(own || headers.l3 == L3::Arp, "a guarded pod speaks as {}", headers.src);
    }
}

type Out = (Ingress, Frame);

#[derive(Default)]
struct Collector(Vec<Out>);

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

fn snapshot(remote: IpAddr) -> Snapshot {
    let device = Arc::new(MemDevice::new(1, Offloads::empty()).expect("memory"));
    let port = |n: u16| {
        let pod = n == 2 || n == 3;
        let mut port = Port {
            slot: PortSlot(n),
            generation: 1 + u64::from(n),
            name: format!("p{n}").into(),
            bridge: BRIDGE,
            role: Role::Pod,
            device: Device::Mem(Arc::clone(&device)),
            mac: mac(n),
            mtu: 1500,
            tag: None,
            trunks: Vec::new(),
            guard: pod.then(|| Guard { mac: mac(n), v4: vec![v4(n)], v6: vec![v6(n)] }),
            flood_pps: 0,
        };
        match n {
            1 => port.role = Role::Node,
            4 => port.trunks = VlanId::new(10).into_iter().collect(),
            5 => {
                port.role = Role::Segment;
                port.device = Device::Segment(Arc::new(vec![PeerSlot(2)]));
            }
            _ => {}
        }
        Some(Arc::new(port))
    };
    let vni = Vni::new(1).expect("in range");
    let peer = |n: u16| Peer {
        slot: PeerSlot(n),
        generation: 100 + u64::from(n),
        remote: (remote, 4789).into(),
        underlay: 0,
        vni: Vni::new(u32::from(n) + 1).unwrap_or(vni),
        mtu: OVERLAY_MTU,
        mode: match n {
            2 => PeerMode::Segment { port: PortSlot(5) },
            _ => PeerMode::Routed {
                mac: MacAddr([2, 0xee, 0, 0, 1, n as u8]),
                local_mac: VTEP,
                bridge: BRIDGE,
            },
        },
    };
    let peers: Vec<Arc<Peer>> = (0..PEERS).map(|n| Arc::new(peer(n))).collect();
    let tunnels = Tunnels {
        by_source: peers.iter().map(|peer| ((0, remote, peer.vni), peer.slot)).collect(),
        sources: [remote].into_iter().collect(),
        remotes: [(remote, 4789).into()].into_iter().collect(),
        peers: peers.into_iter().map(Some).collect(),
        ..Tunnels::default()
    };
    Snapshot {
        epoch: 1,
        ports: Arc::new(Ports { slots: std::iter::once(None).chain((1..PORTS).map(port)).collect() }),
        bridges: Arc::new(Bridges { slots: vec![Some(Arc::new(bridge()))] }),
        tunnels: Arc::new(tunnels),
    }
}

fn bridge() -> Bridge {
    let net = |text: &str| text.parse().expect("a prefix");
    let stations = [1, 2, 3].map(|n| ((None, mac(n)), FdbTarget::Port(PortSlot(n))));
    let at = |n: u16| Neighbour { port: PortSlot(n), mac: mac(n) };
    let neighbours = [1, 2, 3].into_iter().flat_map(|n| [(v4(n).into(), at(n)), (v6(n).into(), at(n))]);
    let routes = [
        (net("10.244.1.0/24"), NextHop::Local),
        (net("fd00:1::/64"), NextHop::Local),
        (net("10.244.100.0/24"), NextHop::Tunnel(PeerSlot(0))),
        (net("fd00:64::/64"), NextHop::Tunnel(PeerSlot(0))),
        (net("10.244.101.0/24"), NextHop::Tunnel(PeerSlot(1))),
        (net("10.9.0.0/16"), NextHop::Unreachable),
        (net("0.0.0.0/0"), NextHop::Node),
        (net("::/0"), NextHop::Node),
    ];
    Bridge {
        slot: BRIDGE,
        generation: 1,
        name: "br0".into(),
        members: (1..PORTS).map(PortSlot).collect(),
        statics: Arc::new(stations.into_iter().collect()),
        ageing_seconds: 300,
        fdb_max: 16,
        router: Some(Router {
            mac: ROUTER,
            gateways: vec![net("10.244.1.1/24"), net("fd00:1::1/64")],
            node: Some(PortSlot(1)),
            routes: Arc::new(Lpm::build(routes)),
            neighbours: Arc::new(neighbours.collect()),
        }),
    }
}
