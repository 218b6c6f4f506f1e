//! Medians, spread and ratios: JSON, Markdown, and a plot.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::Context as _;
use plotters::prelude::*;
use serde::Serialize;

use super::measure::Value;
use crate::histogram::median;

/// The switch that is measured against the others, and the one that ratios are made with.
const OURS: &str = "weft";
const BASE: &str = "kernel";

/// Everything that was measured.
#[derive(Clone, PartialEq, Debug)]
pub struct Table {
    peers: Vec<String>,
    rows: Vec<Row>,
}

/// One work.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    work: String,
    unit: &'static str,
    more_is_better: bool,
    /// By peer.
    samples: BTreeMap<String, Vec<f64>>,
}

/// A row as it is written to a file.
#[derive(Serialize)]
struct Entry<'a> {
    work: &'a str,
    unit: &'a str,
    better: &'a str,
    medians: BTreeMap<&'a str, f64>,
    /// Lowest and highest.
    spread: BTreeMap<&'a str, [f64; 2]>,
    ratio_to_kernel: Option<f64>,
}

impl Row {
    fn spread(&self, peer: &str) -> Option<[f64; 3]> {
        let samples = self.samples.get(peer)?;
        let (low, high) =
            samples.iter().fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(*v), high.max(*v)));
        Some([low, median(samples.iter().copied())?, high])
    }

    fn median(&self, peer: &str) -> Option<f64> {
        self.spread(peer).map(|[_, median, _]| median)
    }

    fn ratio(&self, peer: &str) -> Option<f64> {
        Some(self.median(peer)? / self.median(BASE).filter(|base| *base > 0.0)?)
    }
}

impl Table {
    pub(super) fn new(peers: Vec<String>) -> Self {
        Table { peers, rows: Vec::new() }
    }

    pub(super) fn add(&mut self, peer: &str, values: Vec<Value>) {
        for Value { work, unit, more_is_better, value } in values {
            let at = self.rows.iter().position(|row| row.work == work).unwrap_or_else(|| {
                self.rows.push(Row { work, unit, more_is_better, samples: BTreeMap::new() });
                self.rows.len() - 1
            });
            self.rows[at].samples.entry(peer.to_owned()).or_default().push(value);
        }
    }

    /// An array, one object a work.
    ///
    /// # Errors
    /// None in practice.
    pub fn json(&self) -> anyhow::Result<String> {
        let entries: Vec<Entry> = self
            .rows
            .iter()
            .map(|row| {
                let spreads =
                    || self.peers.iter().filter_map(|peer| Some((peer.as_str(), row.spread(peer)?)));
                Entry {
                    work: &row.work,
                    unit: row.unit,
                    better: if row.more_is_better { "more" } else { "less" },
                    medians: spreads().map(|(peer, [_, median, _])| (peer, rounded(median))).collect(),
                    spread: spreads()
                        .map(|(peer, [low, _, high])| (peer, [rounded(low), rounded(high)]))
                        .collect(),
                    ratio_to_kernel: row.ratio(OURS).map(rounded),
                }
            })
            .collect();
        Ok(serde_json::to_string_pretty(&entries)?)
    }

    /// Medians with the lowest and the highest, and weft's ratio to each of the others.
    pub fn markdown(&self) -> String {
        let mut text = String::from("| work | unit |");
        let others: Vec<&String> = self.peers.iter().filter(|peer| *peer != OURS).collect();
        self.peers.iter().for_each(|peer| _ = write!(text, " {peer} |"));
        others.iter().for_each(|peer| _ = write!(text, " {OURS} ÷ {peer} |"));
        text.push_str("\n| --- | --- |");
        text.push_str(&" ---: |".repeat(self.peers.len() + others.len()));
        text.push('\n');
        for row in &self.rows {
            let arrow = if row.more_is_better { "" } else { ", less is better" };
            _ = write!(text, "| {} | {}{arrow} |", row.work, row.unit);
            for peer in &self.peers {
                _ = match row.spread(peer) {
                    Some([low, median, high]) => {
                        write!(text, " {} ({}–{}) |", short(median), short(low), short(high))
                    }
                    None => write!(text, " – |"),
                };
            }
            for peer in &others {
                _ = match (row.median(OURS), row.median(peer)) {
                    (Some(ours), Some(theirs)) if theirs > 0.0 => write!(text, " {:.2} |", ours / theirs),
                    _ => write!(text, " – |"),
                };
            }
            text.push('\n');
        }
        text
    }

