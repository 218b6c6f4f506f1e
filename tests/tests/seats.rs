//! A worker keeps its CPU while much bulk passes, and goes where it likes before and afterwards.

use std::time::Duration;

use weft_tests::traffic::{iperf, serve};
use weft_tests::{Context, Lab, Node, Options, Result, as_root, bail, ensure, eventually};

/// The CPUs that the first worker may have, as the kernel lists them (`Cpus_allowed_list`).
fn cpus_of_worker(node: &Node) -> Result<String> {
    for task in std::fs::read_dir(format!("/proc/{}/task", node.weft_json(&["status"])?["pid"]))?.flatten() {
        let Ok(status) = std::fs::read_to_string(task.path().join("status")) else { continue };
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        if field("Name:\t") == Some("weft-w0") {
            return Ok(field("Cpus_allowed_list:\t").context("no list of CPUs")?.to_owned());
        }
    }
    bail!("no worker")
}

/// Runs a stream of some seconds between two pods of the node; says which CPUs the worker had in the midst of it.
fn during_bulk(node: &Node) -> Result<String> {
    let (a, b) = (node.pod("a")?, node.pod("b")?);
    let _server = serve(&b.ns, 5201)?;
    std::thread::scope(|scope| {
        let stream = scope.spawn(|| iperf(&a.ns, &b.ip(), 5201, &["-t", "4"]));
        std::thread::sleep(Duration::from_secs(2));
        let cpus = cpus_of_worker(node);
        let measured = stream.join().unwrap_or_else(|_| bail!("the stream panicked"))?;
        ensure!(measured.bits_per_second > 1e8, "hardly any traffic: {measured:?}");
        cpus
    })
}

fn one_node(config: &str) -> Result<Lab> {
    Lab::up(Options { nodes: 1, config: config.to_owned(), ..Options::default() })
}

#[test]
fn a_worker_keeps_its_cpu_while_bulk_passes() {
    as_root(|| {
        let lab = one_node("seats = true\n")?;
        let node = &lab.nodes[0];
        let before = cpus_of_worker(node)?;
        if before.parse::<u32>().is_ok() {
            println!("skipped: this process may use one CPU only");
            return Ok(());
        }
        for _ in 0..2 {
            let during = during_bulk(node)?;
            ensure!(during.parse::<u32>().is_ok(), "it may run on {during} while bulk passes");
            eventually(5, || {
                let after = cpus_of_worker(node)?;
                ensure!(after == before, "it may run on {after}, before on {before}");
                Ok(())
            })?;
        }
        Ok(())
    });
}

#[test]
fn without_seats_it_never_does() {
    as_root(|| {
        let lab = one_node("seats = false\n")?;
        let before = cpus_of_worker(&lab.nodes[0])?;
        let during = during_bulk(&lab.nodes[0])?;
        ensure!(during == before, "it may run on {during}, before on {before}");
        Ok(())
    });
}
