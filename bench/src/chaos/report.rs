//! Figures of events, as a table and as JSON.

use std::fmt::Write;
use std::time::Duration;

use serde::Serialize;

use super::event::Event;

/// What was seen of an event.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Figures {
    /// Connections that ended, stalled, or carried other bytes than were sent.
    pub connections_broken: usize,
    /// Datagrams sent by both streams.
    pub packets_sent: u64,
    /// Those that did not come.
    pub packets_lost: u64,
    /// The longest gap of each round, less the sender's interval.
    pub blocked: Vec<Duration>,
}

/// Figures of an event on a path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Row {
    /// The event.
    pub event: Event,
    /// The path's name.
    pub path: &'static str,
    /// What was seen.
    pub figures: Figures,
}

/// Figures of an event on all paths, as they go into the JSON file.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Summary {
    /// The event's name.
    pub event: String,
    /// How often it happened.
    pub rounds: usize,
    /// Over all rounds.
    pub connections_broken: usize,
    /// Over all rounds, and the time between them.
    pub packets_lost: u64,
    /// Half of the rounds blocked traffic for at most so many milliseconds.
    pub blocked_ms_p50: f64,
    /// No round blocked it longer.
    pub blocked_ms_max: f64,
}

impl Figures {
    fn add(&mut self, other: &Figures) {
        self.connections_broken += other.connections_broken;
        self.packets_sent += other.packets_sent;
        self.packets_lost += other.packets_lost;
        self.blocked.extend(&other.blocked);
    }

    fn summary(&self, event: Event) -> Summary {
        let mut blocked = self.blocked.clone();
        blocked.sort_unstable();
        let middle = blocked.len() / 2;
        let p50 = match blocked.len() {
            0 => Duration::ZERO,
            len if len % 2 == 1 => blocked[middle],
            _ => (blocked[middle - 1] + blocked[middle]) / 2,
        };
        Summary {
            event: event.to_string(),
            rounds: blocked.len(),
            connections_broken: self.connections_broken,
            packets_lost: self.packets_lost,
            blocked_ms_p50: milliseconds(p50),
            blocked_ms_max: milliseconds(blocked.last().copied().unwrap_or_default()),
        }
    }
}

/// One summary per event, in the order of the rows.
pub fn summaries(rows: &[Row]) -> Vec<Summary> {
    totals(rows).iter().map(|(event, figures)| figures.summary(*event)).collect()
}

/// A line of the table's head.
pub fn head() -> String {
    line(["event", "path", "rounds", "connections", "packets", "of", "blocked ms", ""])
        + &line(["", "", "", "broken", "lost", "sent", "p50", "max"])
}

/// The table's line of one row.
pub fn body(row: &Row) -> String {
    row_line(row.event, row.path, &row.figures)
}

/// The table's lines of all paths together.
pub fn foot(rows: &[Row]) -> String {
    let lines = totals(rows).into_iter().map(|(event, figures)| row_line(event, "all", &figures));
    lines.fold(String::new(), |text, line| text + &line)
}

fn totals(rows: &[Row]) -> Vec<(Event, Figures)> {
    let mut totals: Vec<(Event, Figures)> = Vec::new();
    for row in rows {
        match totals.iter_mut().find(|(event, _)| *event == row.event) {
            Some((_, figures)) => figures.add(&row.figures),
            None => totals.push((row.event, row.figures.clone())),
        }
    }
    totals
}

fn row_line(event: Event, path: &str, figures: &Figures) -> String {
    let summary = figures.summary(event);
    line([
        &summary.event,
        path,
        &summary.rounds.to_string(),
        &summary.connections_broken.to_string(),
        &summary.packets_lost.to_string(),
        &figures.packets_sent.to_string(),
        &format!("{:.1}", summary.blocked_ms_p50),
        &format!("{:.1}", summary.blocked_ms_max),
    ])
}

fn line(cells: [&str; 8]) -> String {
    let [event, path, numbers @ ..] = cells;
    let mut text = format!("{event:<19} {path:<13}");
    for number in numbers {
        let _ = write!(text, " {number:>11}");
    }
    text.truncate(text.trim_end().len());
    text + "\n"
}

/// To a hundredth.
fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 100_000.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(path: &'static str, blocked: &[u64]) -> Row {
        let blocked = blocked.iter().map(|ms| Duration::from_millis(*ms)).collect();
        let figures = Figures { connections_broken: 1, packets_sent: 100, packets_lost: 2, blocked };
        Row { event: Event::Crash, path, figures }
    }

    #[test]
    fn paths_are_summed_up() {
        let rows = [row("same node", &[30, 10]), row("across nodes", &[20, 90])];
        let value = serde_json::to_value(summaries(&rows)).unwrap();
        let wanted = serde_json::json!([{
            "event": "crash", "rounds": 4, "connections_broken": 2, "packets_lost": 4,
            "blocked_ms_p50": 25.0, "blocked_ms_max": 90.0,
        }]);
        assert_eq!(value, wanted);
        assert!(foot(&rows).starts_with("crash               all"), "{}", foot(&rows));
        assert_eq!(body(&rows[0]).split_whitespace().next_back(), Some("30.0"));
        assert_eq!(summaries(&[row("none", &[])])[0].blocked_ms_max, 0.0);
    }
}
