//! The cluster file: written by `weft cluster import`, taken live, and a node's own entry in it found by its address.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};
use weft_tests::traffic::ping;
use weft_tests::{Context, Lab, Node, Options, Result, as_root, ensure, eventually};

/// `kubectl get nodes -o json` of nodes n1 to n`count`, whose addresses are the lab's.
fn kubernetes(lab: &Lab, count: usize) -> Value {
    let node = |index: usize| {
        let (v4, v6) = (format!("10.244.{index}.0/24"), format!("fd00:244:0:{index}::/64"));
        json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": { "name": format!("n{index}"), "labels": { "kubernetes.io/os": "linux" } },
            "spec": { "podCIDR": v4, "podCIDRs": [v4, v6] },
            "status": { "addresses": [
                { "type": "Hostname", "address": format!("n{index}") },
                { "type": "InternalIP", "address": lab.underlay_address(index) },
            ] },
        })
    };
    let items: Vec<Value> = (1..=count).map(node).collect();
    json!({ "apiVersion": "v1", "kind": "List", "items": items, "metadata": { "resourceVersion": "" } })
}

/// Pipes `input` through `weft cluster import`; exit code, standard output, standard error.
fn import(node: &Node, input: &str, args: &[&str]) -> Result<(i32, String, String)> {
    let mut command = node.weft_command(&[&["cluster", "import"], args].concat());
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    child.stdin.take().context("no stdin")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr)))
}

fn nodes_known(node: &Node, count: usize) -> Result<()> {
    eventually(10, || {
        let status = node.weft_json(&["status"])?;
        ensure!(status["cluster"]["nodes"] == count && status["cluster"]["error"].is_null(), "{status}");
        Ok(())
    })
}

#[test]
fn an_imported_file_is_taken_live() {
    as_root(|| {
        let mut lab = Lab::wired(Options::default())?;
        // Settings of the cluster and MACs of its nodes are the operator's, and stay.
        let mac = "02:11:22:33:44:01";
        let first = lab.cluster(1).replace("name = \"n1\"", &format!("name = \"n1\"\nmac = \"{mac}\""));
        lab.nodes[0].write_cluster(&first)?;
        lab.nodes[0].start()?;
        let a = lab.nodes[0].pod("a")?;
        nodes_known(&lab.nodes[0], 1)?;

        let file = lab.nodes[0].file("cluster.toml").to_string_lossy().into_owned();
        let two = kubernetes(&lab, 2).to_string();
        let (code, out, error) = import(&lab.nodes[0], &two, &["-o", &file])?;
        ensure!(code == 0 && out == format!("2 nodes written to {file}\n"), "{code} {out} {error}");
        nodes_known(&lab.nodes[0], 2)?;
        let text = std::fs::read_to_string(&file)?;
        ensure!(text.contains(mac) && text.contains("10.244.0.0/16"), "{text}");

        // What was written serves the other node, too.
        lab.nodes[1].write_cluster(&text)?;
        lab.nodes[1].start()?;
        let b = lab.nodes[1].pod("b")?;
        for to in [b.ip(), b.ip6()] {
            ping(&a.ns, &to, 5)?;
        }

        let (code, out, error) =
            import(&lab.nodes[0], &kubernetes(&lab, 3).to_string(), &["-o", "json", "-o", &file])?;
        ensure!(code == 0, "{error}");
        ensure!(serde_json::from_str::<Value>(&out)? == json!({ "file": file, "nodes": 3 }), "{out}");
        nodes_known(&lab.nodes[0], 3)?;
        let text = std::fs::read_to_string(&file)?;
        for (input, args, message) in [
            ("nonsense", &[][..], "is left as it was"),
            (r#"{"kind": "PodList", "items": []}"#, &[], "PodList"),
            (two.as_str(), &["--node", "n7"], "this machine shall be node n7, which is not among n1, n2"),
        ] {
            let (code, _, error) = import(&lab.nodes[0], input, &[args, &["-o", &file]].concat())?;
            ensure!(code == 1 && error.contains(message), "{code} {error}");
            ensure!(std::fs::read_to_string(&file)? == text, "{input}: the file was changed");
        }
        ping(&a.ns, &b.ip(), 5)
    });
}

/// The daemon does not start, and says why.
fn refused(node: &Node, message: &str) -> Result<()> {
    let mut child = node.weftd().stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let ended =
        eventually(20, || child.try_wait()?.context("it runs, although it does not know which node it is"));
    if ended.is_err() {
        child.kill()?;
    }
    let said = String::from_utf8_lossy(&child.wait_with_output()?.stderr).into_owned();
    ensure!(!ended?.success() && said.contains(message), "{said}");
    Ok(())
}

#[test]
fn a_node_finds_itself_by_its_address() {
    as_root(|| {
        let mut lab = Lab::wired(Options { nodes: 1, ..Options::default() })?;
        let cluster = lab.cluster(2);
        let node = &mut lab.nodes[0];
        node.tell_its_name(false);
        node.write_cluster(&cluster)?;
        node.start()?;
        ensure!(node.weft_json(&["status"])?["node"] == "n1", "{}", node.weft(&["status"])?);
        let pod = node.pod("p")?;
        ensure!(pod.ip().starts_with("10.244.1."), "{}", pod.ip());
        ping(&pod.ns, "172.30.0.1", 2)?;
        node.stop()?;

        // Both addresses are here: nobody can tell which node this is.
        node.ns.sh("ip addr add 172.30.0.2/24 dev eth0")?;
        refused(
            node,
            "underlay addresses of nodes n1, n2 are all local; say which one this is with `node =",
        )?;
        // By name it is told apart, in weft.toml as well.
        std::fs::write(node.file("weft.toml"), "node = \"n1\"\n")?;
        node.start()?;
        ensure!(node.weft_json(&["status"])?["node"] == "n1", "{}", node.weft(&["status"])?);
        node.stop()?;
        std::fs::write(node.file("weft.toml"), "")?;
        node.ns.sh("ip addr flush dev eth0; ip addr add 172.30.0.77/24 dev eth0")?;
        refused(
            node,
            "no [[node]] has an underlay address of this machine; add one, or name it with `node =",
        )?;
        // What was left is purged by name.
        node.tell_its_name(true);
        Ok(())
    });
}
