//! The workers' figures, each with the worker's index as label: they add up to the proxy's. Pure.
//!
//! In: a [`View`]. Out: families. Which counter has which name is one `match`, so that no counter is forgotten.

use super::exposition::{Exposition, Kind};
use crate::admin::view::{View, WorkerView};
use crate::stats::{Counter, DropReason, Sleep};
use std::net::SocketAddr;

/// The metric of a counter; `None` for the one that is reported socket by socket.
const fn metric_name(counter: Counter) -> Option<&'static str> {
    Some(match counter {
        Counter::DatagramsReceived => "statsring_datagrams_received_total",
        Counter::BytesReceived => "statsring_received_bytes_total",
        Counter::MetricsReceived => "statsring_metrics_received_total",
        Counter::MetricsSent => "statsring_metrics_sent_total",
        Counter::MetricsPending => "statsring_metrics_pending",
        Counter::DatagramsSent => "statsring_datagrams_sent_total",
        Counter::BytesSent => "statsring_sent_bytes_total",
        Counter::DatagramsGso => "statsring_datagrams_gso_total",
        Counter::PacketsFragmented => "statsring_packets_fragmented_total",
        Counter::DatagramsGro => "statsring_datagrams_gro_total",
        Counter::DatagramsEmpty => "statsring_datagrams_empty_total",
        Counter::DatagramsBlank => "statsring_datagrams_blank_total",
        Counter::DatagramsTruncated => "statsring_datagrams_truncated_total",
        Counter::BytesTruncated => "statsring_truncated_bytes_total",
        Counter::TimestampsMissing => "statsring_timestamps_missing_total",
        Counter::TimestampsInvalid => "statsring_timestamps_invalid_total",
        Counter::SendsWouldBlock => "statsring_sends_would_block_total",
        Counter::SocketsReopened => "statsring_sockets_reopened_total",
        Counter::BackendRefused => "statsring_sends_refused_total",
        Counter::BackendUnreachable => "statsring_sends_unreachable_total",
        Counter::MetricsDiverted => "statsring_metrics_diverted_total",
        Counter::KernelDrops => return None,
        Counter::ReceiveErrors => "statsring_receive_errors_total",
        Counter::DatagramsUnreadable => "statsring_datagrams_unreadable_total",
        Counter::WaitErrors => "statsring_wait_errors_total",
        Counter::Wakeups => "statsring_wakeups_total",
        Counter::CoalescedWaits => "statsring_coalesced_waits_total",
    })
}

/// The families.
pub fn render(out: &mut Exposition, view: &View) {
    out.one(Kind::Gauge, "statsring_workers", "Worker threads.", view.workers.len());
    for counter in Counter::ALL {
        let Some(name) = metric_name(*counter) else { continue };
        let kind = if *counter == Counter::MetricsPending { Kind::Gauge } else { Kind::Counter };
        add(out, view, (kind, name, counter.meaning()), |worker| Some(worker.counters.get(*counter)));
    }
    dropped(out, view);
    kernel_drops(out, view);
    let cpu = (
        Kind::Counter,
        "statsring_worker_cpu_seconds_total",
        "CPU time of the worker's thread, kernel and user.",
    );
    add(out, view, cpu, |worker| worker.cpu_us.map(|us| us as f64 / 1e6));
    receive_buffer(out, view);
}

/// One figure for each worker of which it is known.
fn add<T: std::fmt::Display>(
    out: &mut Exposition,
    view: &View,
    (kind, name, help): (Kind, &'static str, &'static str),
    figure: impl Fn(&WorkerView) -> Option<T>,
) {
    let mut family = out.family(kind, name, help);
    for (index, worker) in view.workers.iter().enumerate() {
        if let Some(value) = figure(worker) {
            family.add(&[("worker", &index.to_string())], value);
        }
    }
}

fn dropped(out: &mut Exposition, view: &View) {
    let mut family = out.family(
        Kind::Counter,
        "statsring_metrics_dropped_total",
        "Metrics dropped by the proxy, by reason; for reason truncated a lower bound.",
    );
    for (index, worker) in view.workers.iter().enumerate() {
        for reason in DropReason::ALL {
            let labels = [("worker", &*index.to_string()), ("reason", reason.name())];
            family.add(&labels, worker.counters.dropped(*reason));
        }
    }
}

