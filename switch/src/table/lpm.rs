//! Longest-prefix match over IPv4 and IPv6 prefixes; built once, then only read.
//!
//! One hash table per prefix length in use, longest first: a cluster's table has thousands of prefixes but only a
//! handful of lengths, so a lookup is a handful of probes, and building is one insertion per prefix.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use foldhash::fast::RandomState;
use ipnet::IpNet;

/// A table of prefixes.
#[derive(Clone, Debug)]
pub struct Lpm<T> {
    v4: Vec<Level<u32, T>>,
    v6: Vec<Level<u128, T>>,
}

/// All prefixes of one length.
#[derive(Clone, Debug)]
struct Level<A, T> {
    mask: A,
    prefixes: HashMap<A, T, RandomState>,
}

impl<T> Default for Lpm<T> {
    fn default() -> Self {
        Lpm { v4: Vec::new(), v6: Vec::new() }
    }
}

impl<T: Copy> Lpm<T> {
    /// A table of `entries`; of equal prefixes the last one counts. Host bits of a prefix are ignored.
    pub fn build(entries: impl IntoIterator<Item = (IpNet, T)>) -> Self {
        let mut v4: BTreeMap<u8, HashMap<u32, T, RandomState>> = BTreeMap::new();
        let mut v6: BTreeMap<u8, HashMap<u128, T, RandomState>> = BTreeMap::new();
        for (net, value) in entries {
            match net {
                IpNet::V4(net) => {
                    v4.entry(net.prefix_len()).or_default().insert(net.network().to_bits(), value);
                }
                IpNet::V6(net) => {
                    v6.entry(net.prefix_len()).or_default().insert(net.network().to_bits(), value);
                }
            }
        }
        let v4 = v4.into_iter().rev();
        let v6 = v6.into_iter().rev();
        Lpm {
            v4: v4.map(|(len, prefixes)| Level { mask: mask32(len), prefixes }).collect(),
            v6: v6.map(|(len, prefixes)| Level { mask: mask128(len), prefixes }).collect(),
        }
    }

    /// The value of the longest prefix that holds `ip`.
    #[inline]
    pub fn lookup(&self, ip: IpAddr) -> Option<T> {
        match ip {
            IpAddr::V4(ip) => {
                let bits = ip.to_bits();
                self.v4.iter().find_map(|level| level.prefixes.get(&(bits & level.mask))).copied()
            }
            IpAddr::V6(ip) => {
                let bits = ip.to_bits();
                self.v6.iter().find_map(|level| level.prefixes.get(&(bits & level.mask))).copied()
            }
        }
    }

    /// How many prefixes it holds.
    pub fn len(&self) -> usize {
        let v4: usize = self.v4.iter().map(|level| level.prefixes.len()).sum();
        let v6: usize = self.v6.iter().map(|level| level.prefixes.len()).sum();
        v4 + v6
    }

    /// True when it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The network mask of a prefix length of at most 32.
fn mask32(len: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(len)).unwrap_or(0)
}

/// The network mask of a prefix length of at most 128.
fn mask128(len: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use ipnet::{Ipv4Net, Ipv6Net};
    use proptest::prelude::*;

    use super::*;

    /// The obvious implementation: scan all, keep the longest, of equal ones the last.
    fn naive(entries: &[(IpNet, usize)], ip: IpAddr) -> Option<usize> {
        entries
            .iter()
            .filter(|(net, _)| net.contains(&ip))
            .max_by_key(|(net, _)| net.prefix_len())
            .map(|(_, value)| *value)
    }

    fn net() -> impl Strategy<Value = IpNet> {
        // Few distinct high bits, so that prefixes nest.
        prop_oneof![
            (0u32..8, any::<u8>(), 0u8..=32).prop_map(|(high, low, len)| {
                IpNet::V4(Ipv4Net::new(Ipv4Addr::from(high << 29 | u32::from(low)), len).unwrap())
            }),
            (0u128..8, any::<u8>(), 0u8..=128).prop_map(|(high, low, len)| {
                IpNet::V6(Ipv6Net::new(Ipv6Addr::from(high << 125 | u128::from(low)), len).unwrap())
            }),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_a_naive_scan(nets in prop::collection::vec(net(), 0..60), probes in prop::collection::vec(net(), 1..60)) {
            let entries: Vec<_> = nets.into_iter().enumerate().map(|(i, net)| (net, i)).collect();
            let lpm = Lpm::build(entries.iter().copied());
            for probe in probes {
                prop_assert_eq!(lpm.lookup(probe.addr()), naive(&entries, probe.addr()));
            }
        }
    }

    #[test]
    fn thousands_of_prefixes() {
        let nets = (0..5000u32)
            .map(|i| (IpNet::V4(Ipv4Net::new(Ipv4Addr::from(0x0a00_0000 + (i << 8)), 24).unwrap()), i));
        let lpm = Lpm::build(nets.chain([("0.0.0.0/0".parse().unwrap(), u32::MAX)]));
        assert_eq!(lpm.len(), 5001);
        assert_eq!(lpm.lookup("10.0.7.9".parse().unwrap()), Some(7));
        assert_eq!(lpm.lookup("8.8.8.8".parse().unwrap()), Some(u32::MAX));
        assert_eq!(lpm.lookup("::1".parse().unwrap()), None);
    }
}
