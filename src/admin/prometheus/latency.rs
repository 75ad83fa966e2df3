//! The latency histograms as Prometheus's classic ones. Pure.
//!
//! In: [`Latency`] of all workers. Out: families. HdrHistogram's cells are about 1 % wide and are not cut: each counts
//! under the first bound above all of it, so that a latency is never understated.

use super::exposition::{Exposition, Kind};
use crate::stats::{Latency, LatencyKind};
use hdrhistogram::Histogram;

/// The upper bounds, in µs: dense around the default `flushInterval` of 5 ms, from the duration of one batch to what no
/// user should see.
const BOUNDS_US: [u64; 20] = [
    50, 100, 250, 500, 1_000, 2_500, 4_000, 5_000, 6_000, 7_500, 10_000, 15_000, 25_000, 50_000, 100_000,
    250_000, 500_000, 1_000_000, 2_500_000, 10_000_000,
];

/// The families; those measured by kernel timestamps only with `timestamps`.
pub fn render(out: &mut Exposition, latency: &Latency, timestamps: bool) {
    let mut family = out.family(
        Kind::Histogram,
        "statsring_latency_seconds",
        "Time from arrival to sending of each metric: an upper bound where measured_from is socket_empty, the last moment at \
         which the socket was known to be empty; exact where it is wake_up, the end of an idle period.",
    );
    for (kind, from) in [(LatencyKind::Bound, "socket_empty"), (LatencyKind::AfterIdle, "wake_up")] {
        add(&mut family, &[("measured_from", from)], latency.get(kind));
    }
    let mut family = out.family(
        Kind::Histogram,
        "statsring_residence_seconds",
        "Time that each metric stayed in the process, from the wakeup that delivered it to its sending.",
    );
    add(&mut family, &[], latency.get(LatencyKind::Residence));
    if !timestamps {
        return;
    }
    // A family of its own: in the first one every metric counts once.
    let mut family = out.family(
        Kind::Histogram,
        "statsring_latency_exact_seconds",
        "Time from arrival, by kernel timestamp, to sending of each metric (timestamps).",
    );
    add(&mut family, &[], latency.get(LatencyKind::Exact));
}

fn add(family: &mut super::exposition::Family<'_>, labels: &[(&str, &str)], histogram: &Histogram<u64>) {
    let mut within = [0u64; BOUNDS_US.len()];
    let mut sum_us = 0.0;
    for cell in histogram.iter_recorded() {
        let (us, count) = (cell.value_iterated_to(), cell.count_at_value());
        sum_us += histogram.median_equivalent(us) as f64 * count as f64;
        if let Some(bucket) = BOUNDS_US.iter().position(|bound| us <= *bound) {
            within[bucket] += count;
        }
    }
    let mut up_to = 0;
    let bounds: Vec<(f64, u64)> = BOUNDS_US
        .iter()
        .zip(within)
        .map(|(bound, count)| {
            up_to += count;
            (*bound as f64 / 1e6, up_to)
        })
        .collect();
    family.histogram(labels, &bounds, sum_us / 1e6, histogram.len());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(latency: &Latency) -> String {
        let mut out = Exposition::new();
        render(&mut out, latency, false);
        out.finish()
    }

    /// Bounds and counts of the buckets of a series, and its sum and count.
    fn series(text: &str, name: &str, labels: &str) -> (Vec<(f64, u64)>, f64, u64) {
        let value = |line: &str| line.rsplit_once(' ').unwrap().1.to_owned();
        let of = |suffix: &str| {
            let start = format!("{name}_{suffix}");
            text.lines()
                .filter(move |line| line.starts_with(&start) && line.contains(labels))
                .collect::<Vec<_>>()
        };
        let bound = |line: &str| match line.split("le=\"").nth(1).unwrap().split('"').next().unwrap() {
            "+Inf" => f64::INFINITY,
            bound => bound.parse().unwrap(),
        };
        let buckets =
            of("bucket").into_iter().map(|line| (bound(line), value(line).parse().unwrap())).collect();
        (buckets, value(of("sum")[0]).parse().unwrap(), value(of("count")[0]).parse().unwrap())
    }

    #[test]
    fn counts_grow_with_the_bounds_and_sum_and_count_agree() {
        let mut latency = Latency::new();
        let mut truth = 0.0;
        for us in (1..30_000_000).step_by(9_973) {
            latency.record(LatencyKind::Bound, us, 3);
            truth += 3.0 * us as f64 / 1e6;
        }
        let text = text(&latency);
        let (buckets, sum, count) = series(&text, "statsring_latency_seconds", "socket_empty");
        assert_eq!(buckets.len(), BOUNDS_US.len() + 1);
        assert!(buckets.is_sorted_by(|one, next| one.0 < next.0 && one.1 <= next.1), "{buckets:?}");
        assert_eq!(count, latency.get(LatencyKind::Bound).len());
        assert_eq!(*buckets.last().unwrap(), (f64::INFINITY, count));
        assert!((sum - truth).abs() <= truth / 100.0, "{sum} for {truth}");
        // Never understated, and overstated by at most one cell.
        for (bound, up_to) in &buckets[..BOUNDS_US.len()] {
            let below = |limit: f64| {
                3 * (1..30_000_000u64).step_by(9_973).filter(|us| *us as f64 / 1e6 <= limit).count()
            };
            assert!(
                *up_to as usize <= below(*bound) && *up_to as usize >= below(bound * 0.98),
                "{bound}: {up_to}"
            );
        }
        assert_eq!(series(&text, "statsring_latency_seconds", "wake_up").2, 0);
    }

    #[test]
    fn exact_ones_are_there_with_timestamps_only() {
        let mut latency = Latency::new();
        latency.record(LatencyKind::Exact, 300, 7);
        assert!(!text(&latency).contains("exact_seconds"));
        let mut out = Exposition::new();
        render(&mut out, &latency, true);
        let text = out.finish();
        let (buckets, _, count) = series(&text, "statsring_latency_exact_seconds", "");
        assert_eq!((count, buckets[2], buckets[3]), (7, (0.000_25, 0), (0.000_5, 7)));
        assert_eq!(series(&text, "statsring_latency_seconds", "socket_empty").2, 0);
    }

    #[test]
    fn an_empty_histogram_is_all_zeros_and_there() {
        let text = text(&Latency::new());
        let (buckets, sum, count) = series(&text, "statsring_residence_seconds", "");
        assert!(buckets.iter().all(|(_, up_to)| *up_to == 0) && sum == 0.0 && count == 0);
        assert!(text.contains("statsring_residence_seconds_bucket{le=\"0.005\"} 0\n"), "{text}");
    }
}
