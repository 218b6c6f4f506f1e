//! Frames both ways.
use super::*;

fn both_ways(want: Want, mode: XdpMode, mtu: u32, options: &XdpOptions, lengths: &[usize], each: usize) {
    let (near, far) = pair("a", "b", mtu);
    let peer = Packets::new(far);
    let mut port = Port::new(near, want, options);
    assert_eq!(port.attachment.mode(), mode);
    assert!(!port.socket.is_zero_copy());
    for (number, length) in (0..).zip(lengths) {
        let sent = frame(number, *length);
        peer.send(&sent);
        assert_eq!(port.receive().expect("a frame"), sent, "{length} to us");
        port.send(&sent, each);
        assert_eq!(peer.receive().expect("a frame"), sent, "{length} from us");
        assert_eq!(peer.try_receive(), None);
    }
    port.end();
}

const LENGTHS: [usize; 4] = [60, 500, 1400, 1514];

#[test]
fn frames_native() {
    inside(|| both_ways(Want::Auto, XdpMode::Native, 1500, &XdpOptions::default(), &LENGTHS, 4000));
}

#[test]
fn frames_generic() {
    inside(|| both_ways(Want::Generic, XdpMode::Generic, 1500, &XdpOptions::default(), &LENGTHS, 4000));
}

const LONG: [usize; 6] = [60, 3840, 3841, 8000, 8950, 9014];
const FRAGS: XdpOptions = XdpOptions { copy: CopyMode::Auto, frags: true, ..handover::OPTIONS };

#[test]
fn long_frames_native() {
    inside(|| both_ways(Want::Native, XdpMode::Native, 9000, &FRAGS, &LONG, 3000));
}

#[test]
fn long_frames_generic() {
    inside(|| both_ways(Want::Generic, XdpMode::Generic, 9000, &FRAGS, &LONG, 3000));
}

/// As many pieces as a frame can have: were it one more, the kernel would keep the chunks for ever.
#[test]
fn a_frame_of_as_many_pieces_as_can_be() {
    inside(|| {
        let (near, far) = pair("a", "b", 9000);
        let peer = Packets::new(far);
        let mut port = Port::new(near, Want::Auto, &FRAGS);
        let sent = frame(1, 100 * MAX_PIECES);
        port.send(&sent, 100);
        assert_eq!(peer.receive().expect("a frame"), sent);
        let umem = Arc::clone(port.socket.umem());
        let mut pieces = cut(&umem, &mut port.free, &frame(1, 100 * MAX_PIECES + 1), 100);
        assert!(port.socket.send(&mut pieces).is_err());
        assert_eq!(pieces.len(), MAX_PIECES + 1);
        port.free.extend(pieces.into_iter().map(|piece| piece.chunk));
        port.end();
    });
}

