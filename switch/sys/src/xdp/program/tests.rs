//! What the programs do with frames: in an interpreter, and in the kernel.
use std::cell::Cell;
use std::fs::File;
use std::net::Ipv6Addr;

use super::*;
use crate::link::Netlink;
use crate::testing;
use crate::xdp::{Place, Umem, XdpOptions, XdpSocket};

const XDP_REDIRECT: u64 = 4;
const PORT: u16 = 4789;

fn own() -> [SocketAddr; 2] {
    ["192.0.2.7:4789", "[2001:db8::7]:4789"].map(|endpoint| endpoint.parse().unwrap())
}

/// Ethernet, IPv4 and UDP to the first endpoint.
fn v4() -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([0x08, 0x00, 0x45, 0, 0, 28, 1, 2, 0x40, 0, 64, 17, 0, 0, 198, 51, 100, 1, 192, 0, 2, 7]);
    frame.extend([0xc0, 0, 0x12, 0xb5, 0, 8, 0, 0]);
    frame
}

/// The same over IPv6 to the second.
fn v6() -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 17, 64]);
    frame.extend("2001:db8::1".parse::<Ipv6Addr>().unwrap().octets());
    frame.extend("2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
    frame.extend([0xc0, 0, 0x12, 0xb5, 0, 8, 0, 0]);
    frame
}

/// The bits of a frame that decide, by byte: whatever of them is changed, the frame is not the tunnel's. All others may be
/// anything.
fn decisive(frame: &[u8], at: usize) -> u8 {
    match (frame[12], at) {
        (_, 12 | 13) => 0xff,
        // Version and length of the header; fragments; UDP; destination; port.
        (0x08, 14 | 21 | 23 | 30..34 | 36..38) => 0xff,
        (0x08, 20) => 0x3f,
        (0x86, 14) => 0xf0,
        (0x86, 20 | 38..54 | 56..58) => 0xff,
        _ => 0,
    }
}

/// `run` says whether a frame is redirected.
fn check(run: impl Fn(&[u8]) -> bool) {
    for whole in [v4(), v6()] {
        assert!(run(&whole));
        let mut longer = whole.clone();
        longer.resize(1500, 0xaa);
        assert!(run(&longer));
        for length in 14..whole.len() {
            assert!(!run(&whole[..length]), "{length} of {whole:02x?}");
        }
        for at in 0..whole.len() {
            for bit in (0..8).map(|bit| 1 << bit) {
                let mut other = whole.clone();
                other[at] ^= bit;
                let decides = decisive(&whole, at) & bit != 0;
                assert_eq!(run(&other), !decides, "byte {at} ^ {bit:02x} of {whole:02x?}");
            }
        }
    }
    // A VLAN tag; the other's port and address; an IPv4 address in an IPv6 header is the same endpoint.
    let mut tagged = v4();
    tagged.splice(12..12, [0x81, 0, 0, 5]);
    assert!(!run(&tagged));
    let mut mapped = v6();
    mapped[38..54].copy_from_slice(&"::ffff:192.0.2.7".parse::<Ipv6Addr>().unwrap().octets());
    assert!(run(&mapped));
}

thread_local! {
    /// The descriptors that stand for the maps.
    static MAPS: Cell<(i32, i32)> = const { Cell::new((0, 0)) };
}

const KNOWN: u64 = 1;

/// `bpf_map_lookup_elem`
fn look_up(map: u64, key: u64, _: u64, _: u64, _: u64) -> u64 {
    assert_eq!(map, MAPS.get().1 as u64);
    // SAFETY: the interpreter's stack, where the program has put a key of this length.
    let key = unsafe { *(key as *const [u8; ENDPOINT]) };
    if own().map(Endpoints::key).contains(&key) { KNOWN } else { 0 }
}

/// `bpf_redirect_map`: queue 5 has a socket.
fn redirect_map(map: u64, queue: u64, flags: u64, _: u64, _: u64) -> u64 {
    assert_eq!(map, MAPS.get().0 as u64);
    if queue == 5 { XDP_REDIRECT } else { flags }
}

/// Memory at an address of 32 bits, as the interpreter does not widen the context's fields.
struct Low(*mut u8);

impl Low {
    const PLACE: usize = 1 << 28;
    const SIZE: usize = 4096;

