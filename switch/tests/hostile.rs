//! Whatever comes from a pod or from the wire, a worker goes on: mutated frames, vnet headers and VXLAN packets.
//!
//! A panic of a worker aborts the process, so it cannot hide.

mod common;

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use common::dice::Dice;
use common::*;
use weft_encap::{Gso, VnetHdr, vxlan};
use weft_switch::path::Dataplane;
use weft_switch::port::{Device, MemDevice, Underlay, UnderlayConfig};
use weft_switch::table::PortSlot;
use weft_sys::tun::Offloads;
use weft_sys::udp::{UdpOptions, UdpSocket};

impl Dice {
    /// Changes a few bytes, mostly among the headers, and sometimes the length.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..self.below(4) {
            let reach = if self.below(4) == 0 { bytes.len() } else { bytes.len().min(80) };
            if reach > 0 {
                let at = self.below(reach);
                bytes[at] = self.roll() as u8;
            }
        }
        if self.below(8) == 0 {
            let len = self.below(bytes.len() + 1);
            bytes.truncate(len);
        }
    }

    fn header(&mut self, honest: VnetHdr) -> VnetHdr {
        if self.below(3) == 0 {
            return honest;
        }
        let mut bytes = honest.bytes();
        for _ in 0..=self.below(3) {
            let at = self.below(bytes.len());
            bytes[at] = self.roll() as u8;
        }
        VnetHdr::read(&bytes)
    }
}

fn seeds() -> Vec<(VnetHdr, Vec<u8>)> {
    vec![
        (VnetHdr::NONE, udp(0, 1, (1, 2), &pattern(100))),
        (VnetHdr::NONE, tcp(0, 1, &pattern(100))),
        owing(udp(0, 1, (1, 2), &pattern(300)), Gso::None),
        owing(tcp(0, 1, &pattern(20_000)), Gso::Tcp { size: 1400 }),
        owing(udp(0, 1, (1, 2), &pattern(20_000)), Gso::Udp { size: 1000 }),
        // The same for the station behind the tunnel.
        owing(tcp(0, 7, &pattern(20_000)), Gso::Tcp { size: 1400 }),
        owing(udp(0, 7, (1, 2), &pattern(9_000)), Gso::Udp { size: 200 }),
        (VnetHdr::NONE, udp(0, 7, (1, 2), &pattern(64))),
    ]
}

/// A plane with two ports that take nothing but plain frames or everything, and a tunnel to station 7.
fn node(tag: u8, accepts: Offloads) -> (Dataplane, Arc<MemDevice>, Arc<MemDevice>) {
    let IpAddr::V4(v4) = loopback(tag, 1) else { unreachable!("loopback is IPv4") };
    let underlay =
        Underlay::open(UnderlayConfig { port: 14_791, v4: Some(v4), v6: None }).expect("a free port");
    let (plane, a, b) = (plane(), mem(accepts), mem(accepts));
    let mut net = Net::default();
    net.port(Device::Mem(a.clone()));
    net.port(Device::Mem(b.clone()));
    net.peer(Arc::new(underlay), SocketAddr::new(loopback(tag, 2), 14_791), 1450, &[mac(7)]);
    net.publish(&plane);
    (plane, a, b)
}

fn still_forwards(a: &MemDevice, b: &MemDevice) {
    until("an empty ring", || a.backlog() == 0);
    let frame = udp(0, 1, (4321, 1234), b"still here");
    assert!(a.inject(VnetHdr::NONE, &frame));
    until("the honest frame", || b.extract(|_, bytes| bytes == frame).unwrap_or(false));
}

#[test]
fn frames_and_vnet_headers_of_hostile_pods() {
    for (tag, accepts) in [(30, Offloads::all()), (31, Offloads::empty())] {
        let (plane, a, b) = node(tag, accepts);
        let (seeds, mut dice) = (seeds(), Dice(u64::from(tag)));
        for _ in 0..20_000 {
            let (header, frame) = &seeds[dice.below(seeds.len())];
            let mut frame = frame.clone();
            dice.mutate(&mut frame);
            let header = dice.header(*header);
            while !a.inject(header, &frame) {
                std::thread::yield_now();
            }
            while b.extract(|_, _| ()).is_some() {}
        }
        still_forwards(&a, &b);
        let counters = plane.port_counters(PortSlot(0));
        assert_eq!(counters.rx_frames, 20_001);
        assert!(counters.drops.sum() > 1000, "{:?}", counters.drops);
    }
}

#[test]
fn vxlan_packets_of_hostile_peers() {
    let (plane, a, b) = node(32, Offloads::all());
    let options = UdpOptions { gro: false, buffer: 1 << 20, zero_checksum6: false };
    let peer = UdpSocket::bind(SocketAddr::new(loopback(32, 2), 0), &options).unwrap();
    let to = SocketAddr::new(loopback(32, 1), 14_791);
    let mut dice = Dice(99);
    let inner = [
        udp(7, 0, (1, 2), &pattern(100)),
        tcp(7, 0, &pattern(1400)),
        owing(tcp(7, 1, &pattern(40_000)), Gso::Tcp { size: 1 }).1,
        owing(udp(7, 1, (5, 6), &pattern(9_000)), Gso::Udp { size: 1 }).1,
    ];
    for round in 0..10_000 {
        let mut packet = vxlan::header(vni()).to_vec();
        packet.extend_from_slice(&inner[dice.below(inner.len())]);
        if round % 3 == 0 {
            // A run of packets, each of the length of the first.
            let more = packet.clone();
            (0..dice.below(6)).for_each(|_| packet.extend_from_slice(&more));
            packet.truncate(60_000);
        }
        dice.mutate(&mut packet);
        let segment = (dice.below(2) == 0).then(|| dice.below(1500) as u16 + 600);
        let ecn = dice.below(4) as u8;
        // Some of these the kernel refuses.
        let _ = peer.send(to, &[IoSlice::new(&packet)], segment, ecn);
        for device in [&a, &b] {
            while device.extract(|_, _| ()).is_some() {}
        }
    }
    still_forwards(&a, &b);
    assert!(plane.tunnel_drops().sum() > 100, "{:?}", plane.tunnel_drops());
}
