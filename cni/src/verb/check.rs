//! CHECK: is the container as ADD left it? The delegated plugin says for the addresses, the daemon for the rest.

use weft_api::cni::{CniError, Request, code};

use crate::netns::Netns;
use crate::verb::{Call, WAIT_FOR_RESTART, expect_ok, no_reply};

pub(crate) fn run(call: &Call) -> Result<(), CniError> {
    let Some(prev) = call.config.prev_result()? else {
        return Err(CniError::new(code::INVALID_CONFIG, "required prevResult missing"));
    };
    let ifname = &call.env.ifname;
    let Some(port) = prev.port(ifname) else {
        return Err(CniError::new(
            code::INVALID_CONFIG,
            format!("prevResult has no interface {ifname} in a container"),
        ));
    };
    if let Some(delegate) = call.delegate()? {
        delegate.call("CHECK")?;
    }
    let netns = Netns::open(&call.env.netns)?;
    let request =
        Request::Check { attachment: call.attachment(), ips: port.ips, mac: port.mac, routes: prev.routes() };
    let reply = call.ask(&request, &netns.fds(), WAIT_FOR_RESTART);
    expect_ok(reply.map_err(|error| no_reply(&error, code::TRY_AGAIN))?)
}
