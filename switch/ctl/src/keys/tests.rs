use weft_api::{Owner, PortKind};

use super::*;

fn setting(text: &str) -> Setting {
    text.parse().unwrap()
}

fn port(settings: &[&str]) -> Result<PortSpec, UsageError> {
    let mut port = PortSpec::new("p", "b", PortKind::Tap, Owner::Cli);
    for text in settings {
        apply_to_port(&mut port, &text.parse()?)?;
    }
    Ok(port)
}

#[test]
fn ports_take_every_key() {
    let port = port(&[
        "type=tap",
        "netns=./web",
        "ifname=eth1",
        "mac=02:00:00:00:00:05",
        "ip=10.1.0.5/24,fd00::5/64",
        "ip=10.1.0.6/24",
        "gateway=10.1.0.1",
        "route=10.0.0.0/8@10.1.0.1,192.0.2.0/24",
        "mtu=1400",
        "tag=5",
        "trunks=6,7",
        "guard=off",
        "offloads_off=tso4,uso",
        "queues=2",
        "vni=7",
        "remote=192.0.2.7",
        "udp_port=8472",
        "external_ids:pod=web=1",
    ])
    .unwrap();
    insta::assert_json_snapshot!(port);
}

#[test]
fn spellings_of_ovs_are_understood() {
    let port =
        port(&["type=vxlan", "options:remote_ip=192.0.2.7", "options:key=9", "external-ids:a=b"]).unwrap();
    assert_eq!((port.remotes.len(), port.vni.unwrap().get()), (1, 9));
    assert_eq!(port.external_ids["a"], "b");
    assert_eq!(setting("other_config:mac-aging-time=60").key, "ageing-seconds");
    assert_eq!(port_change(&setting("ips=10.1.0.5/24")).unwrap().0, "ips");
}

#[test]
fn errors_say_what_is_expected() {
    let mut text = String::new();
    for bad in [
        "web",
        "=x",
        "colour=red",
        "external_ids:=x",
        "options:df=1",
        "type=bridge",
        "netns=",
        "mac=2:0",
        "mac=ff:ff:ff:ff:ff:ff",
        "ip=10.1.0.5",
        "ip=",
        "gateway=x",
        "route=10.0.0.0/8@x",
        "route=x",
        "mtu=1",
        "mtu=99999",
        "tag=0",
        "trunks=5,x",
        "guard=maybe",
        "offloads-off=lro",
        "queues=17",
        "vni=0",
        "remote=n2",
        "udp-port=0",
    ] {
        let error = port(&[bad]).unwrap_err();
        text.push_str(&format!("{bad}: {error}\n"));
    }
    insta::assert_snapshot!(text);
}

#[test]
fn changes_are_checked_and_named_as_in_the_api() {
    let change = |text: &str| port_change(&setting(text)).map_err(|error| error.to_string());
    assert_eq!(change("ip=10.1.0.5/24"), Ok(("ips".into(), "10.1.0.5/24".into())));
    assert_eq!(change("guard=off"), Ok(("guard".into(), "false".into())));
    assert_eq!(change("tag="), Ok(("tag".into(), String::new())));
    assert_eq!(change("external_ids:a="), Ok(("external_ids:a".into(), String::new())));
    assert!(change("queues=2").unwrap_err().contains("cannot be changed, only tag, trunks"));
    assert!(change("tag=x").is_err() && change("colour=").unwrap_err().contains("known are"));

    let change = |text: &str| bridge_change(&setting(text)).map_err(|error| error.to_string());
    assert_eq!(change("gateway=10.1.0.1/24"), Ok(("gateways".into(), "10.1.0.1/24".into())));
    assert_eq!(change("ageing=60"), Ok(("ageing_seconds".into(), "60".into())));
    assert_eq!(change("mtu="), Ok(("mtu".into(), String::new())));
    assert!(change("stp=on").unwrap_err().contains("known are: gateway, mac"));
}

#[test]
fn repeated_keys_are_joined_where_they_list() {
    let settings = ["ip=10.1.0.5/24", "tag=1", "ip=fd00::5/64", "tag=2"].map(setting);
    let joined: Vec<_> = joined(&settings).into_iter().map(|s| format!("{}={}", s.key, s.value)).collect();
    assert_eq!(joined, ["ip=10.1.0.5/24,fd00::5/64", "tag=2"]);
}
