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
    forward(|first, device| first.open_beside(device, 0, &XdpOptions::default(), &mut Vec::new()).unwrap());
}

#[test]
fn a_chunk_goes_from_socket_to_socket_of_two_registrations() {
    forward(|first, device| {
        XdpSocket::open(first.umem(), device, 0, &XdpOptions::default(), &mut Vec::new()).unwrap()
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
