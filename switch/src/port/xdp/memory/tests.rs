//! Ports on veth pairs, between namespaces of pods that send and receive UDP.
use std::net::UdpSocket;

use weft_sys::ethtool::{self, Offload};
use weft_sys::link::{AddrFlags, LinkChange, Netlink};
use weft_sys::netns::Netns;
use weft_sys::tun::Offloads;

use super::*;
use crate::control::effects::port::{self, LivePort};
use crate::control::effects::testing::{namespace, root};
use crate::mem::{Batch, Frame, Pool};
use crate::port::xdp::{RECEIVING, SENDING, SHAPE, XdpDevice};
use crate::port::{Device, Refused};
use crate::table::PortSlot;

/// The memories are the process's: one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const UDP_PORT: u16 = 4000;
const BYTES: usize = 100;
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs inside a new namespace, where the ports' ends are.
fn inside(f: impl FnOnce() + Send) {
    if !root() {
        return;
    }
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    namespace().run(f).unwrap();
}

/// A pod and its port.
struct Pod {
    netns: Netns,
    /// Of the host's end.
    index: u32,
    device: XdpDevice,
    udp: UdpSocket,
    pool: Pool,
    batch: Batch,
}

struct PodsTurn<'a> {
    device: &'a XdpDevice,
    udp: &'a UdpSocket,
    pool: &'a mut Pool,
    batch: &'a mut Batch,
}

impl Pod {
    /// Every pod has the same addresses: who sends to the neighbour of one sends to any.
    fn new(name: &str) -> Self {
        let netns = namespace();
        let mut netlink = Netlink::new().unwrap();
        netlink.add_veth_to(name, 1500, "eth0", &netns).unwrap();
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        let udp = netns.run(|| {
            let mut netlink = Netlink::new().unwrap();
            let index = netlink.link_by_name("eth0").unwrap().unwrap().index;
            let change = LinkChange { mac: Some(MAC), ..up.clone() };
            netlink.link_set(index, &change).unwrap();
            let device = ethtool::Device::new("eth0").unwrap();
            for offload in [Offload::TxChecksums, Offload::Tso, Offload::Gso] {
                device.set_offload(offload, false).unwrap();
            }
            netlink.addr_add(index, "10.0.0.1/24".parse().unwrap(), AddrFlags::empty()).unwrap();
            netlink.neigh_set(index, "10.0.0.2".parse().unwrap(), MAC).unwrap();
            let udp = UdpSocket::bind(("0.0.0.0", UDP_PORT)).unwrap();
            udp.set_nonblocking(true).unwrap();
            udp
        });
        let index = netlink.link_by_name(name).unwrap().unwrap().index;
        let device = XdpDevice::open(index).unwrap();
        netlink.link_set(index, &up).unwrap();
        Pod { netns, index, device, udp: udp.unwrap(), pool: Pool::new(64), batch: Batch::default() }
    }

