//! Addresses of pods: a pool per pod CIDR, leases by port.
//!
//! Pure: no clock (time comes in), no I/O. What is in use follows from the ports of the desired state; after a
//! restart the caller tells each with [`Ipam::occupy`]. What must not be given out at once again is kept here: the
//! search goes on from the last address given (next-fit) and passes over addresses freed less than [`QUARANTINE`]
//! ago, because others may still remember who had them. Only when nothing else is left does the longest-free one of
//! those go out, if it was free for the quarantine; a fresher one never.
//!
//! Never given: network and broadcast address (IPv4), the subnet-router anycast address (IPv6, RFC 4291 section 2.6.1),
//! and the first usable address, which is the gateway's.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::IpNet;
use weft_api::report::PoolStatus;

use super::cluster::first_usable;

/// How long a freed address is kept back.
pub const QUARANTINE: Duration = Duration::from_secs(30);

/// Most addresses of one pool that are given without being asked for by name: a bigger IPv6 prefix is used up to
/// this many.
const SEARCH: u128 = 1 << 20;

/// Why no address is given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// No pod CIDR is configured.
    #[error("no pod CIDR is configured: give this node an entry with `pod_cidrs` in the cluster file, or set `gateways` of the bridge")]
    NoPool,
    /// The pool is used up.
    #[error("no free address in {cidr}{}", quarantined(*held))]
    Exhausted {
        /// The pool.
        cidr: IpNet,
        /// Addresses that are free but freed too recently.
        held: usize,
    },
    /// The wanted address belongs to another port.
    #[error("address {ip} is in use by port {port}")]
    InUse {
        /// The address.
        ip: IpAddr,
        /// Who has it.
        port: String,
    },
    /// The wanted address is in no pool.
    #[error("address {ip} is in none of this node's pod CIDRs ({pools})")]
    Outside {
        /// The address.
        ip: IpAddr,
        /// The pools.
        pools: String,
    },
    /// The wanted address is one that no pod may have.
    #[error("address {ip} of {cidr} is reserved (network, broadcast or gateway)")]
    Reserved {
        /// The address.
        ip: IpAddr,
        /// Its pool.
        cidr: IpNet,
    },
    /// Two wanted addresses are of one pool, or twice the same.
    #[error("address {0} is asked for twice, or beside another one of the same pod CIDR")]
    Twice(IpAddr),
}

/// The pools and who has what.
#[derive(Clone, Debug, Default)]
pub struct Ipam {
    pools: Vec<Pool>,
    /// Who has an address, inside the pools or not.
    leases: BTreeMap<IpAddr, String>,
}

#[derive(Clone, Debug)]
struct Pool {
    cidr: IpNet,
    first: u128,
    last: u128,
    gateway: u128,
    /// The address given last.
    cursor: Option<u128>,
    /// When an address was freed, in nanoseconds of the caller's clock.
    freed: HashMap<u128, u64>,
}

impl Ipam {
    /// An allocator over `cidrs`, nothing leased.
    pub fn new(cidrs: &[IpNet]) -> Self {
        Ipam { pools: cidrs.iter().map(Pool::new).collect(), leases: BTreeMap::new() }
    }

    /// Changes the pools; leases and what is remembered of pools that stay are kept.
    pub fn set_pools(&mut self, cidrs: &[IpNet]) {
        let mut old = std::mem::take(&mut self.pools);
        self.pools = cidrs
            .iter()
            .map(|cidr| match old.iter().position(|pool| pool.cidr == cidr.trunc()) {
                Some(at) => old.swap_remove(at),
                None => Pool::new(cidr),
            })
            .collect();
    }

