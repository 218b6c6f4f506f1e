//! Workers on real TAPs in namespaces of their own. Needs root.

mod common;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::pod::{Pod, configure};
use common::*;
use weft_encap::{Reason, VnetHdr};
use weft_switch::path::{Dataplane, DataplaneConfig, Total};
use weft_switch::port::{Device, Underlay, UnderlayConfig};
use weft_sys::link::{LinkChange, Netlink};
use weft_sys::netns::Netns;
use weft_sys::tun::Offloads;

/// Two pods on one bridge, ports 0 and 1.
struct Pair {
    plane: Dataplane,
    net: Net,
    pods: [Pod; 2],
}

fn pair(offloads: Offloads) -> Pair {
    pair_on(DataplaneConfig { spin_us: 50, ..Default::default() }, offloads)
}

fn pair_on(config: DataplaneConfig, offloads: Offloads) -> Pair {
    let plane = Dataplane::start(&config).unwrap();
    let pods = [Pod::new(1, 1500, offloads), Pod::new(2, 1500, offloads)];
    let mut net = Net::default();
    for (n, pod) in pods.iter().enumerate() {
        net.port_with_mac(Device::Tap(pod.device.clone()), mac(n as u8 + 1));
    }
    net.publish(&plane);
    Pair { plane, net, pods }
}

/// Sends `len` bytes from one pod to another and compares them.
fn transfer(from: &Pod, to: &Pod, len: usize) {
    let payload = pattern(len);
    let (at, server) = to.serve();
    from.send(at, &payload);
    assert!(server.join().unwrap() == payload, "received other bytes than were sent");
    assert_eq!(to.snmp("Tcp", "InCsumErrors") + from.snmp("Tcp", "InCsumErrors"), 0);
}

#[test]
fn local_tcp_passes_untouched() {
    if !root() {
        return;
    }
    let Pair { plane, pods: [a, b], .. } = pair(Offloads::all());
    assert!(a.ping(b.ip, &["-c3", "-i0.05", "-W2"]).contains(" 0% packet loss"));
    let len = 64 << 20;
    transfer(&a, &b, len);
    transfer(&b, &a, len);
    let sum = plane.totals();
    assert_eq!(sum.get(Total::ChecksumsComputed) + sum.get(Total::SuperframesCut), 0);
    let rx = plane.port_counters(weft_switch::table::PortSlot(0));
    assert!(rx.rx_bytes / rx.rx_frames > 4096, "no superframes came: {rx:?}");
    assert_eq!(rx.drops.sum(), 0, "{rx:?}");
}

#[test]
fn pods_without_offloads_talk_too() {
    if !root() {
        return;
    }
    for offloads in [Offloads::empty(), Offloads::CSUM, Offloads::CSUM | Offloads::TSO4] {
        let Pair { plane, pods: [a, b], .. } = pair(offloads);
        transfer(&a, &b, 8 << 20);
        assert_eq!(plane.totals().get(Total::SuperframesCut), 0);
    }
}

#[test]
fn a_udp_flood_is_coalesced() {
    if !root() {
        return;
    }
    let Pair { plane, pods: [a, b], .. } = pair(Offloads::all());
    let (from, to) = (a.udp(), b.udp());
    // The kernel itself reorders what it queued while it waited for an ARP answer.
    assert!(a.ping(b.ip, &["-c1", "-W2"]).contains(" 0% packet loss"));
    from.connect(to.local_addr().unwrap()).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let flood = std::thread::spawn(move || {
        let mut sent = 0u32;
        while !flag.load(Ordering::Relaxed) {
            let mut datagram = [0u8; 200];
            datagram[..4].copy_from_slice(&sent.to_be_bytes());
            sent += u32::from(from.send(&datagram).is_ok());
        }
        sent
    });
    let (mut received, mut last) = (0, None);
    let end = Instant::now() + Duration::from_millis(800);
    let mut buffer = [0; 2048];
    while Instant::now() < end {
        let Ok(len) = to.recv(&mut buffer) else { continue };
        assert_eq!(len, 200);
        let number = u32::from_be_bytes([buffer[0], buffer[1], buffer[2], buffer[3]]);
        assert!(last < Some(number), "{number} came after {last:?}");
        last = Some(number);
        received += 1;
    }
    stop.store(true, Ordering::Relaxed);
    assert!(flood.join().unwrap() > 0 && received > 0);
    assert!(plane.totals().get(Total::UdpCoalesced) > 0, "{:?}", plane.totals());
    assert_eq!(b.snmp("Udp", "InCsumErrors"), 0);
}

