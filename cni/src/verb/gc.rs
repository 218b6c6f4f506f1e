//! GC: drop every attachment of the network that is not listed; without a list, what is dead. Goes on after an error;
//! the first one is reported.

use weft_api::cni::{CniError, Request, code};

use crate::verb::{Call, WAIT_FOR_RESTART, expect_ok, no_reply};

pub(crate) fn run(call: &Call) -> Result<(), CniError> {
    let request =
        Request::Gc { network: call.config.network().to_owned(), valid: call.config.valid_attachments() };
    let reply = call.ask(&request, &[], WAIT_FOR_RESTART);
    let ports = reply.map_err(|error| no_reply(&error, code::TRY_AGAIN)).and_then(expect_ok);
    let addresses = match call.delegate() {
        Ok(Some(delegate)) => delegate.call_if_known("GC"),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    ports.and(addresses)
}
