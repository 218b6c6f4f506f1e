//! `completions`.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Verb;
use crate::cli::Cli;
use crate::session::{Exit, Session, UsageError};

/// Print the shell's completions for this command
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  weft completions bash > /etc/bash_completion.d/weft")]
pub(crate) struct Completions {
    /// bash, zsh or fish
    #[arg(value_name = "SHELL", value_parser = shell)]
    shell: Shell,
}

impl Verb for Completions {
    fn run(&self, session: &mut Session) -> anyhow::Result<Exit> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "weft", &mut script);
        session.line(String::from_utf8_lossy(&script).trim_end());
        Ok(Exit::Ok)
    }
}

fn shell(name: &str) -> Result<Shell, UsageError> {
    match name {
        "bash" => Ok(Shell::Bash),
        "zsh" => Ok(Shell::Zsh),
        "fish" => Ok(Shell::Fish),
        _ => Err(UsageError::new("expected bash, zsh or fish")),
    }
}
