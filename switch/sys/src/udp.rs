//! UDP underlay sockets: `UDP_SEGMENT` out, `UDP_GRO` in (`linux/udp.h`, `net/ipv4/udp.c`), outer ECN both ways.
//!
//! Facts the callers live with:
//! - One send carries at most [`MAX_SEGMENTS`] segments (128; 64 before Linux 6.10: [`max_segments`] asks) and
//!   [`MAX_DATAGRAM`] bytes in all.
//! - A segment that does not fit the device's MTU is `EMSGSIZE`; with `SO_NO_CHECK`, `UDP_SEGMENT` is `EINVAL`: the
//!   outer checksum is always on.
//! - `IP_PMTUDISC_OMIT`: with any other setting one forged Fragmentation-Needed makes segmented sends fail for ten
//!   minutes.
//! - A second socket bound beside a held one (`SO_REUSEPORT`) takes half of its packets: sockets are handed over
//!   ([`UdpSocket::from_fd`]), never bound again.
use std::io::{self, IoSlice};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::cmsg;
use crate::ioctl;
use crate::netns::Netns;

/// Most segments of one send (`UDP_MAX_SEGMENTS`, `linux/udp.h`); older kernels take [`MAX_SEGMENTS_OLD`].
pub const MAX_SEGMENTS: usize = 128;

/// Most segments of one send before Linux 6.10.
pub const MAX_SEGMENTS_OLD: usize = 64;

/// Most payload bytes of one send, all segments together: 65535 minus the IPv4 and UDP headers.
pub const MAX_DATAGRAM: usize = 65507;

/// Bytes asked for in each direction: enough for 128 superframes.
pub const BUFFER: usize = 16 << 20;

/// How a socket is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UdpOptions {
    /// Deliver runs of equal datagrams as one ([`Received::segment`]); for the receiving socket.
    pub gro: bool,
    /// Bytes of each kernel buffer; beyond `net.core.?mem_max` only with CAP_NET_ADMIN, else as much as allowed.
    pub buffer: usize,
    /// IPv6: take datagrams without checksum (`UDP_NO_CHECK6_RX`, RFC 6935), which some VXLAN peers send.
    pub zero_checksum6: bool,
}

impl Default for UdpOptions {
    /// A receiving socket: GRO, [`BUFFER`], zero checksums taken.
    fn default() -> Self {
        Self { gro: true, buffer: BUFFER, zero_checksum6: true }
    }
}

/// What [`UdpSocket::recv`] learnt about one delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Bytes in the buffer.
    pub len: usize,
    /// The sender.
    pub from: SocketAddr,
    /// The value of the `UDP_GRO` message, when there is one: the bytes hold datagrams of this length, the last
    /// maybe shorter. From a VXLAN peer on the same machine it may be the *inner* datagrams' payload length.
    pub segment: Option<u16>,
    /// ECN codepoint of the outer header, 0 to 3 (RFC 3168).
    pub ecn: u8,
}

/// A non-blocking UDP socket for the underlay.
#[derive(Debug)]
pub struct UdpSocket {
    fd: OwnedFd,
    ipv6: bool,
}

impl UdpSocket {
    /// Makes a socket in the current namespace and binds it to `addr`; port 0 lets the kernel choose.
    ///
    /// # Errors
    /// Those of `bind(2)` (`AddrInUse`, `AddrNotAvailable`), or of the option that the kernel refused.
    pub fn bind(addr: SocketAddr, options: &UdpOptions) -> io::Result<Self> {
        let family = if addr.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
        let socket = Self { fd, ipv6: addr.is_ipv6() };
        if socket.ipv6 {
            // Refused once it is bound.
            sockopt::set_ipv6_v6only(&socket.fd, true)?;
        }
        socket.set_options(options)?;
        rustix::net::bind(&socket.fd, &addr)?;
        Ok(socket)
    }

