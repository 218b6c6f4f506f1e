//! The live half of the engine: open devices, sockets, the host's network. Carries out the steps of a plan, and takes
//! them back.
//!
//! Devices that a change ends are only set aside while it is carried out: they are closed once every worker forwards
//! by the new snapshot, so that taking back is putting back, and no worker meets a closed one.

/// Descriptors that were held or are handed over.
mod held;
/// The interface by which VXLAN goes as raw frames.
mod polling;
mod stuck;
mod uplink;
/// The device by which superframes leave whole.
mod whole;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_api::{ApiError, Code, PortKind};
use weft_sys::netns::{NAMED_DIR, Netns, NsId};

use super::effects::host::{HostNetwork, HostSpec, record_path};
use super::effects::port::{self, DeviceSpec, LivePort};
use super::effects::{EffectError, underlay, veth};
use super::engine::PodNetns;
use super::holder::{self, Holder};
use super::plan::{Step, device};
use super::publish::Devices;
use super::state::{NetnsRecord, PortRecord, State, TapRecord};
use super::watch::{self, NetnsName};
use crate::port::underlay::UnderlayConfig;
use crate::port::{Device, Underlay, XdpDevice};
use uplink::UplinkState;
use whole::Whole;

/// How long a device of the same name that is just being closed is waited for.
const CLOSING: Duration = Duration::from_secs(1);

/// An open port and where it is.
#[derive(Debug)]
struct Open {
    live: LivePort,
    netns: Arc<Netns>,
}

/// What a change has set aside.
#[derive(Debug, Default)]
pub struct Aside {
    /// By name; one that was replaced twice, there and back, is here twice.
    ports: Vec<(String, Open)>,
    underlays: BTreeMap<u16, Arc<Underlay>>,
}

impl Aside {
    /// The host's end of a port with an AF_XDP socket, by its index.
    fn host_end(&self, port: &str, netns: NsId) -> Option<u32> {
        self.ports.iter().find_map(|(name, open)| match &open.live.device {
            Device::Xdp(xdp) if name == port && open.live.netns == netns => Some(xdp.device()),
            _ => None,
        })
    }
}

/// What was learned by opening a device, to be recorded.
#[derive(Clone, Debug)]
pub struct Opened {
    /// The port.
    pub name: String,
    /// Its device.
    pub tap: TapRecord,
    /// Its namespace, unless it is the daemon's own.
    pub netns: Option<NetnsRecord>,
}

/// What became of a stored port at start.
#[derive(Debug)]
pub enum Return {
    /// It forwards again.
    Back(Opened),
    /// Its namespace is gone, or it was never finished: it ends.
    Gone,
    /// Its link is gone, or cannot be opened.
    Lost(String),
}

/// Everything open.
#[derive(Debug)]
pub struct Live {
    own: Arc<Netns>,
    ports: BTreeMap<String, Open>,
    names: BTreeMap<String, NetnsName>,
    /// The port whose name was the last to have its turn.
    looked_at: String,
    underlays: BTreeMap<u16, Arc<Underlay>>,
    uplink: UplinkState,
    /// AF_XDP sockets are to poll their devices.
    busy_poll: bool,
    /// Ports whose AF_XDP device does not send.
    stuck: BTreeSet<String>,
    whole: Whole,
    /// The state of which every underlay was found open.
    complete: Option<Arc<State>>,
    host: HostNetwork,
    /// Name of the node's own port.
    internal: String,
    host_failed: Option<String>,
    closing: Vec<(NsId, String, Instant)>,
    holder: Holder,
    /// Ports whose descriptors came back, not looked at otherwise yet.
    adopted: Vec<String>,
    /// Names of descriptors that are not what they should be.
    refused: Vec<String>,
}

impl Live {
    /// Nothing is open yet but what `holder` has. `internal` is the name of the node's own port, if it has one.
    ///
    /// # Errors
    /// When the record of an earlier run's sysctls cannot be read.
    pub fn new(state_dir: &Path, internal: Option<&str>, holder: Holder) -> Result<Live, EffectError> {
        let own = Netns::current().map_err(EffectError::io("open the own namespace"))?;
        let internal = internal.unwrap_or("weft0");
        Ok(Live {
            own: Arc::new(own),
            ports: BTreeMap::new(),
            names: BTreeMap::new(),
            looked_at: String::new(),
            underlays: BTreeMap::new(),
            uplink: UplinkState::default(),
            busy_poll: false,
            stuck: BTreeSet::new(),
            whole: Whole::default(),
            complete: None,
            host: HostNetwork::open(record_path(state_dir), internal)?,
            internal: internal.to_owned(),
            host_failed: None,
            closing: Vec::new(),
            holder,
            adopted: Vec::new(),
            refused: Vec::new(),
        })
    }

