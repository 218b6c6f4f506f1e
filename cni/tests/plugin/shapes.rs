//! Shapes of results and errors, and what is refused before anything is done: tables over versions and verbs.

use crate::bench::{Bench, added};
use serde_json::{Value, json};
use weft_api::cni::{CniError, Ipam, Reply, Request};

const VERSIONS: [&str; 4] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0"];

#[test]
fn add_answers_in_the_shape_of_each_version() {
    for version in VERSIONS {
        let bench = Bench::new();
        let daemon = bench.daemon(added());
        let config =
            bench.config(version, json!({ "dns": { "nameservers": ["10.96.0.10"], "search": ["svc"] } }));
        let output = bench.run("ADD", &config, &[]);
        output.succeeded();
        let (new, newest) = (version >= "1.0.0", version >= "1.1.0");
        let ip = |family: &str, address: &str, gateway: &str| {
            let mut ip = json!({ "address": address, "gateway": gateway, "interface": 0 });
            if !new {
                ip["version"] = json!(family);
            }
            ip
        };
        let route = |dst: &str, gw: &str| {
            let mut route = json!({ "dst": dst, "gw": gw });
            if newest {
                route["mtu"] = json!(1450);
            }
            route
        };
        let mut interface =
            json!({ "name": "eth0", "mac": "02:00:00:00:00:05", "sandbox": "/proc/self/ns/net" });
        if newest {
            interface["mtu"] = json!(1450);
        }
        let expected = json!({
            "cniVersion": version,
            "interfaces": [interface],
            "ips": [ip("4", "10.244.1.5/24", "10.244.1.1"), ip("6", "fd00::5/64", "fd00::1")],
            "routes": [route("0.0.0.0/0", "10.244.1.1"), route("::/0", "fd00::1")],
            "dns": { "nameservers": ["10.96.0.10"], "search": ["svc"] },
        });
        assert_eq!(output.json, expected);
        let (request, fds) = daemon.only();
        assert_eq!(fds, 2);
        let Request::Add(attach) = request else { panic!("{request:?}") };
        assert_eq!(attach.attachment.network, "pods");
        assert_eq!(attach.attachment.container_id, "c1");
        assert_eq!(attach.attachment.ifname, "eth0");
        assert_eq!(attach.ipam, Ipam::BuiltIn { wanted: vec![] });
    }
}

#[test]
fn errors_carry_the_version_of_the_configuration() {
    for version in VERSIONS {
        let bench = Bench::new();
        let error = CniError::new(11, "no address is free").with_details("pool 10.244.1.0/24");
        let _daemon = bench.daemon(Reply::Error(error));
        let output = bench.run("ADD", &bench.config(version, json!({})), &[]);
        output.failed(11);
        let expected = json!({
            "cniVersion": version, "code": 11, "msg": "no address is free", "details": "pool 10.244.1.0/24",
        });
        assert_eq!(output.json, expected);
    }
}

#[test]
fn version_needs_no_stdin() {
    let bench = Bench::new();
    for stdin in ["", "nonsense", r#"{"cniVersion":"0.2.0"}"#] {
        let unset = [("CNI_CONTAINERID", ""), ("CNI_NETNS", ""), ("CNI_IFNAME", ""), ("CNI_PATH", "")];
        let output = bench.run_raw("VERSION", stdin.as_bytes(), &unset);
        output.succeeded();
        assert_eq!(output.json["supportedVersions"], json!(VERSIONS));
        assert_eq!(output.json["cniVersion"], "1.1.0");
    }
}

#[test]
fn no_command_prints_an_about_line() {
    let bench = Bench::new();
    let output = bench.run_raw("VERSION", b"", &[("CNI_COMMAND", "")]);
    output.succeeded();
    assert_eq!(output.json, Value::Null);
    assert!(output.stderr.contains("weft-cni") && output.stderr.contains("1.1.0"), "{output:?}");
}

/// Verb, configuration, environment, code.
type Refused<'a> = (&'a str, Value, Vec<(&'a str, &'a str)>, u64);

