//! Longest-prefix match in a small and in a large cluster's table, and building that table.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ipnet::{IpNet, Ipv4Net};
use weft_bench::scene::prefixes;
use weft_switch::table::lpm::Lpm;

/// Prefixes: of a few nodes, of as many as Kubernetes is said to bear.
const COUNTS: [u32; 2] = [10, 5000];
/// Addresses looked up in turn: more than a branch predictor learns.
const PROBES: u32 = 4096;

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("lpm");
    for count in COUNTS {
        let any = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));
        let entries: Vec<_> = prefixes(count).chain([any]).zip(0u32..).collect();
        let table = Lpm::build(entries.iter().copied());
        let known: Vec<_> = (0..PROBES).map(|i| probe(10, i.wrapping_mul(2_654_435_761) % count)).collect();
        let unknown: Vec<_> = (0..PROBES).map(|i| probe(8, i)).collect();
        group.throughput(Throughput::Elements(u64::from(PROBES)));
        for (name, probes) in [("pod", &known), ("default", &unknown)] {
            group.bench_function(BenchmarkId::new(name, count), |b| {
                b.iter(|| probes.iter().filter(|ip| table.lookup(black_box(**ip)).is_some()).count());
            });
        }
        group.throughput(Throughput::Elements(u64::from(count)));
        group.bench_function(BenchmarkId::new("build", count), |b| {
            b.iter(|| Lpm::build(black_box(&entries).iter().copied()));
        });
    }
    group.finish();
}

fn probe(net: u8, subnet: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from((u32::from(net) << 24) + (subnet << 8) + 9))
}

criterion_group!(benches, bench);
criterion_main!(benches);
