//! weft's CNI plugin: environment and stdin in, one message to `weftd`, JSON out.
//!
//! A process per call, so everything is plain and blocking: no runtime, no threads. The plugin holds no state; what must
//! outlive it is the daemon's (or, while the daemon is down, a queued DEL on disk). Results and errors both go to
//! stdout, because that is where libcni and podman look for them; stderr is for people.
//!
//! The program is `main.rs`, one line; all else is here, so that tests reach it without a process.
#![forbid(unsafe_code)]

/// The network's configuration, as the runtime writes it to stdin.
mod config;
/// What `CNI_*` say, checked.
mod env;
/// The delegated address plugin: running it, reading its result.
mod ipam;
/// The container's namespace as descriptors.
mod netns;
/// DELs left on disk for a daemon that is down.
mod queue;
/// Results and errors in the shape of each version.
mod result;
/// One file per verb.
mod verb;
/// Versions of the specification.
mod version;

use std::io::Write;
use std::process::ExitCode;

use serde_json::Value;
use weft_api::cni::{CniError, code};

use crate::config::Config;
use crate::env::{Args, Env, Verb};
use crate::version::Version;

/// What a verb answers: the text for stdout, empty for none.
type Answer = Result<Option<Value>, CniError>;

/// The program.
pub fn main() -> ExitCode {
    if std::env::var_os("CNI_COMMAND").is_none_or(|command| command.is_empty()) {
        eprintln!("weft-cni {}: CNI plugin of weft, a packet switch in userspace", env!("CARGO_PKG_VERSION"));
        eprintln!("CNI protocol versions supported: {}", Version::list().join(", "));
        return ExitCode::SUCCESS;
    }
    let mut version = None;
    let (text, exit) = match run(&mut version) {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(value)) => (value, ExitCode::SUCCESS),
        Err(error) => (result::error(version.as_deref(), &error), ExitCode::FAILURE),
    };
    let mut stdout = std::io::stdout();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Ok(()) => exit,
        Err(error) => {
            eprintln!("weft-cni: stdout: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Checks in the order of the reference implementation (skel), then does the verb. `version` is set as soon as it is
/// known, because errors carry it too.
fn run(version: &mut Option<String>) -> Answer {
    let env = Env::read()?;
    if env.verb == Verb::Version {
        return Ok(Some(verb::version::run()));
    }
    let call = prepare(env, read_stdin()?, version)?;
    match call.env.verb {
        Verb::Add => verb::add::run(&call).map(Some),
        Verb::Del => verb::del::run(&call).map(|()| None),
        Verb::Check => verb::check::run(&call).map(|()| None),
        Verb::Status => verb::status::run(&call).map(|()| None),
        Verb::Gc => verb::gc::run(&call).map(|()| None),
        Verb::Version => Ok(Some(verb::version::run())),
    }
}

/// Reads a call as far as that needs neither daemon nor namespace: the error that ends it, as it would be printed.
///
/// `variable` gives the value of `CNI_*`, empty where there is none.
///
/// # Errors
/// The JSON that the runtime would find on stdout.
pub fn examine(variable: impl Fn(&str) -> String, stdin: &[u8]) -> Result<(), Value> {
    let mut version = None;
    let look = || -> Result<(), CniError> {
        let call = prepare(Env::of(variable)?, stdin.to_vec(), &mut version)?;
        let (args, config) = (Args::parse(&call.env.args)?, &call.config);
        config.refuse_unsupported()?;
        config.wanted_mac(&args)?;
        config.wanted_ips(&args)?;
        config.port_type()?;
        if let Some(prev) = config.prev_result()? {
            let _ = (prev.port(&call.env.ifname), prev.delegated_ips(), prev.routes());
        }
        if call.env.verb == Verb::Gc {
            let _ = config.valid_attachments();
        }
        let _ = (
            config.mtu(),
            config.delegated_ipam(),
            config.is_default_gateway(),
            call.attachment().queue_file(),
        );
        Ok(())
    };
    look().map_err(|error| result::error(version.as_deref(), &error))
}

fn prepare(env: Env, stdin: Vec<u8>, version: &mut Option<String>) -> Result<verb::Call, CniError> {
    let config = Config::parse(&stdin, env.verb, version)?;
    env.validate()?;
    Ok(verb::Call { version: config.checked_version(env.verb)?, env, config, stdin })
}

fn read_stdin() -> Result<Vec<u8>, CniError> {
    let mut bytes = Vec::new();
    match std::io::Read::read_to_end(&mut std::io::stdin().lock(), &mut bytes) {
        Ok(_) => Ok(bytes),
        Err(error) => Err(CniError::new(code::IO, format!("error reading from stdin: {error}"))),
    }
}
