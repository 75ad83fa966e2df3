//! `/stats.json`: everything that the text commands report, for programs. Pure.
//!
//! In: a [`View`], the effective configuration. Out: one JSON object; names and units as in `stats`, `backends` and `status`,
//! texts as there. An unknown figure is null. Next: `http/`.

use super::counters::AdminCounter;
use super::send_error::{error_meaning, error_name, error_remedy};
use super::status::{engine, up_or_down};
use super::view::{BackendView, View, WorkerView};
use crate::driver::Restrictions;
use crate::logging::LogFigures;
use crate::stats::{Counter, Counters, DropReason, ErrorView, LatencyKind, Sleep};
use crate::version::VERSION;
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use std::net::SocketAddr;

/// The text.
pub fn render(view: &View, config_json: &str) -> String {
    let counters = view.counters();
    let object = json!({
        "version": VERSION,
        "pid": view.pid,
        "uptime_s": view.uptime_s,
        "unix_time_s": view.unix_time.as_secs_f64(),
        "health": up_or_down(view.health_up),
        "ready": view.readiness.is_ready(),
        "readiness": view.readiness.message(),
        "engine": engine(view),
        "placement": view.placement,
        "fingerprint": view.fingerprint.map(|fingerprint| format!("{:016x}", fingerprint.now)),
        "fingerprint_config": view.fingerprint.map(|fingerprint| format!("{:016x}", fingerprint.config)),
        "serving": view.ring.iter().map(|name| &**name).collect::<Vec<&str>>(),
        "spread": view.spread,
        "listen": addresses(&view.listen),
        "management": addresses(&view.management),
        "sockets": view.origin,
        "degraded": view.degraded,
        "last_reload": view.last_reload,
        "last_restart": view.last_restart.as_ref().map(|(ago_s, message)| json!({"ago_s": ago_s, "message": message})),
        "stats": figures(&counters),
        "metrics_dropped": dropped(&counters, view),
        "metrics_unaccounted": i64::try_from(counters.imbalance()).ok(),
        "worker_skew": view.worker_skew(),
        "latency": latencies(view),
        "workers": view.workers.iter().map(|one| worker(one, view)).collect::<Vec<_>>(),
        "backends": view.backends.iter().map(|of| backend(of, view)).collect::<Vec<_>>(),
        "levers": tuning(view),
        "memory": view.memory,
        "process": view.process,
        "host_udp": view.host_udp,
        "shortages": view.shortages.iter().map(|(name, count)| ((*name).to_owned(), (*count).into()))
            .collect::<Map<String, Value>>(),
        "log": log(&view.log),
        "admin": AdminCounter::ALL.iter().map(|counter| (counter.name().to_owned(), view.admin.get(*counter).into()))
            .collect::<Map<_, _>>(),
        // It is passed as text; invalid JSON would be shown as a string.
        "config": serde_json::from_str::<Value>(config_json).unwrap_or_else(|_| config_json.into()),
    });
    format!("{object:#}\n")
}

fn addresses(addresses: &[SocketAddr]) -> Vec<String> {
    addresses.iter().map(SocketAddr::to_string).collect()
}

fn figures(counters: &Counters) -> Map<String, Value> {
    Counter::ALL.iter().map(|counter| (counter.name().to_owned(), counters.get(*counter).into())).collect()
}

fn dropped(counters: &Counters, view: &View) -> Map<String, Value> {
    let ago_s = |at_us: u64| view.now_us.saturating_sub(at_us) / 1_000_000;
    let reason = |reason: &DropReason| {
        let last_ago_s = counters.last_drop_us(*reason).map(ago_s);
        (reason.name().to_owned(), json!({"metrics": counters.dropped(*reason), "last_ago_s": last_ago_s}))
    };
    DropReason::ALL.iter().map(reason).collect()
}

fn latencies(view: &View) -> Map<String, Value> {
    let kinds =
        LatencyKind::measured(view.timestamps).map(|kind| (kind.name(), histogram(view.latency.get(kind))));
    let all = ("latency", histogram(&view.latency.arrival_to_sent()));
    kinds.chain([all]).map(|(name, value)| (name.to_owned(), value)).collect()
}

