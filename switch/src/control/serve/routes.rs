//! Paths and what answers them. Everything that fails is an [`ApiError`] in JSON.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use serde::Deserialize;
use weft_api::report::{FdbEntry, FlowEntry, NeighbourEntry, RouteEntry, Stats, Status, TunnelEntry};
use weft_api::transaction::TransactionResult;
use weft_api::{
    ApiError, BridgeInfo, Code, MAX_BODY, PortInfo, Transaction, UpgradeReply, UpgradeRequest, paths,
};

/// A request's body must have come by then.
const BODY_TIME: Duration = Duration::from_secs(10);
/// Flows listed unless asked otherwise, and at most.
const FLOWS: (usize, usize) = (1000, 100_000);

/// What stands behind the API. Reads do not wait for changes.
pub trait Source: Send + Sync {
    /// How the node is doing.
    fn status(&self) -> Status;
    /// Bridges, by name.
    fn bridges(&self) -> Vec<BridgeInfo>;
    /// Ports, by name.
    fn ports(&self) -> Vec<PortInfo>;
    /// Static and learned stations.
    fn fdb(&self) -> Vec<FdbEntry>;
    /// Routes of all routers.
    fn routes(&self) -> Vec<RouteEntry>;
    /// Neighbours of all routers.
    fn neighbours(&self) -> Vec<NeighbourEntry>;
    /// Peers.
    fn tunnels(&self) -> Vec<TunnelEntry>;
    /// Up to `limit` cached flows. May wait some milliseconds for the workers.
    fn flows(&self, limit: usize) -> Vec<FlowEntry>;
    /// Counters.
    fn stats(&self) -> Stats;
    /// Lets another process take over. Blocks.
    ///
    /// # Errors
    /// Why it did not.
    fn upgrade(&self, _request: &UpgradeRequest) -> Result<UpgradeReply, ApiError> {
        Err(ApiError::new(Code::Unavailable, "this daemon cannot be upgraded"))
    }
    /// Makes a change and waits until it is in force.
    fn transact(&self, transaction: Transaction) -> Pin<Box<dyn Future<Output = TransactionResult> + Send>>;
}

type Shared = Arc<dyn Source>;

/// The API as a service, as root has it.
pub fn router(source: Shared) -> Router {
    with_upgrade(source, post(upgrade))
}

/// What members of the group have: all but the upgrade, by which they would run programs as root.
pub(super) fn for_members(source: Shared) -> Router {
    let refused = || async { refusal(&ApiError::new(Code::Forbidden, "only root may upgrade the daemon")) };
    with_upgrade(source, post(refused))
}

fn with_upgrade(source: Shared, upgrade: MethodRouter<Shared>) -> Router {
    Router::new()
        .route(paths::STATUS, get(|State(s): State<Shared>| async move { Json(s.status()) }))
        .route(paths::BRIDGES, get(|State(s): State<Shared>| async move { Json(s.bridges()) }))
        .route(paths::PORTS, get(|State(s): State<Shared>| async move { Json(s.ports()) }))
        .route(paths::FDB, get(|State(s): State<Shared>| async move { Json(s.fdb()) }))
        .route(paths::ROUTES, get(|State(s): State<Shared>| async move { Json(s.routes()) }))
        .route(paths::NEIGHBOURS, get(|State(s): State<Shared>| async move { Json(s.neighbours()) }))
        .route(paths::TUNNELS, get(|State(s): State<Shared>| async move { Json(s.tunnels()) }))
        .route(paths::STATS, get(|State(s): State<Shared>| async move { Json(s.stats()) }))
        .route(paths::FLOWS, get(flows))
        .route(paths::TRANSACTION, post(transact))
        .route(paths::UPGRADE, upgrade)
        .route(paths::OPENAPI, get(openapi))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(source)
}

/// What those hear who may not use the API.
pub(super) fn closed() -> Router {
    let refused = || async {
        refusal(&ApiError::new(Code::Forbidden, "only root and the configured group may use the API"))
    };
    Router::new().fallback(refused)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FlowQuery {
    limit: Option<usize>,
}

async fn flows(
    State(source): State<Shared>,
    query: Result<Query<FlowQuery>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let Query(query) = match query {
        Ok(query) => query,
        Err(error) => return refusal(&ApiError::new(Code::Invalid, error.body_text())),
    };
    let limit = query.limit.unwrap_or(FLOWS.0).min(FLOWS.1);
    match tokio::task::spawn_blocking(move || source.flows(limit)).await {
        Ok(flows) => Json(flows).into_response(),
        Err(error) => refusal(&ApiError::new(Code::Internal, error.to_string())),
    }
}

async fn transact(State(source): State<Shared>, request: axum::extract::Request) -> Response {
    let body =
        match tokio::time::timeout(BODY_TIME, axum::body::to_bytes(request.into_body(), MAX_BODY)).await {
            Ok(Ok(body)) => body,
            Ok(Err(_)) => {
                let message = format!("the body must have at most {MAX_BODY} bytes");
                return answer(StatusCode::PAYLOAD_TOO_LARGE, &ApiError::new(Code::Invalid, message));
            }
            Err(_) => {
                let message = format!("the body did not come within {} seconds", BODY_TIME.as_secs());
                return answer(StatusCode::REQUEST_TIMEOUT, &ApiError::new(Code::Invalid, message));
            }
        };
    let transaction: Transaction = match serde_json::from_slice(&body) {
        Ok(transaction) => transaction,
        Err(error) => {
            return refusal(&ApiError::new(Code::Invalid, format!("the body is no transaction: {error}")));
        }
    };
    match source.transact(transaction).await {
        Ok(reply) => Json(reply).into_response(),
        Err(error) => refusal(&error),
    }
}

async fn upgrade(
    State(source): State<Shared>,
    body: Result<Json<UpgradeRequest>, axum::extract::rejection::JsonRejection>,
) -> Response {
    let request = match body {
        Ok(Json(request)) => request,
        Err(error) => return refusal(&ApiError::new(Code::Invalid, error.body_text())),
    };
    if let Some(binary) = request.binary.as_ref().filter(|binary| !binary.is_absolute()) {
        let message = format!("{}: the program's path must be absolute", binary.display());
        return refusal(&ApiError::new(Code::Invalid, message));
    }
    match tokio::task::spawn_blocking(move || source.upgrade(&request)).await {
        Ok(Ok(reply)) => Json(reply).into_response(),
        Ok(Err(error)) => refusal(&error),
        Err(error) => refusal(&ApiError::new(Code::Internal, error.to_string())),
    }
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], Bytes::from(super::document())).into_response()
}

async fn unknown_path(uri: axum::http::Uri) -> Response {
    let message = format!("there is no {}; {} lists what there is", uri.path(), paths::OPENAPI);
    refusal(&ApiError::new(Code::NotFound, message))
}

async fn unknown_method(method: axum::http::Method, uri: axum::http::Uri) -> Response {
    let message = format!("{} does not take {method}", uri.path());
    answer(StatusCode::METHOD_NOT_ALLOWED, &ApiError::new(Code::Invalid, message))
}

fn refusal(error: &ApiError) -> Response {
    let status = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer(status, error)
}

fn answer(status: StatusCode, error: &ApiError) -> Response {
    (status, Json(error)).into_response()
}
