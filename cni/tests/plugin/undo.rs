//! Delegated addresses and their undoing; DEL, which always succeeds; a daemon that is down, restarts or dies.

use std::time::{Duration, Instant};

use crate::bench::{Bench, FakeDaemon, Play, added};
use serde_json::{Value, json};
use weft_api::cni::{Attachment, CniError, Ipam, Reply, Request};

const RESULT: &str = r#"{"cniVersion":"1.0.0","interfaces":null,
  "ips":[{"address":"fd00::8/64","gateway":"fd00::1"},{"address":"10.9.0.8/24","gateway":"10.9.0.1"}],
  "routes":[{"dst":"10.0.0.0/8"},{"dst":"10.5.0.0/16","gw":"10.9.0.2","mtu":1300}],"dns":{"domain":"d"}}"#;

fn delegated(bench: &Bench, version: &str) -> Value {
    bench.config(version, json!({ "ipam": { "type": "fake" } }))
}

fn giving(result: &str) -> String {
    format!("if [ $CNI_COMMAND = ADD ]; then echo '{result}'; fi")
}

#[test]
fn the_address_plugins_result_reaches_the_daemon() {
    let bench = Bench::new();
    bench.ipam("fake", &giving(RESULT));
    let daemon = bench.daemon(added());
    let mut config = delegated(&bench, "1.0.0");
    config["isDefaultGateway"] = json!(true);
    let output = bench.run("ADD", &config, &[]);
    output.succeeded();
    assert_eq!(output.json["dns"], json!({ "domain": "d" }));
    let Request::Add(attach) = daemon.only().0 else { panic!() };
    let Ipam::Delegated { ips, routes } = attach.ipam else { panic!() };
    let ips: Vec<String> = ips.iter().map(|ip| ip.address.to_string()).collect();
    assert_eq!(ips, ["10.9.0.8/24", "fd00::8/64"]);
    let routes: Vec<String> =
        routes.iter().map(|r| format!("{} {} {:?}", r.dst, r.gw.unwrap(), r.mtu)).collect();
    let expected = [
        "10.0.0.0/8 10.9.0.1 None",
        "10.5.0.0/16 10.9.0.2 Some(1300)",
        "0.0.0.0/0 10.9.0.1 None",
        "::/0 fd00::1 None",
    ];
    assert_eq!(routes, expected);
    assert_eq!(bench.ipam_calls(), ["ADD"]);
}

#[test]
fn addresses_are_given_back_when_the_daemon_fails() {
    for play in [Play::HangUp, Play::Reply(Reply::Error(CniError::new(11, "busy")))] {
        let bench = Bench::new();
        bench.ipam("fake", &giving(RESULT));
        let _daemon = FakeDaemon::start(&bench.socket(), vec![play]);
        bench.run("ADD", &delegated(&bench, "1.0.0"), &[]).failed(11);
        assert_eq!(bench.ipam_calls(), ["ADD", "DEL"]);
    }
}

#[test]
fn a_left_over_allocation_is_freed_first() {
    let bench = Bench::new();
    let flag = bench.path("stale");
    std::fs::write(&flag, "").unwrap();
    let flag = flag.display();
    bench.ipam(
        "fake",
        &format!(
            "if [ $CNI_COMMAND = DEL ]; then rm -f {flag}; elif [ -e {flag} ]; then
             echo '{{\"code\":100,\"msg\":\"duplicate allocation\"}}'; exit 1; else echo '{RESULT}'; fi"
        ),
    );
    let _daemon = bench.daemon(added());
    bench.run("ADD", &delegated(&bench, "1.0.0"), &[]).succeeded();
    assert_eq!(bench.ipam_calls(), ["ADD", "DEL", "ADD"]);
}

