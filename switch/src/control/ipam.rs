//! Addresses of pods, from this node's pod CIDRs.
//!
//! Pure functions over the desired state: no clock (time comes in), no I/O. An address is in use if a port has it or a
//! lease names it. The search goes on behind the address given last (next-fit) and passes over freed addresses, because
//! others may still remember who had them. Only when no never-used one is left does the longest-free one go out again:
//! first of those that have rested for [`QUARANTINE`], in a rush (all others are taken) of those that have for
//! [`SHORTEST`]. One freed more recently than that never does, unless asked for by name.
//!
//! Never given: network and broadcast address (IPv4), the subnet-router anycast address (IPv6, RFC 4291 section 2.6.1),
//! and the first usable address, which is the gateway's.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;
use weft_api::cni::Attachment;
use weft_api::report::PoolStatus;

use super::cluster::first_usable;
use super::state::{Lease, State};

/// How long a freed address is kept back while any other is to be had, in seconds.
pub const QUARANTINE: u64 = 30;

/// How long a freed address is kept back at least, in seconds.
pub const SHORTEST: u64 = 5;

/// Most addresses of one pool that are looked at: a bigger IPv6 prefix is used up to this many at a time.
const SEARCH: u128 = 1 << 20;

/// Why no address is given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// No pod CIDR is configured.
    #[error(
        "no pod CIDR is configured: give this node an entry in the cluster file, or set `pod_cidrs` in weft.toml"
    )]
    NoPool,
    /// The pool is used up.
    #[error("no free address in {cidr}{}", quarantined(*held))]
    Exhausted {
        /// The pool.
        cidr: IpNet,
        /// Addresses that are free but freed too recently.
        held: usize,
    },
    /// The wanted address is somebody else's.
    #[error("address {ip} is {holder}")]
    InUse {
        /// The address.
        ip: IpAddr,
        /// Whose it is, as in "in use by port web".
        holder: String,
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
    /// Two wanted addresses are of one pool.
    #[error("address {0} is asked for twice, or beside another one of the same pod CIDR")]
    Twice(IpAddr),
}

/// Leases to `port` the `wanted` addresses, and one of each address family that has a pool but no wanted address. IPv4
/// first, each with the prefix of its CIDR. All or none. `now` is in seconds of Unix time, as everywhere here.
///
/// # Errors
/// [`IpamError`]; nothing is leased then.
pub fn allocate(
    state: &mut State,
    port: &str,
    attachment: Option<&Attachment>,
    wanted: &[IpAddr],
    now: u64,
) -> Result<Vec<IpNet>, IpamError> {
    prune(state, now);
    let chosen = Search::new(state, now).choose(wanted)?;
    for net in &chosen {
        let lease = Lease { port: port.to_owned(), attachment: attachment.cloned() };
        state.ipam.leases.insert(net.addr(), lease);
        state.ipam.quarantine.remove(&net.addr());
        if !wanted.contains(&net.addr()) {
            state.ipam.last.insert(net.trunc(), net.addr());
        }
    }
    Ok(chosen)
}

/// Can an address of every family that has a pool be given now?
///
/// # Errors
/// What [`allocate`] would say.
pub fn available(state: &State, now: u64) -> Result<(), IpamError> {
    Search::new(state, now).choose(&[]).map(drop)
}

/// How full the pools are.
pub fn status(state: &State) -> Vec<PoolStatus> {
    let search = Search::new(state, 0);
    let pools = search.pools.iter();
    pools
        .map(|pool| {
            let used = search.used.keys().filter(|ip| pool.may_give(**ip)).count() as u64;
            let free = u64::try_from(pool.size()).unwrap_or(u64::MAX);
            PoolStatus { cidr: pool.cidr, used, free: if free == u64::MAX { free } else { free - used } }
        })
        .collect()
}

/// Forgets frees that need no remembering: those outside the pools, and old ones of prefixes so big that the search
/// does not come back to them. A clock that was set back must not hold addresses for long.
fn prune(state: &mut State, now: u64) {
    let pools: Vec<Pool> = state.node.pod_cidrs.iter().map(Pool::new).collect();
    state.ipam.quarantine.retain(|ip, freed| {
        *freed = (*freed).min(now);
        let small = pools.iter().any(|pool| pool.may_give(*ip) && pool.size() <= SEARCH);
        small || now - *freed < QUARANTINE
    });
    state.ipam.last.retain(|cidr, _| pools.iter().any(|pool| pool.cidr == *cidr));
}

struct Search<'a> {
    state: &'a State,
    now: u64,
    pools: Vec<Pool>,
    used: HashMap<IpAddr, Holder<'a>>,
}

/// Who has an address.
#[derive(Clone, Copy)]
enum Holder<'a> {
    Port(&'a str),
    /// Whether or not the node has a port with it.
    Gateway,
    /// A static neighbour behind this port.
    Neighbour(&'a str),
}

impl fmt::Display for Holder<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Port(port) => write!(f, "in use by port {port}"),
            Holder::Gateway => f.write_str("that of the gateway"),
            Holder::Neighbour(port) => write!(f, "that of a static neighbour behind port {port}"),
        }
    }
}

