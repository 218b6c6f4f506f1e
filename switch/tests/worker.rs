//! The whole loop of a worker over in-process ports: no root, no kernel devices.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use common::*;
use weft_encap::{Gso, Reason, VnetHdr, checksum, vnet};
use weft_switch::path::{Dataplane, DataplaneConfig, Total};
use weft_switch::port::{Device, MemDevice};
use weft_sys::tun::Offloads;

#[test]
fn frames_pass_between_ports_as_they_are() {
    let plane = plane();
    let (a, b) = (mem(Offloads::all()), mem(Offloads::all()));
    let mut net = Net::default();
    let (from, to) = (net.port(Device::Mem(a.clone())), net.port(Device::Mem(b.clone())));
    net.publish(&plane);

    let frame = udp(0, 1, (1000, 2000), b"hello");
    a.inject(VnetHdr::NONE, &frame);
    assert_eq!(next(&b), (VnetHdr::NONE, frame.clone()));

    let (header, superframe) = owing(tcp(0, 1, &pattern(60_000)), Gso::Tcp { size: 1398 });
    a.inject(header, &superframe);
    assert_eq!(next(&b), (header, superframe.clone()));

    until("both to be counted", || plane.port_counters(to).tx_frames == 2);
    let (rx, tx) = (plane.port_counters(from), plane.port_counters(to));
    assert_eq!(rx.rx_frames, 2);
    assert_eq!(rx.rx_bytes, (frame.len() + superframe.len()) as u64);
    assert_eq!((rx.rx_bytes, rx.drops.sum()), (tx.tx_bytes, 0));
    assert_eq!(total(&plane, Total::ChecksumsComputed) + total(&plane, Total::SuperframesCut), 0);
}

#[test]
fn a_port_without_offloads_gets_what_any_wire_could_carry() {
    let plane = plane();
    let (a, b) = (mem(Offloads::all()), mem(Offloads::empty()));
    let mut net = Net::default();
    net.port(Device::Mem(a.clone()));
    net.port(Device::Mem(b.clone()));
    net.publish(&plane);

    let (header, frame) = owing(udp(0, 1, (1, 2), &pattern(333)), Gso::None);
    a.inject(header, &frame);
    let (header, frame) = next(&b);
    assert_eq!(header, VnetHdr::NONE);
    assert_eq!(checksum::state(&frame, &headers(&frame)), checksum::State::Verified);
    settled(&plane, Total::ChecksumsComputed, 1);

    let payload = pattern(60_000);
    let (header, frame) = owing(tcp(0, 1, &payload), Gso::Tcp { size: 1000 });
    a.inject(header, &frame);
    let mut received = Vec::new();
    for _ in 0..60 {
        let (header, segment) = next(&b);
        assert_eq!(header, VnetHdr::NONE);
        let headers = headers(&segment);
        assert_eq!(checksum::state(&segment, &headers), checksum::State::Verified);
        received.extend_from_slice(headers.payload(&segment));
    }
    assert!(received == payload);
    settled(&plane, Total::SuperframesCut, 1);
}

#[test]
fn datagrams_of_one_flow_become_one_superframe() {
    let plane = plane();
    let (a, b) = (mem(Offloads::all()), mem(Offloads::all()));
    let mut net = Net::default();
    net.port(Device::Mem(a.clone()));
    let to = net.port(Device::Mem(b.clone()));
    // Unpublished, so that all of them are in one batch.
    let datagrams: Vec<_> = (0..10u8).map(|n| udp(0, 1, (7, 8), &[n; 100])).collect();
    for datagram in &datagrams {
        a.inject(VnetHdr::NONE, datagram);
    }
    a.inject(VnetHdr::NONE, &udp(0, 1, (7, 8), b"last"));
    a.inject(VnetHdr::NONE, &udp(0, 1, (9, 8), b"another flow"));
    net.publish(&plane);

    let (header, frame) = next(&b);
    assert_eq!((header.gso_type, header.gso_size), (vnet::GSO_UDP_L4, 100));
    let whole = headers(&frame);
    assert_eq!(header.validate(&whole), Ok(Gso::Udp { size: 100 }));
    let expected: Vec<u8> = (0..10u8).flat_map(|n| [n; 100]).chain(*b"last").collect();
    assert_eq!(whole.payload(&frame), expected);
    assert_eq!(next(&b), (VnetHdr::NONE, udp(0, 1, (9, 8), b"another flow")));
    settled(&plane, Total::UdpCoalesced, 1);
    until("12 frames counted", || plane.port_counters(to).tx_frames == 12);
    assert_eq!(total(&plane, Total::ChecksumsComputed), 0);
}