#[test]
fn frames_that_cannot_be_sent_stay() {
    inside(|| {
        let (near, _) = pair("a", "b", 1500);
        let mut port = Port::new(near, Want::Auto, &XdpOptions::default());
        let size = port.socket.umem().chunk_size();
        for (offset, len, more) in [(0, 0, false), (1, size, false), (u32::MAX, 2, false), (0, 60, true)] {
            let mut pieces = vec![Piece { chunk: port.free.pop().unwrap(), offset, len, more }];
            assert_eq!(port.socket.send(&mut pieces).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
            port.free.extend(pieces.into_iter().map(|piece| piece.chunk));
        }
        port.end();
    });
}

/// More frames than rings and chunks: some are lost and counted, no chunk is.
#[test]
fn rings_that_overflow_lose_frames_and_no_chunk() {
    let options = XdpOptions { rx: 16, fill: 32, ..handover::OPTIONS };
    for want in [Want::Native, Want::Generic] {
        inside(|| {
            let (near, far) = pair("a", "b", 1500);
            let peer = Packets::new(far);
            let mut port = Port::new(near, want, &options);
            assert_eq!(port.socket.filled(), 32);
            for number in 0..100 {
                peer.send(&frame(number, 100));
            }
            let lost = |statistics: &XdpStatistics| {
                statistics.rx_dropped + statistics.rx_ring_full.unwrap_or_default()
            };
            assert!(within(|| lost(&port.socket.statistics().unwrap()) == 100 - 16));
            for number in 0..16 {
                assert_eq!(port.receive().unwrap(), frame(number, 100));
            }
            assert_eq!(port.socket.receive(&mut Vec::new(), 1), 0);
            // It goes on as before.
            port.socket.fill(&mut port.free, 16);
            peer.send(&frame(200, 100));
            assert_eq!(port.receive().unwrap(), frame(200, 100));
            // The other way: what does not fit stays with us.
            let umem = Arc::clone(port.socket.umem());
            let mut pieces = Vec::new();
            for number in 0..100 {
                pieces.append(&mut cut(&umem, &mut port.free, &frame(number, 100), 100));
            }
            assert_eq!(port.socket.send(&mut pieces).unwrap(), 64);
            assert_eq!((pieces.len(), port.socket.unsent()), (36, 64));
            assert!(!port.socket.kick().unwrap(), "all of them in one call");
            assert!(within(|| port.socket.complete(&mut port.free) > 0 && port.socket.unsent() == 0));
            assert_eq!(port.socket.send(&mut pieces).unwrap(), 36);
            port.socket.kick().unwrap();
            for number in 0..100 {
                assert_eq!(peer.receive().unwrap(), frame(number, 100));
            }
            port.end();
        });
    }
}

#[test]
fn busy_polling_and_waking() {
    inside(|| {
        let (near, far) = pair("a", "b", 1500);
        let peer = Packets::new(far);
        let mut port = Port::new(near, Want::Auto, &XdpOptions::default());
        let is_set = |port: &Port| rings::prefers_busy_poll(port.socket.as_fd()).unwrap();
        assert!(!port.socket.busy_polls() && !is_set(&port));
        for (number, micros) in (0..).zip([20, 0, 1]) {
            port.socket.set_busy_poll(micros, 64).unwrap();
            assert_eq!((port.socket.busy_polls(), is_set(&port)), (micros > 0, micros > 0));
            port.socket.wake_receive().unwrap();
            peer.send(&frame(number, 60));
            assert_eq!(port.receive().unwrap(), frame(number, 60));
            port.send(&frame(number, 60), 100);
            assert_eq!(peer.receive().unwrap(), frame(number, 60));
        }
        port.end();
    });
}

/// Kernel fact: a device that goes away says so by `kick`, not by `poll`.
#[test]
fn a_device_that_is_down_and_one_that_is_gone() {
    inside(|| {
        let (near, _) = pair("a", "b", 1500);
        let mut port = Port::new(near, Want::Auto, &XdpOptions::default());
        let mut netlink = Netlink::new().unwrap();
        let down = LinkChange { up: Some(false), ..LinkChange::default() };
        netlink.link_set(near, &down).unwrap();
        assert_eq!(port.socket.kick().unwrap_err().raw_os_error(), Some(libc::ENETDOWN));
        netlink.link_del(near).unwrap();
        assert_eq!(port.socket.kick().unwrap_err().raw_os_error(), Some(libc::ENXIO));
        let mut polled = [rustix::event::PollFd::new(&port.socket, rustix::event::PollFlags::IN)];
        assert_eq!(rustix::event::poll(&mut polled, Some(&Default::default())).unwrap(), 0);
        port.end();
    });
}

/// Ethernet, IPv4 and UDP to 192.0.2.7:4789, `length` bytes in all; what is not looked at is left out.
fn datagram(length: usize) -> Vec<u8> {
    let mut bytes = frame(1, length);
    bytes[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
    bytes[20..24].copy_from_slice(&[0x40, 0, 64, 17]);
    bytes[30..34].copy_from_slice(&[192, 0, 2, 7]);
    bytes[36..38].copy_from_slice(&4789_u16.to_be_bytes());
    bytes
}

/// Short ones, and long ones that are in more than one buffer.
#[test]
fn the_tunnels_frames_and_no_others() {
    for want in [Want::Native, Want::Generic] {
        inside(|| {
            let (near, far) = pair("a", "b", 9000);
            let (peer, kernel) = (Packets::new(far), Packets::new(near));
            let mut port = Port::new(near, want, &FRAGS);
            let endpoints = Endpoints::new(4).unwrap();
            port.attachment.replace(&Program::tunnel(&port.map, &endpoints, None).unwrap()).unwrap();
            endpoints.add("192.0.2.7:4789".parse().unwrap()).unwrap();
            for length in [42, 1500, 5000, 9014] {
                peer.send(&frame(2, length));
                peer.send(&datagram(length));
                assert_eq!(port.receive().expect("a datagram"), datagram(length));
                assert_eq!(kernel.receive().expect("a frame"), frame(2, length));
            }
            assert_eq!(kernel.try_receive(), None);
            port.end();
        });
    }
}

/// Kernel fact: a program without frags, of older kernels, is refused where the MTU is large.
#[test]
fn large_mtus_want_frags() {
    inside(|| {
        let (near, _) = pair("a", "b", 9000);
        let pass = [crate::bpf::Insn::set(crate::bpf::Reg::R0, 2), crate::bpf::Insn::exit()];
        let program = crate::bpf::load_xdp(&pass, c"old", c"", false).unwrap();
        for native in [true, false] {
            let flags = if native { 1 << 2 } else { 1 << 1 };
            let attached = crate::bpf::attach_xdp(program.as_fd(), near, flags);
            assert_eq!(attached.err().and_then(|e| e.raw_os_error()), native.then_some(libc::ERANGE));
        }
    });
}
