use super::*;
use crate::control::effects::testing::{namespace, root, sh};

fn nft_file(text: &str) {
    output("nft", &["-f", "-"], Some(text)).unwrap();
}

#[test]
fn only_unconditional_drops_count() {
    let rule = |json: &str| drops_all(&serde_json::from_str(json).unwrap());
    assert!(rule(r#"{"expr":[{"counter":{"packets":0,"bytes":0}},{"drop":null}]}"#));
    assert!(rule(r#"{"expr":[{"reject":{"type":"icmpx","expr":"admin-prohibited"}}]}"#));
    assert!(!rule(
        r#"{"expr":[{"match":{"op":"==","left":{"meta":{"key":"iifname"}},"right":"x"}},{"drop":null}]}"#
    ));
    assert!(!rule(r#"{"expr":[{"accept":null}]}"#));
}

#[test]
fn rules_go_where_forwarding_is_dropped_and_leave_again() {
    if !root() {
        return;
    }
    namespace()
        .run(|| {
            nft_file(
                "add table ip harmless
                 add chain ip harmless f { type filter hook forward priority 0; policy accept; }
                 add table inet walled
                 add chain inet walled forward { type filter hook forward priority 10; policy drop; }
                 add table inet fire
                 add chain inet fire fw { type filter hook forward priority 20; policy accept; }
                 add rule inet fire fw counter reject
",
            );
            let before = sh("nft list ruleset");
            let mut forward = ForeignForward::new("weft0");
            assert!(forward.check().unwrap());
            assert_eq!(forward.chains(), ["inet fire fw", "inet walled forward"]);
            let walled = sh("nft list table inet walled");
            for part in
                ["iifname \"weft0\" accept comment \"weft\"", "oifname \"weft0\" accept comment \"weft\""]
            {
                assert!(walled.contains(part), "{walled}");
            }
            assert!(!sh("nft list table ip harmless").contains("weft0"));
            assert!(!forward.check().unwrap(), "nothing to add twice");
            // A firewall that reloads flushes them.
            sh("nft flush chain inet walled forward");
            assert!(forward.check().unwrap());
            // Another run knows nothing of this one's.
            ForeignForward::new("weft0").remove().unwrap();
            assert_eq!(sh("nft list ruleset"), before);
        })
        .unwrap();
}

#[test]
fn chains_of_iptables_get_theirs_by_iptables() {
    if !root() || output("iptables-nft", &["-V"], None).is_err() {
        return;
    }
    namespace()
        .run(|| {
            sh("iptables-nft -P FORWARD DROP");
            sh("ip6tables-nft -P FORWARD DROP");
            let before = sh("iptables-nft -S FORWARD");
            let mut forward = ForeignForward::new("weft0");
            assert!(forward.check().unwrap());
            assert_eq!(forward.chains(), ["filter FORWARD (ip6tables-nft)", "filter FORWARD (iptables-nft)"]);
            let rules = sh("iptables-nft -S FORWARD");
            for way in ["-i", "-o"] {
                assert!(
                    rules.contains(&format!("-A FORWARD {way} weft0 -m comment --comment weft -j ACCEPT")),
                    "{rules}"
                );
            }
            assert!(!forward.check().unwrap());
            forward.remove().unwrap();
            assert_eq!(sh("iptables-nft -S FORWARD"), before);
        })
        .unwrap();
}
