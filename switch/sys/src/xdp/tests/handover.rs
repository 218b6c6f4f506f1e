//! One process after another: a socket that is taken over, and one that is opened anew.
use std::ffi::OsString;

use rustix::net::xdp::{XdpDesc, XdpDescOptions};

use super::*;
use crate::process::Spawn;

/// What the other process takes over: it is told by its environment, and finds the descriptors from 3 on.
const CHILD: &str = "WEFT_TEST_XDP_CHILD";
pub(super) const OPTIONS: XdpOptions = XdpOptions {
    rx: 64,
    tx: 64,
    fill: 128,
    completion: 64,
    copy: CopyMode::Copy,
    frags: false,
    send_buffer: 0,
};

/// Kernel fact: the rings of a bound socket can be mapped by another process (Linux 6.4). What comes meanwhile waits in
/// the ring, and nothing is lost.
#[test]
fn another_process_takes_socket_and_memory_over() {
    inside(|| {
        let (near, far) = pair("a", "b", 1500);
        let peer = Packets::new(far);
        let mut port = Port::new(near, Want::Auto, &OPTIONS);
        peer.send(&frame(0, 100));
        let mut held = Vec::new();
        assert!(within(|| port.socket.receive(&mut held, 1) == 1));
        // Frames come between the two.
        let Port { socket, map, attachment, .. } = port;
        let fds = [socket.as_fd(), socket.umem().as_fd(), attachment.as_fd()];
        let fds = fds.map(|fd| fd.try_clone_to_owned().unwrap());
        drop((socket, held, map, attachment));
        for number in 1..=10 {
            peer.send(&frame(number, 100));
        }
        let name = "xdp::tests::handover::the_other_process";
        let program = std::env::current_exe().unwrap();
        let arguments = ["--exact", name, "--nocapture"].map(OsString::from);
        let environment = [(OsString::from(CHILD), OsString::from(near.to_string()))];
        let child = Spawn {
            program: &program,
            args: &arguments,
            env: &environment,
            pid_vars: &[],
            fds: &[fds[0].as_fd(), fds[1].as_fd(), fds[2].as_fd()],
        };
        let pid = child.start().unwrap();
        drop(fds);
        // The child answers each frame, those too that came before it.
        for number in 1..=10 {
            assert_eq!(peer.receive().expect("an answer"), frame(number, 100));
        }
        peer.send(&frame(11, 100));
        assert_eq!(peer.receive().expect("an answer"), frame(11, 100));
        let status = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
        assert_eq!(status.unwrap().1.exit_status(), Some(0));
        assert_eq!(Netlink::new().unwrap().xdp_program(near).unwrap(), None);
    });
}

/// Sends eleven frames back, and sees that no chunk is missing. Maps it makes anew: a program with them takes the other's
/// place.
#[test]
fn the_other_process() {
    let Some(device) = std::env::var(CHILD).ok().and_then(|device| device.parse().ok()) else { return };
    let [socket, memory, link] = [3, 4, 5].map(testing::inherited);
    let attachment = Attachment::adopt(link, device).unwrap();
    let map = XskMap::new(1).unwrap();
    map.set(0, socket.as_fd()).unwrap();
    attachment.replace(&Program::everything(&map).unwrap()).unwrap();
    let (umem, mut free) = Umem::adopt(memory, 4096).unwrap();
    let mut socket = XdpSocket::adopt(socket, &umem, &OPTIONS, &mut free).unwrap();
    let mut pieces = Vec::new();
    for _ in 0..11 {
        assert!(within(|| socket.receive(&mut pieces, 1) == 1));
        assert_eq!(socket.send(&mut pieces).unwrap(), 1);
        socket.kick().unwrap();
    }
    assert!(within(|| {
        socket.complete(&mut free);
        socket.unsent() == 0
    }));
    assert_eq!((socket.invalid(), socket.filled()), (0, 128 - 12));
    assert_eq!(free.len() + socket.filled(), CHUNKS as usize);
    socket.take_back(&mut free);
    all_there(&free);
}

/// A process that ended in the midst of receiving.
#[test]
fn chunks_that_were_just_coming_back_are_found() {
    inside(|| {
        let (near, far) = pair("a", "b", 1500);
        let peer = Packets::new(far);
        let port = Port::new(near, Want::Auto, &OPTIONS);
        for number in 0..3 {
            peer.send(&frame(number, 100));
        }
        let Port { mut socket, free, map: _map, attachment: _attachment } = port;
        assert!(within(|| socket.rx.available(3) == 3));
        socket.set_busy_poll(20, 64).unwrap();
        // Two are claimed, and the ring knows of one.
        for at in 0..2 {
            drop(socket.umem.claim(socket.rx.read(at).addr, socket.receiving).unwrap());
        }
        socket.rx.release(1);
        let fds = [socket.as_fd(), socket.umem().as_fd()].map(|fd| fd.try_clone_to_owned().unwrap());
        let twice = Umem::adopt(fds[1].try_clone().unwrap(), 4096).unwrap_err();
        assert_eq!(twice.kind(), std::io::ErrorKind::AlreadyExists);
        drop((socket, free));
        let [socket, memory] = fds;
        let (umem, mut free) = Umem::adopt(memory, 4096).unwrap();
        assert_eq!(free.len(), 128);
        let more = [(); 4].map(|()| socket.try_clone().unwrap());
        let mut socket = XdpSocket::adopt(socket, &umem, &OPTIONS, &mut free).unwrap();
        assert_eq!((free.len(), socket.filled()), (129, 127));
        assert!(socket.busy_polls(), "what the socket was told stays");
        let mut pieces = Vec::new();
        assert_eq!(socket.receive(&mut pieces, 8), 2);
        assert_eq!(join(&umem, &pieces[..1]), frame(1, 100));
        assert_eq!(socket.invalid(), 0);
        free.extend(pieces.into_iter().map(|piece| piece.chunk));
        // There is one value of a socket, and only with its memory and its own sizes.
        let [again, smaller, odd, other] = more;
        let refused = |fd, umem: &Arc<Umem>, options: &XdpOptions| {
            XdpSocket::adopt(fd, umem, options, &mut Vec::new()).unwrap_err().kind()
        };
        assert_eq!(refused(again, &umem, &OPTIONS), std::io::ErrorKind::AlreadyExists);
        let (fds, free_now) = ([smaller, odd, other], free.len());
        drop(socket);
        let [smaller, odd, other] = fds;
        let half = XdpOptions { fill: 64, ..OPTIONS };
        assert_eq!(refused(smaller, &umem, &half), std::io::ErrorKind::InvalidInput);
        let hundred = XdpOptions { fill: 100, ..OPTIONS };
        assert_eq!(refused(odd, &umem, &hundred), std::io::ErrorKind::InvalidInput);
        let (others, _chunks) = Umem::create(CHUNKS, 4096).unwrap();
        let keeps = other.try_clone().unwrap();
        assert_eq!(refused(other, &others, &OPTIONS), std::io::ErrorKind::InvalidInput);
        let socket = XdpSocket::adopt(keeps, &umem, &OPTIONS, &mut free).unwrap();
        assert_eq!(free.len(), free_now);
        socket.take_back(&mut free);
        all_there(&free);
    });
}

