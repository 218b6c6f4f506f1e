//! The verbs. ADD, DEL and GC are edits of the engine; CHECK and STATUS only look.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use weft_api::cni::{
    Added, Attach, Attachment, CniError, ContainerInterface, DelegatedIp, Ipam, Reply, Request, code,
};
use weft_api::{ApiError, Code, Owner, PortSpec};
use weft_sys::netns::Netns;
use weft_sys::pathid::Dir;

use super::check;
use crate::control::effects::port::{DeviceSpec, pod_mtu};
use crate::control::engine::{Draft, Handle, HangUp, PodNetns, View, unix_now};
use crate::control::ipam::{self, IpamError};
use crate::control::plan;
use crate::control::state::{NetnsRecord, PortRecord};
use crate::control::transaction::check_port;

/// CNI error code of CHECK for a port whose link was deleted (codes from 100 on are a plugin's own).
const LOST: u32 = 100;

/// The descriptors that came with a request.
#[derive(Clone, Debug)]
pub(super) struct Pod {
    /// The namespace.
    pub(super) netns: Arc<Netns>,
    /// The directory that holds its name.
    pub(super) dir: Arc<Dir>,
}

/// Why a verb failed.
#[derive(Debug)]
pub(super) enum VerbError {
    /// What this side says.
    Cni(CniError),
    /// What the engine says.
    Api(ApiError),
    /// What the allocator says.
    Ipam(IpamError),
}

impl From<CniError> for VerbError {
    fn from(error: CniError) -> Self {
        VerbError::Cni(error)
    }
}

impl From<ApiError> for VerbError {
    fn from(error: ApiError) -> Self {
        VerbError::Api(error)
    }
}

impl From<IpamError> for VerbError {
    fn from(error: IpamError) -> Self {
        VerbError::Ipam(error)
    }
}

impl From<VerbError> for CniError {
    fn from(error: VerbError) -> Self {
        match error {
            VerbError::Cni(error) => error,
            VerbError::Api(error) => CniError::new(code_of(error.code), error.message),
            VerbError::Ipam(error) => {
                let code = match &error {
                    IpamError::Exhausted { .. } | IpamError::InUse { .. } => code::TRY_AGAIN,
                    IpamError::NoPool
                    | IpamError::Outside { .. }
                    | IpamError::Reserved { .. }
                    | IpamError::Twice(_) => code::INVALID_CONFIG,
                };
                CniError::new(code, error.to_string())
            }
        }
    }
}

const fn code_of(code: Code) -> u32 {
    match code {
        Code::Unavailable | Code::Exhausted => code::TRY_AGAIN,
        Code::Invalid | Code::NotFound | Code::Conflict | Code::Owned | Code::Forbidden => {
            code::INVALID_CONFIG
        }
        Code::Internal => code::INTERNAL,
    }
}

/// Does what a request asks.
pub(super) async fn run(handle: &Handle, request: Request, pod: Option<Pod>) -> Reply {
    let done = match request {
        Request::Add(attach) => match pod {
            Some(pod) => add(handle, *attach, pod).await.map(Reply::Added),
            None => Err(CniError::new(code::INVALID_NETNS, "ADD needs a namespace").into()),
        },
        Request::Del { attachment } => del(handle, attachment).await.map(|()| Reply::Ok),
        Request::Check { attachment, ips, mac, routes } => match pod {
            Some(pod) => {
                check(handle, attachment, check::Expected { ips, mac, routes }, pod).await.map(|()| Reply::Ok)
            }
            None => Err(CniError::new(code::INVALID_NETNS, "CHECK needs a namespace").into()),
        },
        Request::Status { delegated_ipam, .. } => status(&handle.view(), delegated_ipam).map(|()| Reply::Ok),
        Request::Gc { network, valid } => gc(handle, network, valid).await.map(|()| Reply::Ok),
    };
    done.unwrap_or_else(|error| Reply::Error(error.into()))
}

