use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use super::*;
use crate::link::{AddrFlags, LinkChange};
use crate::{testing, udp};

/// Runs `f` inside a namespace of its own, unless the test cannot have one.
fn inside(f: impl FnOnce() + Send) {
    if testing::root() {
        testing::namespace().run(f).unwrap();
    }
}

fn index(name: &str) -> u32 {
    index_of(name).unwrap()
}

fn errno(error: &Error) -> Option<i32> {
    if let Error::Kernel { source, .. } = error { source.raw_os_error() } else { None }
}

/// Asks the device itself (`SIOCETHTOOL`, `linux/ethtool.h`), which works while nothing is attached.
fn ethtool(name: &str, command: u32) -> bool {
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        value: *mut [u32; 2],
        rest: [u8; 16],
    }
    let mut value = [command, 0];
    let mut request =
        Request { name: IfReq::new(name, TapFlags::empty()).name, value: &raw mut value, rest: [0; 16] };
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    // SAFETY: SIOCETHTOOL reads one `struct ifreq`, which `Request` is, and the commands used read and write the
    // `struct ethtool_value` (two u32) that it points to.
    unsafe { ioctl::by_ref(socket.as_fd(), libc::SIOCETHTOOL as libc::Ioctl, &mut request) }.unwrap();
    value[1] != 0
}
const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_GTSO: u32 = 0x1e;

#[test]
fn offloads_survive_detaching_and_attaching() {
    inside(|| {
        let half = TapOptions { offloads: Offloads::CSUM, ..TapOptions::default() };
        for (options, tso) in [(TapOptions::default(), true), (half, false)] {
            let tap = Tap::create("t0", &options).unwrap();
            assert_eq!(tap.offloads(), options.offloads, "this kernel takes all");
            drop(tap);
            assert!(ethtool("t0", ETHTOOL_GTXCSUM));
            assert_eq!(ethtool("t0", ETHTOOL_GTSO), tso);
            let mut tap = Tap::attach("t0", &options).unwrap();
            assert_eq!(ethtool("t0", ETHTOOL_GTSO), tso);
            tap.set_persist(false).unwrap();
        }
    });
}

#[test]
fn offloads_that_the_kernel_refuses() {
    inside(|| {
        let mut tap = Tap::create("t0", &TapOptions::default()).unwrap();
        let fd = tap.as_fd();
        for bits in [0x02, 0x20, 0x20 | 0x01, 0x08 | 0x01] {
            let error = set_offloads(fd, Offloads::from_bits_retain(bits)).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EINVAL), "{bits:#x}");
        }
        // An unknown bit makes the kernel refuse the whole; each known one is then found by itself.
        let unknown = Offloads::from_bits_retain(1 << 30) | Offloads::all();
        assert_eq!(probe_offloads(fd, unknown).unwrap() & Offloads::all(), Offloads::all());
        assert_eq!(tap.set_offloads(Offloads::TSO4).unwrap(), Offloads::empty());
        assert_eq!(tap.set_offloads(Offloads::CSUM | Offloads::ECN).unwrap(), Offloads::CSUM);
        assert!(!ethtool("t0", ETHTOOL_GTSO));
    });
}

/// Kernel fact: what [`Tap::attach`] guards against.
#[test]
fn tunsetiff_with_other_flags_changes_the_device() {
    inside(|| {
        drop(Tap::create("t0", &TapOptions::default()).unwrap());
        let flags = || Netlink::new().unwrap().tun_info("t0").unwrap().unwrap().flags;
        let ours = TapOptions::default().flags();
        assert_eq!(flags(), ours | TapFlags::PERSIST);

        let other = TapOptions { multi_queue: true, ..TapOptions::default() };
        assert!(matches!(Tap::attach("t0", &other), Err(Error::Flags { .. })));
        assert_eq!(flags(), ours | TapFlags::PERSIST, "attach changes nothing");

        let fd = open().unwrap();
        set_iff(fd.as_fd(), "t0", TapFlags::TAP | TapFlags::NO_PI).unwrap();
        assert_eq!(flags(), TapFlags::TAP | TapFlags::NO_PI | TapFlags::PERSIST);
        drop(fd);
        assert!(matches!(Tap::attach("t0", &TapOptions::default()), Err(Error::Flags { .. })));
    });
}

