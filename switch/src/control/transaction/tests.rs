use std::collections::BTreeMap;
use std::sync::Arc;

use weft_api::transaction::Transaction;

use super::*;
use crate::control::testing::state_with_cluster;

fn draft() -> Draft {
    Draft {
        state: state_with_cluster(),
        netns: BTreeMap::new(),
        forget: Vec::new(),
        origins: BTreeMap::new(),
        now: 1000,
        is_learned: Arc::new(|_, _, _| false),
    }
}

/// Applies commands in JSON, as they come over the API.
fn run(draft: &mut Draft, commands: &str) -> std::result::Result<Vec<Outcome>, (Code, usize, String)> {
    let transaction: Transaction =
        serde_json::from_str(&format!("{{\"commands\":[{commands}]}}")).expect(commands);
    apply(draft, transaction).map_err(|error| (error.code, error.command.unwrap_or(99), error.message))
}

const BR1: &str = r#"{"do":"add-bridge","bridge":{"name":"br1","gateways":["10.9.0.1/24"]}}"#;
const WEB: &str =
    r#"{"do":"add-port","port":{"name":"web","bridge":"br1","netns":"web","ips":["10.9.0.2/24"]}}"#;

#[test]
fn later_commands_see_earlier_ones() {
    let mut draft = draft();
    assert_eq!(run(&mut draft, &format!("{BR1},{WEB}")).unwrap(), [Outcome::Done; 2]);
    assert_eq!(draft.origins, BTreeMap::from([("web".to_owned(), 1)]));
    let web = &draft.state.ports["web"].spec;
    assert_eq!(web.ifname.as_deref(), Some("eth0"));
    assert_eq!(web.mtu, Some(1450));
    assert_eq!(web.gateways.as_deref(), Some(&["10.9.0.1".parse().unwrap()][..]));
    assert!(web.mac.is_some_and(|mac| mac.is_unicast()));
    let again = run(
        &mut draft,
        r#"{"do":"add-bridge","bridge":{"name":"br1"},"may_exist":true},
        {"do":"add-port","port":{"name":"web","bridge":"br1"},"may_exist":true}"#,
    );
    assert_eq!(again.unwrap(), [Outcome::Unchanged; 2]);
    run(&mut draft, r#"{"do":"del-bridge","name":"br1"}"#).unwrap();
    assert!(!draft.state.ports.contains_key("web"));
    let missing = run(&mut draft, r#"{"do":"del-bridge","name":"br1","if_exists":true}"#);
    assert_eq!(missing.unwrap(), [Outcome::Unchanged]);
}

#[test]
fn a_bigger_mtu_is_for_new_ports_that_reach_their_neighbours_on_this_node() {
    let mut draft = draft();
    run(&mut draft, &format!("{BR1},{WEB}")).unwrap();
    let set = r#"{"do":"set-bridge","name":"br1","key":"local_mtu","value":"65521"}"#;
    let port = |name: &str, more: &str| {
        let (port, netns) = (format!(r#""name":"{name}","bridge":"br1""#), format!(r#""netns":"{name}""#));
        format!(r#"{{"do":"add-port","port":{{{port},{netns},{more}}}}}"#)
    };
    let ports = [
        port("new", r#""ips":["10.9.0.3/24"]"#),
        port("told", r#""ips":["10.9.0.4/24"],"mtu":1400"#),
        port("bare", r#""guard":true"#),
        port("tagged", r#""ips":["10.9.0.5/24"],"tag":7"#),
        port("wide", r#""ips":["10.9.0.6/16"]"#),
    ];
    run(&mut draft, &format!("{set},{}", ports.join(","))).unwrap();
    let mtus = |draft: &Draft, name: &str| {
        let record = &draft.state.ports[name];
        let device = crate::control::plan::device(&draft.state, record).unwrap();
        (device.mtu, device.route_mtu)
    };
    assert_eq!(mtus(&draft, "new"), (65_521, Some(1450)));
    for (name, mtu) in [("web", 1450), ("told", 1400), ("bare", 1450), ("tagged", 1450), ("wide", 1450)] {
        assert_eq!(mtus(&draft, name), (mtu, None), "{name}");
    }
    // What was made before is asked anew by name.
    run(&mut draft, r#"{"do":"set-port","name":"web","key":"mtu","value":""}"#).unwrap();
    assert_eq!(mtus(&draft, "web"), (65_521, Some(1450)));
    run(&mut draft, r#"{"do":"set-port","name":"web","key":"mtu","value":"1300"}"#).unwrap();
    assert_eq!(mtus(&draft, "web"), (1300, None));
    // The underlay changes; then other nodes are on link.
    Arc::make_mut(&mut draft.state.node).underlay_mtu = Some(1400);
    draft.state.follow_mtu();
    assert_eq!(mtus(&draft, "new"), (65_521, Some(1350)));
    let segment = r#"{"do":"add-port","port":{"name":"v","bridge":"br1","kind":"vxlan","vni":7,"remotes":["192.0.2.9"]}}"#;
    run(&mut draft, segment).unwrap();
    run(&mut draft, &port("later", r#""ips":["10.9.0.7/24"]"#)).unwrap();
    assert_eq!((mtus(&draft, "new"), mtus(&draft, "later")), ((1350, None), (1350, None)));
    let error = run(&mut draft, &set.replace("65521", "65535")).unwrap_err();
    assert_eq!(error.2, "local_mtu 65535; expected 1280 to 65521 bytes");
}

#[test]
fn errors_name_code_command_and_reason() {
    let port = |more: &str| format!(r#"{{"do":"add-port","port":{{"name":"p","bridge":"br1",{more}}}}}"#);
    for (command, code, message) in [
        (BR1.to_owned(), Code::Conflict, "a bridge named br1 exists already"),
        (WEB.to_owned(), Code::Conflict, "a port named web exists already on br1"),
        (r#"{"do":"add-bridge","bridge":{"name":"a b"}}"#.into(), Code::Invalid, "bridge name `a b`; expected"),
        (r#"{"do":"del-bridge","name":"no"}"#.into(), Code::NotFound, "no bridge is named no; `weft list-br` lists them"),
        (r#"{"do":"del-bridge","name":"br0"}"#.into(), Code::Owned, "bridge br0 belongs to file"),
        (r#"{"do":"del-port","name":"weft0"}"#.into(), Code::Owned, "port weft0 belongs to file"),
        (r#"{"do":"del-port","name":"no"}"#.into(), Code::NotFound, "no port is named no; `weft show` lists them"),
        (r#"{"do":"del-port","bridge":"br0","name":"web"}"#.into(), Code::Conflict, "port web is on bridge br1"),
        (r#"{"do":"add-port","port":{"name":"p","bridge":"no"}}"#.into(), Code::NotFound, "no bridge is named no"),
        (r#"{"do":"add-port","port":{"name":"web","bridge":"br0"},"may_exist":true}"#.into(), Code::Conflict, "not br0"),
        (port(r#""ips":["10.9.0.2/24"]"#), Code::Conflict, "10.9.0.2 is the address of port web"),
        (port(r#""ips":["10.9.0.1/24"]"#), Code::Conflict, "10.9.0.1 is a gateway address"),
        (port(r#""ips":["10.9.0.0/24"]"#), Code::Invalid, "10.9.0.0 is the network address of 10.9.0.0/24"),
        (port(r#""ips":["10.9.0.255/32"]"#), Code::Invalid, "10.9.0.255 is the broadcast address of 10.9.0.0/24"),
        (port(r#""mac":"01:00:5e:00:00:01""#), Code::Invalid, "no station's MAC"),
        (port(r#""mtu":40"#), Code::Invalid, "mtu 40; expected 68"),
        (port(r#""mtu":1000,"ips":["fd00::2/64"]"#), Code::Invalid, "mtu 1000; expected 1280"),
        (port(r#""queues":17"#), Code::Invalid, "queues 17; expected 1 to 16"),
        (port(r#""offloads_off":["lro"]"#), Code::Invalid, "offload `lro`"),
        (port(r#""owner":"cni""#), Code::Invalid, "owner cni cannot be chosen"),
        (port(r#""kind":"internal""#), Code::Invalid, "weftd itself makes"),
        (port(r#""kind":"vxlan""#), Code::Invalid, "needs vni"),
        (port(r#""kind":"vxlan","vni":7"#), Code::Invalid, "needs remotes"),
        (port(r#""kind":"vxlan","vni":1,"remotes":["192.0.2.2"]"#), Code::Conflict, "carries routed traffic of node n2"),
        (port(r#""vni":7"#), Code::Invalid, "go with type=vxlan"),
        (port(r#""tag":5,"trunks":[5]"#), Code::Invalid, "tag and trunk at once"),
        (port(r#""netns":"web""#), Code::Conflict, "the device eth0 in that namespace is port web"),
        (r#"{"do":"set-port","name":"web","key":"colour","value":"x"}"#.into(), Code::Invalid, "no setting `colour`"),
        (r#"{"do":"set-port","name":"web","key":"tag","value":"5000"}"#.into(), Code::Invalid, "tag=5000"),
        (r#"{"do":"set-bridge","name":"br0","key":"mtu","value":"1400"}"#.into(), Code::Owned, "belongs to file"),
        (r#"{"do":"add-route","route":{"bridge":"br0","dst":"10.244.2.0/24","via":"node"}}"#.into(), Code::Owned, "belongs to file"),
        (r#"{"do":"add-route","route":{"bridge":"br1","dst":"10.5.0.0/16","via":{"gateway":{"ip":"10.8.0.1"}}}}"#.into(), Code::Invalid, "on no segment"),
        (r#"{"do":"add-route","route":{"bridge":"br1","dst":"0.0.0.0/0","via":"node"}}"#.into(), Code::Invalid, "bridge br1 has no port of the node's own, so `via node` leads nowhere; only bridge br0"),
        (r#"{"do":"del-route","bridge":"br0","dst":"10.244.0.0/16"}"#.into(), Code::Owned, "route 10.244.0.0/16 belongs to file"),
        (r#"{"do":"del-route","bridge":"br0","dst":"10.244.1.0/24"}"#.into(), Code::Owned, "route 10.244.1.0/24 belongs to file"),
        (r#"{"do":"del-route","bridge":"br0","dst":"::/0"}"#.into(), Code::Owned, "route ::/0 belongs to file"),
        (r#"{"do":"del-route","bridge":"br1","dst":"10.9.0.0/24"}"#.into(), Code::Conflict, "route 10.9.0.0/24 goes with a gateway of bridge br1"),
        (r#"{"do":"del-route","bridge":"br1","dst":"0.0.0.0/0"}"#.into(), Code::NotFound, "no route"),
        (r#"{"do":"del-route","bridge":"br1","dst":"10.5.0.0/16"}"#.into(), Code::NotFound, "no route"),
        (r#"{"do":"add-fdb","bridge":"br1","mac":"02:00:00:00:00:09","port":"no"}"#.into(), Code::NotFound, "no port is named no"),
        (r#"{"do":"del-fdb","bridge":"br1","mac":"02:00:00:00:00:09"}"#.into(), Code::NotFound, "not in the FDB"),
        (r#"{"do":"add-neighbour","bridge":"br1","ip":"10.9.0.2","mac":"02:00:00:00:00:09","port":"web"}"#.into(), Code::Conflict, "10.9.0.2 is the address of port web; change it with `weft set port web ip=`"),
    ] {
        let mut draft = draft();
        let (found, index, text) = run(&mut draft, &format!("{BR1},{WEB},{command}")).expect_err(&command);
        assert_eq!((found, index), (code, 2), "{command}: {text}");
        assert!(text.contains(message), "{command}: {text}");
    }
}

#[test]
fn gateways_are_hosts_beside_the_pods() {
    let add = |more: &str| format!(r#"{{"do":"add-bridge","bridge":{{"name":"br2",{more}}}}}"#);
    let set = |gateways: &str| {
        format!(r#"{BR1},{{"do":"set-bridge","name":"br1","key":"gateways","value":"{gateways}"}}"#)
    };
    for (command, code, message) in [
        (add(r#""gateways":["10.8.0.0/24"]"#), Code::Invalid, "gateway 10.8.0.0 is the network address of"),
        (
            add(r#""gateways":["10.8.0.255/24"]"#),
            Code::Invalid,
            "10.8.0.255 is the broadcast address of 10.8.0.0/24",
        ),
        (add(r#""gateways":["fd08::/64"]"#), Code::Invalid, "fd08:: is the network address of fd08::/64"),
        (add(r#""gateways":["fd08::1/64"],"mtu":1279"#), Code::Invalid, "mtu 1279; expected 1280 to 65521"),
        (add(r#""gateways":["10.244.2.1/24"]"#), Code::Conflict, "overlaps the pod CIDR 10.244.2.0/24 of n2"),
        (add(r#""gateways":["10.244.1.129/25"]"#), Code::Conflict, "the pod CIDR 10.244.1.0/24 of this node"),
        (add(r#""gateways":["10.0.0.1/8"]"#), Code::Conflict, "overlaps the pod CIDR"),
        (set("10.244.2.1/24"), Code::Conflict, "of n2"),
        (set("10.8.0.255/24"), Code::Invalid, "broadcast address"),
    ] {
        let (found, _, text) = run(&mut draft(), &command).expect_err(&command);
        assert!(found == code && text.contains(message), "{command}: {found:?} {text}");
    }
    let gateways =
        ["10.8.0.0/31", "10.8.0.255/32", "10.8.0.254/24", "fd08::ffff:ffff:ffff:ffff/64", "10.244.3.1/24"];
    for gateway in gateways {
        run(&mut draft(), &add(&format!(r#""gateways":["{gateway}"],"mtu":1280"#))).expect(gateway);
        run(&mut draft(), &set(gateway)).expect(gateway);
    }
    run(&mut draft(), &add(r#""gateways":["10.8.0.1/24"],"mtu":68"#)).unwrap();
}

#[test]
fn a_bridge_that_may_exist_has_the_settings_that_are_asked_for() {
    let mut draft = draft();
    run(&mut draft, BR1).unwrap();
    let mac = draft.state.router_mac("br1").unwrap();
    let add = |name: &str, more: &str| {
        format!(r#"{{"do":"add-bridge","bridge":{{"name":"{name}"{more}}},"may_exist":true}}"#)
    };
    for (name, same) in [
        ("br1", String::new()),
        ("br1", r#","gateways":["10.9.0.1/24"]"#.to_owned()),
        ("br1", format!(r#","mac":"{mac}","fdb_max":16384"#)),
        ("br0", r#","gateways":["10.244.1.1/24"]"#.to_owned()),
    ] {
        assert_eq!(run(&mut draft, &add(name, &same)), Ok(vec![Outcome::Unchanged]), "{name} {same}");
    }
    for (other, told) in [
        (r#","mtu":1400"#, "mtu=none, not 1400; change it by `set bridge`, or leave mtu out"),
        (r#","gateways":["10.8.0.1/24"]"#, "gateway=10.9.0.1/24, not 10.8.0.1/24; change"),
        (r#","fdb_max":7"#, "fdb-max=16384, not 7; change"),
    ] {
        let (code, _, text) = run(&mut draft, &add("br1", other)).unwrap_err();
        assert_eq!(code, Code::Conflict, "{text}");
        assert!(text.starts_with(&format!("bridge br1 exists with {told}")), "{text}");
    }
}

#[test]
fn set_changes_what_it_names() {
    let mut draft = draft();
    run(&mut draft, &format!("{BR1},{WEB}")).unwrap();
    let set = |key: &str, value: &str| {
        format!(r#"{{"do":"set-port","name":"web","key":"{key}","value":"{value}"}}"#)
    };
    run(
        &mut draft,
        &[
            set("tag", "7"),
            set("trunks", "8,9"),
            set("guard", "false"),
            set("mtu", "1400"),
            set("external_ids:pod", "p"),
        ]
        .join(","),
    )
    .unwrap();
    let spec = draft.state.ports["web"].spec.clone();
    assert_eq!((spec.tag.unwrap().get(), spec.trunks.len(), spec.guard, spec.mtu), (7, 2, false, Some(1400)));
    assert_eq!(spec.external_ids["pod"], "p");
    assert_eq!(run(&mut draft, &set("tag", "7")).unwrap(), [Outcome::Unchanged]);
    run(&mut draft, &[set("mtu", ""), set("tag", ""), set("external_ids:pod", "")].join(",")).unwrap();
    let spec = draft.state.ports["web"].spec.clone();
    assert_eq!((spec.tag, spec.mtu, spec.external_ids.len()), (None, Some(1450), 0));
    run(&mut draft, r#"{"do":"set-bridge","name":"br1","key":"mtu","value":"9000"}"#).unwrap();
    assert_eq!(draft.state.ports["web"].spec.mtu, Some(9000));
}

#[test]
fn a_port_s_own_station_goes_with_the_port() {
    let mut draft = draft();
    let web = WEB.replace("\"ips\"", r#""mac":"02:00:00:00:00:05","tag":7,"trunks":[8],"ips""#);
    run(&mut draft, &format!("{BR1},{web}")).unwrap();
    let mut pod = PortSpec::new("pod", "br0", PortKind::Tap, Owner::Cni);
    pod.mac = Some("02:00:00:00:00:06".parse().unwrap());
    draft.state.put_port(PortRecord::new(pod));
    let (node, router) =
        (draft.state.ports["weft0"].spec.mac.unwrap(), draft.state.router_mac("br0").unwrap());

    let add = |bridge: &str, mac: &str, port: &str, vlan: &str| {
        format!(r#"{{"do":"add-fdb","bridge":"{bridge}","mac":"{mac}","port":"{port}","vlan":{vlan}}}"#)
    };
    let del = |bridge: &str, mac: &str, vlan: &str| {
        format!(r#"{{"do":"del-fdb","bridge":"{bridge}","mac":"{mac}","vlan":{vlan},"if_exists":true}}"#)
    };
    let (web, pod, node, router) =
        ("02:00:00:00:00:05", "02:00:00:00:00:06", &*node.to_string(), &*router.to_string());
    let of_web = "02:00:00:00:00:05 is the MAC of port web; change it with `weft set port web mac=`";
    let of_pod = "MAC 02:00:00:00:00:06 of port pod belongs to cni; let its container runtime change it";
    for (command, code, message) in [
        (add("br0", pod, "weft0", "null"), Code::Owned, of_pod),
        (add("br0", pod, "pod", "null"), Code::Owned, of_pod),
        (del("br0", pod, "null"), Code::Owned, of_pod),
        (add("br0", node, "pod", "null"), Code::Owned, "of port weft0 belongs to file"),
        (add("br0", router, "pod", "null"), Code::Conflict, "is the MAC of the router of bridge br0"),
        (add("br1", web, "web", "7"), Code::Conflict, of_web),
        (add("br1", web, "web", "8"), Code::Conflict, of_web),
        (del("br1", web, "8"), Code::Conflict, of_web),
    ] {
        let before = draft.state.statics.clone();
        let (found, _, text) = run(&mut draft, &command).expect_err(&command);
        assert!(found == code && text.contains(message), "{command}: {found:?} {text}");
        assert_eq!(draft.state.statics, before, "{command}");
    }
    // Elsewhere the MAC is nobody's.
    for command in [add("br1", web, "web", "9"), add("br1", web, "web", "null"), del("br1", web, "null")] {
        assert_eq!(run(&mut draft, &command).unwrap(), [Outcome::Done], "{command}");
    }
    // What is static already no port can have.
    let tag = |tag: u8| format!(r#"{{"do":"set-port","name":"web","key":"tag","value":"{tag}"}}"#);
    let (code, _, text) = run(&mut draft, &tag(9)).unwrap_err();
    assert_eq!(
        (code, text.as_str()),
        (Code::Conflict, "02:00:00:00:00:05 is a static station behind port web; delete it first")
    );
}

#[test]
fn the_router_takes_no_static_station() {
    let mut draft = draft();
    let fdb = r#"{"do":"add-fdb","bridge":"br1","mac":"02:00:00:00:00:07","port":"web"}"#;
    run(&mut draft, &format!("{BR1},{WEB},{fdb}")).unwrap();
    let set = r#"{"do":"set-bridge","name":"br1","key":"mac","value":"02:00:00:00:00:07"}"#;
    let (code, _, text) = run(&mut draft, set).unwrap_err();
    assert_eq!((code, text.contains("static station of br1")), (Code::Conflict, true), "{text}");
}

#[test]
fn two_ports_have_no_station_in_common() {
    let port = |name: &str, more: &str| {
        let at = format!(r#""name":"{name}","bridge":"br1","netns":"{name}""#);
        format!(r#"{{"do":"add-port","port":{{{at},"mac":"02:00:00:00:00:05",{more}}}}}"#)
    };
    for (more, fits) in [(r#""tag":9"#, true), (r#""tag":8"#, false), (r#""trunks":[7]"#, false)] {
        let both = format!("{BR1},{},{}", port("a", r#""tag":7,"trunks":[8]"#), port("b", more));
        let result = run(&mut draft(), &both);
        let refused = (Code::Conflict, 2, "02:00:00:00:00:05 is the MAC of port a".to_owned());
        assert_eq!(result, if fits { Ok(vec![Outcome::Done; 3]) } else { Err(refused) }, "{more}");
    }
}

#[test]
fn a_port_that_asks_for_no_mac_gets_one_that_no_other_station_has() {
    let mut draft = draft();
    run(&mut draft, &format!("{BR1},{WEB}")).unwrap();
    let mac_of = |draft: &Draft| draft.state.ports["web"].spec.mac.unwrap();
    let first = mac_of(&draft);
    let entry = StaticMac { port: "db".into(), remote: None, owner: Owner::Cli };
    draft.state.remove_port("web", 0);
    draft.state.statics.insert(("br1".to_owned(), None, first), entry);
    run(&mut draft, WEB).unwrap();
    let second = mac_of(&draft);
    assert_ne!(second, first);
    draft.state.statics.clear();
    draft.state.remove_port("web", 0);
    run(&mut draft, WEB).unwrap();
    assert_eq!(mac_of(&draft), first, "the same every time");
    let set = |mac: &str| format!(r#"{{"do":"set-port","name":"web","key":"mac","value":"{mac}"}}"#);
    run(&mut draft, &[set("02:00:00:00:00:55"), set("")].join(",")).unwrap();
    assert_eq!(mac_of(&draft), first, "its own is no other's");
}

#[test]
fn stored_statics_give_way_to_ports() {
    let mut draft = draft();
    run(&mut draft, &format!("{BR1},{WEB}")).unwrap();
    let mac = draft.state.ports["web"].spec.mac.unwrap();
    let entry = StaticMac { port: "web".into(), remote: None, owner: Owner::Cli };
    let other: MacAddr = "02:00:00:00:00:09".parse().unwrap();
    for key in [("br1", mac), ("br1", other), ("br0", mac)] {
        draft.state.statics.insert((key.0.to_owned(), None, key.1), entry.clone());
    }
    let said = format!("static station {mac} of br1 behind web: the MAC of port web");
    assert_eq!(draft.state.drop_statics_of_ports(), [said]);
    assert_eq!(draft.state.statics.len(), 2);
}

#[test]
fn stations_and_neighbours_go_with_their_port() {
    let mut draft = draft();
    run(
        &mut draft,
        &format!(
            r#"{BR1},{WEB},{{"do":"add-fdb","bridge":"br1","mac":"02:00:00:00:00:09","port":"web"}},
        {{"do":"add-neighbour","bridge":"br1","ip":"10.9.0.9","mac":"02:00:00:00:00:09","port":"web"}},
        {{"do":"flush-fdb","bridge":"br1","port":"web"}}"#
        ),
    )
    .unwrap();
    assert_eq!((draft.state.statics.len(), draft.state.neighbours.len(), draft.forget.len()), (1, 1, 1));
    run(&mut draft, r#"{"do":"del-port","name":"web"}"#).unwrap();
    assert_eq!((draft.state.statics.len(), draft.state.neighbours.len()), (0, 0));
}
