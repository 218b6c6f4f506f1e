use super::*;
use crate::control::effects::testing::{namespace, root, sh};

#[test]
fn the_device_of_an_address_gives_the_mtu() {
    if !root() {
        return;
    }
    namespace()
        .run(|| {
            sh("ip link add up0 mtu 1400 type veth peer name up1");
            sh("ip addr add 172.30.0.11/24 dev up0");
            sh("ip link set up0 up");
            sh("ip link set up1 up");
            let address: IpAddr = "172.30.0.11".parse().unwrap();
            let found = detect(address).unwrap();
            assert_eq!((found.device.as_str(), found.mtu), ("up0", 1400));
            assert_eq!(local_addresses().unwrap(), [address]);
            assert!(
                detect("172.30.0.12".parse().unwrap())
                    .unwrap_err()
                    .to_string()
                    .contains("not an address of this")
            );
            // An address on the loopback leaves by the way out.
            sh("ip addr add 192.0.2.1/32 dev lo");
            assert_eq!(detect("192.0.2.1".parse().unwrap()).unwrap().mtu, 1500);
            sh("ip route add default via 172.30.0.1");
            assert_eq!(detect("192.0.2.1".parse().unwrap()).unwrap().mtu, 1400);
        })
        .unwrap();
}
