use std::thread;
use std::time::{Duration, Instant};

use super::*;
use crate::link::{AddrFlags, LinkChange, Netlink};
use crate::netns::Netns;
use crate::testing;

const V4: &str = "127.0.0.1:0";
const V6: &str = "[::1]:0";

fn inside(f: impl FnOnce() + Send) {
    if testing::root() {
        testing::namespace().run(f).unwrap();
    }
}

fn bind(addr: &str, options: &UdpOptions) -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind(addr.parse().unwrap(), options).unwrap();
    let addr = socket.local_addr().unwrap();
    (socket, addr)
}

/// Waits a little: over veth a datagram takes a softirq.
fn recv(socket: &UdpSocket, buf: &mut [u8]) -> Received {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        match socket.recv(buf) {
            Ok(received) => return received,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && Instant::now() < end => {
                thread::sleep(Duration::from_millis(1));
            }
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn batches_go_out_and_come_in_by_one_call_each() {
    inside(|| {
        for addr in [V4, V6] {
            let (one, to_one) = bind(addr, &UdpOptions::default());
            let (other, to_other) = bind(addr, &UdpOptions::default());
            let batch: [(SocketAddr, &[u8]); 4] =
                [(to_one, b"first"), (to_other, b"of the other"), (to_one, b""), (to_one, b"last")];
            assert_eq!(one.send_many(batch).unwrap(), 4);
            let mut deliveries = Deliveries::default();
            one.recv_many(&mut deliveries).unwrap();
            assert_eq!(deliveries.len(), 3);
            assert_eq!(deliveries.datagrams().collect::<Vec<_>>(), [b"first" as &[u8], b"last"]);
            other.recv_many(&mut deliveries).unwrap();
            assert_eq!(deliveries.datagrams().collect::<Vec<_>>(), [b"of the other"]);
            let error = other.recv_many(&mut deliveries).unwrap_err();
            assert_eq!((error.kind(), deliveries.is_empty()), (io::ErrorKind::WouldBlock, true));
            // A run that was one send is one delivery of several datagrams.
            one.send(to_other, &[IoSlice::new(&[7; 25])], Some(10), 0).unwrap();
            other.recv_many(&mut deliveries).unwrap();
            let lengths: Vec<usize> = deliveries.datagrams().map(<[u8]>::len).collect();
            assert_eq!((deliveries.len(), lengths), (1, vec![10, 10, 5]));
        }
    });
}

#[test]
fn segments_go_out_in_one_send_and_come_in_as_one() {
    inside(|| {
        for addr in [V4, V6] {
            let (socket, to) = bind(addr, &UdpOptions::default());
            let data: Vec<u8> = (0..3500u32).map(|i| i as u8).collect();
            let (head, tail) = data.split_at(1234);
            let bufs = [IoSlice::new(head), IoSlice::new(tail)];
            assert_eq!(socket.send(to, &bufs, Some(1000), 2).unwrap(), 3500);
            let mut buf = vec![0; 65535];
            let got = recv(&socket, &mut buf);
            assert_eq!(got, Received { len: 3500, from: to, segment: Some(1000), ecn: 2 });
            assert_eq!(buf[..3500], data);

            // One segment needs no message, and comes without one.
            socket.send(to, &[IoSlice::new(&data[..900])], Some(1000), 0xb8 | 1).unwrap();
            assert_eq!(recv(&socket, &mut buf), Received { len: 900, from: to, segment: None, ecn: 1 });
            assert_eq!(socket.recv(&mut buf).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    });
}

#[test]
fn without_gro_each_datagram_comes_alone() {
    inside(|| {
        for addr in [V4, V6] {
            let (socket, to) = bind(addr, &UdpOptions { gro: false, ..UdpOptions::default() });
            socket.send(to, &[IoSlice::new(&[1; 250])], Some(100), 0).unwrap();
            let mut buf = [0; 1000];
            let lengths: Vec<_> = (0..3).map(|_| recv(&socket, &mut buf).len).collect();
            assert_eq!(lengths, [100, 100, 50]);
        }
    });
}

#[test]
fn limits_of_one_send() {
    inside(|| {
        let (socket, to) = bind(V4, &UdpOptions::default());
        let data = vec![0; 70_000];
        let send = |len: usize, segment| socket.send(to, &[IoSlice::new(&data[..len])], segment, 0);
        let errno = |result: io::Result<usize>| result.unwrap_err().raw_os_error().unwrap();
        let most = max_segments();
        assert!(most == MAX_SEGMENTS || most == MAX_SEGMENTS_OLD);
        assert_eq!(send(most * 10, Some(10)).unwrap(), most * 10);
        assert_eq!(errno(send(most * 10 + 1, Some(10))), libc::EINVAL);
        assert_eq!(send(MAX_DATAGRAM, None).unwrap(), MAX_DATAGRAM);
        assert_eq!(errno(send(MAX_DATAGRAM + 1, None)), libc::EMSGSIZE);
        assert_eq!(errno(send(MAX_DATAGRAM + 1, Some(1400))), libc::EMSGSIZE);
    });
}

#[test]
fn segmentation_needs_the_checksum() {
    inside(|| {
        let (socket, to) = bind(V4, &UdpOptions::default());
        set_int(socket.as_fd(), libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
        let error = socket.send(to, &[IoSlice::new(&[0; 300])], Some(100), 0).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        assert_eq!(socket.send(to, &[IoSlice::new(&[0; 300])], None, 0).unwrap(), 300);
    });
}

#[test]
fn options_are_set() {
    inside(|| {
        let (v4, _) = bind(V4, &UdpOptions::default());
        let (v6, _) = bind(V6, &UdpOptions::default());
        let omit = sockopt::Ipv4PathMtuDiscovery::OMIT;
        assert_eq!(sockopt::ip_mtu_discover(&v4).unwrap(), omit);
        assert_eq!(sockopt::ipv6_mtu_discover(&v6).unwrap(), sockopt::Ipv6PathMtuDiscovery::OMIT);
        assert!(sockopt::ipv6_v6only(&v6).unwrap());
        let (receive, send) = v4.buffers().unwrap();
        assert!(receive >= BUFFER && send >= BUFFER, "{receive} {send}");
    });
}

#[test]
fn a_cut_datagram_is_an_error() {
    inside(|| {
        let (socket, to) = bind(V4, &UdpOptions::default());
        socket.send(to, &[IoSlice::new(&[0; 300])], None, 0).unwrap();
        thread::sleep(Duration::from_millis(10));
        assert_eq!(socket.recv(&mut [0; 299]).unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
        assert_eq!(socket.recv(&mut [0; 299]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    });
}

#[test]
fn a_socket_can_be_handed_over() {
    inside(|| {
        let (socket, addr) = bind(V6, &UdpOptions::default());
        let handed = UdpSocket::from_fd(socket.try_clone_fd().unwrap()).unwrap();
        assert_eq!(handed.local_addr().unwrap(), addr);
        handed.send(addr, &[IoSlice::new(b"x")], None, 3).unwrap();
        assert_eq!(recv(&socket, &mut [0; 10]).ecn, 3);
    });
    let pair = std::os::unix::net::UnixDatagram::pair().unwrap();
    assert_eq!(UdpSocket::from_fd(pair.0.into()).unwrap_err().kind(), io::ErrorKind::InvalidInput);
}

/// Two namespaces with a veth pair between them; the first has 10.8.0.1, the second 10.8.0.2.
fn two_nodes() -> (Netns, Netns) {
    let (a, b) = (testing::namespace(), testing::namespace());
    let address = |name: &str, net: &str| {
        let mut netlink = Netlink::new().unwrap();
        let index = netlink.link_by_name(name).unwrap().unwrap().index;
        netlink.addr_add(index, net.parse().unwrap(), AddrFlags::empty()).unwrap();
        netlink.link_set(index, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
    };
    a.run(|| {
        let mut netlink = Netlink::new().unwrap();
        netlink.add_veth("u0", "u1").unwrap();
        let peer = netlink.link_by_name("u1").unwrap().unwrap().index;
        netlink.link_move(peer, &b).unwrap();
        address("u0", "10.8.0.1/24");
    })
    .unwrap();
    b.run(|| address("u1", "10.8.0.2/24")).unwrap();
    (a, b)
}

#[test]
fn a_superframe_crosses_veth_whole_and_must_fit_the_mtu() {
    if !testing::root() {
        return;
    }
    let (a, b) = two_nodes();
    let (from, _) = a.run(|| bind("10.8.0.1:0", &UdpOptions::default())).unwrap();
    let (to, addr) = b.run(|| bind("10.8.0.2:4789", &UdpOptions::default())).unwrap();
    let data = vec![5; 44 * 1400 + 7];
    from.send(addr, &[IoSlice::new(&data)], Some(1400), 1).unwrap();
    let mut buf = vec![0; 65535];
    let got = recv(&to, &mut buf);
    assert_eq!((got.len, got.segment, got.ecn), (data.len(), Some(1400), 1));
    // 1472 + 28 bytes of headers is the MTU.
    let send = |size| from.send(addr, &[IoSlice::new(&data)], Some(size), 0);
    assert!(send(1472).is_ok());
    assert_eq!(send(1473).unwrap_err().raw_os_error(), Some(libc::EMSGSIZE));
}

#[test]
fn a_socket_that_is_never_read_holds_next_to_nothing() {
    let socket = UdpSocket::bind("127.0.0.1:0".parse().unwrap(), &UdpOptions::default()).unwrap();
    let (_, before) = socket.buffers().unwrap();
    socket.stop_receiving().unwrap();
    let (receive, send) = socket.buffers().unwrap();
    assert!(receive < 8192 && send == before, "{receive} {send}");
}
