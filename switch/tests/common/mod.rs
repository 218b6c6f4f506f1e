//! What the tests of the data plane share: small networks, frames, waiting.
#![allow(dead_code, unreachable_pub)] // every test file uses another part

pub mod dice;
pub mod pod;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use etherparse::PacketBuilder;
use weft_encap::{Gso, Headers, MacAddr, VnetHdr, Vni, checksum, parse};
use weft_switch::path::{Dataplane, DataplaneConfig, Total};
use weft_switch::port::{Device, MemDevice, Underlay};
use weft_switch::table::{
    Bridge, BridgeSlot, Bridges, FdbTarget, Peer, PeerMode, PeerSlot, Port, PortSlot, Ports, Role, Snapshot,
    Tunnels,
};
use weft_sys::tun::Offloads;

/// The MAC of the station behind port or peer number `n`.
pub fn mac(n: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, n])
}

/// One bridge, its ports, and peers that stretch it.
#[derive(Default)]
pub struct Net {
    ports: Vec<Option<Arc<Port>>>,
    underlays: Vec<Arc<Underlay>>,
    peers: Vec<Arc<Peer>>,
    stations: Vec<(MacAddr, FdbTarget)>,
    epoch: u64,
}

impl Net {
    /// Adds a port with the station `mac(slot)` behind it.
    pub fn port(&mut self, device: Device) -> PortSlot {
        self.port_with_mac(device, mac(self.ports.len() as u8))
    }

    /// Adds a port with a station behind it.
    pub fn port_with_mac(&mut self, device: Device, mac: MacAddr) -> PortSlot {
        let slot = PortSlot(self.ports.len() as u16);
        self.stations.push((mac, FdbTarget::Port(slot)));
        self.add(slot, device, mac, Role::Pod);
        slot
    }

    /// Takes a port away; its slot stays empty.
    pub fn remove(&mut self, slot: PortSlot) {
        self.ports[slot.index()] = None;
    }

    /// Adds an underlay and a peer on it, with `stations` behind the peer.
    pub fn peer(
        &mut self,
        underlay: Arc<Underlay>,
        remote: SocketAddr,
        mtu: u32,
        stations: &[MacAddr],
    ) -> PeerSlot {
        let (slot, port) = (PeerSlot(self.peers.len() as u16), PortSlot(self.ports.len() as u16));
        self.underlays.push(underlay);
        self.peers.push(Arc::new(Peer {
            slot,
            generation: 1000 + u64::from(slot.0),
            remote,
            underlay: self.underlays.len() - 1,
            vni: vni(),
            mtu,
            mode: PeerMode::Segment { port },
        }));
        self.stations.extend(stations.iter().map(|mac| (*mac, FdbTarget::Peer(port, slot))));
        self.add(port, Device::Segment(Arc::new(vec![slot])), MacAddr::ZERO, Role::Segment);
        slot
    }

    /// Puts an underlay without peers before the others, whose numbers grow by one.
    pub fn add_underlay_before(&mut self, underlay: Arc<Underlay>) {
        self.underlays.insert(0, underlay);
        self.peers.iter_mut().for_each(|peer| Arc::make_mut(peer).underlay += 1);
    }

    /// Takes that underlay away again.
    pub fn remove_underlay_before(&mut self) {
        self.underlays.remove(0);
        self.peers.iter_mut().for_each(|peer| Arc::make_mut(peer).underlay -= 1);
    }

    fn add(&mut self, slot: PortSlot, device: Device, mac: MacAddr, role: Role) {
        self.ports.push(Some(Arc::new(Port {
            slot,
            generation: 1 + u64::from(slot.0),
            name: format!("p{}", slot.0).into(),
            bridge: BridgeSlot(0),
            role,
            device,
            mac,
            mtu: 65_521,
            tag: None,
            trunks: Vec::new(),
            guard: None,
            flood_pps: 0,
        })));
    }