#[test]
fn a_deleted_link_is_reported_once_and_then_quiet() {
    if !root() {
        return;
    }
    static NOTIFIED: AtomicBool = AtomicBool::new(false);
    let notify: weft_switch::path::dataplane::Notify = Arc::new(|| NOTIFIED.store(true, Ordering::Relaxed));
    let config = DataplaneConfig { notify: Some(notify), ..Default::default() };
    let Pair { plane, mut net, pods: [a, b] } = pair_on(config, Offloads::all());
    // Somebody else holds the descriptor too: then closing ours does not take it out of the poll.
    let held = a.device.queues()[0].try_clone_fd().unwrap();
    a.delete_link();
    let mut lost = Vec::new();
    until("the loss to be reported", || {
        lost.extend(plane.lost_ports());
        !lost.is_empty()
    });
    assert_eq!(lost, [(weft_switch::table::PortSlot(0), 1)]);
    assert!(NOTIFIED.load(Ordering::Relaxed) && a.device.is_lost());
    std::thread::sleep(Duration::from_millis(100));
    let before = plane.totals().get(Total::Wakeups);
    std::thread::sleep(Duration::from_millis(300));
    assert!(plane.totals().get(Total::Wakeups) - before < 5, "busy loop");
    // The port is taken away and its device closed; the other one goes on.
    net.remove(weft_switch::table::PortSlot(0));
    net.publish(&plane);
    drop(a);
    let c = Pod::new(3, 1500, Offloads::all());
    net.port_with_mac(Device::Tap(c.device.clone()), mac(3));
    net.publish(&plane);
    transfer(&b, &c, 1 << 20);
    drop(held);
}

#[test]
fn a_device_that_is_down_drops_and_comes_back() {
    if !root() {
        return;
    }
    let Pair { plane, mut net, pods: [a, b] } = pair(Offloads::all());
    let source = mem(Offloads::all());
    let slot = net.port_with_mac(Device::Mem(source.clone()), mac(9));
    net.publish(&plane);
    b.set_up(false);
    source.inject(VnetHdr::NONE, &udp(9, 2, (1, 2), b"x"));
    until("the drop", || plane.port_counters(slot).drops.get(Reason::PortDown) == 1);
    assert!(!b.device.is_lost());
    b.set_up(true);
    transfer(&a, &b, 1 << 20);
}

#[test]
fn changes_under_traffic_lose_nothing() {
    if !root() {
        return;
    }
    let Pair { plane, mut net, pods: [a, b] } = pair(Offloads::all());
    let (at, server) = b.serve();
    let payload = pattern(48 << 20);
    std::thread::scope(|scope| {
        scope.spawn(|| a.send(at, &payload));
        let ping = scope.spawn(|| a.ping(b.ip, &["-c100", "-i0.005", "-W2"]));
        for _ in 0..30 {
            let extra = Pod::new(7, 1500, Offloads::all());
            let slot = net.port_with_mac(Device::Tap(extra.device.clone()), mac(7));
            net.publish(&plane);
            net.remove(slot);
            net.publish(&plane);
        }
        let report = ping.join().unwrap();
        assert!(report.contains(" 0% packet loss"), "{report}");
    });
    assert!(server.join().unwrap() == payload);
}