#[test]
fn what_is_refused_before_the_daemon_hears_of_it() {
    let bench = Bench::new();
    let daemon = bench.daemon(added());
    let good = bench.config("1.0.0", json!({}));
    let with = |extra: Value| bench.config("1.0.0", extra);
    let table: Vec<Refused<'_>> = vec![
        ("NONE", good.clone(), vec![], 4),
        ("ADD", good.clone(), vec![("CNI_CONTAINERID", "")], 4),
        ("ADD", good.clone(), vec![("CNI_NETNS", "")], 4),
        ("ADD", good.clone(), vec![("CNI_IFNAME", "")], 4),
        ("ADD", good.clone(), vec![("CNI_PATH", "")], 4),
        ("ADD", good.clone(), vec![("CNI_CONTAINERID", "../x")], 4),
        ("ADD", good.clone(), vec![("CNI_IFNAME", "a-name-too-long0")], 4),
        ("ADD", good.clone(), vec![("CNI_IFNAME", "..")], 4),
        ("ADD", good.clone(), vec![("CNI_IFNAME", "a/b")], 4),
        ("ADD", good.clone(), vec![("CNI_IFNAME", "a:b")], 4),
        ("ADD", good.clone(), vec![("CNI_IFNAME", "a b")], 4),
        ("ADD", good.clone(), vec![("CNI_ARGS", "WHAT=1")], 4),
        ("ADD", good.clone(), vec![("CNI_ARGS", "IP=10.1")], 4),
        ("ADD", good.clone(), vec![("CNI_NETNS", "/nowhere")], 8),
        ("ADD", good.clone(), vec![("CNI_NETNS", "/etc/passwd")], 8),
        ("ADD", good.clone(), vec![("CNI_NETNS_OVERRIDE", "")], 8),
        ("ADD", with(json!({ "name": null })), vec![], 7),
        ("ADD", with(json!({ "name": "a b" })), vec![], 7),
        ("ADD", with(json!({ "mtu": "big" })), vec![], 6),
        ("ADD", with(json!({ "cniVersion": "0.2.0" })), vec![], 1),
        ("ADD", with(json!({ "cniVersion": "9.0.0" })), vec![], 1),
        ("ADD", with(json!({ "cniVersion": null })), vec![], 1),
        ("ADD", with(json!({ "ipam": { "type": "absent" } })), vec![], 7),
        ("ADD", with(json!({ "ipam": { "type": "../sh" } })), vec![], 7),
        ("ADD", with(json!({ "runtimeConfig": { "mac": "x" } })), vec![], 7),
        ("ADD", with(json!({ "runtimeConfig": { "ips": ["x"] } })), vec![], 7),
        ("ADD", with(json!({ "runtimeConfig": { "bandwidth": { "egressRate": 1000 } } })), vec![], 2),
        (
            "ADD",
            with(json!({ "prevResult": { "interfaces": [{ "name": "eth0", "sandbox": "/x" }] } })),
            vec![],
            7,
        ),
        ("CHECK", bench.config("0.3.1", json!({})), vec![], 1),
        ("CHECK", good.clone(), vec![], 7),
        ("CHECK", with(json!({ "prevResult": { "interfaces": [] } })), vec![], 7),
        ("STATUS", good.clone(), vec![], 1),
        ("GC", good, vec![], 1),
    ];
    for (verb, config, env, code) in table {
        let output = bench.run(verb, &config, &env);
        assert_eq!(output.json["code"], code, "{verb} {config} {env:?}: {output:?}");
        assert_eq!(output.exit, 1);
    }
    bench.run_raw("ADD", b"not json", &[]).failed(6);
    assert!(daemon.seen().is_empty(), "{:?}", daemon.seen());
}

