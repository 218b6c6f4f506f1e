//! The miss tier: every frame is decided about anew, because its flow is not in the cache.
//!
//! `decide` runs without a cache; `insert` keeps each decision in a cache that is full of other flows'.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use weft_bench::scene::{Keep, Scene, Setting, Speech, Traffic, Way};
use weft_switch::mem::BATCH;

/// Many more flows than a cache of [`FULL`] entries holds.
const FLOWS: usize = 50_000;
/// Entries of the cache that is always full.
const FULL: usize = 512;
/// A large cluster, each node with a route.
const NODES: u32 = 5000;

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("miss");
    group.throughput(Throughput::Elements(BATCH as u64));
    let ways =
        [("l2", Way::Switched), ("l3", Way::Routed), ("to_peer", Way::ToPeer), ("from_peer", Way::FromPeer)];
    for (cache, cache_entries) in [("decide", 0), ("insert", FULL)] {
        for (name, way) in ways {
            let setting = Setting { cache_entries, nodes: NODES, stations: 0 };
            let mut scene = Scene::new(setting).expect("loopback sockets");
            let mut traffic = Traffic::new(way, Speech::Udp, FLOWS);
            let mut keep = Keep::default();
            group.bench_function(BenchmarkId::new(cache, name), |b| {
                b.iter_custom(|batches| {
                    let mut time = Duration::ZERO;
                    for _ in 0..batches {
                        scene.load(&mut traffic);
                        let start = Instant::now();
                        scene.process_to(&mut keep);
                        time += start.elapsed();
                        keep.empty(&mut scene.pool);
                    }
                    time
                });
            });
            scene.check();
        }
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
