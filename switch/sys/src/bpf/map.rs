//! Maps: memory that programs and this process share.
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::{bpf, descriptor};

const CREATE: libc::c_int = 0;
const LOOKUP_ELEM: libc::c_int = 1;
const UPDATE_ELEM: libc::c_int = 2;
const DELETE_ELEM: libc::c_int = 3;

/// What a map is (`enum bpf_map_type`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub(crate) enum MapKind {
    Hash = 1,
    Array = 2,
    /// AF_XDP sockets by a number (Linux 4.18).
    Xsk = 17,
}

/// A map with keys and values of fixed sizes.
#[derive(Debug)]
pub(crate) struct Map {
    fd: OwnedFd,
    key_size: usize,
    value_size: usize,
}

impl Map {
    /// A map of at most `entries`; sizes in bytes.
    ///
    /// # Errors
    /// `PermissionDenied` without CAP_BPF or CAP_SYS_ADMIN; ENOSYS on a kernel without `bpf(2)`.
    pub(crate) fn new(kind: MapKind, key_size: usize, value_size: usize, entries: u32) -> io::Result<Self> {
        #[repr(C)]
        struct Create {
            kind: u32,
            key_size: u32,
            value_size: u32,
            entries: u32,
        }
        let request =
            Create { kind: kind as u32, key_size: key_size as u32, value_size: value_size as u32, entries };
        // SAFETY: the fields are those of `union bpf_attr` for MAP_CREATE; the call makes a descriptor.
        Ok(Map { fd: unsafe { descriptor(CREATE, &request) }?, key_size, value_size })
    }

    /// Copies the value of `key` to `value`.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) fn get(&self, key: &[u8], value: &mut [u8]) -> io::Result<()> {
        assert_eq!(value.len(), self.value_size, "value of another size than the map's");
        // SAFETY: the value has the map's size, and may be written.
        unsafe { self.element(LOOKUP_ELEM, key, value.as_mut_ptr() as u64) }
    }

    /// Sets the value of `key`.
    ///
    /// # Errors
    /// `E2BIG` when the map is full.
    pub(crate) fn set(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        assert_eq!(value.len(), self.value_size, "value of another size than the map's");
        // SAFETY: the value has the map's size; the kernel reads it.
        unsafe { self.element(UPDATE_ELEM, key, value.as_ptr() as u64) }
    }

    /// Takes `key` out.
    ///
    /// # Errors
    /// `NotFound`.
    pub(crate) fn remove(&self, key: &[u8]) -> io::Result<()> {
        // SAFETY: the command has no value.
        unsafe { self.element(DELETE_ELEM, key, 0) }
    }

    /// # Safety
    /// `value` is the address of what the command needs: memory of the value's size.
    unsafe fn element(&self, command: libc::c_int, key: &[u8], value: u64) -> io::Result<()> {
        #[repr(C)]
        struct Element {
            map: u32,
            pad: u32,
            key: u64,
            value: u64,
            flags: u64,
        }
        assert_eq!(key.len(), self.key_size, "key of another size than the map's");
        let map = self.fd.as_raw_fd().cast_unsigned();
        let request = Element { map, pad: 0, key: key.as_ptr() as u64, value, flags: 0 };
        // SAFETY: the fields are those of `union bpf_attr` for MAP_*_ELEM; key and value have the sizes of the map and
        // outlive the call.
        unsafe { bpf(command, &request) }.map(drop)
    }
}

impl AsFd for Map {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A number that a program counts up (an array map of one `u64`).
#[derive(Debug)]
pub(crate) struct Counter(Map);

impl Counter {
    /// # Errors
    /// As [`Map::new`].
    pub(crate) fn new() -> io::Result<Self> {
        Map::new(MapKind::Array, 4, 8, 1).map(Counter)
    }

    /// # Errors
    /// None in practice.
    pub(crate) fn get(&self) -> io::Result<u64> {
        let mut value = [0; 8];
        self.0.get(&[0; 4], &mut value)?;
        Ok(u64::from_ne_bytes(value))
    }
}

impl AsFd for Counter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn keys_and_values() {
        if !testing::root() {
            return;
        }
        let map = Map::new(MapKind::Hash, 2, 4, 1).unwrap();
        let mut value = [0; 4];
        assert_eq!(map.get(b"ab", &mut value).unwrap_err().kind(), io::ErrorKind::NotFound);
        map.set(b"ab", &[1, 2, 3, 4]).unwrap();
        map.get(b"ab", &mut value).unwrap();
        assert_eq!(value, [1, 2, 3, 4]);
        assert_eq!(map.set(b"cd", &value).unwrap_err().raw_os_error(), Some(libc::E2BIG));
        map.remove(b"ab").unwrap();
        assert_eq!(map.remove(b"ab").unwrap_err().kind(), io::ErrorKind::NotFound);
        assert_eq!(Counter::new().unwrap().get().unwrap(), 0);
    }
}
