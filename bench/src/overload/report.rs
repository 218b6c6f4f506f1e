//! Figures of floods, as a table and as JSON.

use serde::Serialize;

use super::{Flood, Row, Turn};
use crate::chaos::report::Summary as Event;
use crate::histogram::median;

/// Figures of one flood, as they go into the JSON file: those of an event, with requests between the other pods in place
/// of packets, round trips in place of blocked times, and no connections; and further ones.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Summary {
    /// What weft did, as of an event; its name is the flood's behind `overload-`.
    #[serde(flatten)]
    pub event: Event,
    /// What weft did.
    pub weft: Figures,
    /// What the kernel's bridge did.
    pub kernel: Figures,
    /// Weft's 99 % quantile by the kernel's; above 1: weft is slower.
    pub p99_ratio: f64,
}

/// One side's figures.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Figures {
    /// Requests sent.
    pub requests: u64,
    /// Requests without a response.
    pub lost: u64,
    /// Median of the turns' medians, microseconds.
    pub p50_us: f64,
    /// Median of the turns' 99 % quantiles, microseconds.
    pub p99_us: f64,
    /// Median of what the flood sent per second.
    pub flood_per_second: f64,
}

impl Row {
    /// Its figures.
    pub fn summary(&self) -> Summary {
        let longest = |turn: &Turn| turn.answers.latency.max_us / 1000.0;
        let (weft, kernel) = (Figures::of(&self.weft), Figures::of(&self.kernel));
        Summary {
            event: Event {
                event: format!("overload-{}", name(self.flood)),
                rounds: self.weft.len(),
                connections_broken: 0,
                packets_lost: weft.lost,
                blocked_ms_p50: hundredths(of_turns(&self.weft, longest)),
                blocked_ms_max: hundredths(self.weft.iter().map(longest).fold(0.0, f64::max)),
            },
            weft,
            kernel,
            p99_ratio: hundredths(weft.p99_us / kernel.p99_us),
        }
    }
}

impl Figures {
    fn of(turns: &[Turn]) -> Figures {
        Figures {
            requests: turns.iter().map(|turn| turn.answers.requests).sum(),
            lost: turns.iter().map(|turn| turn.answers.lost).sum(),
            p50_us: hundredths(of_turns(turns, |turn| turn.answers.latency.p50_us)),
            p99_us: hundredths(of_turns(turns, |turn| turn.answers.latency.p99_us)),
            flood_per_second: of_turns(turns, |turn| turn.flood_per_second).round(),
        }
    }
}

/// The table's head.
pub fn head() -> String {
    let sides = format!("{:<11}{:<46}{}\n", "", "weft", "kernel bridge");
    let columns = ["lost", "of", "p50 us", "p99 us", "flood/s"];
    sides + &line("flood", &columns.map(str::to_owned), &columns.map(str::to_owned), "p99 ratio")
}

/// The table's line of one flood.
pub fn body(row: &Row) -> String {
    let summary = row.summary();
    let cells = |f: &Figures| {
        let Figures { requests, lost, p50_us, p99_us, flood_per_second } = f;
        [
            lost.to_string(),
            requests.to_string(),
            format!("{p50_us:.0}"),
            format!("{p99_us:.0}"),
            format!("{flood_per_second:.0}"),
        ]
    };
    line(
        name(row.flood),
        &cells(&summary.weft),
        &cells(&summary.kernel),
        &format!("{:.2}", summary.p99_ratio),
    )
}

fn line(name: &str, weft: &[String; 5], kernel: &[String; 5], ratio: &str) -> String {
    let side = |cells: &[String; 5]| {
        let [lost, of, p50, p99, flood] = cells;
        format!("{lost:>6}{of:>9}{p50:>10}{p99:>10}{flood:>10} ")
    };
    format!("{name:<10}{}{}{ratio:>10}\n", side(weft), side(kernel))
}

fn name(flood: Flood) -> &'static str {
    match flood {
        Flood::Calm => "calm",
        Flood::Broadcast => "broadcast",
        Flood::Flows => "flows",
        Flood::Bad => "bad",
        Flood::Api => "api",
    }
}

/// Median over the turns; 0 without any.
fn of_turns(turns: &[Turn], of: impl Fn(&Turn) -> f64) -> f64 {
    median(turns.iter().map(of)).unwrap_or(0.0)
}

fn hundredths(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::Latency;
    use crate::rr::Answers;

    fn turn(lost: u64, p99_us: f64) -> Turn {
        let latency = Latency { p50_us: p99_us / 2.0, p99_us, max_us: p99_us * 10.0, ..Latency::default() };
        let answers =
            Answers { requests: 100, responses: 100 - lost, lost, seconds: 1.0, per_second: 100.0, latency };
        Turn { answers, flood_per_second: 1000.0 }
    }

    #[test]
    fn medians_and_worst_of_the_turns() {
        let weft = vec![turn(0, 100.0), turn(1, 300.0), turn(0, 200.0)];
        let row = Row { flood: Flood::Flows, weft, kernel: vec![turn(0, 100.0), turn(0, 300.0)] };
        let summary = row.summary();
        let event = &summary.event;
        assert_eq!((event.event.as_str(), event.rounds, event.packets_lost), ("overload-flows", 3, 1));
        assert_eq!((summary.weft.p99_us, summary.kernel.p99_us, summary.p99_ratio), (200.0, 200.0, 1.0));
        assert_eq!((event.blocked_ms_p50, event.blocked_ms_max), (2.0, 3.0));
        assert_eq!(body(&row).split_whitespace().next_back(), Some("1.00"));
        assert_eq!(head().lines().count(), 2);
    }
}
