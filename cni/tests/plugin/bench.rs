//! What the plugin's tests share: a stand-in for the daemon's socket, which records requests and plays replies, and a
//! way to run the plugin. The real daemon is met by the system tests.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, accept_with, bind, listen, recvmsg, send, socket_with,
};
use serde_json::{Value, json};
use weft_api::cni::{Added, DelegatedIp, Reply, Request};
use weft_api::port::PodRoute;

/// What the stand-in does with a request.
#[derive(Clone)]
pub(crate) enum Play {
    /// Replies.
    Reply(Reply),
    /// Closes the connection without a reply.
    HangUp,
}

/// A stand-in for the daemon's socket.
pub(crate) struct FakeDaemon {
    seen: Arc<Mutex<Vec<(Request, usize)>>>,
}

impl FakeDaemon {
    /// Listens at `path`; the `n`th request is answered by the `n`th play, the last one for ever.
    pub(crate) fn start(path: &Path, plays: Vec<Play>) -> FakeDaemon {
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        let _ = std::fs::remove_file(path);
        bind(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
        listen(&socket, 8).unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let record = seen.clone();
        thread::spawn(move || {
            for turn in 0.. {
                let Ok(connection) = accept_with(&socket, SocketFlags::CLOEXEC) else { return };
                let Some(request) = receive(&connection) else { continue };
                record.lock().unwrap().push(request);
                if let Play::Reply(reply) = &plays[turn.min(plays.len() - 1)] {
                    let _ = send(&connection, &serde_json::to_vec(reply).unwrap(), SendFlags::NOSIGNAL);
                }
            }
        });
        FakeDaemon { seen }
    }

    /// Requests so far, each with the number of its descriptors.
    pub(crate) fn seen(&self) -> Vec<(Request, usize)> {
        self.seen.lock().unwrap().clone()
    }

    /// The only request.
    pub(crate) fn only(&self) -> (Request, usize) {
        let seen = self.seen();
        assert_eq!(seen.len(), 1, "{seen:?}");
        seen.into_iter().next().unwrap()
    }
}

fn receive(connection: &OwnedFd) -> Option<(Request, usize)> {
    let mut buffer = vec![0u8; 1 << 20];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [std::io::IoSliceMut::new(&mut buffer)];
    let length = recvmsg(connection, &mut parts, &mut control, RecvFlags::CMSG_CLOEXEC).unwrap().bytes;
    let count = |message| match message {
        RecvAncillaryMessage::ScmRights(fds) => fds.count(),
        _ => 0,
    };
    let fds = control.drain().map(count).sum();
    (length > 0).then(|| (serde_json::from_slice(&buffer[..length]).unwrap(), fds))
}

/// A directory with everything a call needs.
pub(crate) struct Bench {
    dir: tempfile::TempDir,
}

/// What a call answered.
#[derive(Debug)]
pub(crate) struct Output {
    /// Exit code.
    pub(crate) exit: i32,
    /// Stdout as JSON, `Null` if empty.
    pub(crate) json: Value,
    /// Stderr.
    pub(crate) stderr: String,
}

impl Output {
    /// Fails unless the call failed with `code`.
    #[track_caller]
    pub(crate) fn failed(&self, code: u64) {
        assert_eq!((self.exit, self.json["code"].as_u64()), (1, Some(code)), "{self:?}");
        assert!(self.json["msg"].as_str().is_some_and(|msg| !msg.is_empty()), "{self:?}");
    }

    /// Fails unless the call succeeded.
    #[track_caller]
    pub(crate) fn succeeded(&self) {
        assert_eq!(self.exit, 0, "{self:?}");
    }
}

impl Bench {
    /// An empty one.
    pub(crate) fn new() -> Bench {
        Bench { dir: tempfile::tempdir().unwrap() }
    }

    /// A path in it.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The daemon's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path("cni.sock")
    }

    /// Starts a stand-in that gives every request the same reply.
    pub(crate) fn daemon(&self, reply: Reply) -> FakeDaemon {
        FakeDaemon::start(&self.socket(), vec![Play::Reply(reply)])
    }

    /// A configuration of `version`, with `extra` keys.
    pub(crate) fn config(&self, version: &str, extra: Value) -> Value {
        let mut config = json!({
            "cniVersion": version, "name": "pods", "type": "weft-cni",
            "socket": self.socket(), "queueDir": self.path("queue"),
        });
        for (key, value) in extra.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    }

    /// An address plugin named `name`, a shell script that gets CNI_COMMAND as `$CNI_COMMAND` and logs its calls.
    pub(crate) fn ipam(&self, name: &str, body: &str) {
        let path = self.path(name);
        let log = self.path("ipam.log");
        let text = format!("#!/bin/sh\ncat >/dev/null\necho $CNI_COMMAND >>{}\n{body}\n", log.display());
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// The verbs that address plugins were called with.
    pub(crate) fn ipam_calls(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("ipam.log")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// Files in the DEL queue.
    pub(crate) fn queued(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path("queue")) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Runs the plugin for container `c1`, interface `eth0`. The namespace is the caller's own, which
    /// CNI_NETNS_OVERRIDE allows, so no privilege is needed. `env` overrides; an empty value unsets.
    pub(crate) fn run(&self, verb: &str, config: &Value, env: &[(&str, &str)]) -> Output {
        self.run_raw(verb, config.to_string().as_bytes(), env)
    }

    /// The same with any bytes on stdin.
    pub(crate) fn run_raw(&self, verb: &str, stdin: &[u8], env: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weft-cni"));
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", "c1")
            .env("CNI_NETNS", "/proc/self/ns/net")
            .env("CNI_IFNAME", "eth0")
            .env("CNI_PATH", self.dir.path())
            .env("CNI_NETNS_OVERRIDE", "1");
        for (name, value) in env {
            match *value {
                "" => command.env_remove(name),
                value => command.env(name, value),
            };
        }
        let pipes = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = pipes.spawn().unwrap();
        let _ = child.stdin.take().unwrap().write_all(stdin);
        let output = child.wait_with_output().unwrap();
        let json = match output.stdout.is_empty() {
            true => Value::Null,
            false => serde_json::from_slice(&output.stdout).unwrap(),
        };
        Output {
            exit: output.status.code().unwrap(),
            json,
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// A dual-stack result.
pub(crate) fn added() -> Reply {
    let ip = |address: &str, gateway: &str| DelegatedIp {
        address: address.parse().unwrap(),
        gateway: Some(gateway.parse().unwrap()),
    };
    let route = |dst: &str, gw: &str| PodRoute {
        dst: dst.parse().unwrap(),
        gw: Some(gw.parse().unwrap()),
        mtu: Some(1450),
    };
    Reply::Added(Added {
        port: "p1".into(),
        mac: "02:00:00:00:00:05".parse().unwrap(),
        mtu: 1450,
        ips: vec![ip("10.244.1.5/24", "10.244.1.1"), ip("fd00::5/64", "fd00::1")],
        routes: vec![route("0.0.0.0/0", "10.244.1.1"), route("::/0", "fd00::1")],
    })
}
