//! Command line: few flags, parsed by hand, so that this small program stays small.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

const HELP: &str = "\
Starts weftd, holds its descriptors, and starts it again when it dies: for machines and containers without systemd.

Usage: weft-keeper [OPTIONS] [--] PROGRAM [ARGUMENTS]...

Options:
      --watchdog SECONDS  Kill a PROGRAM that shows no life for so long; 0: never [default: 5]
      --dir DIR           Where the notify socket is made [default: /run]
  -h, --help              Print this
  -V, --version           Print the version

Examples:
  weft-keeper weftd --config /etc/weft/weft.toml
  podman run … --entrypoint /usr/local/bin/weft-keeper weft weftd

Signals: SIGTERM, SIGINT and SIGHUP go to PROGRAM; when it ends by itself with status 0, so does the keeper,
and with status 2 (bad usage or configuration) if it was never ready.
SIGUSR1 ends PROGRAM by SIGTERM and starts it again, what is held stays held.";

/// What to run and how.
#[derive(Debug)]
pub(crate) struct Args {
    /// The program and its arguments.
    pub(crate) program: OsString,
    pub(crate) args: Vec<OsString>,
    /// How long it may show no life; `None`: for ever.
    pub(crate) watchdog: Option<Duration>,
    /// Where the notify socket is made.
    pub(crate) dir: PathBuf,
}

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Parsed {
    Run(Args),
    Say(String),
}

pub(crate) fn parse(mut words: impl Iterator<Item = OsString>) -> Result<Parsed, String> {
    let mut watchdog = Some(Duration::from_secs(5));
    let mut dir = PathBuf::from("/run");
    let mut program = None;
    while let Some(word) = words.next() {
        let text = word.to_string_lossy().into_owned();
        let (flag, attached) = match text.split_once('=') {
            Some((flag, value)) if flag.starts_with("--") => (flag.to_owned(), Some(value.to_owned())),
            _ => (text, None),
        };
        let mut value = || match attached.clone() {
            Some(value) => Ok(OsString::from(value)),
            None => words.next().ok_or_else(|| format!("{flag} takes a value")),
        };
        match flag.as_str() {
            "-h" | "--help" => return Ok(Parsed::Say(HELP.to_owned())),
            "-V" | "--version" => {
                return Ok(Parsed::Say(concat!("weft-keeper ", env!("CARGO_PKG_VERSION")).to_owned()));
            }
            "--watchdog" => watchdog = seconds(&value()?)?,
            "--dir" => dir = value()?.into(),
            "--" => {
                program = words.next();
                break;
            }
            other if other.starts_with('-') => return Err(format!("unknown option {other}")),
            _ => {
                program = Some(word);
                break;
            }
        }
    }
    let program = program.ok_or("what is to be run?")?;
    Ok(Parsed::Run(Args { program, args: words.collect(), watchdog, dir }))
}

fn seconds(value: &OsString) -> Result<Option<Duration>, String> {
    let seconds = value.to_str().and_then(|text| text.parse::<f64>().ok());
    match seconds.map(Duration::try_from_secs_f64) {
        Some(Ok(time)) => Ok((!time.is_zero()).then_some(time)),
        _ => Err(format!("--watchdog is {}; expected seconds", value.to_string_lossy())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Args, String> {
        match parse(line.split(' ').filter(|word| !word.is_empty()).map(OsString::from))? {
            Parsed::Run(args) => Ok(args),
            Parsed::Say(text) => Err(text),
        }
    }

    #[test]
    fn flags_end_where_the_program_starts() {
        let args = parsed("--watchdog 1.5 --dir=/tmp weftd --watchdog 3 -- x").unwrap();
        assert_eq!((args.program, args.watchdog), ("weftd".into(), Some(Duration::from_millis(1500))));
        assert_eq!(args.dir, PathBuf::from("/tmp"));
        assert_eq!(args.args, ["--watchdog", "3", "--", "x"].map(OsString::from));
        assert_eq!(parsed("--watchdog 0 -- -odd").unwrap().watchdog, None);
    }

    #[test]
    fn bad_lines_are_refused() {
        for line in ["", "--", "--watchdog", "--watchdog x weftd", "--watchdog -1 weftd", "--what weftd"] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
