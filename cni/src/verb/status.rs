//! STATUS: can an ADD be served now? containerd asks every five seconds, so it is one round trip.

use weft_api::cni::{CniError, Request, code};

use crate::verb::{Call, WAIT_FOR_RESTART, expect_ok, no_reply};

pub(crate) fn run(call: &Call) -> Result<(), CniError> {
    let request = Request::Status {
        network: call.config.network().to_owned(),
        delegated_ipam: call.config.delegated_ipam().is_some(),
    };
    let reply = call.ask(&request, &[], WAIT_FOR_RESTART);
    expect_ok(reply.map_err(|error| no_reply(&error, code::UNAVAILABLE))?)?;
    match call.delegate()? {
        Some(delegate) => delegate.call_if_known("STATUS"),
        None => Ok(()),
    }
}
