//! `stats`: every figure as `name: number`, one per line, beginning like go-statsd-proxy's. Pure.
//!
//! In: a [`View`]. Out: text. Numbers only: text is in `status`. Next: `reply.rs`.

use super::counters::AdminCounter;
use super::view::{View, WorkerView};
use crate::stats::{Counter, DropReason, LatencyKind};
use std::fmt::Write;

/// The text. Each number is formatted as by C's `%f`; integers are always exact.
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
    let arrival_to_sent = view.latency.arrival_to_sent();
    add("latency_p50_us", arrival_to_sent.value_at_quantile(0.5));
    add("latency_p99_us", arrival_to_sent.value_at_quantile(0.99));
    add("latency_max_us", arrival_to_sent.max());
    if view.timestamps {
        let exact = view.latency.get(LatencyKind::Exact);
        add("latency_exact_p50_us", exact.value_at_quantile(0.5));
        add("latency_exact_p99_us", exact.value_at_quantile(0.99));
        add("latency_exact_max_us", exact.max());
    }
    if let Some(host) = view.host_udp {
        add("host_udp_rcvbuf_errors", host.rcvbuf_errors);
        add("host_udp_sndbuf_errors", host.sndbuf_errors);
    }
    for counter in AdminCounter::ALL {
        add(counter.name(), view.admin.get(*counter));
    }
    for (operation, count) in &view.shortages {
        add(&format!("shortages_{operation}"), *count);
    }
    add("log_lines_dropped", view.log.lines_dropped);
    add("workers", view.workers.len() as u64);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "worker_skew: {:.6}", view.worker_skew());
    for (index, worker) in view.workers.iter().enumerate() {
        add_worker(&mut text, index, worker);
    }
    text
}

/// The figures of one worker.
const OF_EACH_WORKER: [Counter; 5] = [
    Counter::MetricsReceived,
    Counter::DatagramsReceived,
    Counter::KernelDrops,
    Counter::Wakeups,
    Counter::CoalescedWaits,
];

fn add_worker(text: &mut String, index: usize, worker: &WorkerView) {
    let mut add = |name: &str, number: u64| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "worker_{index}_{name}: {number}.000000");
    };
    for counter in OF_EACH_WORKER {
        add(counter.name(), worker.counters.get(counter));
    }
    for (socket, drops) in worker.socket_drops.iter().enumerate() {
        add(&format!("socket_{socket}_kernel_drops"), *drops);
    }
    if let Some(cpu_us) = worker.cpu_us {
        add("cpu_us", cpu_us);
    }
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
        let per_worker = text.split_once("\nworkers: ").unwrap().1;
        assert_eq!(
            per_worker,
            "2.000000\nworker_skew: 1.333333\n\
            worker_0_metrics_received: 10.000000\nworker_0_datagrams_received: 2.000000\n\
            worker_0_kernel_drops: 0.000000\nworker_0_wakeups: 0.000000\nworker_0_coalesced_waits: 0.000000\n\
            worker_0_socket_0_kernel_drops: 0.000000\nworker_0_socket_1_kernel_drops: 0.000000\n\
            worker_0_cpu_us: 30.000000\n\
            worker_1_metrics_received: 20.000000\nworker_1_datagrams_received: 4.000000\n\
            worker_1_kernel_drops: 0.000000\nworker_1_wakeups: 0.000000\nworker_1_coalesced_waits: 0.000000\n\
            worker_1_socket_0_kernel_drops: 0.000000\nworker_1_socket_1_kernel_drops: 0.000000\n\
            worker_1_cpu_us: 60.000000\n"
        );
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
        assert_eq!(figures["log_lines_dropped"], "0.000000");
        assert_eq!(figures["shortages_check"], "3.000000");
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
    fn exact_latencies_are_there_with_timestamps_only() {
        let mut view = sample();
        view.latency.record(LatencyKind::Exact, 70, 98);
        assert!(!render(&view).contains("latency_exact"));
        view.timestamps = true;
        let text = render(&view);
        for line in
            ["latency_exact_p50_us: 70.000000\n", "latency_exact_max_us: 70.000000\n", "latency_p50_us: 100."]
        {
            assert!(text.contains(line), "{line}{text}");
        }
    }

    #[test]
    fn the_skew_is_1_when_even_and_the_number_of_workers_when_one_has_all() {
        let mut view = sample();
        for (counts, skew) in [([7, 7], 1.0), ([0, 8], 2.0), ([3, 1], 1.5), ([0, 0], 1.0)] {
            for (worker, count) in view.workers.iter_mut().zip(counts) {
                worker.counters.set(Counter::DatagramsReceived, count);
            }
            assert_eq!(view.worker_skew(), skew, "{counts:?}");
        }
        view.workers.clear();
        assert_eq!(view.worker_skew(), 1.0);
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_large_numbers_are_exact() {
        let mut view = sample();
        view.host_udp = None;
        view.workers[1].cpu_us = None;
        view.workers[0].counters.set(Counter::BytesReceived, (1 << 53) + 1);
        let text = render(&view);
        assert!(!text.contains("host_udp") && !text.contains("worker_1_cpu_us"));
        assert!(text.contains("bytes_received: 9007199254740993.000000\n"));
    }
}
