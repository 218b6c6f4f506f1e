//! Tunnels between two data planes of one process, over the loopback: no root, real UDP sockets.

mod common;

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use common::*;
use weft_encap::{Gso, Reason, VnetHdr, checksum, vnet, vxlan};
use weft_switch::path::{Dataplane, Total};
use weft_switch::port::{Device, MemDevice, Underlay, UnderlayConfig};
use weft_switch::table::PeerSlot;
use weft_sys::tun::Offloads;
use weft_sys::udp::{UdpOptions, UdpSocket};

const PORT: u16 = 14_789;
const MTU: u32 = 1450;

/// One node: station `n` behind an in-process port, the other station behind the tunnel.
struct Node {
    plane: Dataplane,
    device: Arc<MemDevice>,
    net: Net,
}

impl Node {
    fn new(n: u8, own: IpAddr, other: IpAddr, accepts: Offloads) -> Node {
        let (v4, v6) = match own {
            IpAddr::V4(ip) => (Some(ip), None),
            IpAddr::V6(ip) => (None, Some(ip)),
        };
        let underlay = Arc::new(Underlay::open(UnderlayConfig { port: PORT, v4, v6 }).expect("a free port"));
        let (plane, device) = (plane(), mem(accepts));
        let mut net = Net::default();
        net.port_with_mac(Device::Mem(device.clone()), mac(n));
        net.peer(underlay, SocketAddr::new(other, PORT), MTU, &[mac(1 - n)]);
        net.publish(&plane);
        Node { plane, device, net }
    }
}

/// Stations 0 and 1 on two nodes.
fn pair(tag: u8, accepts: Offloads) -> (Node, Node) {
    let (a, b) = (loopback(tag, 1), loopback(tag, 2));
    (Node::new(0, a, b, accepts), Node::new(1, b, a, accepts))
}

#[test]
fn a_tcp_superframe_crosses_as_one_send_and_arrives_as_one_frame() {
    let (a, b) = pair(1, Offloads::all());
    // 44 full segments: what one send carries.
    let payload = pattern(44 * 1410);
    let (header, frame) = owing(tcp(0, 1, &payload), Gso::Tcp { size: 1410 });
    for _ in 0..20 {
        a.device.inject(header, &frame);
        assert!(next(&b.device) == (header, frame.clone()));
    }
    settled(&a.plane, Total::SuperframesCut, 20);
    settled(&a.plane, Total::ChecksumsComputed, 20 * 44);
    settled(&a.plane, Total::TunnelSends, 20);
    settled(&b.plane, Total::SuperframesGlued, 20);
    let (sent, heard) = (a.plane.peer_counters(PeerSlot(0)), b.plane.peer_counters(PeerSlot(0)));
    assert_eq!((sent.tx_frames, heard.rx_frames), (20 * 44, 20 * 44));
    assert_eq!(sent.tx_bytes, heard.rx_bytes);
    assert!(heard.last_heard_ns > 0 && heard.drops.sum() == 0);
}

#[test]
fn a_superframe_too_long_for_one_send_takes_two() {
    let (a, b) = pair(2, Offloads::all());
    let payload = pattern(64_000);
    let (header, frame) = owing(tcp(0, 1, &payload), Gso::Tcp { size: 536 });
    a.device.inject(header, &frame);
    let mut received = Vec::new();
    while received.len() < payload.len() {
        let (header, frame) = next(&b.device);
        assert_eq!(header.gso_size, 536);
        received.extend_from_slice(headers(&frame).payload(&frame));
    }
    assert!(received == payload);
    settled(&a.plane, Total::TunnelSends, 2);
}

#[test]
fn small_frames_of_equal_length_share_a_send_and_keep_their_order() {
    let (a, b) = pair(3, Offloads::empty());
    // A fresh data plane finds all of them in one batch.
    let Node { plane: old, device, mut net } = a;
    drop(old);
    let frames: Vec<_> = (0..60u16).map(|n| udp(0, 1, (100 + n % 3, 9), &n.to_be_bytes())).collect();
    for frame in &frames {
        device.inject(VnetHdr::NONE, frame);
    }
    let plane = plane();
    net.publish(&plane);
    let mut per_flow: [Vec<Vec<u8>>; 3] = Default::default();
    for _ in &frames {
        let (header, frame) = next(&b.device);
        assert_eq!(header, VnetHdr::NONE);
        let headers = headers(&frame);
        per_flow[usize::from(headers.src_port) - 100].push(headers.payload(&frame).to_vec());
    }
    for (flow, got) in per_flow.iter().enumerate() {
        let expected: Vec<_> = (0..60u16).skip(flow).step_by(3).map(|n| n.to_be_bytes().to_vec()).collect();
        assert_eq!(*got, expected);
    }
    assert!(total(&plane, Total::TunnelSends) <= 3, "at most one send per flow");
}

