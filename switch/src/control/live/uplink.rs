//! The interface by which VXLAN goes as raw frames: opened where the node's underlay address is, followed when that moves, and
//! told the ways to peers that the kernel's routes and neighbours know.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use weft_encap::MacAddr;
use weft_sys::ethtool;
use weft_sys::link::{self, Netlink, RouteKind};
use weft_sys::xdp::XdpMode;
use weft_sys::xfrm::Policies;

use super::{Live, port};
use crate::control::config::UplinkUse;
use crate::control::effects::underlay;
use crate::control::state::State;
use crate::control::{holder, plan, publish};
use crate::port::Uplink;
use crate::port::uplink::{NextHop, Parts, Ways};

/// Every so many looks, of a second each, the interface and the ways are asked for again, whatever was announced.
const THOROUGH: u32 = 5;
/// Most looks between two tries to open it.
const LONGEST_REST: u32 = 64;

/// The uplink, and what is known of it.
#[derive(Debug, Default)]
pub(super) struct UplinkState {
    wanted: UplinkUse,
    /// The node's underlay address, if the configuration tells it.
    told: Option<IpAddr>,
    open: Option<Open>,
    /// Why there is none, though it is wanted.
    failed: Option<String>,
    /// Looks until the next thorough one.
    thorough_in: u32,
    /// Looks until it is tried again to open one that could not be opened, and how many it rested last.
    rests: u32,
    last_rest: u32,
    policies: Policies,
}

#[derive(Debug)]
struct Open {
    uplink: Arc<Uplink>,
    device: String,
    address: IpAddr,
    /// What it takes, and to whom it may send, as it was told last.
    endpoints: Vec<SocketAddr>,
    remotes: Arc<[SocketAddr]>,
}

impl UplinkState {
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted == UplinkUse::Afxdp
    }

    pub(super) fn device(&self) -> Option<Arc<Uplink>> {
        self.open.as_ref().map(|open| Arc::clone(&open.uplink))
    }

    /// What works worse than it could.
    pub(super) fn degraded(&self) -> Option<String> {
        self.failed
            .as_ref()
            .map(|why| format!("there is no AF_XDP uplink, and VXLAN goes by UDP sockets: {why}"))
    }

    fn address(&self, state: &State) -> Option<IpAddr> {
        state.node.vtep.as_ref().map(|vtep| vtep.underlay).or(self.told)
    }

    /// The device that is to be the uplink: index, name, MTU.
    fn find(&mut self, state: &State) -> Result<(IpAddr, underlay::LocalUnderlay), String> {
        let missing =
            "no underlay address is known: there is no cluster file, and no `underlay` in the configuration";
        let address = self.address(state).ok_or(missing)?;
        // Their policies would see neither what leaves by it nor what comes.
        match self.policies.outgoing() {
            Ok(0) => {}
            Ok(_) => return Err("there are IPsec policies, which what goes by it would not meet".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {}
            Err(error) => return Err(error.to_string()),
        }
        let local = underlay::detect(address).map_err(|error| error.to_string())?;
        let mut netlink = Netlink::new().map_err(|error| error.to_string())?;
        let link = netlink.link_by_index(local.index).ok().flatten();
        match link {
            Some(link) if link.loopback => Err(format!("{address} is an address of the loopback")),
            Some(link) if link.mac.is_none_or(|mac| mac == [0; 6]) => {
                Err(format!("{} is no Ethernet device", link.name))
            }
            Some(link) if may_hide_tags(&link.name) => Err(format!(
                "{0} takes VLAN tags off what it receives, and frames of other VLANs would pass for the underlay's; \
                 see `ethtool -K {0} rxvlan off`",
                link.name
            )),
            Some(_) => Ok((address, local)),
            None => Err(format!("{} is gone", local.device)),
        }
    }

    fn fail(&mut self, why: String, in_time: bool) {
        if self.failed.as_ref() == Some(&why) {
            return;
        }
        if in_time {
            tracing::info!(why, "there is no AF_XDP uplink yet; tried again after a while");
        } else {
            tracing::warn!(
                why,
                "there is no AF_XDP uplink; VXLAN goes by UDP sockets, tried again after a while"
            );
        }
        self.failed = Some(why);
    }
}

