//! The plugin as a process, with a stand-in for the daemon: shapes, errors and undoing. Needs no privilege.

/// A stand-in for the daemon and a way to run the plugin.
mod bench;
/// Results, errors and refusals, per version.
mod shapes;
/// What is given back, left on disk or waited for.
mod undo;