    /// What a worker has that receives from it.
    fn turn(&mut self) -> PodsTurn<'_> {
        let Pod { device, udp, pool, batch, .. } = self;
        PodsTurn { device, udp, pool, batch }
    }

    fn set_up(&self, up: bool) {
        let change = LinkChange { up: Some(up), ..LinkChange::default() };
        Netlink::new().unwrap().link_set(self.index, &change).unwrap();
    }

    fn send(&self, number: u8) {
        self.udp.send_to(&[number; BYTES], ("10.0.0.2", UDP_PORT)).unwrap();
    }

    /// The next frame that a turn gives which is one of those; it waits.
    fn receive(&mut self) -> Frame {
        self.try_receive(PATIENCE).expect("a frame")
    }

    fn try_receive(&mut self, patience: Duration) -> Option<Frame> {
        let mut found = None;
        within_time(patience, || {
            self.batch.set_limit(1);
            self.device.receive(PortSlot(1), &mut self.pool, &mut self.batch);
            for frame in self.batch.drain() {
                // Others are the kernel's own, as those by which it finds neighbours and routers.
                if frame.len() == 42 + BYTES { found = Some(frame) } else { self.pool.give(frame) }
            }
            if found.is_none() {
                self.device.take_back(&mut self.pool);
            }
            found.is_some()
        });
        found
    }

    /// What is done with a frame after its turn.
    fn done(&mut self, frame: Frame) {
        self.pool.give(frame);
        self.device.take_back(&mut self.pool);
    }

    /// A frame goes from here to another, and the other's pod gets it.
    fn reaches(&mut self, to: &Pod, passes: bool) {
        let mut found = None;
        // A link that has just come up loses what is sent for up to a second (`linkwatch`).
        within(|| {
            self.send(7);
            found = self.try_receive(Duration::from_millis(100));
            found.is_some()
        });
        let mut frame = found.expect("a frame");
        assert!(frame.is_in_chunk());
        address(&mut frame);
        let passed = to.device.outbound().pass(&mut frame).unwrap();
        assert_eq!(passed, passes);
        if !passed {
            let header = frame.vnet;
            to.device.outbound().send(frame.with_vnet(header)).unwrap();
        }
        to.device.flush();
        self.done(frame);
        to.gets(7);
    }

    fn gets(&self, number: u8) {
        let mut bytes = [0; BYTES + 1];
        assert!(within(|| self.udp.recv(&mut bytes).is_ok()));
        assert_eq!(bytes[..BYTES], [number; BYTES]);
    }

    /// All chunks of the account are there: in rings, and free; as many as can be are to be received in.
    fn is_whole(&self) -> bool {
        let mut ends = self.device.queue.ends();
        let ends = ends.as_mut().unwrap();
        ends.socket.complete(&mut ends.free);
        ends.refill();
        let all = ends.free.len() + ends.socket.filled() + ends.socket.unsent();
        assert_eq!((all, ends.socket.invalid()), ((RECEIVING + SENDING) as usize, 0));
        ends.socket.filled() == RECEIVING as usize
    }

    fn memory(&self) -> Shared {
        self.device.shared().unwrap()
    }

    /// The link is deleted, then the port ends.
    fn end(self) {
        Netlink::new().unwrap().link_del(self.index).unwrap();
        assert!(self.device.end());
    }
}

/// To the pod, from the neighbour that it knows; without a checksum.
fn address(frame: &mut Frame) {
    let bytes = frame.bytes_mut();
    bytes[26..30].copy_from_slice(&[10, 0, 0, 2]);
    bytes[30..34].copy_from_slice(&[10, 0, 0, 1]);
    bytes[40..42].fill(0);
}

fn within(f: impl FnMut() -> bool) -> bool {
    within_time(PATIENCE, f)
}

