//! `weft-keeper`: the part of a service manager that `weftd` needs, for machines and containers without systemd.
//!
//! It speaks systemd's protocol (`sd_notify(3)`, `sd_listen_fds(3)`), so `weftd` cannot tell it from systemd: it holds
//! the descriptors that `weftd` gives it (`FDSTORE=1`), starts `weftd` again at once when it dies, hands the
//! descriptors to the new process, and kills a process that no longer says `WATCHDOG=1`. As long as the descriptors
//! are open somewhere, devices keep their carrier and their queued packets, and sockets theirs.
//!
//! One thread, no allocation that grows with traffic, nothing that could fail later than the start: it must outlive
//! what it keeps. If it is killed itself, `weftd` goes on, and its next start attaches to the devices by name.
#![forbid(unsafe_code)]

/// Command line.
mod args;
/// The loop.
mod keeper;
/// The directory of the notify socket.
mod socket_dir;
/// The held descriptors.
mod store;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args = match args::parse(std::env::args_os().skip(1)) {
        Ok(args::Parsed::Run(args)) => args,
        Ok(args::Parsed::Say(text)) => {
            println!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(message) => {
            eprintln!("weft-keeper: {message}; see --help");
            return ExitCode::from(2);
        }
    };
    match keeper::run(&args) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("weft-keeper: {error}");
            ExitCode::FAILURE
        }
    }
}
