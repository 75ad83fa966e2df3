//! The backends' figures, each with its identity as label. Pure.
//!
//! In: a [`View`]. Out: families.

use super::exposition::{Exposition, Kind};
use crate::admin::send_error::error_name;
use crate::admin::view::{BackendState, BackendView, View};
use crate::stats::ErrorView;

/// A figure of one backend, if known.
type Figure = fn(&BackendView) -> Option<u64>;

/// The families of one figure for each backend.
const FIGURES: [(Kind, &str, &str, Figure); 16] = [
    (
        Kind::Gauge,
        "statsring_backend_up",
        "1 if the backend receives metrics, else 0; statsring_backend_state_info states the reason.",
        |backend| Some(u64::from(backend.state == BackendState::Up)),
    ),
    (
        Kind::Gauge,
        "statsring_backend_healthy",
        "1 if the backend's health checks succeed, even if it was drained; absent if it is not checked, e.g. without adminport.",
        |backend| backend.is_healthy.map(u64::from),
    ),
    (
        Kind::Gauge,
        "statsring_backend_state_age_seconds",
        "Time since the last change of the backend's state.",
        |backend| Some(backend.since_s),
    ),
    (
        Kind::Counter,
        "statsring_backend_metrics_sent_total",
        "Metrics that this host's kernel accepted for the backend.",
        |backend| Some(backend.metrics_sent),
    ),
    (
        Kind::Counter,
        "statsring_backend_datagrams_sent_total",
        "Packets that this host's kernel accepted for the backend.",
        |backend| Some(backend.datagrams_sent),
    ),
    (
        Kind::Counter,
        "statsring_backend_sent_bytes_total",
        "Payload of the packets that this host's kernel accepted for the backend.",
        |backend| Some(backend.bytes_sent),
    ),
    (
        Kind::Counter,
        "statsring_backend_metrics_dropped_total",
        "Metrics for the backend that the proxy dropped.",
        |backend| Some(backend.metrics_dropped),
    ),
    (
        Kind::Counter,
        "statsring_backend_refused_total",
        "Sends that reported that the backend's port refused an earlier packet (ECONNREFUSED).",
        |backend| Some(backend.refused),
    ),
    (
        Kind::Counter,
        "statsring_backend_datagrams_undelivered_total",
        "Packets that this host's kernel accepted for the backend and that an ICMP error reported as undelivered.",
        |backend| Some(backend.undelivered()),
    ),
    (
        Kind::Counter,
        "statsring_backend_kernel_drops_total",
        "Datagrams that the kernel dropped at the full receive buffer of the backend's socket; only for backends on this host.",
        |backend| backend.kernel_drops,
    ),
    (
        Kind::Counter,
        "statsring_backend_datagrams_gso_total",
        "Packets for the backend that were sent together with others in one system call (UDP_SEGMENT).",
        |backend| Some(backend.datagrams_gso),
    ),
    (
        Kind::Counter,
        "statsring_backend_gso_refused_total",
        "Sends of several packets that the kernel refused; the packets were sent one by one.",
        |backend| Some(backend.gso_refused),
    ),
    (
        Kind::Counter,
        "statsring_backend_sockets_reopened_total",
        "Sockets to the backend that were replaced by new ones, with another source port.",
        |backend| Some(backend.sockets_reopened),
    ),
    (
        Kind::Gauge,
        "statsring_backend_packet_max_bytes",
        "Largest packet that metrics for the backend are packed into; 0 until it is known.",
        |backend| Some(backend.packet_bytes_max as u64),
    ),
    (
        Kind::Gauge,
        "statsring_backend_path_payload_bytes",
        "Largest packet that the path to the backend permits unfragmented: its MTU without IP and UDP headers; absent until it is known.",
        |backend| backend.path_payload_bytes.map(|bytes| bytes as u64),
    ),
    (
        Kind::Counter,
        "statsring_backend_packets_fragmented_total",
        "Packets for the backend that exceed the MTU of its path, so that this host's kernel sent them in IP fragments.",
        |backend| Some(backend.packets_fragmented),
    ),
];

