//! The loop: signals, messages of the kept process, deadlines.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, WaitStatus, getrlimit, kill_process, set_child_subreaper,
    setrlimit, test_kill_process, waitpid,
};
use weft_sys::notify::{Message, Receiver, notify};
use weft_sys::process::{Signals, Spawn, environment_without, find, parent_of};

use crate::args::Args;
use crate::socket_dir::{SocketDir, remove_abandoned};
use crate::store::{MOST, Refused, Store};

/// A process that lives shorter than this has died young.
const YOUNG: Duration = Duration::from_secs(1);
/// So many deaths young in a row are followed by a new start at once.
const AT_ONCE: u32 = 5;
/// The first pause after that; it doubles.
const PAUSE: Duration = Duration::from_millis(50);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long a start may take until READY=1.
const START: Duration = Duration::from_secs(60);
/// How long a process that was told to end by SIGABRT may take.
const ABORT: Duration = Duration::from_secs(1);
/// Descriptors besides those held, in the keeper and in a child.
const SPARE: u64 = 64;
/// Exit statuses that no new start mends: bad usage or configuration, a program that cannot be executed.
const HOPELESS: [i32; 3] = [2, 126, 127];

/// Signals that are passed on.
const PASSED: [(i32, Signal); 3] =
    [(libc::SIGTERM, Signal::TERM), (libc::SIGINT, Signal::INT), (libc::SIGHUP, Signal::HUP)];

/// Keeps the program running until it ends by itself. The status to end with.
pub(crate) fn run(args: &Args) -> io::Result<u8> {
    let mut signals: Vec<i32> = PASSED.iter().map(|(number, _)| *number).collect();
    signals.extend([libc::SIGUSR1, libc::SIGCHLD]);
    let signals = Signals::take(&signals)?;
    // Descendants that lose their parent become ours: a process that took over from its parent can be waited for.
    set_child_subreaper(rustix::process::getpid().into())?;
    let most = raise_descriptor_limit();
    remove_abandoned(&args.dir);
    let socket = SocketDir::make(&args.dir)?;
    let receiver = Receiver::bind(&socket.path())?;
    let mut keeper = Keeper {
        program: find(&args.program)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", args.program.display())))?,
        args,
        socket: socket.path(),
        store: Store::new(most),
        main: None,
        ready_once: false,
        asked_to_end: false,
        asked_to_restart: false,
        young_deaths: 0,
        restart_at: None,
    };
    keeper.start()?;
    loop {
        if let Some(code) = keeper.wait(&signals, &receiver) {
            return Ok(code);
        }
    }
}

struct Keeper<'a> {
    args: &'a Args,
    program: PathBuf,
    socket: PathBuf,
    store: Store,
    main: Option<Main>,
    ready_once: bool,
    asked_to_end: bool,
    /// However it ends now, another is started at once.
    asked_to_restart: bool,
    young_deaths: u32,
    /// After a pause.
    restart_at: Option<Instant>,
}

/// The kept process.
struct Main {
    pid: Pid,
    since: Instant,
    ready: bool,
    /// When it must have shown life; `None`: never.
    deadline: Option<Instant>,
    /// It was told to abort, and is killed at the deadline.
    aborted: bool,
}

