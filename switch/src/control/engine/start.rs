//! From nothing to forwarding: the stores, the cluster file, ports of the last run, the underlay, the host's network.

use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use super::run::{ACKNOWLEDGE, Engine, amend, network_of};
use super::{Handle, Job, queue, unix_now};
use crate::control::cluster::{self, Cluster};
use crate::control::config::Config;
use crate::control::derive;
use crate::control::effects::EffectError;
use crate::control::handover::{HandOverError, Taken};
use crate::control::holder::Holder;
use crate::control::live::{Live, Return};
use crate::control::publish::Publisher;
use crate::control::pulse::Alive;
use crate::control::state::State;
use crate::control::store::{Store, StoreError};
use crate::path::dataplane::{Dataplane, DataplaneConfig};

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The directories or stores cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The cluster file is bad, and there is no earlier one to go on with.
    #[error("{0}")]
    Cluster(String),
    /// The kernel refused.
    #[error(transparent)]
    Effect(#[from] EffectError),
    /// Threads, descriptors or the boot id are not to be had.
    #[error("{what}: {source}")]
    Io {
        /// What was wanted.
        what: &'static str,
        /// Why not.
        source: std::io::Error,
    },
    /// The daemon that was to hand over did not.
    #[error(transparent)]
    HandOver(#[from] HandOverError),
    /// The stored ports are more than fit.
    #[error(transparent)]
    Full(#[from] crate::control::publish::Full),
}

/// A daemon that forwards, its engine not yet running.
pub struct Started {
    /// To be moved to its thread.
    pub engine: Engine,
    /// What it serves.
    pub jobs: mpsc::Receiver<Job>,
    /// How to reach it.
    pub handle: Handle,
    /// The workers.
    pub dataplane: Arc<Dataplane>,
}

/// Reads and checks a cluster file; the error says `file:line: what is expected`.
///
/// # Errors
/// What is wrong with it.
pub fn read_cluster(path: &Path) -> Result<Cluster, String> {
    let text = cluster::read(path)
        .map_err(|error| format!("{}: {error}; expected a readable cluster file", path.display()))?;
    Cluster::parse(&text).map_err(|error| error.in_file(path))
}

/// The cluster file of a configuration; `None` if there is none and none was asked for.
///
/// # Errors
/// What is wrong with it.
pub fn configured_cluster(config: &Config) -> Result<Option<Cluster>, String> {
    let there = config.cluster_is_told || config.cluster.exists();
    there.then(|| read_cluster(&config.cluster)).transpose()
}

/// Brings everything up that was there before, and what the configuration adds. Afterwards frames flow. `holder` has
/// what was held while no daemon ran, or what is handed over by the daemon of `taken`, which forwards until the last
/// moment.
///
/// # Errors
/// When the daemon cannot be of use: bad cluster file, directories that cannot be written to. What can mend itself (an
/// underlay address that is not there yet) is logged, shown, and tried again.
pub fn start(
    config: &Config,
    dataplane: &DataplaneConfig,
    holder: Holder,
    taken: Option<&Taken>,
) -> Result<Started, StartError> {
    let begun = Instant::now();
    let io = |what| move |source| StartError::Io { what, source };
    let boot_id = weft_sys::machine::boot_id().map_err(io("read the boot id"))?;
    let (handle, jobs) = queue();
    let mut settings = dataplane.clone();
    let notify = handle.clone();
    // A full queue is no harm: the next tick looks, too.
    settings.notify = Some(Arc::new(move || drop(notify.send(Job::Lost))));
    // First, so that the workers make their tables meanwhile.
    let dataplane = Arc::new(Dataplane::start(&settings).map_err(io("start the workers"))?);

    // Opening the files for writing after a crash waits for the disk, often.
    // Not so in a hand-over: until all is built the other daemon forwards, and can go on if it fails.
    let in_haste = taken.is_none();
    let mut settings_lost = false;
    let peeked = in_haste.then(|| Store::peek(&config.run_dir, &config.state_dir, &boot_id));
    let (stored, opened) = match peeked.flatten() {
        Some(stored) => (stored, None),
        None => {
            let (store, mut loaded) = Store::open(&config.run_dir, &config.state_dir, &boot_id)?;
            settings_lost = loaded.settings_lost;
            (std::mem::take(&mut loaded.state), Some((store, loaded.damaged)))
        }
    };
    let cluster = configured_cluster(config).map_err(StartError::Cluster)?;
    let network = network_of(config, cluster.as_ref()).map_err(StartError::Cluster)?;

    let mut state = stored.clone();
    let displaced = derive::apply(&mut state, config, network, unix_now());
    displaced.into_iter().for_each(|name| {
        tracing::warn!(name, "the configuration takes this name; the operator's object of that name is gone");
    });
    if settings_lost {
        for bridge in state.add_missing_bridges() {
            tracing::warn!(bridge, "made anew with default settings: pods are on it");
        }
    }
    for what in state.drop_dangling(unix_now()) {
        tracing::warn!(what, "refers to something that is no longer there; removed");
    }
    let live = Live::new(&config.state_dir, config.internal.as_deref(), holder)?;
    let live = live.with_tunnel_gso(config.tunnel_gso).with_uplink(config.uplink, config.underlay);
    let mut live = live.with_busy_poll(config.busy_poll);
    live.refuse_unwanted(&state);
    let mut state = take_up(&mut live, state, taken.is_some());
    for what in state.drop_statics_of_ports() {
        tracing::warn!(what, "removed");
    }
    live.start_underlays(&state);
    live.start_uplink(&state, taken.is_some());

    let mut publisher = Publisher::default();
    let snapshot = publisher.build(&state, &live.devices(), 0)?;
    let mut failed = Vec::new();
    if let Some(taken) = taken {
        taken.teach(&publisher, &dataplane);
        taken.ready()?;
        failed = live.activate();
        live.activate_uplink(&state);
    }
    // Pods talk again from here on; all that follows takes programs, the disk, and time.
    let epoch = snapshot.epoch;
    dataplane.publish(Arc::clone(&snapshot));
    if !dataplane.wait(epoch, ACKNOWLEDGE) {
        tracing::error!("a worker has not taken up the stored state within a second");
    }
    if let Some(taken) = taken {
        taken.forwarding();
    }
    let ms = begun.elapsed().as_secs_f64() * 1e3;
    tracing::info!(ms, ports = live.devices().ports.len(), held = live.adopted(), "forwarding");
    live.settle_uplink();
    // What follows may take long, and the manager asks this process for signs of life as soon as it knows of it.
    let signs = taken.map(|taken| {
        taken.wait_until_left(&publisher, &dataplane);
        live.speak();
        Alive::start()
    });

    let (store, damaged, written) = match opened {
        Some((store, damaged)) => (store, damaged, stored),
        None => {
            let (store, loaded) = Store::open(&config.run_dir, &config.state_dir, &boot_id)?;
            (store, loaded.damaged, loaded.state)
        }
    };
    store.write(&written, &state)?;
    live.adopt_tunnel_gso();
    live.settle();
    live.start_host_network(&state);
    live.look_at_tunnel_gso();
    drop(signs);
    let mut engine = Engine {
        config: config.clone(),
        state: Arc::new(state),
        live,
        store,
        publisher,
        shown: snapshot,
        dataplane: Arc::clone(&dataplane),
        view: Arc::clone(&handle.view),
        cluster,
        cluster_error: None,
        config_error: None,
        lasting: damaged,
        ticks: 0,
        ways_from: begun,
        ways_late: false,
    };
    engine.reopen(failed);
    engine.show();
    Ok(Started { engine, jobs, handle, dataplane })
}

/// Takes up the devices of the last run, and makes those that the configuration alone asks for.
fn take_up(live: &mut Live, mut state: State, in_use: bool) -> State {
    let mut opened = Vec::new();
    let mut rest = Vec::new();
    for record in state.ports.values().filter(|record| record.spec.kind != weft_api::PortKind::Vxlan) {
        if record.lost.is_some() {
            live.watch(record);
            continue;
        }
        match live.adopt(&state, record, in_use) {
            Some(found) => opened.push(found),
            None => rest.push(Arc::clone(record)),
        }
    }
    live.let_go_of_refused();
    let (mut gone, mut lost) = (0, 0);
    for record in rest {
        let name = record.spec.name.as_str();
        match live.reattach(&state, &record) {
            Return::Back(found) => opened.push(found),
            Return::Gone => {
                gone += 1;
                tracing::info!(port = name, "its namespace is gone; removed");
                state.remove_port(name, unix_now());
            }
            Return::Lost(why) => {
                lost += 1;
                tracing::warn!(port = name, why, "a stored port does not come back");
                state.mark_lost(name, &why);
                live.watch(&record);
            }
        }
    }
    tracing::info!(back = opened.len(), gone, lost, "ports");
    amend(&state, &opened)
}