fn within_time(patience: Duration, mut f: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < patience {
        if f() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    false
}

/// Chunks of no port, of all memories.
fn spare() -> usize {
    memories().all.iter().map(|memory| memory.spare.len()).sum()
}

fn all() -> usize {
    memories().all.iter().map(|memory| memory.umem.count() as usize).sum()
}

#[test]
fn a_frame_goes_to_another_port_in_its_chunk() {
    inside(|| {
        let (mut a, mut b) = (Pod::new("a"), Pod::new("b"));
        assert_eq!((a.memory().number, a.memory().ports), (b.memory().number, 2));
        assert_eq!(a.device.memory(), 1536 * (2048 + 8));
        for _ in 0..2000 {
            a.send(1);
            let mut frame = a.receive();
            address(&mut frame);
            assert!(frame.push_front(4), "room for a tag");
            frame.pull_front(4);
            let place = frame.bytes().as_ptr();
            assert!(b.device.outbound().pass(&mut frame).unwrap());
            {
                let ends = b.device.queue.ends();
                let (umem, waits) = ends.as_ref().map(|ends| (&ends.umem, &ends.sending)).unwrap();
                assert_eq!(umem.piece(&waits[0]).as_ptr(), place, "it is the same memory");
            }
            b.device.flush();
            a.done(frame);
            b.gets(1);
            assert!(a.is_whole());
        }
        b.reaches(&a, true);
        assert!(within(|| a.is_whole() && b.is_whole()));
        // To itself, too.
        a.send(3);
        let mut frame = a.receive();
        address(&mut frame);
        assert!(a.device.outbound().pass(&mut frame).unwrap());
        a.device.flush();
        a.done(frame);
        a.gets(3);
        assert!(within(|| a.is_whole()));
        // And an empty one, and one of the pool, to nobody.
        let mut frame = a.pool.take().unwrap();
        assert!(!b.device.outbound().pass(&mut frame).unwrap());
        a.pool.give(frame);
        a.end();
        b.end();
    });
}

/// Two workers, each with a port of its own to receive from: they lock two devices, one after the other.
#[test]
fn workers_send_to_each_others_ports() {
    inside(|| {
        let (mut a, mut b) = (Pod::new("a"), Pod::new("b"));
        a.reaches(&b, true);
        b.reaches(&a, true);
        let work = |pod: PodsTurn<'_>, to: &XdpDevice| {
            let PodsTurn { device, udp, pool, batch } = pod;
            let (mut passed, start) = (0, Instant::now());
            while passed < 5000 {
                assert!(start.elapsed() < PATIENCE, "{passed} passed");
                for _ in 0..8 {
                    udp.send_to(&[1; BYTES], ("10.0.0.2", UDP_PORT)).unwrap();
                }
                device.receive(PortSlot(1), pool, batch);
                let mut out = to.outbound();
                for mut frame in batch.drain() {
                    passed += usize::from(out.pass(&mut frame).unwrap_or(false));
                    pool.give(frame);
                }
                out.finish();
                device.take_back(pool);
            }
        };
        {
            let (one, other) = (a.turn(), b.turn());
            let (to_one, to_other) = (one.device, other.device);
            std::thread::scope(|scope| {
                scope.spawn(|| work(one, to_other));
                scope.spawn(|| work(other, to_one));
            });
        }
        for pod in [&a, &b] {
            assert!(within(|| {
                pod.device.flush();
                pod.is_whole() && pod.device.queue.ends().as_ref().unwrap().socket.unsent() == 0
            }));
        }
        a.end();
        b.end();
    });
}

/// From the first frame of a flush to the call that sends them.
#[test]
fn who_sends_has_the_device_alone() {
    inside(|| {
        let Pod { netns: _netns, index, device, .. } = Pod::new("a");
        let device = Device::Xdp(Arc::new(device));
        let frame = [0; 12 + 60];
        let mut sender = device.sender(0);
        sender.send(&frame).unwrap();
        std::thread::scope(|scope| {
            let ((tell, told), device) = (std::sync::mpsc::channel(), &device);
            scope.spawn(move || {
                device.flush();
                tell.send(()).unwrap();
            });
            assert!(told.recv_timeout(Duration::from_millis(50)).is_err(), "another one came between");
            sender.send(&frame).unwrap();
            sender.finish();
            told.recv_timeout(PATIENCE).unwrap();
        });
        Netlink::new().unwrap().link_del(index).unwrap();
        let Device::Xdp(device) = device else { unreachable!() };
        assert!(device.end());
    });
}

/// A port that does not take what is sent to it has its own chunks in its ring, and no other's.
#[test]
fn a_wedged_port_starves_nobody() {
    inside(|| {
        let (mut a, mut b, mut wedged) = (Pod::new("a"), Pod::new("b"), Pod::new("c"));
        wedged.set_up(false);
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..3000 {
            a.send(1);
            let mut frame = a.receive();
            address(&mut frame);
            match wedged.device.outbound().pass(&mut frame) {
                Ok(passed) => taken += usize::from(passed),
                Err(why) => {
                    assert_eq!(why, Refused::Full);
                    assert_eq!(frame.len(), 42 + BYTES, "it is as it was");
                    refused += 1;
                }
            }
            wedged.device.flush();
            a.done(frame);
            assert!(a.is_whole(), "after {taken} taken and {refused} refused");
        }
        assert_eq!((taken, refused), (SENDING as usize, 3000 - SENDING as usize));
        // Copies come to the same end.
        assert_eq!(wedged.device.outbound().send(&[0; 100]), Err(Refused::Full));
        a.reaches(&b, true);
        b.reaches(&a, true);
        assert!(wedged.is_whole(), "it can still receive");
        wedged.set_up(true);
        assert!(within(|| {
            wedged.device.flush();
            wedged.device.queue.ends().as_ref().unwrap().socket.unsent() == 0
        }));
        wedged.gets(1);
        while wedged.udp.recv(&mut [0; BYTES]).is_ok() {}
        wedged.reaches(&a, true);
        a.reaches(&wedged, true);
        for pod in [a, b, wedged] {
            assert!(within(|| pod.is_whole()));
            pod.end();
        }
    });
}

