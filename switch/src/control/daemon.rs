//! The process around the engine: log, sockets, signals, a clean end; and what `--check` and `--purge` do.
//!
//! Threads: the engine's; the watch's; the workers'; and the main one, which runs a tokio for both sockets and the
//! signals. Ports outlive the process: their devices are persistent, and the next start attaches to them again.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use weft_sys::link::Netlink;
use weft_sys::netns::Netns;
use weft_sys::notify::notify;

use super::alone::Alone;
use super::cluster::FileWatch;
use super::cni;
use super::config::{Args, Config, LogFormat, UplinkUse};
use super::effects::host::{HostNetwork, record_path};
use super::effects::veth;
use super::engine::{self, Handle, Job, Started};
use super::handover::{self, Giver, Taken};
use super::holder::Holder;
use super::ipam::IpamError;
use super::privilege;
use super::pulse::Pulse;
use super::report::Reporter;
use super::seats::Seats;
use super::serve::{self, Access};
use super::state::PortRecord;
use super::store::{self, Lock, Store};
use super::watch::{self, Event, Watch};
use crate::path::dataplane::{Dataplane, DataplaneConfig};

/// How often a hand-over is looked at in whose middle the end was asked for.
const LOOK: std::time::Duration = std::time::Duration::from_secs(1);
/// Descriptors wanted: two a port, and those of sockets and stores.
const DESCRIPTORS: u64 = 65_536;

/// How to change the log's filter while running.
pub type LogHandle = reload::Handle<EnvFilter, tracing_subscriber::Registry>;

/// Starts logging to stderr. Panics are logged, too.
///
/// # Errors
/// When logging was started before.
pub fn logging(config: &Config) -> anyhow::Result<LogHandle> {
    let filter = filter(&config.log_level)?;
    let (filter, handle) = reload::Layer::new(filter);
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match config.log {
        LogFormat::Text => registry.with(layer.with_ansi(false)).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    }
    .context("start logging")?;
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or("?").to_owned();
        let backtrace = std::backtrace::Backtrace::force_capture();
        // `payload_as_str` is newer than the oldest compiler supported.
        let payload = panic.payload();
        let said = payload.downcast_ref::<&str>().copied();
        let said = said.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("?");
        if store::is_reading() {
            // Caught, and told as the damage that it is.
            tracing::debug!(place, "a damaged file: {said}");
            return;
        }
        tracing::error!(place, thread, %backtrace, "panic: {said}");
    }));
    Ok(handle)
}

/// The netlink library warns of every attribute that a newer kernel made longer, which is no harm.
fn filter(level: &str) -> anyhow::Result<EnvFilter> {
    let filter = EnvFilter::builder().parse(level).context("log_level")?;
    Ok(filter.add_directive("netlink_packet_route=error".parse()?))
}

/// Says what the configuration and the cluster file amount to.
///
/// # Errors
/// What is wrong with the cluster file; the configuration itself is good already.
pub fn check(config: &Config) -> anyhow::Result<String> {
    access(config)?;
    let cluster = engine::configured_cluster(config).map_err(anyhow::Error::msg)?;
    let own = engine::network_of(config, cluster.as_ref()).map_err(anyhow::Error::msg)?;
    let file = match &config.file {
        Some(file) => format!("{}: good", file.display()),
        None => "no configuration file: flags, variables and defaults are good".to_owned(),
    };
    let cluster = match &cluster {
        Some(cluster) => {
            let (path, count) = (config.cluster.display(), cluster.nodes.len());
            let nodes = if count == 1 { "node" } else { "nodes" };
            format!("{path}: good, {count} {nodes}, this one is {}", own.name.as_deref().unwrap_or_default())
        }
        None => "no cluster file: there are no other nodes".to_owned(),
    };
    let mut said = format!("{file}; {cluster}");
    if own.pod_cidrs.is_empty() {
        said.push_str(&format!("\nwarning: pods get no addresses: {}", IpamError::NoPool));
    }
    Ok(said)
}

