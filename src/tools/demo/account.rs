//! The summary: metrics sent, arrived and lost, and whether the counters add up. Pure.
//!
//! In: the exact counts of traffic, proxy and backends after the end. Out: a text and a [`Verdict`]. Next: `mod.rs`.

use super::figures::{Cpu, Quantiles};
use super::table::{Event, reasons};
use super::traffic::DATAGRAM_METRICS;
use crate::stats::{Counter, Counters};
use crate::text::{clock, count, grouped, percent, plural};
use crate::tools::load::send::Sent;
use crate::tools::sink::figures::Arrived;
use std::fmt::Write;
use std::time::Duration;

/// Events that the summary repeats at most, the last ones.
const EVENTS_SHOWN: usize = 8;

/// The final counters, with their context.
#[derive(Default)]
pub struct Account {
    /// How long the traffic was on.
    pub elapsed: Duration,
    /// What the traffic sent.
    pub sent: Sent,
    /// The proxy's final counters.
    pub counters: Counters,
    /// What arrived; a metric that the user sent is foreign, or a duplicate.
    pub arrived: Arrived,
    /// Simulated outages, and the length of each.
    pub outages: (usize, Duration),
    /// All metrics' latency.
    pub latency: Option<Quantiles>,
    /// The proxy's CPU.
    pub cpu: Option<Cpu>,
    /// What happened.
    pub events: Vec<Event>,
}

/// The result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every metric of the traffic arrived.
    Complete,
    /// So many were lost, and each loss has a counter.
    Counted(u64),
    /// The counts contradict each other: one sentence each.
    Wrong(Vec<String>),
}

impl Account {
    /// Whether the counters add up.
    pub fn verdict(&self) -> Verdict {
        let wrong = self.contradictions();
        match self.arrived.lost {
            _ if !wrong.is_empty() => Verdict::Wrong(wrong),
            0 => Verdict::Complete,
            lost => Verdict::Counted(lost),
        }
    }

    fn contradictions(&self) -> Vec<String> {
        let get = |counter| self.counters.get(counter);
        let metrics = |number: u64| count(number, "metric");
        let (arrived, proxy_sent) = (&self.arrived, get(Counter::MetricsSent));
        let mut wrong = Vec::new();
        if self.counters.imbalance() != 0 {
            let more = self.counters.imbalance();
            wrong.push(format!("the proxy received {more} more metrics than it sent, dropped or holds"));
        }
        if get(Counter::MetricsPending) != 0 {
            wrong.push(format!("the proxy exited with {} pending", metrics(get(Counter::MetricsPending))));
        }
        let missing = self.sent.metrics.saturating_sub(get(Counter::MetricsReceived));
        let excused = get(Counter::KernelDrops).saturating_mul(DATAGRAM_METRICS.into());
        if missing > excused && self.sent.refused == 0 {
            wrong.push(format!("{} lost before the proxy, uncounted", metrics(missing)));
        }
        if arrived.metrics > proxy_sent {
            let more = metrics(arrived.metrics - proxy_sent);
            wrong.push(format!("the backends received {more} more than the proxy sent"));
        } else if arrived.metrics < proxy_sent && arrived.dropped_at_sinks == 0 {
            wrong.push(format!("{} lost after the proxy, uncounted", metrics(proxy_sent - arrived.metrics)));
        }
        if arrived.misplaced > get(Counter::MetricsDiverted) {
            let (misplaced, diverted) = (metrics(arrived.misplaced), grouped(get(Counter::MetricsDiverted)));
            wrong.push(format!(
                "{misplaced} arrived at backends that do not own their names, but only {diverted} were diverted"
            ));
        }
        wrong
    }

    /// The summary, with the verdict at its end.
    pub fn text(&self) -> String {
        let mut text = format!("\nSummary of {:.1} s\n\n", self.elapsed.as_secs_f64());
        self.write_path(&mut text);
        self.write_backends(&mut text);
        self.write_figures(&mut text);
        self.write_events(&mut text);
        text + "\n" + &self.verdict_text() + "\n"
    }

