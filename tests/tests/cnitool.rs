//! The specification, verb by verb and version by version; with the reference `cnitool` where there is one
//! (`CNITOOL=PATH`), and by the same calls made by hand everywhere.

use std::fs;

use serde_json::{Value, json};
use weft_tests::traffic::ping;
use weft_tests::{
    Context as _, Lab, Namespace, Node, Options, Pod, Result, as_root, bin, ensure, eventually,
};

#[test]
fn every_version_by_hand() {
    as_root(|| {
        let lab = Lab::up(Options { nodes: 1, ..Options::default() })?;
        let node = &lab.nodes[0];
        let witness = node.pod("w")?;
        for version in ["0.3.1", "0.4.0", "1.0.0", "1.1.0"] {
            let ns = Namespace::new("v")?;
            let cni = || node.cni().version(version);
            let result = cni().add(ns.name(), &ns.path())?;
            ensure!(result["cniVersion"] == version, "{result}");
            ensure!(result["interfaces"][0]["sandbox"] == ns.path(), "{result}");
            let per_version = result["ips"][0]["version"] == "4";
            ensure!(per_version == version.starts_with("0."), "{version}: {result}");
            ensure!(
                result["ips"][0]["interface"] == 0 && result["ips"].as_array().is_some_and(|i| i.len() == 2),
                "{result}"
            );
            ensure!((result["interfaces"][0]["mtu"] == 1450) == (version == "1.1.0"), "{version}: {result}");
            // reachable at once, over IPv6 too
            ping(&ns, &witness.ip(), 1)?;
            ping(&ns, &witness.ip6(), 1)?;
            if version == "0.3.1" {
                ensure!(cni().check(ns.name(), &ns.path(), &result).is_err(), "CHECK needs 0.4.0");
            } else {
                cni().check(ns.name(), &ns.path(), &result)?;
                ns.sh("ip addr flush dev eth0 scope global")?;
                ensure!(
                    cni().check(ns.name(), &ns.path(), &result).is_err(),
                    "CHECK passes without addresses"
                );
            }
            ensure!(cni().add("another", &ns.path()).is_err(), "eth0 exists: ADD must fail");
            if version == "1.1.0" {
                cni().status()?;
                cni().gc(&[&witness.id])?;
                ns.loses("eth0").context("GC kept an attachment that is not valid")?;
                ping(&witness.ns, "10.244.1.1", 1)?;
                gc_without_a_list(node, &witness)?;
            } else {
                ensure!(cni().status().is_err(), "STATUS needs 1.1.0");
            }
            cni().del(ns.name(), &ns.path())?;
            cni().del(ns.name(), &ns.path())?;
            ns.loses("eth0").context("DEL left the device")?;
        }
        Ok(())
    });
}