#[test]
fn an_owed_checksum_is_computed_before_the_wire() {
    let (a, b) = pair(4, Offloads::empty());
    let (header, frame) = owing(udp(0, 1, (5, 6), &pattern(700)), Gso::None);
    a.device.inject(header, &frame);
    let (header, frame) = next(&b.device);
    assert_eq!(header, VnetHdr::NONE);
    assert_eq!(checksum::state(&frame, &headers(&frame)), checksum::State::Verified);
    settled(&a.plane, Total::ChecksumsComputed, 1);
}

#[test]
fn udp_superframes_are_cut_and_glued() {
    let (a, b) = pair(5, Offloads::all());
    let payload = pattern(40 * 1000);
    let (header, frame) = owing(udp(0, 1, (5, 6), &payload), Gso::Udp { size: 1000 });
    a.device.inject(header, &frame);
    let (got, frame) = next(&b.device);
    assert_eq!((got.gso_type, got.gso_size), (vnet::GSO_UDP_L4, 1000));
    assert!(headers(&frame).payload(&frame) == payload);
}

#[test]
fn ipv6_underlay_carries_superframes() {
    // One address for both ends: two ports would be needed, so the node is its own peer.
    let own = IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1]);
    let node = Node::new(0, own, own, Offloads::all());
    let payload = pattern(30 * 1390);
    let (header, frame) = owing(tcp(1, 0, &payload), Gso::Tcp { size: 1390 });
    // From station 1, as if it were here, to itself across the tunnel.
    let mut to_peer = frame;
    to_peer[..6].copy_from_slice(&mac(1).0);
    to_peer[6..12].copy_from_slice(&mac(0).0);
    node.device.inject(header, &to_peer);
    until("the superframe to come back", || total(&node.plane, Total::SuperframesGlued) == 1);
    assert_eq!(node.plane.peer_counters(PeerSlot(0)).rx_frames, 30);
}

/// A bare socket that plays a peer.
fn bare(ip: IpAddr) -> UdpSocket {
    let options = UdpOptions { gro: false, buffer: 1 << 20, zero_checksum6: false };
    UdpSocket::bind(SocketAddr::new(ip, 0), &options).expect("a socket")
}

fn packet(frame: &[u8]) -> Vec<u8> {
    [&vxlan::header(vni())[..], frame].concat()
}

#[test]
fn strangers_wrong_networks_and_broken_headers_are_counted_apart() {
    let (node, peer) = (loopback(6, 2), loopback(6, 1));
    let b = Node::new(1, node, peer, Offloads::all());
    let to = SocketAddr::new(node, PORT);
    let good = packet(&udp(0, 1, (1, 2), b"fine"));
    let send = |socket: &UdpSocket, bytes: &[u8]| socket.send(to, &[IoSlice::new(bytes)], None, 0).unwrap();

    let (known, stranger) = (bare(peer), bare(loopback(6, 9)));
    send(&stranger, &good);
    let mut other_vni = good.clone();
    other_vni[6] ^= 1;
    send(&known, &other_vni);
    let mut reserved = good.clone();
    reserved[1] = 1;
    send(&known, &reserved);
    send(&known, &good[..7]);
    let mut broken = good.clone();
    let last = broken.len() - 1;
    broken[last] ^= 0xff;
    send(&known, &broken);
    send(&known, &good[..20]);
    // Marked outside, not capable inside.
    known.send(to, &[IoSlice::new(&good)], None, 3).unwrap();
    send(&known, &good);

    assert_eq!(next(&b.device).1, &good[vxlan::LEN..]);
    let drops = b.plane.tunnel_drops();
    let expected = [
        (Reason::TunnelStranger, 1),
        (Reason::TunnelVni, 1),
        (Reason::TunnelHeader, 2),
        (Reason::BadChecksum, 1),
        (Reason::Runt, 1),
        (Reason::Ecn, 1),
    ];
    for (reason, count) in expected {
        assert_eq!(drops.get(reason), count, "{reason}");
    }
    until("all drops to be counted", || b.plane.peer_counters(PeerSlot(0)).drops.sum() == 3);
}

