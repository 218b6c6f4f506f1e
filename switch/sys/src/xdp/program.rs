//! Programs that decide which frames come to the sockets (`linux/bpf.h`), and the maps that they ask. Frames that do not
//! are the kernel's as if there were no program (`XDP_PASS`), and so are those of queues that have no socket.
use std::ffi::CStr;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use crate::bpf::{self, Assembler, Insn, Map, MapKind, Reg};
use crate::step::step;

/// None of the helpers used here wants the GPL.
const LICENSE: &CStr = c"Dual BSD/GPL";
const MAP_LOOKUP_ELEM: i32 = 1;
const REDIRECT_MAP: i32 = 51;
const XDP_PASS: i32 = 2;
/// `struct xdp_md`.
const DATA: i16 = 0;
const DATA_END: i16 = 4;
const INGRESS: i16 = 12;
const RX_QUEUE: i16 = 16;

/// The sockets of a device by queue (`BPF_MAP_TYPE_XSKMAP`). A socket that is closed is no longer in it.
#[derive(Debug)]
pub struct XskMap(Map);

impl XskMap {
    /// For the queues 0 to `queues` - 1.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN.
    pub fn new(queues: u32) -> io::Result<Self> {
        Map::new(MapKind::Xsk, 4, 4, queues).map(Self).map_err(step("XSKMAP"))
    }

    /// From now on frames of `queue` go to `socket`, which must be one of that queue: frames are dropped otherwise.
    ///
    /// # Errors
    /// `E2BIG` for a queue that the map has no room for; `EOPNOTSUPP` for what is no AF_XDP socket.
    pub fn set(&self, queue: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
        let value = socket.as_raw_fd().to_ne_bytes();
        self.0.set(&queue.to_ne_bytes(), &value).map_err(step("put a socket into the XSKMAP"))
    }

    /// From now on frames of `queue` are the kernel's.
    ///
    /// # Errors
    /// `E2BIG` or `EINVAL` for a queue that the map has no room for.
    pub fn remove(&self, queue: u32) -> io::Result<()> {
        match self.0.remove(&queue.to_ne_bytes()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(step("take a socket out of the XSKMAP")),
        }
    }
}

/// Addresses and UDP ports, those of the own VXLAN endpoints.
#[derive(Debug)]
pub struct Endpoints(Map);

/// An address in its IPv6 form, port, padding.
const ENDPOINT: usize = 20;

impl Endpoints {
    /// At most `most` of them.
    ///
    /// # Errors
    /// As [`XskMap::new`].
    pub fn new(most: u32) -> io::Result<Self> {
        Map::new(MapKind::Hash, ENDPOINT, 4, most).map(Self).map_err(step("a map of endpoints"))
    }

    /// Adds one. To add it twice is to add it once.
    ///
    /// # Errors
    /// `E2BIG` when the map is full.
    pub fn add(&self, endpoint: SocketAddr) -> io::Result<()> {
        self.0.set(&Self::key(endpoint), &[0; 4]).map_err(step("add an endpoint"))
    }

    /// Removes one. It need not be there.
    ///
    /// # Errors
    /// None in practice.
    pub fn remove(&self, endpoint: SocketAddr) -> io::Result<()> {
        match self.0.remove(&Self::key(endpoint)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.map_err(step("remove an endpoint")),
        }
    }

    fn key(endpoint: SocketAddr) -> [u8; ENDPOINT] {
        let address = match endpoint.ip() {
            IpAddr::V4(address) => address.to_ipv6_mapped(),
            IpAddr::V6(address) => address,
        };
        let mut key = [0; ENDPOINT];
        key[..16].copy_from_slice(&address.octets());
        key[16..18].copy_from_slice(&endpoint.port().to_be_bytes());
        key
    }
}

/// A program for the XDP hook, loaded. It keeps its maps.
#[derive(Debug)]
pub struct Program {
    fd: OwnedFd,
    frags: bool,
}

impl Program {
    /// All frames.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN; what the verifier says.
    pub fn everything(sockets: &XskMap) -> io::Result<Self> {
        Self::load(&everything(sockets.0.as_fd()), c"weft_xdp_all")
    }

    /// UDP to one of `endpoints`, over IPv4 without options and not in fragments, or over IPv6 without extension headers;
    /// no VLAN. Nothing has been looked at but addresses, ports and what says where they are: lengths, checksums and the
    /// destination's Ethernet address are the receiver's to check.
    ///
    /// With `device` only what that device has received itself: a program at a bond runs in the devices below, for which the bond's
    /// sockets take nothing.
    ///
    /// # Errors
    /// As [`Program::everything`].
    pub fn tunnel(sockets: &XskMap, endpoints: &Endpoints, device: Option<u32>) -> io::Result<Self> {
        Self::load(&tunnel(sockets.0.as_fd(), endpoints.0.as_fd(), device), c"weft_xdp_tunnel")
    }

    /// True when it takes frames of more than one buffer, without which a device of an MTU of more than about 3500 refuses
    /// it (Linux 5.18).
    #[must_use]
    pub fn has_frags(&self) -> bool {
        self.frags
    }