    /// The next snapshot.
    pub fn snapshot(&mut self) -> Arc<Snapshot> {
        self.epoch += 1;
        let bridge = Bridge {
            slot: BridgeSlot(0),
            generation: 1_000_000 + self.epoch,
            name: "br0".into(),
            members: self.ports.iter().flatten().map(|port| port.slot).collect(),
            statics: Arc::new(self.stations.iter().map(|(mac, target)| ((None, *mac), *target)).collect()),
            ageing_seconds: 300,
            fdb_max: 1024,
            router: None,
        };
        let by_source =
            self.peers.iter().map(|peer| ((peer.underlay, peer.remote.ip(), peer.vni), peer.slot));
        Arc::new(Snapshot {
            epoch: self.epoch,
            ports: Arc::new(Ports { slots: self.ports.clone() }),
            bridges: Arc::new(Bridges { slots: vec![Some(Arc::new(bridge))] }),
            tunnels: Arc::new(Tunnels {
                underlays: self.underlays.clone(),
                by_source: by_source.collect(),
                sources: self.peers.iter().map(|peer| peer.remote.ip()).collect(),
                remotes: self.peers.iter().map(|peer| peer.remote).collect(),
                peers: self.peers.iter().cloned().map(Some).collect(),
                uplink: None,
            }),
        })
    }

    /// Publishes the next snapshot and waits for it.
    pub fn publish(&mut self, plane: &Dataplane) {
        let snapshot = self.snapshot();
        plane.publish(snapshot);
        assert!(plane.wait(self.epoch, Duration::from_secs(5)), "not acknowledged");
    }
}

/// The VNI of all tunnels here.
pub fn vni() -> Vni {
    Vni::new(42).expect("in range")
}

/// A data plane with small tables.
pub fn plane() -> Dataplane {
    let config = DataplaneConfig { spin_us: 0, cache_entries: 1024, stations: 1024, ..Default::default() };
    Dataplane::start(&config).expect("a thread")
}

/// An in-process port that takes `accepts`.
pub fn mem(accepts: Offloads) -> Arc<MemDevice> {
    Arc::new(MemDevice::new(128, accepts).expect("a descriptor"))
}

/// A UDP datagram from station `from` to station `to`, checksum complete.
pub fn udp(from: u8, to: u8, ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(mac(from).0, mac(to).0)
        .ipv4([10, 0, 0, from], [10, 0, 0, to], 64)
        .udp(ports.0, ports.1);
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, payload).expect("fits");
    frame
}

/// A TCP segment or superframe of `payload`, checksum complete.
pub fn tcp(from: u8, to: u8, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(mac(from).0, mac(to).0)
        .ipv4([10, 0, 0, from], [10, 0, 0, to], 64)
        .tcp(40_000, 5201, 1_000_000, 65_000)
        .ack(77);
    let mut frame = Vec::with_capacity(builder.size(payload.len()));
    builder.write(&mut frame, payload).expect("fits");
    frame
}

/// Makes the checksum owed and describes the frame to be cut to `gso`.
pub fn owing(mut frame: Vec<u8>, gso: Gso) -> (VnetHdr, Vec<u8>) {
    let headers = headers(&frame);
    checksum::owe(&mut frame, &headers);
    (VnetHdr::describe(&headers, gso, true), frame)
}

/// The headers of a good frame.
pub fn headers(frame: &[u8]) -> Headers {
    parse(frame).expect("a good frame")
}

/// A payload in which no two places look alike for long.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7 + n / 251) as u8).collect()
}

/// Waits until `done`, or panics.
pub fn until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !done() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// The next frame that the switch sent to `device`.
pub fn next(device: &MemDevice) -> (VnetHdr, Vec<u8>) {
    let mut frame = None;
    until("a frame", || {
        frame = device.extract(|header, bytes| (header, bytes.to_vec()));
        frame.is_some()
    });
    frame.expect("waited for it")
}

/// One of the node's totals.
pub fn total(plane: &Dataplane, total: Total) -> u64 {
    plane.totals().get(total)
}

/// Asserts that a total reaches `value`: a worker counts after it has sent, so whoever has received may look too early.
pub fn settled(plane: &Dataplane, which: Total, value: u64) {
    let end = Instant::now() + Duration::from_secs(2);
    while total(plane, which) != value && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(total(plane, which), value, "{}", which.name());
}

/// True when the test may go on; else it has said why not.
pub fn root() -> bool {
    let root = weft_sys::netns::Netns::create().is_ok();
    if !root {
        println!("skipped: needs CAP_NET_ADMIN");
    }
    root
}

/// A loopback address of this test's own: `tag` keeps tests apart that run at once.
pub fn loopback(tag: u8, node: u8) -> IpAddr {
    IpAddr::from([127, 77, tag, node])
}