    /// The pools' CIDRs.
    pub fn cidrs(&self) -> impl Iterator<Item = IpNet> + '_ {
        self.pools.iter().map(|pool| pool.cidr)
    }

    /// Notes that `port` has `ip`, without asking. An address of an existing lease stays with its holder.
    pub fn occupy(&mut self, ip: IpAddr, port: &str) {
        self.leases.entry(ip).or_insert_with(|| port.to_owned());
        // The search goes on behind what was in use before a restart.
        if let Some(pool) = self.pool_mut(ip) {
            let number = number(ip);
            pool.cursor = Some(pool.cursor.map_or(number, |cursor| cursor.max(number)));
        }
    }

    /// Who has `ip`.
    pub fn holder(&self, ip: IpAddr) -> Option<&str> {
        self.leases.get(&ip).map(String::as_str)
    }

    /// Gives `port` the `wanted` addresses, and one of each address family that has a pool but no wanted address. IPv4
    /// first, each with the prefix of its CIDR. All or none.
    pub fn allocate(&mut self, port: &str, wanted: &[IpAddr], now_ns: u64) -> Result<Vec<IpNet>, IpamError> {
        let chosen = self.choose(wanted, now_ns)?;
        for net in &chosen {
            self.leases.insert(net.addr(), port.to_owned());
            if let Some(pool) = self.pool_mut(net.addr()) {
                let number = number(net.addr());
                pool.freed.remove(&number);
                if !wanted.contains(&net.addr()) {
                    pool.cursor = Some(number);
                }
            }
        }
        Ok(chosen)
    }

    /// Frees every address of `port`; their quarantine starts. Returns how many there were.
    pub fn release(&mut self, port: &str, now_ns: u64) -> usize {
        let gone: Vec<IpAddr> =
            self.leases.iter().filter(|(_, holder)| *holder == port).map(|(ip, _)| *ip).collect();
        for ip in &gone {
            self.leases.remove(ip);
            if let Some(pool) = self.pool_mut(*ip) {
                pool.freed.insert(number(*ip), now_ns);
            }
        }
        gone.len()
    }

    /// Takes an allocation back as if it had not been: no quarantine. For undoing.
    pub fn forget(&mut self, port: &str) {
        self.leases.retain(|_, holder| holder != port);
    }

    /// Can an address of every family that has a pool be given now?
    pub fn available(&self, now_ns: u64) -> Result<(), IpamError> {
        self.choose(&[], now_ns).map(drop)
    }

    /// How full the pools are.
    pub fn status(&self) -> Vec<PoolStatus> {
        self.pools
            .iter()
            .map(|pool| {
                let used = self.used(pool);
                let free = (pool.size() - u128::from(used)).min(u128::from(u64::MAX));
                PoolStatus { cidr: pool.cidr, used, free: u64::try_from(free).unwrap_or(u64::MAX) }
            })
            .collect()
    }

    fn choose(&self, wanted: &[IpAddr], now_ns: u64) -> Result<Vec<IpNet>, IpamError> {
        if self.pools.is_empty() {
            return Err(IpamError::NoPool);
        }
        let mut chosen: Vec<IpNet> = Vec::new();
        for &ip in wanted {
            let pool = self.check_wanted(ip)?;
            if chosen.iter().any(|net| pool.cidr.contains(&net.addr())) {
                return Err(IpamError::Twice(ip));
            }
            chosen.push(pool.with_prefix(number(ip)));
        }
        for v4 in [true, false] {
            let has = |net: &IpNet| net.addr().is_ipv4() == v4;
            let mut pools = self.pools.iter().filter(|pool| has(&pool.cidr)).peekable();
            if chosen.iter().any(has) || pools.peek().is_none() {
                continue;
            }
            chosen.push(self.search(pools, now_ns)?);
        }
        chosen.sort_by_key(|net| net.addr().is_ipv6());
        Ok(chosen)
    }

    fn check_wanted(&self, ip: IpAddr) -> Result<&Pool, IpamError> {
        let Some(pool) = self.pools.iter().find(|pool| pool.cidr.contains(&ip)) else {
            let pools = self.cidrs().map(|cidr| cidr.to_string()).collect::<Vec<_>>().join(", ");
            return Err(IpamError::Outside { ip, pools });
        };
        if !pool.may_give(number(ip)) {
            return Err(IpamError::Reserved { ip, cidr: pool.cidr });
        }
        match self.leases.get(&ip) {
            Some(port) => Err(IpamError::InUse { ip, port: port.clone() }),
            None => Ok(pool),
        }
    }

    /// The next free address of the first pool that has one.
    fn search<'a>(&self, pools: impl Iterator<Item = &'a Pool>, now_ns: u64) -> Result<IpNet, IpamError> {
        let mut error = IpamError::NoPool;
        for pool in pools {
            match self.search_pool(pool, now_ns) {
                Ok(net) => return Ok(net),
                Err(exhausted) => error = exhausted,
            }
        }
        Err(error)
    }

    fn search_pool(&self, pool: &Pool, now_ns: u64) -> Result<IpNet, IpamError> {
        let span = (pool.last - pool.first + 1).min(SEARCH);
        let start = pool.cursor.map_or(0, |cursor| cursor.wrapping_sub(pool.first).wrapping_add(1));
        let mut oldest: Option<(u64, u128)> = None;
        let mut held = 0;
        for step in 0..span {
            let number = pool.first + (start % span + step) % span;
            if !pool.may_give(number) || self.leases.contains_key(&pool.ip(number)) {
                continue;
            }
            let Some(&freed) = pool.freed.get(&number) else { return Ok(pool.with_prefix(number)) };
            if now_ns.saturating_sub(freed) < QUARANTINE.as_nanos() as u64 {
                held += 1;
            } else if oldest.is_none_or(|(at, _)| freed < at) {
                oldest = Some((freed, number));
            }
        }
        match oldest {
            Some((_, number)) => Ok(pool.with_prefix(number)),
            None => Err(IpamError::Exhausted { cidr: pool.cidr, held }),
        }
    }

    fn used(&self, pool: &Pool) -> u64 {
        let range = pool.ip(pool.first)..=pool.ip(pool.last);
        self.leases.range(range).filter(|(ip, _)| pool.may_give(number(**ip))).count() as u64
    }

    fn pool_mut(&mut self, ip: IpAddr) -> Option<&mut Pool> {
        self.pools.iter_mut().find(|pool| pool.cidr.contains(&ip))
    }
}

