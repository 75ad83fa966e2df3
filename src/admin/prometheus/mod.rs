//! `/metrics`: every figure in Prometheus's text format 0.0.4. Pure.
//!
//! In: a [`View`]. Out: text. Names follow Prometheus's conventions: seconds and bytes, `_total` for what only grows; each
//! has its `# HELP` text in place. Inside: `exposition.rs` knows the format, the others the figures.
//! No crate is used: the maintained ones own their counters or write OpenMetrics, and the figures here are a snapshot that
//! is owned elsewhere. Next: `http/`.

mod backends;
mod exposition;
mod latency;
mod proxy;
mod workers;

use super::view::View;
use exposition::Exposition;
pub use exposition::MetricFamily;

/// The text.
pub fn render(view: &View) -> String {
    let mut out = Exposition::new();
    render_to(&mut out, view);
    out.finish()
}

/// Every family that `/metrics` can have, in its order.
pub fn metric_families() -> Vec<MetricFamily> {
    let mut out = Exposition::listing();
    // The only families that a setting switches on.
    render_to(&mut out, &View { timestamps: true, ..View::default() });
    out.into_families()
}

fn render_to(out: &mut Exposition, view: &View) {
    proxy::identity(out, view);
    proxy::state(out, view);
    workers::render(out, view);
    latency::render(out, &view.latency, view.timestamps);
    backends::render(out, view);
    proxy::host(out, view);
    proxy::process(out, view);
}

#[cfg(test)]
mod tests {
    use super::super::view::tests::sample;
    use super::*;
    use crate::admin::AdminCounter;
    use crate::packet::SendError;
    use crate::stats::DropReason;
    use crate::stats::ErrorView;
    use std::collections::{BTreeMap, HashSet};

    /// Every line that is a figure: its name with its labels, and its value.
    fn figures(text: &str) -> BTreeMap<String, f64> {
        let mut figures = BTreeMap::new();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (series, value) = line.rsplit_once(' ').unwrap();
            let before = figures.insert(series.to_owned(), value.parse().unwrap());
            assert!(before.is_none(), "{series} stands twice");
        }
        figures
    }

    /// The sum of all series of a name.
    fn sum(figures: &BTreeMap<String, f64>, name: &str) -> f64 {
        let of_name = |(series, _): &(&String, &f64)| series.split('{').next() == Some(name);
        figures.iter().filter(of_name).map(|(_, value)| value).sum()
    }

    #[test]
    fn every_family_has_one_header_followed_by_its_samples() {
        let text = render(&sample());
        let mut families = HashSet::new();
        let mut family = ("", "");
        for line in text.lines() {
            if let Some(head) = line.strip_prefix("# HELP ") {
                let (name, help) = head.split_once(' ').unwrap();
                assert!(families.insert(name) && help.ends_with('.'), "{line}");
                family = (name, "");
            } else if let Some(head) = line.strip_prefix("# TYPE ") {
                let (name, kind) = head.split_once(' ').unwrap();
                assert!(name == family.0 && ["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
                family.1 = kind;
            } else {
                let name = line.split(['{', ' ']).next().unwrap();
                let suffix =
                    name.strip_prefix(family.0).unwrap_or_else(|| panic!("{line} stands in {family:?}"));
                let suffixes: &[&str] =
                    if family.1 == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
                assert!(suffixes.contains(&suffix), "{line}");
            }
        }
        assert!(text.ends_with('\n') && families.len() > 60, "{} families", families.len());
    }

    #[test]
    fn the_account_balances_and_every_reason_is_there() {
        let figures = figures(&render(&sample()));
        let of = |name: &str| sum(&figures, name);
        assert_eq!(of("statsring_metrics_received_total"), 30.0);
        assert_eq!(
            of("statsring_metrics_received_total"),
            of("statsring_metrics_sent_total")
                + of("statsring_metrics_pending")
                + of("statsring_metrics_dropped_total")
        );
        assert_eq!(of("statsring_metrics_unaccounted"), 0.0);
        for reason in DropReason::ALL {
            let series =
                format!("statsring_metrics_dropped_total{{worker=\"1\",reason=\"{}\"}}", reason.name());
            assert!(figures.contains_key(&series), "{series}");
        }
        for counter in AdminCounter::ALL {
            assert!(
                figures.contains_key(&format!("statsring_{}_total", counter.name())),
                "{}",
                counter.name()
            );
        }
    }

    #[test]
    fn what_cannot_be_known_is_left_out() {
        let mut view = View::default();
        let nothing = render(&view);
        for name in ["process_cpu_seconds_total", "statsring_host_udp", "statsring_placement_info"] {
            assert!(!nothing.contains(name), "{name}");
        }
        view = sample();
        view.backends[0].is_healthy = None;
        view.backends[0].kernel_drops = None;
        let text = render(&view);
        assert!(!text.contains("statsring_backend_healthy{backend=\"a:8125\"}"), "{text}");
        assert!(!text.contains("statsring_backend_kernel_drops_total{backend=\"a:8125\"}"), "{text}");
    }

    #[test]
    fn every_family_of_a_scrape_is_listed_in_its_order() {
        let mut view = sample();
        view.process = crate::stats::host::process();
        view.memory.resident_bytes = Some(1);
        view.timestamps = true;
        view.backends[0].errors = vec![ErrorView {
            error: SendError::Refused,
            other_errno: None,
            reports: 1,
            undelivered: 0,
            metrics_dropped: 0,
            without_socket: 0,
            last_us: 1,
        }];
        let text = render(&view);
        let heads: Vec<(&str, &str)> =
            text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' ')).collect();
        let families = metric_families();
        let listed: Vec<(&str, &str)> =
            families.iter().map(|family| (&*family.name, &*family.help)).collect();
        assert_eq!(listed, heads);
    }
}
