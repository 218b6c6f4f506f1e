//! The VXLAN header: put before a frame, and taken off a datagram.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use weft_bench::frames::{Ends, SMALL, udp4};
use weft_encap::{Vni, vxlan};

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("vxlan");
    group.throughput(Throughput::Elements(1));
    let vni = Vni::new(1).expect("in range");
    let mut datagram = vec![0; vxlan::LEN];
    datagram.extend(udp4(&Ends::sample(), SMALL));
    vxlan::push(&mut datagram, vni);
    group.bench_function("push", |b| b.iter(|| vxlan::push(black_box(&mut datagram), black_box(vni))));
    group.bench_function("pop", |b| b.iter(|| vxlan::pop(black_box(&datagram))));
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
