//! A publication: from the call until every worker forwards by the new snapshot. One port is added and taken away
//! again beside 100 or 500; the building of the snapshot is not in the time. `node`: a node of 5,000 changes its address;
//! the building of both tables that hold nodes anew, routes and peers, is in the time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use weft_bench::scene::{bridge, nodes, pod};
use weft_switch::path::{Dataplane, DataplaneConfig};
use weft_switch::port::MemDevice;
use weft_switch::table::{Bridges, Port, PortSlot, Ports, Snapshot};
use weft_sys::tun::Offloads;

const PORTS: [u16; 2] = [100, 500];
/// Nodes of a large cluster.
const NODES: u32 = 5000;
/// Frames of a port's ring; none passes.
const RING: usize = 4;
/// Longer than a worker spins.
const ASLEEP: Duration = Duration::from_micros(500);

fn bench(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("publish");
    for count in PORTS {
        for (name, pause) in [("worker_awake", Duration::ZERO), ("worker_asleep", ASLEEP)] {
            let mut control = Control::start(count);
            group.bench_function(BenchmarkId::new(name, count), |b| {
                b.iter_custom(|rounds| {
                    let mut time = Duration::ZERO;
                    for _ in 0..rounds {
                        let snapshot = control.next();
                        std::thread::sleep(pause);
                        time += control.publish(snapshot);
                    }
                    time
                });
            });
        }
    }
    let mut control = Control::start(PORTS[0]);
    group.bench_function(BenchmarkId::new("node", NODES), |b| {
        b.iter_custom(|rounds| {
            let mut time = Duration::ZERO;
            for _ in 0..rounds {
                let start = Instant::now();
                let snapshot = control.with_nodes();
                time += start.elapsed() + control.publish(snapshot);
            }
            time
        });
    });
    group.finish();
}

struct Control {
    dataplane: Dataplane,
    bridges: Arc<Bridges>,
    ports: Vec<Option<Arc<Port>>>,
    epoch: u64,
}

impl Control {
    fn start(count: u16) -> Self {
        let dataplane = Dataplane::start(&DataplaneConfig::default()).expect("a worker starts");
        let ports = (0..count).map(|slot| Some(new_port(PortSlot(slot), u64::from(slot)))).collect();
        let bridges = Arc::new(Bridges { slots: vec![Some(Arc::new(bridge(0)))] });
        let mut control = Control { dataplane, bridges, ports, epoch: 0 };
        let first = control.snapshot();
        control.publish(first);
        control
    }

    /// With one port more, or one less.
    fn next(&mut self) -> Arc<Snapshot> {
        if self.epoch.is_multiple_of(2) {
            self.ports.pop();
        } else {
            let slot = PortSlot(self.ports.len() as u16);
            self.ports.push(Some(new_port(slot, 1_000_000 + self.epoch)));
        }
        self.snapshot()
    }

    fn snapshot(&mut self) -> Arc<Snapshot> {
        self.epoch += 1;
        let ports = Arc::new(Ports { slots: self.ports.clone() });
        let bridges = Arc::clone(&self.bridges);
        Arc::new(Snapshot { epoch: self.epoch, ports, bridges, tunnels: Arc::default() })
    }

    /// With the tables of a large cluster, new ones.
    fn with_nodes(&mut self) -> Arc<Snapshot> {
        self.bridges = Arc::new(Bridges { slots: vec![Some(Arc::new(bridge(NODES)))] });
        let mut snapshot = Arc::unwrap_or_clone(self.snapshot());
        snapshot.tunnels = Arc::new(nodes(NODES));
        Arc::new(snapshot)
    }

    fn publish(&self, snapshot: Arc<Snapshot>) -> Duration {
        let epoch = snapshot.epoch;
        let start = Instant::now();
        self.dataplane.publish(snapshot);
        assert!(self.dataplane.wait(epoch, Duration::from_secs(10)), "the worker acknowledges");
        start.elapsed()
    }
}

fn new_port(slot: PortSlot, generation: u64) -> Arc<Port> {
    let device = Arc::new(MemDevice::new(RING, Offloads::all()).expect("a descriptor is left"));
    Arc::new(Port { generation, ..pod(slot, &device) })
}

criterion_group!(benches, bench);
criterion_main!(benches);
