//! VXLAN packets as they come from the wire, through real sockets: outer checks, gluing, and forwarding behind it.

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use weft_encap::checksum::{self, State};
use weft_encap::outer::Outer;
use weft_encap::outer::wire::{Hop, arrival};
use weft_encap::{MacAddr, Reason, Vni, parse, vxlan};
use weft_switch::mem::Ingress;
use weft_switch::port::Rx;
use weft_switch::port::underlay::{Receiver, Tally};
use weft_switch::table::PeerSlot;
use weft_sys::udp::{UdpOptions, UdpSocket};

use crate::world::World;
use crate::{record, take};

/// Records of: outer TOS byte, length of the datagrams that the rest is cut into (0: one), bytes.
pub fn tunnel(mut data: &[u8]) {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let bind =
        || UdpSocket::bind(SocketAddr::new(loopback, 0), &UdpOptions::default()).expect("loopback is up");
    let (wire, socket) = (bind(), bind());
    let here = socket.local_addr().expect("it is bound");
    let mut world = World::new(loopback);
    let mut receiver = Receiver::default();
    while let Some(mut packet) = record(&mut data) {
        let [tos, high, low] = take(&mut packet);
        popped(packet);
        arrived(packet);
        let segment = Some(u16::from_be_bytes([high, low])).filter(|size| *size > 0);
        // More pieces than one send may have: not sent.
        let _ = wire.send(here, &[IoSlice::new(packet)], segment, tos);
    }
    loop {
        let mut seen = Seen::default();
        let tunnels = std::sync::Arc::clone(&world.snapshot.tunnels);
        let rx = receiver.receive(&socket, 0, &tunnels, &mut world.pool, &mut world.batch, &mut seen);
        for frame in world.batch.frames() {
            let headers = parse(frame.bytes()).expect("what is handed on parses");
            frame.vnet.validate(&headers).expect("it is described truly");
            assert!(matches!(frame.ingress, Ingress::Peer(_)));
            let state = checksum::state(frame.bytes(), &headers);
            let owed = frame.vnet.needs_csum();
            assert!(state != State::Wrong, "a wrong checksum is not handed on");
            assert!(state != State::Owed || owed, "{headers:?}");
        }
        assert!(world.batch.len() <= seen.heard, "a frame was heard");
        world.forward();
        if matches!(rx, Rx::Drained) {
            break;
        }
    }
    receiver.close(&mut world.pool);
}

/// What has a clean header comes back with the same header.
fn popped(packet: &[u8]) {
    let Ok((vni, inner)) = vxlan::pop(packet) else { return };
    let mut again = packet.to_vec();
    again[..vxlan::LEN].fill(0);
    vxlan::push(&mut again, vni);
    assert_eq!(again, packet);
    assert_eq!(inner, &packet[vxlan::LEN..]);
}

/// As a frame of an uplink: whatever it says is inside it. What it carries, sent by an uplink, arrives at another.
fn arrived(packet: &[u8]) {
    let mac = MacAddr(packet.first_chunk().copied().unwrap_or_default());
    if let Ok(came) = arrival(packet, mac) {
        assert!(packet.get(came.datagram).is_some_and(|datagram| datagram.len() >= vxlan::LEN));
    }
    let (source, destination) =
        (SocketAddr::from(([192, 0, 2, 1], 4789)), SocketAddr::from(([192, 0, 2, 2], 4789)));
    let outer = Outer { source, destination, tos: 0, id: 0, vni: Vni::new(1).expect("in range") };
    let mut frame = [&vec![0; outer.wire_len()], packet].concat();
    if outer.complete(&mut frame, Hop { to: mac, from: mac }) {
        let came = arrival(&frame, mac).expect("it was made so");
        assert_eq!(&frame[came.datagram][vxlan::LEN..], packet);
    }
}

#[derive(Default)]
struct Seen {
    heard: usize,
}

impl Tally for Seen {
    fn heard(&mut self, _: PeerSlot, packets: usize, _: usize) {
        self.heard += packets;
    }
    fn dropped(&mut self, _: Option<PeerSlot>, _: Reason) {}
    fn glued(&mut self) {}
    fn whole(&mut self) {}
}
