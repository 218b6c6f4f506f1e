//! A daemon for tests: answers each path with a fixed body and keeps what is posted.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::run;
use crate::session::Exit;

/// A daemon with fixed answers on a socket of its own.
pub(crate) struct Daemon {
    dir: tempfile::TempDir,
    answers: Arc<Mutex<BTreeMap<String, (u16, String)>>>,
    posted: Arc<Mutex<Vec<Value>>>,
}

impl Daemon {
    /// Listens; `answers` are (path, JSON body).
    pub(crate) fn new(answers: &[(&str, &str)]) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("weft.sock")).unwrap();
        let daemon = Daemon { dir, answers: Arc::default(), posted: Arc::default() };
        for (path, body) in answers {
            daemon.answer(path, 200, body);
        }
        let (answers, posted) = (daemon.answers.clone(), daemon.posted.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                serve(stream, &answers, &posted);
            }
        });
        daemon
    }

    /// Sets the answer of a path.
    pub(crate) fn answer(&self, path: &str, status: u16, body: &str) {
        self.answers.lock().unwrap().insert(path.to_owned(), (status, body.to_owned()));
    }

    /// What was posted so far.
    pub(crate) fn posted(&self) -> Vec<Value> {
        self.posted.lock().unwrap().clone()
    }

    /// The socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("weft.sock")
    }

    /// Runs a command line against it; what it prints.
    pub(crate) fn weft(&self, line: &str) -> (Exit, String) {
        let socket = self.socket().display().to_string();
        let words = ["weft", "--socket", &socket].into_iter().chain(line.split_whitespace());
        let mut out = Vec::new();
        let exit = run::run(words.map(Into::into).collect(), &mut out);
        (exit, String::from_utf8(out).unwrap())
    }
}

fn serve(stream: UnixStream, answers: &Mutex<BTreeMap<String, (u16, String)>>, posted: &Mutex<Vec<Value>>) {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let mut length = 0;
    loop {
        line.clear();
        if reader.read_line(&mut line).unwrap() == 0 || line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    if length > 0 {
        posted.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
    }
    let missing = (404, r#"{"code":"not-found","message":"no such path"}"#.to_owned());
    let (status, body) = answers.lock().unwrap().get(&path).cloned().unwrap_or(missing);
    let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n", body.len());
    let _ = reader.get_mut().write_all((head + &body).as_bytes());
}

/// The status of a daemon that is ready.
pub(crate) const STATUS: &str = r#"{
    "version": "0.1.0", "node": "n1", "pid": 4321, "uptime_seconds": 3725, "ready": true, "epoch": 17,
    "workers": 2, "worker_busy_permille": [15, 1000], "ports": 3, "overlay_mtu": 1450,
    "cluster": {"file": "/etc/weft/cluster.toml", "nodes": 2, "error": null},
    "pools": [
        {"cidr": "10.244.0.0/24", "used": 2, "free": 251},
        {"cidr": "fd00:10:244::/64", "used": 2, "free": 18446744073709551615}
    ],
    "foreign_chains": [], "degraded": [], "sysctls": []
}"#;
