//! One subject at a time, run so many times inside [`counted`]: what `scripts/instructions.sh` counts instructions of.
//!
//! usage: weft-instructions               names the subjects, and what one element of each is
//!        weft-instructions SUBJECT       runs it, and says how many elements went through `counted`
#![forbid(unsafe_code)]

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};
use weft_bench::frames::{Ends, SMALL, headers, segments, tcp4, tcp4_superframe, udp4};
use weft_bench::node::{Node, receive};
use weft_bench::scene::{Keep, Scene, Setting, Speech, Traffic, Way, prefixes};
use weft_encap::checksum::{Sum, copy_and_sum};
use weft_encap::gro::{Gro, MAX_FRAME, Push};
use weft_encap::gso::{MAX_SEND, MAX_SEND_PIECES, Plan, cut};
use weft_encap::{FlowKey, Vni, flow, parse, vxlan};
use weft_switch::mem::BATCH;
use weft_switch::path::accelerate;
use weft_switch::port::underlay::Receiver;
use weft_switch::table::lpm::Lpm;

/// Batches of a subject; the seeds of hashes, which differ from run to run, matter the less the more there are.
const ROUNDS: usize = 200;
/// Flows of a subject that looks for them.
const FLOWS: usize = 1000;
/// A large cluster, each node with a route.
const NODES: u32 = 5000;
/// Bytes of a superframe, and of payload in its segments.
const SUPERFRAME: (usize, u16) = (60_000, 1398);

/// A subject: its name, what one element is, and what runs it and says how many elements that were.
type Subject = (&'static str, &'static str, fn() -> usize);

const SUBJECTS: [Subject; 26] = [
    ("parse-udp", "frame", || parsed(&udp4(&Ends::sample(), SMALL))),
    ("parse-tcp", "frame", || parsed(&tcp4(&Ends::sample(), 1, 1514))),
    ("key-hash", "frame", key_hash),
    ("lpm-5000", "look-up", lpm),
    ("checksum-64", "byte", || sum(64)),
    ("checksum-64k", "byte", || sum(64 << 10)),
    ("copy-and-sum-64k", "byte", || copy(64 << 10)),
    ("vxlan-push", "frame", vxlan_push),
    ("vxlan-pop", "frame", vxlan_pop),
    ("gso-cut", "segment", gso_cut),
    ("gro-glue", "segment", gro_glue),
    ("hit-l2", "frame", || decide(Way::Switched, Setting::default())),
    ("hit-l3", "frame", || decide(Way::Routed, Setting::default())),
    ("hit-to-peer", "frame", || decide(Way::ToPeer, Setting::default())),
    ("hit-from-peer", "frame", || decide(Way::FromPeer, Setting::default())),
    ("miss-l2", "frame", || decide(Way::Switched, large(0))),
    ("miss-l3", "frame", || decide(Way::Routed, large(0))),
    ("miss-to-peer", "frame", || decide(Way::ToPeer, large(0))),
    ("miss-insert", "frame", || decide(Way::Routed, large(64))),
    ("path-l2", "frame", || forward(Way::Switched, Speech::Tcp, FLOWS)),
    ("path-l3", "frame", || forward(Way::Routed, Speech::Tcp, FLOWS)),
    ("path-udp-coalesced", "frame", || forward(Way::Switched, Speech::Udp, 1)),
    ("path-vxlan-out", "frame", || forward(Way::ToPeer, Speech::Udp, FLOWS)),
    ("path-vxlan-in", "frame", || from_peer(FLOWS)),
    ("path-vxlan-in-coalesced", "frame", || from_peer(1)),
    ("path-vxlan-in-tcp", "segment", from_peer_tcp),
];

fn main() {
    let name = std::env::args().nth(1);
    match name.as_deref() {
        None => SUBJECTS.iter().for_each(|(name, unit, _)| println!("{name} {unit}")),
        Some(name) => {
            let subject = SUBJECTS.iter().find(|(known, ..)| *known == name);
            let (_, _, run) = subject.expect("one of the subjects that a call without arguments names");
            accelerate();
            println!("{}", run());
        }
    }
}

/// Keeps the optimizer from leaving out what makes `value`.
fn used<T>(value: T) {
    black_box(value);
}

/// What runs in here is counted, with all that it calls, and nothing else is. Not generic: its name must be one symbol.
#[inline(never)]
fn counted(run: &mut dyn FnMut()) {
    run();
}

fn parsed(frame: &[u8]) -> usize {
    counted(&mut || (0..ROUNDS).for_each(|_| used(parse(black_box(frame)))));
    ROUNDS
}

fn key_hash() -> usize {
    let (frame, secret) = (udp4(&Ends::sample(), SMALL), flow::HashSecret::default());
    let headers = headers(&frame);
    counted(&mut || {
        for _ in 0..ROUNDS {
            used(FlowKey::new(1, 0, &headers, black_box(&frame)).map(|key| key.hash(&secret)));
        }
    });
    ROUNDS
}

fn lpm() -> usize {
    // Each has seeds of its own.
    const TABLES: usize = 64;
    let any = IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::UNSPECIFIED, 0));
    let pod = |i: u32| IpAddr::V4(Ipv4Addr::from((10 << 24) + (i << 8) + 9));
    for _ in 0..TABLES {
        let table = Lpm::build(prefixes(NODES).chain([any]).zip(0u32..));
        counted(&mut || (0..NODES).for_each(|i| used(table.lookup(black_box(pod(i))))));
    }
    TABLES * NODES as usize
}

