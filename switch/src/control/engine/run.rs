//! The engine thread: it owns everything that changes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use weft_api::{ApiError, Code, PortKind};

use super::{Beside, Draft, Forget, HangUp, Job, View, unix_now};
use crate::control::cluster::Cluster;
use crate::control::config::Config;
use crate::control::derive::{self, Machine};
use crate::control::effects::port;
use crate::control::handover::Freeze;
use crate::control::holder;
use crate::control::ipam::IpamError;
use crate::control::live::{Aside, Live, Opened, Return};
use crate::control::plan::{Step, plan};
use crate::control::publish::Publisher;
use crate::control::state::{State, VXLAN_PORT};
use crate::control::store::Store;
use crate::path::dataplane::Dataplane;
use crate::table::{Epoch, Snapshot};

/// How long a publication waits for the workers.
pub(super) const ACKNOWLEDGE: Duration = Duration::from_secs(1);
/// What a hand-over waits for at most that removed AF_XDP ports have ended, each of which gives up after a second.
const ENDS: Duration = Duration::from_millis(1500);
/// Every how many ticks the firewall is looked after.
const FIREWALL_TICKS: u64 = 5;
/// In how many ticks all names of namespaces are looked at, some at each, when nothing tells that one may have gone.
const NAMES_TICKS: usize = 5;

/// Everything that the engine thread owns.
pub struct Engine {
    pub(super) config: Config,
    pub(super) state: Arc<State>,
    pub(super) live: Live,
    pub(super) store: Store,
    pub(super) publisher: Publisher,
    /// The snapshot published last.
    pub(super) shown: Arc<Snapshot>,
    pub(super) dataplane: Arc<Dataplane>,
    pub(super) view: Arc<ArcSwap<View>>,
    pub(super) cluster: Option<Cluster>,
    pub(super) cluster_error: Option<String>,
    /// What is wrong with the configuration file's latest edit.
    pub(super) config_error: Option<String>,
    /// What is wrong for as long as this process lives.
    pub(super) lasting: Vec<String>,
    pub(super) ticks: u64,
    /// The ways to peers may be looked at again from then on, and are to be.
    pub(super) ways_from: Instant,
    pub(super) ways_late: bool,
}

impl Engine {
    /// Serves jobs until one says stop, or nobody is left to send any. What is open comes back: the workers still
    /// use it.
    pub fn run(mut self, jobs: &mpsc::Receiver<Job>) -> Live {
        while let Some(job) = self.next(jobs) {
            match job {
                Job::Edit { what, edit, finish, hang_up } => self.edit(what, edit, finish, hang_up),
                Job::Tick { mounts } => self.tick(mounts),
                Job::HandOver(freeze) => {
                    if self.hand_over(&freeze) {
                        return self.refuse_all(jobs);
                    }
                }
                // Whoever asked may have gone.
                Job::Ping(answer) => drop(answer.send(())),
                Job::Lost => self.lost(),
                Job::Network => self.network(),
                Job::Ways => self.ways(),
                Job::Cluster(cluster) => self.cluster(cluster),
                Job::Config(config) => self.configure(*config),
                Job::BadConfig(error) => {
                    self.config_error = Some(error);
                    self.show();
                }
                Job::Stop => break,
            }
        }
        self.live
    }

    /// The next job. While none waits, what the start has put off is done, a bit at a time.
    fn next(&mut self, jobs: &mpsc::Receiver<Job>) -> Option<Job> {
        loop {
            match jobs.try_recv() {
                Ok(job) => return Some(job),
                Err(mpsc::TryRecvError::Disconnected) => return None,
                Err(mpsc::TryRecvError::Empty) => {}
            }
            let state = Arc::clone(&self.state);
            if !self.live.refit_one(&state) {
                return jobs.recv().ok();
            }
        }
    }