#[test]
fn create_and_attach_know_what_exists() {
    inside(|| {
        let options = TapOptions::default();
        assert!(matches!(Tap::attach("t0", &options), Err(Error::Missing(_))));
        assert_eq!(index_of("t0"), None, "attach made no device");
        let tap = Tap::create("t0", &options).unwrap();
        assert!(matches!(Tap::create("t0", &options), Err(Error::Exists(_))));
        assert!(matches!(Tap::create("lo", &options), Err(Error::Exists(_))));
        assert!(matches!(Tap::attach("lo", &options), Err(Error::Flags { .. })));
        assert_eq!(errno(&Tap::attach("t0", &options).unwrap_err()), Some(libc::EBUSY));
        assert_eq!(tap.name_and_flags().unwrap(), ("t0".to_owned(), options.flags() | TapFlags::PERSIST));
        for name in ["", "a/b", "tap%d", "sixteen-letters-", "a b", "..", "a:b"] {
            assert!(matches!(Tap::create(name, &options), Err(Error::Name(_))), "{name:?}");
        }
    });
}

#[test]
fn without_persist_the_device_goes_with_its_descriptor() {
    inside(|| {
        let options = TapOptions { persist: false, ..TapOptions::default() };
        let tap = Tap::create("t0", &options).unwrap();
        assert!(index_of("t0").is_some());
        drop(tap);
        assert_eq!(index_of("t0"), None);
    });
}

#[test]
fn a_descriptor_can_be_handed_over() {
    inside(|| {
        let options = TapOptions::default();
        let tap = Tap::create("t0", &options).unwrap();
        let handed = Tap::from_fd(tap.try_clone_fd().unwrap(), &options).unwrap();
        assert_eq!(handed.name_and_flags().unwrap().0, "t0");
        assert_eq!(handed.offloads(), tap.offloads());
        let other = TapOptions { multi_queue: true, ..options };
        assert!(matches!(Tap::from_fd(tap.try_clone_fd().unwrap(), &other), Err(Error::Flags { .. })));
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(Tap::from_fd(null.into(), &options), Err(Error::Kernel { .. })));
    });
}

#[test]
fn queues() {
    inside(|| {
        let one = Tap::create("t0", &TapOptions::default()).unwrap();
        assert!(matches!(one.add_queue(), Err(Error::Flags { .. })));
        let options = TapOptions { multi_queue: true, ..TapOptions::default() };
        let first = Tap::create("t1", &options).unwrap();
        let second = first.add_queue().unwrap();
        assert_eq!(Netlink::new().unwrap().tun_info("t1").unwrap().unwrap().queues, 2);
        drop(first);
        assert_eq!(second.name_and_flags().unwrap().0, "t1");
    });
}

