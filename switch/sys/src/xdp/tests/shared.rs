//! Several sockets with one memory.
use super::*;

/// A frame comes in by one device and leaves by another in the same chunk.
fn forward(open: impl FnOnce(&XdpSocket, u32) -> XdpSocket + Send) {
    inside(|| {
        let (near, far) = pair("a", "b", 1500);
        let (other, beyond) = pair("c", "d", 1500);
        let (from, to) = (Packets::new(far), Packets::new(beyond));
        let mut port = Port::new(near, Want::Auto, &XdpOptions::default());
        let mut second = open(&port.socket, other);
        for number in 0..200 {
            from.send(&frame(number, 900));
            let mut pieces = Vec::new();
            assert!(within(|| port.socket.receive(&mut pieces, 8) == 1));
            let index = pieces[0].chunk.index();
            assert_eq!(second.send(&mut pieces).unwrap(), 1);
            second.kick().unwrap();
            assert_eq!(to.receive().unwrap(), frame(number, 900));
            let mut sent = Vec::new();
            assert!(within(|| second.complete(&mut sent) == 1));
            assert_eq!(sent[0].index(), index);
            assert_eq!(port.socket.fill(&mut sent, 1), 1);
        }
        // What a closed socket had comes back, and nothing of the other's.
        assert_eq!(second.fill(&mut port.free, 10), 10);
        let before = port.free.len();
        second.take_back(&mut port.free);
        assert_eq!(port.free.len(), before + 10);
        port.end();
    });
}

#[test]
fn a_chunk_goes_from_socket_to_socket_of_one_registration() {
    forward(|first, device| {
        first.open_beside(Place::new(device, 0), &XdpOptions::default(), &mut Vec::new()).unwrap()
    });
}

#[test]
fn a_chunk_goes_from_socket_to_socket_of_two_registrations() {
    forward(|first, device| {
        XdpSocket::open(first.umem(), Place::new(device, 0), &XdpOptions::default(), &mut Vec::new()).unwrap()
    });
}

#[test]
#[should_panic = "chunk of another memory"]
fn chunks_of_another_memory_are_not_taken() {
    let ((umem, mut own), (_other, mut foreign)) =
        (Umem::create(1, 4096).unwrap(), Umem::create(1, 4096).unwrap());
    umem.bytes_mut(&mut own[0]).fill(1);
    umem.bytes_mut(&mut foreign[0]).fill(1);
}

/// Kernel fact: the socket that registered a memory may be closed, and its device be deleted; the others go on, and by each of
/// them another one joins (`xdp_get_umem`, `xp_get_pool`).
#[test]
fn a_registration_outlives_its_first_socket() {
    inside(|| {
        let (umem, free) = Umem::create(CHUNKS, 4096).unwrap();
        let mut free = free;
        let devices = ["a", "b", "c", "d"].map(|name| pair(name, &format!("{name}1"), 1500));
        let peers = devices.map(|(_, far)| Packets::new(far));
        let maps = devices.map(|_| XskMap::new(1).unwrap());
        let _attached: Vec<Attachment> = devices
            .iter()
            .zip(&maps)
            .map(|((near, _), map)| {
                Attachment::new(&Program::everything(map).unwrap(), *near, Want::Auto).unwrap()
            })
            .collect();
        let options = XdpOptions { rx: 32, tx: 32, fill: 32, completion: 32, ..XdpOptions::default() };
        let first = XdpSocket::open(&umem, Place::new(devices[0].0, 0), &options, &mut free).unwrap();
        let second = first.open_beside(Place::new(devices[1].0, 0), &options, &mut free).unwrap();
        let mut sockets = vec![first, second];
        for (next, how) in [(2, "closed"), (3, "deleted")] {
            // The one that all others came by, directly or not, goes.
            let gone = sockets.remove(0);
            if how == "deleted" {
                Netlink::new().unwrap().link_del(devices[next - 2].0).unwrap();
                let last = XdpSocket::open_sharing(
                    &umem,
                    gone.as_fd(),
                    Place::new(devices[next].0, 0),
                    &options,
                    &mut Vec::new(),
                );
                assert_eq!(last.unwrap_err().kind(), std::io::ErrorKind::NotConnected);
                assert!(gone.retire(&mut free).is_none());
            } else {
                // Its device is there: nobody knows whether it has another descriptor.
                let gone = gone.retire(&mut free).expect("it is open");
                gone.take_back(&mut free);
            }
            let place = Place::new(devices[next].0, 0);
            let with = sockets[0].as_fd();
            sockets.push(XdpSocket::open_sharing(&umem, with, place, &options, &mut free).unwrap());
            for (at, socket) in sockets.iter().enumerate() {
                maps[next - 1 + at].set(0, socket.as_fd()).unwrap();
            }
            let (from, to) = (&peers[next - 1], &peers[next]);
            let [one, other] = &mut sockets[..] else { unreachable!() };
            for number in 0..100 {
                from.send(&frame(number, 700));
                let mut pieces = Vec::new();
                assert!(within(|| one.receive(&mut pieces, 1) == 1));
                assert_eq!(other.send(&mut pieces).unwrap(), 1);
                other.kick().unwrap();
                assert_eq!(to.receive().unwrap(), frame(number, 700));
                let mut sent = Vec::new();
                assert!(within(|| other.complete(&mut sent) == 1));
                assert_eq!(one.fill(&mut sent, 1), 1);
            }
        }
        for socket in sockets {
            socket.take_back(&mut free);
        }
        all_there(&free);
    });
}

/// Kernel fact: a queue that has a socket is busy for any other, but not for one that is to share this one's memory (`xsk_bind`).
#[test]
fn the_kernel_says_several_things_by_one_error() {
    inside(|| {
        let (near, _) = pair("a", "b", 1500);
        let options = XdpOptions::default();
        let port = Port::new(near, Want::Auto, &options);
        let busy = XdpSocket::open(port.socket.umem(), Place::new(near, 0), &options, &mut Vec::new());
        assert_eq!(busy.unwrap_err().kind(), std::io::ErrorKind::ResourceBusy);
        for (queue, cause) in [(0, "has the very socket"), (7, "has no queue 7")] {
            let place = Place::new(near, queue);
            let error = port.socket.open_beside(place, &options, &mut Vec::new()).unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
            assert!(error.to_string().contains(cause), "{error}");
        }
        port.end();
    });
}

/// Kernel fact: a socket whose device is deleted keeps none of its chunks (`xsk_notifier`), whoever else has it.
#[test]
fn a_deleted_device_leaves_its_chunks() {
    inside(|| {
        let (near, far) = pair("a", "b", 1500);
        let peer = Packets::new(far);
        let Port { mut socket, mut free, map: _map, attachment: _attachment } =
            Port::new(near, Want::Auto, &XdpOptions::default());
        let held = socket.as_fd().try_clone_to_owned().unwrap();
        peer.send(&frame(1, 100));
        let mut pieces = Vec::new();
        assert!(within(|| socket.receive(&mut pieces, 1) == 1));
        peer.send(&frame(2, 100));
        assert_eq!(socket.send(&mut pieces).unwrap(), 1);
        socket = socket.retire(&mut free).expect("its device is there");
        Netlink::new().unwrap().link_del(near).unwrap();
        assert!(socket.retire(&mut free).is_none());
        all_there(&free);
        drop(held);
    });
}
