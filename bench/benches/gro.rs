//! Gluing segments back into a TCP superframe, each parsed and its checksum verified, as on arrival from a peer.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weft_bench::frames::{Ends, segments, tcp4_superframe};
use weft_encap::gro::{Gro, MAX_FRAME, Push};
use weft_encap::parse;
use weft_switch::path::accelerate;

/// Payload bytes of a segment, as in the bench of cutting.
const SEGMENT: u16 = 1398;
/// A superframe of 64 KB.
const LEN: usize = 65_000;

fn bench(criterion: &mut Criterion) {
    accelerate();
    let (frame, headers, _) = tcp4_superframe(&Ends::sample(), LEN, SEGMENT);
    let parts = segments(&frame, &headers, SEGMENT);
    let mut buffer = vec![0; MAX_FRAME];
    let mut group = criterion.benchmark_group("gro");
    let mut run = || {
        let first = parse(&parts[0]).expect("a segment parses");
        let mut gro = Gro::start(&mut buffer, &parts[0], &first).expect("an intact segment");
        for part in &parts[1..] {
            let headers = parse(black_box(part)).expect("a segment parses");
            assert_eq!(gro.push(&mut buffer, part, &headers), Push::Merged);
        }
        black_box(gro.finish(&mut buffer));
    };
    group.throughput(Throughput::Bytes(LEN as u64));
    group.bench_function("bytes", |b| b.iter(&mut run));
    group.throughput(Throughput::Elements(parts.len() as u64));
    group.bench_function("segments", |b| b.iter(&mut run));
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