    /// The path of the metrics. Writing to a String cannot fail, here and below.
    fn write_path(&self, text: &mut String) {
        let (counters, arrived) = (&self.counters, &self.arrived);
        let get = |counter| counters.get(counter);
        let mut row = |name: &str, number: u64, noun: &str, rest: String| {
            let _ = writeln!(text, "  {name:<26}{:>13} {}{rest}", grouped(number), plural(number, noun));
        };
        for (name, metrics, datagrams) in [
            ("sent to the proxy", self.sent.metrics, self.sent.datagrams),
            ("received by the proxy", get(Counter::MetricsReceived), get(Counter::DatagramsReceived)),
            ("sent by the proxy", get(Counter::MetricsSent), get(Counter::DatagramsSent)),
            ("received by the backends", arrived.metrics, arrived.datagrams),
        ] {
            row(name, metrics, "metric", format!(" in {}", count(datagrams, "datagram")));
        }
        let others = arrived.foreign + arrived.duplicated;
        if others > 0 {
            row("from other senders", others, "metric", String::new());
        }
        row("lost", arrived.lost, "metric", String::new());
        let dropped = counters.dropped_total();
        if dropped > 0 {
            row("dropped by the proxy", dropped, "metric", format!(": {}", reasons(counters)));
        }
        for (drops, whose) in
            [(get(Counter::KernelDrops), "the proxy's"), (arrived.dropped_at_sinks, "the backends'")]
        {
            if drops > 0 {
                row("dropped by the kernel", drops, "datagram", format!(" at {whose} full sockets"));
            }
        }
        if self.sent.refused > 0 {
            text.push_str(
                "  The proxy's port was closed before the last datagrams were sent; these were refused.\n",
            );
        }
    }

    fn write_backends(&self, text: &mut String) {
        let _ = writeln!(text, "\n  {:<26}{:>13}{:>10}", "backend", "metrics", "share");
        for sink in &self.arrived.sinks {
            let share = percent(sink.metrics as f64, self.arrived.metrics as f64);
            let _ = writeln!(text, "  {:<26}{:>13}{share:>10}", sink.address, grouped(sink.metrics));
        }
        text.push('\n');
    }

    fn write_figures(&self, text: &mut String) {
        if let Some(latency) = self.latency {
            let _ = writeln!(text, "  latency     {latency}");
        }
        if let Some(cpu) = self.cpu {
            let debug = if cfg!(debug_assertions) { " (debug build)" } else { "" };
            let _ = writeln!(text, "  proxy CPU   {cpu} received{debug}");
        }
        if let (outages @ 1.., length) = self.outages {
            let _ = writeln!(
                text,
                "  outages     {outages}, simulated: for {} a backend answered its checks \"health: down\"",
                clock(length)
            );
        }
    }

    fn write_events(&self, text: &mut String) {
        let hidden = self.events.len().saturating_sub(EVENTS_SHOWN);
        if !self.events.is_empty() {
            text.push('\n');
        }
        if hidden > 0 {
            let _ = writeln!(text, "{:>7}   {} before these", "…", count(hidden as u64, "event"));
        }
        for event in &self.events[hidden..] {
            let _ = writeln!(text, "{}", event.line());
        }
    }

