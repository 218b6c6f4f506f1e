//! The other node of a scene: sends runs of VXLAN packets over the loopback device, and the worker's way of receiving
//! them.

use std::io::IoSlice;
use std::net::SocketAddr;

use weft_encap::{Reason, Vni, vxlan};
use weft_switch::port::underlay::{Receiver, Tally};
use weft_switch::table::PeerSlot;
use weft_sys::udp::{UdpOptions, UdpSocket};

use crate::scene::{Scene, UNDERLAY, VNI};

/// A peer with a socket of its own.
pub struct Node {
    socket: UdpSocket,
    to: SocketAddr,
    run: Vec<u8>,
}

impl Node {
    /// The peer of `scene`. Panics without a loopback device.
    pub fn new(scene: &Scene) -> Self {
        let receiver = scene.snapshot.tunnels.underlays[0].receiver(false).expect("an IPv4 underlay");
        let to = receiver.local_addr().expect("a bound socket");
        let socket =
            UdpSocket::bind((UNDERLAY, 0).into(), &UdpOptions::default()).expect("a loopback socket");
        Node { socket, to, run: Vec::new() }
    }

    /// Sends frames as one run: all as long as the first, the last one shorter if need be.
    pub fn send<'a>(&mut self, frames: impl IntoIterator<Item = &'a [u8]>) {
        let header = vxlan::header(Vni::new(VNI).expect("in range"));
        self.run.clear();
        let mut first = 0;
        for frame in frames {
            self.run.extend_from_slice(&header);
            self.run.extend_from_slice(frame);
            first = if first == 0 { self.run.len() } else { first };
        }
        let sent = self.socket.send(self.to, &[IoSlice::new(&self.run)], Some(first as u16), 0);
        assert_eq!(sent.expect("loopback takes it"), self.run.len());
    }
}

/// Receives, decides and sends until `packets` of the other node have come.
#[inline]
pub fn receive(receiver: &mut Receiver, scene: &mut Scene, packets: usize) {
    let mut heard = Heard(0);
    while heard.0 < packets {
        let tunnels = &*scene.snapshot.tunnels;
        let socket = tunnels.underlays[0].receiver(false).expect("an IPv4 underlay");
        receiver.receive(socket, 0, tunnels, &mut scene.pool, &mut scene.batch, &mut heard);
        scene.process();
        scene.flush();
    }
}

/// Counts packets as they come.
struct Heard(usize);

impl Tally for Heard {
    fn heard(&mut self, _: PeerSlot, packets: usize, _: usize) {
        self.0 += packets;
    }

    fn dropped(&mut self, peer: Option<PeerSlot>, reason: Reason) {
        panic!("a packet of {peer:?} was dropped: {reason:?}");
    }

    fn glued(&mut self) {}

    fn whole(&mut self) {}
}