/// Ports come and go, the first one of a memory as well, and those that one memory has no room for have another.
#[test]
fn a_port_that_ends_leaves_room_for_another() {
    inside(|| {
        let before = memories().all.len();
        let mut pods: Vec<Pod> = (0..PORTS + 1).map(|number| Pod::new(&format!("p{number}"))).collect();
        let numbers: Vec<usize> = pods.iter().map(|pod| pod.memory().number).collect();
        let (one, other) = (numbers[0], numbers[PORTS as usize]);
        assert!(numbers[..PORTS as usize].iter().all(|number| *number == one) && one != other, "{numbers:?}");
        assert_eq!((pods[0].memory().ports, pods[0].memory().size), (8, 8 * 1536 * (2048 + 8)));
        // From one memory to another frames are copied.
        let mut last = pods.pop().unwrap();
        pods[1].reaches(&last, false);
        last.reaches(&pods[1], false);
        // The one that registered the memory goes.
        pods.remove(0).end();
        let (mut a, b) = (pods.remove(0), pods.remove(0));
        a.reaches(&b, true);
        for round in 0..20 {
            let new = Pod::new(&format!("n{round}"));
            assert_eq!(new.memory().number, one, "there is room for one");
            a.reaches(&new, true);
            new.end();
        }
        assert_eq!(pods[0].memory().ports, PORTS as usize - 1);
        // All of them: a memory starts anew, by another registration.
        pods.into_iter().chain([a, b, last]).for_each(Pod::end);
        let (mut c, d) = (Pod::new("c"), Pod::new("d"));
        assert_eq!((c.memory().number, c.memory().ports), (d.memory().number, 2));
        c.reaches(&d, true);
        c.end();
        d.end();
        assert!(memories().all.len() <= before.max(one.max(other) + 1), "no memory too many");
        assert_eq!(spare(), all());
    });
}

