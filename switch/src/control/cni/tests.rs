use super::*;

#[test]
fn only_queue_files_are_replayed() {
    assert!(is_queued("0123456789abcdef.json"));
    for other in [".0123456789abcdef.json.17", "0123456789abcdef.bad", "x.json", "0123456789abcdeg.json"] {
        assert!(!is_queued(other), "{other}");
    }
}
