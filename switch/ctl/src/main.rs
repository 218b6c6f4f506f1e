//! `weft`: shows and changes the switch. Most verbs are one call of the control API of `weftd`.
//!
//! A command line is cut into commands at `--` ([`grammar`]), each is parsed ([`cli`]), the changes of all of them are
//! sent as one transaction, and the verbs that only read run after it ([`run`]).
#![forbid(unsafe_code)]

/// The arguments: global flags and the list of verbs.
mod cli;
/// The cluster file, written from what Kubernetes says of its nodes.
mod cluster;
/// Cutting a command line at `--`, and flags in the places where ovs-vsctl takes them.
mod grammar;
/// Putting the CNI plugin and its configuration in place.
mod install;
/// `key=value` settings of bridges and ports.
mod keys;
/// Text for people: tables, units.
mod render;
/// From a command line to an exit code.
mod run;
/// What a verb works with: the client and the output.
mod session;
/// A daemon for tests.
#[cfg(test)]
mod testing;
/// The verbs, one file per group.
mod verb;

use std::process::ExitCode;

fn main() -> ExitCode {
    run::run(std::env::args_os().collect(), &mut std::io::stdout().lock()).into()
}