/// Runs the daemon until a signal ends it, or another one has taken over. `inherited`: descriptors that the service
/// manager held, by name.
///
/// # Errors
/// Why it cannot start, or the engine's end without a signal.
pub fn run(
    args: &Args,
    config: Config,
    log: &LogHandle,
    inherited: Vec<(String, OwnedFd)>,
) -> anyhow::Result<()> {
    // Before capabilities are dropped: one of them may raise limits.
    raise_limits();
    privilege::drop_all_but_needed()?;
    let mut taken = if args.take_over { handover::take(&config.run_dir)? } else { None };
    let signs = Signs::take(&config, taken.as_mut())?;
    let access = access(&config)?;
    let sockets = [(CONTROL, &config.socket), (PLUGINS, &config.cni_socket)].map(|(name, path)| {
        let socket = taken.as_mut().and_then(|taken| taken.descriptor(name))?;
        bound_to(socket, path)
    });
    let holder = match &mut taken {
        Some(taken) => Holder::handed_over(taken.descriptors(), taken.has_same_manager()),
        None => Holder::new(inherited),
    };
    let dataplane =
        DataplaneConfig { workers: workers(&config), spin_us: config.spin_us, ..DataplaneConfig::default() };
    let Started { engine, jobs, handle, dataplane: plane } =
        engine::start(&config, &dataplane, holder, taken.as_ref())?;
    drop(taken);
    if let Some(error) = plane.unconfined() {
        tracing::warn!(%error, "the workers keep rights that they do not need");
    }
    let signs = signs.sign()?;
    let (engine_runs, engine_ended) = oneshot::channel();
    let engine = std::thread::Builder::new()
        .name("weft-engine".to_owned())
        .spawn(move || {
            // Hung up by the thread's end.
            let _runs = engine_runs;
            engine.run(&jobs)
        })
        .context("start the engine")?;
    let teller = handle.clone();
    let watched = Some(FileWatch::new(&config.cluster));
    let ways = config.uplink == UplinkUse::Afxdp;
    let watch = Watch::start(watched, ways, move |event| tell(&teller, event)).context("start the watch")?;

    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().context("start tokio")?;
    let doors = Doors { args, config: &config, access, log, handle: &handle, workers: dataplane.workers };
    let served =
        runtime.block_on(doors.serve_until_signal(Arc::clone(&plane), sockets, &signs, engine_ended));
    if matches!(served, Ok(End::HandedOver)) {
        // Without a single destructor: nothing here is this process's own any more.
        std::process::exit(0);
    }
    let _ = notify("STOPPING=1");
    runtime.shutdown_background();
    drop(watch);
    let _ = handle.send_blocking(Job::Stop);
    let ended = engine.join();
    match ended {
        Ok(mut live) => {
            live.leave_host();
            // As late as can be: what the workers have read leaves, what comes then waits for the next start.
            plane.stop();
            // What the manager holds is closed in no time.
            if handover::manager().is_none() {
                plane.end();
                live.close();
            }
        }
        Err(_) => bail!("the engine ended by a panic; see the log"),
    }
    served?;
    tracing::info!("stopped; ports stay for the next start");
    Ok(())
}

/// How serving ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// By a signal.
    Asked,
    /// Another process has everything.
    HandedOver,
}

/// What a hand-over calls the lock, the sign of the network namespace, and the listening sockets.
const LOCK: &str = "lock";
const ALONE: &str = "alone";
const CONTROL: &str = "listen-control";
const PLUGINS: &str = "listen-cni";

/// What says that this daemon runs here, and no other.
struct Signs {
    lock: Lock,
    alone: Option<Alone>,
}

impl Signs {
    fn take(config: &Config, taken: Option<&mut Taken>) -> anyhow::Result<Signs> {
        let Some(taken) = taken else {
            let lock = Lock::take(&config.run_dir)?;
            let alone = config.internal.as_ref().map(|_| Alone::take()).transpose()?;
            return Ok(Signs { lock, alone });
        };
        let lock = taken.descriptor(LOCK).context("the lock was not handed over")?;
        let alone = match (taken.descriptor(ALONE), &config.internal) {
            (Some(sign), Some(_)) => Some(Alone::from_fd(sign)),
            (None, Some(_)) => Some(Alone::take()?),
            (_, None) => None,
        };
        Ok(Signs { lock: Lock::from_fd(lock), alone })
    }

    /// Puts this process's name to them.
    fn sign(mut self) -> anyhow::Result<Signs> {
        self.lock.sign().context("the lock")?;
        self.alone.as_ref().map_or(Ok(()), Alone::sign).context("the sign in the network namespace")?;
        Ok(self)
    }

    fn duplicates(&self) -> std::io::Result<Vec<(String, OwnedFd)>> {
        let mut all = vec![(LOCK.to_owned(), self.lock.try_clone_fd()?)];
        if let Some(sign) = self.alone.as_ref().map(Alone::try_clone_fd).transpose()?.flatten() {
            all.push((ALONE.to_owned(), sign));
        }
        Ok(all)
    }
}

/// Everything around the sockets.
struct Doors<'a> {
    args: &'a Args,
    config: &'a Config,
    access: Access,
    log: &'a LogHandle,
    handle: &'a Handle,
    workers: usize,
}

