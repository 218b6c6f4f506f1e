//! The daemon `weftd`: reads the configuration, brings everything up, serves the sockets, and ends cleanly.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use weft_switch::control::config::Args;
use weft_switch::control::daemon;

/// As of a bad command line: a new start does not mend it, which `weft-keeper` minds.
const BAD_CONFIGURATION: u8 = 2;
/// A start that fails takes at least so long under systemd, which makes another one at once (`RestartSec=0`) for ever.
const FAILED_START: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let begun = Instant::now();
    // Before anything opens descriptors or starts threads.
    let inherited = weft_sys::listen::inherit().unwrap_or_else(|error| {
        eprintln!("weftd: descriptors of the service manager are not used: {error}");
        Vec::new()
    });
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            // What was asked for, or what is wrong.
            let _ = error.print();
            if !error.use_stderr() {
                return ExitCode::SUCCESS;
            }
            pause(begun);
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    // The others are somebody's who waits for what they say.
    let is_start = !(args.check || args.purge || args.take_over);
    let config = match args.load() {
        Ok(config) => config,
        Err(error) => {
            eprintln!("weftd: {error}");
            if is_start {
                pause(begun);
            }
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    let result = if args.check {
        daemon::check(&config).map(|summary| println!("{summary}"))
    } else if args.purge {
        daemon::logging(&config).and_then(|_| daemon::purge(&config, args.keep_ports))
    } else {
        daemon::logging(&config).and_then(|log| daemon::run(&args, config, &log, inherited))
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weftd: {error:#}");
            if is_start {
                pause(begun);
            }
            ExitCode::FAILURE
        }
    }
}

/// Waits after a start that failed soon, if systemd is what starts it again (`SYSTEMD_EXEC_PID`, `systemd.exec(5)`).
fn pause(begun: Instant) {
    let started = std::env::var("SYSTEMD_EXEC_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    if started {
        std::thread::sleep(FAILED_START.saturating_sub(begun.elapsed()));
    }
}