impl<'a> Search<'a> {
    fn new(state: &'a State, now: u64) -> Self {
        let pools = state.node.pod_cidrs.iter().map(Pool::new).collect();
        let of_ports = state.ports.iter().flat_map(|(name, record)| {
            record.spec.ips.iter().map(move |net| (net.addr(), Holder::Port(name)))
        });
        let leased = state.ipam.leases.iter().map(|(ip, lease)| (*ip, Holder::Port(&lease.port)));
        let gateways = state.node.gateways.iter().map(|net| (net.addr(), Holder::Gateway));
        let of_node = state.neighbours.iter().filter(|((bridge, _), _)| *bridge == state.node.bridge);
        let neighbours = of_node.map(|((_, ip), entry)| (*ip, Holder::Neighbour(&entry.port)));
        let used = gateways.chain(neighbours).chain(of_ports).chain(leased).collect();
        Search { state, now, pools, used }
    }

    fn choose(&self, wanted: &[IpAddr]) -> Result<Vec<IpNet>, IpamError> {
        if self.pools.is_empty() {
            return Err(IpamError::NoPool);
        }
        let mut chosen: Vec<IpNet> = Vec::new();
        for &ip in wanted {
            let pool = self.check_wanted(ip)?;
            if chosen.iter().any(|net| pool.cidr.contains(&net.addr())) {
                return Err(IpamError::Twice(ip));
            }
            chosen.push(pool.with_prefix(ip));
        }
        for v4 in [true, false] {
            let has = |net: &IpNet| net.addr().is_ipv4() == v4;
            if !chosen.iter().any(has)
                && let Some(result) = self.first_free(self.pools.iter().filter(|pool| has(&pool.cidr)))
            {
                chosen.push(result?);
            }
        }
        chosen.sort_by_key(|net| net.addr().is_ipv6());
        Ok(chosen)
    }

    fn check_wanted(&self, ip: IpAddr) -> Result<&Pool, IpamError> {
        let Some(pool) = self.pools.iter().find(|pool| pool.cidr.contains(&ip)) else {
            let pools: Vec<_> = self.pools.iter().map(|pool| pool.cidr.to_string()).collect();
            return Err(IpamError::Outside { ip, pools: pools.join(", ") });
        };
        if !pool.may_give(ip) {
            return Err(IpamError::Reserved { ip, cidr: pool.cidr });
        }
        match self.used.get(&ip) {
            Some(holder) => Err(IpamError::InUse { ip, holder: holder.to_string() }),
            None => Ok(pool),
        }
    }

    /// Of the first pool that has a rested one, else of the first that has any; `None` without a pool.
    fn first_free<'p>(
        &self,
        pools: impl Iterator<Item = &'p Pool> + Clone,
    ) -> Option<Result<IpNet, IpamError>> {
        let mut last = None;
        for rest in [QUARANTINE, SHORTEST] {
            for pool in pools.clone() {
                match self.free_in(pool, rest) {
                    Ok(net) => return Some(Ok(net)),
                    exhausted => last = Some(exhausted),
                }
            }
        }
        last
    }

    /// An address that nobody has had, else the longest-free one of those freed at least `rest` seconds ago.
    fn free_in(&self, pool: &Pool, rest: u64) -> Result<IpNet, IpamError> {
        let span = pool.last - pool.first + 1;
        let start = match self.state.ipam.last.get(&pool.cidr) {
            Some(last) => number(*last).saturating_sub(pool.first) + 1,
            None => 0,
        };
        let mut oldest: Option<(u64, IpAddr)> = None;
        let mut held = 0;
        for step in 0..span.min(SEARCH) {
            let ip = pool.ip(pool.first + (start + step) % span);
            if !pool.may_give(ip) || self.used.contains_key(&ip) {
                continue;
            }
            let Some(&freed) = self.state.ipam.quarantine.get(&ip) else { return Ok(pool.with_prefix(ip)) };
            if self.now.saturating_sub(freed) < rest {
                held += 1;
            } else if oldest.is_none_or(|(at, _)| freed < at) {
                oldest = Some((freed, ip));
            }
        }
        match oldest {
            Some((_, ip)) => Ok(pool.with_prefix(ip)),
            None => Err(IpamError::Exhausted { cidr: pool.cidr, held }),
        }
    }
}

struct Pool {
    cidr: IpNet,
    first: u128,
    last: u128,
    gateway: IpAddr,
}

impl Pool {
    fn new(cidr: &IpNet) -> Self {
        let cidr = cidr.trunc();
        let broadcast = u128::from(matches!(cidr, IpNet::V4(_)));
        let first = number(cidr.network()).saturating_add(1);
        let last = (number(cidr.broadcast()) - broadcast).max(first);
        Pool { cidr, first, last, gateway: first_usable(&cidr).addr() }
    }

    /// How many addresses it may give: all but the gateway's.
    fn size(&self) -> u128 {
        self.last - self.first
    }

    fn may_give(&self, ip: IpAddr) -> bool {
        ip.is_ipv4() == self.gateway.is_ipv4()
            && (self.first..=self.last).contains(&number(ip))
            && ip != self.gateway
    }

    fn ip(&self, number: u128) -> IpAddr {
        match self.cidr {
            // Numbers of an IPv4 pool come from 32 bits.
            IpNet::V4(_) => IpAddr::V4((number as u32).into()),
            IpNet::V6(_) => IpAddr::V6(number.into()),
        }
    }

    fn with_prefix(&self, ip: IpAddr) -> IpNet {
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
        _ => format!(" ({held} were freed less than {SHORTEST} s ago)"),
    }
}

#[cfg(test)]
mod tests;