impl Keeper<'_> {
    fn start(&mut self) -> io::Result<()> {
        let mut env = environment_without(&[
            "NOTIFY_SOCKET",
            "LISTEN_PID",
            "LISTEN_FDS",
            "LISTEN_FDNAMES",
            "WATCHDOG_USEC",
            "WATCHDOG_PID",
        ]);
        let mut set = |name: &str, value: OsString| env.push((name.into(), value));
        set("NOTIFY_SOCKET", self.socket.clone().into());
        let mut pid_vars = Vec::new();
        if self.store.len() > 0 {
            set("LISTEN_FDS", self.store.len().to_string().into());
            set("LISTEN_FDNAMES", self.store.names().into());
            pid_vars.push("LISTEN_PID");
        }
        if let Some(period) = self.args.watchdog {
            set("WATCHDOG_USEC", period.as_micros().to_string().into());
            pid_vars.push("WATCHDOG_PID");
        }
        let fds = self.store.descriptors();
        let spawn = Spawn {
            program: &self.program,
            args: &self.args.args,
            env: &env,
            pid_vars: &pid_vars,
            fds: &fds,
        };
        let pid = spawn.start()?;
        let now = Instant::now();
        let deadline = self.args.watchdog.map(|_| now + START);
        self.main = Some(Main { pid, since: now, ready: false, deadline, aborted: false });
        self.restart_at = None;
        Ok(())
    }

    /// Sleeps until something happens, and deals with it. The status to end with, if it is time to.
    ///
    /// No failure ends the keeper: all that it holds would be gone.
    fn wait(&mut self, signals: &Signals, receiver: &Receiver) -> Option<u8> {
        let wake = self.main.as_ref().map_or(self.restart_at, |main| main.deadline);
        let timeout = wake.map(|at| at.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|time| Timespec::try_from(time).ok());
        let mut fds = [PollFd::new(signals, PollFlags::IN), PollFd::new(receiver, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => trouble("poll", &error.into()),
        }
        // What a process said before it died counts, so its messages come first.
        self.hear_all(receiver);
        let mut child = false;
        while let Some(signal) = signals.next() {
            child |= signal == libc::SIGCHLD;
            self.pass_on(signal);
        }
        if child {
            self.hear_all(receiver);
            if let Some(code) = self.reap() {
                return Some(code);
            }
        }
        if self.main.is_none() && self.asked_to_end {
            return Some(0);
        }
        self.look_at_the_clock();
        None
    }

    fn hear_all(&mut self, receiver: &Receiver) {
        loop {
            match receiver.receive() {
                Ok(Some(message)) => self.hear(message),
                Ok(None) => return,
                Err(error) => return trouble("the notify socket", &error),
            }
        }
    }

    /// A start that fails, for want of memory or processes, counts as a death.
    fn start_again(&mut self) {
        let Err(error) = self.start() else { return };
        self.young_deaths = self.young_deaths.saturating_add(1);
        let pause = pause(self.young_deaths).max(PAUSE);
        self.restart_at = Some(Instant::now() + pause);
        say(&format!("no new process: {error}; tried again in {} ms", pause.as_millis()));
    }

    fn look_at_the_clock(&mut self) {
        let now = Instant::now();
        if self.main.is_none() && self.restart_at.is_none_or(|at| now >= at) {
            return self.start_again();
        }
        let Some(main) = &mut self.main else { return };
        if main.deadline.is_none_or(|at| now < at) {
            return;
        }
        let pid = main.pid.as_raw_pid();
        if main.aborted {
            let _ = kill_process(main.pid, Signal::KILL);
            main.deadline = Some(now + ABORT);
            return;
        }
        say(&format!("process {pid} shows no life; it is aborted"));
        // A stopped process gets no signal before it goes on.
        let _ = kill_process(main.pid, Signal::ABORT);
        let _ = kill_process(main.pid, Signal::CONT);
        main.aborted = true;
        main.deadline = Some(now + ABORT);
    }

    fn pass_on(&mut self, number: i32) {
        if number == libc::SIGUSR1 {
            if let Some(main) = &self.main {
                self.asked_to_restart = true;
                let _ = kill_process(main.pid, Signal::TERM);
            }
            return;
        }
        let Some((_, signal)) = PASSED.iter().find(|(passed, _)| *passed == number) else { return };
        self.asked_to_end |= number != libc::SIGHUP;
        if let Some(main) = &self.main {
            let _ = kill_process(main.pid, *signal);
        }
    }

    fn hear(&mut self, message: Message) {
        let Some(main) = &mut self.main else { return };
        let own = rustix::process::geteuid().as_raw();
        if message.sender.pid != main.pid.as_raw_pid() || ![0, own].contains(&message.sender.uid) {
            return;
        }
        if message.get("WATCHDOG") == Some("1") && main.ready && !main.aborted {
            main.deadline = self.args.watchdog.map(|period| Instant::now() + period);
        }
        if message.get("READY") == Some("1") {
            main.ready = true;
            self.ready_once = true;
            if !main.aborted {
                main.deadline = self.args.watchdog.map(|period| Instant::now() + period);
            }
        }
        if message.get("WATCHDOG") == Some("trigger") {
            main.deadline = Some(Instant::now());
        }
        if let Some(pid) = message.get("MAINPID").and_then(|pid| pid.parse().ok()) {
            follow(main, pid);
            if !main.aborted && main.deadline.is_some() {
                main.deadline = self.args.watchdog.map(|period| Instant::now() + period);
            }
            // The signal went to the process before.
            if self.asked_to_end {
                let _ = kill_process(main.pid, Signal::TERM);
            }
        }
        pass_up(&message);
        self.keep(message);
    }

    /// Descriptors that came with the message; others close with it, which is what a barrier waits for.
    fn keep(&mut self, message: Message) {
        let name = message.get("FDNAME").unwrap_or("stored").to_owned();
        if message.get("FDSTOREREMOVE") == Some("1") {
            self.store.release(&name);
        } else if message.get("FDSTORE") == Some("1") {
            for fd in message.fds {
                match self.store.hold(&name, fd) {
                    Ok(()) => {}
                    Err(Refused::Name) => say(&format!("{name:?} is no name for a descriptor; not held")),
                    Err(Refused::Full) => {
                        say(&format!("{} descriptors are held; {name} is not", self.store.len()));
                    }
                }
            }
        }
    }

    /// Waits for all that have ended. The status to end with, if the kept one ended well.
    fn reap(&mut self) -> Option<u8> {
        let mut ended = None;
        loop {
            match waitpid(None, WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if self.main.as_ref().is_some_and(|main| main.pid == pid) => {
                    ended = Some(Some(status));
                }
                Ok(Some(_)) | Err(rustix::io::Errno::INTR) => {}
                Ok(None) | Err(_) => break,
            }
        }
        // One that took over and died while it was still another's child.
        if ended.is_none() && self.main.as_ref().is_some_and(|main| test_kill_process(main.pid).is_err()) {
            ended = Some(None);
        }
        self.after_the_end(ended?)
    }

    fn after_the_end(&mut self, status: Option<WaitStatus>) -> Option<u8> {
        let main = self.main.take()?;
        if std::mem::take(&mut self.asked_to_restart) && !self.asked_to_end {
            self.restart_at = Some(Instant::now());
            say(&format!(
                "process {} was asked to end; started again, {} descriptors are held",
                main.pid.as_raw_pid(),
                self.store.len()
            ));
            return None;
        }
        let code = status.and_then(|status| status.exit_status());
        if code == Some(0) || (self.asked_to_end && code.is_some()) {
            return Some(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(0));
        }
        if self.asked_to_end {
            return Some(1);
        }
        if let Some(code) = code.filter(|code| HOPELESS.contains(code) && !self.ready_once) {
            say(&format!(
                "process {} ended with status {code} before it was ready: not started again, that would not mend it",
                main.pid.as_raw_pid()
            ));
            return u8::try_from(code).ok();
        }
        let how = match status.and_then(|status| status.terminating_signal()) {
            Some(signal) => format!("was killed by signal {signal}"),
            None => code.map_or("is gone".to_owned(), |code| format!("ended with status {code}")),
        };
        self.young_deaths =
            if main.since.elapsed() < YOUNG { self.young_deaths.saturating_add(1) } else { 0 };
        let pause = pause(self.young_deaths);
        self.restart_at = Some(Instant::now() + pause);
        say(&format!(
            "process {} {how}; started again {}, {} descriptors are held",
            main.pid.as_raw_pid(),
            if pause.is_zero() { "at once".to_owned() } else { format!("in {} ms", pause.as_millis()) },
            self.store.len()
        ));
        None
    }
}

