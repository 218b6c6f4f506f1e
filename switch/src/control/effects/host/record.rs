//! What the host's sysctls were before, kept in a file so that a later run can put them back.
//!
//! A value is written down before it is changed, and only the first old value counts. The record holds for one boot:
//! afterwards the kernel's own defaults are back and there is nothing to restore.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use weft_sys::machine::boot_id;
use weft_sys::sysctl::{self, Key};

/// A sysctl that was changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SysctlChange {
    /// Its name, with slashes.
    pub key: String,
    /// What it was.
    pub old: String,
    /// What it was set to.
    pub new: String,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct File {
    boot: String,
    sysctls: Vec<SysctlChange>,
}

/// The record.
#[derive(Debug)]
pub(super) struct Record {
    path: PathBuf,
    file: File,
}

impl Record {
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let boot = boot_id()?;
        let file = match fs::read(&path) {
            // Pods must not wait for what only a purge needs.
            Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_else(|error| {
                tracing::warn!(file = %path.display(), %error, "not a record of sysctls; they stay as they are");
                File::default()
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => File::default(),
            Err(error) => return Err(error),
        };
        let file = if file.boot == boot { file } else { File { boot, sysctls: Vec::new() } };
        Ok(Record { path, file })
    }

    pub(super) fn changes(&self) -> &[SysctlChange] {
        &self.file.sysctls
    }

    /// Switches forwarding of a family on for the whole host.
    ///
    /// The kernel couples things to that switch: it sets every interface's own `forwarding`, for IPv4 also
    /// `accept_redirects` (`inet_forward_change`, `addrconf_fixup_forwarding`), and with IPv6 interfaces stop listening
    /// to router advertisements unless `accept_ra` is 2. So those are recorded, and `accept_ra` goes first.
    pub(super) fn forwarding(&mut self, family: &str, own: &str) -> io::Result<()> {
        let switch = Key::interface(family, "all", "forwarding")?;
        let was_on = sysctl::get(&switch)? != "0";
        let interfaces = interfaces(family)?;
        let mut changes = Vec::new();
        if family == "ipv6" {
            for name in
                interfaces.iter().filter(|name| !["all", "default", "lo", own].contains(&name.as_str()))
            {
                let key = Key::interface(family, name, "accept_ra")?;
                // An interface may go at any moment.
                if sysctl::get(&key).is_ok_and(|value| value == "1") {
                    changes.push((key, "2"));
                }
            }
        }
        if was_on {
            return self.change(&changes);
        }
        let coupled = interfaces
            .iter()
            .filter(|name| *name != "all" && *name != own)
            .map(|name| (name.as_str(), "forwarding"));
        let redirects = (family == "ipv4").then_some(("all", "accept_redirects"));
        let mut after = Vec::new();
        for (interface, name) in coupled.chain(redirects) {
            let key = Key::interface(family, interface, name)?;
            let Ok(value) = sysctl::get(&key) else { continue };
            // What switching off will leave there; only another value needs restoring by name.
            let left = if name == "forwarding" { "0" } else { "1" };
            if value != left {
                after.push((key, value));
            }
        }
        changes.push((switch, "1"));
        self.change(&changes)?;
        // The kernel has changed these with the switch.
        let mut recorded = false;
        for (key, old) in after {
            let new = sysctl::get(&key).unwrap_or_else(|_| old.clone());
            recorded |= self.note(&key, old, new);
        }
        if recorded { self.save() } else { Ok(()) }
    }

    /// Puts everything back, in the order in which it was changed, and deletes the file. A value that somebody else has
    /// changed since is left alone.
    pub(super) fn restore(&mut self) -> io::Result<()> {
        let mut result = Ok(());
        // Values first, in one look: restoring the switch changes the others.
        let present: Vec<_> = self
            .file
            .sysctls
            .iter()
            .map(|change| Key::parse(&change.key).and_then(|key| sysctl::get(&key)))
            .collect();
        // Switches before what is coupled to them; `accept_ra` after, or IPv6 forwarding would still be on.
        let is_switch = |change: &SysctlChange| change.key.ends_with("/conf/all/forwarding");
        for first in [true, false] {
            for (change, present) in self.file.sysctls.iter().zip(&present) {
                if is_switch(change) != first || !present.as_ref().is_ok_and(|value| *value == change.new) {
                    continue;
                }
                match Key::parse(&change.key).and_then(|key| sysctl::set(&key, &change.old)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => result = result.and(Err(error)),
                    _ => {}
                }
            }
        }
        self.file.sysctls.clear();
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => result.and(Err(error)),
            _ => result,
        }
    }

    fn change(&mut self, changes: &[(Key, &str)]) -> io::Result<()> {
        let mut recorded = false;
        let mut todo = Vec::new();
        for (key, new) in changes {
            let old = match sysctl::get(key) {
                // An interface may go at any moment.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                old => old?,
            };
            if old != *new {
                recorded |= self.note(key, old, (*new).to_owned());
                todo.push((key, *new));
            }
        }
        if recorded {
            self.save()?;
        }
        todo.into_iter().try_for_each(|(key, new)| match sysctl::set(key, new) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            set => set,
        })
    }

    /// True if it was not known yet.
    fn note(&mut self, key: &Key, old: String, new: String) -> bool {
        let key = key.to_string();
        if self.file.sysctls.iter().any(|change| change.key == key) {
            return false;
        }
        self.file.sysctls.push(SysctlChange { key, old, new });
        true
    }

    fn save(&self) -> io::Result<()> {
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        if let Some(directory) = directory {
            fs::create_dir_all(directory)?;
        }
        let temporary = self.path.with_extension("tmp");
        let mut file = fs::File::create(&temporary)?;
        file.write_all(&serde_json::to_vec(&self.file)?)?;
        file.sync_all()?;
        fs::rename(&temporary, &self.path)
    }
}

/// Names of the interfaces that have settings of a family, `all` and `default` included.
fn interfaces(family: &str) -> io::Result<BTreeSet<String>> {
    let directory = format!("/proc/sys/net/{family}/conf");
    fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}