    /// Carries one step out on the way from a state to `state`. `netns` has the namespaces that came with the change;
    /// what the step ends is put into `aside`, what it ended earlier is taken out of it again.
    ///
    /// # Errors
    /// What the kernel says; the step has left nothing behind then.
    pub fn carry_out(
        &mut self,
        step: &Step,
        (from, state): (&State, &State),
        netns: &BTreeMap<String, PodNetns>,
        aside: &mut Aside,
    ) -> Result<Option<Opened>, ApiError> {
        let of = |name: &str| format!("port {name}: ");
        self.complete = None;
        match step {
            Step::Destroy(record) => {
                let name = &record.spec.name;
                if let Some(open) = self.ports.remove(name) {
                    aside.ports.push((name.clone(), open));
                }
                Ok(None)
            }
            Step::Create(record) => {
                let name = &record.spec.name;
                let mut all = aside.ports.iter();
                if let Some(at) = all.position(|(of, open)| of == name && self.is_device_of(open, record)) {
                    let (name, open) = aside.ports.swap_remove(at);
                    self.ports.insert(name, open);
                    return Ok(None);
                }
                let given = netns.get(name);
                self.create(state, record, given, aside).map(Some).map_err(|error| refusal(&of(name), &error))
            }
            Step::Change { old, new } => {
                let name = &new.spec.name;
                let (Some(was), Some(is), Some(open)) =
                    (device(from, old), device(state, new), self.ports.get(name))
                else {
                    return Ok(None);
                };
                let changed = match &open.live.device {
                    Device::Xdp(xdp) => {
                        veth::reconfigure(xdp.device(), (open.live.index, &open.netns), &was, &is)
                    }
                    _ => port::reconfigure(open.live.index, &open.netns, &was, &is),
                };
                changed.map_err(|error| refusal(&of(name), &error))?;
                Ok(None)
            }
            Step::CloseUnderlay(config) => {
                aside.underlays.extend(self.underlays.remove_entry(&config.port));
                Ok(None)
            }
            Step::OpenUnderlay(config) => {
                self.open_underlay(*config, aside)
                    .map_err(|message| ApiError::new(Code::Internal, message))?;
                Ok(None)
            }
            Step::Host { old, new } => {
                let (old, new) = (old.as_deref(), new.as_deref());
                if let Err(error) = self.set_host(old, new) {
                    // What was done before the refusal stays otherwise.
                    if let Err(error) = self.set_host(new, old) {
                        tracing::error!(%error, "taking a change of the host's network back failed");
                    }
                    return Err(refusal("", &error));
                }
                Ok(None)
            }
        }
    }

    /// Closes what a change has set aside, in the background, and tells the service manager what it is to hold now.
    pub fn finish(&mut self, aside: Aside, state: &State) {
        self.sync();
        self.follow_peers(state);
        for (_, open) in aside.ports {
            self.destroy(open);
        }
        if !aside.underlays.is_empty() {
            port::close(aside.underlays);
        }
        self.names.retain(|name, _| state.ports.contains_key(name));
    }

    /// Takes a stored port up again by its device's name.
    pub fn reattach(&mut self, state: &State, record: &PortRecord) -> Return {
        let Some(spec) = device(state, record) else { return Return::Gone };
        let netns = match &record.netns {
            None => Arc::clone(&self.own),
            Some(kept) => match watch::reopen(kept) {
                Ok(Some(netns)) => {
                    self.names.insert(record.spec.name.clone(), NetnsName::new(kept, None));
                    Arc::new(netns)
                }
                Ok(None) => return Return::Gone,
                Err(error) => return Return::Lost(format!("its namespace cannot be opened: {error}")),
            },
        };
        let attached = match record.spec.kind {
            PortKind::Afxdp => veth::reattach(&record.spec.name, &spec, &netns),
            _ => port::reattach(&spec, &netns),
        };
        let opened = match attached {
            // Of the daemon's own namespace, links may well be gone with a boot.
            Err(EffectError::Missing(_)) if record.netns.is_none() && record.spec.netns.is_none() => {
                port::create(&spec, &netns)
            }
            Err(EffectError::Missing(_)) if record.tap.is_none() => {
                if let Ok(id) = netns.id() {
                    veth::remove(&record.spec.name, id);
                }
                return Return::Gone;
            }
            other => other,
        };
        match opened {
            Ok(live) => Return::Back(self.keep(
                &record.spec.name,
                record.spec.queues,
                live,
                netns,
                record.netns.clone(),
            )),
            Err(EffectError::Missing(_)) => Return::Lost("its link was deleted inside the namespace".into()),
            Err(error) => Return::Lost(error.to_string()),
        }
    }