impl Live {
    /// Whether VXLAN is to go as raw frames; `told`: the node's underlay address, if the configuration tells it.
    #[must_use]
    pub fn with_uplink(mut self, wanted: UplinkUse, told: Option<IpAddr>) -> Self {
        self.uplink.wanted = wanted;
        self.uplink.told = told;
        self
    }

    /// True if held descriptors are of use.
    pub(super) fn wants_uplink(&self) -> bool {
        self.uplink.is_wanted()
    }

    /// The uplink and its device's name.
    pub fn uplink(&self) -> Option<(String, Weak<Uplink>)> {
        self.uplink.open.as_ref().map(|open| (open.device.clone(), Arc::downgrade(&open.uplink)))
    }

    /// Takes the uplink of the last run up, or opens it. Where another process still has it (`in_use`),
    /// [`Live::activate_uplink`] is to be called when it has stopped.
    pub fn start_uplink(&mut self, state: &State, in_use: bool) {
        if !self.uplink.is_wanted() {
            return;
        }
        let Some(held) = self.held_uplink() else {
            self.tend_uplink(state);
            return;
        };
        let endpoints = endpoints(state, self.uplink.address(state));
        let adopted = held.and_then(|parts| Ok((parts, self.uplink.find(state)?)));
        let adopted = adopted.and_then(|(parts, (address, local))| {
            let uplink = Uplink::adopt(parts, local.index, local.mtu);
            let uplink = uplink.and_then(|uplink| {
                if !in_use {
                    uplink.activate()?;
                }
                Ok(uplink)
            });
            let uplink = Arc::new(uplink.map_err(|error| error.to_string())?);
            Ok(Open { uplink, device: local.device, address, endpoints, remotes: Arc::from([]) })
        });
        match adopted {
            Ok(open) => {
                self.holder.keeps_uplink(&open.uplink);
                self.uplink.open = Some(open);
                self.let_uplink_poll();
                self.follow_ways(state);
            }
            Err(why) => {
                tracing::info!(why, "the held uplink is of no use; opened anew");
                self.holder.refuse(|name| !holder::is_of_uplink(name));
                let names = (0..64).flat_map(holder::uplink_names).chain([holder::UPLINK.to_owned()]);
                self.holder.let_go(&names.collect::<Vec<_>>());
            }
        }
    }

    /// Goes on where the process before has stopped that handed the uplink over.
    pub fn activate_uplink(&mut self, state: &State) {
        let Some(open) = &self.uplink.open else { return };
        if let Err(error) = open.uplink.activate() {
            tracing::error!(%error, "the AF_XDP uplink cannot be taken over; VXLAN goes by UDP sockets");
            self.close_uplink();
            return;
        }
        self.let_uplink_poll();
        self.follow_ways(state);
    }

    /// Does for an uplink that was taken over what could wait until frames flow again.
    pub fn settle_uplink(&mut self) {
        let Some(open) = &self.uplink.open else { return };
        if let Err(error) = open.uplink.settle_in(&open.endpoints) {
            tracing::error!(%error, "the AF_XDP uplink cannot be told its endpoints; VXLAN goes by UDP sockets");
            self.close_uplink();
        }
    }

    /// Links or addresses changed: the next look is a thorough one.
    pub fn look_again_at_uplink(&mut self) {
        self.uplink.thorough_in = 0;
    }

