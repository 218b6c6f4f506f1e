use super::*;
use crate::control::effects::testing::{namespace, root};

fn spec() -> NftSpec {
    NftSpec {
        ifname: "weft0".into(),
        pod_cidrs: vec!["10.244.1.0/24".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
        cluster_cidrs: vec!["10.244.0.0/16".parse().unwrap(), "fd00::/16".parse().unwrap()],
        masquerade: true,
        untracked: Some("192.0.2.1:4789".parse().unwrap()),
    }
}

#[test]
fn the_text_has_what_flannel_has() {
    let text = ruleset(&spec());
    for part in [
        "elements = { 10.244.0.0/16 }",
        "oifname \"weft0\" ip saddr != @cluster4 ip daddr @cluster4 ip daddr != @local4 masquerade",
        "oifname != { \"lo\", \"weft0\" } ip6 saddr @cluster6 ip6 daddr != @cluster6",
        "iifname \"weft0\" accept",
        "ip daddr 192.0.2.1 udp dport 4789 notrack",
        "ip saddr 192.0.2.1 udp dport 4789 notrack",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let v6 = ruleset(&NftSpec { untracked: Some("[2001:db8::1]:8472".parse().unwrap()), ..spec() });
    assert!(v6.contains("ip6 saddr 2001:db8::1 udp dport 8472 notrack"), "{v6}");
    let without = ruleset(&NftSpec { masquerade: false, ..spec() });
    assert!(!without.contains("\"lo\"") && without.contains("saddr != @cluster4"));
    assert!(!ruleset(&NftSpec { ifname: "weft0".into(), ..NftSpec::default() }).contains("set "));
}

#[test]
fn a_missing_program_is_named_with_its_package() {
    let error = output("nft-that-is-not", &[], None).unwrap_err().to_string();
    assert!(error.contains("not found; install the package"), "{error}");
}

#[test]
fn the_table_is_replaced_whole_and_removed() {
    if !root() {
        return;
    }
    namespace()
        .run(|| {
            assert!(!exists());
            apply(&spec()).unwrap();
            let first = nft(&["list", "table", "inet", TABLE]).unwrap();
            apply(&spec()).unwrap();
            assert_eq!(nft(&["list", "table", "inet", TABLE]).unwrap(), first);
            apply(&NftSpec { masquerade: false, ..spec() }).unwrap();
            assert!(!nft(&["list", "table", "inet", TABLE]).unwrap().contains("\"lo\""));
            remove().unwrap();
            remove().unwrap();
            assert!(!exists() && nft(&["list", "ruleset"]).unwrap().is_empty());
        })
        .unwrap();
}
