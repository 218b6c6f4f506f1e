//! A worker's whole work on a batch of 64-byte frames: decide, edit, send. Elements per second are frames per second
//! of one core.
//!
//! Ports are in-process rings, which take a frame by a copy, as a kernel does, but without its system call. The
//! tunnel's sockets are real ones on the loopback device, so the ways to and from the peer contain the kernel's work.
//! Making a frame and taking away what arrived is not in the time.

use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use weft_bench::node::{Node, receive};
use weft_bench::scene::{Scene, Setting, Speech, Traffic, Way};
use weft_switch::mem::BATCH;
use weft_switch::port::underlay::Receiver;

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
                node.send(traffic.batch());
                let start = Instant::now();
                receive(&mut receiver, &mut scene, BATCH);
                time += start.elapsed();
                scene.drain();
            }
            time
        });
    });
    scene.check();
}

criterion_group!(benches, bench);
criterion_main!(benches);
