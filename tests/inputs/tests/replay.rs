//! Replays `tests/corpus/<target>/`: inputs that reach different code, and those that once broke something.

use std::fs;
use std::path::Path;

use weft_inputs::TARGETS;

#[test]
fn every_kept_input_holds() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    for (name, body) in TARGETS {
        let folder = corpus.join(name);
        let mut count = 0;
        for file in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display())) {
            let path = file.expect("a readable folder").path();
            let data = fs::read(&path).expect("a readable file");
            // Printed only when the body panics.
            println!("{}", path.display());
            body(&data);
            count += 1;
        }
        assert!(count > 0, "{} is empty", folder.display());
    }
}

#[test]
fn nothing_is_an_input_too() {
    for (_, body) in TARGETS {
        body(&[]);
    }
}

/// Long enough for vectors, whatever the corpus holds: a number of bytes behind a good header.
#[test]
fn long_frames_hold() {
    if weft_sys::checksum::kernels().is_none() {
        println!("this CPU has no vectors that are used: as the other tests");
    }
    for len in (200..700).chain([1400, 1514, 9000, 65_000]) {
        let mut frame = [2; 12].to_vec();
        frame.extend([0x08, 0, 0x45, 0]);
        frame.extend((len as u16 + 28).to_be_bytes());
        frame.extend([0, 7, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        weft_encap::ipv4::fill_checksum(&mut frame[14..34]);
        frame.extend([0x9c, 0x40, 0x14, 0x51]);
        frame.extend((len as u16 + 8).to_be_bytes());
        frame.extend([0, 0]);
        frame.extend((0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8));
        let headers = weft_encap::parse(&frame).expect("a good frame");
        weft_encap::checksum::complete(&mut frame, &headers);
        weft_inputs::frame(&frame);
        let record = [&(frame.len() as u16).to_be_bytes()[..], &frame].concat();
        weft_inputs::glue(&[&record[..], &record, &record].concat());
    }
}

#[test]
fn every_folder_has_its_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    for entry in fs::read_dir(corpus).expect("a corpus").flatten().filter(|entry| entry.path().is_dir()) {
        let name = entry.file_name();
        assert!(TARGETS.iter().any(|(target, _)| name.to_str() == Some(target)), "{name:?} has no target");
    }
}
