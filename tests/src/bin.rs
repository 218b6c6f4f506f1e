//! Where the binaries under test are: `WEFT_BIN_DIR`, or what `cargo build` makes now.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The directory that holds `weftd`, `weft-keeper`, `weft` and `weft-cni`.
pub fn dir() -> &'static Path {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| match std::env::var_os("WEFT_BIN_DIR") {
        Some(dir) => PathBuf::from(dir).canonicalize().expect("WEFT_BIN_DIR names no directory"),
        None => build(),
    })
}

/// The path of one binary.
pub fn path(name: &str) -> String {
    dir().join(name).to_string_lossy().into_owned()
}

/// The path of the traffic tool, which is no part of an installation: what `WEFT_BENCH` names, the one beside the binaries, or one built now
/// without optimization, for which the tests' own libraries serve.
pub fn bench() -> PathBuf {
    if let Some(named) = std::env::var_os("WEFT_BENCH") {
        return named.into();
    }
    let beside = dir().join("weft-bench");
    if beside.exists() { beside } else { cargo(&["-p", "weft-bench"]).join("debug/weft-bench") }
}

fn build() -> PathBuf {
    let packages = ["weft-switch", "weft-keeper", "weft-ctl", "weft-cni"];
    let packages = packages.iter().flat_map(|package| ["-p", package]);
    cargo(&["--release"].into_iter().chain(packages).collect::<Vec<_>>()).join("release")
}

/// Builds; the target directory.
fn cargo(args: &[&str]) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace");
    let status = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .arg("build")
        .args(args)
        .current_dir(root)
        .status()
        .expect("cargo runs");
    assert!(status.success(), "the binaries do not build");
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}