#[test]
fn delegated_and_chosen_addresses() {
    as_root(|| {
        let lab = Lab::up(Options { nodes: 1, ..Options::default() })?;
        let node = &lab.nodes[0];
        let data = tempfile::tempdir()?;
        let local = json!({ "ipam": { "type": "host-local", "dataDir": data.path(),
            "ranges": [[{ "subnet": "10.244.1.0/24", "rangeStart": "10.244.1.150", "rangeEnd": "10.244.1.160", "gateway": "10.244.1.1" }]],
            "routes": [{ "dst": "0.0.0.0/0" }] } });
        let fixed = json!({ "ipam": { "type": "static", "addresses": [{ "address": "10.244.1.170/24", "gateway": "10.244.1.1" }] } });
        for (extra, wanted) in [(local, "10.244.1.15"), (fixed, "10.244.1.170")] {
            let ns = Namespace::new("d")?;
            let result = node.cni().with(extra.clone()).add(ns.name(), &ns.path())?;
            ensure!(result["ips"][0]["address"].as_str().is_some_and(|a| a.starts_with(wanted)), "{result}");
            ping(&ns, "10.244.1.1", 2)?;
            node.cni().with(extra.clone()).check(ns.name(), &ns.path(), &result)?;
            node.cni().with(extra.clone()).del(ns.name(), &ns.path())?;
            // an ADD that the daemon refuses gives the address back
            ns.sh("ip link add eth0 type bridge")?;
            ensure!(node.cni().with(extra).add(ns.name(), &ns.path()).is_err(), "eth0 exists: ADD must fail");
        }
        let left =
            fs::read_dir(data.path().join("weft"))?.filter_map(|f| f.ok()?.file_name().into_string().ok());
        let left: Vec<String> = left.filter(|name| name.starts_with("10.")).collect();
        ensure!(left.is_empty(), "host-local still holds {left:?}");
        let ns = Namespace::new("c")?;
        let chosen = node
            .cni()
            .args("IgnoreUnknown=1;IP=10.244.1.180;MAC=02:00:00:00:01:80")
            .add(ns.name(), &ns.path())?;
        ensure!(chosen["ips"][0]["address"] == "10.244.1.180/24", "{chosen}");
        ensure!(chosen["interfaces"][0]["mac"] == "02:00:00:00:01:80", "{chosen}");
        let other = Namespace::new("c")?;
        ensure!(
            node.cni().args("IP=10.244.1.180").add(other.name(), &other.path()).is_err(),
            "an address given twice"
        );
        let run = json!({ "runtimeConfig": { "ips": ["10.244.1.181/24", "fd00:244:0:1::181/64"], "mac": "02:00:00:00:01:81" } });
        let chosen = node.cni().with(run).add(other.name(), &other.path())?;
        ensure!(chosen["ips"][0]["address"] == "10.244.1.181/24", "{chosen}");
        ensure!(chosen["interfaces"][0]["mac"] == "02:00:00:00:01:81", "{chosen}");
        let bandwidth = json!({ "runtimeConfig": { "bandwidth": { "ingressRate": 1_000_000, "ingressBurst": 1_000_000 } } });
        let refused = Namespace::new("b")?;
        let error = node
            .cni()
            .with(bandwidth)
            .add(refused.name(), &refused.path())
            .expect_err("bandwidth is refused");
        ensure!(error.to_string().contains("bandwidth"), "{error}");
        Ok(())
    });
}

#[test]
fn status_and_add_without_a_daemon() {
    as_root(|| {
        let lab = Lab::wired(Options { nodes: 1, ..Options::default() })?;
        let node = &lab.nodes[0];
        let start = std::time::Instant::now();
        let error = node.cni().version("1.1.0").status().expect_err("no daemon").to_string();
        ensure!(error.starts_with("50:"), "{error}");
        ensure!(start.elapsed().as_secs() >= 4, "STATUS must wait for a restarting daemon");
        let ns = Namespace::new("n")?;
        let error = node.cni().add(ns.name(), &ns.path()).expect_err("no daemon").to_string();
        ensure!(error.starts_with("11:"), "{error}");
        node.cni().del(ns.name(), &ns.path())
    });
}

/// What the caller did not list may live: only what is dead goes.
fn gc_without_a_list(node: &Node, living: &Pod) -> Result<()> {
    let lost = node.pod("l")?;
    lost.ns.sh("ip link del eth0")?;
    eventually(5, || {
        let ports = node.weft(&["-o", "json", "show"])?;
        ensure!(ports.contains("\"lost\""), "not lost yet: {ports}");
        Ok(())
    })?;
    node.cni().version("1.1.0").call("GC", "", "", json!({}))?;
    ensure!(!node.weft(&["-o", "json", "show"])?.contains(&lost.id), "a lost port outlives GC");
    ping(&living.ns, "10.244.1.1", 1)
}