/// A new process takes the old one's place, if it is a descendant of ours.
fn follow(main: &mut Main, pid: i32) {
    let me = rustix::process::getpid().as_raw_pid();
    let mut ancestor = pid;
    for _ in 0..16 {
        match parent_of(ancestor) {
            Some(parent) if parent == me => {
                if let Some(pid) = Pid::from_raw(pid).filter(|pid| *pid != main.pid) {
                    main.pid = pid;
                    // What was done to the old one was not done to this one.
                    main.aborted = false;
                    main.since = Instant::now();
                }
                return;
            }
            Some(parent) => ancestor = parent,
            None => break,
        }
    }
    say(&format!("process {pid} is no descendant of this one; not followed"));
}

/// What a manager above wants to know. It knows this process as the main one, and that stays.
fn pass_up(message: &Message) {
    let lines = message.text.lines();
    let told = |line: &&str| {
        ["READY=", "STATUS=", "STOPPING=", "RELOADING="].iter().any(|key| line.starts_with(key))
    };
    let text: Vec<&str> = lines.filter(told).collect();
    if !text.is_empty() {
        let _ = notify(&text.join("\n"));
    }
}

/// How long to wait before the next start.
fn pause(young_deaths: u32) -> Duration {
    match young_deaths.checked_sub(AT_ONCE + 1) {
        None => Duration::ZERO,
        Some(more) => PAUSE.saturating_mul(1 << more.min(10)).min(LONGEST_PAUSE),
    }
}

