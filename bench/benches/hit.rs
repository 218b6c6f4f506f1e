//! The hit tier alone: parse, flow key, cache, edits; frames go to a sink that only keeps them.

use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use weft_bench::scene::{Keep, Scene, Setting, Speech, Traffic, Way};
use weft_switch::mem::BATCH;
use weft_switch::path::Total;

/// Flows: one; what the processor's caches hold; most of the flow cache.
const FLOWS: [usize; 3] = [1, 1000, 50_000];
/// 5,000 nodes, each with a route, and 150,000 learned stations.
const LARGE: Setting = Setting { cache_entries: 0, nodes: 5000, stations: 150_000 };

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hit");
    group.throughput(Throughput::Elements(BATCH as u64));
    for (name, way) in
        [("l2", Way::Switched), ("l3", Way::Routed), ("to_peer", Way::ToPeer), ("from_peer", Way::FromPeer)]
    {
        let small = FLOWS.map(|flows| (flows, flows.to_string(), Setting::default()));
        let large = (FLOWS[1], format!("{}_large_cluster", FLOWS[1]), LARGE);
        for (flows, parameter, setting) in small.into_iter().chain([large]) {
            // Four ways of a set leave few flows without a place at this size.
            let setting = Setting { cache_entries: 4 * flows.max(BATCH), ..setting };
            let mut scene = Scene::new(setting).expect("loopback sockets");
            let mut traffic = Traffic::new(way, Speech::Udp, flows);
            let mut keep = Keep::default();
            scene.warm(&mut traffic);
            group.bench_function(BenchmarkId::new(name, parameter), |b| {
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
            let (hits, misses) =
                (scene.counters.total(Total::CacheHits), scene.counters.total(Total::CacheMisses));
            assert!(
                misses <= hits / 100 + 2 * flows as u64,
                "{name}/{flows}: {misses} misses to {hits} hits"
            );
            scene.check();
        }
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
