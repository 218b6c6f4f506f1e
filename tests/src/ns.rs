//! Network namespaces and commands in them.

use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

/// A named network namespace; removed when dropped.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes one whose name starts with `wt-` and is used by no other test.
    pub fn new(hint: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // Relaxed: only the number's uniqueness counts.
        let name = format!("wt-{}-{}-{hint}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        run("ip", &["netns", "add", &name])?;
        let ns = Namespace { name };
        ns.sh("ip link set lo up")?;
        Ok(ns)
    }

    /// Its name below `/run/netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its path.
    pub fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// A command that runs in it.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]).args(args).stdin(Stdio::null());
        command
    }

    /// Runs a command in it; its standard output.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<String> {
        output(self.command(program, args))
    }

    /// Waits until it has no interface of this name: the switch answers before the kernel is done with a device.
    ///
    /// # Errors
    /// It still has one after five seconds.
    pub fn loses(&self, interface: &str) -> Result<()> {
        crate::eventually(5, || {
            crate::ensure!(self.sh(&format!("ip link show {interface}")).is_err(), "{interface} is there");
            Ok(())
        })
    }

    /// Runs a shell line in it; its standard output.
    pub fn sh(&self, line: &str) -> Result<String> {
        self.run("sh", &["-ec", line])
    }

    /// Starts a command in it, in the background; killed when dropped.
    pub fn spawn(&self, program: &str, args: &[&str]) -> Result<Background> {
        let mut command = self.command(program, args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(Background(Some(command.spawn().with_context(|| format!("starting {program}"))?)))
    }

    /// Deletes it now, as a runtime does.
    pub fn delete(self) -> Result<()> {
        run("ip", &["netns", "del", &self.name]).map(drop)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Only for tests that failed or forgot: a namespace deleted already is no error.
        let _ = Command::new("ip").args(["netns", "del", &self.name]).stderr(Stdio::null()).status();
    }
}

/// A process in the background; killed when dropped.
#[derive(Debug)]
pub struct Background(Option<Child>);

impl Background {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.as_ref().expect("there until finished").id()
    }

    /// True while it has not ended.
    pub fn runs(&mut self) -> Result<bool> {
        Ok(self.0.as_mut().context("finished")?.try_wait()?.is_none())
    }

    /// Waits for its end; standard output and error, and whether it succeeded.
    pub fn finish(mut self) -> Result<(String, String, bool)> {
        let output = self.0.take().expect("finished once").wait_with_output()?;
        Ok((text(&output.stdout), text(&output.stderr), output.status.success()))
    }

    /// Sends SIGINT and waits; standard output.
    pub fn interrupt(self) -> Result<String> {
        signal(self.pid(), rustix::process::Signal::INT)?;
        Ok(self.finish()?.0)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Sends a signal to a process.
pub fn signal(pid: u32, signal: rustix::process::Signal) -> Result<()> {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid)?).context("pid 0")?;
    Ok(rustix::process::kill_process(pid, signal)?)
}

/// Runs a command in the tests' own namespace; its standard output.
pub fn run(program: &str, args: &[&str]) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    output(command)
}

/// Runs a command; its standard output, or an error with all it said.
pub fn output(mut command: Command) -> Result<String> {
    let output = command.output().with_context(|| format!("starting {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}\n{}{}", output.status, text(&output.stdout), text(&output.stderr));
    }
    Ok(text(&output.stdout))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