    /// Takes over a bound socket from another process; its options come with it.
    ///
    /// # Errors
    /// `InvalidInput` when it is no UDP socket.
    pub fn from_fd(fd: OwnedFd) -> io::Result<Self> {
        let domain = sockopt::socket_domain(&fd)?;
        let udp = sockopt::socket_type(&fd)? == SocketType::DGRAM
            && matches!(domain, AddressFamily::INET | AddressFamily::INET6);
        if !udp {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a UDP socket"));
        }
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self { fd, ipv6: domain == AddressFamily::INET6 })
    }

    /// As [`UdpSocket::from_fd`] for a socket that should be what [`UdpSocket::bind`] makes of the same arguments in the
    /// calling thread's namespace. Its options are set again: another version may have made it.
    ///
    /// # Errors
    /// `InvalidInput` that says what it is instead, or those of the calls that ask it.
    pub fn adopt(fd: OwnedFd, addr: SocketAddr, options: &UdpOptions) -> io::Result<Self> {
        let other = |what: String| Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        let socket = Self::from_fd(fd)?;
        let bound = socket.local_addr()?;
        let port_fits = bound.port() != 0 && (addr.port() == 0 || addr.port() == bound.port());
        if bound.ip() != addr.ip() || !port_fits {
            return other(format!("it is bound to {bound}, not to {addr}"));
        }
        if socket.netns()?.id()? != Netns::current()?.id()? {
            return other("it belongs to another network namespace".to_owned());
        }
        socket.set_options(options)?;
        Ok(socket)
    }

    /// The namespace that the socket lives in (`SIOCGSKNS`, `linux/sockios.h`).
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_NET_ADMIN over it.
    pub fn netns(&self) -> io::Result<Netns> {
        // SAFETY: SIOCGSKNS takes no argument and returns a new descriptor.
        let raw = unsafe { ioctl::by_value(self.fd.as_fd(), SIOCGSKNS, 0) }?;
        // SAFETY: the kernel just made this descriptor for us; nothing else owns it.
        Netns::from_fd(unsafe { OwnedFd::from_raw_fd(raw) })
    }

    /// Sends `bufs`, joined, to `dst`: as one datagram, or cut into datagrams of `segment` bytes (the last maybe
    /// shorter) when they are longer than that. Never blocks, allocates nothing.
    ///
    /// `tos` is the outer TOS or traffic class byte (RFC 2474, RFC 3168); 0 leaves the socket's own.
    ///
    /// # Errors
    /// `WouldBlock` when the buffer is full; `EMSGSIZE` when a datagram does not fit the MTU or all do not fit
    /// [`MAX_DATAGRAM`]; `EINVAL` for more than [`max_segments`]; `ENETUNREACH` and its like. All mean: drop, count.
    #[inline]
    pub fn send(
        &self,
        dst: SocketAddr,
        bufs: &[IoSlice<'_>],
        segment: Option<u16>,
        tos: u8,
    ) -> io::Result<usize> {
        let total: usize = bufs.iter().map(|b| b.len()).sum();
        let mut control = [0u8; cmsg::space(2) + cmsg::space(4)];
        let mut encoder = cmsg::Encoder::new(&mut control);
        if let Some(size) = segment.filter(|&size| total > usize::from(size)) {
            encoder.push(libc::SOL_UDP, libc::UDP_SEGMENT, &size.to_ne_bytes());
        }
        if tos != 0 {
            let (level, kind) =
                if self.ipv6 { (libc::SOL_IPV6, libc::IPV6_TCLASS) } else { (libc::SOL_IP, libc::IP_TOS) };
            encoder.push(level, kind, &libc::c_int::from(tos).to_ne_bytes());
        }
        let control_len = encoder.len();
        send_message(self.fd.as_fd(), dst, bufs, &mut control[..control_len])
    }

    /// Receives one delivery into `buf`. Never blocks, allocates nothing.
    ///
    /// # Errors
    /// `WouldBlock` when none is waiting; `EMSGSIZE` when it was longer than `buf` (give 65535 bytes).
    #[inline]
    pub fn recv(&self, buf: &mut [u8]) -> io::Result<Received> {
        let mut control = [0u8; CONTROL_IN];
        let (len, from, control_len) = recv_message(self.fd.as_fd(), buf, &mut control)?;
        let mut received = Received { len, from, segment: None, ecn: 0 };
        for message in cmsg::Decoder::new(&control[..control_len]) {
            match (message.level, message.kind) {
                (libc::SOL_UDP, libc::UDP_GRO) => received.segment = segment(&message),
                (libc::SOL_IP, libc::IP_TOS) | (libc::SOL_IPV6, libc::IPV6_TCLASS) => {
                    received.ecn = message.int().map_or(0, |v| (v & 3) as u8);
                }
                _ => {}
            }
        }
        Ok(received)
    }

    /// Sends each datagram of a batch to its address by one system call (`sendmmsg(2)`); at most [`MANY`] of them. Gives
    /// how many the kernel took. Never blocks, allocates nothing.
    ///
    /// # Errors
    /// As [`UdpSocket::send`], when it took none.
    pub fn send_many<'a>(
        &self,
        batch: impl IntoIterator<Item = (SocketAddr, &'a [u8])>,
    ) -> io::Result<usize> {
        let mut names = [const { RawAddr::ANY }; MANY];
        let mut slices = [IoSlice::new(&[]); MANY];
        let mut headers = [const { many_header() }; MANY];
        let mut count = 0;
        for (((dst, bytes), name), slice) in batch.into_iter().zip(&mut names).zip(&mut slices) {
            let header = &mut headers[count].msg_hdr;
            (*name, header.msg_namelen) = RawAddr::new(dst);
            *slice = IoSlice::new(bytes);
            header.msg_name = (&raw mut *name).cast();
            header.msg_iov = (&raw mut *slice).cast();
            header.msg_iovlen = 1;
            count += 1;
        }
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the descriptor is open; the first `count` headers point to names and slices that outlive the call, with
        // their lengths; `IoSlice` has the layout of `iovec` by its documentation; sendmmsg writes `msg_len` alone.
        let sent = unsafe {
            libc::sendmmsg(self.fd.as_raw_fd(), headers.as_mut_ptr(), count as libc::c_uint, flags as _)
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }

    /// Receives what is waiting, at most [`MANY`] deliveries, by one system call (`recvmmsg(2)`). Never blocks.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is waiting.
    pub fn recv_many(&self, into: &mut Deliveries) -> io::Result<()> {
        into.count = 0;
        let mut controls = [[0u8; CONTROL_IN]; MANY];
        let mut vectors = [const { libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 } }; MANY];
        let mut headers = [const { many_header() }; MANY];
        let buffers = into.bytes.chunks_mut(DELIVERY);
        for (((header, vector), control), buffer) in
            headers.iter_mut().zip(&mut vectors).zip(&mut controls).zip(buffers)
        {
            *vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
            header.msg_hdr.msg_iov = &raw mut *vector;
            header.msg_hdr.msg_iovlen = 1;
            header.msg_hdr.msg_control = control.as_mut_ptr().cast();
            header.msg_hdr.msg_controllen = control.len() as _;
        }
        // SAFETY: the descriptor is open; every header points to a vector and a control buffer that outlive the call, each
        // vector to a buffer of its own that is exclusively borrowed; the lengths are theirs.
        let received = unsafe {
            let (at, count) = (headers.as_mut_ptr(), MANY as libc::c_uint);
            libc::recvmmsg(self.fd.as_raw_fd(), at, count, libc::MSG_DONTWAIT as _, std::ptr::null_mut())
        };
        into.count = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for ((header, control), shape) in headers.iter().zip(&controls).zip(&mut into.shapes).take(into.count)
        {
            let control = &control[..header.msg_hdr.msg_controllen];
            let segment = cmsg::Decoder::new(control)
                .find(|message| (message.level, message.kind) == (libc::SOL_UDP, libc::UDP_GRO))
                .and_then(|message| segment(&message));
            *shape = (header.msg_len as usize, segment);
        }
        Ok(())
    }

    /// Leaves room for no more than a datagram or two: for a socket that is never read, so that nobody fills kernel
    /// memory by sending to its port.
    ///
    /// # Errors
    /// Those of `setsockopt(2)`; none in practice.
    pub fn stop_receiving(&self) -> io::Result<()> {
        // The kernel makes the smallest buffer of it (`SOCK_MIN_RCVBUF`).
        Ok(sockopt::set_socket_recv_buffer_size(&self.fd, 0)?)
    }

    /// Whether the kernel joins datagrams of a sender (`UDP_GRO`). What it has joined, XDP programs that run after the driver
    /// get in one piece, too.
    ///
    /// # Errors
    /// Those of `setsockopt(2)`; none in practice.
    pub fn set_gro(&self, on: bool) -> io::Result<()> {
        set_int(self.fd.as_fd(), libc::SOL_UDP, libc::UDP_GRO, on.into())
    }

    /// The address that the socket is bound to.
    ///
    /// # Errors
    /// Those of `getsockname(2)`; none in practice.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(rustix::net::getsockname(&self.fd)?.try_into()?)
    }

    /// Bytes of the kernel's receive and send buffer. The kernel reports twice what it was asked for.
    ///
    /// # Errors
    /// Those of `getsockopt(2)`; none in practice.
    pub fn buffers(&self) -> io::Result<(usize, usize)> {
        Ok((sockopt::socket_recv_buffer_size(&self.fd)?, sockopt::socket_send_buffer_size(&self.fd)?))
    }

    /// Another descriptor of the same socket, e.g. for a keeper.
    ///
    /// # Errors
    /// `EMFILE` when the process has no descriptor left.
    pub fn try_clone_fd(&self) -> io::Result<OwnedFd> {
        self.fd.try_clone()
    }

    fn set_options(&self, options: &UdpOptions) -> io::Result<()> {
        let fd = self.fd.as_fd();
        grow_buffers(fd, options.buffer)?;
        if options.gro {
            set_int(fd, libc::SOL_UDP, libc::UDP_GRO, 1)?;
        }
        if self.ipv6 {
            set_int(fd, libc::SOL_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_OMIT)?;
            set_int(fd, libc::SOL_IPV6, libc::IPV6_DONTFRAG, 0)?;
            // As a kernel's VXLAN device sends, and what leaves by `tunnel_gso`: routers that spread flows by their label
            // must not part a flow's packets. The source port tells flows apart.
            set_int(fd, libc::SOL_IPV6, libc::IPV6_AUTOFLOWLABEL, 0)?;
            sockopt::set_ipv6_recvtclass(fd, true)?;
            if options.zero_checksum6 {
                set_int(fd, libc::SOL_UDP, UDP_NO_CHECK6_RX, 1)?;
            }
        } else {
            set_int(fd, libc::SOL_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_OMIT)?;
            sockopt::set_ip_recvtos(fd, true)?;
        }
        Ok(())
    }
}