#[test]
fn the_address_plugins_error_is_passed_on() {
    for (body, code) in [
        (r#"echo '{"code":11,"msg":"full","details":"d"}'; exit 1"#, 11),
        ("echo nonsense; exit 3", 999),
        (r#"[ $CNI_COMMAND = DEL ] || echo nonsense"#, 6),
        (r#"[ $CNI_COMMAND = DEL ] || echo '{"ips":[]}'"#, 7),
    ] {
        let bench = Bench::new();
        bench.ipam("fake", body);
        let daemon = bench.daemon(added());
        bench.run("ADD", &delegated(&bench, "1.0.0"), &[]).failed(code);
        assert!(daemon.seen().is_empty());
        assert_eq!(bench.ipam_calls().last().unwrap(), "DEL");
    }
}

#[test]
fn del_succeeds_whatever_is_missing() {
    let bench = Bench::new();
    bench.ipam("fake", "");
    let daemon = bench.daemon(Reply::Ok);
    for (env, fds) in [
        (vec![], 2),
        (vec![("CNI_NETNS", "")], 0),
        (vec![("CNI_NETNS", "/run/netns/gone")], 0),
        (vec![("CNI_NETNS_OVERRIDE", "")], 0),
        (vec![("CNI_ARGS", "nonsense")], 2),
    ] {
        bench.run("DEL", &delegated(&bench, "1.0.0"), &env).succeeded();
        assert_eq!(daemon.seen().last().unwrap().1, fds, "{env:?}");
    }
    let mut broken = delegated(&bench, "1.0.0");
    (broken["mtu"], broken["prevResult"]) = (json!("big"), json!("nonsense"));
    bench.run("DEL", &broken, &[]).succeeded();
    assert_eq!(bench.ipam_calls(), ["DEL"; 6]);
    assert!(bench.queued().is_empty());
}

#[test]
fn del_succeeds_with_a_broken_or_absent_address_plugin() {
    let bench = Bench::new();
    let daemon = bench.daemon(Reply::Ok);
    let output = bench.run("DEL", &delegated(&bench, "1.0.0"), &[]);
    output.succeeded();
    assert!(output.stderr.contains("failed to find plugin"), "{output:?}");
    bench.ipam("fake", "exit 1");
    bench.run("DEL", &delegated(&bench, "1.0.0"), &[]).succeeded();
    assert_eq!(daemon.seen().len(), 2);
}

#[test]
fn del_without_a_daemon_waits_on_disk() {
    let bench = Bench::new();
    bench.ipam("fake", "");
    for _ in 0..2 {
        let output = bench.run("DEL", &delegated(&bench, "1.0.0"), &[]);
        output.succeeded();
        assert_eq!(output.json, Value::Null);
    }
    let attachment = Attachment { network: "pods".into(), container_id: "c1".into(), ifname: "eth0".into() };
    assert_eq!(bench.queued(), [attachment.queue_file()]);
    let text = std::fs::read(bench.path("queue").join(attachment.queue_file())).unwrap();
    assert_eq!(serde_json::from_slice::<Attachment>(&text).unwrap(), attachment);
    assert_eq!(bench.ipam_calls(), ["DEL", "DEL"]);

    // The same container starts again: the old DEL must not hit it.
    let _daemon = bench.daemon(added());
    bench.run("ADD", &bench.config("1.0.0", json!({})), &[]).succeeded();
    assert!(bench.queued().is_empty());
}

#[test]
fn del_that_the_daemon_cannot_do_waits_on_disk() {
    for play in [Play::HangUp, Play::Reply(Reply::Error(CniError::new(5, "disk full")))] {
        let bench = Bench::new();
        let _daemon = FakeDaemon::start(&bench.socket(), vec![play]);
        bench.run("DEL", &bench.config("1.0.0", json!({})), &[]).succeeded();
        assert_eq!(bench.queued().len(), 1);
    }
}

#[test]
fn del_is_refused_only_if_it_would_be_lost() {
    let bench = Bench::new();
    std::fs::write(bench.path("queue"), "a file where the directory should be").unwrap();
    bench.run("DEL", &bench.config("1.0.0", json!({})), &[]).failed(11);
}

#[test]
fn a_restarting_daemon_is_waited_for() {
    for (verb, reply) in [("ADD", added()), ("STATUS", Reply::Ok)] {
        let bench = Bench::new();
        let socket = bench.socket();
        let late = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(700));
            FakeDaemon::start(&socket, vec![Play::Reply(reply)])
        });
        bench.run(verb, &bench.config("1.1.0", json!({})), &[]).succeeded();
        assert_eq!(late.join().unwrap().seen().len(), 1);
    }
}

