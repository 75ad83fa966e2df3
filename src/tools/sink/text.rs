//! What arrived, for people to read.
//!
//! In: figures and a verdict. Out: text. Next: stdout.

use super::figures::{Arrived, LatencyFigures, SinkFigures};
use super::verdict::Verdict;
use crate::text::grouped;
use std::fmt::Write;

/// So many in so many seconds, by the second; 0 if there was no time.
pub fn rate(count: u64, seconds: f64) -> u64 {
    if seconds > 0.0 { (count as f64 / seconds).round() as u64 } else { 0 }
}

/// Where the names of a passed load were.
pub fn places(arrived: &Arrived) -> &'static str {
    match arrived.moved {
        None => "each name at one sink",
        Some(_) => "each name where a config places it",
    }
}

/// What arrived.
pub fn arrived(arrived: &Arrived) -> String {
    let mut text = String::new();
    let per_second = |count| grouped(rate(count, arrived.seconds));
    // Writing to a String cannot fail, here and below.
    let _ = writeln!(
        text,
        "arrived     {} metrics of {} names in {} datagrams, {:.3} s: {} metrics/s, {} datagrams/s",
        grouped(arrived.metrics),
        grouped(arrived.names),
        grouped(arrived.datagrams),
        arrived.seconds,
        per_second(arrived.metrics),
        per_second(arrived.datagrams),
    );
    let reordered = arrived.reordered.map_or("-".into(), grouped);
    let _ = writeln!(
        text,
        "            lost {}  duplicated {}  misplaced {}  undecided {}  reordered {reordered}",
        grouped(arrived.lost),
        grouped(arrived.duplicated),
        grouped(arrived.misplaced),
        grouped(arrived.undecided),
    );
    match &arrived.latency_us {
        Some(latency) => text.push_str(&latency_line(latency)),
        None => text.push_str("latency     not measured: captured lines, or a load on another host\n"),
    }
    text.push_str(&sinks(&arrived.sinks));
    text
}

fn latency_line(latency: &LatencyFigures) -> String {
    format!(
        "latency µs  mean {:.0}  p50 {}  p90 {}  p99 {}  p99.9 {}  max {}\n",
        latency.mean,
        grouped(latency.p50),
        grouped(latency.p90),
        grouped(latency.p99),
        grouped(latency.p999),
        grouped(latency.max),
    )
}

fn sinks(sinks: &[SinkFigures]) -> String {
    let metrics: u64 = sinks.iter().map(|sink| sink.metrics).sum();
    let mut text = format!(
        "{:<24} {:>14} {:>12} {:>8} {:>10} {:>12}\n",
        "sink", "metrics", "datagrams", "share", "dropped", "buffer bytes"
    );
    for sink in sinks {
        let share = sink.metrics as f64 / metrics.max(1) as f64;
        let _ = writeln!(
            text,
            "{:<24} {:>14} {:>12} {:>8} {:>10} {:>12}",
            sink.address,
            grouped(sink.metrics),
            grouped(sink.datagrams),
            format!("{:.2} %", share * 100.0),
            grouped(sink.dropped),
            grouped(sink.receive_buffer_bytes as u64),
        );
    }
    text
}

/// The verdict, its reasons and notes; the verdict is the last line.
pub fn verdict(verdict: &Verdict, summary: &str) -> String {
    let mut text = String::new();
    for note in &verdict.notes {
        let _ = writeln!(text, "note: {note}");
    }
    if verdict.passed {
        let _ = writeln!(text, "PASS: {summary}");
    } else {
        let _ = writeln!(text, "FAIL: {}", verdict.reasons.join("; "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_rounded_and_0_without_time() {
        assert_eq!((rate(10, 0.0), rate(15, 2.0)), (0, 8));
    }

    #[test]
    fn the_verdict_comes_last() {
        let failed =
            Verdict { passed: false, reasons: vec!["a".into(), "b".into()], notes: vec!["n".into()] };
        assert_eq!(verdict(&failed, "fine"), "note: n\nFAIL: a; b\n");
        assert_eq!(verdict(&Verdict { passed: true, ..Verdict::default() }, "fine"), "PASS: fine\n");
    }

    #[test]
    fn every_sink_has_its_row() {
        let sink = |address: &str, metrics| SinkFigures {
            address: address.into(),
            metrics,
            dropped: 7,
            ..SinkFigures::default()
        };
        let figures = Arrived {
            sinks: vec![sink("127.0.0.1:1", 3000), sink("127.0.0.1:2", 1000)],
            latency_us: Some(LatencyFigures { p99: 4321, ..LatencyFigures::default() }),
            ..Arrived::default()
        };
        let text = arrived(&figures);
        for part in ["127.0.0.1:1", "75.00 %", "25.00 %", "p99 4,321", "reordered -"] {
            assert!(text.contains(part), "{text}");
        }
    }
}
