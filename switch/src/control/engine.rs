//! The only writer: one thread that takes changes one after the other and makes each of them true.
//!
//! A change is an edit of a [`Draft`] of the desired state. If it succeeds: plan (old → new), store, effects (undone in
//! reverse on an error, and the store put back), snapshot, publication, every worker's acknowledgement, reply. If the
//! asker has gone away before the reply, a change that said so is taken back.

/// The thread's loop: one job after the other.
mod run;
/// From nothing to forwarding.
mod start;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use tokio::sync::oneshot;
use weft_api::{ApiError, Code};
use weft_encap::{MacAddr, VlanId};
use weft_sys::netns::Netns;
use weft_sys::pathid::Dir;

use super::cluster::Cluster;
use super::effects::host::SysctlChange;
use super::publish::PeerKey;
use super::state::{NetnsRecord, State};
use crate::table::{BridgeSlot, Epoch, PeerSlot, PortSlot};

pub use run::{Engine, network_of};
pub use start::{StartError, Started, configured_cluster, read_cluster, start};

/// How many jobs may wait.
const QUEUE: usize = 1024;

/// An open namespace of a port that an edit adds.
#[derive(Clone, Debug)]
pub struct PodNetns {
    /// The namespace.
    pub netns: Arc<Netns>,
    /// The directory that holds its name; `None`: it has no name that could go.
    pub dir: Option<Arc<Dir>>,
    /// How to find it again.
    pub record: NetnsRecord,
}

/// Tells whether a station (bridge, VLAN, MAC) is learned.
pub type IsLearned = Arc<dyn Fn(&str, Option<VlanId>, MacAddr) -> bool>;

/// What an edit works on.
pub struct Draft {
    /// The desired state; becomes the engine's if the edit succeeds.
    pub state: State,
    /// Namespaces of ports that the edit adds, by port name. Ports whose `spec.netns` is set and that are not in here
    /// are opened by the engine.
    pub netns: BTreeMap<String, PodNetns>,
    /// Learned stations to forget.
    pub forget: Vec<Forget>,
    /// By port: the command of a transaction that wants it so, to be named when the kernel refuses.
    pub origins: BTreeMap<String, usize>,
    /// Seconds of Unix time.
    pub now: u64,
    /// Is a station learned (bridge, VLAN, MAC)?
    pub is_learned: IsLearned,
}

/// Learned stations to forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forget {
    /// Those of this bridge.
    pub bridge: String,
    /// Only those behind this port.
    pub port: Option<String>,
    /// Only this one.
    pub station: Option<(Option<VlanId>, MacAddr)>,
}

/// What comes with a new state.
#[derive(Debug, Default)]
pub(super) struct Beside {
    netns: BTreeMap<String, PodNetns>,
    forget: Vec<Forget>,
    origins: BTreeMap<String, usize>,
}

/// What to do when the asker is gone before it could be told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HangUp {
    /// The change stays.
    Keep,
    /// The change is taken back.
    RollBack,
}

/// An edit, its result kept inside the closure until [`Job::Edit`]'s `finish` is called.
pub type Edit = Box<dyn FnOnce(&mut Draft) -> Result<(), Refused> + Send>;

/// How an edit ended: what it gave, and the epoch in which it is in force.
type Edited<R, E> = Result<(R, Epoch), E>;

/// The edit itself said no; what it said is kept by the closure.
#[derive(Clone, Copy, Debug)]
pub struct Refused;

/// Told how a change ended: `Ok` with the epoch in which it is in force, or what the machine refused. Returns false if
/// nobody listens any more.
pub type Finish = Box<dyn FnOnce(Result<Epoch, ApiError>) -> bool + Send>;

/// What the engine thread is asked to do.
pub enum Job {
    /// Change the desired state.
    Edit {
        /// For the log.
        what: &'static str,
        /// The change.
        edit: Edit,
        /// The answer.
        finish: Finish,
        /// What to do when nobody listens to it.
        hang_up: HangUp,
    },
    /// A second has passed: look at names of namespaces, at what could not be opened, at the firewall.
    Tick {
        /// Names of namespaces may have gone just now.
        mounts: bool,
    },
    /// Let another process take over, or go on: the thread waits for what comes of it.
    HandOver(super::handover::Freeze),
    /// Say that the thread is alive.
    Ping(oneshot::Sender<()>),
    /// The data plane has lost a port.
    Lost,
    /// Links or addresses of the host changed.
    Network,
    /// Routes or neighbours of the host changed.
    Ways,
    /// The cluster file changed: what it says now, or what is wrong with it.
    Cluster(Result<Cluster, String>),
    /// The configuration was read again.
    Config(Box<super::config::Config>),
    /// The configuration was read again and is bad: what is wrong with it.
    BadConfig(String),
    /// Stop: the thread ends when its turn comes.
    Stop,
}

/// How everybody else talks to the engine.
#[derive(Clone)]
pub struct Handle {
    jobs: mpsc::SyncSender<Job>,
    view: Arc<ArcSwap<View>>,
}