#[test]
fn a_daemon_that_stays_away_has_a_code_for_each_verb() {
    let bench = Bench::new();
    let prev = json!({ "interfaces": [{ "name": "eth0", "sandbox": "/x" }] });
    let config =
        bench.config("1.1.0", json!({ "prevResult": prev, "cni.dev/valid-attachments": [], "ipam": {} }));
    let calls: Vec<_> = [("ADD", 11), ("CHECK", 11), ("STATUS", 50), ("GC", 11)]
        .into_iter()
        .map(|(verb, code)| {
            let mut config = config.clone();
            if verb == "ADD" {
                config["prevResult"] = Value::Null;
            }
            let bench = Bench::new();
            std::thread::spawn(move || {
                let start = Instant::now();
                bench.run(verb, &config, &[]).failed(code);
                assert!(start.elapsed() >= Duration::from_secs(5), "{verb} did not wait");
            })
        })
        .collect();
    for call in calls {
        call.join().unwrap();
    }
}

#[test]
fn a_daemon_that_dies_before_it_replied_is_asked_once_more() {
    for (verb, reply) in [("ADD", added()), ("STATUS", Reply::Ok), ("DEL", Reply::Ok)] {
        let bench = Bench::new();
        let daemon = FakeDaemon::start(&bench.socket(), vec![Play::HangUp, Play::Reply(reply)]);
        bench.run(verb, &bench.config("1.1.0", json!({})), &[]).succeeded();
        let seen = daemon.seen();
        assert!(seen.len() == 2 && seen[0] == seen[1], "the same, with the same descriptors: {seen:?}");
    }
}

#[test]
fn an_add_that_the_daemon_dies_under_twice_is_for_the_runtime_to_try_again() {
    let bench = Bench::new();
    let daemon = FakeDaemon::start(&bench.socket(), vec![Play::HangUp]);
    bench.run("ADD", &bench.config("1.0.0", json!({})), &[]).failed(11);
    assert_eq!(daemon.seen().len(), 2);
}

#[test]
fn status_and_gc_of_old_address_plugins_are_no_failure() {
    let table = [
        (r#"echo '{"code":1,"msg":"version"}'; exit 1"#, None),
        (r#"echo '{"code":4,"msg":"unknown CNI_COMMAND"}'; exit 1"#, None),
        (r#"echo '{"code":50,"msg":"no address"}'; exit 1"#, Some(50)),
        ("", None),
    ];
    for (body, code) in table {
        for verb in ["STATUS", "GC"] {
            let bench = Bench::new();
            bench.ipam("fake", body);
            let daemon = bench.daemon(Reply::Ok);
            let mut config = delegated(&bench, "1.1.0");
            config["cni.dev/valid-attachments"] = json!([]);
            let output = bench.run(verb, &config, &[("CNI_CONTAINERID", ""), ("CNI_IFNAME", "")]);
            match code {
                Some(code) => output.failed(code),
                None => output.succeeded(),
            }
            assert_eq!(bench.ipam_calls(), [verb]);
            assert_eq!(daemon.seen().len(), 1);
        }
    }
}

#[test]
fn gc_goes_on_after_the_daemons_error() {
    let bench = Bench::new();
    bench.ipam("fake", "");
    let _daemon = bench.daemon(Reply::Error(CniError::new(5, "disk")));
    let mut config = delegated(&bench, "1.1.0");
    config["cni.dev/valid-attachments"] = json!([]);
    bench.run("GC", &config, &[]).failed(5);
    assert_eq!(bench.ipam_calls(), ["GC"]);
}

#[test]
fn a_socket_path_longer_than_an_address_is_reached() {
    let bench = Bench::new();
    let directory = bench.path(&"d".repeat(120));
    std::fs::create_dir(&directory).unwrap();
    let link = bench.path("s");
    std::os::unix::fs::symlink(&directory, &link).unwrap();
    let daemon = FakeDaemon::start(&link.join("cni.sock"), vec![Play::Reply(Reply::Ok)]);
    let config = bench.config("1.1.0", json!({ "socket": directory.join("cni.sock") }));
    bench.run("STATUS", &config, &[]).succeeded();
    assert_eq!(daemon.seen().len(), 1);
}