/// One series per socket: the one that overflows shows which worker is overloaded.
fn kernel_drops(out: &mut Exposition, view: &View) {
    let mut family =
        out.family(Kind::Counter, "statsring_kernel_drops_total", Counter::KernelDrops.meaning());
    for (index, worker) in view.workers.iter().enumerate() {
        for (socket, drops) in worker.socket_drops.iter().enumerate() {
            let listen = view.listen.get(socket).map_or_else(|| socket.to_string(), SocketAddr::to_string);
            family.add(&[("worker", &index.to_string()), ("listen", &listen)], drops);
        }
    }
}

fn receive_buffer(out: &mut Exposition, view: &View) {
    let granted = (
        Kind::Gauge,
        "statsring_receive_buffer_granted_bytes",
        "Receive buffer of each of the worker's listening sockets, as granted by the kernel.",
    );
    add(out, view, granted, |worker| {
        worker.driver_info.as_ref().map(|driver_info| driver_info.receive_buffer_bytes)
    });
    out.one(
        Kind::Gauge,
        "statsring_receive_buffer_wanted_bytes",
        "Most that the kernel would grant: twice receiveBuffer, because it includes its own overhead.",
        view.receive_buffer_asked_bytes.saturating_mul(2),
    );
    let filled = (
        Kind::Gauge,
        "statsring_receive_buffer_peak_fill_ratio",
        "Share of the receive buffer that the peak rate of the last second fills during the longest sleep; 0 without traffic.",
    );
    add(out, view, filled, |worker| {
        Some(match worker.sleep {
            Sleep::Gather { filled_permille, .. } => f64::from(filled_permille) / 1e3,
            Sleep::Idle | Sleep::Each => 0.0,
        })
    });
    let sleep = (
        Kind::Gauge,
        "statsring_worker_sleep_seconds",
        "Longest sleep of the worker at the present rate; 0 if it wakes up for each datagram.",
    );
    add(out, view, sleep, |worker| {
        Some(match worker.sleep {
            Sleep::Gather { sleep_us, .. } => sleep_us as f64 / 1e6,
            Sleep::Idle | Sleep::Each => 0.0,
        })
    });
}

#[cfg(test)]
mod tests {
    use super::super::super::view::tests::sample;
    use super::*;

    fn text(view: &View) -> String {
        let mut out = Exposition::new();
        render(&mut out, view);
        out.finish()
    }

    #[test]
    fn each_worker_has_its_figures() {
        let mut view = sample();
        view.workers[1].socket_drops = vec![0, 12];
        view.workers[1].sleep = Sleep::Gather { sleep_us: 1_250, filled_permille: 498 };
        let text = text(&view);
        for line in [
            "statsring_workers 2\n",
            "statsring_datagrams_received_total{worker=\"0\"} 2\n",
            "statsring_metrics_received_total{worker=\"1\"} 20\n",
            "# TYPE statsring_metrics_pending gauge\nstatsring_metrics_pending{worker=\"0\"} 1\n",
            "statsring_metrics_dropped_total{worker=\"0\",reason=\"malformed\"} 2\n",
            "statsring_kernel_drops_total{worker=\"1\",listen=\"[::]:8125\"} 12\n",
            "statsring_worker_cpu_seconds_total{worker=\"1\"} 0.00006\n",
            "statsring_receive_buffer_granted_bytes{worker=\"0\"} 425984\n",
            "statsring_receive_buffer_wanted_bytes 16777216\n",
            "statsring_receive_buffer_peak_fill_ratio{worker=\"1\"} 0.498\n",
            "statsring_worker_sleep_seconds{worker=\"1\"} 0.00125\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }

    #[test]
    fn a_worker_that_has_not_started_has_what_is_known() {
        let view = View { workers: vec![WorkerView::default()], ..View::default() };
        let text = text(&view);
        assert!(text.contains("statsring_metrics_received_total{worker=\"0\"} 0\n"), "{text}");
        for name in ["statsring_kernel_drops_total", "statsring_worker_cpu_seconds_total", "buffer_granted"] {
            assert!(!text.contains(name), "{name}");
        }
    }
}