#[test]
fn frames_carry_the_vnet_header() {
    inside(|| {
        let tap = Tap::create("t0", &TapOptions::default()).unwrap();
        let mut frame = [0u8; VNET_HDR_LEN + 60];
        assert_eq!(tap.write(&frame).unwrap_err().raw_os_error(), Some(libc::EIO), "down");
        let mut netlink = Netlink::new().unwrap();
        let index = index("t0");
        netlink.addr_add(index, "10.9.0.1/24".parse().unwrap(), AddrFlags::empty()).unwrap();
        netlink.link_set(index, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
        assert_eq!(tap.write(&frame).unwrap(), frame.len());
        let (head, body) = frame.split_at(VNET_HDR_LEN);
        assert_eq!(tap.writev(&[IoSlice::new(head), IoSlice::new(body)]).unwrap(), 72);
        frame[1] = 99; // gso_type
        assert_eq!(tap.write(&frame).unwrap_err().raw_os_error(), Some(libc::EINVAL));

        let peer: IpAddr = Ipv4Addr::new(10, 9, 0, 2).into();
        netlink.neigh_set(index, peer, [2, 0, 0, 0, 0, 2]).unwrap();
        let socket = UdpSocket::bind("10.9.0.1:0").unwrap();
        let (mut head, mut body) = ([0u8; VNET_HDR_LEN], [0u8; 2000]);
        loop {
            socket.send_to(&[7; 100], (peer, 9)).unwrap();
            let mut bufs = [IoSliceMut::new(&mut head), IoSliceMut::new(&mut body)];
            let len = tap.readv(&mut bufs).unwrap();
            if body[..6] == [2, 0, 0, 0, 0, 2] {
                assert_eq!(len, VNET_HDR_LEN + 14 + 20 + 8 + 100);
                break; // others are the kernel's own: MLD, router solicitations
            }
        }
        assert_eq!(head[0], 1, "NEEDS_CSUM");
        assert_eq!(u16::from_ne_bytes([head[6], head[7]]), 34, "csum_start");
        let drained = std::iter::repeat_with(|| tap.read(&mut body)).find_map(Result::err).unwrap();
        assert_eq!(drained.kind(), io::ErrorKind::WouldBlock);
    });
}

/// Kernel fact: with USO a pod's `UDP_SEGMENT` send arrives whole, without it cut.
#[test]
fn a_superframe_arrives_as_the_offloads_allow() {
    inside(|| {
        let mut tap = Tap::create("t0", &TapOptions::default()).unwrap();
        let mut netlink = Netlink::new().unwrap();
        let index = index("t0");
        netlink.addr_add(index, "10.9.0.1/24".parse().unwrap(), AddrFlags::empty()).unwrap();
        netlink.link_set(index, &LinkChange { up: Some(true), ..LinkChange::default() }).unwrap();
        netlink.neigh_set(index, Ipv4Addr::new(10, 9, 0, 2).into(), [2, 0, 0, 0, 0, 2]).unwrap();
        let options = udp::UdpOptions::default();
        let socket = udp::UdpSocket::bind("10.9.0.1:0".parse().unwrap(), &options).unwrap();
        let send = || socket.send("10.9.0.2:9".parse().unwrap(), &[IoSlice::new(&[1; 5000])], Some(1200), 0);
        let mut buf = [0u8; 10_000];
        // Length of each frame that the pod sent, with its gso_type and gso_size.
        let mut read = || -> Vec<(usize, u8, u16)> {
            let mut frames = Vec::new();
            while let Ok(len) = tap.read(&mut buf) {
                if buf[VNET_HDR_LEN..][..6] == [2, 0, 0, 0, 0, 2] {
                    frames.push((len - VNET_HDR_LEN, buf[1], u16::from_ne_bytes([buf[4], buf[5]])));
                }
            }
            frames
        };
        send().unwrap();
        assert_eq!(read(), [(14 + 20 + 8 + 5000, 5, 1200)]);
        tap.set_offloads(Offloads::all() - Offloads::USO).unwrap();
        send().unwrap();
        let mut buf = [0u8; 10_000];
        let cut: Vec<_> =
            std::iter::from_fn(|| tap.read(&mut buf).ok().map(|len| len - VNET_HDR_LEN)).collect();
        assert_eq!(cut, [1242, 1242, 1242, 1242, 242]);
    });
}

#[test]
fn a_tap_opened_inside_keeps_the_namespace() {
    if !testing::root() {
        return;
    }
    let netns = testing::namespace();
    let id = netns.id().unwrap();
    let tap = netns.run(|| Tap::create("t0", &TapOptions::default())).unwrap().unwrap();
    drop(netns);
    std::thread::sleep(std::time::Duration::from_millis(100)); // namespaces are cleaned up by a work queue
    assert_eq!(tap.netns().unwrap().id().unwrap(), id);
    assert_eq!(tap.name_and_flags().unwrap().0, "t0");
    let again = tap.netns().unwrap().run(|| index_of("t0")).unwrap();
    assert!(again.is_some());
}

#[test]
fn a_deleted_link_gives_ebadfd() {
    inside(|| {
        let tap = Tap::create("t0", &TapOptions::default()).unwrap();
        let mut netlink = Netlink::new().unwrap();
        netlink.link_del(index("t0")).unwrap();
        let bad = Some(libc::EBADFD);
        assert_eq!(tap.read(&mut [0; 100]).unwrap_err().raw_os_error(), bad);
        assert_eq!(tap.write(&[0; 100]).unwrap_err().raw_os_error(), bad);
        assert_eq!(errno(&tap.name_and_flags().unwrap_err()), bad);
        let mut poll = [rustix::event::PollFd::new(&tap, rustix::event::PollFlags::IN)];
        rustix::event::poll(&mut poll, None).unwrap();
        assert!(poll[0].revents().contains(rustix::event::PollFlags::ERR));
    });
}
