//! Cutting a command line at `--`, and flags in the places where ovs-vsctl takes them.
//!
//! `weft [global flags] [--] [flags] VERB … [-- [flags] VERB …]…`: each piece becomes a command line of its own for
//! clap. Flags of a verb that stand before it (`--may-exist add-br br0`) are moved behind its arguments.

use std::ffi::{OsStr, OsString};

/// Flags of verbs that may stand before the verb.
const VERB_FLAGS: [&str; 2] = ["--may-exist", "--if-exists"];
/// Global flags that take their value as a word of its own.
const VALUE_FLAGS: [&str; 5] = ["--socket", "-o", "--output", "-t", "--timeout"];

/// The command lines that `args` (without the program's name) consists of; none if there is no word at all.
pub(crate) fn split(args: &[OsString]) -> Vec<Vec<OsString>> {
    let pieces: Vec<&[OsString]> =
        args.split(|word| word == "--").filter(|piece| !piece.is_empty()).collect();
    let mut lines: Vec<Vec<OsString>> = Vec::new();
    // Global flags alone before the first `--` belong to the first command: `weft --socket S -- add-br br0`.
    let mut before: Vec<OsString> = Vec::new();
    for piece in pieces {
        let mut line = std::mem::take(&mut before);
        line.extend_from_slice(piece);
        if lines.is_empty() && verb_at(&line) == line.len() && !line.iter().any(asks_about_itself) {
            before = line;
        } else {
            lines.push(arrange(line));
        }
    }
    if !before.is_empty() {
        lines.push(before);
    }
    lines
}

/// Index of the verb: the first word that is neither a flag nor a flag's value.
fn verb_at(line: &[OsString]) -> usize {
    let mut at = 0;
    while at < line.len() {
        if VALUE_FLAGS.iter().any(|flag| line[at] == *flag) {
            at += 2;
        } else if is_flag(&line[at]) {
            at += 1;
        } else {
            return at;
        }
    }
    line.len()
}

fn is_flag(word: &OsStr) -> bool {
    word.as_encoded_bytes().starts_with(b"-")
}

fn asks_about_itself(word: &OsString) -> bool {
    ["-h", "--help", "-V", "--version"].iter().any(|flag| word == flag)
}

/// Moves the verb's flags behind its arguments, and tells `cluster import -o FILE` from the global `-o FORMAT`.
fn arrange(line: Vec<OsString>) -> Vec<OsString> {
    let verb = verb_at(&line);
    let import = line[verb..].iter().map(OsString::as_os_str).take(2).eq(["cluster", "import"]);
    let mut arranged = Vec::with_capacity(line.len());
    let mut moved = Vec::new();
    for (at, word) in line.iter().enumerate() {
        if at < verb && VERB_FLAGS.iter().any(|flag| word == flag) {
            moved.push(word.clone());
        } else if import && at > verb && word == "-o" && line.get(at + 1).is_some_and(|v| !is_format(v)) {
            arranged.push("--file".into());
        } else {
            arranged.push(word.clone());
        }
    }
    arranged.append(&mut moved);
    arranged
}

fn is_format(word: &OsString) -> bool {
    word == "table" || word == "json"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split_text(line: &str) -> Vec<String> {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        split(&words)
            .iter()
            .map(|line| line.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" "))
            .collect()
    }

    #[test]
    fn cuts_at_double_dashes() {
        assert_eq!(split_text("show"), ["show"]);
        assert_eq!(
            split_text("add-br br0 -- add-port br0 p1 tag=5"),
            ["add-br br0", "add-port br0 p1 tag=5"]
        );
        assert_eq!(split_text("-- add-br br0 -- -- list-br --"), ["add-br br0", "list-br"]);
        assert_eq!(split_text(""), Vec::<String>::new());
    }

    #[test]
    fn flags_before_the_verb_are_moved() {
        assert_eq!(
            split_text("--may-exist add-br br0 -- --if-exists del-port p1"),
            ["add-br br0 --may-exist", "del-port p1 --if-exists"]
        );
        assert_eq!(
            split_text("--socket /s -o json --may-exist -t 3 add-br br0"),
            ["--socket /s -o json -t 3 add-br br0 --may-exist"]
        );
        assert_eq!(split_text("--timeout=3 add-br --may-exist br0"), ["--timeout=3 add-br --may-exist br0"]);
    }

    #[test]
    fn global_flags_alone_join_the_first_command() {
        assert_eq!(
            split_text("--socket /s -- --may-exist add-br br0 -- show"),
            ["--socket /s add-br br0 --may-exist", "show"]
        );
        assert_eq!(split_text("--socket /s"), ["--socket /s"]);
        assert_eq!(split_text("--help -- show"), ["--help", "show"]);
        assert_eq!(split_text("--socket"), ["--socket"]);
    }

    #[test]
    fn import_has_a_file_where_others_have_a_format() {
        assert_eq!(split_text("cluster import -o /f"), ["cluster import --file /f"]);
        assert_eq!(split_text("cluster import -o json -o /f"), ["cluster import -o json --file /f"]);
        assert_eq!(split_text("cluster show -o /f"), ["cluster show -o /f"]);
        assert_eq!(split_text("cluster import -o"), ["cluster import -o"]);
    }
}