impl Doors<'_> {
    async fn serve_until_signal(
        &self,
        plane: Arc<Dataplane>,
        [control, plugins]: [Option<OwnedFd>; 2],
        signs: &Signs,
        mut engine_ended: oneshot::Receiver<()>,
    ) -> anyhow::Result<End> {
        let (config, handle) = (self.config, self.handle);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hang_up = signal(SignalKind::hangup())?;
        let listener = match control {
            Some(socket) => serve::adopt(socket),
            None => serve::bind(&config.socket, self.access),
        };
        let listener = listener.with_context(|| format!("control socket {}", config.socket.display()))?;
        let queue = config.state_dir.join("cni-del");
        let plugins = match plugins {
            Some(socket) => cni::Server::adopt(socket, &config.cni_socket, queue, handle.clone()),
            None => cni::Server::bind(&config.cni_socket, queue, handle.clone()),
        };
        let plugins = plugins.with_context(|| format!("plugin's socket {}", config.cni_socket.display()))?;
        let hand_over = handover::socket(&config.run_dir);
        let files = [&config.socket, &config.cni_socket, &hand_over].map(|path| SocketFile(path));

        let mut own = signs.duplicates()?;
        own.push((CONTROL.to_owned(), listener.as_fd().try_clone_to_owned()?));
        own.push((PLUGINS.to_owned(), plugins.try_clone_fd()?));
        let reporter = || Reporter::new(handle.clone(), Arc::clone(&plane), self.workers);
        let giver = Arc::new(Giver::new(handle.clone(), Arc::clone(&plane), reporter(), own));
        Arc::clone(&giver).serve(&config.run_dir).context("the hand-over's socket")?;
        let source = Arc::new(reporter().with_giver(Arc::clone(&giver)));
        tokio::spawn(serve::serve_while(listener, self.access, source, giver.gate()));
        tokio::spawn(plugins.run(giver.gate()));
        let ports = handle.view().state.ports.len();
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            socket = %config.socket.display(),
            ports,
            "ready"
        );
        let _ = notify("READY=1");
        let pulse = Pulse::new(handle.clone(), Arc::clone(&plane)).run();
        tokio::pin!(pulse);
        let seats = Seats::new(Arc::clone(&plane)).run();
        tokio::pin!(seats);
        let left = giver.has_left();
        tokio::pin!(left);
        let answers = async {
            match &signs.alone {
                Some(alone) => alone.answer().await,
                None => std::future::pending().await,
            }
        };
        tokio::pin!(answers);
        let mut asked = false;
        loop {
            // In the middle of a hand-over, what comes of it decides.
            if asked && !giver.is_giving() {
                return Ok(End::Asked);
            }
            tokio::select! {
                _ = terminate.recv() => asked = true,
                _ = interrupt.recv() => asked = true,
                () = &mut left => {
                    // They are the other process's.
                    std::mem::forget(files);
                    return Ok(End::HandedOver);
                }
                () = &mut pulse => {}
                () = &mut seats, if config.seats => {}
                _ = hang_up.recv() => reload(self.args, config, self.log, handle),
                () = &mut answers => {}
                _ = &mut engine_ended => bail!("the engine ended by itself; see the log"),
                () = tokio::time::sleep(LOOK), if asked => {}
            }
        }
    }
}

/// The socket, if it is bound to that path.
fn bound_to(socket: OwnedFd, path: &Path) -> Option<OwnedFd> {
    let socket = std::os::unix::net::UnixListener::from(socket);
    let bound = socket.local_addr().ok()?;
    (bound.as_pathname() == Some(path)).then(|| socket.into())
}

/// The file of a socket that this process has bound. Another daemon's must not go with it.
struct SocketFile<'a>(&'a Path);

impl Drop for SocketFile<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(self.0);
    }
}

/// Reads configuration and cluster file again. What needs a restart is said.
fn reload(args: &Args, running: &Config, log: &LogHandle, handle: &Handle) {
    let config = match args.load() {
        Ok(config) => config,
        Err(error) => {
            tracing::error!(%error, "the configuration is bad; the running one stays in force");
            if let Err(error) = handle.send(Job::BadConfig(error.to_string())) {
                tracing::warn!(%error, "SIGHUP");
            }
            return;
        }
    };
    let fixed = |c: &Config| {
        let sockets = (c.socket.clone(), c.cni_socket.clone(), c.socket_group.clone());
        let places = (c.cluster.clone(), c.run_dir.clone(), c.state_dir.clone());
        (sockets, places, c.workers, c.spin_us, c.seats, c.tunnel_gso, c.uplink, c.log, c.internal.clone())
    };
    if fixed(&config) != fixed(running) {
        tracing::warn!(
            "sockets, directories, cluster file's path, workers, tunnel_gso, uplink, log format or internal port changed; restart weftd for those"
        );
    }
    match filter(&config.log_level).map(|filter| log.reload(filter)) {
        Ok(Ok(())) => {}
        _ => tracing::warn!(level = config.log_level, "the log level is not changed"),
    }
    let job = Job::Config(Box::new(config));
    if let Err(error) = handle.send(job) {
        tracing::warn!(%error, "SIGHUP");
    }
}

