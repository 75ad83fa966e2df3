//! `stats`: every figure as `name: number`, one a line, beginning as go-statsd-proxy's does. Pure.
//!
//! In: a [`View`]. Out: text. Numbers only: words are in `status`. Next: `reply.rs`.

use super::counters::AdminCounter;
use super::latency;
use super::view::View;
use crate::stats::{Counter, DropReason};
use std::fmt::Write;

/// The text. Each number is in the form of C's `%f`; whole ones are exact however large.
pub fn render(view: &View) -> String {
    let counters = view.counters();
    let mut text = format!("time running in seconds: {}\n", view.uptime_s);
    let mut add = |name: &str, number: u64| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{name}: {number}.000000");
    };
    // go-statsd-proxy's name for what it received: it counts metrics.
    add("packets_received", counters.get(Counter::MetricsReceived));
    for counter in Counter::ALL {
        add(counter.name(), counters.get(*counter));
    }
    for reason in DropReason::ALL {
        add(&format!("metrics_dropped_{}", reason.name()), counters.dropped(*reason));
    }
    let arrival_to_sent = latency::arrival_to_sent(&view.latency);
    add("latency_p50_us", arrival_to_sent.value_at_quantile(0.5));
    add("latency_p99_us", arrival_to_sent.value_at_quantile(0.99));
    add("latency_max_us", arrival_to_sent.max());
    if let Some(host) = view.host_udp {
        add("host_udp_rcvbuf_errors", host.rcvbuf_errors);
        add("host_udp_sndbuf_errors", host.sndbuf_errors);
    }
    for counter in AdminCounter::ALL {
        add(counter.name(), view.admin.get(counter));
    }
    add("workers", view.workers.len() as u64);
    for (index, worker) in view.workers.iter().enumerate() {
        let received = worker.counters.get(Counter::MetricsReceived);
        add(&format!("worker_{index}_metrics_received"), received);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::sample;
    use super::*;
    use std::collections::HashMap;

    fn figures(text: &str) -> HashMap<&str, &str> {
        text.lines().map(|line| line.split_once(": ").unwrap()).collect()
    }

    #[test]
    fn it_begins_as_the_original_does() {
        let text = render(&sample());
        assert!(text.starts_with("time running in seconds: 51\npackets_received: 30.000000\n"), "{text}");
        assert!(text.ends_with(
            "workers: 2.000000\nworker_0_metrics_received: 10.000000\nworker_1_metrics_received: 20.000000\n"
        ));
    }

    #[test]
    fn every_counter_and_reason_is_there_once() {
        let text = render(&sample());
        let figures = figures(&text);
        assert_eq!(figures.len(), text.lines().count(), "a name stands twice");
        for counter in Counter::ALL {
            assert!(figures.contains_key(counter.name()), "{}", counter.name());
        }
        for counter in AdminCounter::ALL {
            assert!(figures.contains_key(counter.name()), "{}", counter.name());
        }
        for reason in DropReason::ALL {
            assert!(
                figures.contains_key(format!("metrics_dropped_{}", reason.name()).as_str()),
                "{}",
                reason.name()
            );
        }
        assert_eq!(figures["metrics_sent"], "24.000000");
        assert_eq!(figures["metrics_dropped_malformed"], "4.000000");
        assert_eq!(figures["host_udp_rcvbuf_errors"], "5.000000");
        assert_eq!(figures["host_udp_sndbuf_errors"], "6.000000");
    }

    #[test]
    fn its_sums_balance() {
        let text = render(&sample());
        let number = |line: &str| line.split_once(": ").unwrap().1.parse::<f64>().unwrap();
        let dropped: f64 = text.lines().filter(|line| line.starts_with("metrics_dropped_")).map(number).sum();
        let figures = figures(&text);
        let figure = |name: &str| figures[name].parse::<f64>().unwrap();
        assert_eq!(figure("metrics_received"), figure("metrics_sent") + figure("metrics_pending") + dropped);
    }

    #[test]
    fn its_latency_covers_every_metric() {
        let text = render(&sample());
        let figures = figures(&text);
        assert_eq!(figures["latency_p50_us"], "100.000000");
        // 2 of 100 waited for 5 ms after an idle sleep; the histogram keeps two digits.
        let max: f64 = figures["latency_max_us"].parse().unwrap();
        assert_eq!(figures["latency_p99_us"], figures["latency_max_us"]);
        assert!((5_000.0..5_050.0).contains(&max), "{max}");
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_large_numbers_are_exact() {
        let mut view = sample();
        view.host_udp = None;
        view.workers[0].counters.set(Counter::BytesReceived, (1 << 53) + 1);
        let text = render(&view);
        assert!(!text.contains("host_udp"));
        assert!(text.contains("bytes_received: 9007199254740993.000000\n"));
    }
}
