//! Handing the switch over to another `weftd` without a packet lost: a planned upgrade (`weft upgrade`), or a second
//! daemon that was started beside this one with `--take-over`.
//!
//! The new process connects to `handover.sock` in the run directory and says which protocol and which format of state
//! it speaks. The old one freezes control (changes wait), lets go of the store files, and sends every descriptor by
//! name (devices, sockets, lock, listening sockets) and what its workers have learned. The new one builds everything
//! and says that it is ready; only then the old one's workers stop, having drained what they had read, and the new
//! one's start: what comes meanwhile waits in the devices and sockets, which both have open. Then the old one tells
//! the service manager who the main process is, and leaves without touching anything.
//!
//! Until "ready" any failure leaves the old process as it was; a new one that hangs is killed, because it has the files
//! open. After that, the service manager's new start is the way out, as after a crash.

/// What was counted.
mod counts;
/// What the two say to each other.
mod protocol;
/// The new process's part.
mod take;

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, getpid, pidfd_open, pidfd_send_signal};
use tokio::sync::watch;
use weft_api::report::{FdbEntry, NeighbourEntry};
use weft_api::{ApiError, Code, UpgradeReply, UpgradeRequest};
use weft_sys::notify::{barrier, notify};
use weft_sys::seqpacket::{Connection, Listener};

use super::engine::{Handle, Job};
use super::report::Reporter;
use super::serve::Source;
use crate::path::Dataplane;
use protocol::{Message, PROTOCOL, STATE, receive, send};

pub use protocol::HandOverError;
pub use take::{Taken, take};

/// How long the new process may take to build everything.
const BUILDING: Duration = Duration::from_secs(30);
/// How long any other step may take.
const STEP: Duration = Duration::from_secs(5);
/// How long a process that was killed may take to end.
const ENDING: Duration = Duration::from_secs(1);
/// How long the API's last answers may take.
const LAST_ANSWERS: Duration = Duration::from_millis(300);
/// Descriptors in one message.
const AT_ONCE: usize = 60;
/// Learned entries in one message.
const ENTRIES: usize = 2000;

/// The socket that a new daemon connects to.
pub fn socket(run_dir: &Path) -> PathBuf {
    run_dir.join("handover.sock")
}

/// Asks the engine to let go, and then to leave or to go on.
#[derive(Debug)]
pub struct Freeze {
    /// Told the descriptors of everything that is open.
    pub frozen: mpsc::Sender<Vec<(String, OwnedFd)>>,
    /// True: another process has taken over. False, or hung up: go on.
    pub leave: mpsc::Receiver<bool>,
}

/// Open or closed: whether sockets are to accept clients.
#[derive(Clone, Debug)]
pub struct Gate(watch::Receiver<bool>);

impl Gate {
    /// One that is always open.
    pub fn open() -> Self {
        let (sender, receiver) = watch::channel(true);
        // Whoever waits for a change waits for ever.
        std::mem::forget(sender);
        Gate(receiver)
    }

