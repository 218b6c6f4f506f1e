//! What happens outside and must be noticed: a namespace's name that goes, an edit of the cluster file, a change of
//! links and addresses. One thread that sleeps in poll(2); it decides nothing, it tells.
//!
//! A TAP that was opened inside a namespace keeps that namespace alive after its name is gone, so its end cannot be
//! seen in the device: [`NetnsName`] compares what the name means, through a descriptor of its directory, with what it
//! meant.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pipe::{PipeFlags, pipe_with};
use weft_sys::link::{self, LinkMonitor};
use weft_sys::netns::{Netns, NsId};
use weft_sys::pathid::Dir;

use super::cluster::{Cluster, FileWatch};
use super::effects::veth;
use super::state::NetnsRecord;

/// How often [`Event::Tick`] comes and the cluster file is looked at: together, for what an idle daemon costs is waking up.
pub const TICK: Duration = Duration::from_secs(1);
/// How long changes of links and addresses are gathered before they are told.
const SETTLE: Duration = Duration::from_millis(20);
/// The same for changes of routes and neighbours, of which there may be many.
const SETTLE_WAYS: Duration = Duration::from_millis(50);

/// The name of a namespace and what it meant.
#[derive(Clone, Debug)]
pub struct NetnsName {
    id: NsId,
    ways: Vec<Way>,
}

/// How the name is looked at.
#[derive(Clone, Debug)]
enum Way {
    /// By a descriptor of its directory, which works across mount namespaces, as long as the other one exists: a
    /// plugin that was called in a short-lived one (`ip netns exec`) leaves a descriptor that leads nowhere.
    Dir(Arc<Dir>, String),
    /// By its path, followed: `/proc/PID/ns/net` is a link.
    Path(PathBuf),
}

impl Way {
    /// What the name means now; `None`: nothing.
    fn look(&self) -> io::Result<Option<NsId>> {
        match self {
            Way::Dir(dir, name) => dir.id_of(name),
            Way::Path(path) => id_at(path),
        }
    }
}

impl NetnsName {
    /// Starts watching. `dir` is the descriptor that came with the request. A way that does not lead to the namespace
    /// now is not trusted later; without any, [`NetnsName::is_watched`] is false and the name counts as alive.
    pub fn new(record: &NetnsRecord, dir: Option<Arc<Dir>>) -> NetnsName {
        let id = NsId { dev: record.dev, ino: record.ino };
        let path = Path::new(&record.path);
        let name = path.file_name().and_then(|name| name.to_str()).map(str::to_owned);
        let by_dir = dir.zip(name).map(|(dir, name)| Way::Dir(dir, name));
        let mut ways: Vec<Way> = by_dir.into_iter().chain([Way::Path(path.to_owned())]).collect();
        ways.retain(|way| matches!(way.look(), Ok(Some(found)) if found == id));
        NetnsName { id, ways }
    }

    /// False if the name cannot be seen from here.
    pub fn is_watched(&self) -> bool {
        !self.ways.is_empty()
    }

    /// True while the name means the same namespace, seen one way or another, or while a process lives in it. A
    /// failure to look is no death.
    pub fn lives(&self) -> bool {
        let means_it = |way: &Way| way.look().map_or(true, |found| found == Some(self.id));
        self.ways.is_empty() || self.ways.iter().any(means_it) || by_process(self.id).is_some()
    }
}

/// Opens the namespace of a record again, after a restart: by its path, else (the path may exist in another mount
/// namespace only) through a process that lives in it. `None`: it is gone, as far as can be seen from here.
///
/// # Errors
/// When it is there but cannot be opened.
pub fn reopen(record: &NetnsRecord) -> io::Result<Option<Netns>> {
    let id = NsId { dev: record.dev, ino: record.ino };
    match Netns::open(&record.path) {
        Ok(netns) if netns.id()? == id => Ok(Some(netns)),
        Ok(_) => Ok(by_process(id)),
        // The name's empty file without the namespace mounted on it is no namespace.
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => {
            Ok(by_process(id))
        }
        Err(error) => Err(error),
    }
}

fn by_process(id: NsId) -> Option<Netns> {
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| id_at(Path::new(&format!("/proc/{pid}/ns/net"))).is_ok_and(|found| found == Some(id)))
        .find_map(|pid| Netns::of_pid(pid).ok().filter(|netns| netns.id().is_ok_and(|found| found == id)))
}