    /// Watches the namespace of a lost port, which has no device any more.
    pub fn watch(&mut self, record: &PortRecord) {
        if let Some(kept) = &record.netns {
            self.names.insert(record.spec.name.clone(), NetnsName::new(kept, None));
        }
    }

    /// Opens what should be open and is not: underlays whose address came later, a host network that was refused.
    /// Returns true if something changed.
    pub fn retry(&mut self, state: &Arc<State>) -> bool {
        let is_complete = self.complete.as_ref().is_some_and(|complete| Arc::ptr_eq(complete, state));
        if is_complete && self.host_failed.is_none() {
            return false;
        }
        let missing: Vec<UnderlayConfig> = super::plan::underlays(state)
            .into_values()
            .filter(|config| !self.underlays.contains_key(&config.port))
            .collect();
        self.complete = missing.is_empty().then(|| Arc::clone(state));
        let mut changed = false;
        for config in missing {
            match self.open_underlay(config, &Aside::default()) {
                Ok(()) => {
                    tracing::info!(port = config.port, "the underlay is open");
                    changed = true;
                }
                Err(message) => tracing::debug!(message, "the underlay still cannot be opened"),
            }
        }
        if changed {
            self.sync();
        }
        if self.host_failed.is_some() {
            self.start_host(state);
            changed |= self.host_failed.is_none();
        }
        changed
    }

    /// Opens underlays at start; what fails is tried again by [`Live::retry`].
    pub fn start_underlays(&mut self, state: &State) {
        for config in super::plan::underlays(state).into_values() {
            if let Err(message) = self.open_underlay(config, &Aside::default()) {
                tracing::error!("{message}; tried again every second");
            }
        }
    }

    /// Sets the host's network at start; what fails is tried again by [`Live::retry`]. Where none is wanted, what an
    /// earlier run left goes.
    pub fn start_host_network(&mut self, state: &State) {
        if super::plan::host(state).is_none()
            && let Err(error) = self.clear_host()
        {
            tracing::warn!(%error, "removing the host's network of an earlier run");
        }
        self.start_host(state);
        if let Some(message) = &self.host_failed {
            tracing::error!("{message}; tried again every second");
        }
    }

    /// What works worse than it could.
    pub fn degraded(&self, state: &State) -> Vec<String> {
        let missing =
            super::plan::underlays(state).into_keys().filter(|port| !self.underlays.contains_key(port));
        let mut all: Vec<String> = missing
            .map(|port| format!("no other node is reached: UDP port {port} cannot be opened"))
            .collect();
        all.extend(self.host_failed.clone());
        all.extend(self.uplink.degraded());
        all.extend(self.stuck());
        for (name, open) in &self.ports {
            let (Some(record), Device::Tap(_)) = (state.ports.get(name), &open.live.device) else { continue };
            let wanted = port::offloads(&record.spec.offloads_off).unwrap_or(open.live.offloads);
            let refused = port::offload_names(wanted - open.live.offloads);
            if !refused.is_empty() {
                all.push(format!("port {name}: the kernel refused {}", refused.join(", ")));
            }
        }
        all
    }

    /// Ports whose namespace's name is gone.
    pub fn ended(&self) -> Vec<String> {
        self.names.iter().filter(|(_, name)| !name.lives()).map(|(port, _)| port.clone()).collect()
    }

