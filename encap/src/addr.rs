//! Addresses and identifiers that have a range: a value exists only if it is valid.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// An IEEE 802 MAC address (EUI-48).
#[derive(
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    FromBytes,
    IntoBytes,
    KnownLayout,
    Immutable,
    Unaligned,
)]
#[repr(transparent)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);
    /// `00:00:00:00:00:00`, never a valid source.
    pub const ZERO: MacAddr = MacAddr([0; 6]);

    /// True for group addresses (multicast and broadcast): IEEE 802.3 I/G bit.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 == 1
    }

    /// True for the broadcast address.
    pub fn is_broadcast(self) -> bool {
        self == Self::BROADCAST
    }

    /// True for the link-local control addresses 01:80:c2:00:00:00 to 0f, which no bridge forwards
    /// (IEEE 802.1D section 7.12.6).
    pub fn is_reserved(self) -> bool {
        self.0[..5] == [0x01, 0x80, 0xc2, 0, 0] && self.0[5] < 0x10
    }

    /// The group address of an IPv6 multicast address (RFC 2464 section 7).
    pub fn of_ipv6_multicast(group: Ipv6Addr) -> MacAddr {
        let g = group.octets();
        MacAddr([0x33, 0x33, g[12], g[13], g[14], g[15]])
    }

    /// The group address of an IPv4 multicast address (RFC 1112 section 6.4).
    pub fn of_ipv4_multicast(group: Ipv4Addr) -> MacAddr {
        let g = group.octets();
        MacAddr([0x01, 0x00, 0x5e, g[1] & 0x7f, g[2], g[3]])
    }

    /// True for an address that one station may own: neither a group address nor all zeros.
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && self != Self::ZERO
    }

    /// A locally administered unicast address derived from `seed` (FNV-1a), the same for the same seed.
    pub fn derived(seed: &[u8]) -> MacAddr {
        let hash = seed.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let b = hash.to_be_bytes();
        MacAddr([(b[2] & 0xfe) | 0x02, b[3], b[4], b[5], b[6], b[7]])
    }

    /// The VTEP MAC of a node that names none: derived from its underlay address and the VNI.
    pub fn vtep(underlay: IpAddr, vni: Vni) -> MacAddr {
        MacAddr::derived(format!("vtep {underlay} {vni}").as_bytes())
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not an address or identifier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseAddrError(String);

impl fmt::Display for ParseAddrError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ParseAddrError {}

impl FromStr for MacAddr {
    type Err = ParseAddrError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || ParseAddrError(format!("`{text}` is not a MAC address like 02:00:5e:10:00:01"));
        let mut bytes = [0u8; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
                .ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        match parts.next() {
            None => Ok(MacAddr(bytes)),
            Some(_) => Err(bad()),
        }
    }
}

impl Serialize for MacAddr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MacAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

macro_rules! bounded {
    ($(#[$doc:meta])* $name:ident($inner:ty), $min:literal..=$max:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
        #[serde(transparent)]
        pub struct $name($inner);

        impl $name {
            /// The value, if it is in range.
            pub const fn new(value: $inner) -> Option<Self> {
                if value >= $min && value <= $max { Some(Self(value)) } else { None }
            }

            /// The number itself.
            pub const fn get(self) -> $inner {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = ParseAddrError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().ok().and_then(Self::new).ok_or_else(|| {
                    ParseAddrError(format!(concat!("`{}` is not a ", $what), text))
                })
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let value = <$inner>::deserialize(deserializer)?;
                Self::new(value).ok_or_else(|| {
                    serde::de::Error::custom(format!(concat!("{} is not a ", $what), value))
                })
            }
        }
    };
}

bounded!(
    /// A VXLAN network identifier (RFC 7348 section 5), 24 bits. 0 is valid on the wire but reserved here.
    Vni(u32), 1..=0xff_ffff, "VNI (1 to 16777215)"
);
bounded!(
    /// A VLAN identifier (IEEE 802.1Q), 1 to 4094.
    VlanId(u16), 1..=4094, "VLAN ID (1 to 4094)"
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mac_text_round_trips() {
        let mac: MacAddr = "02:00:5e:10:00:ff".parse().unwrap();
        assert_eq!(mac.to_string(), "02:00:5e:10:00:ff");
        for bad in
            ["", "02:00", "02:00:5e:10:00:ff:01", "2:0:5e:10:0:ff", "zz:00:5e:10:00:ff", "+2:00:5e:10:00:ff"]
        {
            assert!(bad.parse::<MacAddr>().is_err(), "{bad}");
        }
    }

    #[test]
    fn derived_mac_is_local_unicast_and_stable() {
        let mac = MacAddr::derived(b"a");
        assert_eq!(mac.0[0] & 3, 2);
        assert_eq!(mac, MacAddr::derived(b"a"));
        assert_ne!(mac, MacAddr::derived(b"b"));
    }

    #[test]
    fn ranges_hold() {
        assert!(Vni::new(0).is_none() && Vni::new(0x100_0000).is_none() && Vni::new(1).is_some());
        assert!(VlanId::new(0).is_none() && VlanId::new(4095).is_none());
        assert!("4095".parse::<VlanId>().is_err());
    }
}