/// What an earlier life of the same container left is taken away first, in an edit of its own, so that the engine never
/// takes the new device for the old one.
async fn add(handle: &Handle, attach: Attach, pod: Pod) -> Result<Added, VerbError> {
    if handle.view().state.port_of(&attach.attachment).is_some() {
        tracing::info!(
            container = attach.attachment.container_id,
            "an earlier ADD of the same container is cleaned up"
        );
        del(handle, attach.attachment.clone()).await?;
    }
    let id = pod.netns.id().map_err(|error| CniError::new(code::INVALID_NETNS, error.to_string()))?;
    let record = NetnsRecord { path: attach.netns.clone(), dev: id.dev, ino: id.ino };
    let delegated = match &attach.ipam {
        Ipam::Delegated { ips, .. } => ips.clone(),
        Ipam::BuiltIn { .. } => Vec::new(),
    };
    let netns = PodNetns { netns: pod.netns, dir: Some(pod.dir), record };
    let attempt = || {
        let (attach, netns) = (attach.clone(), netns.clone());
        handle.edit("cni add", HangUp::RollBack, move |draft: &mut Draft| wire(draft, attach, netns))
    };
    let (port, device) = match attempt().await {
        // The call of a plugin that was killed was still under way when this one came; runtimes make one at a time.
        Err(VerbError::Cni(error)) if error.code == code::TRY_AGAIN => {
            del(handle, attach.attachment.clone()).await?;
            attempt().await?.0
        }
        result => result?.0,
    };
    Ok(added(&port, &device, &delegated))
}

/// Succeeds whatever is missing.
pub(super) async fn del(handle: &Handle, attachment: Attachment) -> Result<(), VerbError> {
    // Even when the view shows none: an ADD of a killed client may be under way, and edits keep their order.
    let edit = move |draft: &mut Draft| -> Result<(), VerbError> {
        remove(draft, |port| port.attachment.as_ref() == Some(&attachment));
        Ok(())
    };
    handle.edit("cni del", HangUp::Keep, edit).await.map(|_| ())
}

/// Without a list only lost ports go: their link is deleted, so no packet can miss them. Ports whose namespace ended go
/// by themselves.
async fn gc(
    handle: &Handle,
    network: String,
    valid: Option<Vec<ContainerInterface>>,
) -> Result<(), VerbError> {
    let valid: Option<BTreeSet<ContainerInterface>> = valid.map(|list| list.into_iter().collect());
    let edit = move |draft: &mut Draft| -> Result<(), VerbError> {
        let gone = remove(draft, |port| {
            port.attachment.as_ref().is_some_and(|attachment| {
                let key = || ContainerInterface {
                    container_id: attachment.container_id.clone(),
                    ifname: attachment.ifname.clone(),
                };
                let stale = match &valid {
                    Some(valid) => !valid.contains(&key()),
                    None => port.lost.is_some(),
                };
                attachment.network == network && stale
            })
        });
        if !gone.is_empty() {
            tracing::info!(ports = ?gone, "removed by GC");
        }
        Ok(())
    };
    handle.edit("cni gc", HangUp::Keep, edit).await.map(|_| ())
}

async fn check(
    handle: &Handle,
    attachment: Attachment,
    expected: check::Expected,
    pod: Pod,
) -> Result<(), VerbError> {
    let view = handle.view();
    let Some(port) = view.state.port_of(&attachment).cloned() else {
        let message = format!(
            "container {} has no port for {} in the switch",
            attachment.container_id, attachment.ifname
        );
        return Err(CniError::new(code::UNKNOWN_CONTAINER, message).into());
    };
    if let Some(why) = &port.lost {
        return Err(CniError::new(LOST, format!("port {} is lost: {why}", port.spec.name)).into());
    }
    let looked = tokio::task::spawn_blocking(move || check::look(&port, &expected, &pod.netns));
    let found = looked.await.map_err(|error| CniError::new(code::INTERNAL, error.to_string()))?;
    found.map_err(|message| CniError::new(code::INTERNAL, message).into())
}

fn status(view: &View, delegated_ipam: bool) -> Result<(), VerbError> {
    let unavailable = |message: String| Err(CniError::new(code::UNAVAILABLE, message).into());
    if !view.ready {
        return unavailable("weftd is still bringing its ports back".to_owned());
    }
    let node = &view.state.node;
    if !view.state.bridges.contains_key(&node.bridge) {
        return unavailable(format!(
            "there is no bridge `{}`; set `bridge` in weft.toml, or add it by `weft add-br`",
            node.bridge
        ));
    }
    if delegated_ipam {
        return Ok(());
    }
    match ipam::available(&view.state, unix_now()) {
        // Free again within seconds; a node must not turn NotReady for that.
        Err(IpamError::Exhausted { held: 1.., .. }) | Ok(()) => Ok(()),
        Err(error) => unavailable(error.to_string()),
    }
}

