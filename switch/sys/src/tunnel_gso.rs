//! A device that takes VXLAN superframes *whole* and hands them to the underlay, where they are cut as late as the
//! kernel's own are: by the network card, or not at all between namespaces of one machine (Linux 6.17).
//!
//! It is a TAP of the own namespace with a vnet header of 24 bytes and `TUN_F_UDP_TUNNEL_GSO`. What is written to it
//! comes in by the device, and a program there looks the destination up in the kernel's routes and sends the frame out by
//! the device and to the neighbour that they name (`bpf_fib_lookup`, `bpf_redirect_neigh`). No firewall, address or sysctl of
//! the host has a part in it, but that whoever changes the host's forwarding changes the device's as well
//! ([`TunnelGso::tend`]). Routes and neighbours are the kernel's; rules see packets that come in by this device. Frames
//! without a way, and those too long for the way's device, are counted ([`TunnelGso::lost`]) and dropped. What is known of a
//! path's MTU otherwise, which anyone can forge, counts no more than for the sockets (`IP_PMTUDISC_OMIT`).
//!
//! Receiving needs nothing of this file.
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::bpf::{self, Assembler, Counter, Insn, Reg};
use crate::link::{LinkChange, Netlink};
use crate::netns::Netns;
use crate::step::step;
use crate::sysctl::{self, Key};
use crate::tun::{self, TapFlags};

/// Length of the vnet header (`virtio_net_hdr_v1_hash_tunnel`), bytes.
pub const VNET_HDR_LEN: usize = 24;
/// Where in the Ethernet frame the writer says, as a `u16` in host order, how long the longest IP packet on the wire is.
/// A frame whose way has a device of a smaller MTU is lost.
pub const LONGEST_AT: usize = 6;

/// The kernel chooses the number.
const NAME: &str = "weft-gso%d";
/// All of `TUN_F_*`: checksums, TCP, UDP, and both in UDP tunnels with and without an outer checksum.
const OFFLOADS: libc::c_ulong = 0x1ff;
/// Those of UDP tunnels.
const TUNNELS: libc::c_ulong = 0x180;
/// Bytes on their way to the wire at most.
const SEND_BUFFER: libc::c_int = 16 << 20;
/// `bpf_fib_lookup` is for programs under the GPL. These few instructions may be used under either licence.
const LICENSE: &std::ffi::CStr = c"Dual BSD/GPL";

/// The device. It goes with its last descriptor.
#[derive(Debug)]
pub struct TunnelGso {
    device: OwnedFd,
    lost: Counter,
    /// The program is detached when this is closed.
    _link: OwnedFd,
}

impl TunnelGso {
    /// Makes a device in the current namespace.
    ///
    /// # Errors
    /// `Unsupported` on kernels before 6.17; what the kernel refuses otherwise, with the step.
    pub fn create() -> io::Result<Self> {
        let device = tun::open().map_err(step("open /dev/net/tun"))?;
        let flags = TapFlags::TAP | TapFlags::NO_PI | TapFlags::VNET_HDR;
        tun::set_iff(device.as_fd(), NAME, flags).map_err(step("TUNSETIFF"))?;
        let (name, _) = tun::get_iff(device.as_fd()).map_err(step("TUNGETIFF"))?;
        Self::set_up(device, &name)
    }

