//! ADD: addresses (delegated or the daemon's), then one request to the daemon, which is a transaction there. What the
//! delegated plugin gave is given back if the daemon fails; what the daemon did is undone by it when this process dies.

use serde_json::Value;
use weft_api::cni::{Added, Attach, CniError, DelegatedIp, Ipam, Reply, Request, code};
use weft_api::port::PodRoute;

use crate::config::Config;
use crate::env::Args;
use crate::ipam::Delegate;
use crate::netns::Netns;
use crate::queue;
use crate::result::{self, Dns, Prev};
use crate::verb::{Call, WAIT_FOR_RESTART, no_reply};

pub(crate) fn run(call: &Call) -> Result<Value, CniError> {
    let args = Args::parse(&call.env.args)?;
    call.config.refuse_unsupported()?;
    refuse_wired(call)?;
    let netns = Netns::open(&call.env.netns)?;
    if netns.is_own() && !call.env.netns_override {
        let msg = "plugin's netns and netns from CNI_NETNS should not be the same";
        return Err(CniError::new(code::INVALID_NETNS, msg));
    }
    let (mac, wanted) = (call.config.wanted_mac(&args)?, call.config.wanted_ips(&args)?);
    let delegate = call.delegate()?;
    let (ipam, ipam_dns) = match &delegate {
        None => (Ipam::BuiltIn { wanted }, Dns::default()),
        Some(delegate) => from_delegate(&call.config, delegate)?,
    };
    let attach = Attach {
        attachment: call.attachment(),
        netns: call.env.netns.clone(),
        bridge: call.config.bridge.clone(),
        mac,
        mtu: call.config.mtu(),
        kind: call.config.port_type()?,
        ipam,
        pod_namespace: args.pod_namespace,
        pod_name: args.pod_name,
    };
    match wire(call, attach, &netns) {
        Ok(added) => {
            let dns = call.config.dns(ipam_dns);
            Ok(result::added(call.version, &call.env.ifname, &call.env.netns, &added, &dns))
        }
        Err(error) => {
            undo(delegate.as_ref());
            Err(error)
        }
    }
}

/// The plugin makes an interface; in a chain it comes first.
fn refuse_wired(call: &Call) -> Result<(), CniError> {
    let ifname = &call.env.ifname;
    match call.config.prev_result()? {
        Some(prev) if prev.port(ifname).is_some() => {
            let msg =
                format!("prevResult has {ifname} already: weft-cni must be the first plugin of the list");
            Err(CniError::new(code::INVALID_CONFIG, msg))
        }
        _ => Ok(()),
    }
}

fn wire(call: &Call, attach: Attach, netns: &Netns) -> Result<Added, CniError> {
    let attachment = attach.attachment.clone();
    let request = Request::Add(Box::new(attach));
    let reply = call.ask(&request, &netns.fds(), WAIT_FOR_RESTART);
    match reply.map_err(|error| no_reply(&error, code::TRY_AGAIN))? {
        Reply::Added(added) => {
            // A DEL of an earlier life of this container must not be replayed on this one.
            if let Err(error) = queue::remove(&call.config.queue_dir(), &attachment) {
                eprintln!("weft-cni: removing the queued DEL of {}: {error}", attachment.container_id);
            }
            Ok(added)
        }
        Reply::Error(error) => Err(error),
        Reply::Ok => Err(CniError::new(code::INTERNAL, "weftd sent the reply of another request")),
    }
}

fn from_delegate(config: &Config, delegate: &Delegate<'_>) -> Result<(Ipam, Dns), CniError> {
    let prev = delegate.add().inspect_err(|_| undo(Some(delegate)))?;
    let ips = prev.delegated_ips();
    if ips.is_empty() {
        undo(Some(delegate));
        return Err(CniError::new(code::INVALID_CONFIG, "the IPAM plugin returned no address"));
    }
    let routes = routes(config, &prev, &ips);
    Ok((Ipam::Delegated { ips, routes }, prev.dns))
}

/// The address plugin's routes. One without next hop goes by the gateway of its family (SPEC.md, "Success": the plugin
/// chooses); `isDefaultGateway` asks for a default route by each gateway.
fn routes(config: &Config, prev: &Prev, ips: &[DelegatedIp]) -> Vec<PodRoute> {
    let gateway =
        |v6: bool| ips.iter().filter(|ip| ip.address.addr().is_ipv6() == v6).find_map(|ip| ip.gateway);
    let mut routes = prev.routes();
    for route in &mut routes {
        route.gw = route.gw.or_else(|| gateway(route.dst.addr().is_ipv6()));
    }
    if config.is_default_gateway() {
        for gw in [gateway(false), gateway(true)].into_iter().flatten() {
            let has =
                routes.iter().any(|r| r.dst.prefix_len() == 0 && r.dst.addr().is_ipv6() == gw.is_ipv6());
            let any = if gw.is_ipv6() {
                ipnet::Ipv6Net::default().into()
            } else {
                ipnet::Ipv4Net::default().into()
            };
            if !has {
                routes.push(PodRoute { dst: any, gw: Some(gw), mtu: None });
            }
        }
    }
    routes
}

/// Gives addresses back. Its own failure is only told: the error that led here is the one to report.
fn undo(delegate: Option<&Delegate<'_>>) {
    if let Some(Err(error)) = delegate.map(|delegate| delegate.call("DEL")) {
        eprintln!("weft-cni: giving addresses back: {error}");
    }
}
