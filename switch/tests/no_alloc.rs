//! The hit tier allocates nothing per packet: a counting allocator watches a warmed-up worker.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use common::*;
use weft_encap::{Gso, VnetHdr};
use weft_switch::path::Total;
use weft_switch::port::{Device, MemDevice, Underlay, UnderlayConfig};
use weft_sys::tun::Offloads;

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every method hands its arguments on to `System` unchanged, which fulfils the contract; the counter touches
// no memory of theirs.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's obligations are those of `System.alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: `block` came from `System` with this layout.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's obligations are those of `System.alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: `block` came from `System` with this layout; the caller vouches for `size`.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bursts, each waited for.
const BURSTS: usize = 200;
/// Frames of a burst.
const BURST: usize = 48;

/// Sends bursts of `frames` from one device to the other; every byte comes through, however it is cut or glued.
fn drive(from: &MemDevice, to: &MemDevice, frames: &[(VnetHdr, Vec<u8>)], bursts: usize) {
    for _ in 0..bursts {
        let mut left = 0;
        for (header, frame) in frames.iter().cycle().take(BURST) {
            assert!(from.inject(*header, frame));
            left += headers(frame).payload_len();
        }
        until("the burst", || {
            while let Some(len) = to.extract(|_, frame| headers(frame).payload_len()) {
                left -= len;
            }
            left == 0
        });
    }
}

/// Allocations of the whole process while bursts pass, after others have warmed it up.
fn allocations(from: &MemDevice, to: &MemDevice, frames: &[(VnetHdr, Vec<u8>)]) -> u64 {
    drive(from, to, frames, BURSTS);
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    drive(from, to, frames, BURSTS);
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

/// With room for a burst whose superframes are all cut.
fn device(accepts: Offloads) -> Arc<MemDevice> {
    Arc::new(MemDevice::new(512, accepts).expect("a descriptor"))
}

fn traffic() -> Vec<(VnetHdr, Vec<u8>)> {
    let mut frames = vec![
        owing(tcp(0, 1, &pattern(30_000)), Gso::Tcp { size: 1400 }),
        (VnetHdr::NONE, tcp(0, 1, &pattern(100))),
        owing(udp(0, 1, (3, 4), &pattern(20_000)), Gso::Udp { size: 1000 }),
    ];
    frames.extend((0..20u16).map(|n| (VnetHdr::NONE, udp(0, 1, (n / 4 + 10, 9), &pattern(64)))));
    frames
}

#[test]
fn nothing_is_allocated_per_packet() {
    for accepts in [Offloads::all(), Offloads::empty()] {
        let plane = plane();
        let (a, b) = (device(accepts), device(accepts));
        let mut net = Net::default();
        net.port(Device::Mem(a.clone()));
        net.port(Device::Mem(b.clone()));
        net.publish(&plane);
        assert_eq!(allocations(&a, &b, &traffic()), 0, "between ports that accept {accepts:?}");
        assert!(total(&plane, Total::CacheHits) > (BURSTS * BURST) as u64);
    }
    across_a_tunnel();
}

fn across_a_tunnel() {
    let ips = [loopback(20, 1), loopback(20, 2)];
    let mut nodes = Vec::new();
    for n in 0..2u8 {
        let std::net::IpAddr::V4(v4) = ips[usize::from(n)] else { unreachable!("loopback is IPv4") };
        let config = UnderlayConfig { port: 14_790, v4: Some(v4), v6: None };
        let underlay = Arc::new(Underlay::open(config).expect("a free port"));
        let (plane, device) = (plane(), device(Offloads::all()));
        let mut net = Net::default();
        net.port_with_mac(Device::Mem(device.clone()), mac(n));
        net.peer(underlay, SocketAddr::new(ips[usize::from(1 - n)], 14_790), 1450, &[mac(1 - n)]);
        net.publish(&plane);
        nodes.push((plane, device));
    }
    assert_eq!(allocations(&nodes[0].1, &nodes[1].1, &traffic()), 0, "across a tunnel");
    assert!(total(&nodes[1].0, Total::SuperframesGlued) > 0);
}
