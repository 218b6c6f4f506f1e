//! The traffic tool as its users run it, over loopback. Nothing here asserts a time.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// The tool with arguments.
fn tool(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft-bench"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// A listening tool and the address that it announced.
fn listening(args: &[&str]) -> (Child, String) {
    let mut child = tool(args).spawn().expect("the tool starts");
    let mut line = String::new();
    let stderr = child.stderr.as_mut().expect("stderr is a pipe");
    BufReader::new(stderr).read_line(&mut line).expect("stderr is text");
    let address = line.trim().strip_prefix("listening on ").expect("it announces its address");
    (child, address.to_owned())
}

/// The report of a run that went well.
fn report(output: Output) -> Value {
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    serde_json::from_str(&out).expect("a line of JSON")
}

fn run(args: &[&str]) -> Value {
    report(tool(args).output().expect("the tool starts"))
}

#[test]
fn datagrams_are_counted() {
    for (ip, burst) in [("127.0.0.1", "1"), ("[::1]", "16")] {
        let listen = format!("{ip}:0");
        let (counter, to) = listening(&["udp-count", "--listen", &listen, "--count", "1000", "--json"]);
        // A rate that no receiver's buffer overflows at.
        let sent = run(&[
            "udp-send", "--to", &to, "--size", "100", "--burst", burst, "--count", "1000", "--rate", "20000",
            "--json",
        ]);
        assert_eq!((&sent["datagrams"], &sent["bytes"]), (&Value::from(1000), &Value::from(100_000)));
        let counted = report(counter.wait_with_output().expect("it ends"));
        for (field, want) in [("received", 1000), ("lost", 0), ("late", 0), ("duplicate", 0), ("foreign", 0)]
        {
            assert_eq!(counted[field], want, "{field} of {counted}");
        }
        assert_eq!((&counted["streams"], &counted["bytes"]), (&Value::from(1), &Value::from(100_000)));
    }
}

#[test]
fn two_streams_and_a_stranger_are_told_apart() {
    let (counter, to) = listening(&["udp-count", "--listen", "127.0.0.1:0", "--idle-ms", "500", "--json"]);
    for _ in 0..2 {
        run(&["udp-send", "--to", &to, "--count", "10", "--json"]);
    }
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").expect("a socket");
    stranger.send_to(b"hello", &to).expect("loopback takes it");
    let counted = report(counter.wait_with_output().expect("it ends"));
    for (field, want) in [("streams", 2), ("received", 20), ("lost", 0), ("foreign", 1), ("datagrams", 21)] {
        assert_eq!(counted[field], want, "{field} of {counted}");
    }
}

#[test]
fn flows_take_turns_over_several_ports() {
    for sources in ["1", "5"] {
        // An address that nobody else binds ports of.
        let (counter, to) = listening(&[
            "udp-count",
            "--listen",
            "127.0.77.1:0",
            "--flows",
            "3",
            "--idle-ms",
            "500",
            "--json",
        ]);
        run(&["udp-send", "--to", &to, "--flows", "3", "--sources", sources, "--count", "100", "--json"]);
        let counted = report(counter.wait_with_output().expect("it ends"));
        for (field, want) in
            [("streams", 3), ("received", 100), ("lost", 0), ("foreign", 0), ("duplicate", 0)]
        {
            assert_eq!(counted[field], want, "{field} of {counted}");
        }
    }
}

#[test]
fn requests_are_answered() {
    for over in ["udp", "tcp", "connect"] {
        let (server, to) =
            listening(&["rr-server", "--listen", "127.0.0.1:0", "--over", over, "--count", "200", "--json"]);
        let answers =
            run(&["rr-client", "--to", &to, "--over", over, "--size", "512", "--count", "200", "--json"]);
        assert_eq!((&answers["responses"], &answers["lost"]), (&Value::from(200), &Value::from(0)), "{over}");
        let quantile = |name: &str| answers[name].as_f64().expect("a number");
        let rising = ["min_us", "p50_us", "p90_us", "p99_us", "p999_us", "max_us"].map(quantile);
        assert!(rising.is_sorted() && rising[0] > 0.0, "{answers}");
        let served = report(server.wait_with_output().expect("it ends"));
        assert_eq!(served["requests"], 200, "{over}");
    }
}

#[test]
fn time_bounds_a_run_without_traffic() {
    for verb in ["udp-count", "rr-server"] {
        let ended = run(&[verb, "--listen", "127.0.0.1:0", "--seconds", "0.05", "--json"]);
        assert!(ended.is_object());
    }
    let (silent, to) = listening(&["udp-count", "--listen", "127.0.0.1:0", "--idle-ms", "200"]);
    let answers = run(&["rr-client", "--to", &to, "--timeout-ms", "10", "--count", "3", "--json"]);
    assert_eq!((&answers["requests"], &answers["lost"]), (&Value::from(3), &Value::from(3)));
    assert!(silent.wait_with_output().expect("it ends").status.success());
}

#[test]
fn nonsense_is_refused() {
    for args in [
        ["udp-send", "--to", "127.0.0.1:9", "--size", "1"],
        ["rr-client", "--to", "127.0.0.1:9", "--size", "99999"],
        ["udp-count", "--listen", "127.0.0.1:0", "--seconds", "nan"],
        ["rr-client", "--to", "127.0.0.1:9", "--timeout-ms", "0"],
    ] {
        let output = tool(&args).output().expect("the tool starts");
        assert!(!output.status.success() && !output.stderr.is_empty(), "{args:?}");
    }
}
