//! Packet sockets (packet(7), `net/packet/af_packet.c`) that only send: by them superframes leave through a device whose frames are
//! received otherwise.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::step::step;

/// Bytes of a `virtio_net_hdr` without the count of buffers, which every kernel takes here.
const HEADER: usize = 10;
/// Bytes of the header that frames have before them: with the count.
const WITH_COUNT: usize = 12;

/// A socket that sends by one device, and receives nothing.
#[derive(Debug)]
pub struct PacketSender(OwnedFd);

impl PacketSender {
    /// Opens one for a device of the current namespace. At most twice `buffer` bytes, with what the kernel keeps
    /// beside them, are on their way to it at once.
    ///
    /// # Errors
    /// The step, and what the kernel refuses: CAP_NET_RAW is needed; `EAFNOSUPPORT` from a kernel without packet sockets. `Unsupported` on
    /// big-endian hosts, where the kernel would want the header in that order.
    pub fn open(device: u32, buffer: usize) -> io::Result<Self> {
        if cfg!(target_endian = "big") {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        // Without a protocol nothing is received.
        let socket = rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)
            .map_err(|error| step("packet socket")(error.into()))?;
        set(&socket, libc::PACKET_VNET_HDR).map_err(step("PACKET_VNET_HDR"))?;
        // Queueing disciplines are for devices that wait for a wire.
        set(&socket, libc::PACKET_QDISC_BYPASS).map_err(step("PACKET_QDISC_BYPASS"))?;
        sockopt::set_socket_send_buffer_size_force(&socket, buffer)
            .or_else(|_| sockopt::set_socket_send_buffer_size(&socket, buffer))
            .map_err(|error| step("SO_SNDBUF")(error.into()))?;
        bind(&socket, device).map_err(step("bind packet socket"))?;
        Ok(PacketSender(socket))
    }

    /// Sends one frame, with a `virtio_net_hdr` of 12 bytes before it.
    ///
    /// # Errors
    /// `WouldBlock` and `ENOBUFS` when there is no room; `EINVAL` for a header that the kernel does not know or that does not fit the frame;
    /// `ENETDOWN`, `ENXIO` for a device that is down or gone.
    #[inline]
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        let (Some(header), Some(bytes)) = (frame.get(..HEADER), frame.get(WITH_COUNT..)) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        rustix::io::writev(&self.0, &[IoSlice::new(header), IoSlice::new(bytes)])?;
        Ok(())
    }
}

fn set(socket: &OwnedFd, option: libc::c_int) -> io::Result<()> {
    let one: libc::c_int = 1;
    let length = size_of_val(&one) as libc::socklen_t;
    // SAFETY: the value is an `int` of this length, which the call only reads.
    let set = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_PACKET, option, (&raw const one).cast(), length)
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Binds to a device; the protocol stays that of the socket.
pub(crate) fn bind(socket: &impl AsFd, device: u32) -> io::Result<()> {
    // SAFETY: all of its fields are integers.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = device.cast_signed();
    let length = size_of_val(&address) as libc::socklen_t;
    // SAFETY: the address is a `sockaddr_ll` of this length.
    let bound = unsafe { libc::bind(socket.as_fd().as_raw_fd(), (&raw const address).cast(), length) };
    if bound == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::time::Duration;

    use super::*;
    use crate::link::{AddrFlags, LinkChange, Netlink};
    use crate::testing::{namespace, root, up};

    /// A UDP superframe goes in at one end of a veth pair, and its datagrams come out at the other.
    #[test]
    fn a_superframe_leaves_by_a_veth() {
        if !root() {
            return;
        }
        let netns = namespace();
        netns
            .run(|| {
                let mut netlink = Netlink::new().unwrap();
                netlink.add_veth("a", "b").unwrap();
                let link = |netlink: &mut Netlink, name| netlink.link_by_name(name).unwrap().unwrap();
                let (a, b) = (link(&mut netlink, "a"), link(&mut netlink, "b"));
                netlink.addr_add(b.index, "10.0.0.2/24".parse().unwrap(), AddrFlags::empty()).unwrap();
                up("a");
                up("b");
                let udp = UdpSocket::bind("10.0.0.2:9").unwrap();
                udp.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                let sender = PacketSender::open(a.index, 1 << 20).unwrap();
                let frame = superframe(b.mac.unwrap(), 3, 100);
                sender.send(&frame).unwrap();
                let mut buffer = [0; 2000];
                for n in 0..3 {
                    assert_eq!((udp.recv(&mut buffer).unwrap(), buffer[0]), (100, n));
                }
                assert_eq!(sender.send(&frame[..11]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
                netlink.link_set(a.index, &LinkChange { up: Some(false), ..LinkChange::default() }).unwrap();
                assert_eq!(sender.send(&frame).unwrap_err().raw_os_error(), Some(libc::ENETDOWN));
                netlink.link_del(a.index).unwrap();
                assert!(sender.send(&frame).is_err());
            })
            .unwrap();
    }

    /// `count` datagrams of `size` bytes from 10.0.0.1 to 10.0.0.2, port 9, behind a header that says so.
    fn superframe(to: [u8; 6], count: u8, size: u16) -> Vec<u8> {
        let payload: Vec<u8> = (0..count).flat_map(|n| vec![n; usize::from(size)]).collect();
        let (udp, ip) = (8 + payload.len() as u16, 28 + payload.len() as u16);
        let mut frame = vec![1, 5, 42, 0];
        frame.extend(size.to_ne_bytes());
        frame.extend([34, 0, 6, 0, 0, 0]);
        frame.extend(to);
        frame.extend([2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0]);
        frame.extend(ip.to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        let sum = |bytes: &[u8]| {
            let mut sum: u32 = bytes.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], c[1]]))).sum();
            while sum > 0xffff {
                sum = (sum & 0xffff) + (sum >> 16);
            }
            sum as u16
        };
        let check = !sum(&frame[12 + 14..]);
        frame[12 + 24..12 + 26].copy_from_slice(&check.to_be_bytes());
        // What is owed: the pseudo-header's sum stands in its place.
        let mut pseudo = vec![10, 0, 0, 1, 10, 0, 0, 2, 0, 17];
        pseudo.extend(udp.to_be_bytes());
        frame.extend([0, 7, 0, 9]);
        frame.extend(udp.to_be_bytes());
        frame.extend(sum(&pseudo).to_be_bytes());
        frame.extend(payload);
        frame
    }
}
