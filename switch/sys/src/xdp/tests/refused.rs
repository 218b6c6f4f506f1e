//! Who has a device, and what is left behind.
use super::*;

fn program() -> Program {
    Program::everything(&XskMap::new(1).unwrap()).unwrap()
}

/// The index of the first.
fn pair_of_two_queues(near: &str, far: &str) -> u32 {
    let two = ["numtxqueues", "2", "numrxqueues", "2"];
    let mut ip = std::process::Command::new("ip");
    ip.args(["link", "add", "name", near]).args(two).args(["type", "veth", "peer", "name", far]);
    assert!(ip.status().unwrap().success());
    Netlink::new().unwrap().link_by_name(near).unwrap().unwrap().index
}

fn attached(device: u32) -> Option<XdpMode> {
    Netlink::new().unwrap().xdp_program(device).unwrap().map(|program| program.mode)
}

#[test]
fn another_program_is_refused_by_its_name() {
    inside(|| {
        let (near, _) = pair("a", "b", 1500);
        for (first, mode) in [(Want::Native, "native"), (Want::Generic, "generic")] {
            let other = Attachment::new(&program(), near, first).unwrap();
            for want in [Want::Auto, Want::Native, Want::Generic] {
                let error = Attachment::new(&program(), near, want).unwrap_err();
                assert_eq!(error.kind(), std::io::ErrorKind::AlreadyExists);
                let text = error.to_string();
                assert!(text.starts_with("a has an XDP program already: weft_xdp_all (id "), "{text}");
                assert!(text.ends_with(&format!("), {mode}")), "{text}");
            }
            assert_eq!(attached(near), Some(other.mode()));
            drop(other);
            assert_eq!(attached(near), None);
        }
        assert!(Attachment::new(&program(), 9999, Want::Auto).is_err());
    });
}

#[test]
fn a_device_whose_driver_cannot_gets_it_generic() {
    inside(|| {
        let lo = Netlink::new().unwrap().link_by_name("lo").unwrap().unwrap().index;
        let attachment = Attachment::new(&program(), lo, Want::Auto).unwrap();
        assert_eq!(attachment.mode(), XdpMode::Generic);
        assert!(attachment.native_refused().is_some());
        drop(attachment);
        assert!(Attachment::new(&program(), lo, Want::Native).is_err());
    });
}

/// The link lives with its descriptors, here a second one as another process would have it.
#[test]
fn a_link_is_handed_on() {
    inside(|| {
        let (near, far) = pair("a", "b", 1500);
        let attachment = Attachment::new(&program(), near, Want::Native).unwrap();
        let second = attachment.as_fd().try_clone_to_owned().unwrap();
        drop(attachment);
        assert_eq!(attached(near), Some(XdpMode::Native));
        let second = Attachment::adopt(second, near).unwrap();
        assert_eq!(second.mode(), XdpMode::Native);
        second.replace(&program()).unwrap();
        let second = OwnedFd::from(second);
        let wrong = Attachment::adopt(second.try_clone().unwrap(), far).unwrap_err();
        assert_eq!(wrong.kind(), std::io::ErrorKind::InvalidInput);
        let none =
            Attachment::adopt(Umem::create(1, 4096).unwrap().0.as_fd().try_clone_to_owned().unwrap(), far);
        assert!(none.is_err());
        Netlink::new().unwrap().link_del(near).unwrap();
        let gone = Attachment::adopt(second, near).unwrap_err();
        assert_eq!(gone.kind(), std::io::ErrorKind::NotFound);
    });
}

/// Without a socket the kernel has the frames; and everything goes with the values.
#[test]
fn frames_without_a_socket_are_the_kernels() {
    for want in [Want::Native, Want::Generic] {
        inside(|| {
            let (near, far) = pair("a", "b", 1500);
            let (peer, kernel) = (Packets::new(far), Packets::new(near));
            let mut port = Port::new(near, want, &XdpOptions::default());
            peer.send(&frame(1, 100));
            assert_eq!(port.receive().unwrap(), frame(1, 100));
            assert_eq!(kernel.try_receive(), None);
            port.map.remove(0).unwrap();
            port.map.remove(0).unwrap();
            peer.send(&frame(2, 100));
            assert_eq!(kernel.receive().unwrap(), frame(2, 100));
            port.map.set(0, port.socket.as_fd()).unwrap();
            peer.send(&frame(3, 100));
            assert_eq!(port.receive().unwrap(), frame(3, 100));
            let Port { socket, free, map: _map, attachment } = port;
            // A socket that is closed is no longer in the map.
            drop((socket, free));
            peer.send(&frame(4, 100));
            assert_eq!(kernel.receive().unwrap(), frame(4, 100));
            drop(attachment);
            assert_eq!(attached(near), None);
        });
    }
}

/// One that is bound, and then not taken into its map, is as if it never had been.
#[test]
fn a_socket_without_a_place_in_its_map_leaves_nothing() {
    inside(|| {
        let near = pair_of_two_queues("a", "b");
        let (umem, mut free) = Umem::create(CHUNKS, 4096).unwrap();
        let (map, small) = (XskMap::new(2).unwrap(), XskMap::new(1).unwrap());
        let mut open = |map| {
            let place = Place { map: Some(map), ..Place::new(near, 1) };
            XdpSocket::open(&umem, place, &XdpOptions::default(), &mut free)
        };
        let error = open(&small).unwrap_err().to_string();
        assert!(error.starts_with("put a socket into the XSKMAP"), "{error}");
        let mut socket = None;
        // The kernel forgets it a little later.
        assert!(within(|| {
            socket = open(&map).ok();
            socket.is_some()
        }));
        let socket = socket.unwrap();
        assert_eq!(free.len() + socket.filled(), CHUNKS as usize);
        socket.take_back(&mut free);
        all_there(&free);
    });
}

#[test]
fn what_cannot_be_is_refused() {
    inside(|| {
        let (near, _) = pair("a", "b", 1500);
        let (umem, mut free) = Umem::create(CHUNKS, 4096).unwrap();
        let mut kind = |queue, options: &XdpOptions| {
            let error = XdpSocket::open(&umem, Place::new(near, queue), options, &mut free).unwrap_err();
            all_there(&free);
            if queue > 0 {
                let text = error.to_string();
                let both =
                    format!("bind: device {near} has no queue 7, or frames of several chunks need Linux 6.6");
                assert_eq!(text, if options.frags { &both } else { both.split_once(',').unwrap().0 });
            }
            error.kind()
        };
        let odd = XdpOptions { rx: 100, ..XdpOptions::default() };
        assert_eq!(kind(0, &odd), std::io::ErrorKind::InvalidInput);
        for frags in [false, true] {
            let options = XdpOptions { frags, ..XdpOptions::default() };
            assert_eq!(kind(7, &options), std::io::ErrorKind::InvalidInput);
        }
        let zero = XdpOptions { copy: CopyMode::ZeroCopy, ..XdpOptions::default() };
        assert_eq!(kind(0, &zero), std::io::ErrorKind::Unsupported);
        let auto = XdpOptions { copy: CopyMode::Auto, ..XdpOptions::default() };
        assert!(!XdpSocket::open(&umem, Place::new(near, 0), &auto, &mut free).unwrap().is_zero_copy());
    });
    for (count, size) in [(0, 4096), (1, 1024), (1, 8192), (1 << 20, 4096)] {
        let error = Umem::create(count, size).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    }
}