    fn verdict_text(&self) -> String {
        let diverted = self.counters.get(Counter::MetricsDiverted);
        let own = format!("the backend that owns its name ({} names)", grouped(self.arrived.names));
        match self.verdict() {
            Verdict::Complete if diverted == 0 => format!("Every metric arrived, each at {own}."),
            Verdict::Complete => format!(
                "Every metric arrived, each at {own},\nexcept {} diverted to other backends while that one was down.",
                grouped(diverted)
            ),
            Verdict::Counted(lost) => {
                format!("{} lost; the counters above show where.", count(lost, "metric"))
            }
            Verdict::Wrong(wrong) => {
                format!("The counters do not add up (a bug):\n  {}.", wrong.join(";\n  "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{DropReason, Exit};
    use crate::tools::sink::figures::SinkFigures;

    /// 1,000 metrics in 250 datagrams, all of which arrived.
    fn complete() -> Account {
        let mut counters = Counters::new();
        counters.add(Counter::MetricsReceived, 1_000);
        counters.add(Counter::DatagramsReceived, 250);
        counters.add(Counter::MetricsSent, 1_000);
        counters.add(Counter::DatagramsSent, 30);
        let sink = |(name, metrics): (&str, u64)| SinkFigures {
            address: name.to_owned(),
            metrics,
            ..SinkFigures::default()
        };
        Account {
            elapsed: Duration::from_millis(2_040),
            sent: Sent { metrics: 1_000, datagrams: 250, ..Sent::default() },
            counters,
            arrived: Arrived {
                metrics: 1_000,
                datagrams: 30,
                names: 494,
                sinks: [("a:1", 300), ("b:2", 300), ("c:3", 400)].map(sink).to_vec(),
                ..Arrived::default()
            },
            outages: (0, Duration::ZERO),
            latency: Some(Quantiles { p50_us: 2_500, p99_us: 5_100, max_us: 6_000 }),
            cpu: Some(Cpu { cores: 0.021, us_per_datagram: 4.2 }),
            events: Vec::new(),
        }
    }

    /// The verdict on a complete account after a change.
    fn judged(change: impl FnOnce(&mut Account)) -> Verdict {
        let mut account = complete();
        change(&mut account);
        account.verdict()
    }

    #[track_caller]
    fn assert_shows(account: &Account, parts: &[&str]) {
        let text = account.text();
        for part in parts {
            assert!(text.contains(part), "{part}\n{text}");
        }
    }

    #[test]
    fn a_complete_account_says_so() {
        let account = complete();
        assert_eq!(account.verdict(), Verdict::Complete);
        assert_shows(
            &account,
            &[
                "Summary of 2.0 s",
                "sent to the proxy                 1,000 metrics in 250 datagrams",
                "received by the backends          1,000 metrics in 30 datagrams",
                "lost                                  0 metrics",
                "c:3                                 400    40.0 %",
                "p50 ≤ 2.5 ms  p99 ≤ 5.1 ms  max ≤ 6.0 ms",
                "Every metric arrived, each at the backend that owns its name (494 names).",
            ],
        );
        let text = account.text();
        assert!(
            !text.contains("dropped") && !text.contains("other senders") && !text.contains("outages"),
            "{text}"
        );
    }

    #[test]
    fn a_metric_that_vanishes_anywhere_is_found() {
        let wrong = |change: fn(&mut Account)| match judged(change) {
            Verdict::Wrong(wrong) => wrong.join("; "),
            other => panic!("{other:?}"),
        };
        assert_eq!(wrong(|it| it.sent.metrics += 1), "1 metric lost before the proxy, uncounted");
        assert_eq!(wrong(|it| it.arrived.metrics -= 2), "2 metrics lost after the proxy, uncounted");
        assert_eq!(
            wrong(|it| it.counters.add(Counter::MetricsReceived, 1)),
            "the proxy received 1 more metrics than it sent, dropped or holds"
        );
        let held = |it: &mut Account| {
            it.counters.add(Counter::MetricsReceived, 1);
            it.counters.add(Counter::MetricsPending, 1);
        };
        assert_eq!(wrong(held), "the proxy exited with 1 metric pending");
        assert_eq!(
            wrong(|it| it.arrived.metrics += 1),
            "the backends received 1 metric more than the proxy sent"
        );
        assert_eq!(
            wrong(|it| it.arrived.misplaced = 1),
            "1 metric arrived at backends that do not own their names, but only 0 were diverted"
        );
        // One datagram that the kernel dropped excuses no more than its metrics.
        let dropped = |it: &mut Account| {
            it.sent.metrics += u64::from(DATAGRAM_METRICS) + 1;
            it.counters.add(Counter::KernelDrops, 1);
        };
        assert_eq!(wrong(dropped), "5 metrics lost before the proxy, uncounted");
        let mut bug = complete();
        bug.arrived.misplaced = 1;
        assert_shows(&bug, &["(a bug)"]);
    }

    #[test]
    fn a_loss_with_a_counter_is_told_but_no_contradiction() {
        let mut dropped = complete();
        (dropped.sent.metrics, dropped.arrived.lost) = (1_009, 9);
        dropped.counters.add(Counter::MetricsReceived, 5);
        dropped.counters.leave(Exit::Dropped(DropReason::QueueFull), 5, 1);
        dropped.counters.add(Counter::KernelDrops, 1);
        assert_eq!(dropped.verdict(), Verdict::Counted(9));
        assert_shows(&dropped, &["5 metrics: queue_full 5", "1 datagram at the proxy's full sockets"]);
        let at_a_backend = |it: &mut Account| {
            (it.arrived.dropped_at_sinks, it.arrived.lost) = (1, 30);
            it.arrived.metrics -= 30;
        };
        assert_eq!(judged(at_a_backend), Verdict::Counted(30));
        let refused = |it: &mut Account| {
            (it.sent.metrics, it.sent.refused, it.arrived.lost) = (1_013, 1, 13);
        };
        assert_eq!(judged(refused), Verdict::Counted(13));
    }

    #[test]
    fn what_others_send_and_what_was_diverted_is_told() {
        let mut account = complete();
        account.counters.add(Counter::MetricsReceived, 7);
        account.counters.leave(Exit::Dropped(DropReason::Malformed), 4, 1);
        account.counters.add(Counter::MetricsSent, 3);
        account.counters.add(Counter::MetricsDiverted, 120);
        account.arrived.metrics += 3;
        // One of the three is like one of the traffic's.
        (account.arrived.foreign, account.arrived.duplicated, account.arrived.misplaced) = (2, 1, 120);
        account.outages = (1, Duration::from_secs(5));
        let event = |s| Event { at: Duration::from_secs(s), words: format!("event {s}.") };
        account.events = (0..10).map(event).collect();
        assert_eq!(account.verdict(), Verdict::Complete);
        assert_shows(
            &account,
            &[
                "from other senders                    3 metrics",
                "4 metrics: malformed 4",
                "except 120 diverted to other backends",
                "outages     1, simulated: for 5 s",
                "…   2 events before these",
                "9 s   event 9.",
            ],
        );
        assert!(!account.text().contains("event 1."), "{}", account.text());
    }
}