    /// Opens the uplink where it should be and is not, and closes it where it should not. True if it is another one now.
    pub fn tend_uplink(&mut self, state: &State) -> bool {
        if !self.uplink.is_wanted() {
            return false;
        }
        self.uplink.thorough_in = self.uplink.thorough_in.saturating_sub(1);
        self.uplink.rests = self.uplink.rests.saturating_sub(1);
        let waits = if self.uplink.open.is_some() { self.uplink.thorough_in } else { self.uplink.rests };
        if waits > 0 {
            return false;
        }
        self.uplink.thorough_in = THOROUGH;
        let found = self.uplink.find(state);
        let stays = |open: &Open| {
            found.as_ref().is_ok_and(|(address, local)| {
                let is = (open.address, open.uplink.device(), open.uplink.mtu());
                is == (*address, local.index, local.mtu)
            })
        };
        let mut changed = false;
        if let Some(open) = &self.uplink.open
            && !stays(open)
        {
            tracing::info!(device = open.device, "the AF_XDP uplink ends");
            self.close_uplink();
            changed = true;
        }
        match found {
            Err(why) => self.uplink.fail(why, false),
            Ok((address, local)) if self.uplink.open.is_none() => {
                let endpoints = endpoints(state, Some(address));
                match Uplink::open(local.index, local.mtu, &endpoints) {
                    Ok(uplink) => {
                        let (mode, queues) = (uplink.mode(), uplink.queues());
                        tracing::info!(device = local.device, %mode, queues, "the AF_XDP uplink is open");
                        let uplink = Arc::new(uplink);
                        let (device, remotes) = (local.device, Arc::new([]));
                        self.uplink.open = Some(Open { uplink, device, address, endpoints, remotes });
                        self.uplink.failed = None;
                        self.uplink.last_rest = 0;
                        self.let_uplink_poll();
                        self.sync();
                        changed = true;
                    }
                    Err(error) => {
                        // The kernel has not forgotten the last socket yet.
                        let is_busy = error.kind() == io::ErrorKind::ResourceBusy;
                        self.uplink.fail(format!("{}: {error}", local.device), is_busy);
                        // Each try costs locked memory for a moment, and maybe a program.
                        self.uplink.last_rest = (2 * self.uplink.last_rest).clamp(1, LONGEST_REST);
                        self.uplink.rests = self.uplink.last_rest;
                    }
                }
            }
            Ok(_) => {}
        }
        self.follow_ways(state);
        self.leave_unjoined();
        changed
    }

    /// A program that runs after the driver would get what the kernel has joined for the sockets: longer than any packet, and
    /// nobody could tell its parts.
    fn leave_unjoined(&self) {
        let joins = self.uplink.open.as_ref().is_none_or(|open| open.uplink.mode() == XdpMode::Native);
        for underlay in self.underlays.values() {
            if let Err(error) = underlay.set_gro(joins) {
                tracing::warn!(%error, "receiving runs of datagrams");
            }
        }
    }

    /// Tells the uplink, after a change of the state, what of that matters to it.
    pub(super) fn follow_peers(&mut self, state: &State) {
        let Some(open) = &self.uplink.open else { return };
        if open.endpoints != endpoints(state, Some(open.address)) || open.remotes != publish::remotes(state) {
            self.follow_ways(state);
        }
    }

    /// Tells the uplink what it is to take, and the ways to peers.
    pub fn follow_ways(&mut self, state: &State) {
        let Some(open) = &mut self.uplink.open else { return };
        let endpoints = endpoints(state, Some(open.address));
        let without = |all: &[SocketAddr], others: &[SocketAddr]| -> Vec<SocketAddr> {
            all.iter().filter(|one| !others.contains(one)).copied().collect()
        };
        let (added, gone) = (without(&endpoints, &open.endpoints), without(&open.endpoints, &endpoints));
        if let Err(error) = open.uplink.change_endpoints(&added, &gone) {
            tracing::warn!(%error, "the AF_XDP uplink does not take packets to all UDP ports");
        }
        open.endpoints = endpoints;
        open.remotes = publish::remotes(state);
        let ways = ways(&open.uplink, open.address, state).unwrap_or_else(|error| {
            tracing::warn!(%error, "the AF_XDP uplink knows no ways to peers");
            let before = open.uplink.ways();
            Ways { mac: before.mac, mtu: before.mtu, ..Ways::default() }
        });
        open.uplink.follow(ways);
    }

    /// VXLAN goes by UDP sockets for as long as can be between two tries: they may have another queue.
    pub(super) fn end_stuck_uplink(&mut self) {
        let Some(open) = &self.uplink.open else { return };
        let why = format!("{} does not send what it was given", open.device);
        self.close_uplink();
        self.uplink.fail(why, false);
        (self.uplink.rests, self.uplink.last_rest) = (LONGEST_REST, LONGEST_REST);
    }

    fn close_uplink(&mut self) {
        let open = self.uplink.open.take();
        self.sync();
        port::close(open.map(|open| open.uplink));
    }