/// The families.
pub fn render(out: &mut Exposition, view: &View) {
    for (kind, name, help, figure) in FIGURES {
        let mut family = out.family(kind, name, help);
        for backend in &view.backends {
            if let Some(value) = figure(backend) {
                family.add(&[("backend", &backend.name)], value);
            }
        }
    }
    let mut family = out.family(
        Kind::Gauge,
        "statsring_backend_state_info",
        "1 for the state of the backend: up, down, disabled, unresolved, own_address, drain or forced_down.",
    );
    for backend in &view.backends {
        family.add(&[("backend", &backend.name), ("state", backend.state.name())], 1);
    }
    let mut family = out.family(
        Kind::Gauge,
        "statsring_backend_address_info",
        "1 for the address that the backend's metrics are sent to; absent while it has none.",
    );
    for backend in &view.backends {
        if let Some(address) = backend.address() {
            family.add(&[("backend", &backend.name), ("address", &address.to_string())], 1);
        }
    }
    errors(
        out,
        view,
        "statsring_backend_send_errors_total",
        "Failed sends to the backend, and ICMP errors that no send reported, by errno and cause.",
        |error| error.reports,
    );
    errors(
        out,
        view,
        "statsring_backend_send_error_metrics_dropped_total",
        "Metrics for the backend that were dropped because their send failed, by errno and cause.",
        |error| error.metrics_dropped,
    );
    let mut family = out.family(Kind::Gauge, "statsring_backends", "Backends, by state.");
    for state in BackendState::ALL {
        let count = view.backends.iter().filter(|backend| backend.state == state).count();
        family.add(&[("state", state.name())], count);
    }
}

/// A figure of the send errors, for the kinds that have occurred.
fn errors(
    out: &mut Exposition,
    view: &View,
    name: &'static str,
    help: &'static str,
    figure: fn(&ErrorView) -> u64,
) {
    let mut family = out.family(Kind::Counter, name, help);
    for backend in &view.backends {
        for error in &backend.errors {
            let errno = error_name(error.error, error.other_errno);
            let labels = [("backend", &*backend.name), ("errno", &errno), ("cause", error.error.name())];
            family.add(&labels, figure(error));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::view::tests::sample;
    use super::*;
    use crate::packet::SendError;

    #[test]
    fn each_backend_has_its_figures_and_its_state() {
        let mut out = Exposition::new();
        let mut view = sample();
        view.backends[2].name = "[2001:db8::1]:8125".into();
        view.backends[1].errors = vec![ErrorView {
            error: SendError::NotPermitted,
            other_errno: None,
            reports: 9,
            undelivered: 0,
            metrics_dropped: 800,
            without_socket: 0,
            last_us: 1,
        }];
        render(&mut out, &view);
        let text = out.finish();
        for line in [
            "statsring_backend_up{backend=\"a:8125\"} 1\n",
            "statsring_backend_up{backend=\"b:8125\"} 0\n",
            "statsring_backend_healthy{backend=\"b:8125\"} 0\n",
            "statsring_backend_metrics_sent_total{backend=\"a:8125\"} 300\n",
            "statsring_backend_kernel_drops_total{backend=\"b:8125\"} 3\n",
            "statsring_backend_state_info{backend=\"[2001:db8::1]:8125\",state=\"unresolved\"} 1\n",
            "statsring_backend_address_info{backend=\"a:8125\",address=\"192.0.2.7:8125\"} 1\n",
            "statsring_backend_datagrams_undelivered_total{backend=\"a:8125\"} 0\n",
            "statsring_backend_send_errors_total{backend=\"b:8125\",errno=\"EPERM\",cause=\"not_permitted\"} 9\n",
            "statsring_backend_send_error_metrics_dropped_total{backend=\"b:8125\",errno=\"EPERM\",cause=\"not_permitted\"} 800\n",
            "statsring_backend_path_payload_bytes{backend=\"a:8125\"} 1472\n",
            "statsring_backend_packets_fragmented_total{backend=\"a:8125\"} 0\n",
            "statsring_backends{state=\"up\"} 1\n",
            "statsring_backends{state=\"forced_down\"} 0\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
        assert!(!text.contains("statsring_backend_healthy{backend=\"[2001"), "{text}");
    }

    #[test]
    fn two_thousand_backends_with_long_names_stay_a_few_megabytes() {
        let mut out = Exposition::new();
        let mut view = sample();
        let name = format!("{}.example:8125", "a".repeat(60));
        view.backends = vec![BackendView { name: name.into(), ..view.backends[0].clone() }; 2_000];
        render(&mut out, &view);
        assert!(out.finish().len() < 5 << 20);
    }
}