/// How many descriptors can be held. A child's copies lie beside those held until it executes its program.
fn raise_descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let wanted = (2 * MOST as u64 + SPARE).max(limit.current.unwrap_or(u64::MAX));
    let wanted = limit.maximum.map_or(wanted, |most| wanted.min(most));
    let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum });
    let got = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(got.saturating_sub(SPARE) / 2).unwrap_or(MOST).min(MOST)
}

/// Says what failed, and gives it time to mend.
fn trouble(what: &str, error: &io::Error) {
    say(&format!("{what}: {error}"));
    std::thread::sleep(PAUSE);
}

/// Nobody may read it any more: no reason to end.
fn say(what: &str) {
    let _ = writeln!(io::stderr(), "weft-keeper: {what}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeper(args: &Args) -> Keeper<'_> {
        Keeper {
            program: "/bin/true".into(),
            args,
            socket: "/nowhere".into(),
            store: Store::new(MOST),
            main: None,
            ready_once: true,
            asked_to_end: false,
            asked_to_restart: false,
            young_deaths: 0,
            restart_at: None,
        }
    }

    #[test]
    fn a_start_that_fails_is_tried_again() {
        // No process can have a NUL byte in an argument.
        let bad = vec!["\0".into()];
        let args = Args { program: "true".into(), args: bad, watchdog: None, dir: "/tmp".into() };
        let mut keeper = keeper(&args);
        for deaths in 1..=AT_ONCE + 2 {
            keeper.restart_at = None;
            keeper.look_at_the_clock();
            assert!(keeper.main.is_none() && keeper.restart_at.is_some_and(|at| at > Instant::now()));
            assert_eq!(keeper.young_deaths, deaths);
        }
    }

    #[test]
    fn the_next_process_is_not_taken_for_the_aborted_one() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let long_ago = Instant::now();
        std::thread::sleep(Duration::from_millis(5));
        let me = rustix::process::getpid();
        let mut main = Main { pid: me, since: long_ago, ready: true, deadline: None, aborted: true };
        follow(&mut main, 1);
        assert!(main.pid == me && main.aborted);
        follow(&mut main, i32::try_from(child.id()).unwrap());
        assert!(main.pid != me && !main.aborted && main.since > long_ago);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_first_restarts_wait_for_nothing() {
        assert_eq!((pause(0), pause(AT_ONCE)), (Duration::ZERO, Duration::ZERO));
        assert_eq!(pause(AT_ONCE + 1), PAUSE);
        assert_eq!(pause(AT_ONCE + 2), 2 * PAUSE);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }
}
