//! The summary: metrics sent, arrived and lost, and whether the counters add up. Pure.
//!
//! In: the exact counts of traffic, proxy and backends after the end. Out: a text and a [`Verdict`]. Next: `mod.rs`.

use super::backends::Arrived;
use super::figures::{Cpu, Quantiles};
use super::table::{Event, reasons};
use super::traffic::{DATAGRAM_METRICS_MAX, SentFigures};
use crate::stats::{Counter, Counters};
use crate::text::{clock, count, grouped, micros, percent, plural};
use std::fmt::Write;
use std::time::Duration;

/// Events that the summary repeats at most, the last ones.
const EVENTS_SHOWN: usize = 8;

/// The final counters, with their context.
pub struct Account {
    /// How long the traffic was on.
    pub elapsed: Duration,
    /// What the traffic sent.
    pub sent: SentFigures,
    /// The proxy's final counters.
    pub counters: Counters,
    /// The backends, with what arrived at each.
    pub backends: Vec<(String, Arrived)>,
    /// Packets that the kernel dropped at the backends' sockets.
    pub backend_drops: u64,
    /// Different names in the traffic.
    pub names: usize,
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
    /// Some were lost, and each loss has a counter.
    Counted {
        /// How many.
        metrics: u64,
    },
    /// The counts contradict each other: one sentence each.
    Wrong(Vec<String>),
}

impl Account {
    fn arrived(&self) -> Arrived {
        let mut sum = Arrived::default();
        self.backends.iter().for_each(|(_, arrived)| sum.add(*arrived));
        sum
    }

    /// Whether the counters add up.
    pub fn verdict(&self) -> Verdict {
        let wrong = self.contradictions();
        if !wrong.is_empty() {
            return Verdict::Wrong(wrong);
        }
        match self.sent.metrics.saturating_sub(self.arrived().metrics) {
            0 => Verdict::Complete,
            metrics => Verdict::Counted { metrics },
        }
    }

