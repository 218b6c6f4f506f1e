use super::*;
use crate::link::Netlink;
use crate::testing;

#[test]
fn names_are_read_as_sysctl_does() {
    let path = |name: &str| Key::parse(name).unwrap().to_string();
    assert_eq!(path("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
    assert_eq!(path("net/ipv4/ip_forward"), "net/ipv4/ip_forward");
    assert_eq!(path("net.ipv4.conf.eth0/5.forwarding"), "net/ipv4/conf/eth0.5/forwarding");
    assert_eq!(path("net/ipv4/conf/eth0.5/forwarding"), "net/ipv4/conf/eth0.5/forwarding");
    assert_eq!(
        Key::interface("ipv6", "eth0.5", "accept_ra").unwrap().to_string(),
        "net/ipv6/conf/eth0.5/accept_ra"
    );
    for bad in ["", ".", "net..x", "net/../../etc/passwd", "/net/x", "net/"] {
        assert_eq!(Key::parse(bad).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{bad:?}");
    }
}

#[test]
fn settings_belong_to_the_namespace() {
    if !testing::root() {
        return;
    }
    let key = Key::parse("net.ipv4.ip_forward").unwrap();
    let here = get(&key).unwrap();
    testing::namespace()
        .run(|| {
            set(&key, "0").unwrap();
            assert_eq!(replace(&key, "1").unwrap(), "0");
            assert_eq!(replace(&key, "1").unwrap(), "1");
            Netlink::new().unwrap().add_bridge("br.7").unwrap();
            let dotted = Key::interface("ipv4", "br.7", "forwarding").unwrap();
            assert_eq!(replace(&dotted, "0").unwrap(), "1");
            assert_eq!(get(&dotted).unwrap(), "0");
        })
        .unwrap();
    assert_eq!(get(&key).unwrap(), here);
}

#[test]
fn errors_name_the_setting() {
    let error = get(&Key::parse("net.ipv4.no_such_thing").unwrap()).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert!(error.to_string().contains("net/ipv4/no_such_thing"), "{error}");
}
