//! The arguments: global flags and the list of verbs.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser};

use crate::grammar;
use crate::session::{Format, Settings};
use crate::verb::Verbs;

const ABOUT: &str = "Shows and changes weft, the packet switch of this node";

const EXAMPLES: &str = "\
Examples:
  weft show
  weft add-br br1 gateway=10.1.0.1/24
  weft --may-exist add-br br1 -- add-port br1 web netns=web ip=10.1.0.5/24
  weft -o json stats

Several commands separated by -- are one transaction: all take effect or none. Verbs that only read run after it.
Exit codes: 0 done, 1 refused or failed, 2 wrong command line or `br-exists` says no.";

/// One command with the global flags.
#[derive(Debug, Parser)]
#[command(name = "weft", version, about = ABOUT, after_help = EXAMPLES, disable_help_subcommand = true)]
pub(crate) struct Cli {
    /// Socket of the daemon [env: WEFT_SOCKET]
    #[arg(long, global = true, value_name = "PATH", default_value_os_t = socket())]
    pub(crate) socket: PathBuf,
    /// How to print
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT", default_value = "table")]
    output: Format,
    /// Seconds to wait for the daemon's answer
    #[arg(short, long, global = true, value_name = "SECONDS", default_value = "10",
        value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    #[command(subcommand)]
    pub(crate) verb: Verbs,
}

/// The daemon's socket unless told otherwise. Read here and not by clap, whose usage lines would name the flag as one that
/// must be given.
fn socket() -> PathBuf {
    let told = std::env::var_os("WEFT_SOCKET").filter(|path| !path.is_empty());
    told.map_or_else(|| weft_api::DEFAULT_SOCKET.into(), PathBuf::from)
}

/// A whole command line.
#[derive(Debug)]
pub(crate) struct Line {
    /// The global flags; a later command's win.
    pub(crate) settings: Settings,
    /// The commands, each with its words.
    pub(crate) verbs: Vec<(Verbs, String)>,
}

impl Line {
    /// Parses a command line, the program's name first.
    pub(crate) fn parse(args: &[OsString]) -> Result<Line, clap::Error> {
        let mut lines = grammar::split(args.get(1..).unwrap_or_default());
        if lines.is_empty() {
            lines.push(Vec::new());
        }
        let mut whole: Option<Line> = None;
        for words in lines {
            let text = words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ");
            let matches =
                Cli::command().try_get_matches_from(std::iter::once(OsString::from("weft")).chain(words))?;
            let cli = Cli::from_arg_matches(&matches)?;
            match &mut whole {
                None => whole = Some(cli.into_line(text)),
                Some(line) => line.append(cli, text, &matches),
            }
        }
        // There is at least one command: an empty line is refused by clap with the usage.
        whole.ok_or_else(|| Cli::command().error(clap::error::ErrorKind::MissingSubcommand, "no command"))
    }

    fn append(&mut self, cli: Cli, text: String, matches: &ArgMatches) {
        let given = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
        let Line { settings, verbs } = cli.into_line(text);
        if given("socket") {
            self.settings.socket = settings.socket;
        }
        if given("output") {
            self.settings.format = settings.format;
        }
        if given("timeout") {
            self.settings.timeout = settings.timeout;
        }
        self.verbs.extend(verbs);
    }
}

impl Cli {
    fn into_line(self, text: String) -> Line {
        let settings =
            Settings { socket: self.socket, format: self.output, timeout: Duration::from_secs(self.timeout) };
        Line { settings, verbs: vec![(self.verb, text)] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Line, clap::Error> {
        let words: Vec<OsString> =
            std::iter::once("weft").chain(line.split_whitespace()).map(Into::into).collect();
        Line::parse(&words)
    }

    #[test]
    fn definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_shows_an_example() {
        fn check(command: &clap::Command, path: &str) {
            for sub in command.get_subcommands() {
                let path = format!("{path} {}", sub.get_name()).trim_start().to_owned();
                let help = sub.get_after_help().map(ToString::to_string).unwrap_or_default();
                let example = help.lines().any(|line| line.contains("weft") && line.contains(&path));
                assert!(sub.has_subcommands() || example, "{path}: {help}");
                check(sub, &path);
            }
        }
        check(&Cli::command(), "");
    }

    #[test]
    fn later_global_flags_win_and_defaults_do_not() {
        let line = parse("--socket /a -t 3 add-br br0 -- show -o json").unwrap();
        assert_eq!(line.verbs.len(), 2);
        assert_eq!(line.settings.socket, PathBuf::from("/a"));
        assert_eq!(line.settings.format, Format::Json);
        assert_eq!(line.settings.timeout, Duration::from_secs(3));
        assert_eq!(line.verbs[1].1, "show -o json");
    }

    #[test]
    fn wrong_lines_are_usage_errors() {
        for bad in [
            "",
            "nonsense",
            "add-br",
            "add-br br0 -- del-br",
            "--timeout 0 show",
            "show --may-exist",
            "-o x show",
        ] {
            assert_eq!(parse(bad).unwrap_err().exit_code(), 2, "{bad}");
        }
        assert_eq!(parse("--help").unwrap_err().exit_code(), 0);
    }
}