impl AsFd for UdpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for UdpSocket {
    /// For mio's `SourceFd` and tokio's `AsyncFd`.
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

impl From<UdpSocket> for OwnedFd {
    fn from(socket: UdpSocket) -> Self {
        socket.fd
    }
}

/// Asks the kernel how many segments one send may have, by sending over the current namespace's loopback.
///
/// Where loopback is down the answer is the safe one, [`MAX_SEGMENTS_OLD`].
#[must_use]
pub fn max_segments() -> usize {
    let probe = || -> io::Result<usize> {
        let options = UdpOptions { gro: false, buffer: 1 << 18, zero_checksum6: false };
        let socket = UdpSocket::bind(SocketAddr::from(([127, 0, 0, 1], 0)), &options)?;
        socket.send(socket.local_addr()?, &[IoSlice::new(&[0; MAX_SEGMENTS])], Some(1), 0)
    };
    probe().map_or(MAX_SEGMENTS_OLD, |_| MAX_SEGMENTS)
}

/// Datagrams of one [`UdpSocket::send_many`], deliveries of one [`UdpSocket::recv_many`], at most.
pub const MANY: usize = 64;

/// Room for one delivery.
const DELIVERY: usize = 1 << 16;

/// What [`UdpSocket::recv_many`] received.
#[derive(Debug)]
pub struct Deliveries {
    bytes: Box<[u8]>,
    /// Length of each, and that of its datagrams where it is a run of several.
    shapes: [(usize, Option<u16>); MANY],
    count: usize,
}

impl Default for Deliveries {
    fn default() -> Self {
        Self { bytes: vec![0; MANY * DELIVERY].into_boxed_slice(), shapes: [(0, None); MANY], count: 0 }
    }
}

impl Deliveries {
    /// Deliveries of the last call.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// True when the last call brought none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// All datagrams of the last call.
    pub fn datagrams(&self) -> impl Iterator<Item = &[u8]> {
        let deliveries = self.bytes.chunks(DELIVERY).zip(&self.shapes).take(self.count);
        deliveries
            .flat_map(|(bytes, &(len, segment))| bytes[..len].chunks(segment.map_or(len, usize::from).max(1)))
    }
}

/// `linux/sockios.h`; absent from the C library's headers.
const SIOCGSKNS: libc::Ioctl = 0x894c;

/// `linux/udp.h`; absent from the C library's headers.
const UDP_NO_CHECK6_RX: libc::c_int = 102;

/// Room for the messages that [`UdpSocket::set_options`] turns on, and one more.
const CONTROL_IN: usize = 3 * cmsg::space(4);

/// What a `UDP_GRO` message says: the length of the datagrams in a run.
fn segment(message: &cmsg::Message<'_>) -> Option<u16> {
    message.int().and_then(|size| u16::try_from(size).ok()).filter(|&size| size != 0)
}

/// The forced option needs CAP_NET_ADMIN; the plain one is silently capped at `net.core.?mem_max`.
fn grow_buffers(fd: BorrowedFd<'_>, bytes: usize) -> io::Result<()> {
    sockopt::set_socket_recv_buffer_size_force(fd, bytes)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(fd, bytes))?;
    sockopt::set_socket_send_buffer_size_force(fd, bytes)
        .or_else(|_| sockopt::set_socket_send_buffer_size(fd, bytes))?;
    Ok(())
}

