//! Clients that behave and clients that do not.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use weft_api::report::{FdbEntry, FlowEntry, NeighbourEntry, RouteEntry, Stats, Status, TunnelEntry};
use weft_api::transaction::{Outcome, TransactionResult};
use weft_api::{BridgeInfo, MAX_BODY, PortInfo, Transaction, TransactionReply};

use super::{Access, Source, bind, document, serve};

struct Nothing;

impl Source for Nothing {
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
    fn transact(&self, t: Transaction) -> Pin<Box<dyn Future<Output = TransactionResult> + Send>> {
        let outcomes = t.commands.iter().map(|_| Outcome::Unchanged).collect();
        Box::pin(async { Ok(TransactionReply { outcomes, epoch: 7 }) })
    }
}

/// Sends raw bytes, reads until the server closes or a second has passed.
async fn talk(path: &std::path::Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).await.expect("the socket is there");
    // A refused client may be cut off while it still sends.
    let _ = stream.write_all(request).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(1), stream.read_to_end(&mut answer)).await;
    String::from_utf8_lossy(&answer).into_owned()
}

fn post(body: &str) -> Vec<u8> {
    post_to("/v1/transaction", body)
}

fn post_to(path: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nhost: weft\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[tokio::test(flavor = "current_thread")]
async fn good_and_bad_requests() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let listener = bind(&path, Access::default()).expect("binds");
    let server = tokio::spawn(serve(listener, Access::default(), Arc::new(Nothing)));
    let get = |p: &str| format!("GET {p} HTTP/1.1\r\nhost: weft\r\nconnection: close\r\n\r\n").into_bytes();
    for (request, status, text) in [
        (get("/v1/ports"), "200", "[]"),
        (get("/openapi.json"), "200", "\"openapi\""),
        (get("/v1/flows?limit=x"), "400", "limit"),
        (get("/nowhere"), "404", "/nowhere"),
        (b"DELETE /v1/ports HTTP/1.1\r\nhost: weft\r\nconnection: close\r\n\r\n".to_vec(), "405", "DELETE"),
        (post("{\"commands\":[]}"), "200", "\"epoch\":7"),
        (post("{\"commands\":[],\"extra\":1}"), "400", "extra"),
        (post("{\"commands\":[{\"do\":\"dance\"}]}"), "400", "dance"),
        (post("{"), "400", "EOF"),
        (post(&"x".repeat(MAX_BODY + 1)), "413", "at most"),
        (b"what is this\r\n\r\n".to_vec(), "400", ""),
    ] {
        let answer = talk(&path, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(text), "{answer}");
    }
    // Clients that say nothing hold nobody up.
    let mut silent = Vec::new();
    for _ in 0..super::MAX_CONNECTIONS / 2 {
        silent.push(UnixStream::connect(&path).await.expect("connects"));
    }
    assert!(talk(&path, &get("/v1/ports")).await.starts_with("HTTP/1.1 200"));
    server.abort();
}

#[tokio::test(flavor = "current_thread")]
async fn a_program_is_named_by_its_whole_path() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let listener = bind(&path, Access::default()).expect("binds");
    let server = tokio::spawn(serve(listener, Access::default(), Arc::new(Nothing)));
    let is_root = rustix::process::geteuid().is_root();
    for (binary, status, text) in
        [("weftd", 400, "absolute"), ("./weftd", 400, "absolute"), ("/weftd", 503, "cannot")]
    {
        let answer = talk(&path, &post_to("/v1/upgrade", &format!("{{\"binary\":\"{binary}\"}}"))).await;
        let (status, text) = if is_root { (status, text) } else { (403, "only root") };
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(text), "{answer}");
    }
    server.abort();
}

/// On a clock that jumps to the next timer whenever nobody has anything to do.
#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn slow_clients_are_told_and_hold_nobody_up_for_long() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let listener = bind(&path, Access::default()).expect("binds");
    let server = tokio::spawn(serve(listener, Access::default(), Arc::new(Nothing)));
    let mut body = post("{}");
    body.truncate(body.len() - 1);
    let mut late = UnixStream::connect(&path).await.expect("connects");
    late.write_all(&body).await.expect("sends");
    let mut answer = String::new();
    late.read_to_string(&mut answer).await.expect("is answered");
    assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("within 10 seconds"), "{answer}");

    // Every place is taken by one who dribbles a header.
    let mut slow = Vec::new();
    for _ in 0..super::MAX_CONNECTIONS {
        let mut client = UnixStream::connect(&path).await.expect("connects");
        client.write_all(b"GET /v1/ports HTTP/1.1\r\nx: ").await.expect("sends");
        slow.push(client);
    }
    let begun = tokio::time::Instant::now();
    let mut honest = UnixStream::connect(&path).await.expect("connects");
    let request = b"GET /v1/ports HTTP/1.1\r\nhost: weft\r\nconnection: close\r\n\r\n";
    honest.write_all(request).await.expect("sends");
    let mut answer = String::new();
    honest.read_to_string(&mut answer).await.expect("is answered");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(begun.elapsed() < 2 * super::HEADER_TIME, "{:?}", begun.elapsed());
    server.abort();
}

#[tokio::test(flavor = "current_thread")]
async fn a_live_socket_is_not_taken_over_and_a_stale_one_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let first = bind(&path, Access::default()).expect("binds");
    assert!(bind(&path, Access::default()).is_err());
    drop(first);
    assert!(bind(&path, Access::default()).is_ok());
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(std::fs::metadata(&path).expect("exists").permissions().mode() & 0o777, 0o600);
    let file = dir.path().join("file");
    std::fs::write(&file, "somebody's").expect("writes");
    assert!(bind(&file, Access::default()).is_err() && file.exists(), "only a socket is taken over");
}

#[test]
fn the_document_names_every_path() {
    let document = document();
    for path in ["status", "bridges", "ports", "fdb", "routes", "neighbours", "tunnels", "flows", "stats"] {
        assert!(document.contains(&format!("\"/v1/{path}\"")), "{path}");
    }
    serde_json::from_str::<serde_json::Value>(&document).expect("JSON");
}
