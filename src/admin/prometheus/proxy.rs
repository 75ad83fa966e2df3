//! The proxy as a whole: build, state, environment, process. Pure.
//!
//! In: a [`View`]. Out: families.

use super::exposition::{Exposition, Kind};
use crate::admin::counters::AdminCounter;
use crate::admin::status::engine;
use crate::admin::view::View;
use crate::version::{COMMIT, NUMBER};

/// Build and configuration, as labels of a figure that is always 1.
pub fn identity(out: &mut Exposition, view: &View) {
    let mut family = out.family(Kind::Gauge, "statsring_build_info", "The program, as labels; always 1.");
    family.add(&[("version", NUMBER), ("revision", COMMIT), ("engine", &engine(view))], 1);
    let mut family = out.family(
        Kind::Gauge,
        "statsring_placement_info",
        "The placement in effect, as labels; always 1. Proxies with equal fingerprints send every name to the same backend; \
         with equal config fingerprints they do so when all backends are up.",
    );
    if let Some(fingerprint) = view.fingerprint {
        let labels = [
            ("hashing", view.placement),
            ("fingerprint", &*format!("{:016x}", fingerprint.now)),
            ("config_fingerprint", &*format!("{:016x}", fingerprint.config)),
        ];
        family.add(&labels, 1);
    }
}

/// State.
pub fn state(out: &mut Exposition, view: &View) {
    let gauge = Kind::Gauge;
    out.one(
        gauge,
        "statsring_ready",
        "1 if the proxy is ready for metrics: every worker receives, no stop is in progress, and health was not set to down.",
        u8::from(view.readiness.is_ready()),
    );
    out.one(
        gauge,
        "statsring_degraded",
        "Number of degradations (settings or functions not fully in effect); the admin command status lists them.",
        view.degraded.len(),
    );
    out.one(
        gauge,
        "statsring_metrics_unaccounted",
        "Metrics received that are neither sent, dropped nor pending; any value but 0 is a bug.",
        view.counters().imbalance(),
    );
    out.one(
        gauge,
        "statsring_config_last_reload_successful",
        "1 if the last reload of the config succeeded, or if there was none.",
        u8::from(view.last_reload.as_ref().is_none_or(|last| last.succeeded)),
    );
    out.one(
        gauge,
        "statsring_config_last_reload_success_timestamp_seconds",
        "When the config in effect was read.",
        view.config_unix_time.as_secs_f64(),
    );
    out.one(
        gauge,
        "statsring_flush_interval_seconds",
        "Longest time that a metric is held to be packed with others (flushInterval).",
        view.tuning.flush_us as f64 / 1e6,
    );
}

/// Environment: the host, the admin port, memory.
pub fn host(out: &mut Exposition, view: &View) {
    let counter = Kind::Counter;
    out.known(
        counter,
        "statsring_host_udp_receive_buffer_errors_total",
        "Datagrams dropped at full receive buffers of any UDP socket of this host since it booted.",
        view.host_udp.map(|host| host.rcvbuf_errors),
    );
    out.known(
        counter,
        "statsring_host_udp_send_buffer_errors_total",
        "Datagrams dropped at full send buffers of any UDP socket of this host since it booted.",
        view.host_udp.map(|host| host.sndbuf_errors),
    );
    for known in AdminCounter::ALL {
        let name = format!("statsring_{}_total", known.name());
        out.one(counter, &name, known.meaning(), view.admin.get(*known));
    }
    let mut shortages = out.family(
        counter,
        "statsring_shortages_total",
        "Operations that failed because this process or its host lacks descriptors, memory, threads or ports, by operation: \
         check, accept, lookup, socket.",
    );
    for (operation, count) in &view.shortages {
        shortages.add(&[("operation", operation)], *count);
    }
    out.one(
        counter,
        "statsring_log_lines_dropped_total",
        "Log lines that were dropped because standard error was not read fast enough or could not be written.",
        view.log.lines_dropped,
    );
    memory(out, view);
}

