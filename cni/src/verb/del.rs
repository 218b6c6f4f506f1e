//! DEL: always succeeds, because an error here leaves a pod terminating for ever. Without a daemon it is left on disk,
//! and only if that fails too it is refused, for the runtime to try again.

use std::time::Duration;

use weft_api::cni::{CniError, Reply, Request, code};
use weft_api::cni_client::ClientError;

use crate::netns::Netns;
use crate::queue;
use crate::verb::{Call, no_reply};

/// How long DEL waits for a daemon before it leaves the work on disk.
const WAIT: Duration = Duration::from_secs(1);

pub(crate) fn run(call: &Call) -> Result<(), CniError> {
    // The port goes before its address: nobody else may get the address while the port is there.
    let done = unwire(call);
    match call.delegate() {
        Ok(Some(delegate)) => {
            if let Err(error) = delegate.call("DEL") {
                eprintln!("weft-cni: the addresses of {} may be left over: {error}", call.env.container_id);
            }
        }
        Ok(None) => {}
        Err(error) => {
            eprintln!("weft-cni: the addresses of {} are left over: {error}", call.env.container_id);
        }
    }
    done
}

fn unwire(call: &Call) -> Result<(), CniError> {
    let attachment = call.attachment();
    let directory = call.config.queue_dir();
    let failure = match ask(call, WAIT) {
        Ok(Reply::Error(error)) => error,
        Ok(_) => return forget(call),
        Err(error) => no_reply(&error, code::TRY_AGAIN),
    };
    if let Err(error) = queue::put(&directory, &attachment) {
        let details = format!("and the DEL cannot be left in {}: {error}", directory.display());
        return Err(failure.with_details(details));
    }
    // A daemon that came up since then has read the directory already.
    match ask(call, Duration::ZERO) {
        Ok(Reply::Ok) => forget(call),
        _ => {
            eprintln!(
                "weft-cni: {failure}; the DEL of {} waits in {}",
                attachment.container_id,
                directory.display()
            );
            Ok(())
        }
    }
}

/// Once done, a DEL left on disk by an earlier attempt is void.
fn forget(call: &Call) -> Result<(), CniError> {
    if let Err(error) = queue::remove(&call.config.queue_dir(), &call.attachment()) {
        eprintln!("weft-cni: removing the queued DEL of {}: {error}", call.env.container_id);
    }
    Ok(())
}

fn ask(call: &Call, wait: Duration) -> Result<Reply, ClientError> {
    let request = Request::Del { attachment: call.attachment() };
    // The namespace is often gone by now; the plugin's own is never a container's.
    let netns = Some(&call.env.netns).filter(|path| !path.is_empty()).and_then(|path| Netns::open(path).ok());
    let netns = netns.filter(|netns| call.env.netns_override || !netns.is_own());
    match &netns {
        Some(netns) => call.ask(&request, &netns.fds(), wait),
        None => call.ask(&request, &[], wait),
    }
}