#[test]
fn queues_of_one_device_are_spread_over_workers() {
    if !root() {
        return;
    }
    let config = DataplaneConfig { workers: 2, spin_us: 0, ..Default::default() };
    let plane = Dataplane::start(&config).unwrap();
    let pods = [Pod::with_queues(1, 2), Pod::with_queues(2, 2)];
    let mut net = Net::default();
    for (n, pod) in pods.iter().enumerate() {
        net.port_with_mac(Device::Tap(pod.device.clone()), mac(n as u8 + 1));
    }
    net.publish(&plane);
    // Many flows, so that both queues have some.
    for _ in 0..8 {
        transfer(&pods[0], &pods[1], 1 << 20);
    }
    let workers: std::collections::BTreeSet<_> = plane.flows(1000).iter().map(|flow| flow.worker).collect();
    assert_eq!(workers.len(), 2);
}

/// Two node namespaces with a veth between them, each with an underlay, a data plane and a pod.
struct Nodes {
    namespaces: [Netns; 2],
    sides: Vec<(Dataplane, Pod)>,
}

fn nodes() -> Nodes {
    let namespaces = [Netns::create().unwrap(), Netns::create().unwrap()];
    let ips = [Ipv4Addr::new(192, 168, 7, 1), Ipv4Addr::new(192, 168, 7, 2)];
    namespaces[0]
        .run(|| {
            let mut netlink = Netlink::new().unwrap();
            netlink.add_veth("u0", "u1").unwrap();
            let peer = netlink.link_by_name("u1").unwrap().unwrap().index;
            netlink.link_move(peer, &namespaces[1]).unwrap();
        })
        .unwrap();
    let mut sides = Vec::new();
    for n in 0..2 {
        let open = || {
            let up = LinkChange { up: Some(true), ..Default::default() };
            configure("lo", &up, Ipv4Addr::LOCALHOST);
            configure(&format!("u{n}"), &up, ips[n]);
            Underlay::open(UnderlayConfig { port: 4789, v4: Some(ips[n]), v6: None })
        };
        let underlay = namespaces[n].run(open).unwrap().unwrap();
        let plane = Dataplane::start(&DataplaneConfig { spin_us: 50, ..Default::default() }).unwrap();
        let pod = Pod::new(n as u8 + 1, 1450, Offloads::all());
        let mut net = Net::default();
        net.port_with_mac(Device::Tap(pod.device.clone()), mac(n as u8 + 1));
        let other = 1 - n;
        net.peer(Arc::new(underlay), SocketAddr::from((ips[other], 4789)), 1450, &[mac(other as u8 + 1)]);
        net.publish(&plane);
        sides.push((plane, pod));
    }
    Nodes { namespaces, sides }
}

#[test]
fn tcp_crosses_a_tunnel_over_a_veth() {
    if !root() {
        return;
    }
    let Nodes { sides, .. } = nodes();
    let [(plane_a, a), (plane_b, b)] = &sides[..] else { panic!("two sides") };
    assert!(a.ping(b.ip, &["-c3", "-i0.05", "-W2"]).contains(" 0% packet loss"));
    transfer(a, b, 32 << 20);
    transfer(b, a, 32 << 20);
    for plane in [plane_a, plane_b] {
        let sum = plane.totals();
        assert!(sum.get(Total::SuperframesCut) > 0 && sum.get(Total::SuperframesGlued) > 0, "{sum:?}");
        assert_eq!(sum.get(Total::SegmentFallbacks), 0, "{sum:?}");
        assert_eq!(plane.tunnel_drops().sum(), 0);
    }
    let frames = plane_a.peer_counters(weft_switch::table::PeerSlot(0)).tx_frames;
    assert!(frames > plane_a.totals().get(Total::TunnelSends) * 2, "sends were not segmented");
}

#[test]
fn an_underlay_with_too_small_an_mtu_still_carries() {
    if !root() {
        return;
    }
    let Nodes { namespaces, sides } = nodes();
    for (n, namespace) in namespaces.iter().enumerate() {
        let lower = || {
            let mut netlink = Netlink::new().unwrap();
            let index = netlink.link_by_name(&format!("u{n}")).unwrap().unwrap().index;
            netlink.link_set(index, &LinkChange { mtu: Some(1300), ..Default::default() }).unwrap();
        };
        namespace.run(lower).unwrap();
    }
    transfer(&sides[0].1, &sides[1].1, 4 << 20);
    assert!(sides[0].0.totals().get(Total::SegmentFallbacks) > 0);
}
