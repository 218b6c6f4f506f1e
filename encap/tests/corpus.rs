//! Replays `tests/corpus/` of the workspace: frames that once mattered, each with what must become of it.
//!
//! A file is hex with `#` comments that say what the frame is. One line starts `expect:` and gives the drop reason, or
//! `ok` with any of `key=value` (l3, l4, proto, fragment, sport, dport, icmp, payload, state, gso). A line `vnet:` gives
//! the 12 bytes of a virtio header, with which the frame is admitted as from a pod (`state` and `gso` are those after
//! that); `vxlan:` says that the bytes are a UDP payload whose tunnel header comes off first.

use std::fs;
use std::path::Path;

use weft_encap::{Gso, Headers, Reason, VnetHdr, checksum, parse, vxlan};

struct Entry {
    frame: Vec<u8>,
    vnet: Option<[u8; 12]>,
    tunnel: bool,
    expect: String,
}

#[test]
fn every_frame_meets_its_expectation() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/corpus");
    let mut count = 0;
    for file in fs::read_dir(&folder).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_none_or(|ext| ext != "hex") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with('#'), "{}: says what it is", path.display());
        let entry = read(&text).unwrap_or_else(|| panic!("{}: malformed", path.display()));
        if let Err(found) = check(&entry) {
            panic!("{}: expected `{}`, found {found}", path.display(), entry.expect);
        }
        count += 1;
    }
    assert!(count >= 10, "{count} files in {}", folder.display());
}

fn read(text: &str) -> Option<Entry> {
    let mut entry = Entry { frame: vec![], vnet: None, tunnel: false, expect: String::new() };
    for line in text.lines().map(|line| line.split('#').next().unwrap_or("").trim()) {
        if let Some(expect) = line.strip_prefix("expect:") {
            entry.expect = expect.trim().to_owned();
        } else if let Some(vnet) = line.strip_prefix("vnet:") {
            entry.vnet = Some(hex(vnet)?.try_into().ok()?);
        } else if line.starts_with("vxlan:") {
            entry.tunnel = true;
        } else {
            entry.frame.extend(hex(line)?);
        }
    }
    (!entry.expect.is_empty()).then_some(entry)
}

fn hex(line: &str) -> Option<Vec<u8>> {
    let digits: String = line.split_whitespace().collect();
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()).collect()
}

fn check(entry: &Entry) -> Result<(), String> {
    match (outcome(entry), entry.expect.strip_prefix("ok")) {
        (Err(reason), None) if reason.name() == entry.expect => Ok(()),
        (Err(reason), _) => Err(reason.name().to_owned()),
        (Ok((headers, facts)), Some(expected)) => {
            let missing = expected.split_whitespace().find(|fact| !facts.contains(&(*fact).to_owned()));
            missing.map_or(Ok(()), |fact| Err(format!("not {fact} but {facts:?} {headers:?}")))
        }
        (Ok((headers, _)), None) => Err(format!("{headers:?}")),
    }
}

fn outcome(entry: &Entry) -> Result<(Headers, Vec<String>), Reason> {
    let mut frame = &entry.frame[..];
    if entry.tunnel {
        frame = vxlan::pop(frame)?.1;
    }
    let h = parse(frame)?;
    let mut frame = frame.to_vec();
    let gso = match &entry.vnet {
        Some(bytes) => VnetHdr::read(bytes).admit(&mut frame, &h)?,
        None => Gso::None,
    };
    let facts = vec![
        format!("l3={:?}", h.l3),
        format!("l4={:?}", h.l4),
        format!("proto={}", h.proto),
        format!("fragment={:?}", h.fragment),
        format!("sport={}", h.src_port),
        format!("dport={}", h.dst_port),
        format!("payload={}", h.payload_len()),
        format!("icmp={}", h.icmp_type),
        format!("state={:?}", checksum::state(&frame, &h)),
        format!("gso={}", gso.size().unwrap_or(0)),
    ];
    Ok((h, facts))
}
