//! What a verb works with: the client and the output.

use std::fmt::Display;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;
use weft_api::{BlockingClient, Client, ClientError, UpgradeReply, UpgradeRequest};

/// How long an upgrade may take.
const UPGRADE: Duration = Duration::from_secs(50);

/// How to print: for people, or the API's own JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    // No doc comments here: clap would print them into the help of every verb.
    #[default]
    Table,
    Json,
}

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Exit {
    /// 0: done.
    Ok,
    /// 1: the daemon or the system refused.
    Failed,
    /// 2: the command line is wrong, or `br-exists` says no.
    Usage,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// A command line that cannot be understood; says what is expected. Ends with exit code 2.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct UsageError(pub(crate) String);

impl UsageError {
    pub(crate) fn new(message: impl Display) -> Self {
        UsageError(message.to_string())
    }
}

/// Where to find the daemon, and how to print.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) socket: PathBuf,
    pub(crate) format: Format,
    pub(crate) timeout: Duration,
}

/// What a verb works with.
pub(crate) struct Session {
    pub(crate) settings: Settings,
    client: Option<BlockingClient>,
    text: String,
}

impl Session {
    pub(crate) fn new(settings: Settings) -> Self {
        Session { settings, client: None, text: String::new() }
    }

    /// The client, made when first wanted: some verbs need no daemon.
    pub(crate) fn client(&mut self) -> Result<&BlockingClient, ClientError> {
        if self.client.is_none() {
            let client = Client::new(&self.settings.socket).with_timeout(self.settings.timeout);
            self.client = Some(BlockingClient::new(client)?);
        }
        self.client.as_ref().ok_or_else(|| ClientError::Runtime(std::io::Error::other("no client")))
    }

    /// Lets another process take over; that may take longer than other calls.
    pub(crate) fn upgrade(&mut self, request: &UpgradeRequest) -> Result<UpgradeReply, ClientError> {
        let client = Client::new(&self.settings.socket).with_timeout(self.settings.timeout.max(UPGRADE));
        BlockingClient::new(client)?.upgrade(request)
    }

    /// Asks the daemon for one of [`weft_api::paths`].
    pub(crate) fn get<T: serde::de::DeserializeOwned>(&mut self, path: &str) -> Result<T, ClientError> {
        self.client()?.get(path)
    }

    /// True if JSON is wanted.
    pub(crate) fn json(&self) -> bool {
        self.settings.format == Format::Json
    }

    /// Prints `value` as JSON, or what `text` makes of it, as wanted.
    pub(crate) fn print<T: Serialize>(&mut self, value: &T, text: impl FnOnce(&T) -> String) {
        if self.json() {
            // Types of the API have string keys only: they always serialise.
            let json = serde_json::to_string_pretty(value).unwrap_or_default();
            self.line(&json);
        } else {
            self.text.push_str(&text(value));
        }
    }

    /// Prints one line.
    pub(crate) fn line(&mut self, line: &str) {
        self.text.push_str(line);
        self.text.push('\n');
    }

    /// Takes what was printed so far.
    pub(crate) fn take_output(&mut self) -> String {
        std::mem::take(&mut self.text)
    }
}
