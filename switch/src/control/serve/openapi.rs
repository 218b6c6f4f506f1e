//! The OpenAPI document, made from the types themselves.

use utoipa::OpenApi;
use weft_api::report::{FdbEntry, FlowEntry, NeighbourEntry, RouteEntry, Stats, Status, TunnelEntry};
use weft_api::{ApiError, BridgeInfo, PortInfo, Transaction, TransactionReply, UpgradeReply, UpgradeRequest};

/// The document as JSON.
pub fn document() -> String {
    Document::openapi().to_json().unwrap_or_default()
}

#[derive(OpenApi)]
#[openapi(
    info(title = "weft control API", description = "HTTP/1.1 + JSON on a Unix socket."),
    paths(status, bridges, ports, fdb, routes, neighbours, tunnels, flows, stats, transaction, upgrade),
    components(schemas(ApiError))
)]
struct Document;

macro_rules! reads {
    ($($name:ident $path:literal $body:ty, $about:literal;)*) => {
        $(
            #[doc = $about]
            #[utoipa::path(get, path = $path, responses((status = 200, body = $body)))]
            #[allow(dead_code, reason = "carries the document's part for the path")]
            fn $name() {}
        )*
    };
}

reads! {
    status "/v1/status" Status, "How the node is doing.";
    bridges "/v1/bridges" Vec<BridgeInfo>, "Bridges.";
    ports "/v1/ports" Vec<PortInfo>, "Ports.";
    fdb "/v1/fdb" Vec<FdbEntry>, "Static and learned stations.";
    routes "/v1/routes" Vec<RouteEntry>, "Routes.";
    neighbours "/v1/neighbours" Vec<NeighbourEntry>, "Neighbours.";
    tunnels "/v1/tunnels" Vec<TunnelEntry>, "Peers.";
    stats "/v1/stats" Stats, "Counters.";
}

/// Flows of the workers' caches.
#[utoipa::path(
    get, path = "/v1/flows",
    params(("limit" = Option<u64>, Query, description = "how many at most; 1000 unless set")),
    responses((status = 200, body = Vec<FlowEntry>))
)]
#[allow(dead_code, reason = "carries the document's part for the path")]
fn flows() {}

/// Makes changes, all or nothing.
#[utoipa::path(
    post, path = "/v1/transaction", request_body = Transaction,
    responses(
        (status = 200, body = TransactionReply, description = "in force on every worker"),
        (status = "4XX", body = ApiError, description = "refused; nothing changed"),
        (status = "5XX", body = ApiError, description = "failed; nothing changed")
    )
)]
#[allow(dead_code, reason = "carries the document's part for the path")]
fn transaction() {}

/// Lets another process take over, and answers once it forwards.
#[utoipa::path(
    post, path = "/v1/upgrade", request_body = UpgradeRequest,
    responses(
        (status = 200, body = UpgradeReply, description = "another process forwards"),
        (status = "4XX", body = ApiError, description = "refused; this process goes on"),
        (status = "5XX", body = ApiError, description = "failed; this process goes on")
    )
)]
#[allow(dead_code, reason = "carries the document's part for the path")]
fn upgrade() {}