    /// What was held of the last run's; `None`: nothing.
    ///
    /// # Errors
    /// When it is held in part: a queue without a socket would stay without.
    pub(super) fn held_uplink(&mut self) -> Option<Result<Parts<OwnedFd>, String>> {
        if !self.holder.offers(holder::is_of_uplink) {
            return None;
        }
        let mut one = |name: &str| self.holder.take(name).pop();
        let (program, mut queues, mut is_whole) = (one(holder::UPLINK), Vec::new(), true);
        while is_whole {
            match holder::uplink_names(queues.len()).map(|name| one(&name)) {
                [Some(socket), Some(memory)] => queues.push([socket, memory]),
                [None, None] => break,
                _ => is_whole = false,
            }
        }
        let program = program.filter(|_| is_whole && !self.holder.offers(holder::is_of_uplink));
        let parts = program.map(|program| Parts { program, queues });
        Some(parts.ok_or_else(|| "a descriptor is missing".to_owned()))
    }
}

/// As [`hides_tags`]. A device that cannot be asked has no such features.
fn may_hide_tags(name: &str) -> bool {
    let Ok(device) = ethtool::Device::new(name) else { return false };
    let driver = device.driver().unwrap_or_default();
    hides_tags(&driver, |feature| device.has_feature(feature).unwrap_or(false))
}

/// True for a device that gives the kernel the tag of a frame beside the frame, where neither program nor socket sees it. Of a
/// veth the features say nothing: what comes out is as it was put in at the other end.
pub(super) fn hides_tags(driver: &str, has_feature: impl Fn(&str) -> bool) -> bool {
    driver != "veth" && ["rx-vlan-hw-parse", "rx-vlan-stag-hw-parse"].into_iter().any(has_feature)
}

/// What VXLAN is sent to on this node by way of `address`.
fn endpoints(state: &State, address: Option<IpAddr>) -> Vec<SocketAddr> {
    let Some(address) = address else { return Vec::new() };
    let takes = |bound: Option<IpAddr>| bound.is_some_and(|ip| ip.is_unspecified() || ip == address);
    let all = plan::underlays(state).into_values();
    let taking = all.filter(|config| {
        takes(if address.is_ipv4() { config.v4.map(Into::into) } else { config.v6.map(Into::into) })
    });
    taking.map(|config| SocketAddr::new(address, config.port)).collect()
}

/// How peers are reached, as far as by this uplink.
fn ways(uplink: &Uplink, address: IpAddr, state: &State) -> Result<Ways, link::Error> {
    let mut netlink = Netlink::new()?;
    let link = netlink.link_by_index(uplink.device())?.filter(|link| link.up);
    let Some((link, mac)) = link.and_then(|link| link.mac.map(|mac| (link, mac))) else {
        // Down: what comes when it is up again is for the same address.
        let before = uplink.ways();
        return Ok(Ways { mac: before.mac, mtu: before.mtu, ..Ways::default() });
    };
    let mut ways = Ways { mac: MacAddr(mac), mtu: link.mtu, ..Ways::default() };
    let neighbours = netlink.neigh_list(Some(link.index))?;
    let neighbours: BTreeMap<IpAddr, _> = neighbours.into_iter().map(|one| (one.ip, one)).collect();
    let before = uplink.ways();
    let remotes: BTreeSet<IpAddr> = publish::remotes(state).iter().map(SocketAddr::ip).collect();
    let mut in_doubt = BTreeSet::new();
    for remote in remotes {
        let own = (address.is_ipv4() == remote.is_ipv4()).then_some(address);
        // Unreachable ones are the sockets' to fail with.
        let Ok(route) = netlink.route_get_from(remote, own) else { continue };
        let is_ours =
            route.dev == Some(link.index) && route.kind == RouteKind::Unicast && !route.encapsulated;
        let Some(source) = own.or(route.src).filter(|_| is_ours) else { continue };
        let next = route.via.unwrap_or(remote);
        let Some(neighbour) = neighbours.get(&next).filter(|neighbour| neighbour.valid) else { continue };
        let Some(mac) = neighbour.mac.map(MacAddr) else { continue };
        let known = before.hops.get(&remote).filter(|hop| (hop.mac, hop.source) == (mac, source));
        let hop = known.cloned().unwrap_or_else(|| Arc::new(NextHop::new(mac, source)));
        // What goes by the uplink the kernel does not see: without a word it would never ask again whether they are there.
        if hop.was_used() && !neighbour.confirmed {
            in_doubt.insert(next);
        }
        ways.hops.insert(remote, hop);
    }
    for next in in_doubt {
        if let Err(error) = netlink.neigh_use(link.index, next) {
            tracing::debug!(%error, "a neighbour in doubt");
        }
    }
    Ok(ways)
}