    fn new() -> Self {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let place = std::ptr::without_provenance_mut(Self::PLACE);
        // SAFETY: the kernel refuses it where something is already.
        let start = unsafe { libc::mmap(place, Self::SIZE, protection, flags, -1, 0) };
        assert_ne!(start, libc::MAP_FAILED);
        Self(start.cast())
    }

    fn copy(&mut self, bytes: &[u8]) -> &[u8] {
        // SAFETY: so many bytes are mapped, and borrowed with this value.
        let all = unsafe { std::slice::from_raw_parts_mut(self.0, Self::SIZE) };
        all[..bytes.len()].copy_from_slice(bytes);
        &all[..bytes.len()]
    }
}

impl Drop for Low {
    fn drop(&mut self) {
        // SAFETY: nobody borrows it any more.
        unsafe { libc::munmap(self.0.cast(), Self::SIZE) };
    }
}

/// What the interpreter, which checks every access against the frame's bounds, says.
fn interpret(program: &[Insn], frame: &[u8], queue: u32) -> u64 {
    let bytes: Vec<u8> = program.iter().flat_map(|insn| insn.bytes()).collect();
    let mut machine = rbpf::EbpfVmMbuff::new(Some(&bytes)).unwrap();
    machine.register_helper(MAP_LOOKUP_ELEM as u32, look_up).unwrap();
    machine.register_helper(REDIRECT_MAP as u32, redirect_map).unwrap();
    let mut memory = Low::new();
    let frame = memory.copy(frame);
    let start = frame.as_ptr() as u32;
    let context = [start, start + frame.len() as u32, 0, 0, queue, 0];
    let context: Vec<u8> = context.iter().flat_map(|word| word.to_ne_bytes()).collect();
    machine.execute_program(frame, &context).unwrap()
}

#[test]
fn in_an_interpreter() {
    let maps = [(); 2].map(|()| File::open("/dev/null").unwrap());
    MAPS.set((maps[0].as_raw_fd(), maps[1].as_raw_fd()));
    let program = tunnel(maps[0].as_fd(), maps[1].as_fd(), None);
    check(|frame| match interpret(&program, frame, 5) {
        XDP_REDIRECT => true,
        other => {
            assert_eq!(other, XDP_PASS as u64);
            false
        }
    });
    // No socket there.
    assert_eq!(interpret(&program, &v4(), 4), XDP_PASS as u64);
    let program = everything(maps[0].as_fd());
    assert_eq!(interpret(&program, &[0; 14], 5), XDP_REDIRECT);
    assert_eq!(interpret(&program, &[0; 14], 4), XDP_PASS as u64);
}

#[test]
fn in_the_kernel() {
    if !testing::root() {
        return;
    }
    let run = || {
        let lo = Netlink::new().unwrap().link_by_name("lo").unwrap().unwrap().index;
        let (umem, mut free) = Umem::create(8, 4096).unwrap();
        let socket = XdpSocket::open(&umem, Place::new(lo, 0), &XdpOptions::default(), &mut free).unwrap();
        let (sockets, endpoints) = (XskMap::new(1).unwrap(), Endpoints::new(2).unwrap());
        let program = Program::tunnel(&sockets, &endpoints, None).unwrap();
        assert!(program.has_frags());
        let redirects =
            |frame: &[u8]| u64::from(bpf::test_run(program.as_fd(), frame).unwrap()) == XDP_REDIRECT;
        // Twice is once.
        for endpoint in [own(), own()].as_flattened() {
            endpoints.add(*endpoint).unwrap();
        }
        assert!(!redirects(&v4()), "there is no socket");
        sockets.set(0, socket.as_fd()).unwrap();
        check(redirects);
        let third = SocketAddr::new(own()[0].ip(), PORT + 1);
        assert_eq!(endpoints.add(third).unwrap_err().kind(), io::ErrorKind::ArgumentListTooLong);
        endpoints.remove(own()[0]).unwrap();
        endpoints.remove(own()[0]).unwrap();
        assert!(!redirects(&v4()) && redirects(&v6()));
        assert!(sockets.set(1, socket.as_fd()).is_err());
        assert!(sockets.set(0, umem.as_fd()).is_err());
    };
    testing::namespace().run(run).unwrap();
}
