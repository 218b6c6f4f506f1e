//! The only writer: a request becomes desired state, a plan, a stored record, effects, a snapshot, a publication.
//!
//! In the order a change meets them: [`serve`] or the plugin's socket takes the request, [`engine`] lets
//! [`transaction`] or another edit change a draft of [`state`], [`plan`] tells what differs, [`store`] keeps it, the
//! effects make it so, [`publish`] builds the snapshot.

/// One daemon per network namespace.
pub mod alone;
/// The static cluster file.
pub mod cluster;
/// The plugin's socket: server and verbs.
pub mod cni;
/// Configuration file, variables, flags.
pub mod config;
/// The process around the engine.
pub mod daemon;
/// What follows from configuration and cluster file.
pub mod derive;
/// What changes the kernel: devices, addresses, routes, firewall. Each has its undo.
pub mod effects;
/// The engine thread and the handle that others use.
pub mod engine;
/// Another process takes everything over.
pub mod handover;
/// Descriptors that outlive the process.
pub mod holder;
/// Addresses of pods.
pub mod ipam;
/// Open devices, sockets, the host's network.
pub mod live;
/// What names may look like.
pub mod names;
/// What differs between two states.
pub mod plan;
/// What the daemon keeps of root's capabilities.
pub mod privilege;
/// Snapshots.
pub mod publish;
/// The sign of life for the service manager.
pub mod pulse;
/// What the API's readers are told.
pub mod report;
/// CPUs of workers.
pub mod seats;
/// The control API.
pub mod serve;
/// Desired state.
pub mod state;
/// What is kept over a restart.
pub mod store;
/// Commands applied to a draft of the state.
pub mod transaction;
/// What happens outside and must be noticed.
pub mod watch;

#[cfg(test)]
mod testing;