fn sum(len: usize) -> usize {
    let bytes = vec![7; len];
    counted(&mut || used(Sum::of(black_box(&bytes))));
    len
}

fn copy(len: usize) -> usize {
    let (bytes, mut to) = (vec![7; len], vec![0; len]);
    counted(&mut || used(copy_and_sum(black_box(&mut to), black_box(&bytes))));
    len
}

fn vxlan_push() -> usize {
    let mut datagram = vec![0; vxlan::LEN + SMALL];
    let vni = Vni::new(1).expect("in range");
    counted(&mut || (0..ROUNDS).for_each(|_| vxlan::push(black_box(&mut datagram), black_box(vni))));
    ROUNDS
}

fn vxlan_pop() -> usize {
    let mut datagram = vec![0; vxlan::LEN + SMALL];
    vxlan::push(&mut datagram, Vni::new(1).expect("in range"));
    counted(&mut || (0..ROUNDS).for_each(|_| used(vxlan::pop(black_box(&datagram)))));
    ROUNDS
}

fn gso_cut() -> usize {
    let (frame, headers, vnet) = tcp4_superframe(&Ends::sample(), SUPERFRAME.0, SUPERFRAME.1);
    let plan = Plan::new(&headers, vnet.validate(&headers).expect("as described")).expect("a TCP superframe");
    let mut out = vec![0; MAX_SEND];
    counted(&mut || {
        let mut first = 0;
        while first < plan.count() {
            let count = plan.group(first, vxlan::LEN, MAX_SEND, MAX_SEND_PIECES);
            cut(&frame, &headers, &plan, first..first + count, vxlan::LEN, &mut out).expect("a group fits");
            first += count;
        }
    });
    plan.count()
}

fn gro_glue() -> usize {
    let parts = tcp_segments(&Ends::sample());
    let mut buffer = vec![0; MAX_FRAME];
    counted(&mut || {
        let first = parse(&parts[0]).expect("a segment parses");
        let mut gro = Gro::start(&mut buffer, &parts[0], &first).expect("an intact segment");
        for part in &parts[1..] {
            let headers = parse(part).expect("a segment parses");
            assert_eq!(gro.push(&mut buffer, part, &headers), Push::Merged);
        }
        used(gro.finish(&mut buffer));
    });
    parts.len()
}

/// A large cluster's tables, and a cache of so many entries.
fn large(cache_entries: usize) -> Setting {
    Setting { cache_entries, nodes: NODES, stations: 0 }
}

/// Decides about batches; hits where the cache holds the flows, else misses.
fn decide(way: Way, setting: Setting) -> usize {
    let mut scene = Scene::new(setting).expect("loopback sockets");
    let mut traffic = Traffic::new(way, Speech::Udp, FLOWS);
    let mut keep = Keep::default();
    scene.warm(&mut traffic);
    for _ in 0..ROUNDS {
        scene.load(&mut traffic);
        counted(&mut || scene.process_to(&mut keep));
        keep.empty(&mut scene.pool);
    }
    scene.check();
    ROUNDS * BATCH
}

/// Decides about batches and sends them.
fn forward(way: Way, speech: Speech, flows: usize) -> usize {
    let mut scene = Scene::new(Setting::default()).expect("loopback sockets");
    let mut traffic = Traffic::new(way, speech, flows);
    scene.warm(&mut traffic);
    for _ in 0..ROUNDS {
        scene.load(&mut traffic);
        counted(&mut || {
            scene.process();
            scene.flush();
        });
        scene.drain();
    }
    scene.check();
    ROUNDS * BATCH
}

/// Receives runs of small packets from the other node, and forwards them.
fn from_peer(flows: usize) -> usize {
    let mut scene = Scene::new(Setting::default()).expect("loopback sockets");
    let mut traffic = Traffic::new(Way::FromPeer, Speech::Udp, flows);
    scene.warm(&mut traffic);
    let (mut node, mut receiver) = (Node::new(&scene), Receiver::default());
    for _ in 0..ROUNDS {
        node.send(traffic.batch());
        counted(&mut || receive(&mut receiver, &mut scene, BATCH));
        scene.drain();
    }
    scene.check();
    ROUNDS * BATCH
}

/// The same with the segments of a TCP superframe.
fn from_peer_tcp() -> usize {
    const RUNS: usize = 10;
    let mut scene = Scene::new(Setting::default()).expect("loopback sockets");
    let parts = tcp_segments(&Traffic::ends(Way::FromPeer, 0, 0));
    let (mut node, mut receiver) = (Node::new(&scene), Receiver::default());
    for _ in 0..RUNS {
        node.send(parts.iter().map(Vec::as_slice));
        counted(&mut || receive(&mut receiver, &mut scene, parts.len()));
        assert_eq!(scene.drain(), 1, "one superframe");
    }
    scene.check();
    RUNS * parts.len()
}

fn tcp_segments(ends: &Ends) -> Vec<Vec<u8>> {
    let (frame, headers, _) = tcp4_superframe(ends, SUPERFRAME.0, SUPERFRAME.1);
    segments(&frame, &headers, SUPERFRAME.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subject_runs() {
        for (name, unit, run) in SUBJECTS {
            assert!(run() > 0, "{name} {unit}");
            assert_eq!(SUBJECTS.iter().filter(|(other, ..)| *other == name).count(), 1, "{name}");
        }
    }
}
