//! From nothing to forwarding: the stores, the cluster file, ports of the last run, the underlay, the host's network.

use std::path::Path;
use std::sync::{Arc, mpsc};

use super::run::{Engine, amend, network_of};
use super::{Handle, Job, queue, unix_now};
use crate::control::cluster::{self, Cluster};
use crate::control::config::Config;
use crate::control::derive;
use crate::control::effects::EffectError;
use crate::control::live::{Live, Return};
use crate::control::publish::Publisher;
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

/// Brings everything up that was there before, and what the configuration adds. Afterwards frames flow.
///
/// # Errors
/// When the daemon cannot be of use: bad cluster file, directories that cannot be written to. What can mend itself (an
/// underlay address that is not there yet) is logged, shown, and tried again.
pub fn start(config: &Config, dataplane: &DataplaneConfig) -> Result<Started, StartError> {
    let io = |what| move |source| StartError::Io { what, source };
    let boot_id = weft_sys::machine::boot_id().map_err(io("read the boot id"))?;
    let (store, loaded) = Store::open(&config.run_dir, &config.state_dir, &boot_id)?;
    let stored = loaded.state;
    let cluster = configured_cluster(config).map_err(StartError::Cluster)?;
    let network = network_of(config, cluster.as_ref()).map_err(StartError::Cluster)?;

    let (handle, jobs) = queue();
    let mut settings = dataplane.clone();
    let notify = handle.clone();
    // A full queue is no harm: the next tick looks, too.
    settings.notify = Some(Arc::new(move || drop(notify.send(Job::Lost))));
    let dataplane = Arc::new(Dataplane::start(&settings).map_err(io("start the workers"))?);

    let mut state = stored.clone();
    let displaced = derive::apply(&mut state, config, network, unix_now());
    displaced.into_iter().for_each(|name| {
        tracing::warn!(name, "the configuration takes this name; the operator's object of that name is gone");
    });
    for what in state.drop_dangling(unix_now()) {
        tracing::warn!(what, "refers to something that is no longer there; removed");
    }
    let mut live = Live::new(&config.state_dir, config.internal.as_deref())?;
    let state = take_up(&mut live, state);
    live.start_underlays(&state);
    store.write(&stored, &state)?;

    let mut engine = Engine {
        config: config.clone(),
        state: Arc::new(state),
        live,
        store,
        publisher: Publisher::default(),
        shown: Arc::default(),
        dataplane: Arc::clone(&dataplane),
        view: Arc::clone(&handle.view),
        cluster,
        cluster_error: None,
        lasting: loaded.damaged,
        ticks: 0,
    };
    let devices = engine.live.devices();
    engine.publisher.build(&Arc::clone(&engine.state), &devices, 0)?;
    // Pods talk again from here on; the host's network and firewall take programs and time.
    engine.publish();
    let state = Arc::clone(&engine.state);
    engine.live.start_host_network(&state);
    engine.show();
    Ok(Started { engine, jobs, handle, dataplane })
}

/// Attaches to the devices of the last run, and makes those that the configuration alone asks for.
fn take_up(live: &mut Live, mut state: State) -> State {
    let mut opened = Vec::new();
    let records: Vec<_> = state.ports.values().cloned().collect();
    let (mut back, mut gone, mut lost) = (0, 0, 0);
    for record in records {
        let name = record.spec.name.as_str();
        if record.spec.kind == weft_api::PortKind::Vxlan {
            continue;
        }
        if record.lost.is_some() {
            live.watch(&record);
            continue;
        }
        match live.reattach(&state, &record) {
            Return::Back(found) => {
                back += 1;
                opened.push(found);
            }
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
    tracing::info!(back, gone, lost, "ports");
    amend(&state, &opened)
}