/// Puts the port into the draft; with the device that it will have.
fn wire(
    draft: &mut Draft,
    attach: Attach,
    netns: PodNetns,
) -> Result<(Arc<PortRecord>, DeviceSpec), VerbError> {
    let Attach { attachment, bridge, mac, mtu, kind, ipam, pod_namespace, pod_name, .. } = attach;
    if !kind.is_pods() {
        let message = format!("portType `{kind}`; expected tap or afxdp");
        return Err(CniError::new(code::INVALID_CONFIG, message).into());
    }
    let name = port_name(&attachment);
    if draft.state.ports.contains_key(&name) {
        let message = format!("container {} is being wired in by another call", attachment.container_id);
        return Err(CniError::new(code::TRY_AGAIN, message).into());
    }
    let bridge = bridge.unwrap_or_else(|| draft.state.node.bridge.clone());
    if !draft.state.bridges.contains_key(&bridge) {
        let message = format!(
            "there is no bridge `{bridge}`; name one of `weft list-br` in the network's configuration, or leave it out"
        );
        return Err(CniError::new(code::INVALID_CONFIG, message).into());
    }
    let mut spec = PortSpec::new(&name, &bridge, kind, Owner::Cni);
    match ipam {
        Ipam::BuiltIn { wanted } => {
            if bridge != draft.state.node.bridge {
                let message = format!(
                    "bridge `{bridge}` has no pod CIDR; name an IPAM plugin (\"ipam\": {{\"type\": \"host-local\", ...}})"
                );
                return Err(CniError::new(code::INVALID_CONFIG, message).into());
            }
            spec.ips = ipam::allocate(&mut draft.state, &name, Some(&attachment), &wanted, draft.now)?;
        }
        Ipam::Delegated { ips, routes } => {
            spec.ips = ips.iter().map(|ip| ip.address).collect();
            // The delegated plugin's routes are all there are.
            spec.gateways = Some(Vec::new());
            spec.routes = routes;
        }
    }
    spec.netns = Some(netns.record.path.clone());
    spec.ifname = Some(attachment.ifname.clone());
    spec.mac = mac;
    spec.mtu = mtu.map(|mtu| {
        let (mtu, warning) = pod_mtu(Some(mtu), mtu, &spec.ips);
        if let Some(warning) = warning {
            tracing::warn!(port = name, "{warning}");
        }
        mtu
    });
    spec.external_ids = [
        ("container", Some(attachment.container_id.clone())),
        ("network", Some(attachment.network.clone())),
        ("namespace", pod_namespace),
        ("pod", pod_name),
    ]
    .into_iter()
    .filter_map(|(key, value)| Some((key.to_owned(), value?)))
    .collect();
    let mut record = PortRecord::new(spec);
    record.attachment = Some(attachment);
    record.netns = Some(netns.record.clone());
    draft.netns.insert(name.clone(), netns);
    draft.state.put_port(record);
    check_port(&draft.state, &name)?;
    let port = draft.state.ports.get(&name).cloned();
    port.and_then(|port| Some((Arc::clone(&port), plan::device(&draft.state, &port)?)))
        .ok_or_else(|| CniError::new(code::INTERNAL, format!("port {name} did not stay in the state")).into())
}

fn remove(draft: &mut Draft, which: impl Fn(&PortRecord) -> bool) -> Vec<String> {
    let ports = draft.state.ports.values().filter(|port| port.spec.owner == Owner::Cni && which(port));
    let names: Vec<String> = ports.map(|port| port.spec.name.clone()).collect();
    for name in &names {
        draft.state.remove_port(name, draft.now);
    }
    names
}

/// The same for the same attachment, so that two calls for one container meet.
fn port_name(attachment: &Attachment) -> String {
    let file = attachment.queue_file();
    format!("cni-{}", file.trim_end_matches(".json"))
}

fn added(port: &PortRecord, device: &DeviceSpec, delegated: &[DelegatedIp]) -> Added {
    let gateways = &device.gateways;
    let gateway_of = |ip: IpAddr| gateways.iter().copied().find(|gateway| gateway.is_ipv4() == ip.is_ipv4());
    let mut ips: Vec<DelegatedIp> = device
        .ips
        .iter()
        .map(|address| match delegated.iter().find(|given| given.address == *address) {
            Some(given) => given.clone(),
            None => DelegatedIp { address: *address, gateway: gateway_of(address.addr()) },
        })
        .collect();
    ips.sort_by_key(|ip| ip.address.addr().is_ipv6());
    let routes = device.all_routes().into_iter().map(|(route, _)| route).collect();
    Added { port: port.spec.name.clone(), mac: device.mac, mtu: device.mtu, ips, routes }
}

#[cfg(test)]
mod tests;
