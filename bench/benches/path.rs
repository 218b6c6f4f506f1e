//! A worker's whole work on a batch of 64-byte frames: decide, edit, send. Elements per second are frames per second
//! of one core.
//!
//! Ports are in-process rings, which take a frame by a copy, as a kernel does, but without its system call. The
//! tunnel's sockets are real ones on the loopback device, so the ways to and from the peer contain the kernel's work.
//! Making a frame and taking away what arrived is not in the time.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use weft_bench::frames::SMALL;
use weft_bench::scene::{Scene, Setting, Speech, Traffic, UNDERLAY, VNI, Way};
use weft_encap::{Reason, Vni, vxlan};
use weft_switch::mem::BATCH;
use weft_switch::port::underlay::{Receiver, Tally};
use weft_switch::table::PeerSlot;
use weft_sys::udp::{UdpOptions, UdpSocket};

/// Flows: one, a thousand, and more than the default flow cache of 65,536 entries holds.
const FLOWS: [usize; 3] = [1, 1000, 100_000];
/// A flow cache that holds all of them.
const LARGE_CACHE: usize = 1 << 18;

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("path");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, way, speech) in [
        ("l2_tcp", Way::Switched, Speech::Tcp),
        ("l2_udp", Way::Switched, Speech::Udp),
        ("l3_tcp", Way::Routed, Speech::Tcp),
        ("l3_udp", Way::Routed, Speech::Udp),
        ("vxlan_out", Way::ToPeer, Speech::Udp),
    ] {
        for flows in FLOWS {
            forward(&mut group, &format!("{name}/{flows}"), Setting::default(), way, speech, flows);
        }
        let large = Setting { cache_entries: LARGE_CACHE, ..Setting::default() };
        forward(&mut group, &format!("{name}/100000_large_cache"), large, way, speech, 100_000);
    }
    for flows in FLOWS {
        from_tunnel(&mut group, flows);
    }
    group.finish();
}

/// Frames that stand in the batch already.
fn forward(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    setting: Setting,
    way: Way,
    speech: Speech,
    flows: usize,
) {
    let mut scene = Scene::new(setting).expect("loopback sockets");
    let mut traffic = Traffic::new(way, speech, flows);
    scene.warm(&mut traffic);
    group.bench_function(name, |b| {
        b.iter_custom(|batches| {
            let mut time = Duration::ZERO;
            for _ in 0..batches {
                scene.load(&mut traffic);
                let start = Instant::now();
                scene.process();
                scene.flush();
                time += start.elapsed();
                scene.drain();
            }
            time
        });
    });
    scene.check();
}

/// A run of VXLAN packets that waits in the underlay's socket: receive, take the headers off, glue, decide, send.
fn from_tunnel(group: &mut BenchmarkGroup<'_, WallTime>, flows: usize) {
    let mut scene = Scene::new(Setting::default()).expect("loopback sockets");
    let mut traffic = Traffic::new(Way::FromPeer, Speech::Udp, flows);
    scene.warm(&mut traffic);
    let mut node = Node::new(&scene);
    let mut receiver = Receiver::default();
    group.bench_function(BenchmarkId::new("vxlan_in", flows), |b| {
        b.iter_custom(|batches| {
            let mut time = Duration::ZERO;
            for _ in 0..batches {
                node.send(&mut traffic);
                let start = Instant::now();
                receive(&mut receiver, &mut scene);
                time += start.elapsed();
                scene.drain();
            }
            time
        });
    });
    scene.check();
}

/// Until all packets of a batch have come.
fn receive(receiver: &mut Receiver, scene: &mut Scene) {
    let mut heard = Heard(0);
    while heard.0 < BATCH {
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
    fn heard(&mut self, _: PeerSlot, _: usize, _: usize) {
        self.0 += 1;
    }

    fn dropped(&mut self, peer: Option<PeerSlot>, reason: Reason) {
        panic!("a packet of {peer:?} was dropped: {reason:?}");
    }

    fn glued(&mut self) {}

    fn whole(&mut self) {}
}

/// The other node: sends a batch's packets as one run.
struct Node {
    socket: UdpSocket,
    to: SocketAddr,
    run: Vec<u8>,
}

impl Node {
    fn new(scene: &Scene) -> Self {
        let receiver = scene.snapshot.tunnels.underlays[0].receiver(false).expect("an IPv4 underlay");
        let to = receiver.local_addr().expect("a bound socket");
        let socket =
            UdpSocket::bind((UNDERLAY, 0).into(), &UdpOptions::default()).expect("a loopback socket");
        Node { socket, to, run: Vec::with_capacity(BATCH * PACKET) }
    }

    fn send(&mut self, traffic: &mut Traffic) {
        let header = vxlan::header(Vni::new(VNI).expect("in range"));
        self.run.clear();
        for _ in 0..BATCH {
            self.run.extend_from_slice(&header);
            self.run.extend_from_slice(traffic.draw().1);
        }
        let sent = self.socket.send(self.to, &[IoSlice::new(&self.run)], Some(PACKET as u16), 0);
        assert_eq!(sent.expect("loopback takes it"), self.run.len());
    }
}

/// Bytes of a small frame in VXLAN.
const PACKET: usize = vxlan::LEN + SMALL;

criterion_group!(benches, bench);
criterion_main!(benches);