fn set_int(
    fd: BorrowedFd<'_>,
    level: libc::c_int,
    option: libc::c_int,
    value: libc::c_int,
) -> io::Result<()> {
    // SAFETY: the descriptor is open, the pointer and length describe `value`; setsockopt only reads it.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(&value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A `sockaddr_in` or `sockaddr_in6` on the stack.
union RawAddr {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
}

impl RawAddr {
    fn new(addr: SocketAddr) -> (Self, libc::socklen_t) {
        match addr {
            SocketAddr::V4(addr) => {
                let v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: addr.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(addr.ip().octets()) },
                    sin_zero: [0; 8],
                };
                (Self { v4 }, size_of::<libc::sockaddr_in>() as libc::socklen_t)
            }
            SocketAddr::V6(addr) => {
                let v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: addr.port().to_be(),
                    sin6_flowinfo: addr.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: addr.ip().octets() },
                    sin6_scope_id: addr.scope_id(),
                };
                (Self { v6 }, size_of::<libc::sockaddr_in6>() as libc::socklen_t)
            }
        }
    }

    /// No address: for [`RawAddr::new`]'s, or for the kernel's.
    const ANY: Self = Self {
        v6: libc::sockaddr_in6 {
            sin6_family: libc::AF_UNSPEC as libc::sa_family_t,
            sin6_port: 0,
            sin6_flowinfo: 0,
            sin6_addr: libc::in6_addr { s6_addr: [0; 16] },
            sin6_scope_id: 0,
        },
    };

    /// What the kernel wrote, `len` bytes of it.
    fn get(&self, len: libc::socklen_t) -> io::Result<SocketAddr> {
        // SAFETY: every value is made by `new`, which initialises the whole of the larger field or of the smaller
        // one, and the family lies at the same place in both.
        let family = unsafe { self.v4.sin_family };
        match (libc::c_int::from(family), len as usize) {
            (libc::AF_INET, len) if len >= size_of::<libc::sockaddr_in>() => {
                // SAFETY: the family says so, the kernel wrote all of it, and every bit pattern is valid.
                let v4 = unsafe { self.v4 };
                let ip = IpAddr::from(v4.sin_addr.s_addr.to_ne_bytes());
                let IpAddr::V4(ip) = ip else { return Err(io::ErrorKind::InvalidData.into()) };
                Ok(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)).into())
            }
            (libc::AF_INET6, len) if len >= size_of::<libc::sockaddr_in6>() => {
                // SAFETY: the family says so, the kernel wrote all of it, and every bit pattern is valid.
                let v6 = unsafe { self.v6 };
                let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
                let (port, flow, scope) = (u16::from_be(v6.sin6_port), v6.sin6_flowinfo, v6.sin6_scope_id);
                Ok(SocketAddrV6::new(ip, port, flow, scope).into())
            }
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// An empty `struct msghdr`; built by zeroing because the C library may have private padding fields in it.
const fn empty_header() -> libc::msghdr {
    // SAFETY: all fields are integers or raw pointers, for which zero is valid.
    unsafe { std::mem::zeroed() }
}

