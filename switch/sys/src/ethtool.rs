//! What a network device can (`linux/ethtool.h`), by ioctl on its name in the current namespace.
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::ioctl;

const SIOCETHTOOL: libc::Ioctl = 0x8946;
const GET_DRIVER: u32 = 0x03;
const GET_STRINGS: u32 = 0x1b;
const GET_SET_INFO: u32 = 0x37;
const GET_FEATURES: u32 = 0x3a;
const SET_FEATURES: u32 = 0x3b;
const SET_TX_CHECKSUMS: u32 = 0x17;
const SET_TSO: u32 = 0x1f;
const SET_GSO: u32 = 0x24;
/// `ETH_SS_FEATURES`.
const FEATURES: u32 = 4;
/// `ETH_GSTRING_LEN`.
const STRING: usize = 32;
/// Words of `struct ethtool_drvinfo`.
const DRIVER_INFO: usize = 49;

/// `struct ifreq` (`linux/if.h`) as `SIOCETHTOOL` uses it: the name, then a pointer.
#[repr(C)]
struct IfReq {
    name: [u8; libc::IFNAMSIZ],
    data: *mut u32,
    rest: [u64; 2],
}

const _: () = assert!(size_of::<IfReq>() == size_of::<libc::ifreq>());

/// What a device does for the kernel, and can leave to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Offload {
    /// Checksums of what is sent: `tx` of `ethtool -K`. Without it there is no segmentation offload either.
    TxChecksums = SET_TX_CHECKSUMS,
    /// Segmentation of TCP: `tso`.
    Tso = SET_TSO,
    /// Segments are made at all as late as possible: `gso`.
    Gso = SET_GSO,
}

/// A device's properties, asked for one by one.
#[derive(Debug)]
pub struct Device {
    socket: OwnedFd,
    name: [u8; libc::IFNAMSIZ],
}

impl Device {
    /// The device of this name.
    ///
    /// # Errors
    /// `InvalidInput` for what is no device name; those of `socket(2)`.
    pub fn new(name: &str) -> io::Result<Self> {
        if !crate::tun::valid_name(name) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let kind = SocketType::DGRAM;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
        let mut bytes = [0; libc::IFNAMSIZ];
        bytes[..name.len()].copy_from_slice(name.as_bytes());
        Ok(Device { socket, name: bytes })
    }

    /// Its driver, e.g. `veth`.
    ///
    /// # Errors
    /// `ENODEV`; `EOPNOTSUPP` of drivers without the call.
    pub fn driver(&self) -> io::Result<String> {
        let mut info = [0; DRIVER_INFO];
        self.call(GET_DRIVER, &mut info)?;
        Ok(text(&info[1..=STRING / 4]))
    }

    /// Whether a feature is on, by the name that `ethtool -k` shows. False for one that the kernel does not know.
    ///
    /// # Errors
    /// `ENODEV`.
    pub fn has_feature(&self, name: &str) -> io::Result<bool> {
        let Some((bit, count)) = self.feature(name)? else { return Ok(false) };
        let blocks = count.div_ceil(32);
        // command, number of blocks, and in each: available, requested, active, never changed.
        let mut features = vec![0; 2 + blocks * 4];
        features[1] = blocks as u32;
        self.call(GET_FEATURES, &mut features)?;
        Ok(features[2 + bit / 32 * 4 + 2] & (1 << (bit % 32)) != 0)
    }

    /// Turns an offload on or off.
    ///
    /// # Errors
    /// `ENODEV`; `EOPNOTSUPP` where it cannot be changed; `PermissionDenied` without CAP_NET_ADMIN.
    pub fn set_offload(&self, offload: Offload, on: bool) -> io::Result<()> {
        // `struct ethtool_value`.
        self.call(offload as u32, &mut [0, on.into()])
    }

