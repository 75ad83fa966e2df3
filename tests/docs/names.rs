//! Checks inline code: keys, counters, columns, metrics, files and commands must exist.
//!
//! In: inline code. Out: words in it that look like a name of ours but are unknown.

use super::{book::root, generate};
use statsring::admin::{self, AdminCounter};
use statsring::config::PROXY_JS_KEYS;
use statsring::stats::{Counter, DropReason, LatencyKind};
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// Names of the kernel, of other programs and of the code.
const OTHERS: &str = "
    io_uring io_uring_setup io_uring_enter io_uring_register io_uring_disabled io_uring_group
    rmem_max rmem_default wmem_max nr_throttled rule_files alerts_test xNN kernel_facts
    exampleConfig proxyConfig toString hasOwnProperty bad_lines_seen statsd_exporter_lines_total
";
/// Lines of `status`, backend states, and lines of `stats` that are not counters.
const LINES: &str = "
    fingerprint_config receive_buffer last_reload last_restart dropped_ forced_down own_address
    worker_skew worker_0_ worker_0_cpu_us worker_0_socket_1_kernel_drops packets_received metrics_dropped_
    latency_p50_us latency_p99_us latency_max_us latency_exact_p50_us
    shortages_check shortages_accept shortages_lookup shortages_socket
    log_lines_dropped host_udp_rcvbuf_errors host_udp_sndbuf_errors metrics_unaccounted
";

static KNOWN: LazyLock<BTreeSet<String>> = LazyLock::new(|| {
    let mut known: BTreeSet<String> =
        OTHERS.split_whitespace().chain(LINES.split_whitespace()).map(str::to_owned).collect();
    known.extend(Counter::ALL.iter().map(|counter| counter.name().to_owned()));
    known.extend(AdminCounter::ALL.iter().map(|counter| counter.name().to_owned()));
    for reason in DropReason::ALL {
        known.extend([reason.name().to_owned(), format!("metrics_dropped_{}", reason.name())]);
    }
    known.extend(LatencyKind::ALL.iter().map(|kind| kind.name().to_owned()));
    known.extend(admin::BACKENDS_COLUMNS.map(|(column, _)| column.to_owned()));
    known.extend(admin::metric_families().into_iter().map(|family| family.name));
    known.extend(PROXY_JS_KEYS.map(str::to_owned));
    known.extend(generate::key_names());
    known
});

/// Words of inline code that look like a name of ours but are unknown.
pub fn unknown(page: &str, code: &str) -> impl Iterator<Item = String> {
    let is_path = ["scripts/", "docs/", "docker/", "src/", "tests/", "target/", ".ci/"]
        .iter()
        .any(|folder| code.starts_with(folder));
    let mut unknown = Vec::new();
    if is_path {
        let path = code.split([' ', ':']).next().unwrap();
        if !path.starts_with("target/") && !root().join(path).exists() {
            unknown.push(code.to_owned());
        }
        return unknown.into_iter();
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for word in code.split(|c| !is_name(c)).filter(|word| !word.is_empty()) {
        let is_snake =
            word.contains('_') && !word.starts_with('_') && word.chars().all(|c| !c.is_uppercase());
        let is_camel = word.starts_with(|c: char| c.is_ascii_lowercase())
            && word.contains(|c: char| c.is_ascii_uppercase())
            && !word.contains('_');
        // Keys of other proxies are on their own pages; generated parts need no check.
        let is_elsewhere = page.contains("/migrating/") && is_snake;
        if (is_snake && !is_elsewhere || is_camel) && !KNOWN.contains(word) {
            unknown.push(word.to_owned());
        }
    }
    unknown.into_iter()
}