/// What readers see without asking the engine: the state in force and what is known about its effects.
#[derive(Debug, Default)]
pub struct View {
    /// The state in force.
    pub state: Arc<State>,
    /// Its snapshot's number.
    pub epoch: Epoch,
    /// True once stored ports are back and forwarding.
    pub ready: bool,
    /// What works worse than it could, and why.
    pub degraded: Vec<String>,
    /// The cluster file and what is wrong with its latest edit.
    pub cluster: weft_api::report::ClusterStatus,
    /// Foreign chains with rules of ours as of the last look.
    pub foreign_chains: Arc<ArcSwap<Vec<String>>>,
    /// Sysctls changed.
    pub sysctls: Vec<SysctlChange>,
    /// Offloads of each port with an open device.
    pub offloads: BTreeMap<String, Vec<String>>,
    /// The host's end of each port with an AF_XDP socket, and that.
    pub xdp: BTreeMap<String, (String, Arc<crate::port::XdpDevice>)>,
    /// The uplink, and its device's name.
    pub uplink: Option<(String, std::sync::Weak<crate::port::Uplink>)>,
    /// Slots of ports that forward.
    pub ports: BTreeMap<String, PortSlot>,
    /// Slots of bridges.
    pub bridges: BTreeMap<String, BridgeSlot>,
    /// Slots of peers.
    pub peers: BTreeMap<PeerKey, PeerSlot>,
}

impl Handle {
    /// Makes a change and waits until every worker forwards by it. `edit` runs on the engine thread and must not block.
    ///
    /// # Errors
    /// What `edit` says, or what the store and the kernel said about carrying it out; nothing has changed then.
    /// With [`HangUp::RollBack`], dropping the future takes the change back.
    pub async fn edit<R, E>(
        &self,
        what: &'static str,
        hang_up: HangUp,
        edit: impl FnOnce(&mut Draft) -> Result<R, E> + Send + 'static,
    ) -> Result<(R, Epoch), E>
    where
        R: Send + 'static,
        E: From<ApiError> + Send + 'static,
    {
        let (job, answer) = job(what, hang_up, edit);
        self.jobs.try_send(job).map_err(|error| E::from(unavailable(&error)))?;
        answer.await.unwrap_or_else(|_| Err(E::from(stopping())))
    }

    /// As [`Handle::edit`] for threads that run no tokio.
    ///
    /// # Errors
    /// Those of [`Handle::edit`].
    pub fn edit_blocking<R, E>(
        &self,
        what: &'static str,
        edit: impl FnOnce(&mut Draft) -> Result<R, E> + Send + 'static,
    ) -> Result<(R, Epoch), E>
    where
        R: Send + 'static,
        E: From<ApiError> + Send + 'static,
    {
        let (job, answer) = job(what, HangUp::Keep, edit);
        self.jobs.try_send(job).map_err(|error| E::from(unavailable(&error)))?;
        answer.blocking_recv().unwrap_or_else(|_| Err(E::from(stopping())))
    }

    /// Sends a job that is no edit.
    ///
    /// # Errors
    /// [`Code::Unavailable`] when too many wait or the engine stops.
    pub fn send(&self, job: Job) -> Result<(), ApiError> {
        self.jobs.try_send(job).map_err(|error| unavailable(&error))
    }

    /// As [`Handle::send`], but waits for room in the queue: for what must not be lost, from threads that may wait.
    ///
    /// # Errors
    /// [`Code::Unavailable`] when the engine stops.
    pub fn send_blocking(&self, job: Job) -> Result<(), ApiError> {
        self.jobs.send(job).map_err(|_| stopping())
    }

    /// What is in force.
    pub fn view(&self) -> Arc<View> {
        self.view.load_full()
    }
}

/// The two ends of an engine's queue, for the engine thread and for everybody else.
pub fn queue() -> (Handle, mpsc::Receiver<Job>) {
    let (jobs, receiver) = mpsc::sync_channel(QUEUE);
    (Handle { jobs, view: Arc::default() }, receiver)
}

/// Seconds of Unix time.
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

fn job<R, E>(
    what: &'static str,
    hang_up: HangUp,
    edit: impl FnOnce(&mut Draft) -> Result<R, E> + Send + 'static,
) -> (Job, oneshot::Receiver<Edited<R, E>>)
where
    R: Send + 'static,
    E: From<ApiError> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    let kept: Arc<std::sync::Mutex<Option<Result<R, E>>>> = Arc::default();
    let result = Arc::clone(&kept);
    let edit: Edit = Box::new(move |draft| {
        let outcome = edit(draft);
        let verdict = if outcome.is_ok() { Ok(()) } else { Err(Refused) };
        *lock(&kept) = Some(outcome);
        verdict
    });
    let finish: Finish = Box::new(move |end| {
        let outcome = match (lock(&result).take(), end) {
            (Some(Ok(value)), Ok(epoch)) => Ok((value, epoch)),
            (Some(Err(error)), _) => Err(error),
            (_, Err(error)) => Err(error.into()),
            (None, Ok(_)) => Err(stopping().into()),
        };
        reply.send(outcome).is_ok()
    });
    (Job::Edit { what, edit, finish, hang_up }, answer)
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

pub(crate) fn stopping() -> ApiError {
    ApiError::new(Code::Unavailable, "weftd is stopping; try again when it runs")
}

fn unavailable(error: &mpsc::TrySendError<Job>) -> ApiError {
    match error {
        mpsc::TrySendError::Full(_) => {
            ApiError::new(Code::Unavailable, format!("{QUEUE} changes are waiting already; try again"))
        }
        mpsc::TrySendError::Disconnected(_) => stopping(),
    }
}