    /// Is it open?
    pub fn is_open(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is open.
    pub async fn opened(&mut self) {
        let _ = self.0.wait_for(|open| *open).await;
    }

    /// Waits until it is closed.
    pub async fn closed(&mut self) {
        if self.0.wait_for(|open| !*open).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The old process's part.
pub struct Giver {
    handle: Handle,
    dataplane: Arc<Dataplane>,
    reporter: Reporter,
    /// Lock and listening sockets.
    own: Vec<(String, OwnedFd)>,
    gate: watch::Sender<bool>,
    /// The process that has taken over.
    left: watch::Sender<Option<(i32, String)>>,
    upgrading: Mutex<()>,
    /// How long the new process may take to build everything.
    building: Duration,
}

impl Giver {
    /// Gives away what the engine behind `handle` and the workers have, and `own`.
    pub fn new(
        handle: Handle,
        dataplane: Arc<Dataplane>,
        reporter: Reporter,
        own: Vec<(String, OwnedFd)>,
    ) -> Self {
        let (gate, left) = (watch::Sender::new(true), watch::Sender::new(None));
        Giver { handle, dataplane, reporter, own, gate, left, upgrading: Mutex::new(()), building: BUILDING }
    }

    /// Whether this process's sockets are to accept clients.
    pub fn gate(&self) -> Gate {
        Gate(self.gate.subscribe())
    }

    /// True from the moment that control is frozen, until nothing comes of it.
    pub fn is_giving(&self) -> bool {
        !*self.gate.borrow()
    }

    /// Waits until another process has taken over and this one's clients have had their answers.
    pub async fn has_left(&self) {
        let mut left = self.left.subscribe();
        if left.wait_for(Option::is_some).await.is_err() {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(LAST_ANSWERS).await;
    }

    /// Serves new daemons, one after the other, on a thread of its own.
    ///
    /// # Errors
    /// When the socket cannot be bound or the thread not made.
    pub fn serve(self: Arc<Self>, run_dir: &Path) -> io::Result<()> {
        let path = socket(run_dir);
        // The lock of the directory is ours, so nobody else can be listening, whatever is left there.
        let _ = std::fs::remove_file(&path);
        let listener = Listener::bind(&path, 0o600, None)?;
        std::thread::Builder::new().name("weft-handover".to_owned()).spawn(move || {
            loop {
                if protocol::wait(listener.as_fd(), None).is_err() {
                    return;
                }
                let Ok(connection) = listener.accept() else { continue };
                match self.give(&connection) {
                    Ok(left) => {
                        tracing::info!(pid = left.0, version = left.1, "another weftd has taken over");
                        self.left.send_replace(Some(left));
                        return;
                    }
                    Err(error) => tracing::info!(%error, "nothing was handed over; going on"),
                }
            }
        })?;
        Ok(())
    }

    /// Starts another binary (or this one's file again) with this process's arguments, and hands over to it. Blocks.
    ///
    /// # Errors
    /// Why it did not take over; this process goes on then.
    pub fn upgrade(&self, request: &UpgradeRequest) -> Result<UpgradeReply, ApiError> {
        let Ok(_one) = self.upgrading.try_lock() else {
            return Err(ApiError::new(Code::Conflict, "an upgrade is running already"));
        };
        let internal = |what: String| ApiError::new(Code::Internal, what);
        let binary = request.binary.clone().map_or_else(own_binary, Ok);
        let binary = binary.map_err(|error| internal(format!("this program's own file: {error}")))?;
        let args: Vec<OsString> = std::env::args_os().skip(1).filter(|arg| arg != TAKE_OVER).collect();
        let mut command = Command::new(&binary);
        command.args(args).arg(TAKE_OVER).stdin(Stdio::null()).env_remove("WATCHDOG_PID");
        let mut child = command
            .spawn()
            .map_err(|error| ApiError::new(Code::Invalid, format!("{}: {error}", binary.display())))?;
        let deadline = Instant::now() + BUILDING + STEP;
        loop {
            if let Some((pid, version)) = self.left.borrow().clone() {
                return Ok(UpgradeReply { pid: pid.unsigned_abs(), version });
            }
            match child.try_wait() {
                Ok(None) if Instant::now() < deadline => {}
                Ok(None) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(internal("the new weftd did not take over in time; this one goes on".into()));
                }
                Ok(Some(status)) => {
                    let what = "the new weftd ended before it had taken over; see the log; this one goes on";
                    return Err(internal(format!("{}: {status}: {what}", binary.display())));
                }
                Err(error) => return Err(internal(error.to_string())),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Hands over to whoever has connected; its process id and version.
    fn give(&self, to: &Connection) -> Result<(i32, String), HandOverError> {
        let peer = to.peer_cred().map_err(HandOverError::Io)?;
        if peer.uid != 0 {
            return Err(HandOverError::Stranger(peer.uid));
        }
        // Before it speaks: so this is the process that does.
        let process = Peer::of(peer.pid);
        let (Message::Hello { protocol, state, version, manager: theirs, counters }, _) = receive(to, STEP)?
        else {
            return Err(HandOverError::Unexpected);
        };
        if protocol != PROTOCOL {
            let reason = format!("weftd {version} speaks hand-over protocol {protocol}, this one {PROTOCOL}");
            let _ = send(to, &Message::Refused { reason: reason.clone() }, &[]);
            return Err(HandOverError::Refused(reason));
        }
        if manager().is_some() && theirs.as_deref() == Some("") {
            let reason =
                "a service manager looks after this weftd and none after that one; use `weft upgrade`";
            let _ = send(to, &Message::Refused { reason: reason.to_owned() }, &[]);
            return Err(HandOverError::Refused(reason.to_owned()));
        }
        let state_fits = state == STATE;
        if !state_fits {
            tracing::info!(
                "weftd {version} reads state of format {state}, this one's is {STATE}: it starts by the stored state"
            );
        }
        let (frozen, descriptors) = mpsc::channel();
        let (leave, decision) = mpsc::channel();
        self.gate.send_replace(false);
        let given = self
            .handle
            .send(Job::HandOver(Freeze { frozen, leave: decision }))
            .map_err(|_| HandOverError::Busy);
        let given = given.and_then(|()| descriptors.recv_timeout(STEP).map_err(|_| HandOverError::Busy));
        let ready = given.and_then(|descriptors| self.until_ready(to, &descriptors, state_fits));
        if let Err(error) = ready {
            if matches!(error, HandOverError::Late | HandOverError::Unexpected) {
                process.end();
            }
            // Dropping the other end would do, too.
            let _ = leave.send(false);
            self.gate.send_replace(true);
            return Err(error);
        }
        self.dataplane.stop();
        let _ = leave.send(true);
        if let Err(error) = self.finish(to, peer.pid, counters) {
            tracing::error!(%error, "the new weftd failed after this one's workers had stopped; ending");
            std::process::exit(1);
        }
        Ok((peer.pid, version))
    }

    fn until_ready(
        &self,
        to: &Connection,
        descriptors: &[(String, OwnedFd)],
        state_fits: bool,
    ) -> Result<(), HandOverError> {
        let all: Vec<&(String, OwnedFd)> = descriptors.iter().chain(&self.own).collect();
        for some in all.chunks(AT_ONCE) {
            let names = some.iter().map(|(name, _)| name.clone()).collect();
            let fds: Vec<_> = some.iter().map(|(_, fd)| fd.as_fd()).collect();
            send(to, &Message::Descriptors { names }, &fds)?;
        }
        if state_fits {
            let stations: Vec<FdbEntry> = self.reporter.fdb().into_iter().filter(|e| !e.is_static).collect();
            for some in stations.chunks(ENTRIES) {
                send(to, &Message::Stations(some.to_vec()), &[])?;
            }
            let neighbours = self.reporter.neighbours().into_iter().filter(|entry| entry.owner.is_none());
            for some in neighbours.collect::<Vec<NeighbourEntry>>().chunks(ENTRIES) {
                send(to, &Message::Neighbours(some.to_vec()), &[])?;
            }
        }
        send(to, &Message::Go { manager: manager() }, &[])?;
        match receive(to, self.building)? {
            (Message::Ready, _) => Ok(()),
            _ => Err(HandOverError::Unexpected),
        }
    }

    fn finish(&self, to: &Connection, pid: i32, counters: bool) -> Result<(), HandOverError> {
        send(to, &Message::Stopped, &[])?;
        let (Message::Forwarding, _) = receive(to, STEP)? else { return Err(HandOverError::Unexpected) };
        // Frames flow already, and nobody can ask the new one before it has been told.
        if counters {
            for some in counts::counted(&self.handle.view(), &self.dataplane) {
                send(to, &Message::Counters(Box::new(some)), &[])?;
            }
        }
        let _ = notify(&format!("MAINPID={pid}"));
        let _ = barrier(LAST_ANSWERS);
        send(to, &Message::Left, &[])
    }
}

/// The process that wants to take over. One that hangs has the store's files open.
struct Peer(Option<OwnedFd>);

impl Peer {
    /// Nobody if it cannot be seen from here.
    fn of(pid: i32) -> Peer {
        let pid = Pid::from_raw(pid).filter(|pid| *pid != getpid());
        Peer(pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()))
    }

    /// Kills it, and waits until its files are closed.
    fn end(&self) {
        let Some(process) = &self.0 else { return };
        tracing::warn!("the other weftd hangs before it has taken over; it is killed");
        let _ = pidfd_send_signal(process, Signal::KILL);
        let _ = protocol::wait(process.as_fd(), Some(ENDING));
    }
}

/// The flag of a daemon that takes over.
const TAKE_OVER: &str = "--take-over";

/// Who holds descriptors for this process.
pub fn manager() -> Option<String> {
    std::env::var("NOTIFY_SOCKET").ok().filter(|socket| !socket.is_empty())
}

/// The file that this process was started from, or what has taken its place since.
fn own_binary() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    let replaced = path.to_str().and_then(|path| path.strip_suffix(" (deleted)")).map(PathBuf::from);
    Ok(replaced.unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_hangs_is_ended_and_this_one_is_not() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        Peer::of(i32::try_from(std::process::id()).unwrap()).end();
        Peer::of(0).end();
        assert!(child.try_wait().unwrap().is_none());
        Peer::of(i32::try_from(child.id()).unwrap()).end();
        assert!(!child.wait().unwrap().success());
    }
}