    fn load(program: &[Insn], name: &CStr) -> io::Result<Self> {
        match bpf::load_xdp(program, name, LICENSE, true) {
            Ok(fd) => Ok(Self { fd, frags: true }),
            // An older kernel does not know the flag.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                let fd = bpf::load_xdp(program, name, LICENSE, false).map_err(step("the XDP program"))?;
                Ok(Self { fd, frags: false })
            }
            Err(error) => Err(step("the XDP program")(error)),
        }
    }
}

impl AsFd for Program {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn everything(sockets: BorrowedFd<'_>) -> Vec<Insn> {
    let mut program = Assembler::default();
    program.then([Insn::load32(Reg::R2, Reg::R1, RX_QUEUE)]);
    redirect(&mut program, sockets);
    program.finish()
}

/// The queue is in R2. Without a socket there the last argument is what is returned (Linux 5.3).
fn redirect(program: &mut Assembler, sockets: BorrowedFd<'_>) {
    program.then(Insn::map(Reg::R1, sockets));
    program.then([Insn::set(Reg::R3, XDP_PASS), Insn::call(REDIRECT_MAP), Insn::exit()]);
}

fn tunnel(sockets: BorrowedFd<'_>, endpoints: BorrowedFd<'_>, device: Option<u32>) -> Vec<Insn> {
    use Reg::{Fp, R0, R1, R2, R3, R4, R6};
    const IP: i16 = 14;
    const UDP_PORT: i16 = 2;
    const UDP_LEN: i16 = 8;
    const V4_LEN: i16 = 20;
    const V6_LEN: i16 = 40;
    // The key of `Endpoints`, at the stack's end.
    const KEY: i16 = -24;
    const KEY_PORT: i16 = KEY + 16;

    let mut program = Assembler::default();
    // Goes on when the frame has this length; the verifier wants to see it.
    let want = |program: &mut Assembler, length: i16| {
        program.then([Insn::copy(R4, R2), Insn::add(R4, length.into())]);
        program.jump_if_greater(R4, R3, "pass");
    };
    program.then([Insn::copy(R6, R1), Insn::load32(R2, R6, DATA), Insn::load32(R3, R6, DATA_END)]);
    if let Some(device) = device {
        program.then([Insn::load32(R4, R6, INGRESS)]);
        program.jump_unless_equal(R4, device.cast_signed(), "pass");
    }
    program.then((0..3).map(|word| Insn::store64(Fp, KEY + 8 * word, 0)));
    want(&mut program, IP + V4_LEN + UDP_LEN);
    program.then([Insn::load16(R4, R2, IP - 2)]);
    program.jump_if_equal(R4, u16::to_be(0x0800).into(), "v4");
    program.jump_if_equal(R4, u16::to_be(0x86dd).into(), "v6");
    program.jump("pass");

    program.label("v4");
    program.then([Insn::load8(R4, R2, IP)]);
    program.jump_unless_equal(R4, 0x45, "pass");
    program.then([Insn::load8(R4, R2, IP + 9)]);
    program.jump_unless_equal(R4, libc::IPPROTO_UDP, "pass");
    // More fragments, and the offset.
    program.then([Insn::load16(R4, R2, IP + 6), Insn::and(R4, u16::to_be(0x3fff).into())]);
    program.jump_unless_equal(R4, 0, "pass");
    program.then([
        Insn::store8(Fp, KEY + 10, 0xff),
        Insn::store8(Fp, KEY + 11, 0xff),
        Insn::load32(R4, R2, IP + 16),
        Insn::store32(Fp, KEY + 12, R4),
        Insn::load16(R4, R2, IP + V4_LEN + UDP_PORT),
    ]);
    program.jump("look up");

    program.label("v6");
    want(&mut program, IP + V6_LEN + UDP_LEN);
    program.then([Insn::load8(R4, R2, IP), Insn::and(R4, 0xf0)]);
    program.jump_unless_equal(R4, 0x60, "pass");
    program.then([Insn::load8(R4, R2, IP + 6)]);
    program.jump_unless_equal(R4, libc::IPPROTO_UDP, "pass");
    for word in [0, 4, 8, 12] {
        program.then([Insn::load32(R4, R2, IP + 24 + word), Insn::store32(Fp, KEY + word, R4)]);
    }
    program.then([Insn::load16(R4, R2, IP + V6_LEN + UDP_PORT)]);

    program.label("look up");
    program.then([Insn::store16(Fp, KEY_PORT, R4)]);
    program.then(Insn::map(R1, endpoints));
    program.then([Insn::copy(R2, Fp), Insn::add(R2, KEY.into()), Insn::call(MAP_LOOKUP_ELEM)]);
    program.jump_if_equal(R0, 0, "pass");
    program.then([Insn::load32(R2, R6, RX_QUEUE)]);
    redirect(&mut program, sockets);

    program.label("pass");
    program.then([Insn::set(R0, XDP_PASS), Insn::exit()]);
    program.finish()
}

#[cfg(test)]
mod tests;