    /// Lets go of the files and waits for what comes of it. True: another process has taken over.
    fn hand_over(&mut self, freeze: &Freeze) -> bool {
        if !port::wait_for_ends(ENDS) {
            tracing::info!(
                "a removed AF_XDP port's device is still there; its part of a memory stays unused"
            );
        }
        self.store.release();
        let devices = self.live.devices();
        let given = holder::duplicates(&devices).map(|all| freeze.frozen.send(all).is_ok());
        if matches!(given, Ok(true)) && freeze.leave.recv() == Ok(true) {
            return true;
        }
        let mut reopened = self.store.reopen();
        // Whoever wanted to take over may just be ending.
        for _ in 0..50 {
            if reopened.is_ok() {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
            reopened = self.store.reopen();
        }
        if let Err(error) = reopened {
            tracing::error!(%error, "nothing can be changed until the files are free; tried again every second");
            self.show();
        }
        false
    }

    /// Another process has everything now: nothing may be touched any more, not even by closing it.
    fn refuse_all(self, jobs: &mpsc::Receiver<Job>) -> Live {
        for job in jobs {
            match job {
                Job::Edit { finish, .. } => drop(finish(Err(super::stopping()))),
                Job::Ping(answer) => drop(answer.send(())),
                _ => {}
            }
        }
        self.live
    }

    fn edit(&mut self, what: &'static str, edit: super::Edit, finish: super::Finish, hang_up: HangUp) {
        let before = Arc::clone(&self.state);
        let mut draft = self.draft();
        if edit(&mut draft).is_err() {
            finish(Err(ApiError::new(Code::Internal, "refused")));
            return;
        }
        let Draft { state, netns, forget, origins, .. } = draft;
        let done = self.commit(state, &Beside { netns, forget, origins });
        match &done {
            Ok(epoch) => tracing::debug!(what, epoch, "done"),
            Err(error) => tracing::info!(what, error = error.message, "not done"),
        }
        let succeeded = done.is_ok();
        if !finish(done) && succeeded && hang_up == HangUp::RollBack {
            tracing::info!(what, "nobody waits for the answer any more; taken back");
            if let Err(error) = self.commit((*before).clone(), &Beside::default()) {
                tracing::error!(what, error = error.message, "taking it back failed");
            }
        }
    }

    fn draft(&self) -> Draft {
        let (dataplane, bridges) = (Arc::clone(&self.dataplane), self.view.load().bridges.clone());
        Draft {
            state: (*self.state).clone(),
            netns: BTreeMap::new(),
            forget: Vec::new(),
            origins: BTreeMap::new(),
            now: unix_now(),
            is_learned: Arc::new(move |bridge, vlan, mac| {
                let Some(slot) = bridges.get(bridge) else { return false };
                dataplane.learned().iter().any(|known| {
                    let station = &known.station;
                    (station.bridge, station.vlan, station.mac) == (*slot, vlan, mac)
                })
            }),
        }
    }

    /// Makes `new` the state in force: kept, carried out, published, acknowledged.
    pub(super) fn commit(&mut self, new: State, beside: &Beside) -> Result<Epoch, ApiError> {
        let old = Arc::clone(&self.state);
        if *old != new {
            let aside = match self.make(&old, new, beside) {
                Ok(aside) => aside,
                Err(error) => {
                    // Taking back may have left something amiss.
                    self.show();
                    return Err(error);
                }
            };
            let before = Arc::clone(&self.shown);
            self.publish();
            self.reset_gone(&before);
            let state = Arc::clone(&self.state);
            self.live.finish(aside, &state);
        }
        for one in &beside.forget {
            self.forget(one);
        }
        Ok(self.publisher.last().epoch)
    }

    /// Store and effects, both or neither; then the snapshot, not yet published.
    fn make(&mut self, old: &Arc<State>, new: State, beside: &Beside) -> Result<Aside, ApiError> {
        let netns = &beside.netns;
        let internal = |message: String| ApiError::new(Code::Internal, message);
        if let Err(error) = self.store.write(old, &new) {
            // One of the two files may have it.
            if let Err(error) = self.store.write(&new, old) {
                tracing::error!(%error, "taking a change back failed");
            }
            return Err(internal(error.to_string()));
        }
        let mut aside = Aside::default();
        let mut done: Vec<Step> = Vec::new();
        let mut opened: Vec<Opened> = Vec::new();
        let mut failed = None;
        for step in plan(old, &new) {
            match self.live.carry_out(&step, (old, &new), netns, &mut aside) {
                Ok(found) => {
                    opened.extend(found);
                    done.push(step);
                }
                Err(error) => {
                    let command = port_of(&step, &new).and_then(|port| beside.origins.get(port)).copied();
                    failed = Some(ApiError { command, ..error });
                    break;
                }
            }
        }
        let amended = amend(&new, &opened);
        if failed.is_none() {
            failed = self.store.write(&new, &amended).err().map(|error| internal(error.to_string()));
        }
        if failed.is_none() {
            let (devices, acknowledged) = (self.live.devices(), self.dataplane.acknowledged());
            match self.publisher.build(&amended, &devices, acknowledged) {
                Ok(_) => {
                    self.state = Arc::new(amended);
                    return Ok(aside);
                }
                Err(full) => failed = Some(ApiError::new(Code::Exhausted, full.to_string())),
            }
        }
        for step in done.iter().rev() {
            let back = self.live.carry_out(&step.inverse(), (&amended, old), netns, &mut aside);
            if let Err(error) = back {
                tracing::error!(error = error.message, "taking a change back failed");
            }
        }
        if let Err(error) = self.store.write(&amended, old) {
            tracing::error!(%error, "taking a change back failed");
        }
        self.live.finish(aside, old);
        Err(failed.unwrap_or_else(|| internal("the change failed".into())))
    }

    /// Publishes the snapshot built last, waits for the workers, and shows the new state.
    pub(super) fn publish(&mut self) {
        let snapshot = Arc::clone(self.publisher.last());
        let epoch = snapshot.epoch;
        self.dataplane.publish(snapshot);
        if !self.dataplane.wait(epoch, ACKNOWLEDGE) {
            tracing::error!(epoch, "a worker has not taken up a change within a second");
        }
        self.shown = Arc::clone(self.publisher.last());
        self.show();
    }

    /// Ports and peers that were in the snapshot `before` and went: their slots get new owners, who must not inherit
    /// counters and learned stations.
    fn reset_gone(&self, before: &Snapshot) {
        let now = self.publisher.last();
        if self.dataplane.acknowledged() < now.epoch {
            return;
        }
        for port in before.ports.slots.iter().flatten() {
            if now.ports.get(port.slot).is_none_or(|is| is.name != port.name) {
                self.dataplane.reset_port(port.bridge, port.slot);
            }
        }
        for peer in before.tunnels.peers.iter().flatten() {
            if now.tunnels.get(peer.slot).is_none() {
                self.dataplane.reset_peer(peer.slot);
            }
        }
    }

    /// Lets readers see the state in force.
    pub(super) fn show(&mut self) {
        let mut degraded = self.lasting.clone();
        if !self.store.is_open() {
            degraded.push("nothing can be changed: another process has the state's files".to_owned());
        }
        let bad = |error: &String| format!("the running configuration stays in force: {error}");
        degraded.extend(self.config_error.as_ref().map(bad));
        if self.state.node.pod_cidrs.is_empty() {
            degraded.push(format!("pods get no addresses: {}", IpamError::NoPool));
        }
        degraded.extend(self.live.degraded(&self.state));
        let file = self.cluster.is_some() || self.config.cluster_is_told;
        let file = file.then(|| self.config.cluster.display().to_string());
        let nodes = self.cluster.as_ref().map_or(0, |cluster| cluster.nodes.len());
        let view = View {
            state: Arc::clone(&self.state),
            epoch: self.publisher.last().epoch,
            ready: true,
            degraded,
            cluster: weft_api::report::ClusterStatus { file, nodes, error: self.cluster_error.clone() },
            foreign_chains: self.live.host().foreign_chains(),
            sysctls: self.live.host().sysctls().to_vec(),
            offloads: self.live.offloads(),
            xdp: self.live.xdp(),
            uplink: self.live.uplink(),
            ports: self.publisher.port_slots().map(|(name, slot)| (name.clone(), slot)).collect(),
            bridges: self.publisher.bridge_slots().map(|(name, slot)| (name.clone(), slot)).collect(),
            peers: self.publisher.peer_slots().map(|(key, slot)| (key.clone(), slot)).collect(),
        };
        self.view.store(Arc::new(view));
    }

    fn forget(&self, forget: &Forget) {
        let Some(bridge) = self.publisher.bridge_slot(&forget.bridge) else { return };
        let port = forget.port.as_ref().map(|name| self.publisher.port_slot(name));
        if let Some(None) = port {
            return;
        }
        self.dataplane.flush_learned(bridge, port.flatten(), forget.station);
    }

    /// Costs next to nothing while nothing has changed: idle nodes do this all day.
    fn tick(&mut self, mounts: bool) {
        self.ticks += 1;
        if !self.store.is_open() && self.store.reopen().is_ok() {
            tracing::info!("the files are this process's again");
        }
        self.live.catch_up();
        if self.ways_late {
            self.ways();
        }
        self.dataplane.look_at_load();
        self.dataplane.add_tunnel_drops(weft_encap::Reason::TunnelSend, self.live.look_at_tunnel_gso());
        self.lost();
        let ended = if mounts { self.live.ended() } else { self.live.ended_of_next(NAMES_TICKS) };
        if !ended.is_empty() {
            tracing::info!(ports = ?ended, "their namespaces are gone; removed");
            self.change("namespaces gone", |state, now| {
                for name in &ended {
                    state.remove_port(name, now);
                }
            });
        }
        let state = Arc::clone(&self.state);
        let (stuck, without_uplink) = self.live.look_at_queues();
        if self.live.retry(&state) | self.live.tend_uplink(&state) | without_uplink {
            self.rebuild();
        } else if stuck {
            self.show();
        }
        if self.ticks.is_multiple_of(FIREWALL_TICKS) && state.node.internal.is_some() {
            self.live.host().check_firewall();
        }
        // What was amiss may not be any more.
        if !self.view.load().degraded.is_empty() {
            self.show();
        }
    }

    /// Ports whose link was deleted inside a living namespace.
    fn lost(&mut self) {
        let lost: Vec<String> = self
            .dataplane
            .lost_ports()
            .into_iter()
            .filter_map(|(slot, generation)| {
                let port = self.publisher.last().ports.get(slot)?;
                (port.generation == generation).then(|| port.name.to_string())
            })
            .collect();
        self.lose(&lost);
    }

    /// Routes or neighbours changed, as they do all day on some nodes: the look takes a tenth of the time at most.
    fn ways(&mut self) {
        let now = Instant::now();
        self.ways_late = now < self.ways_from;
        if !self.ways_late {
            self.live.follow_ways(&Arc::clone(&self.state));
            self.ways_from = Instant::now() + 9 * now.elapsed();
        }
    }

    /// Opens ports anew that could not go on where the process before had stopped.
    pub(super) fn reopen(&mut self, failed: Vec<(String, std::io::Error)>) {
        if failed.is_empty() {
            return;
        }
        for (name, error) in &failed {
            tracing::warn!(port = name, %error, "it is opened anew");
            self.live.forget(name);
        }
        // Neither a worker nor the service manager has the old descriptors any more.
        self.rebuild();
        self.live.settle();
        let state = Arc::clone(&self.state);
        let mut lost = Vec::new();
        for (name, _) in failed {
            let Some(record) = state.ports.get(&name) else { continue };
            match self.live.reattach(&state, record) {
                Return::Back(_) => {}
                Return::Gone => lost.push((name, "its namespace is gone".to_owned())),
                Return::Lost(why) => lost.push((name, why)),
            }
        }
        self.rebuild();
        self.change("ports lost", |state, _| {
            for (name, why) in &lost {
                state.mark_lost(name, why);
            }
        });
    }

    fn lose(&mut self, lost: &[String]) {
        if lost.is_empty() {
            return;
        }
        // A namespace that ends takes its links with it: then the port is not lost, it is gone.
        let ended: BTreeSet<String> = self.live.ended().into_iter().collect();
        self.change("ports lost", |state, now| {
            for name in lost {
                if ended.contains(name) {
                    state.remove_port(name, now);
                } else if state.mark_lost(name, "its link was deleted inside the namespace") {
                    tracing::info!(port = name, "lost: its link was deleted inside the namespace");
                }
            }
        });
    }

    /// Addresses or MTUs of the host changed: what follows from them is derived anew.
    fn network(&mut self) {
        self.live.look_again_at_devices();
        let lost = self.live.without_link();
        self.lose(&lost);
        let cluster = self.cluster.clone();
        if let Err(error) = self.derive(cluster.as_ref()) {
            tracing::warn!(error, "after a change of links or addresses");
        }
        let state = Arc::clone(&self.state);
        self.live.look_again_at_uplink();
        if self.live.tend_uplink(&state) {
            self.rebuild();
        }
    }

    fn cluster(&mut self, cluster: Result<Cluster, String>) {
        // Nobody asked for a cluster, and there is none.
        if self.cluster.is_none() && !self.config.cluster_is_told && !self.config.cluster.exists() {
            return;
        }
        let applied = cluster.and_then(|cluster| {
            if self.cluster.as_ref() == Some(&cluster) {
                return Ok(());
            }
            self.derive(Some(&cluster))?;
            tracing::info!(nodes = cluster.nodes.len(), "the cluster file is in force");
            self.cluster = Some(cluster);
            Ok(())
        });
        let error = applied.err();
        if let Some(error) = error.as_ref().filter(|error| self.cluster_error.as_ref() != Some(error)) {
            tracing::error!(error, "the cluster file is bad; the last good one stays in force");
        }
        self.cluster_error = error;
        self.show();
    }

    /// Takes over what of a new configuration can change while running, and reads the cluster file again.
    fn configure(&mut self, config: Config) {
        let Config {
            node,
            bridge,
            pod_cidrs,
            gateways,
            masquerade,
            notrack,
            underlay,
            vni,
            vxlan_port,
            mtu,
            local_mtu,
            flood_pps,
            busy_poll,
            ..
        } = config;
        self.config_error = None;
        let before = self.config.clone();
        self.config = Config {
            node,
            bridge,
            pod_cidrs,
            gateways,
            masquerade,
            notrack,
            underlay,
            vni,
            vxlan_port,
            mtu,
            local_mtu,
            flood_pps,
            busy_poll,
            ..before.clone()
        };
        let read = super::start::configured_cluster(&self.config);
        let known = self.cluster.clone();
        let applied = read.and_then(|cluster| {
            let cluster = cluster.or(known);
            self.derive(cluster.as_ref())?;
            self.cluster = cluster;
            Ok(())
        });
        match applied {
            Ok(()) => {
                self.cluster_error = None;
                tracing::info!("configuration and cluster file were read again");
            }
            Err(error) => {
                tracing::error!(error, "configuration and cluster file stay as they were");
                self.config = before;
                self.cluster_error = Some(error);
            }
        }
        self.live.set_busy_poll(self.config.busy_poll);
        self.show();
    }

    fn derive(&mut self, cluster: Option<&Cluster>) -> Result<(), String> {
        let network = network_of(&self.config, cluster)?;
        let config = self.config.clone();
        let mut new = (*self.state).clone();
        let displaced = derive::apply(&mut new, &config, network, unix_now());
        for name in displaced {
            tracing::warn!(
                name,
                "the configuration takes this name; the operator's object of that name is gone"
            );
        }
        if new == *self.state {
            return Ok(());
        }
        self.commit(new, &Beside::default()).map(|_| ()).map_err(|error| error.message)
    }

    /// A change that nobody asked for.
    fn change(&mut self, what: &'static str, change: impl FnOnce(&mut State, u64)) {
        let mut new = (*self.state).clone();
        change(&mut new, unix_now());
        if let Err(error) = self.commit(new, &Beside::default()) {
            tracing::error!(what, error = error.message, "not done");
        }
    }

    /// A new snapshot of the same state, because devices changed.
    fn rebuild(&mut self) {
        let (devices, acknowledged) = (self.live.devices(), self.dataplane.acknowledged());
        match self.publisher.build(&Arc::clone(&self.state), &devices, acknowledged) {
            Ok(_) => self.publish(),
            Err(full) => tracing::error!(%full, "publishing"),
        }
    }
}

/// What configuration, cluster file and machine make of this node.
///
/// # Errors
/// When the cluster file has no entry for this node, or several, or the machine's addresses cannot be read.
pub fn network_of(
    config: &Config,
    cluster: Option<&Cluster>,
) -> Result<crate::control::state::NodeNetwork, String> {
    use crate::control::effects::underlay;
    let mut machine = Machine {
        local: underlay::local_addresses().map_err(|error| error.to_string())?,
        underlay_mtu: None,
        has_ipv6: std::path::Path::new("/proc/self/net/if_inet6").exists(),
    };
    let file = config.cluster.display();
    let derived = |machine: &Machine| {
        derive::node_network(config, cluster, machine).map_err(|error| format!("{file}: {error}"))
    };
    let address = derived(&machine)?.vtep.map(|vtep| vtep.underlay);
    machine.underlay_mtu = address.and_then(crate::control::live::underlay_mtu);
    derived(&machine)
}

/// The port that a step is about.
fn port_of<'a>(step: &'a Step, new: &'a State) -> Option<&'a str> {
    match step {
        Step::Destroy(port) | Step::Create(port) | Step::Change { new: port, .. } => Some(&port.spec.name),
        Step::OpenUnderlay(config) => {
            let mut segments = new.ports.values().filter(|port| port.spec.kind == PortKind::Vxlan);
            let segment = segments.find(|port| port.spec.udp_port.unwrap_or(VXLAN_PORT) == config.port);
            segment.map(|port| port.spec.name.as_str())
        }
        Step::CloseUnderlay(_) | Step::Host { .. } => None,
    }
}

/// `state` with what opening its devices told.
pub(super) fn amend(state: &State, opened: &[Opened]) -> State {
    let mut amended = state.clone();
    for found in opened {
        if let Some(port) = amended.ports.get_mut(&found.name) {
            let port = Arc::make_mut(port);
            port.tap = Some(found.tap.clone());
            port.netns.clone_from(&found.netns);
        }
    }
    amended
}