    /// The same among the names whose turn it is: all have had theirs after so many calls.
    pub fn ended_of_next(&mut self, turns: usize) -> Vec<String> {
        let count = self.names.len().div_ceil(turns);
        let behind = self.names.range((Bound::Excluded(self.looked_at.clone()), Bound::Unbounded));
        let due: Vec<_> = behind.chain(&self.names).take(count).collect();
        let last = due.last().map(|(port, _)| (*port).clone());
        let ended = due.into_iter().filter(|(_, name)| !name.lives()).map(|(port, _)| port.clone()).collect();
        self.looked_at = last.unwrap_or_default();
        ended
    }

    /// Offloads of each open port, by name.
    pub fn offloads(&self) -> BTreeMap<String, Vec<String>> {
        self.ports
            .iter()
            .map(|(name, open)| (name.clone(), port::offload_names(open.live.offloads)))
            .collect()
    }

    /// Ports with an AF_XDP socket: the host's end of each, and the socket.
    pub fn xdp(&self) -> BTreeMap<String, (String, Arc<XdpDevice>)> {
        let of = |(name, open): (&String, &Open)| {
            let Device::Xdp(xdp) = &open.live.device else { return None };
            Some((name.clone(), (open.live.host.clone(), Arc::clone(xdp))))
        };
        self.ports.iter().filter_map(of).collect()
    }

    /// Ports with an AF_XDP socket whose link is gone, of which the socket does not tell.
    pub fn without_link(&self) -> Vec<String> {
        let sockets = self.ports.iter().filter_map(|(name, open)| match &open.live.device {
            Device::Xdp(xdp) => Some((name, xdp.device())),
            _ => None,
        });
        let mut sockets = sockets.peekable();
        if sockets.peek().is_none() {
            return Vec::new();
        }
        let present = weft_sys::link::Netlink::new().and_then(|mut netlink| netlink.link_list());
        let Ok(present) = present else { return Vec::new() };
        let present: BTreeSet<u32> = present.into_iter().map(|link| link.index).collect();
        sockets.filter(|(_, device)| !present.contains(device)).map(|(name, _)| name.clone()).collect()
    }

    /// Lets ports go on where the process before has stopped that handed them over. Those that cannot are named.
    pub fn activate(&self) -> Vec<(String, io::Error)> {
        let one = |(name, open): (&String, &Open)| {
            let Device::Xdp(xdp) = &open.live.device else { return None };
            let failed = xdp.activate().err();
            self.let_poll(name, &open.live.device);
            failed.map(|error| (name.clone(), error))
        };
        self.ports.iter().filter_map(one).collect()
    }

    /// Lets go of a port whose descriptors are of no use, with what waits by them. Its device stays.
    pub fn forget(&mut self, name: &str) {
        drop(self.ports.remove(name));
        self.adopted.retain(|adopted| adopted != name);
    }

    /// What the snapshot is built from.
    pub fn devices(&self) -> Devices {
        let ports = self.ports.iter().map(|(name, open)| (name.clone(), open.live.device.clone()));
        let uplink = self.uplink.device();
        let (underlays, tunnel_gso) = (self.underlays.clone(), self.tunnel_gso());
        Devices { ports: ports.collect(), underlays, uplink, tunnel_gso }
    }

    /// The host's network, for the status and the firewall's upkeep.
    pub fn host(&mut self) -> &mut HostNetwork {
        &mut self.host
    }

    /// Takes rules out of foreign forward chains: nobody would look after them.
    pub fn leave_host(&mut self) {
        if let Err(error) = self.host.stop() {
            tracing::warn!(%error, "removing rules from foreign forward chains");
        }
    }

    /// Closes everything that is open; devices and namespaces stay for the next run.
    pub fn close(mut self) {
        // Closing a TAP blocks for 16 to 20 ms, many at once hardly longer.
        let closers: Vec<_> = std::mem::take(&mut self.ports)
            .into_values()
            .filter_map(|open| std::thread::Builder::new().spawn(move || drop(open)).ok())
            .collect();
        for closer in closers {
            let _ = closer.join();
        }
    }