    /// A bar a peer and work, as long as its ratio to the kernel's median, with the spread.
    ///
    /// # Errors
    /// None in practice.
    pub fn plot(&self) -> anyhow::Result<String> {
        let mut svg = String::new();
        let rows: Vec<&Row> =
            self.rows.iter().filter(|row| row.median(BASE).is_some_and(|base| base > 0.0)).collect();
        let (bar, gap, left, scale) = (11, 10, 190, 240);
        let block = bar * self.peers.len() as i32 + gap;
        let (width, height) = (960, block * rows.len() as i32 + 50);
        {
            let area = SVGBackend::with_string(&mut svg, (width, height as u32)).into_drawing_area();
            area.fill(&WHITE)?;
            let font = |size| ("sans-serif", size).into_font();
            for (index, peer) in self.peers.iter().enumerate() {
                let x = left + 120 * index as i32;
                area.draw(&Rectangle::new([(x, 8), (x + 10, 18)], Palette99::pick(index).filled()))?;
                area.draw(&Text::new(peer.clone(), (x + 14, 6), font(13)))?;
            }
            for (index, row) in rows.iter().enumerate() {
                let top = 30 + block * index as i32;
                area.draw(&Text::new(row.work.clone(), (6, top + 2), font(13)))?;
                let base = row.median(BASE).context("the kernel was not measured")?;
                for (place, peer) in self.peers.iter().enumerate() {
                    let Some([low, median, high]) = row.spread(peer) else { continue };
                    let x =
                        |value: f64| (left + (value / base * f64::from(scale)) as i32).min(width as i32 - 60);
                    let y = top + bar * place as i32;
                    let color = Palette99::pick(place);
                    area.draw(&Rectangle::new([(left, y), (x(median), y + bar - 2)], color.filled()))?;
                    area.draw(&PathElement::new(
                        [(x(low), y + bar / 2 - 1), (x(high), y + bar / 2 - 1)],
                        BLACK,
                    ))?;
                    let label = format!("{:.2}", median / base);
                    area.draw(&Text::new(label, (x(high.max(median)) + 4, y - 2), font(11)))?;
                }
            }
            let one = left + scale;
            area.draw(&PathElement::new([(one, 24), (one, height - 20)], BLACK))?;
            let note = "ratio to the kernel's median; thin lines: lowest to highest";
            area.draw(&Text::new(note, (left, height - 16), font(12)))?;
            area.present()?;
        }
        Ok(svg)
    }
}

fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// Three digits or so.
fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(vec!["weft".to_owned(), "kernel".to_owned()]);
        let value =
            |value| vec![Value { work: "tcp1".to_owned(), unit: "Gbit/s", more_is_better: true, value }];
        for sample in [3.0, 1.0, 2.0, 10.0] {
            table.add("weft", value(sample));
        }
        table.add("kernel", value(5.0));
        table
    }

    #[test]
    fn medians_spread_and_ratio() {
        let json: serde_json::Value = serde_json::from_str(&table().json().unwrap()).unwrap();
        let wanted = serde_json::json!([{
            "work": "tcp1", "unit": "Gbit/s", "better": "more",
            "medians": {"weft": 2.5, "kernel": 5.0},
            "spread": {"weft": [1.0, 10.0], "kernel": [5.0, 5.0]},
            "ratio_to_kernel": 0.5,
        }]);
        assert_eq!(json, wanted);
    }

    #[test]
    fn a_table_and_a_plot() {
        let table = table();
        let line = "| tcp1 | Gbit/s | 2.50 (1.00–10.0) | 5.00 (5.00–5.00) | 0.50 |";
        assert_eq!(table.markdown().lines().last(), Some(line));
        let svg = table.plot().unwrap();
        assert!(svg.starts_with("<svg") && svg.contains("tcp1"));
    }
}
