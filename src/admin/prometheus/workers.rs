//! The workers' figures, each with the worker's index as label: they add up to the proxy's. Pure.
//!
//! In: a [`View`]. Out: families. Which counter has which name is one `match`, so that no counter is forgotten.

use super::exposition::{Exposition, Kind};
use crate::admin::view::{View, WorkerView};
use crate::stats::{Counter, DropReason, Sleep};
use std::net::SocketAddr;

/// Name and explanation of a counter; `None` for the one that is told socket by socket.
fn described(counter: Counter) -> Option<(&'static str, &'static str)> {
    Some(match counter {
        Counter::DatagramsReceived => ("statsring_datagrams_received_total", "Datagrams received."),
        Counter::BytesReceived => ("statsring_received_bytes_total", "Payload of the datagrams received."),
        Counter::MetricsReceived => (
            "statsring_metrics_received_total",
            "Metrics received: every line, malformed ones included. At every moment it is what was sent, dropped and is pending.",
        ),
        Counter::MetricsSent => {
            ("statsring_metrics_sent_total", "Metrics that this host's kernel accepted for their backend.")
        }
        Counter::MetricsPending => ("statsring_metrics_pending", "Metrics that the proxy holds now."),
        Counter::DatagramsSent => {
            ("statsring_datagrams_sent_total", "Packets that this host's kernel accepted.")
        }
        Counter::BytesSent => {
            ("statsring_sent_bytes_total", "Payload of the packets that this host's kernel accepted.")
        }
        Counter::DatagramsInTrains => (
            "statsring_datagrams_in_trains_total",
            "Packets sent together with others in one send (UDP_SEGMENT).",
        ),
        Counter::DatagramsEmpty => ("statsring_datagrams_empty_total", "Datagrams without a payload."),
        Counter::DatagramsBlank => ("statsring_datagrams_blank_total", "Datagrams of nothing but line ends."),
        Counter::DatagramsTruncated => (
            "statsring_datagrams_truncated_total",
            "Datagrams longer than maxDatagramSize; metrics beyond the cut are lost and not counted.",
        ),
        Counter::BytesTruncated => (
            "statsring_truncated_bytes_total",
            "Bytes of datagrams longer than maxDatagramSize that were not read.",
        ),
        Counter::TimestampsMissing => (
            "statsring_timestamps_missing_total",
            "Datagrams that came without the kernel's timestamp though timestamps is true; their latency is not in statsring_latency_exact_seconds.",
        ),
        Counter::TimestampsAbsurd => (
            "statsring_timestamps_absurd_total",
            "Datagrams whose timestamp lay in the future or a minute back, or before which the host's clock had been set; not in statsring_latency_exact_seconds.",
        ),
        Counter::SendsBusy => {
            ("statsring_sends_busy_total", "Sends that a full socket buffer put off; they were repeated.")
        }
        Counter::SocketsReopened => (
            "statsring_sockets_reopened_total",
            "Sockets to backends that were replaced by new ones, with another source port.",
        ),
        Counter::BackendRefused => (
            "statsring_sends_refused_total",
            "Sends that told of an earlier packet that was refused; they were repeated.",
        ),
        Counter::BackendUnreachable => (
            "statsring_sends_unreachable_total",
            "Sends that told of a backend that cannot be reached, or of another ICMP answer; they were repeated.",
        ),
        Counter::MetricsDiverted => (
            "statsring_metrics_diverted_total",
            "Metrics whose own backend was down and that another one got.",
        ),
        Counter::KernelDrops => return None,
        Counter::ReceivesArmed => ("statsring_receives_armed_total", "Times that a receive was armed."),
        Counter::ReceivesNoBuffers => (
            "statsring_receives_no_buffers_total",
            "Times that a receive ended for want of a free buffer; the socket's buffer holds what comes meanwhile.",
        ),
        Counter::ReceiveErrors => ("statsring_receive_errors_total", "Receives that ended with an error."),
        Counter::ReceiveBadHeaders => {
            ("statsring_receive_bad_headers_total", "Received buffers with a senseless header.")
        }
        Counter::WaitErrors => {
            ("statsring_wait_errors_total", "Waits that failed in a way that is no part of normal work.")
        }
        Counter::Wakeups => ("statsring_wakeups_total", "Times that the worker went to the kernel."),
        Counter::Gathers => {
            ("statsring_gathers_total", "Sleeps in which datagrams gathered until a deadline.")
        }
    })
}

/// The families.
pub fn render(out: &mut Exposition, view: &View) {
    out.one(Kind::Gauge, "statsring_workers", "Threads that carry metrics.", view.workers.len());
    for counter in Counter::ALL {
        let Some((name, help)) = described(*counter) else { continue };
        let kind = if *counter == Counter::MetricsPending { Kind::Gauge } else { Kind::Counter };
        add(out, view, (kind, name, help), |worker| Some(worker.counters.get(*counter)));
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
        "Metrics that the proxy dropped, by reason; those of reason truncated at least.",
    );
    for (index, worker) in view.workers.iter().enumerate() {
        for reason in DropReason::ALL {
            let labels = [("worker", &*index.to_string()), ("reason", reason.name())];
            family.add(&labels, worker.counters.dropped(*reason));
        }
    }
}

/// Each socket for itself: which one overflows tells which worker is too busy.
fn kernel_drops(out: &mut Exposition, view: &View) {
    let mut family = out.family(
        Kind::Counter,
        "statsring_kernel_drops_total",
        "Datagrams that the kernel dropped at a listening socket for want of room, before the proxy could count them.",
    );
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
        "Receive buffer of each of the worker's listening sockets, as the kernel granted it.",
    );
    add(out, view, granted, |worker| worker.facts.as_ref().map(|facts| facts.receive_buffer_bytes));
    out.one(
        Kind::Gauge,
        "statsring_receive_buffer_wanted_bytes",
        "What the kernel grants if it grants all: twice receiveBuffer, since it counts its own overhead in.",
        view.receive_buffer_asked_bytes.saturating_mul(2),
    );
    let filled = (
        Kind::Gauge,
        "statsring_receive_buffer_peak_fill_ratio",
        "Share of the receive buffer that the last second's peak rate fills in the longest sleep; 0 if no traffic flows.",
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
        "The longest sleep that the worker would take now while datagrams gather; 0 if it wakes for each.",
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