/// What libcni does for a list: each plugin gets the result of the one before it, CHECK and DEL the last result, DEL in
/// reverse order.
#[test]
fn chained_by_hand() {
    as_root(|| {
        let lab = Lab::up(Options::default())?;
        let node = &lab.nodes[0];
        let rules = || node.ns.sh("iptables-save -t nat | grep -v '^[#:]' || true");
        let data = tempfile::tempdir()?;
        for version in ["0.4.0", "1.0.0"] {
            let ns = Namespace::new("chain")?;
            let tuning =
                json!({ "sysctl": { "net.ipv4.conf.eth0.log_martians": "1" }, "dataDir": data.path() });
            let portmap = json!({ "capabilities": { "portMappings": true }, "runtimeConfig": {
                "portMappings": [{ "hostPort": 8080, "containerPort": 80, "protocol": "tcp" }] } });
            let chain = [("weft-cni", json!({})), ("tuning", tuning), ("portmap", portmap)];
            let call = |verb: &str, (name, keys): &(&str, Value), previous: &Value| {
                let mut keys = keys.clone();
                if !previous.is_null() {
                    keys["prevResult"] = previous.clone();
                }
                let result = node.cni().version(version).plugin(name).call(verb, ns.name(), &ns.path(), keys);
                result.with_context(|| format!("{verb} of {name}, {version}"))
            };
            let own = call("ADD", &chain[0], &Value::Null)?;
            let result =
                chain[1..].iter().try_fold(own.clone(), |result, plugin| call("ADD", plugin, &result))?;
            ensure!(result["cniVersion"] == version, "{result}");
            for key in ["ips", "interfaces", "routes"] {
                ensure!(result[key] == own[key], "{key} of weft's result did not stay: {own}, {result}");
            }
            let martians = || ns.sh("cat /proc/sys/net/ipv4/conf/eth0/log_martians");
            ensure!(martians()?.trim() == "1", "tuning did not tune");
            // The published port leads to the pod, from another node.
            let server = ns.spawn("sh", &["-c", "echo hello | timeout 20 nc.openbsd -N -l 80"])?;
            eventually(5, || {
                ensure!(!ns.sh("ss -Hltn sport = :80")?.trim().is_empty(), "nc does not listen");
                Ok(())
            })?;
            let said = lab.nodes[1].ns.sh("timeout 5 nc.openbsd -N 172.30.0.1 8080 </dev/null")?;
            ensure!(said.contains("hello"), "{said}");
            drop(server);
            ensure!(rules()?.contains("8080"), "a port is published without a rule");
            for plugin in &chain[..2] {
                call("CHECK", plugin, &result)?;
            }
            // Without its port: portmap 1.1.1 looks for its IPv4 rules in ip6tables, too, and complains about any result.
            call("CHECK", &("portmap", json!({ "capabilities": { "portMappings": true } })), &result)?;
            for _ in 0..2 {
                for plugin in chain.iter().rev() {
                    call("DEL", plugin, &result)?;
                }
            }
            ns.loses("eth0").context("DEL left the device")?;
            let (after, address) = (rules()?, own["ips"][0]["address"].as_str().unwrap_or_default());
            let address = address.split('/').next().unwrap_or_default();
            ensure!(!after.contains(address) && !after.contains("8080"), "rules were left: {after}");
        }
        Ok(())
    });
}

/// Runs `cnitool` of the reference library against weft, alone and chained.
#[test]
fn reference_cnitool() {
    as_root(|| {
        let Some(tool) = std::env::var_os("CNITOOL") else {
            println!("skipped: CNITOOL names no cnitool; the calls made by hand cover the same verbs");
            return Ok(());
        };
        let plugins = std::env::var("CNI_PLUGINS").unwrap_or_else(|_| "/usr/lib/cni".into());
        let lab = Lab::up(Options { nodes: 1, ..Options::default() })?;
        let node = &lab.nodes[0];
        let witness = node.pod("w")?;
        for version in ["0.4.0", "1.0.0", "1.1.0"] {
            for chain in [&[][..], &["tuning", "portmap"]] {
                let conf = tempfile::tempdir()?;
                let mut list = vec![json!({ "type": "weft-cni", "socket": node.cni_socket() })];
                list.extend(chain.iter().map(|name| match *name {
                    "portmap" => json!({ "type": "portmap", "capabilities": { "portMappings": true } }),
                    name => json!({ "type": name }),
                }));
                let list: Value = json!({ "cniVersion": version, "name": "weft", "plugins": list });
                fs::write(conf.path().join("10-weft.conflist"), list.to_string())?;
                let ns = Namespace::new("t")?;
                let call = |verb: &str| -> Result<String> {
                    let mut command = node.ns.command(&tool.to_string_lossy(), &[verb, "weft", &ns.path()]);
                    command
                        .env("NETCONFPATH", conf.path())
                        .env("CNI_PATH", format!("{}:{plugins}", bin::dir().display()));
                    weft_tests::ns::output(command)
                };
                call("add")?;
                ping(&ns, "10.244.1.1", 2)?;
                call("check")?;
                if version == "1.1.0" {
                    call("status")?;
                }
                call("del")?;
                call("del")?;
                if version == "1.1.0" {
                    call("add")?;
                    // cnitool names nothing: libcni sends a DEL for each attachment that it knows, then a GC without a list.
                    call("gc")?;
                    ns.loses("eth0").context("GC left the device")?;
                    ping(&witness.ns, "10.244.1.1", 2)?;
                }
            }
        }
        Ok(())
    });
}
