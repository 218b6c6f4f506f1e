//! Longest-prefix match over IPv4 and IPv6 prefixes; built once, then only read.

use std::net::IpAddr;

use ipnet::IpNet;

/// A table of prefixes.
#[derive(Clone, Debug)]
pub struct Lpm<T> {
    entries: Vec<(IpNet, T)>,
}

impl<T> Default for Lpm<T> {
    fn default() -> Self {
        Lpm { entries: Vec::new() }
    }
}

impl<T: Copy> Lpm<T> {
    /// A table of `entries`; of equal prefixes the last one counts.
    pub fn build(entries: impl IntoIterator<Item = (IpNet, T)>) -> Self {
        let mut entries: Vec<_> = entries.into_iter().collect();
        entries.reverse();
        entries.sort_by_key(|(net, _)| std::cmp::Reverse(net.prefix_len()));
        Lpm { entries }
    }

    /// The value of the longest prefix that holds `ip`.
    pub fn lookup(&self, ip: IpAddr) -> Option<T> {
        self.entries.iter().find(|(net, _)| net.contains(&ip)).map(|(_, value)| *value)
    }
}