#[test]
fn of_acknowledgments_in_line_the_last_is_enough() {
    let plane = plane();
    let (a, b) = (mem(Offloads::all()), mem(Offloads::all()));
    let mut net = Net::default();
    net.port(Device::Mem(a.clone()));
    net.port(Device::Mem(b.clone()));
    let ack = |number: u32| {
        let mut frame = tcp(0, 1, b"");
        frame[42..46].copy_from_slice(&number.to_be_bytes());
        let headers = headers(&frame);
        checksum::complete(&mut frame, &headers);
        frame
    };
    // The two of 300 tell of a loss; data says more than its acknowledgment.
    let sent = [ack(100), ack(200), ack(300), ack(300), tcp(0, 1, b"data"), ack(400)];
    for frame in &sent {
        a.inject(VnetHdr::NONE, frame);
    }
    net.publish(&plane);
    for frame in &sent[2..] {
        assert_eq!(next(&b), (VnetHdr::NONE, frame.clone()));
    }
    settled(&plane, Total::AcksThinned, 2);
}

#[test]
fn a_corrupt_acknowledgment_makes_none_needless() {
    let plane = plane();
    let (a, b) = (mem(Offloads::all()), mem(Offloads::all()));
    let mut net = Net::default();
    net.port(Device::Mem(a.clone()));
    net.port(Device::Mem(b.clone()));
    let ack = |number: u32| {
        let mut frame = tcp(0, 1, b"");
        frame[42..46].copy_from_slice(&number.to_be_bytes());
        owing(frame, Gso::None)
    };
    let complete = |(_, mut frame): (VnetHdr, Vec<u8>)| {
        let headers = headers(&frame);
        checksum::complete(&mut frame, &headers);
        (VnetHdr::NONE, frame)
    };
    let mut corrupt = complete(ack(300));
    corrupt.1[50] ^= 1;
    // An owed checksum is a good one. The corrupt one goes itself when a good one follows.
    let sent = [ack(100), complete(ack(200)), corrupt, ack(400), ack(500)];
    for (header, frame) in &sent {
        a.inject(*header, frame);
    }
    net.publish(&plane);
    for at in [1, 4] {
        assert_eq!(next(&b).1, sent[at].1, "number {at}");
    }
    settled(&plane, Total::AcksThinned, 3);
}

#[test]
fn a_wrong_checksum_is_not_vouched_for() {
    let plane = plane();
    let (a, b) = (mem(Offloads::all()), mem(Offloads::all()));
    let mut net = Net::default();
    net.port(Device::Mem(a.clone()));
    net.port(Device::Mem(b.clone()));
    let mut frames: Vec<_> = (0..3u8).map(|n| udp(0, 1, (7, 8), &[n; 50])).collect();
    frames[1][60] ^= 1;
    for frame in &frames {
        a.inject(VnetHdr::NONE, frame);
    }
    net.publish(&plane);
    for frame in frames {
        assert_eq!(next(&b), (VnetHdr::NONE, frame));
    }
}

#[test]
fn a_full_receiver_drops_and_counts_and_blocks_nobody() {
    let plane = plane();
    let (a, full) = (mem(Offloads::all()), Arc::new(MemDevice::new(4, Offloads::empty()).unwrap()));
    let mut net = Net::default();
    let from = net.port(Device::Mem(a.clone()));
    let to = net.port(Device::Mem(full));
    net.publish(&plane);
    for n in 0..100 {
        a.inject(VnetHdr::NONE, &udp(0, 1, (n, 8), b"x"));
    }
    until("96 drops", || plane.port_counters(from).drops.get(Reason::QueueFull) == 96);
    assert_eq!(plane.port_counters(from).rx_frames, 100);
    let (sender, receiver) = (plane.port_counters(from), plane.port_counters(to));
    assert_eq!((sender.tx_dropped, receiver.tx_dropped, receiver.drops.sum()), (0, 96, 0));
}

