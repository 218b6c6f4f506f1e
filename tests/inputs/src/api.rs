//! Bodies of the control API, through the router that serves them and the transactions behind it.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use axum::body::Body;
use axum::http::{Request, StatusCode};
use http_body_util::BodyExt;
use tower::ServiceExt;
use weft_api::report::{FdbEntry, FlowEntry, NeighbourEntry, RouteEntry, Stats, Status, TunnelEntry};
use weft_api::transaction::TransactionResult;
use weft_api::{ApiError, BridgeInfo, PortInfo, Transaction, TransactionReply, paths};
use weft_switch::control::engine::Draft;
use weft_switch::control::plan::plan;
use weft_switch::control::serve::{Source, router};
use weft_switch::control::state::State;
use weft_switch::control::transaction;

use crate::stored::{comes_back, in_network, started};

/// A POST of any bytes as a transaction: 200 with a reply or 4xx with an error; the state behind it stays one that can
/// be kept, planned and published, and a refused one changes nothing.
pub fn api(data: &[u8]) {
    let node = Arc::new(Node { state: Mutex::new(fresh()) });
    let request = Request::post(paths::TRANSACTION).body(Body::from(data.to_vec())).expect("a request");
    let source: Arc<dyn Source> = node.clone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    let (status, body) = runtime.block_on(async {
        let response = router(source).oneshot(request).await.expect("the router answers");
        let status = response.status();
        (status, response.into_body().collect().await.expect("a body").to_bytes())
    });
    if status == StatusCode::OK {
        serde_json::from_slice::<TransactionReply>(&body).expect("a reply");
    } else {
        let error: ApiError = serde_json::from_slice(&body).expect("an error in JSON");
        assert!(status.is_client_error() || error.code == weft_api::Code::Exhausted, "{status} {error:?}");
        assert!(!error.message.is_empty());
    }
    if let Ok(transaction) = serde_json::from_slice::<Transaction>(data) {
        let again = serde_json::to_vec(&transaction).expect("a transaction encodes");
        assert_eq!(serde_json::from_slice::<Transaction>(&again).expect("it decodes"), transaction);
    }
    let (before, after) = (fresh(), node.state.lock().expect("no panic").clone());
    if status != StatusCode::OK {
        assert_eq!(before, after, "refused, and yet changed");
        return;
    }
    comes_back(&after);
    for step in plan(&before, &after) {
        step.inverse();
    }
    started(after);
}

fn fresh() -> State {
    let mut state = State::default();
    in_network(&mut state);
    state
}

/// A node without devices.
struct Node {
    state: Mutex<State>,
}

impl Source for Node {
    fn status(&self) -> Status {
        unreachable!("not asked for here")
    }
    fn bridges(&self) -> Vec<BridgeInfo> {
        Vec::new()
    }
    fn ports(&self) -> Vec<PortInfo> {
        Vec::new()
    }
    fn fdb(&self) -> Vec<FdbEntry> {
        Vec::new()
    }
    fn routes(&self) -> Vec<RouteEntry> {
        Vec::new()
    }
    fn neighbours(&self) -> Vec<NeighbourEntry> {
        Vec::new()
    }
    fn tunnels(&self) -> Vec<TunnelEntry> {
        Vec::new()
    }
    fn flows(&self, _: usize) -> Vec<FlowEntry> {
        Vec::new()
    }
    fn stats(&self) -> Stats {
        Stats::default()
    }
    fn transact(&self, transaction: Transaction) -> Pin<Box<dyn Future<Output = TransactionResult> + Send>> {
        let mut state = self.state.lock().expect("no panic");
        let mut draft = Draft {
            state: state.clone(),
            netns: Default::default(),
            forget: Vec::new(),
            origins: Default::default(),
            now: 1,
            is_learned: Arc::new(|_, _, _| false),
        };
        let result = transaction::apply(&mut draft, transaction);
        let reply = result.map(|outcomes| {
            *state = draft.state;
            TransactionReply { outcomes, epoch: 1 }
        });
        Box::pin(async { reply })
    }
}