impl Pool {
    fn new(cidr: &IpNet) -> Self {
        let cidr = cidr.trunc();
        let last_excluded = u128::from(matches!(cidr, IpNet::V4(_)));
        let first = number(cidr.network()) + 1;
        let last = (number(cidr.broadcast()) - last_excluded).max(first);
        Pool { cidr, first, last, gateway: number(first_usable(&cidr).addr()), cursor: None, freed: HashMap::new() }
    }

    /// How many addresses it may give.
    fn size(&self) -> u128 {
        self.last - self.first
    }

    fn may_give(&self, number: u128) -> bool {
        (self.first..=self.last).contains(&number) && number != self.gateway
    }

    fn ip(&self, number: u128) -> IpAddr {
        match self.cidr {
            // Numbers of an IPv4 pool come from 32 bits.
            IpNet::V4(_) => IpAddr::V4((number as u32).into()),
            IpNet::V6(_) => IpAddr::V6(number.into()),
        }
    }

    fn with_prefix(&self, number: u128) -> IpNet {
        let ip = self.ip(number);
        IpNet::new(ip, self.cidr.prefix_len()).unwrap_or_else(|_| ip.into())
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(ip) => u32::from(ip).into(),
        IpAddr::V6(ip) => ip.into(),
    }
}

fn quarantined(held: usize) -> String {
    match held {
        0 => String::new(),
        _ => format!(" ({held} were freed less than {} s ago)", QUARANTINE.as_secs()),
    }
}

#[cfg(test)]
mod tests;
