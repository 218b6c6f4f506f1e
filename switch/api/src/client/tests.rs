use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use super::*;
use crate::error::Code;

/// A daemon that gives each of `answers` to one connection, in order; then closes.
fn daemon(answers: Vec<String>) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weft.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 65_536];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    (dir, path)
}

fn http(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn blocking(path: &Path) -> BlockingClient {
    BlockingClient::new(Client::new(path).with_timeout(Duration::from_millis(500))).unwrap()
}

#[test]
fn decodes_answers_and_errors() {
    let (_dir, path) = daemon(vec![
        http("200 OK", r#"{"outcomes":["done"],"epoch":3}"#),
        http("409 Conflict", r#"{"code":"owned","message":"port a belongs to cni","command":1}"#),
        http("404 Not Found", "no such page"),
        http("200 OK", "[]"),
    ]);
    let client = blocking(&path);
    let reply = client.transaction(&Transaction::default()).unwrap();
    assert_eq!((reply.outcomes.len(), reply.epoch), (1, 3));
    match client.transaction(&Transaction::default()).unwrap_err() {
        ClientError::Api(error) => assert_eq!((error.code, error.command), (Code::Owned, Some(1))),
        other => panic!("{other}"),
    }
    let error = client.get::<Vec<u8>>("/v1/none").unwrap_err().to_string();
    assert!(error.contains("answered 404") && error.contains("no such page"), "{error}");
    assert!(client.get::<Vec<u8>>(paths::PORTS).unwrap().is_empty());
}

#[test]
fn says_that_nobody_listens() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("none.sock");
    let error = blocking(&path).get::<Vec<u8>>(paths::PORTS).unwrap_err().to_string();
    assert!(error.starts_with(&format!("weftd is not running at {}: ", path.display())), "{error}");

    drop(UnixListener::bind(&path).unwrap());
    let error = blocking(&path).get::<Vec<u8>>(paths::PORTS).unwrap_err();
    assert!(matches!(error, ClientError::NotRunning { .. }), "{error}");
}

#[test]
fn gives_up_on_a_silent_or_dying_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weft.sock");
    let _silent = UnixListener::bind(&path).unwrap();
    let error = blocking(&path).get::<Vec<u8>>(paths::PORTS).unwrap_err();
    assert!(matches!(error, ClientError::Timeout { .. }), "{error}");

    let (_dir, path) = daemon(vec![String::new(), "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n[".into()]);
    for _ in 0..2 {
        let error = blocking(&path).get::<Vec<u8>>(paths::PORTS).unwrap_err();
        assert!(matches!(error, ClientError::HungUp { .. }), "{error}");
    }
}
