//! `latency`: a summary of each histogram, or one as a percentile distribution. Pure.
//!
//! In: [`Latency`] of all workers. Out: text; the distribution in the form that HdrHistogram writes
//! (`outputPercentileDistribution`) and its plotter reads. Next: `reply.rs`.

use crate::stats::{Latency, LatencyKind};
use hdrhistogram::Histogram;
use std::fmt::Write;

/// Rows of the distribution for each halving of the distance to 100 %, as HdrHistogram's tools have it.
const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// One line for each histogram that is measured, with or without the kernel's timestamps, tab-separated, with a header; in µs.
pub fn render_summary(latency: &Latency, timestamps: bool) -> String {
    let mut text = String::from("histogram\tcount\tmean\tp50\tp90\tp99\tp99.9\tmax\n");
    for kind in LatencyKind::measured(timestamps) {
        let histogram = latency.get(kind);
        let at = |quantile| histogram.value_at_quantile(quantile);
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "{}\t{}\t{:.1}\t{}\t{}\t{}\t{}\t{}",
            kind.name(),
            histogram.len(),
            histogram.mean(),
            at(0.5),
            at(0.9),
            at(0.99),
            at(0.999),
            histogram.max(),
        );
    }
    text
}

/// The percentile distribution of one histogram, or of [`Latency::arrival_to_sent`], in µs; an error for one that is not measured.
pub fn render_distribution(latency: &Latency, kind: Option<LatencyKind>, timestamps: bool) -> String {
    match kind {
        Some(LatencyKind::Exact) if !timestamps => {
            "error: exact latency is not measured; set \"timestamps\": true in the config and restart\n"
                .to_owned()
        }
        Some(kind) => distribution(latency.get(kind)),
        None => distribution(&latency.arrival_to_sent()),
    }
}

fn distribution(histogram: &Histogram<u64>) -> String {
    let digits = usize::from(histogram.sigfig());
    let mut text =
        format!("{:>12} {:>14} {:>10} {:>14}\n\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)");
    let mut total: u64 = 0;
    for row in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        total = total.saturating_add(row.count_since_last_iteration());
        let (value, quantile) = (row.value_iterated_to() as f64, row.quantile_iterated_to());
        let _ = write!(text, "{value:>12.digits$} {quantile:>14.12} {total:>10}");
        // The last row, at 100 %, has no such figure.
        let _ = match quantile {
            1.0 => writeln!(text),
            _ => writeln!(text, " {:>14.2}", 1.0 / (1.0 - quantile)),
        };
    }
    let (mean, deviation, max) = (histogram.mean(), histogram.stdev(), histogram.max() as f64);
    let sub_buckets = sub_buckets(histogram.sigfig());
    let _ = writeln!(text, "#[Mean    = {mean:>12.digits$}, StdDeviation   = {deviation:>12.digits$}]");
    let _ = writeln!(text, "#[Max     = {max:>12.digits$}, Total count    = {:>12}]", histogram.len());
    let _ = writeln!(text, "#[Buckets = {:>12}, SubBuckets     = {sub_buckets:>12}]", histogram.buckets());
    text
}

/// Sub-buckets of a histogram with so many significant digits: the power of two that holds twice 10^digits.
fn sub_buckets(digits: u8) -> u64 {
    (2 * 10u64.pow(u32::from(digits))).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Latency {
        let mut latency = Latency::new();
        for us in 1..=1_000 {
            latency.record(LatencyKind::Residence, us, 2);
        }
        latency.record(LatencyKind::Bound, 40, 3);
        latency.record(LatencyKind::AfterIdle, 70, 1);
        latency
    }

    #[test]
    fn the_summary_has_a_line_for_each_histogram() {
        let text = render_summary(&sample(), false);
        let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
        assert_eq!(rows.len(), LatencyKind::ALL.len(), "all but the exact one");
        assert!(rows.iter().all(|row| row.len() == 8), "{text}");
        assert_eq!(rows[0], ["histogram", "count", "mean", "p50", "p90", "p99", "p99.9", "max"]);
        assert_eq!(&rows[1][..2], ["latency_residence", "2000"]);
        // Two significant digits: within 1 % of the true ones.
        for (cell, truth) in rows[1][2..].iter().zip([500.5, 500.0, 900.0, 990.0, 999.0, 1_000.0]) {
            let value: f64 = cell.parse().unwrap();
            assert!((value - truth).abs() <= truth / 100.0, "{value} for {truth}");
        }
        assert_eq!(rows[2], ["latency_bound", "3", "40.0", "40", "40", "40", "40", "40"]);
        assert_eq!(rows[3][..2], ["latency_after_idle", "1"]);
    }

    #[test]
    fn the_exact_one_is_shown_with_timestamps_only() {
        let mut latency = sample();
        latency.record(LatencyKind::Exact, 30, 5);
        let text = render_summary(&latency, true);
        assert!(text.ends_with("latency_exact\t5\t30.0\t30\t30\t30\t30\t30\n"), "{text}");
        let distribution = |timestamps| render_distribution(&latency, Some(LatencyKind::Exact), timestamps);
        assert!(distribution(true).contains("Total count    =            5]"));
        assert!(
            distribution(false).starts_with("error: exact latency is not measured; set \"timestamps\": true")
        );
    }

    #[test]
    fn empty_histograms_are_shown_as_zeros() {
        let text = render_summary(&Latency::new(), false);
        assert!(text.contains("latency_bound\t0\t0.0\t0\t0\t0\t0\t0\n"), "{text}");
        let text = render_distribution(&Latency::new(), None, false);
        assert!(text.contains("Total count    =            0]"), "{text}");
    }

    #[test]
    fn the_distribution_is_what_the_plotter_reads() {
        let text = render_distribution(&sample(), Some(LatencyKind::Residence), false);
        let mut lines = text.lines();
        assert_eq!(lines.next(), Some("       Value     Percentile TotalCount 1/(1-Percentile)"));
        assert_eq!(lines.next(), Some(""));
        let (rows, footer): (Vec<&str>, Vec<&str>) = lines.partition(|line| !line.starts_with('#'));
        assert_eq!(rows[0], "        1.00 0.000000000000          2           1.00");
        let (mut value, mut quantile, mut count) = (0.0, -1.0, 0);
        for row in &rows {
            let cells: Vec<&str> = row.split_whitespace().collect();
            let (v, q, c): (f64, f64, u64) =
                (cells[0].parse().unwrap(), cells[1].parse().unwrap(), cells[2].parse().unwrap());
            assert!(v >= value && q >= quantile && c >= count, "{row}");
            (value, quantile, count) = (v, q, c);
            assert_eq!(cells.len(), if q == 1.0 { 3 } else { 4 }, "{row}");
        }
        assert_eq!((quantile, count), (1.0, 2_000));
        assert_eq!(footer.len(), 3);
        assert!(
            footer[0].starts_with("#[Mean    =       50")
                && footer[0].contains(", StdDeviation   =       28"),
            "{text}"
        );
        assert!(footer[1].ends_with("Total count    =         2000]"), "{text}");
        assert!(footer[2].ends_with("SubBuckets     =          256]"), "{text}");
    }

    #[test]
    fn without_a_kind_it_covers_every_metric() {
        let text = render_distribution(&sample(), None, false);
        assert!(text.contains("#[Max     =        70.00, Total count    =            4]"), "{text}");
        assert!(text.contains("       40.00 0.000000000000          3           1.00\n"), "{text}");
    }
}
