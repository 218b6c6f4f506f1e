//! A worker's whole work on a batch of 64-byte frames: decide, edit, send. Elements per second are frames per second
//! of one core.
//!
//! Ports are in-process rings, which take a frame by a copy, as a kernel does, but without its system call. The
//! tunnel's sockets are real ones on the loopback device, so the ways to and from the peer contain the kernel's work.
//! Making a frame and taking away what arrived is not in the time.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use weft_bench::node::{Node, receive};
use weft_bench::scene::{Scene, Setting, Speech, Traffic, Way};
use weft_switch::mem::BATCH;
use weft_switch::port::underlay::Receiver;

/// Flows: connections, between at most [`PAIRS`] pairs of addresses.
const FLOWS: [usize; 4] = [1, 1000, 100_000, 1_000_000];
/// Pairs of addresses that speak with each other: one entry of the flow cache each.
const PAIRS: usize = 1000;
/// More of them than the default flow cache of 65,536 entries holds.
const MANY_PAIRS: [usize; 2] = [100_000, 1_000_000];
/// The largest flow cache: it holds 100,000 pairs, and half of a million.
const LARGE_CACHE: usize = 1 << 19;
/// Workers side by side, each on a CPU of its own.
const WORKERS: usize = 2;

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
            let traffic = Traffic::of_pairs(way, speech, flows, flows.min(PAIRS));
            forward(&mut group, &format!("{name}/{flows}"), Setting::default(), traffic);
        }
        let large = Setting { cache_entries: LARGE_CACHE, ..Setting::default() };
        for pairs in MANY_PAIRS {
            for (cache, setting) in [("", Setting::default()), ("_large_cache", large)] {
                let traffic = Traffic::new(way, speech, pairs);
                forward(&mut group, &format!("{name}/{pairs}_pairs{cache}"), setting, traffic);
            }
        }
    }
    for flows in FLOWS {
        from_tunnel(&mut group, flows);
    }
    group.throughput(Throughput::Elements((WORKERS * BATCH) as u64));
    for (name, way, speech) in [
        ("l2_tcp", Way::Switched, Speech::Tcp),
        ("l3_tcp", Way::Routed, Speech::Tcp),
        ("vxlan_out", Way::ToPeer, Speech::Udp),
    ] {
        side_by_side(&mut group, &format!("{name}/1000_{WORKERS}_workers"), way, speech, 1000);
    }
    group.finish();
}

/// Frames that stand in the batch already.
fn forward(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, setting: Setting, mut traffic: Traffic) {
    let mut scene = Scene::new(setting).expect("loopback sockets");
    scene.warm(&mut traffic);
    group.bench_function(name, |b| {
        b.iter_custom(|batches| run(&mut scene, &mut traffic, batches));
    });
    scene.check();
}

/// Time of so many batches.
fn run(scene: &mut Scene, traffic: &mut Traffic, batches: u64) -> Duration {
    let mut time = Duration::ZERO;
    for _ in 0..batches {
        scene.load(traffic);
        let start = Instant::now();
        scene.process();
        scene.flush();
        time += start.elapsed();
        scene.drain();
    }
    time
}

/// The same by workers that share what they learned, each pinned to a CPU: the time of the slowest.
fn side_by_side(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    way: Way,
    speech: Speech,
    flows: usize,
) {
    let cpus: Vec<usize> = {
        let allowed = sched_getaffinity(None).expect("the kernel says where we may run");
        (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)).take(WORKERS).collect()
    };
    if cpus.len() < WORKERS {
        println!("{name} is left out: fewer CPUs than workers");
        return;
    }
    let first = Scene::new(Setting::default()).expect("loopback sockets");
    let more = (1..WORKERS).map(|worker| first.beside(worker, Setting::default()).expect("loopback sockets"));
    let mut workers: Vec<_> = more.map(|scene| (scene, Traffic::new(way, speech, flows))).collect();
    workers.push((first, Traffic::new(way, speech, flows)));
    workers.iter_mut().for_each(|(scene, traffic)| scene.warm(traffic));
    group.bench_function(name, |b| {
        b.iter_custom(|batches| {
            let together = &Barrier::new(WORKERS);
            std::thread::scope(|scope| {
                let mut threads = Vec::with_capacity(WORKERS);
                for ((scene, traffic), cpu) in workers.iter_mut().zip(&cpus) {
                    threads.push(scope.spawn(move || {
                        let mut one = CpuSet::new();
                        one.set(*cpu);
                        sched_setaffinity(None, &one).expect("an allowed CPU");
                        together.wait();
                        run(scene, traffic, batches)
                    }));
                }
                let times = threads.into_iter().map(|thread| thread.join().expect("a worker runs"));
                times.max().unwrap_or_default()
            })
        });
    });
    workers.iter().for_each(|(scene, _)| scene.check());
}

/// A run of VXLAN packets that waits in the underlay's socket: receive, take the headers off, glue, decide, send.
fn from_tunnel(group: &mut BenchmarkGroup<'_, WallTime>, flows: usize) {
    let mut scene = Scene::new(Setting::default()).expect("loopback sockets");
    let mut traffic = Traffic::of_pairs(Way::FromPeer, Speech::Udp, flows, flows.min(PAIRS));
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