#[test]
fn ports_come_and_go_while_frames_pass() {
    let plane = plane();
    let (a, b) = (mem(Offloads::all()), mem(Offloads::all()));
    let mut net = Net::default();
    net.port(Device::Mem(a.clone()));
    net.port(Device::Mem(b.clone()));
    net.publish(&plane);
    let mut received = 0u64;
    let mut sent = 0u64;
    for _ in 0..50 {
        let extra = net.port(Device::Mem(mem(Offloads::all())));
        for n in 0..20 {
            sent += u64::from(a.inject(VnetHdr::NONE, &udp(0, 1, (n, 9), b"steady")));
        }
        net.publish(&plane);
        net.remove(extra);
        net.publish(&plane);
        while b.extract(|_, _| ()).is_some() {
            received += 1;
        }
    }
    until("every frame", || {
        received += u64::from(b.extract(|_, _| ()).is_some());
        received == sent
    });
}

#[test]
fn snapshots_are_freed_once_acknowledged_and_never_before() {
    let plane = plane();
    let device = mem(Offloads::all());
    let mut net = Net::default();
    let slot = net.port(Device::Mem(device.clone()));
    net.publish(&plane);
    assert!(Arc::strong_count(&device) > 1);
    net.remove(slot);
    net.publish(&plane);
    drop(net);
    until("the device to be let go", || Arc::strong_count(&device) == 1);
}

#[test]
fn an_idle_worker_sleeps() {
    let config = DataplaneConfig { spin_us: 100, ..Default::default() };
    let plane = Dataplane::start(&config).unwrap();
    let mut net = Net::default();
    let devices: Vec<_> = (0..100).map(|_| Arc::new(MemDevice::new(4, Offloads::all()).unwrap())).collect();
    for device in &devices {
        net.port(Device::Mem(device.clone()));
    }
    net.publish(&plane);
    std::thread::sleep(Duration::from_millis(50));
    let before = total(&plane, Total::Wakeups);
    std::thread::sleep(Duration::from_millis(500));
    assert_eq!(total(&plane, Total::Wakeups), before);
    devices[3].inject(VnetHdr::NONE, &udp(3, 4, (1, 2), b"wake"));
    next(&devices[4]);
}

#[test]
fn several_workers_share_the_ports() {
    let config = DataplaneConfig { workers: 3, spin_us: 0, ..Default::default() };
    let plane = Dataplane::start(&config).unwrap();
    let mut net = Net::default();
    let devices: Vec<_> = (0..6).map(|_| mem(Offloads::all())).collect();
    for device in &devices {
        net.port(Device::Mem(device.clone()));
    }
    net.publish(&plane);
    for n in 0..6u8 {
        let to = (n + 1) % 6;
        devices[usize::from(n)].inject(VnetHdr::NONE, &udp(n, to, (1, 2), b"round"));
        assert_eq!(next(&devices[usize::from(to)]).1, udp(n, to, (1, 2), b"round"));
    }
    until("flows of all workers", || {
        let workers: std::collections::BTreeSet<_> =
            plane.flows(100).iter().map(|flow| flow.worker).collect();
        workers.len() == 3
    });
    plane.end();
}

#[test]
fn counters_of_a_reused_slot_start_from_zero() {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    let notify: weft_switch::path::dataplane::Notify = Arc::new(|| {
        CALLS.fetch_add(1, Ordering::Relaxed);
    });
    let plane = Dataplane::start(&DataplaneConfig { notify: Some(notify), ..Default::default() }).unwrap();
    let (a, b) = (mem(Offloads::all()), mem(Offloads::all()));
    let mut net = Net::default();
    let slot = net.port(Device::Mem(a.clone()));
    net.port(Device::Mem(b.clone()));
    net.publish(&plane);
    a.inject(VnetHdr::NONE, &udp(0, 1, (1, 2), b"x"));
    next(&b);
    until("the frame to be counted", || plane.totals().get(Total::CacheMisses) == 1);
    assert_eq!(plane.port_counters(slot).rx_frames, 1);
    plane.reset_port(weft_switch::table::BridgeSlot(0), slot);
    assert_eq!(plane.port_counters(slot), Default::default());
    assert_eq!((plane.lost_ports().len(), CALLS.load(Ordering::Relaxed)), (0, 0));
}

#[test]
fn no_publication_is_slept_through() {
    let plane = plane();
    let mut net = Net::default();
    net.port(Device::Mem(mem(Offloads::all())));
    for _ in 0..20_000 {
        net.publish(&plane);
    }
}
