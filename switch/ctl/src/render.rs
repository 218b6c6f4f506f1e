//! Text for people: tables, units.

use std::fmt::Display;

use comfy_table::{CellAlignment, Table, presets};

/// A table without borders, columns two spaces apart; those named in `numbers` are set to the right.
pub(crate) fn table<const N: usize>(
    header: [&str; N],
    numbers: &[&str],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_header(header).add_rows(rows);
    for (column, name) in table.column_iter_mut().zip(header) {
        column.set_padding((0, 2));
        if numbers.contains(&name) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let mut text = String::new();
    for line in table.lines() {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// Lines of `name  value`, the values aligned, each line behind `indent`.
pub(crate) fn fields(indent: &str, fields: &[(&str, String)]) -> String {
    let width = fields.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    fields.iter().map(|(name, value)| format!("{indent}{name:width$}  {value}\n")).collect()
}

/// The values separated by commas; a dash if there are none.
pub(crate) fn list<T: Display>(values: impl IntoIterator<Item = T>) -> String {
    let text = values.into_iter().map(|value| value.to_string()).collect::<Vec<_>>().join(", ");
    if text.is_empty() { "-".to_owned() } else { text }
}

/// How many: `1 node`, `2 nodes`.
pub(crate) fn count(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// How frames get from a device to an AF_XDP socket: `native copy`, `native zero-copy`.
pub(crate) fn xdp(mode: &str, zero_copy: bool) -> String {
    format!("{mode} {}", if zero_copy { "zero-copy" } else { "copy" })
}

/// The value, or a dash.
pub(crate) fn or_dash<T: Display>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A share in thousandths as `1.5 %`.
pub(crate) fn permille(share: &u64) -> String {
    format!("{}.{} %", share / 10, share % 10)
}

/// A span of seconds in at most two units: `2d 3h`, `5m 1s`.
pub(crate) fn span(seconds: u64) -> String {
    let units = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];
    let first = units.iter().position(|(_, size)| seconds >= *size).unwrap_or(3);
    let mut rest = seconds;
    let mut text = String::new();
    for (name, size) in &units[first..units.len().min(first + 2)] {
        let count = rest / size;
        rest %= size;
        if count > 0 || text.is_empty() {
            text.push_str(if text.is_empty() { "" } else { " " });
            text.push_str(&format!("{count}{name}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_without_trailing_blanks() {
        let rows =
            [["a".to_owned(), "5".to_owned(), String::new()], ["long".into(), "1234".into(), "x".into()]];
        let text = table(["NAME", "COUNT", "NOTE"], &["COUNT"], rows);
        assert_eq!(text, "NAME  COUNT  NOTE\na         5\nlong   1234  x\n");
        assert_eq!(table(["NAME"], &[], []), "NAME\n");
    }

    #[test]
    fn spans_have_two_units() {
        let cases = [(0, "0s"), (59, "59s"), (60, "1m"), (301, "5m 1s"), (3_600, "1h"), (90_061, "1d 1h")];
        for (seconds, text) in cases {
            assert_eq!(span(seconds), text);
        }
    }
}
