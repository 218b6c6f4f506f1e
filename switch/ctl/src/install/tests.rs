use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::session::Exit;
use crate::testing::{Daemon, STATUS};

/// Bin dir, conf dir and a plugin of ours, in a directory that goes.
struct Host {
    root: tempfile::TempDir,
    daemon: Daemon,
}

impl Host {
    fn new() -> Host {
        let root = tempfile::tempdir().unwrap();
        for dir in ["bin", "net.d"] {
            fs::create_dir(root.path().join(dir)).unwrap();
        }
        fs::write(root.path().join("weft-cni"), "ours").unwrap();
        Host { root, daemon: Daemon::new(&[(weft_api::paths::STATUS, STATUS)]) }
    }

    /// A plugin in the bin dir that answers VERSION with these.
    fn plugin(&self, name: &str, versions: &str) {
        let answer = format!(r#"{{"cniVersion":"1.0.0","supportedVersions":[{versions}]}}"#);
        self.script(name, &format!("read -r line\n[ \"$CNI_COMMAND\" = VERSION ] && echo '{answer}'"));
    }

    fn script(&self, name: &str, body: &str) {
        let path = self.root.path().join("bin").join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn conf(&self, name: &str) -> PathBuf {
        self.root.path().join("net.d").join(name)
    }

    fn weft(&self, verb: &str, rest: &str) -> (Exit, String) {
        let root = self.root.path().display();
        let (exit, text) =
            self.daemon.weft(&format!("cni {verb} --bin-dir {root}/bin --conf-dir {root}/net.d {rest}"));
        (exit, text.replace(&root.to_string(), "ROOT"))
    }

    /// `cni install`; the socket's name differs in every run and is left out.
    fn install(&self, rest: &str) -> (Exit, String) {
        let root = self.root.path().display();
        self.weft("install", &format!("--plugin {root}/weft-cni --cni-socket /run/weft/cni.sock {rest}"))
    }

    fn failed(&self, rest: &str) -> String {
        let root = self.root.path();
        let mut options = options(root);
        for (key, value) in rest.split_whitespace().filter_map(|word| word.split_once('=')) {
            match key {
                "chain" => options.chain = value.split(',').map(str::to_owned).collect(),
                "name" => options.name = value.to_owned(),
                "plugin" => options.plugin = value.into(),
                "ipam" => options.ipam = Ipam::Plugin(value.to_owned()),
                other => panic!("{other}"),
            }
        }
        let client = BlockingClient::new(weft_api::Client::new(self.daemon.socket())).unwrap();
        let error = install(&options, &client).unwrap_err();
        assert!(!self.conf(CONFLIST).exists());
        error.to_string().replace(&root.display().to_string(), "ROOT")
    }
}

fn options(root: &Path) -> Options {
    Options {
        bin_dirs: vec![root.join("bin")],
        conf_dir: root.join("net.d"),
        plugin: root.join("weft-cni"),
        name: "weft".to_owned(),
        bridge: None,
        mtu: None,
        chain: Vec::new(),
        ipam: Ipam::BuiltIn,
        socket: None,
        queue_dir: None,
        exclusive: false,
        wait: Duration::from_millis(300),
    }
}

#[test]
fn plugin_and_conflist_are_put_in_place_and_taken_away() {
    let host = Host::new();
    fs::write(host.conf("87-podman.conflist"), "{}").unwrap();
    let (exit, text) = host.install("");
    assert_eq!(exit, Exit::Ok);
    assert_eq!(
        text,
        "wrote ROOT/bin/weft-cni\nwrote ROOT/net.d/10-weft.conflist\noffers CNI 0.4.0, 1.0.0, 1.1.0\n"
    );
    insta::assert_snapshot!(fs::read_to_string(host.conf(CONFLIST)).unwrap());
    let plugin = host.root.path().join("bin/weft-cni");
    assert_eq!(fs::metadata(&plugin).unwrap().permissions().mode() & 0o777, 0o755);
    assert_eq!(fs::metadata(host.conf(CONFLIST)).unwrap().permissions().mode() & 0o777, 0o644);
    assert_eq!(fs::read_dir(host.conf("")).unwrap().count(), 2);

    // Without a pod CIDR it is of no use yet.
    let pools = STATUS.find("\"pools\"").unwrap()..STATUS.find("\"foreign_chains\"").unwrap();
    let mut status = STATUS.to_owned();
    status.replace_range(pools, "\"pools\": [],\n");
    host.daemon.answer(weft_api::paths::STATUS, 200, &status);
    let (exit, text) = host.install("");
    assert!(exit == Exit::Ok && text.contains("note: no pod gets an address"), "{text}");
    host.daemon.answer(weft_api::paths::STATUS, 200, STATUS);

    // Twice is the same as once.
    assert_eq!(host.install("").0, Exit::Ok);
    let (exit, text) = host.weft("uninstall", "");
    assert_eq!(
        (exit, text.as_str()),
        (Exit::Ok, "removed ROOT/net.d/10-weft.conflist\nremoved ROOT/bin/weft-cni\n")
    );
    assert!(!plugin.exists() && host.conf("87-podman.conflist").exists());
    assert_eq!(host.weft("uninstall", ""), (Exit::Ok, "nothing to do\n".to_owned()));
}

#[test]
fn chained_plugins_and_ipam_are_in_the_conflist() {
    let host = Host::new();
    for name in ["portmap", "tuning", "host-local"] {
        host.plugin(name, r#""0.4.0","1.0.0","1.1.0""#);
    }
    let (exit, text) = host.install(
        "--name pods --chain portmap,tuning --ipam host-local --queue-dir /q --bridge lan --mtu 1400",
    );
    assert_eq!((exit, text.contains("1.1.0")), (Exit::Ok, true), "{text}");
    insta::assert_snapshot!(fs::read_to_string(host.conf(CONFLIST)).unwrap());

    let file = host.root.path().join("ipam");
    fs::write(&file, r#"{"type":"host-local","ranges":[[{"subnet":"10.9.0.0/24"}]]}"#).unwrap();
    assert_eq!(host.install(&format!("--ipam-json {}", file.display())).0, Exit::Ok);
    let list: Value = serde_json::from_slice(&fs::read(host.conf(CONFLIST)).unwrap()).unwrap();
    assert_eq!(list["plugins"][0]["ipam"]["ranges"][0][0]["subnet"], "10.9.0.0/24");
}

#[test]
fn newest_version_is_offered_only_if_all_speak_it() {
    let host = Host::new();
    host.plugin("portmap", r#""0.4.0","1.0.0""#);
    let (exit, text) = host.install("--chain portmap");
    assert_eq!(exit, Exit::Ok);
    assert!(text.contains("offers CNI 0.4.0, 1.0.0\n"), "{text}");
    assert!(
        text.contains("note: CNI 1.1.0 is not offered: ROOT/bin/portmap speaks only 0.4.0, 1.0.0"),
        "{text}"
    );

    host.script("portmap", "exit 3");
    assert!(host.install("--chain portmap").1.contains("does not name its versions: exit status: 3"));
    host.script("portmap", "echo nonsense");
    assert!(host.install("--chain portmap").1.contains("does not name its versions: expected"));
}

#[test]
fn another_network_first_is_refused_or_set_aside() {
    let host = Host::new();
    let rival = host.conf("05-flannel.conflist");
    fs::write(&rival, "theirs").unwrap();
    assert_eq!(
        host.failed(""),
        "ROOT/net.d/05-flannel.conflist sorts before 10-weft.conflist: the runtime would go on using it; \
         remove it, or set it aside with --exclusive"
    );
    assert!(!host.root.path().join("bin/weft-cni").exists());

    let (exit, text) = host.install("--exclusive");
    assert_eq!(
        (exit, text.contains("set aside ROOT/net.d/05-flannel.conflist\n")),
        (Exit::Ok, true),
        "{text}"
    );
    assert!(!rival.exists() && host.conf("05-flannel.conflist.weft-disabled").exists());
    // What is set aside is no rival.
    assert_eq!(host.install("").0, Exit::Ok);

    let (_, text) = host.weft("uninstall", "");
    assert!(text.contains("put back ROOT/net.d/05-flannel.conflist\n"), "{text}");
    assert_eq!(fs::read_to_string(&rival).unwrap(), "theirs");

    // Back meanwhile: the one set aside stays.
    host.install("--exclusive");
    fs::write(&rival, "newer").unwrap();
    assert!(
        host.weft("uninstall", "").1.contains("note: ROOT/net.d/05-flannel.conflist.weft-disabled stays")
    );
    assert_eq!(fs::read_to_string(&rival).unwrap(), "newer");
}

#[test]
fn conflist_waits_for_the_daemon() {
    let host = Host::new();
    host.daemon.answer(weft_api::paths::STATUS, 200, &STATUS.replace("\"ready\": true", "\"ready\": false"));
    assert!(host.failed("").contains("is not ready after"));
    assert!(!host.root.path().join("bin/weft-cni").exists());

    std::thread::scope(|scope| {
        let install = scope.spawn(|| host.install("--wait 20"));
        std::thread::sleep(Duration::from_millis(200));
        assert!(!host.conf(CONFLIST).exists());
        host.daemon.answer(weft_api::paths::STATUS, 200, STATUS);
        assert_eq!(install.join().unwrap().0, Exit::Ok);
    });
    assert!(host.conf(CONFLIST).exists());
}

#[test]
fn unusable_options_are_refused_before_anything_is_written() {
    let host = Host::new();
    let mut text = String::new();
    for options in [
        "chain=portmap",
        "chain=bandwidth",
        "chain=weft-cni",
        "chain=../sh",
        "name=we/ft",
        "ipam=host-local",
        "plugin=/nonexistent",
    ] {
        text.push_str(&format!("{options}: {}\n", host.failed(options)));
    }
    insta::assert_snapshot!(text);
    assert_eq!(fs::read_dir(host.root.path().join("bin")).unwrap().count(), 0);

    let file = host.root.path().join("ipam");
    fs::write(&file, "{}").unwrap();
    assert_eq!(host.install(&format!("--ipam-json {}", file.display())).0, Exit::Failed);
}