    fn contradictions(&self) -> Vec<String> {
        let (counters, arrived) = (&self.counters, self.arrived());
        let received = counters.get(Counter::MetricsReceived);
        let proxy_sent = counters.get(Counter::MetricsSent);
        let diverted = counters.get(Counter::MetricsDiverted);
        let mut wrong = Vec::new();
        if counters.imbalance() != 0 {
            wrong.push(format!(
                "the proxy received {} more metrics than it sent, dropped or holds",
                counters.imbalance()
            ));
        }
        if counters.get(Counter::MetricsPending) != 0 {
            let pending = count(counters.get(Counter::MetricsPending), "metric");
            wrong.push(format!("the proxy exited with {pending} pending"));
        }
        let missing = self.sent.metrics.saturating_sub(received);
        let excused = counters.get(Counter::KernelDrops).saturating_mul(DATAGRAM_METRICS_MAX);
        if missing > excused && !self.sent.refused {
            wrong.push(format!("{} lost before the proxy, uncounted", count(missing, "metric")));
        }
        if arrived.total() > proxy_sent {
            let more = count(arrived.total() - proxy_sent, "metric");
            wrong.push(format!("the backends received {more} more than the proxy sent"));
        } else if arrived.total() < proxy_sent && self.backend_drops == 0 {
            let fewer = count(proxy_sent - arrived.total(), "metric");
            wrong.push(format!("{fewer} lost after the proxy, uncounted"));
        }
        if arrived.elsewhere > diverted {
            wrong.push(format!(
                "{} arrived at backends that do not own their names, but only {} were diverted",
                count(arrived.elsewhere, "metric"),
                grouped(diverted)
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
        self.write_verdict(&mut text);
        text
    }

    /// The path of the metrics. Writing to a String cannot fail, here and below.
    fn write_path(&self, text: &mut String) {
        let (counters, arrived) = (&self.counters, self.arrived());
        let get = |counter| counters.get(counter);
        let mut row = |name: &str, number: u64, words: String| {
            let _ = writeln!(text, "  {name:<26}{:>13} {words}", grouped(number));
        };
        let metrics_in =
            |metrics, datagrams| format!("{} in {}", plural(metrics, "metric"), count(datagrams, "datagram"));
        for (name, metrics, datagrams) in [
            ("sent to the proxy", self.sent.metrics, self.sent.datagrams),
            ("received by the proxy", get(Counter::MetricsReceived), get(Counter::DatagramsReceived)),
            ("sent by the proxy", get(Counter::MetricsSent), get(Counter::DatagramsSent)),
            ("received by the backends", arrived.total(), arrived.datagrams),
        ] {
            row(name, metrics, metrics_in(metrics, datagrams));
        }
        if arrived.others > 0 {
            row("from other senders", arrived.others, plural(arrived.others, "metric"));
        }
        let lost = self.sent.metrics.saturating_sub(arrived.metrics);
        row("lost", lost, plural(lost, "metric"));
        let dropped = counters.dropped_total();
        if dropped > 0 {
            row(
                "dropped by the proxy",
                dropped,
                format!("{}: {}", plural(dropped, "metric"), reasons(counters)),
            );
        }
        for (drops, whose) in
            [(get(Counter::KernelDrops), "the proxy's"), (self.backend_drops, "the backends'")]
        {
            if drops > 0 {
                let words = format!("{} at {whose} full sockets", plural(drops, "datagram"));
                row("dropped by the kernel", drops, words);
            }
        }
        if self.sent.refused {
            text.push_str(
                "  The proxy's port was closed before the last datagrams were sent; these were refused.\n",
            );
        }
    }

    fn write_backends(&self, text: &mut String) {
        let total = self.arrived().total();
        let _ = writeln!(text, "\n  {:<26}{:>13}{:>10}", "backend", "metrics", "share");
        for (name, arrived) in &self.backends {
            let share = percent(arrived.total() as f64, total as f64);
            let _ = writeln!(text, "  {name:<26}{:>13}{share:>10}", grouped(arrived.total()));
        }
        text.push('\n');
    }

    fn write_figures(&self, text: &mut String) {
        if let Some(latency) = self.latency {
            let _ = writeln!(
                text,
                "  latency     p50 ≤ {}  p99 ≤ {}  max ≤ {}  from arrival to sending",
                micros(latency.p50_us),
                micros(latency.p99_us),
                micros(latency.max_us)
            );
        }
        if let Some(cpu) = self.cpu {
            let debug = if cfg!(debug_assertions) { " (debug build)" } else { "" };
            let _ = writeln!(
                text,
                "  proxy CPU   {} of a core, {:.1} µs per datagram received{debug}",
                percent(cpu.cores, 1.0),
                cpu.us_per_datagram
            );
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

    fn write_verdict(&self, text: &mut String) {
        let diverted = self.counters.get(Counter::MetricsDiverted);
        let own = format!("the backend that owns its name ({} names)", grouped(self.names as u64));
        let verdict = match self.verdict() {
            Verdict::Complete if diverted == 0 => format!("Every metric arrived, each at {own}."),
            Verdict::Complete => format!(
                "Every metric arrived, each at {own},\nexcept {} diverted to other backends while that one was down.",
                grouped(diverted)
            ),
            Verdict::Counted { metrics } => {
                format!("{} lost; the counters above show where.", count(metrics, "metric"))
            }
            Verdict::Wrong(wrong) => {
                format!("The counters do not add up (a bug):\n  {}.", wrong.join(";\n  "))
            }
        };
        let _ = writeln!(text, "\n{verdict}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{DropReason, Exit};

    /// 1,000 metrics in 250 datagrams, all of which arrived.
    fn complete() -> Account {
        let mut counters = Counters::new();
        counters.add(Counter::MetricsReceived, 1_000);
        counters.add(Counter::DatagramsReceived, 250);
        counters.add(Counter::MetricsSent, 1_000);
        counters.add(Counter::DatagramsSent, 30);
        let arrived = |metrics| Arrived { metrics, datagrams: 10, ..Arrived::default() };
        let names = ["a:1", "b:2", "c:3"].map(str::to_owned);
        Account {
            elapsed: Duration::from_millis(2_040),
            sent: SentFigures { metrics: 1_000, datagrams: 250, refused: false },
            counters,
            backends: names.into_iter().zip([arrived(300), arrived(300), arrived(400)]).collect(),
            backend_drops: 0,
            names: 494,
            outages: (0, Duration::ZERO),
            latency: Some(Quantiles { p50_us: 2_500, p99_us: 5_100, max_us: 6_000 }),
            cpu: Some(Cpu { cores: 0.021, us_per_datagram: 4.2 }),
            events: Vec::new(),
        }
    }

    fn wrong(account: &Account) -> Vec<String> {
        match account.verdict() {
            Verdict::Wrong(wrong) => wrong,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_complete_account_says_so() {
        let account = complete();
        assert_eq!(account.verdict(), Verdict::Complete);
        let text = account.text();
        for part in [
            "Summary of 2.0 s",
            "sent to the proxy                 1,000 metrics in 250 datagrams",
            "received by the backends          1,000 metrics in 30 datagrams",
            "lost                                  0 metrics",
            "c:3                                 400    40.0 %",
            "p50 ≤ 2.5 ms  p99 ≤ 5.1 ms  max ≤ 6.0 ms",
            "Every metric arrived, each at the backend that owns its name (494 names).",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("dropped") && !text.contains("yours") && !text.contains("outages"), "{text}");
    }

    #[test]
    fn a_metric_that_vanishes_anywhere_is_found() {
        let mut before = complete();
        before.sent.metrics += 1;
        assert_eq!(wrong(&before), ["1 metric lost before the proxy, uncounted"]);
        let mut within = complete();
        within.backends[0].1.metrics -= 2;
        within.counters.add(Counter::MetricsReceived, 0);
        assert_eq!(wrong(&within), ["2 metrics lost after the proxy, uncounted"]);
        let mut inside = complete();
        inside.sent.metrics += 1;
        inside.counters.add(Counter::MetricsReceived, 1);
        assert_eq!(wrong(&inside), ["the proxy received 1 more metrics than it sent, dropped or holds"]);
        let mut held = inside;
        held.counters.add(Counter::MetricsPending, 1);
        assert_eq!(wrong(&held), ["the proxy exited with 1 metric pending"]);
        let mut invented = complete();
        invented.backends[0].1.others += 1;
        assert_eq!(wrong(&invented), ["the backends received 1 metric more than the proxy sent"]);
        let mut astray = complete();
        astray.backends[0].1.elsewhere = 1;
        assert!(wrong(&astray)[0].contains("do not own their names"));
        assert!(astray.text().contains("(a bug)"));
    }

    #[test]
    fn a_loss_with_a_counter_is_told_but_no_contradiction() {
        let mut dropped = complete();
        dropped.sent.metrics += 5;
        dropped.counters.add(Counter::MetricsReceived, 5);
        dropped.counters.leave(Exit::Dropped(DropReason::QueueFull), 5, 1);
        assert_eq!(dropped.verdict(), Verdict::Counted { metrics: 5 });
        assert!(dropped.text().contains("5 metrics: queue_full 5"), "{}", dropped.text());
        let mut at_the_proxy = complete();
        at_the_proxy.sent.metrics += DATAGRAM_METRICS_MAX;
        at_the_proxy.counters.add(Counter::KernelDrops, 1);
        assert_eq!(at_the_proxy.verdict(), Verdict::Counted { metrics: DATAGRAM_METRICS_MAX });
        assert!(
            at_the_proxy.text().contains("1 datagram at the proxy's full sockets"),
            "{}",
            at_the_proxy.text()
        );
        at_the_proxy.sent.metrics += 1;
        assert_eq!(wrong(&at_the_proxy).len(), 1);
        let mut at_a_backend = complete();
        at_a_backend.backend_drops = 1;
        at_a_backend.backends[1].1.metrics -= 30;
        assert_eq!(at_a_backend.verdict(), Verdict::Counted { metrics: 30 });
        let mut refused = complete();
        refused.sent = SentFigures { metrics: 1_013, datagrams: 251, refused: true };
        assert_eq!(refused.verdict(), Verdict::Counted { metrics: 13 });
    }

    #[test]
    fn what_others_send_and_what_was_diverted_is_told() {
        let mut account = complete();
        account.counters.add(Counter::MetricsReceived, 7);
        account.counters.leave(Exit::Dropped(DropReason::Malformed), 4, 1);
        account.counters.add(Counter::MetricsSent, 3);
        account.counters.add(Counter::MetricsDiverted, 120);
        account.backends[0].1.others = 3;
        account.backends[0].1.elsewhere = 120;
        account.outages = (1, Duration::from_secs(5));
        let event = |s| Event { at: Duration::from_secs(s), words: format!("event {s}.") };
        account.events = (0..10).map(event).collect();
        assert_eq!(account.verdict(), Verdict::Complete);
        let text = account.text();
        for part in [
            "from other senders                    3 metrics",
            "4 metrics: malformed 4",
            "except 120 diverted to other backends",
            "outages     1, simulated: for 5 s",
            "…   2 events before these",
            "9 s   event 9.",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        assert!(!text.contains("event 1."), "{text}");
    }
}