fn memory(out: &mut Exposition, view: &View) {
    let gauge = Kind::Gauge;
    let sum = |figure: fn(&crate::driver::DriverInfo) -> usize| view.driver_info().map(figure).sum::<usize>();
    out.one(gauge, "statsring_heap_live_bytes", "Heap in use by the program.", view.memory.heap.live_bytes);
    out.one(
        gauge,
        "statsring_heap_mapped_bytes",
        "Heap mapped from the system.",
        view.memory.heap.mapped_bytes,
    );
    out.one(
        gauge,
        "statsring_packet_pool_bytes",
        "Packet buffers of all workers, used or not.",
        view.memory.packet_pool_bytes,
    );
    out.one(
        gauge,
        "statsring_receive_ring_bytes",
        "Receive buffers of all workers.",
        sum(|driver_info| driver_info.buffer_bytes),
    );
    out.one(
        gauge,
        "statsring_ring_locked_bytes",
        "Locked memory of the rings of all workers.",
        sum(|driver_info| driver_info.ring_bytes),
    );
    out.one(
        gauge,
        "statsring_send_buffer_granted_bytes",
        "Send buffers granted to the backends' sockets of all workers: kernel memory, used only as needed.",
        view.memory.send_buffer_bytes,
    );
}

/// The process metrics of every Prometheus client library.
pub fn process(out: &mut Exposition, view: &View) {
    let (gauge, process) = (Kind::Gauge, &view.process);
    out.known(
        Kind::Counter,
        "process_cpu_seconds_total",
        "CPU time of the process, kernel and user.",
        process.cpu_s,
    );
    out.one(
        gauge,
        "process_start_time_seconds",
        "Start time of the process since the Unix epoch.",
        view.started_unix_time.as_secs_f64(),
    );
    out.known(
        gauge,
        "process_resident_memory_bytes",
        "Resident memory of the process.",
        view.memory.resident_bytes,
    );
    out.known(gauge, "process_virtual_memory_bytes", "Address space of the process.", process.virtual_bytes);
    out.known(gauge, "process_threads", "Threads of the process.", process.threads);
    out.known(gauge, "process_open_fds", "Open files of the process.", process.open_files);
    out.known(gauge, "process_max_fds", "Maximum number of open files.", process.files_max);
}

#[cfg(test)]
mod tests {
    use super::super::super::view::LastReload;
    use super::super::super::view::tests::sample;
    use super::*;
    use crate::admin::Readiness;
    use crate::stats::Counter;

    fn text(view: &View) -> String {
        let mut out = Exposition::new();
        identity(&mut out, view);
        state(&mut out, view);
        host(&mut out, view);
        out.finish()
    }

    #[test]
    fn identity_and_settings_are_exported() {
        let view = sample();
        let expected = [
            &*format!(
                "statsring_build_info{{version=\"{NUMBER}\",revision=\"{COMMIT}\",engine=\"io_uring\"}} 1\n"
            ),
            "statsring_placement_info{hashing=\"jump\",fingerprint=\"fedcba9876543210\",config_fingerprint=\"00000000000012ab\"} 1\n",
            "statsring_ready 1\n",
            "statsring_degraded 0\n",
            "statsring_metrics_unaccounted 0\n",
            "statsring_config_last_reload_successful 1\n",
            "statsring_config_last_reload_success_timestamp_seconds 1999999950.25\n",
            "statsring_flush_interval_seconds 0.005\n",
            "statsring_host_udp_receive_buffer_errors_total 5\n",
            "statsring_admin_http_requests_total 0\n",
            "statsring_shortages_total{operation=\"check\"} 3\n",
            "statsring_log_lines_dropped_total 0\n",
            "statsring_receive_ring_bytes 2000\n",
        ];
        let text = text(&view);
        for line in expected {
            assert!(text.contains(line), "{line}{text}");
        }
    }

    #[test]
    fn trouble_shows() {
        let mut view = sample();
        view.readiness = Readiness::HealthDown;
        view.degraded.push("x".to_owned());
        view.workers[0].counters.add(Counter::MetricsSent, 5);
        view.last_reload = Some(LastReload { ago_s: 1, message: "no".to_owned(), succeeded: false });
        let text = text(&view);
        for line in [
            "statsring_ready 0\n",
            "statsring_degraded 1\n",
            "statsring_metrics_unaccounted -5\n",
            "statsring_config_last_reload_successful 0\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }
}
