//! `scripts/chaos.sh`: a kill under load breaks no connection, and the report has the promised shape.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use weft_tests::{Context, as_root, bin, ensure};

#[test]
fn a_kill_breaks_no_connection_and_is_reported() {
    as_root(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/chaos.sh");
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("chaos.json");
        let mut command = Command::new(script);
        command
            .args(["--quick", "--rounds", "1", "--events", "crash,cluster-while-down", "--json"])
            .arg(&file);
        command.env("WEFT_BIN_DIR", bin::dir()).env("WEFT_BENCH", bin::bench());
        let table = weft_tests::ns::output(command)?;
        ensure!(table.contains("crash"), "{table}");
        let report: Value = serde_json::from_str(&std::fs::read_to_string(&file)?)?;
        let report = report.as_array().context("no array")?;
        ensure!(report.len() == 2, "{report:?}");
        for (entry, event) in report.iter().zip(["crash", "cluster-while-down"]) {
            let keys: Vec<&String> = entry.as_object().context("no object")?.keys().collect();
            let mut wanted =
                ["event", "rounds", "connections_broken", "packets_lost", "blocked_ms_p50", "blocked_ms_max"];
            wanted.sort_unstable();
            ensure!(keys == wanted, "{keys:?}");
            ensure!(entry["event"] == event && entry["rounds"] == 3, "{entry}");
            ensure!(entry["connections_broken"] == 0, "{table}");
            ensure!(entry["packets_lost"].is_u64() && entry["blocked_ms_p50"].is_f64(), "{entry}");
            ensure!(entry["blocked_ms_max"].as_f64() >= entry["blocked_ms_p50"].as_f64(), "{entry}");
        }
        Ok(())
    });
}