/// A process that ended in the midst of giving chunks to the kernel.
#[test]
fn chunks_that_were_not_submitted_are_found() {
    inside(|| {
        let (near, far) = pair("a", "b", 1500);
        let peer = Packets::new(far);
        let mut port = Port::new(near, Want::Auto, &OPTIONS);
        // All around the rings, so that the slots name chunks that the kernel has.
        for number in 0..=255 {
            peer.send(&frame(number, 100));
            assert_eq!(port.receive().unwrap(), frame(number, 100));
            port.send(&frame(number, 100), 100);
            assert_eq!(peer.receive().unwrap(), frame(number, 100));
            assert!(within(|| port.socket.complete(&mut port.free) == 1));
            port.socket.fill(&mut port.free, if number < 250 { 1 } else { 0 });
        }
        let Port { mut socket, mut free, map: _map, attachment: _attachment } = port;
        let umem = Arc::clone(&socket.umem);
        assert!(within(|| socket.fill.room(6) == 6 && socket.tx.room(6) == 6));
        for ahead in 0..5 {
            let (received_in, sent_from) = (free.pop().unwrap(), free.pop().unwrap());
            socket.fill.write(ahead, umem.address(&received_in));
            let (addr, len) = (umem.address(&sent_from) + 64, 60);
            socket.tx.write(ahead, XdpDesc { addr, len, options: XdpDescOptions::empty() });
            // The last ones are written, and not lent yet.
            if ahead < 4 {
                umem.lend(received_in, socket.receiving);
                umem.lend(sent_from, socket.sending);
            }
        }
        let fds = [socket.as_fd(), umem.as_fd()].map(|fd| fd.try_clone_to_owned().unwrap());
        drop((socket, free, umem));
        let [socket, memory] = fds;
        let (umem, mut free) = Umem::adopt(memory, 4096).unwrap();
        let mut socket = XdpSocket::adopt(socket, &umem, &OPTIONS, &mut free).unwrap();
        assert_eq!((free.len(), socket.filled(), socket.unsent()), (134, 122, 0));
        // It goes on, with all of them.
        assert_eq!(socket.fill(&mut free, 6), 6);
        let mut pieces = Vec::new();
        peer.send(&frame(7, 100));
        assert!(within(|| socket.receive(&mut pieces, 1) == 1));
        assert_eq!(socket.send(&mut pieces).unwrap(), 1);
        socket.kick().unwrap();
        assert_eq!(peer.receive().unwrap(), frame(7, 100));
        assert!(within(|| socket.complete(&mut free) == 1));
        assert_eq!((free.len(), socket.filled(), socket.invalid()), (129, 127, 0));
        socket.take_back(&mut free);
        all_there(&free);
    });
}

/// Kernel fact: a queue has one socket, and has it for some time after that was closed. Meanwhile frames are the kernel's.
#[test]
fn a_second_socket_waits_for_the_first() {
    for want in [Want::Native, Want::Generic] {
        inside(|| {
            let (near, far) = pair("a", "b", 1500);
            let (peer, kernel) = (Packets::new(far), Packets::new(near));
            let port = Port::new(near, want, &OPTIONS);
            let (umem, mut free) = Umem::create(CHUNKS, 4096).unwrap();
            let mut open = || XdpSocket::open(&umem, Place::new(near, 0), &OPTIONS, &mut free);
            assert_eq!(open().unwrap_err().kind(), std::io::ErrorKind::ResourceBusy);
            let Port { socket, map, attachment: _attachment, .. } = port;
            let start = Instant::now();
            drop(socket);
            let closed = start.elapsed();
            peer.send(&frame(1, 100));
            assert_eq!(kernel.receive().unwrap(), frame(1, 100));
            let mut second = None;
            assert!(within(|| {
                second = open().ok();
                second.is_some()
            }));
            let socket = second.unwrap();
            map.set(0, socket.as_fd()).unwrap();
            println!("{want:?}: closed after {closed:?}, opened again after {:?}", start.elapsed());
            peer.send(&frame(2, 100));
            let mut pieces = Vec::new();
            let mut port = socket;
            assert!(within(|| port.receive(&mut pieces, 1) == 1));
            assert_eq!(kernel.try_receive(), None);
        });
    }
}