    fn create(
        &mut self,
        state: &State,
        record: &PortRecord,
        given: Option<&PodNetns>,
        aside: &mut Aside,
    ) -> Result<Opened, EffectError> {
        let Some(spec) = device(state, record) else {
            return Err(EffectError::Invalid("a segment has no device".into()));
        };
        let (netns, kept, dir) = match (given, &record.spec.netns) {
            (Some(given), _) => (Arc::clone(&given.netns), Some(given.record.clone()), given.dir.clone()),
            (None, Some(name)) => {
                let netns = port::open_netns(Some(name))?;
                let id = netns.id().map_err(EffectError::io("identify the namespace"))?;
                let kept = NetnsRecord { path: path_of(name), dev: id.dev, ino: id.ino };
                (Arc::new(netns), Some(kept), None)
            }
            (None, None) => (Arc::clone(&self.own), None, None),
        };
        let id = netns.id().map_err(EffectError::io("identify the namespace"))?;
        let name = kept.as_ref().map(|kept| NetnsName::new(kept, dir));
        if let (Some(kept), Some(name)) = (&kept, &name)
            && !name.is_watched()
        {
            // Deleted while the request was on its way: nobody would ever see it end.
            let source = io::Error::new(io::ErrorKind::NotFound, "its name does not lead to it any more");
            return Err(EffectError::Netns { name: kept.path.clone(), source });
        }
        self.make_room(id, &spec.ifname, aside);
        let beside = aside.host_end(&record.spec.name, id);
        let deadline = Instant::now() + CLOSING;
        let live = loop {
            match make(record, &spec, &netns, beside) {
                Err(EffectError::Exists(_))
                    if self.is_closing(id, &spec.ifname) && Instant::now() < deadline =>
                {
                    std::thread::sleep(Duration::from_millis(2));
                }
                // weft0 of a run that left no record.
                Err(EffectError::Exists(_)) if kept.is_none() && is_internal(record) => {
                    break port::reattach(&spec, &netns)?;
                }
                other => break other?,
            }
        };
        if let Some(name) = name {
            self.names.insert(record.spec.name.clone(), name);
        }
        Ok(self.keep(&record.spec.name, record.spec.queues, live, netns, kept))
    }

    fn keep(
        &mut self,
        name: &str,
        queues: u8,
        live: LivePort,
        netns: Arc<Netns>,
        kept: Option<NetnsRecord>,
    ) -> Opened {
        let options = weft_sys::tun::TapOptions { multi_queue: queues > 1, ..Default::default() };
        let tap = TapRecord { flags: options.flags().bits(), ifindex: live.index };
        self.let_poll(name, &live.device);
        self.ports.insert(name.to_owned(), Open { live, netns });
        Opened { name: name.to_owned(), tap, netns: kept }
    }

    /// A device that goes in this change and stands in a new one's place goes now.
    fn make_room(&mut self, id: NsId, ifname: &str, aside: &mut Aside) {
        let occupies = |open: &Open| {
            let link = || weft_sys::link::Netlink::new()?.link_by_name(ifname);
            open.live.netns == id
                && open.netns.run(link).is_ok_and(|l| matches!(l, Ok(Some(l)) if l.index == open.live.index))
        };
        let at = aside.ports.iter().position(|(_, open)| occupies(open));
        if let Some((_, open)) = at.map(|at| aside.ports.swap_remove(at)) {
            self.closing.push((id, ifname.to_owned(), Instant::now()));
            self.destroy(open);
        }
    }

    fn destroy(&mut self, open: Open) {
        self.closing.retain(|(_, _, since)| since.elapsed() < CLOSING);
        self.closing.push((open.live.netns, String::new(), Instant::now()));
        let netns = open.netns.try_clone().ok();
        port::destroy(open.live, netns);
        port::close(open.netns);
    }

    /// True if a device of that namespace is being closed.
    fn is_closing(&self, id: NsId, ifname: &str) -> bool {
        let same = |name: &str| name.is_empty() || name == ifname;
        self.closing.iter().any(|(ns, name, since)| *ns == id && same(name) && since.elapsed() < CLOSING)
    }

    fn is_device_of(&self, open: &Open, record: &PortRecord) -> bool {
        record.tap.as_ref().is_some_and(|tap| tap.ifindex == open.live.index)
            && match &record.netns {
                Some(kept) => (kept.dev, kept.ino) == (open.live.netns.dev, open.live.netns.ino),
                None => Arc::ptr_eq(&open.netns, &self.own),
            }
    }

