//! The one pass over a frame's headers, its flow key, and the hash of its flow.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weft_bench::frames::{Ends, SMALL, headers, tcp4, udp4};
use weft_encap::{FlowKey, flow, parse};

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    group.throughput(Throughput::Elements(1));
    let (ends, secret) = (Ends::sample(), flow::HashSecret::default());
    let frames = [("udp4", udp4(&ends, SMALL)), ("tcp4", tcp4(&ends, 1, 1514))];
    for (name, frame) in &frames {
        group.bench_function(*name, |b| b.iter(|| parse(black_box(frame))));
        let headers = headers(frame);
        let key = |frame: &[u8]| FlowKey::new(1, 0, &headers, frame).map(|key| key.hash(&secret));
        group.bench_function(format!("{name}/key"), |b| b.iter(|| key(black_box(frame))));
        let hash = |frame: &[u8]| flow::flow_hash(&headers, frame);
        group.bench_function(format!("{name}/flow_hash"), |b| b.iter(|| hash(black_box(frame))));
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
