use std::fs;

use super::*;

fn load(text: &str, flags: &[&str]) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weft.toml");
    fs::write(&path, text).unwrap();
    let mut line = vec!["weftd", "--config", path.to_str().unwrap()];
    line.extend(flags);
    let args = Args::try_parse_from(line).map_err(|error| error.to_string())?;
    args.load().map_err(|error| error.to_string().replace(dir.path().to_str().unwrap(), ""))
}

#[test]
fn errors_name_file_line_and_what_is_expected() {
    for (text, expected) in [
        ("bridge = \"br0\"\nspim_us = 5\n", "/weft.toml:2: unknown field `spim_us`, expected one of"),
        ("\nworkers = \"two\"\n", "/weft.toml:2: workers: invalid type: string \"two\", expected usize"),
        ("# x\nworkers = 65\n", "/weft.toml:2: workers is 65; expected 1 to 64"),
        ("spin_us = 5000", "/weft.toml:1: spin_us is 5000; expected 0 to 200 microseconds"),
        ("vni = 0", "/weft.toml:1: vni is 0; expected 1 to 16777215"),
        ("mtu = 900", "/weft.toml:1: mtu is 900; expected 1280 to 65521"),
        (
            "mtu = 1400\nlocal_mtu = 65535",
            "/weft.toml:2: local_mtu is 65535; expected 1280 to 65521 bytes, or 0",
        ),
        (
            "pod_cidrs = [\"10.0.0.1/24\"]",
            "/weft.toml:1: pod_cidrs is 10.0.0.1/24, which has host bits set; expected 10.0.0.0/24",
        ),
        ("pod_cidrs = [\n  \"10.0.0.0/33\"]", "/weft.toml:2: pod_cidrs: invalid IP address syntax"),
        (
            "pod_cidrs = [\"10.1.0.0\"]",
            "/weft.toml:1: pod_cidrs: invalid IP address syntax; expected an address with its prefix length",
        ),
        (
            "gateways = [\"10.1.0.0/24\"]",
            "/weft.toml:1: gateways is 10.1.0.0/24, which is no host's address;",
        ),
        (
            "gateways = [\"10.1.0.255/24\"]",
            "/weft.toml:1: gateways is 10.1.0.255/24, which is no host's address;",
        ),
        (
            "gateways = [\"10.1.0.1/32\"]",
            "/weft.toml:1: gateways is 10.1.0.1/32, which is no host's address;",
        ),
        (
            "log_level = \"inof\"",
            "/weft.toml:1: log_level is `inof`; expected error, warn, info, debug, trace, off or a filter like",
        ),
        ("log_level = \"info,weft_switch\"", "/weft.toml:1: log_level is `info,weft_switch`; expected error"),
        ("log = \"xml\"", "/weft.toml:1: log: unknown variant `xml`, expected `text` or `json`"),
        ("bridge = \"a/b\"", "/weft.toml:1: bridge is `a/b`; expected a name of 1 to 15 characters"),
        ("run_dir = \"here\"", "/weft.toml:1: run_dir is `here`; expected an absolute path"),
        ("bridge = ", "/weft.toml:1: bridge: "),
        (
            "# mtu\nvni = 70000000000\n",
            "/weft.toml:2: vni: invalid value: integer `70000000000`, expected u32",
        ),
        ("masquerade = \"no\"", "/weft.toml:1: masquerade: invalid type: string \"no\", expected a boolean"),
        ("vni = 1\n\nvni = 2", "/weft.toml:3: vni: duplicate key"),
        ("underlay = \"here\"", "/weft.toml:1: underlay: invalid IP address syntax"),
        ("gateways = [\n  # no host\n  7]", "/weft.toml:3: gateways: invalid type: integer `7`, expected"),
    ] {
        let error = load(text, &[]).unwrap_err();
        assert!(error.starts_with(expected), "{text:?}: {error}");
    }
    let error = load("workers = 2", &["--workers", "99"]).unwrap_err();
    assert!(error.starts_with("--workers (or WEFT_WORKERS): workers is 99"), "{error}");
    let error = load("", &["--pod-cidrs", "10.1.0.0"]).unwrap_err();
    assert!(error.contains("the prefix length is missing; expected 10.1.0.0/N"), "{error}");
    let missing =
        Args { config: Some("/nonexistent/weft.toml".into()), ..Args::default() }.load().unwrap_err();
    assert!(missing.to_string().starts_with("/nonexistent/weft.toml: No such file"), "{missing}");
}

#[test]
fn log_filters_are_taken_as_they_are() {
    for good in ["info", "OFF", "warn,weft_switch=debug", "weft_switch=trace", "[span]=debug"] {
        assert_eq!(load("", &["--log-level", good]).map(|config| config.log_level), Ok(good.to_owned()));
    }
}

#[test]
fn flags_win_over_the_file() {
    let config =
        load("workers = 2\nspin_us = 7\nrun_dir = \"/run/x\"\ninternal = false", &["--workers", "1"])
            .unwrap();
    assert_eq!((config.workers, config.spin_us), (1, 7));
    assert_eq!(config.socket, Path::new("/run/x/weft.sock"));
    assert_eq!(config.internal, None);
}

#[test]
fn shipped_file_says_the_defaults() {
    let shipped = include_str!("../../../../deploy/weft.toml");
    let mut found = load(shipped, &[]).unwrap();
    found.file = None;
    assert_eq!(found, Config::defaults());
    // And with every key uncommented, the values that have a default are those of the defaults.
    let keys: String = shipped
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| line.starts_with(|c: char| c.is_ascii_lowercase()) && line.contains(" = "))
        .map(|line| format!("{line}\n"))
        .collect();
    let mut found = load(&keys, &[]).unwrap();
    found.file = None;
    found.cluster_is_told = false;
    (found.node, found.mtu, found.underlay, found.socket_group) = (None, None, None, None);
    assert_eq!(found, Config::defaults());
    let count = keys.lines().count();
    let all = format!("{:?}", Settings::default()).matches(": None").count();
    assert_eq!(count, all, "every key stands in the file");
}

#[test]
fn help_has_examples() {
    use clap::CommandFactory;
    let help = Args::command().render_long_help().to_string();
    assert!(help.contains("Examples:") && help.contains("--check") && help.contains("--cni-socket"));
}