/// Identity of the file at `path`, links followed; `None`: there is none.
fn id_at(path: &Path) -> io::Result<Option<NsId>> {
    match rustix::fs::stat(path) {
        Ok(stat) => Ok(Some(NsId { dev: stat.st_dev, ino: stat.st_ino })),
        Err(rustix::io::Errno::NOENT | rustix::io::Errno::SRCH | rustix::io::Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What the thread tells.
#[derive(Clone, Debug)]
pub enum Event {
    /// A second has passed: time to look after what tells nobody when it changes.
    Tick {
        /// Something was mounted or unmounted meanwhile where this process sees it: names of namespaces may have gone.
        mounts: bool,
    },
    /// The cluster file changed: what it says now, or what is wrong with it (`file:line: …`).
    Cluster(Result<Cluster, String>),
    /// Links or addresses of the daemon's namespace changed: the underlay's MTU may be another.
    Network,
    /// Routes or neighbours changed: peers may be reached by other ways. Told only where that is wanted.
    Ways,
}

/// The thread. Ends when dropped.
#[derive(Debug)]
pub struct Watch {
    thread: Option<JoinHandle<()>>,
    stop: Option<std::os::fd::OwnedFd>,
}

impl Watch {
    /// Starts the thread in the current namespace. `ways`: routes and neighbours matter. `cluster`: the cluster file as far as it was seen already (a fresh
    /// [`FileWatch`] tells its present content first). `tell` is called on the thread and should not take long; it says
    /// whether the event was taken.
    ///
    /// # Errors
    /// When the kernel refuses a socket, a pipe or a thread.
    pub fn start(
        cluster: Option<FileWatch>,
        ways: bool,
        tell: impl FnMut(Event) -> bool + Send + 'static,
    ) -> io::Result<Watch> {
        let (stopped, stop) = pipe_with(PipeFlags::CLOEXEC)?;
        let mut monitor = LinkMonitor::new().map_err(io::Error::other)?;
        if ways {
            monitor.hear_neighbours().map_err(io::Error::other)?;
        }
        let mounts = Mounts::open()?;
        let watcher = Watcher { cluster, mounts, monitor, ways, stopped, tell };
        let thread =
            std::thread::Builder::new().name("weft-watch".to_owned()).spawn(move || watcher.run())?;
        Ok(Watch { thread: Some(thread), stop: Some(stop) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Closing our end of the pipe wakes the thread.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct Watcher<F> {
    cluster: Option<FileWatch>,
    mounts: Mounts,
    monitor: LinkMonitor,
    ways: bool,
    stopped: std::os::fd::OwnedFd,
    tell: F,
}

impl<F: FnMut(Event) -> bool> Watcher<F> {
    fn run(mut self) {
        // The file as it is now was not told yet.
        self.look_at_file();
        let mut next_tick = Instant::now() + TICK;
        let (mut settled, mut ways_settled): (Option<Instant>, Option<Instant>) = (None, None);
        let mut mounts = false;
        loop {
            let now = Instant::now();
            if now >= next_tick {
                next_tick = now + TICK;
                self.look_at_file();
                mounts |= self.mounts.have_changed();
                mounts &= !(self.tell)(Event::Tick { mounts });
            }
            if settled.is_some_and(|at| now >= at) {
                settled = None;
                (self.tell)(Event::Network);
            }
            if ways_settled.is_some_and(|at| now >= at) {
                ways_settled = None;
                (self.tell)(Event::Ways);
            }
            let next = [settled, ways_settled].into_iter().flatten().fold(next_tick, Instant::min);
            match self.sleep(next.saturating_duration_since(Instant::now())) {
                Wake::Stop => return,
                Wake::Changes(changes) => {
                    let now = Instant::now();
                    if changes.network {
                        settled = settled.or(Some(now + SETTLE));
                    }
                    if changes.ways && self.ways {
                        ways_settled = ways_settled.or(Some(now + SETTLE_WAYS));
                    }
                }
                Wake::Time => {}
            }
        }
    }

    fn look_at_file(&mut self) {
        if let Some(event) = self.cluster.as_mut().and_then(look_at_file) {
            (self.tell)(event);
        }
    }

    fn sleep(&mut self, time: Duration) -> Wake {
        let Ok(time) = Timespec::try_from(time) else { return Wake::Time };
        let mut fds = [PollFd::new(&self.stopped, PollFlags::IN), PollFd::new(&self.monitor, PollFlags::IN)];
        // Interrupted: the caller looks at the clock again.
        if poll(&mut fds, Some(&time)).is_err() {
            return Wake::Time;
        }
        let (stop, changed) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        if stop {
            return Wake::Stop;
        }
        if changed { Wake::Changes(self.drain()) } else { Wake::Time }
    }

    /// Takes all that is waiting, and says what of it matters.
    fn drain(&mut self) -> Changes {
        let mut changes = Changes::default();
        loop {
            match self.monitor.next_event() {
                Ok(Some(event)) => changes.note(&event),
                Ok(None) => return changes,
                Err(error) => {
                    tracing::warn!(%error, "listening to changes of links");
                    return Changes { network: true, ways: true };
                }
            }
        }
    }
}

/// The table of mounts that this process sees: `proc_pid_mountinfo(5)`, which is ready for POLLPRI once after it has
/// changed.
struct Mounts(std::fs::File);

impl Mounts {
    fn open() -> io::Result<Mounts> {
        std::fs::File::open("/proc/self/mountinfo").map(Mounts)
    }

    /// Since the last call. True if it cannot be known.
    fn have_changed(&self) -> bool {
        let mut fds = [PollFd::new(&self.0, PollFlags::PRI)];
        poll(&mut fds, Some(&Timespec::default())).map_or(true, |ready| ready > 0)
    }
}

enum Wake {
    Stop,
    Changes(Changes),
    Time,
}

/// What changed.
#[derive(Clone, Copy, Default)]
struct Changes {
    /// Links and addresses.
    network: bool,
    /// Routes and neighbours. They change all the time on some nodes and never change an MTU of the underlay by themselves.
    ways: bool,
}

impl Changes {
    fn note(&mut self, event: &link::Event) {
        match event {
            // Pods have the other ends of these, and may set them up and down all day.
            link::Event::LinkChanged(link) if veth::is_host_name(&link.name) => {}
            link::Event::LinkChanged(_)
            | link::Event::LinkRemoved(_)
            | link::Event::AddrChanged(_)
            | link::Event::AddrRemoved(_) => self.network = true,
            link::Event::RouteChanged(_)
            | link::Event::RouteRemoved(_)
            | link::Event::NeighChanged(_)
            | link::Event::NeighRemoved(_) => self.ways = true,
            link::Event::Overrun => *self = Changes { network: true, ways: true },
        }
    }
}

fn look_at_file(file: &mut FileWatch) -> Option<Event> {
    let text = file.poll()?;
    let path = file.path();
    Some(Event::Cluster(match text {
        Ok(text) => Cluster::parse(&text).map_err(|error| error.in_file(path)),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }))
}

#[cfg(test)]
mod tests;
