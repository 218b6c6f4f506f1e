//! From a command line to an exit code.

use std::ffi::OsString;
use std::io::{self, Write};

use weft_api::{ClientError, Transaction};

use crate::cli::Line;
use crate::session::{Exit, Session, UsageError};

/// Runs a whole command line, the program's name first, and prints to `out`; errors go to stderr.
pub(crate) fn run(args: Vec<OsString>, out: &mut impl Write) -> Exit {
    let line = match Line::parse(&args) {
        Ok(line) => line,
        Err(error) => {
            // A closed pipe is no reason to fail: `weft --help | head -1`.
            let _ = error.print();
            return if error.exit_code() == 0 { Exit::Ok } else { Exit::Usage };
        }
    };
    let mut session = Session::new(line.settings.clone());
    let exit = execute(&line, &mut session).unwrap_or_else(|error| {
        complain(&format!("{error:#}"));
        if error.is::<UsageError>() { Exit::Usage } else { Exit::Failed }
    });
    match out.write_all(session.take_output().as_bytes()).and_then(|()| out.flush()) {
        // Whoever read has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => exit,
        Err(error) => {
            complain(&format!("cannot print: {error}"));
            Exit::Failed
        }
        Ok(()) => exit,
    }
}

/// All changes as one transaction, then the verbs in order. The worst exit of the verbs is the line's.
fn execute(line: &Line, session: &mut Session) -> anyhow::Result<Exit> {
    let mut transaction = Transaction::default();
    // For each command of the transaction, the words it comes from.
    let mut sources: Vec<&str> = Vec::new();
    for (verb, words) in &line.verbs {
        verb.verb().plan(&mut transaction.commands)?;
        sources.resize(transaction.commands.len(), words);
    }
    if !transaction.commands.is_empty() {
        let reply = session.client()?.transaction(&transaction).map_err(|error| located(error, &sources))?;
        if session.json() {
            session.print(&reply, |_| String::new());
        }
    }
    let mut exit = Exit::Ok;
    for (verb, _) in &line.verbs {
        exit = exit.max(verb.verb().run(session)?);
    }
    Ok(exit)
}

/// One line on stderr, where a closed pipe is no reason to panic.
fn complain(message: &str) {
    let _ = writeln!(io::stderr(), "weft: {message}");
}

/// Names the command that a refusal is about, where there are several.
fn located(error: ClientError, sources: &[&str]) -> anyhow::Error {
    match &error {
        ClientError::Api(refusal) if sources.len() > 1 => {
            match refusal.command.and_then(|at| sources.get(at)) {
                Some(words) => anyhow::anyhow!("`{words}`: {refusal}; nothing was changed"),
                None => error.into(),
            }
        }
        _ => error.into(),
    }
}

#[cfg(test)]
mod tests;
