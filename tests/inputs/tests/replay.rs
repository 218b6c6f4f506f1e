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

#[test]
fn every_folder_has_its_target() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    for entry in fs::read_dir(corpus).expect("a corpus").flatten().filter(|entry| entry.path().is_dir()) {
        let name = entry.file_name();
        assert!(TARGETS.iter().any(|(target, _)| name.to_str() == Some(target)), "{name:?} has no target");
    }
}