/// Removes everything that a daemon with this configuration made, but, with `keep_ports`, pods' devices and what the
/// next start has to know of them. Operator's settings stay.
///
/// # Errors
/// When a daemon runs, or what could not be removed.
pub fn purge(config: &Config, keep_ports: bool) -> anyhow::Result<()> {
    privilege::drop_all_but_needed()?;
    let _lock = Lock::take(&config.run_dir)?;
    let _alone = config.internal.as_ref().map(|_| Alone::take()).transpose()?;
    let boot_id = weft_sys::machine::boot_id()?;
    let (store, loaded) = Store::open(&config.run_dir, &config.state_dir, &boot_id)?;
    let mut failed = Vec::new();
    for port in loaded.state.ports.values().filter(|port| !(keep_ports && port.is_volatile())) {
        if let Err(error) = remove_device(port) {
            failed.push(format!("port {}: {error}", port.spec.name));
        }
    }
    let internal = config.internal.as_deref().unwrap_or("weft0");
    let purged =
        HostNetwork::open(record_path(&config.state_dir), internal).and_then(|mut h| h.purge(internal));
    if let Err(error) = purged {
        failed.push(error.to_string());
    }
    if let Err(error) = remove_link(internal) {
        failed.push(format!("{internal}: {error}"));
    }
    if !keep_ports {
        let mut kept = loaded.state.clone();
        kept.ports.retain(|_, port| !port.is_volatile());
        kept.ipam = super::state::IpamState::default();
        kept.drop_stations_without_port();
        store.write(&loaded.state, &kept)?;
    }
    for socket in [&config.socket, &config.cni_socket, &handover::socket(&config.run_dir)] {
        let _ = std::fs::remove_file(socket);
    }
    if failed.is_empty() {
        return Ok(());
    }
    bail!("not everything could be removed: {}", failed.join("; "))
}

fn remove_device(port: &PortRecord) -> anyhow::Result<()> {
    let netns = match &port.netns {
        None if port.spec.kind == weft_api::PortKind::Vxlan => return Ok(()),
        None => Netns::current()?,
        Some(kept) => match watch::reopen(kept)? {
            Some(netns) => netns,
            None => return Ok(()),
        },
    };
    let ifname = port.ifname().to_owned();
    let id = netns.id()?;
    netns.run(move || remove_link(&ifname))??;
    if port.spec.kind == weft_api::PortKind::Afxdp {
        // Where the pod has renamed its end.
        veth::remove(&port.spec.name, id);
    }
    Ok(())
}

fn remove_link(ifname: &str) -> anyhow::Result<()> {
    let mut netlink = Netlink::new()?;
    if let Some(link) = netlink.link_by_name(ifname)? {
        match netlink.link_del(link.index) {
            Err(error) if !error.is_missing() => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// False: the engine has not taken it.
fn tell(handle: &Handle, event: Event) -> bool {
    let sent = match event {
        // The next one comes in a second.
        Event::Tick { mounts } => return handle.send(Job::Tick { mounts }).is_ok(),
        Event::Cluster(cluster) => handle.send_blocking(Job::Cluster(cluster)),
        Event::Network => handle.send_blocking(Job::Network),
        Event::Ways => handle.send_blocking(Job::Ways),
    };
    if sent.is_err() {
        tracing::debug!("the engine has ended");
    }
    sent.is_ok()
}

/// One worker up to eight CPUs, then one for every eight: each spins while there is work, and pods need the rest.
fn workers(config: &Config) -> usize {
    match config.workers {
        0 => (weft_sys::machine::cpus() / 8).clamp(1, 8),
        told => told,
    }
}

fn raise_limits() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit.maximum.unwrap_or(DESCRIPTORS);
    if limit.current.is_some_and(|current| current < wanted) {
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
    }
    // Memory of AF_XDP ports is locked. In a container without CAP_SYS_RESOURCE the limit stays.
    if setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }).is_err() {
        let maximum = getrlimit(Resource::Memlock).maximum;
        let _ = setrlimit(Resource::Memlock, Rlimit { current: maximum, maximum });
    }
}

/// Who may use the control socket.
fn access(config: &Config) -> anyhow::Result<Access> {
    let wrong = |name: &str, error: anyhow::Error| config.wrong("socket_group", name, format!("{error:#}"));
    let id = |name: &str| group_id(name).map_err(|error| wrong(name, error));
    Ok(Access { group: config.socket_group.as_deref().map(id).transpose()? })
}

/// The number of a group: by name from `/etc/group`, or as it stands.
fn group_id(name: &str) -> anyhow::Result<u32> {
    if let Ok(number) = name.parse() {
        return Ok(number);
    }
    let path = Path::new("/etc/group");
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let found = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    });
    found.with_context(|| format!("socket_group is `{name}`; expected a group of {}", path.display()))
}