    /// Takes over the device of another process.
    ///
    /// # Errors
    /// As [`TunnelGso::create`]; `EBADFD` when it was deleted; `InvalidInput` when it is another kind of device, or
    /// another namespace's.
    pub fn adopt(device: OwnedFd) -> io::Result<Self> {
        let (name, flags) = tun::get_iff(device.as_fd()).map_err(step("TUNGETIFF"))?;
        let is_ours = flags == TapFlags::TAP | TapFlags::NO_PI | TapFlags::VNET_HDR
            && NAME.strip_suffix("%d").is_some_and(|prefix| name.starts_with(prefix));
        if !is_ours || tun::netns_of(device.as_fd())?.id()? != Netns::current()?.id()? {
            let message = format!("{name} is not the device that was made");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
        rustix::io::ioctl_fionbio(&device, true)?;
        Self::set_up(device, &name)
    }

    /// Hands on a superframe: the vnet header and the outer headers, and the inner frame. Never blocks.
    ///
    /// # Errors
    /// `WouldBlock` when too much is on its way; `InvalidInput` when headers and frame do not fit each other; `EIO` and
    /// `EBADFD` when somebody set the device down or deleted it.
    #[inline]
    pub fn send(&self, headers: &[u8], inner: &[u8]) -> io::Result<()> {
        rustix::io::writev(&self.device, &[IoSlice::new(headers), IoSlice::new(inner)])?;
        Ok(())
    }

    /// How many frames have had no way, since this process has the device.
    ///
    /// # Errors
    /// None in practice.
    pub fn lost(&self) -> io::Result<u64> {
        self.lost.get()
    }

    /// Mends what others may have done to it: set it down, or changed the forwarding of all devices. Call it in the
    /// device's namespace.
    ///
    /// False: it was deleted.
    ///
    /// # Errors
    /// What the kernel refuses.
    pub fn tend(&self) -> io::Result<bool> {
        match tun::get_iff(self.device.as_fd()) {
            Ok((name, _)) => set_link_up(&name).map(|_| true),
            Err(error) if error.raw_os_error() == Some(libc::EBADFD) => Ok(false),
            Err(error) => Err(step("TUNGETIFF")(error)),
        }
    }

    fn set_up(device: OwnedFd, name: &str) -> io::Result<Self> {
        let fd = device.as_fd();
        let length = VNET_HDR_LEN as libc::c_int;
        tun::set_int(fd, libc::TUNSETVNETHDRSZ, length).map_err(step("TUNSETVNETHDRSZ"))?;
        tun::set_offload_bits(fd, OFFLOADS).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput if tun::set_offload_bits(fd, OFFLOADS & !TUNNELS).is_ok() => {
                io::Error::new(io::ErrorKind::Unsupported, "the kernel does not segment UDP tunnels of a TAP")
            }
            _ => step("TUNSETOFFLOAD")(error),
        })?;
        tun::set_int(fd, libc::TUNSETSNDBUF, SEND_BUFFER).map_err(step("TUNSETSNDBUF"))?;
        let lost = Counter::new().map_err(step("a BPF map"))?;
        let program =
            bpf::load_classifier(&hand_on(&lost), c"weft_gso", LICENSE).map_err(step("the BPF program"))?;
        let index = set_link_up(name).map_err(step("set it up"))?;
        let link = bpf::attach_ingress(program.as_fd(), index).map_err(step("attach the BPF program"))?;
        Ok(TunnelGso { device, lost, _link: link })
    }
}

impl AsFd for TunnelGso {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.device.as_fd()
    }
}

/// Up, and where looking up routes is allowed to what comes in. Not so for IPv6: there the kernel takes the default routes
/// that it has from router advertisements away when any device begins to forward (`addrconf_fixup_forwarding`), so the
/// device has what the host's switch gives it.
fn set_link_up(name: &str) -> io::Result<u32> {
    let settings = [("ipv4", "forwarding", "1"), ("ipv6", "addr_gen_mode", "1")];
    for (family, setting, value) in settings {
        let key = Key::interface(family, name, setting)?;
        match sysctl::get(&key) {
            Ok(is) if is == value => {}
            Ok(_) => sysctl::set(&key, value)?,
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound && family == "ipv6" => {}
            Err(error) => return Err(error),
        }
    }
    let mut netlink = Netlink::new().map_err(io::Error::other)?;
    let link = netlink.link_by_name(name).map_err(io::Error::other)?.ok_or(io::ErrorKind::NotFound)?;
    if !link.up {
        let up = LinkChange { up: Some(true), ..LinkChange::default() };
        netlink.link_set(link.index, &up).map_err(io::Error::other)?;
    }
    Ok(link.index)
}