    /// Turns a feature that has a name (as `ethtool -k` shows it) on or off; one that the kernel does not know is left alone.
    ///
    /// # Errors
    /// `ENODEV`; `PermissionDenied` without CAP_NET_ADMIN.
    pub fn set_feature(&self, name: &str, on: bool) -> io::Result<()> {
        let Some((bit, count)) = self.feature(name)? else { return Ok(()) };
        let blocks = count.div_ceil(32);
        // command, number of blocks, and in each: valid, requested (`struct ethtool_sfeatures`).
        let mut features = vec![0; 2 + blocks * 2];
        features[1] = blocks as u32;
        features[2 + bit / 32 * 2] = 1 << (bit % 32);
        features[2 + bit / 32 * 2 + 1] = u32::from(on) << (bit % 32);
        self.call(SET_FEATURES, &mut features)
    }

    /// The number of a feature, if the kernel has one of that name, and of all features.
    fn feature(&self, name: &str) -> io::Result<Option<(usize, usize)>> {
        // command, reserved, mask of sets (u64), and the length of each set asked for.
        let mut info = [0, 0, 1 << FEATURES, 0, 0];
        self.call(GET_SET_INFO, &mut info)?;
        let count = info[4] as usize;
        let mut strings = vec![0; 3 + count * STRING / 4];
        (strings[1], strings[2]) = (FEATURES, count as u32);
        self.call(GET_STRINGS, &mut strings)?;
        let bit = strings[3..].chunks(STRING / 4).position(|string| text(string) == name);
        Ok(bit.map(|bit| (bit, count)))
    }

    /// The command goes to the first word.
    fn call(&self, command: u32, data: &mut [u32]) -> io::Result<()> {
        data[0] = command;
        let mut request = IfReq { name: self.name, data: data.as_mut_ptr(), rest: [0; 2] };
        // SAFETY: SIOCETHTOOL takes a `struct ifreq`, whose size `IfReq` has, with a pointer to the command's structure;
        // each caller gives one of the size that the command and the lengths in it ask for; the kernel writes integers.
        unsafe { ioctl::by_ref(self.socket.as_fd(), SIOCETHTOOL, &mut request) }.map(drop)
    }
}

/// The bytes of a string that ends with a NUL.
fn text(words: &[u32]) -> String {
    let bytes: Vec<u8> =
        words.iter().flat_map(|word| word.to_ne_bytes()).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::link::Netlink;
    use crate::testing;

    #[test]
    fn driver_and_features_of_a_veth() {
        if !testing::root() {
            return;
        }
        testing::namespace()
            .run(|| {
                Netlink::new().unwrap().add_veth("a", "b").unwrap();
                let device = Device::new("a").unwrap();
                assert_eq!(device.driver().unwrap(), "veth");
                let segments = || device.has_feature("tx-udp_tnl-csum-segmentation").unwrap();
                assert!(segments() && !device.has_feature("no-such-feature").unwrap());
                let off = ["-K", "a", "tx-udp_tnl-csum-segmentation", "off"];
                assert!(Command::new("ethtool").args(off).status().unwrap().success());
                assert!(!segments());
                let checksums = || device.has_feature("tx-checksum-ip-generic").unwrap();
                let tso = || device.has_feature("tx-tcp-segmentation").unwrap();
                let gso = || device.has_feature("tx-generic-segmentation").unwrap();
                assert!(checksums() && tso() && gso());
                for offload in [Offload::TxChecksums, Offload::Tso, Offload::Gso] {
                    device.set_offload(offload, false).unwrap();
                }
                assert!(!checksums() && !tso() && !gso());
                device.set_feature("tx-vlan-hw-insert", false).unwrap();
                assert!(!device.has_feature("tx-vlan-hw-insert").unwrap());
                device.set_feature("tx-vlan-hw-insert", true).unwrap();
                assert!(device.has_feature("tx-vlan-hw-insert").unwrap() && !checksums());
                device.set_feature("no-such-feature", true).unwrap();
                device.set_offload(Offload::TxChecksums, true).unwrap();
                assert!(checksums() && !tso());
                let none = Device::new("c").unwrap();
                assert_eq!(
                    none.has_feature("tx-tcp-segmentation").unwrap_err().raw_os_error(),
                    Some(libc::ENODEV)
                );
            })
            .unwrap();
        assert!(Device::new("no/name").is_err());
    }
}