const fn many_header() -> libc::mmsghdr {
    libc::mmsghdr { msg_hdr: empty_header(), msg_len: 0 }
}

#[inline]
fn send_message(
    fd: BorrowedFd<'_>,
    dst: SocketAddr,
    bufs: &[IoSlice<'_>],
    control: &mut [u8],
) -> io::Result<usize> {
    let (mut name, name_len) = RawAddr::new(dst);
    let mut header = empty_header();
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = name_len;
    header.msg_iov = bufs.as_ptr().cast_mut().cast();
    header.msg_iovlen = bufs.len() as _;
    if !control.is_empty() {
        header.msg_control = control.as_mut_ptr().cast();
        header.msg_controllen = control.len() as _;
    }
    // SAFETY: the descriptor is open; name, bufs and control outlive the call with the lengths given; `IoSlice` has
    // the layout of `iovec` by its documentation; sendmsg only reads through these pointers.
    let sent =
        unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const header, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// Length, sender, and bytes of `control` in use.
#[inline]
fn recv_message(
    fd: BorrowedFd<'_>,
    buf: &mut [u8],
    control: &mut [u8],
) -> io::Result<(usize, SocketAddr, usize)> {
    let mut name = RawAddr::ANY;
    let mut iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
    let mut header = empty_header();
    header.msg_name = (&raw mut name).cast();
    header.msg_namelen = size_of::<RawAddr>() as libc::socklen_t;
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = control.len() as _;
    // SAFETY: the descriptor is open; name, buf and control are exclusively borrowed, outlive the call and have the
    // lengths given; the kernel writes no more than those.
    let len = unsafe { libc::recvmsg(fd.as_raw_fd(), &raw mut header, libc::MSG_DONTWAIT) };
    let len = usize::try_from(len).map_err(|_| io::Error::last_os_error())?;
    if header.msg_flags & libc::MSG_TRUNC != 0 {
        return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
    }
    Ok((len, name.get(header.msg_namelen)?, header.msg_controllen))
}

#[cfg(test)]
mod tests;
