//! What the daemon keeps of root's capabilities. Why each: `docs/decisions/0014-what-the-daemon-may-do.md`.

use std::io;

use rustix::process::{Resource, getrlimit};
use weft_sys::privilege::{self, CapabilitySet};

/// Without these nothing works.
const NEEDED: CapabilitySet = CapabilitySet::NET_ADMIN.union(CapabilitySet::SYS_ADMIN);

/// Without these something may not work, and what: a container may lack them.
const USEFUL: [(CapabilitySet, &str); 4] = [
    (CapabilitySet::NET_RAW, "iptables of the legacy kind cannot be used"),
    (CapabilitySet::SYS_PTRACE, "namespaces of processes (`netns=PID`) cannot be entered"),
    (CapabilitySet::DAC_OVERRIDE, "files and namespaces that belong to other users cannot be opened"),
    (CapabilitySet::CHOWN, "the sockets cannot be given to a group"),
];

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum PrivilegeError {
    /// Something is missing.
    #[error(
        "this process lacks {0}; start weftd as root, and in a container with these capabilities (`--cap-add`, \
         `securityContext.capabilities.add`)"
    )]
    Missing(String),
    /// The kernel refuses.
    #[error("dropping capabilities: {0}")]
    Io(#[from] io::Error),
}

/// Drops every capability but those that the daemon and its helpers (nft, iptables, the next version of it) need. To be
/// called before there is a second thread. What was missing from the start is logged with what it is for.
///
/// # Errors
/// When what nothing works without is missing.
pub fn drop_all_but_needed() -> Result<(), PrivilegeError> {
    let has = privilege::effective()?;
    let missing = NEEDED - has;
    if !missing.is_empty() {
        return Err(PrivilegeError::Missing(names(missing)));
    }
    let mut keep = NEEDED;
    for (capability, without) in USEFUL {
        keep |= capability;
        if !has.contains(capability) {
            tracing::warn!("{} is missing: {without}", names(capability));
        }
    }
    // Where the memory of AF_XDP ports is bounded, and the limit could not be raised.
    if getrlimit(Resource::Memlock).current.is_some() {
        keep |= has & CapabilitySet::IPC_LOCK;
    }
    privilege::keep_only(keep)?;
    Ok(())
}

fn names(capabilities: CapabilitySet) -> String {
    let names = capabilities.iter_names().map(|(name, _)| format!("CAP_{name}"));
    names.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named() {
        let told = std::thread::spawn(|| {
            privilege::keep_only(CapabilitySet::NET_ADMIN).unwrap();
            drop_all_but_needed()
        });
        let Err(PrivilegeError::Missing(names)) = told.join().unwrap() else { panic!("it is enough?") };
        assert!(names.ends_with("CAP_SYS_ADMIN"), "{names}");
    }
}