/// The device has another socket: it is tried again and again, with one memory, and nothing is left of it.
#[test]
fn a_port_that_cannot_be_opened_costs_no_memory() {
    let pages = |umem: &Umem| rustix::fs::fstat(umem).unwrap().st_blocks;
    inside(|| {
        let a = Pod::new("a");
        let (before, members, count) = (spare(), a.memory().ports, memories().all.len());
        let place = Place::new(a.index, 0);
        let busy = |error: io::Error| assert_eq!(error.kind(), io::ErrorKind::ResourceBusy);
        busy(open(place, SHAPE, Duration::from_millis(20)).unwrap_err());
        assert_eq!((spare(), a.memory().ports, memories().all.len()), (before, members, count));
        // Nor can a queue be that the device does not have.
        let error = open(Place::new(a.index, 7), SHAPE, Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        assert!(error.to_string().contains("has no queue 7"), "{error}");
        assert!(!memories().alone, "others share memories all the same");
        // As if there were no room in any.
        let aside: Vec<_> = memories().all.iter_mut().map(|it| std::mem::take(&mut it.spare)).collect();
        let mut blank = None;
        busy(memories().open(place, SHAPE, &mut blank).unwrap_err());
        let first = Arc::as_ptr(&blank.as_ref().unwrap().umem);
        busy(memories().open(place, SHAPE, &mut blank).unwrap_err());
        let blank = blank.unwrap();
        assert_eq!((Arc::as_ptr(&blank.umem), memories().all.len()), (first, count));
        assert_eq!(blank.spare.len(), blank.umem.count() as usize);
        drop(blank);
        memories().all.iter_mut().zip(aside).for_each(|(memory, spare)| memory.spare = spare);
        // Neither does one that ports have had keep the pages that it has got again.
        let b = Pod::new("b");
        let (index, number) = (b.index, a.memory().number);
        assert_eq!(b.memory().number, number);
        a.end();
        Netlink::new().unwrap().link_del(index).unwrap();
        let umem = memories().all[number].umem;
        assert!(pages(umem) > 0);
        assert!(b.device.end());
        assert_eq!(pages(umem), 0);
        assert!(open(Place::new(index, 0), SHAPE, Duration::ZERO).is_err());
        assert_eq!(pages(umem), 0);
        assert_eq!(spare(), all());
    });
}

/// What is closed while its device is there is nobody's yet.
#[test]
fn the_kernels_chunks_are_taken_back_when_the_device_is_gone() {
    inside(|| {
        let (mut a, b, c) = (Pod::new("a"), Pod::new("b"), Pod::new("c"));
        let before = spare();
        let Pod { index, device, .. } = b;
        assert!(!device.queue.end(Duration::ZERO));
        drop(device);
        assert_eq!(spare(), before + SENDING as usize);
        a.reaches(&c, true);
        assert_eq!(a.memory().ports, 3, "it is leaving");
        Netlink::new().unwrap().link_del(index).unwrap();
        // Whoever comes next sees it.
        let d = Pod::new("d");
        assert_eq!(spare(), before);
        assert_eq!(d.memory().ports, 3);
        [a, c, d].into_iter().for_each(Pod::end);
        assert_eq!(spare(), all());
    });
}

/// Their chunks are there before another process looks which there are.
#[test]
fn a_hand_over_waits_for_ports_that_end() {
    inside(|| {
        let (a, b) = (Pod::new("a"), Pod::new("b"));
        let (before, Pod { netns, device, .. }) = (spare(), b);
        let index = || Netlink::new().unwrap().link_by_name("eth0").unwrap().unwrap().index;
        let live = LivePort {
            device: Device::Xdp(Arc::new(device)),
            netns: netns.id().unwrap(),
            index: netns.run(index).unwrap(),
            offloads: Offloads::empty(),
            host: "b".to_owned(),
        };
        port::destroy(live, Some(netns));
        assert!(port::wait_for_ends(PATIENCE));
        assert_eq!((spare(), a.memory().ports), (before + (RECEIVING + SENDING) as usize, 1));
        a.end();
    });
}

/// As the next process does, with what the one before had in its hands.
#[test]
fn accounts_are_whole_again_after_the_process() {
    inside(|| {
        let (mut a, b) = (Pod::new("a"), Pod::new("b"));
        // One frame is in this process's hands, and others wait in rings.
        a.send(1);
        let mut frame = a.receive();
        address(&mut frame);
        b.set_up(false);
        assert!(b.device.outbound().pass(&mut frame).unwrap());
        b.device.flush();
        a.send(2);
        a.send(3);
        let [mut a, mut b] = next_process([a, b]);
        a.device.activate().unwrap();
        b.device.activate().unwrap();
        assert!(a.is_whole() && b.is_whole());
        b.set_up(true);
        assert!(within(|| {
            b.device.flush();
            b.device.queue.ends().as_ref().unwrap().socket.unsent() == 0
        }));
        b.gets(1);
        for number in [2, 3] {
            let frame = a.receive();
            assert_eq!(frame.bytes()[42..], [number; BYTES]);
            a.done(frame);
        }
        a.reaches(&b, true);
        b.reaches(&a, true);
        a.pool.give(frame);
        take_back(a.pool.take_chunk().unwrap());
        a.end();
        b.end();
        assert_eq!(spare(), all());
    });
}

/// What the next process gets of ports, when this one knows no more of them.
fn next_process(pods: [Pod; 2]) -> [Pod; 2] {
    let left = pods.map(|pod| {
        let Pod { netns, index, device, udp, pool, batch } = pod;
        let parts = device.descriptors().map(|fd| fd.try_clone_to_owned().unwrap());
        drop(device);
        (parts, index, move |device| Pod { netns, index, device, udp, pool, batch })
    });
    memories().all.iter_mut().for_each(|memory| memory.leaving.clear());
    left.map(|(parts, index, pod)| pod(XdpDevice::adopt(parts, index).unwrap()))
}