fn histogram(histogram: &Histogram<u64>) -> Value {
    let at = |quantile| histogram.value_at_quantile(quantile);
    json!({
        "count": histogram.len(),
        "mean_us": histogram.mean(),
        "p50_us": at(0.5),
        "p90_us": at(0.9),
        "p99_us": at(0.99),
        "p99_9_us": at(0.999),
        "max_us": histogram.max(),
    })
}

fn worker(worker: &WorkerView, view: &View) -> Value {
    let drops: Vec<Value> = worker
        .socket_drops
        .iter()
        .enumerate()
        .map(|(socket, drops)| json!({"listen": view.listen.get(socket).map(SocketAddr::to_string), "kernel_drops": drops}))
        .collect();
    let sleep = match worker.sleep {
        Sleep::Idle => json!({"mode": "idle"}),
        Sleep::Each => json!({"mode": "each"}),
        Sleep::Gather { sleep_us, filled_permille } => {
            json!({"mode": "gather", "sleep_us": sleep_us, "buffer_filled": f64::from(filled_permille) / 1e3})
        }
    };
    json!({
        "stats": figures(&worker.counters),
        "cpu_us": worker.cpu_us,
        "pinned_to": worker.pinned_to,
        "sockets": drops,
        "sleep": sleep,
        "driver": worker.driver_info.as_ref().map(|driver_info| json!({
            "engine": driver_info.engine,
            "receive_buffer_bytes": driver_info.receive_buffer_bytes,
            "buffer_bytes": driver_info.buffer_bytes,
            "ring_bytes": driver_info.ring_bytes,
            "restrictions": match driver_info.restrictions {
                Restrictions::None => "none",
                Restrictions::InForce => "in force",
                Restrictions::Refused(_) => "refused",
            },
        })),
    })
}

fn backend(backend: &BackendView, view: &View) -> Value {
    json!({
        "name": &*backend.name,
        "state": backend.state.name(),
        "address": backend.address().map(|address| address.to_string()),
        "addresses": backend.addresses.iter().map(|(address, role)| {
            json!({"address": address.to_string(), "role": role.name()})
        }).collect::<Vec<_>>(),
        "check_address": backend.answering.map(|address| address.to_string()),
        "since_s": backend.since_s,
        "health": backend.is_healthy.map(up_or_down),
        "metrics_sent": backend.metrics_sent,
        "datagrams_sent": backend.datagrams_sent,
        "bytes_sent": backend.bytes_sent,
        "metrics_dropped": backend.metrics_dropped,
        "refused": backend.refused,
        "unreachable": backend.unreachable,
        "undelivered": backend.undelivered(),
        "errors": errors(backend, view.now_us),
        "kernel_drops": backend.kernel_drops,
        "gso": backend.gso,
        "datagrams_gso": backend.datagrams_gso,
        "gso_refused": backend.gso_refused,
        "gso_error": backend.gso_errno.map(|errno| std::io::Error::from_raw_os_error(errno).to_string()),
        "packet_bytes_max": backend.packet_bytes_max,
        "path_payload_bytes": backend.path_payload_bytes,
        "packets_fragmented": backend.packets_fragmented,
        "sockets_reopened": backend.sockets_reopened,
    })
}

/// Errors reported by its sends and by ICMP, by kind, the latest first.
fn errors(backend: &BackendView, now_us: u64) -> Vec<Value> {
    let error = |error: &ErrorView| {
        json!({
            "errno": error_name(error.error, error.other_errno),
            "cause": error.error.name(),
            "meaning": error_meaning(error.error),
            "remedy": error_remedy(error.error, backend.address()),
            "reports": error.reports,
            "undelivered": error.undelivered,
            "metrics_dropped": error.metrics_dropped,
            "last_ago_s": now_us.saturating_sub(error.last_us) / 1_000_000,
        })
    };
    backend.errors.iter().map(error).collect()
}

