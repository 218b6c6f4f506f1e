//! Cutting a TCP superframe into segments with room for a VXLAN header before each, as on the way to a peer.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weft_bench::frames::{Ends, tcp4_superframe};
use weft_encap::gso::{MAX_SEND, MAX_SEND_PIECES, Plan, cut};
use weft_encap::vxlan;
use weft_switch::path::accelerate;

/// Payload bytes of a segment: a pod's MTU of 1450 less IPv4 and TCP with timestamps.
const SEGMENT: u16 = 1398;
/// A superframe of 64 KB.
const LEN: usize = 65_000;

fn bench(criterion: &mut Criterion) {
    accelerate();
    let (frame, headers, vnet) = tcp4_superframe(&Ends::sample(), LEN, SEGMENT);
    let plan = Plan::new(&headers, vnet.validate(&headers).expect("as described")).expect("a TCP superframe");
    let mut out = vec![0; MAX_SEND];
    let mut group = criterion.benchmark_group("gso");
    let mut run = || {
        let mut first = 0;
        while first < plan.count() {
            let count = plan.group(first, vxlan::LEN, MAX_SEND, MAX_SEND_PIECES);
            let done = cut(&frame, &headers, &plan, first..first + count, vxlan::LEN, black_box(&mut out));
            black_box(done).expect("a group fits");
            first += count;
        }
    };
    group.throughput(Throughput::Bytes(LEN as u64));
    group.bench_function("bytes", |b| b.iter(&mut run));
    group.throughput(Throughput::Elements(plan.count() as u64));
    group.bench_function("segments", |b| b.iter(&mut run));
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
