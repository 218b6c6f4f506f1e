use super::*;

const NODES: &str = include_str!("nodes.json");

fn failed(json: &str) -> String {
    import(json.as_bytes(), None, None).unwrap_err().to_string()
}

#[test]
fn nodes_become_a_file() {
    let (text, count) = import(NODES.as_bytes(), None, Some("n1")).unwrap();
    assert_eq!(count, 2);
    insta::assert_snapshot!(text);
}

#[test]
fn settings_of_the_existing_file_are_kept() {
    let existing = r#"
        [cluster]
        cidrs = ["10.244.0.0/16"]
        vni = 7
        node = "n1"
        [[node]]
        name = "n2"
        underlay = "192.0.2.1"
        pod_cidrs = ["10.9.0.0/24"]
        mac = "02:00:00:00:00:02"
        [[node]]
        name = "gone"
        underlay = "192.0.2.3"
        pod_cidrs = ["10.10.0.0/24"]
    "#;
    let (text, _) = import(NODES.as_bytes(), Some(existing), Some("n2")).unwrap();
    insta::assert_snapshot!(text);
    // Importing again changes nothing.
    assert_eq!(import(NODES.as_bytes(), Some(&text), None).unwrap().0, text);

    let error = import(NODES.as_bytes(), Some("[[node]"), None).unwrap_err().to_string();
    assert!(error.contains("not a cluster file"), "{error}");
}

#[test]
fn unusable_nodes_are_refused_by_name() {
    assert!(failed(&NODES.replace("InternalIP", "ExternalIP")).contains("node n2 has no InternalIP"));
    let error = failed(&NODES.replace(r#""podCIDR": "10.244.0.0/24""#, r#""podCIDR": """#));
    assert!(error.contains("node n1 has no podCIDR"), "{error}");
    let error = failed(&NODES.replace("10.244.0.0/24", "10.244.0.0/240"));
    assert_eq!(error, "node n1: `10.244.0.0/240` is not a prefix like 10.244.0.0/24");
    let error = failed(&NODES.replace("172.30.0.11", "172.30.0.12"));
    assert_eq!(error, "nodes n1 and n2 have the same InternalIP 172.30.0.12");
    let error = failed(&NODES.replace("10.244.0.0/24", "10.244.1.0/24"));
    assert_eq!(error, "nodes n1 and n2 have the same podCIDR 10.244.1.0/24");
}

#[test]
fn other_input_is_refused() {
    assert!(failed("").contains("kubectl get nodes -o json"));
    assert!(failed(r#"{"kind":"List","items":[]}"#).contains("not one node"));
    assert!(failed(r#"{"kind":"Pod"}"#).contains("kind Pod"));
    assert!(failed(r#"{"kind":"List","items":[{"kind":"Pod"}]}"#).contains("kind Pod"));
    assert!(failed("[1]").contains("kind unknown"));
    for (existing, own) in [(None, Some("n3")), (Some("[cluster]\nnode = \"n3\""), None)] {
        let error = import(NODES.as_bytes(), existing, own).unwrap_err().to_string();
        assert_eq!(
            error,
            "this machine shall be node n3, which is not among n1, n2; name one of them with --node"
        );
    }
}

#[test]
fn one_node_alone_is_accepted() {
    let list: serde_json::Value = serde_json::from_str(NODES).unwrap();
    let (text, count) = import(list["items"][1].to_string().as_bytes(), None, None).unwrap();
    assert_eq!(count, 1);
    assert!(text.contains("n1"));
}
