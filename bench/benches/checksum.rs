//! The Internet checksum: of bytes that lie still, and of bytes while they are copied.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use weft_encap::checksum::{Sum, copy_and_sum};
use weft_switch::path::accelerate;

const SIZES: [usize; 3] = [64, 1500, 64 << 10];

fn bench(criterion: &mut Criterion) {
    accelerate();
    let mut group = criterion.benchmark_group("checksum");
    for size in SIZES {
        let bytes: Vec<u8> = (0..size).map(|i| (i * 7) as u8).collect();
        let mut copy = vec![0; size];
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(BenchmarkId::new("sum", size), |b| b.iter(|| Sum::of(black_box(&bytes))));
        group.bench_function(BenchmarkId::new("copy_and_sum", size), |b| {
            b.iter(|| copy_and_sum(black_box(&mut copy), black_box(&bytes)));
        });
        // What a copy alone costs.
        group.bench_function(BenchmarkId::new("copy", size), |b| {
            b.iter(|| black_box(&mut copy).copy_from_slice(black_box(&bytes)));
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