#[test]
fn congestion_marks_cross_the_tunnel_both_ways() {
    let (node, peer) = (loopback(7, 2), loopback(7, 1));
    let b = Node::new(1, node, peer, Offloads::all());
    let capable = |ecn: u8| {
        let mut frame = udp(0, 1, (1, 2), b"capable");
        let mut headers = headers(&frame);
        weft_encap::edit::set_tos(&mut frame, &mut headers, ecn);
        frame
    };
    let known = bare(peer);
    let good = packet(&capable(2));
    known.send(SocketAddr::new(node, PORT), &[IoSlice::new(&good)], None, 3).unwrap();
    assert_eq!(headers(&next(&b.device).1).tos, 3);

    // What station 1 marks inside is seen outside.
    let outside = UdpSocket::bind(SocketAddr::new(peer, PORT), &UdpOptions::default()).unwrap();
    let mut frame = capable(2);
    frame[..6].copy_from_slice(&mac(0).0);
    frame[6..12].copy_from_slice(&mac(1).0);
    b.device.inject(VnetHdr::NONE, &frame);
    let mut buffer = vec![0; 65_535];
    let mut received = None;
    until("the packet", || {
        received = outside.recv(&mut buffer).ok();
        received.is_some()
    });
    assert_eq!(received.unwrap().ecn, 2);
}

#[test]
fn a_superframe_that_comes_whole_is_handed_on_whole() {
    let (node, peer) = (loopback(8, 2), loopback(8, 1));
    let b = Node::new(1, node, peer, Offloads::all());
    let known = bare(peer);
    let to = SocketAddr::new(node, PORT);
    // As a kernel peer over a virtual link sends it: one datagram, inner checksum owed.
    let payload = pattern(60_000);
    let (_, frame) = owing(tcp(0, 1, &payload), Gso::Tcp { size: 1 });
    known.send(to, &[IoSlice::new(&packet(&frame))], None, 0).unwrap();
    let (header, got) = next(&b.device);
    assert_eq!((header.gso_type, usize::from(header.gso_size)), (vnet::GSO_TCPV4, MTU as usize - 40));
    assert!(got == frame);
    settled(&b.plane, Total::SuperframesWhole, 1);
}

#[test]
fn a_run_longer_than_a_batch_loses_nothing() {
    let (node, peer) = (loopback(9, 2), loopback(9, 1));
    let b = Node::new(1, node, peer, Offloads::empty());
    let known = bare(peer);
    // 120 datagrams of 120 flows in one send: none glues with its neighbour.
    let run: Vec<u8> = (0..120u16).flat_map(|n| packet(&udp(0, 1, (n + 1, 2), b"0123456789"))).collect();
    let size = run.len() / 120;
    if known.send(SocketAddr::new(node, PORT), &[IoSlice::new(&run)], Some(size as u16), 0).is_err() {
        println!("skipped: this kernel takes 64 segments at most");
        return;
    }
    for n in 0..120 {
        assert_eq!(headers(&next(&b.device).1).src_port, n + 1);
    }
}

#[test]
fn an_underlay_that_stays_is_heard_when_another_comes_and_goes() {
    let (mut a, mut b) = pair(20, Offloads::empty());
    let IpAddr::V4(own) = loopback(20, 2) else { unreachable!("IPv4") };
    let config = UnderlayConfig { port: PORT - 1, v4: Some(own), v6: None };
    let heard = |a: &Node, b: &Node, n: u8| {
        let frame = udp(0, 1, (7, 8), &[n; 50]);
        a.device.inject(VnetHdr::NONE, &frame);
        assert!(next(&b.device).1 == frame);
    };
    heard(&a, &b, 1);
    b.net.add_underlay_before(Arc::new(Underlay::open(config).expect("a free port")));
    b.net.publish(&b.plane);
    heard(&a, &b, 2);
    b.net.remove_underlay_before();
    b.net.publish(&b.plane);
    heard(&a, &b, 3);
    a.net.publish(&a.plane);
    heard(&a, &b, 4);
}