/// The program: fills a `struct bpf_fib_lookup` (`linux/bpf.h`) from the outer headers, asks for the way, sends there.
fn hand_on(lost: &Counter) -> Vec<Insn> {
    use Reg::{Fp, R0, R1, R2, R3, R4, R6};
    const SKB_LOAD_BYTES: i32 = 26;
    const FIB_LOOKUP: i32 = 69;
    const REDIRECT_NEIGH: i32 = 152;
    const SKIP_NEIGH: i32 = 1 << 2;
    const SHOT: i32 = 2;
    // `struct __sk_buff`.
    const QUEUE: i16 = 12;
    const PROTOCOL: i16 = 16;
    const IFINDEX: i16 = 40;
    // `struct bpf_fib_lookup`, at the stack's end.
    const SIZE: i16 = 64;
    const FAMILY: i16 = -SIZE;
    const L4_PROTOCOL: i16 = FAMILY + 1;
    const PORTS: i16 = FAMILY + 2;
    const DEVICE_MTU: i16 = FAMILY + 6;
    const DEVICE: i16 = FAMILY + 8;
    const TOS: i16 = FAMILY + 12;
    const SRC: i16 = FAMILY + 16;
    const DST: i16 = FAMILY + 32;
    // `struct bpf_redir_neigh`, when the way is known: the next hop's family, and its address, which is then the destination.
    const NEXT_HOP: i16 = DST - 4;
    const NEXT_HOP_SIZE: i32 = 20;
    const LONGEST: i16 = FAMILY - 8;
    const IP_AT: i32 = 14;

    let mut program = Assembler::default();
    // Copies a field of the frame to the stack.
    let load = |program: &mut Assembler, (at, length): (i32, i32), to: i16| {
        program.then([
            Insn::copy(R1, R6),
            Insn::set(R2, at),
            Insn::copy(R3, Fp),
            Insn::add(R3, to.into()),
            Insn::set(R4, length),
            Insn::call(SKB_LOAD_BYTES),
        ]);
        program.jump_unless_equal(R0, 0, "lost");
    };
    program.then([Insn::copy(R6, R1)]);
    program.then((-1..SIZE / 8).map(|word| Insn::store64(Fp, FAMILY + 8 * word, 0)));
    load(&mut program, (LONGEST_AT as i32, 2), LONGEST);
    program.then([Insn::load32(R1, R6, PROTOCOL)]);
    program.jump_if_equal(R1, u16::to_be(0x0800).into(), "v4");
    program.jump_if_equal(R1, u16::to_be(0x86dd).into(), "v6");
    program.jump("lost");

    program.label("v4");
    program.then([Insn::store8(Fp, FAMILY, libc::AF_INET)]);
    for (at, length, to) in [(1, 1, TOS), (12, 4, SRC), (16, 4, DST), (20, 4, PORTS)] {
        load(&mut program, (IP_AT + at, length), to);
    }
    program.jump("look up");

    program.label("v6");
    program.then([Insn::store8(Fp, FAMILY, libc::AF_INET6)]);
    for (at, length, to) in [(8, 16, SRC), (24, 16, DST), (40, 4, PORTS)] {
        load(&mut program, (IP_AT + at, length), to);
    }

    program.label("look up");
    program.then([
        Insn::store8(Fp, L4_PROTOCOL, libc::IPPROTO_UDP),
        Insn::load32(R1, R6, IFINDEX),
        Insn::store32(Fp, DEVICE, R1),
        Insn::copy(R1, R6),
        Insn::copy(R2, Fp),
        Insn::add(R2, FAMILY.into()),
        Insn::set(R3, SIZE.into()),
        Insn::set(R4, SKIP_NEIGH),
        Insn::call(FIB_LOOKUP),
    ]);
    program.jump_unless_equal(R0, 0, "lost");
    program.then([Insn::load16(R1, Fp, LONGEST), Insn::load16(R2, Fp, DEVICE_MTU)]);
    program.jump_if_greater(R1, R2, "lost");
    program.then([
        // Not the queue of the same number as the one that the frame was written to.
        Insn::set(R1, 0),
        Insn::store32(R6, QUEUE, R1),
        Insn::load8(R1, Fp, FAMILY),
        Insn::store32(Fp, NEXT_HOP, R1),
        Insn::load32(R1, Fp, DEVICE),
        Insn::copy(R2, Fp),
        Insn::add(R2, NEXT_HOP.into()),
        Insn::set(R3, NEXT_HOP_SIZE),
        Insn::set(R4, 0),
        Insn::call(REDIRECT_NEIGH),
        Insn::exit(),
    ]);

    program.label("lost");
    program.then(Insn::address_of(R1, lost));
    program.then([Insn::set(R2, 1), Insn::add64(R1, 0, R2), Insn::set(R0, SHOT), Insn::exit()]);
    program.finish()
}