#[test]
fn requests_of_kubelet_and_podman_reach_the_daemon() {
    let bench = Bench::new();
    let daemon = bench.daemon(added());
    let config = bench.config(
        "1.0.0",
        json!({
            "mtu": 1400, "bridge": "br7", "capabilities": { "bandwidth": true },
            "hairpinMode": true, "isGateway": true, "ipMasq": false, "unknown": { "key": 1 },
            "runtimeConfig": {
                "bandwidth": { "ingressRate": 0, "ingressBurst": 4294967295u32, "egressRate": 0 },
                "portMappings": [{ "hostPort": 80, "containerPort": 80, "protocol": "tcp" }],
                "dns": { "servers": ["1.1.1.1"], "searches": ["a.b"], "options": ["ndots:5"] },
            },
        }),
    );
    let args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=pod;K8S_POD_UID=u;IP=10.244.1.9;MAC=02:00:00:00:00:09;X=1";
    let output = bench.run("ADD", &config, &[("CNI_ARGS", args)]);
    output.succeeded();
    let dns = json!({ "nameservers": ["1.1.1.1"], "search": ["a.b"], "options": ["ndots:5"] });
    assert_eq!(output.json["dns"], dns);
    let Request::Add(attach) = daemon.only().0 else { panic!() };
    assert_eq!((attach.mtu, attach.bridge.as_deref()), (Some(1400), Some("br7")));
    assert_eq!(attach.mac.unwrap().to_string(), "02:00:00:00:00:09");
    assert_eq!(attach.ipam, Ipam::BuiltIn { wanted: vec!["10.244.1.9".parse().unwrap()] });
    assert_eq!((attach.pod_namespace.as_deref(), attach.pod_name.as_deref()), (Some("ns"), Some("pod")));
}

#[test]
fn capabilities_win_over_arguments() {
    let bench = Bench::new();
    let daemon = bench.daemon(added());
    let runtime = json!({ "ips": ["10.244.1.7/24", "fd00::7"], "mac": "02:00:00:00:00:07" });
    let config = bench.config("1.0.0", json!({ "runtimeConfig": runtime }));
    bench.run("ADD", &config, &[("CNI_ARGS", "IP=10.244.1.9;MAC=02:00:00:00:00:09")]).succeeded();
    let Request::Add(attach) = daemon.only().0 else { panic!() };
    assert_eq!(attach.mac.unwrap().to_string(), "02:00:00:00:00:07");
    let wanted = vec!["10.244.1.7".parse().unwrap(), "fd00::7".parse().unwrap()];
    assert_eq!(attach.ipam, Ipam::BuiltIn { wanted });
}

#[test]
fn check_compares_what_prev_result_says_of_this_interface() {
    let bench = Bench::new();
    let daemon = bench.daemon(Reply::Ok);
    let prev = json!({
        "cniVersion": "1.0.0",
        "interfaces": [
            { "name": "other", "mac": "02:00:00:00:00:01" },
            { "name": "eth0", "mac": "02:00:00:00:00:05", "sandbox": "/run/netns/a" },
        ],
        "ips": [
            { "address": "10.0.0.9/24", "interface": 0 },
            { "address": "10.244.1.5/24", "interface": 1 },
            { "address": "fd00::5/64", "gateway": "" },
        ],
        "routes": [{ "dst": "0.0.0.0/0", "gw": "10.244.1.1" }],
        "dns": null,
    });
    let output = bench.run("CHECK", &bench.config("0.4.0", json!({ "prevResult": prev })), &[]);
    output.succeeded();
    assert_eq!(output.json, Value::Null);
    let (Request::Check { ips, mac, routes, .. }, 2) = daemon.only() else { panic!() };
    assert_eq!(ips, vec!["10.244.1.5/24".parse().unwrap(), "fd00::5/64".parse().unwrap()]);
    assert_eq!(mac.unwrap().to_string(), "02:00:00:00:00:05");
    assert_eq!(routes.len(), 1);
}

#[test]
fn gc_takes_the_list_under_either_name() {
    for (key, list, count) in [
        ("cni.dev/valid-attachments", json!([{ "containerID": "c1", "ifname": "eth0" }]), Some(1)),
        ("cni.dev/attachments", json!([{ "containerID": "c1", "ifname": "eth0" }]), Some(1)),
        ("cni.dev/valid-attachments", json!([]), Some(0)),
        // Go writes an empty list so.
        ("cni.dev/valid-attachments", Value::Null, Some(0)),
        // libcni leaves it out when its caller said nothing.
        ("another", Value::Null, None),
    ] {
        let bench = Bench::new();
        let daemon = bench.daemon(Reply::Ok);
        bench.run("GC", &bench.config("1.1.0", json!({ key: list })), &[("CNI_IFNAME", "")]).succeeded();
        let (Request::Gc { network, valid }, 0) = daemon.only() else { panic!() };
        assert_eq!((network.as_str(), valid.map(|list| list.len())), ("pods", count));
    }
}