fn tuning(view: &View) -> Value {
    json!({
        "gso": view.gso,
        "gro": view.gro,
        "scanner": view.tuning.scanner,
        "cache_names": view.tuning.cache_names,
        "cache_entries": view.tuning.cache_entries,
        "flush_us": view.tuning.flush_us,
        "packet_auto": view.tuning.packet_auto,
        "receive_buffer_asked_bytes": view.receive_buffer_asked_bytes,
    })
}

fn log(log: &LogFigures) -> Value {
    json!({
        "lines_dropped": log.lines_dropped,
        "last_dropped_ago_s": log.dropped_ago.map(|ago| ago.as_secs()),
        "stalled_for_s": log.stalled_for.map(|time| time.as_secs()),
        "error": log.error.map(|errno| errno.to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::sample;
    use super::*;
    use crate::admin::LastReload;
    use crate::packet::SendError;

    #[test]
    fn it_has_everything_that_the_text_commands_report() {
        let mut view = sample();
        view.backends[1].errors = vec![ErrorView {
            error: SendError::NoNeighbor,
            other_errno: None,
            reports: 9,
            undelivered: 7,
            metrics_dropped: 0,
            without_socket: 0,
            last_us: 48_000_000,
        }];
        view.last_reload = Some(LastReload { ago_s: 3, message: "a\u{1b}\n".to_owned(), succeeded: false });
        let text = render(&view, "{\"port\": 8125}\n");
        assert!(text.ends_with("}\n") && text.chars().all(|c| !c.is_control() || c == '\n'), "{text}");
        let json: Value = serde_json::from_str(&text).unwrap();
        for (place, value) in [
            ("/version", json!(VERSION)),
            ("/uptime_s", json!(51)),
            ("/ready", json!(true)),
            ("/engine", json!("io_uring")),
            ("/fingerprint", json!("fedcba9876543210")),
            ("/listen/1", json!("[::]:8125")),
            ("/stats/metrics_received", json!(30)),
            ("/metrics_dropped/malformed", json!({"metrics": 4, "last_ago_s": 40})),
            ("/metrics_dropped/shutdown", json!({"metrics": 0, "last_ago_s": null})),
            ("/metrics_unaccounted", json!(0)),
            ("/latency/latency/count", json!(100)),
            ("/latency/latency_bound/p50_us", json!(100)),
            ("/workers/1/stats/datagrams_received", json!(4)),
            ("/workers/0/sockets/0", json!({"listen": "0.0.0.0:8125", "kernel_drops": 0})),
            ("/workers/0/driver/receive_buffer_bytes", json!(425_984)),
            ("/backends/1/state", json!("down")),
            ("/backends/2/health", json!(null)),
            ("/backends/0/address", json!("192.0.2.7:8125")),
            ("/backends/0/addresses/0/role", json!("in_use")),
            ("/backends/2/address", json!(null)),
            ("/backends/0/metrics_sent", json!(300)),
            ("/backends/0/errors", json!([])),
            ("/backends/1/undelivered", json!(7)),
            ("/backends/1/errors/0/errno", json!("EHOSTUNREACH")),
            ("/backends/1/errors/0/cause", json!("no_neighbor")),
            ("/backends/1/errors/0/last_ago_s", json!(12)),
            ("/last_reload", json!({"ago_s": 3, "succeeded": false, "message": "a\u{1b}\n"})),
            ("/host_udp/rcvbuf_errors", json!(5)),
            ("/admin/admin_http_requests", json!(0)),
            ("/shortages", json!({"check": 3, "accept": 0})),
            ("/log/lines_dropped", json!(0)),
            ("/log/stalled_for_s", json!(null)),
            ("/config/port", json!(8125)),
        ] {
            assert_eq!(json.pointer(place), Some(&value), "{place}: {text}");
        }
        assert_eq!(json.pointer("/latency/latency_exact"), None, "it is measured with timestamps only");
        view.timestamps = true;
        let with: Value = serde_json::from_str(&render(&view, "{}")).unwrap();
        assert_eq!(with.pointer("/latency/latency_exact/count"), Some(&json!(0)));
        assert_eq!(json["stats"].as_object().unwrap().len(), Counter::ALL.len());
        assert_eq!(json["metrics_dropped"].as_object().unwrap().len(), DropReason::ALL.len());
    }
}