    fn open_underlay(&mut self, config: UnderlayConfig, aside: &Aside) -> Result<(), String> {
        // The old sockets are still in the snapshot in force: what they hold cannot be bound again.
        let kept = aside.underlays.get(&config.port).filter(|old| *old.config() == config).cloned();
        let mut inherited = Vec::new();
        let opened = match kept {
            Some(old) => Ok(old),
            None => Underlay::open_with(config, |spec| {
                let socket = Self::inherit(&mut self.holder, config.port, spec)?;
                inherited.push(holder::socket_name(config.port, spec.addr.is_ipv6(), spec.role));
                Some(socket)
            })
            .map(Arc::new),
        };
        let underlay = opened.map_err(|error| {
            let why = match error.kind() {
                io::ErrorKind::AddrInUse if aside.underlays.contains_key(&config.port) => {
                    "its address changed; restart weftd".to_owned()
                }
                io::ErrorKind::AddrInUse => {
                    "another program or VXLAN device has it; stop that, or choose another port".to_owned()
                }
                io::ErrorKind::AddrNotAvailable => {
                    format!("{} is not an address of this machine", bound_address(&config))
                }
                _ => error.to_string(),
            };
            format!("UDP port {} of the underlay cannot be opened: {why}", config.port)
        })?;
        for name in inherited {
            self.holder.keeps_socket(name, &underlay);
        }
        self.underlays.insert(config.port, underlay);
        Ok(())
    }

    fn start_host(&mut self, state: &State) {
        let Some(spec) = super::plan::host(state) else { return };
        self.host_failed = match self.set_host(None, Some(&spec)) {
            Ok(()) => None,
            Err(error) => Some(format!("the host's network is not as it should be: {error}")),
        };
    }

    fn clear_host(&mut self) -> Result<(), EffectError> {
        let mut netlink = weft_sys::link::Netlink::new()?;
        let link = netlink.link_by_name(&self.internal)?;
        let Some(link) = link.filter(|link| link.kind.as_deref() == Some("tun")) else { return Ok(()) };
        if super::alone::is_another_there() {
            return Ok(());
        }
        self.host.purge(&self.internal)?;
        netlink.link_del(link.index)?;
        tracing::info!(port = self.internal, "the node's own port is no longer wanted; removed");
        Ok(())
    }

    fn set_host(&mut self, old: Option<&HostSpec>, new: Option<&HostSpec>) -> Result<(), EffectError> {
        match (old, new) {
            (_, Some(new)) => {
                self.host.apply(new)?;
                // Docker and others drop what is forwarded; a later look comes too late for the first packet.
                self.host.check_firewall();
                Ok(())
            }
            (Some(old), None) => self.host.purge(&old.ifname),
            (None, None) => Ok(()),
        }
    }
}

/// The MTU of the device that leads to the underlay, if the node has the address.
pub fn underlay_mtu(address: std::net::IpAddr) -> Option<u32> {
    underlay::detect(address).ok().map(|local| local.mtu)
}

/// A refusal of the kernel as the asker hears it.
pub fn refusal(of: &str, error: &EffectError) -> ApiError {
    let code = match error {
        EffectError::Netns { source, .. } if source.kind() == io::ErrorKind::NotFound => Code::NotFound,
        EffectError::Netns { .. } | EffectError::Invalid(_) => Code::Invalid,
        EffectError::Exists(_) => Code::Conflict,
        _ => Code::Internal,
    };
    ApiError::new(code, format!("{of}{error}"))
}

/// Makes the device of a port.
fn make(
    record: &PortRecord,
    spec: &DeviceSpec,
    netns: &Netns,
    beside: Option<u32>,
) -> Result<LivePort, EffectError> {
    match record.spec.kind {
        PortKind::Afxdp => veth::create(&record.spec.name, spec, netns, beside),
        _ => port::create(spec, netns),
    }
}

fn is_internal(record: &PortRecord) -> bool {
    record.spec.kind == PortKind::Internal
}

/// The path of a namespace that a spec names: what to look at when its name may be gone.
fn path_of(name: &str) -> String {
    let named = format!("{NAMED_DIR}/{name}");
    if name.contains('/') {
        name.to_owned()
    } else if name.bytes().all(|byte| byte.is_ascii_digit()) && !Path::new(&named).exists() {
        format!("/proc/{name}/ns/net")
    } else {
        named
    }
}

fn bound_address(config: &UnderlayConfig) -> String {
    let v4 = config.v4.filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string());
    let v6 = config.v6.filter(|ip| !ip.is_unspecified()).map(|ip| ip.to_string());
    v4.or(v6).unwrap_or_else(|| "it".to_owned())
}

#[cfg(test)]
mod tests;
