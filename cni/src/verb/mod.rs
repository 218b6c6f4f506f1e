//! One file per verb (SPEC.md section 2), each `run(&Call)`; and what they share: talking to the daemon.

/// Wire a container in.
pub(crate) mod add;
/// Is it as ADD left it?
pub(crate) mod check;
/// Take a container out.
pub(crate) mod del;
/// Drop what is not listed.
pub(crate) mod gc;
/// Can an ADD be served?
pub(crate) mod status;
/// Which versions are spoken?
pub(crate) mod version;

use std::os::fd::BorrowedFd;
use std::time::Duration;

use weft_api::cni::{Attachment, CniError, Reply, Request, code};
use weft_api::cni_client::{Client, ClientError};

use crate::config::Config;
use crate::env::Env;
use crate::ipam::Delegate;
use crate::version::Version;

/// How long ADD, CHECK and STATUS wait for a daemon that restarts: one failed STATUS turns a node NotReady.
const WAIT_FOR_RESTART: Duration = Duration::from_secs(5);
/// How long a reply may take; below the kubelet's limit of two minutes, after which it kills the plugin.
const REPLY_TIMEOUT: Duration = Duration::from_secs(60);

/// One call, checked.
#[derive(Debug)]
pub(crate) struct Call {
    /// `CNI_*`.
    pub(crate) env: Env,
    /// The network's configuration.
    pub(crate) config: Config,
    /// Its version.
    pub(crate) version: Version,
    /// Its bytes, for the delegated plugin.
    pub(crate) stdin: Vec<u8>,
}

impl Call {
    /// The attachment that the call is about.
    pub(crate) fn attachment(&self) -> Attachment {
        self.env.attachment(self.config.network())
    }

    /// The delegated address plugin, if there is one.
    pub(crate) fn delegate(&self) -> Result<Option<Delegate<'_>>, CniError> {
        let find = |kind| Delegate::find(kind, &self.env.path, &self.stdin);
        self.config.delegated_ipam().map(find).transpose()
    }

    /// Asks the daemon, waiting up to `wait` for it to listen. One that goes away before it replied (a crash) is waited
    /// for as well, and asked once more: every request may be asked twice, because an ADD takes away first what an
    /// earlier one of the same container left.
    fn ask(&self, request: &Request, fds: &[BorrowedFd<'_>], wait: Duration) -> Result<Reply, ClientError> {
        let once = || Client::connect(&self.config.socket(), wait)?.call(request, fds, REPLY_TIMEOUT);
        match once() {
            Err(ClientError::HungUp) => once(),
            result => result,
        }
    }
}

/// A reply that should be [`Reply::Ok`].
fn expect_ok(reply: Reply) -> Result<(), CniError> {
    match reply {
        Reply::Ok => Ok(()),
        Reply::Error(error) => Err(error),
        Reply::Added(_) => Err(CniError::new(code::INTERNAL, "weftd sent the reply of another request")),
    }
}

/// The error of a call that got no reply; `unavailable` is the verb's code for "not now".
fn no_reply(error: &ClientError, unavailable: u32) -> CniError {
    let code = match error {
        ClientError::Unavailable { .. } | ClientError::HungUp | ClientError::Timeout(_) => unavailable,
        ClientError::Io { .. } | ClientError::TooLarge(_) => code::IO,
        ClientError::Decode(_) => code::DECODE,
    };
    let hint = "is weftd running? (systemctl status weftd; weft status)";
    CniError::new(code, error.to_string()).with_details(if code == unavailable { hint } else { "" })
}
