//! Pass or fail, and why. Pure.
//!
//! In: what arrived, what is tolerated. Out: a [`Verdict`], and with it the exit code. Next: `text.rs` shows it.

use super::figures::Arrived;
use crate::exit;
use crate::text::grouped;
use serde::Serialize;

/// What is tolerated.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tolerance {
    /// Share of the metrics sent that may be lost, 0 to 1.
    pub loss_share: f64,
    /// Whether reordered metrics are a failure.
    pub in_order: bool,
}

/// The end of a measurement.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether it passed.
    pub passed: bool,
    /// Why it failed; empty if it passed.
    pub reasons: Vec<String>,
    /// Notes about the measurement.
    pub notes: Vec<String>,
}

impl Verdict {
    /// A verdict on what arrived.
    pub fn on(arrived: &Arrived, tolerance: &Tolerance) -> Verdict {
        let mut verdict = Verdict::default();
        verdict.weigh_loss(arrived, tolerance);
        verdict.weigh_the_rest(arrived, tolerance);
        verdict.note(arrived);
        verdict.passed = verdict.reasons.is_empty();
        verdict
    }

    /// Adds a reason for failure.
    pub fn blame(&mut self, reason: String) {
        self.reasons.push(reason);
        self.passed = false;
    }

    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        if self.passed { exit::OK } else { exit::FAILED }
    }

    fn weigh_loss(&mut self, arrived: &Arrived, tolerance: &Tolerance) {
        let expected = arrived.expected.unwrap_or(arrived.unique + arrived.lost);
        if arrived.unique == 0 {
            self.reasons.push(match arrived.expected {
                Some(0) => "nothing was sent".into(),
                _ => "nothing arrived".into(),
            });
            return;
        }
        if arrived.unique > expected {
            let more = grouped(arrived.unique - expected);
            self.reasons.push(format!(
                "{more} more metrics arrived than were sent: check that no other load is running"
            ));
        }
        let share = arrived.lost as f64 / expected.max(1) as f64;
        if share > tolerance.loss_share {
            let lost = grouped(arrived.lost);
            self.reasons.push(format!("{lost} metrics lost ({} of {})", percent(share), grouped(expected)));
        } else if arrived.lost > 0 {
            self.notes.push(format!("{} metrics lost, within the allowed loss", grouped(arrived.lost)));
        }
    }

    fn weigh_the_rest(&mut self, arrived: &Arrived, tolerance: &Tolerance) {
        let mut blame = |count: u64, what: &str| {
            if count > 0 {
                self.reasons.push(format!("{} metrics {what}", grouped(count)));
            }
        };
        blame(arrived.duplicated, "duplicated");
        let names = grouped(arrived.names_misplaced);
        let where_seen = if arrived.moved.is_some() { "where no config places them" } else { "at two sinks" };
        blame(arrived.misplaced, &format!("misplaced: {names} names were seen {where_seen}"));
        blame(arrived.undecided, "arrived too late to be distinguished from duplicates");
        blame(arrived.names_beyond, "exceed the number of names that the sink can track: raise --names");
        if tolerance.in_order {
            blame(arrived.reordered.unwrap_or(0), "arrived out of order within their name");
        }
    }

    fn note(&mut self, arrived: &Arrived) {
        if arrived.dropped_at_sinks > 0 {
            self.notes.push(format!(
                "of the loss, {} datagrams were dropped at the sinks' sockets, not by the proxy: raise \
                 --receive-buffer, raise net.core.rmem_max, or lower the rate",
                grouped(arrived.dropped_at_sinks)
            ));
        }
        if arrived.expected.is_none() {
            self.notes.push(
                "the number of metrics sent is unknown: losses at the end of a name are not detected".into(),
            );
        }
        if let Some(moved) = arrived.moved {
            self.notes.push(format!(
                "{} metrics arrived at another sink than the first of their name, as placed by the configs",
                grouped(moved)
            ));
        }
        if arrived.foreign > 0 {
            self.notes
                .push(format!("{} lines arrived that are not part of this load", grouped(arrived.foreign)));
        }
    }
}

/// 0.0123 as `1.2300 %`.
fn percent(share: f64) -> String {
    format!("{:.4} %", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrived() -> Arrived {
        Arrived { expected: Some(1000), unique: 1000, reordered: Some(0), ..Arrived::default() }
    }

    #[test]
    fn a_complete_run_passes() {
        let verdict = Verdict::on(&arrived(), &Tolerance::default());
        assert_eq!((verdict.passed, verdict.exit_code()), (true, 0));
        assert!(verdict.reasons.is_empty() && verdict.notes.is_empty(), "{verdict:?}");
    }

    #[test]
    fn each_defect_fails_and_is_named() {
        for (change, reason) in [
            (Arrived { unique: 990, lost: 10, ..arrived() }, "10 metrics lost (1.0000 % of 1,000)"),
            (Arrived { duplicated: 1, ..arrived() }, "1 metrics duplicated"),
            (Arrived { misplaced: 4, names_misplaced: 2, ..arrived() }, "4 metrics misplaced: 2 names"),
            (
                Arrived { misplaced: 4, names_misplaced: 2, moved: Some(9), ..arrived() },
                "2 names were seen where no config places them",
            ),
            (Arrived { undecided: 3, ..arrived() }, "3 metrics arrived too late"),
            (Arrived { names_beyond: 3, ..arrived() }, "--names"),
            (Arrived { unique: 1001, ..arrived() }, "1 more metrics arrived than were sent"),
            (Arrived { unique: 0, lost: 1000, ..arrived() }, "nothing arrived"),
            (Arrived { unique: 0, expected: Some(0), ..arrived() }, "nothing was sent"),
            (Arrived { unique: 0, expected: None, ..arrived() }, "nothing arrived"),
        ] {
            let verdict = Verdict::on(&change, &Tolerance::default());
            assert_eq!(verdict.exit_code(), 1, "{change:?}");
            assert!(verdict.reasons.len() == 1 && verdict.reasons[0].contains(reason), "{verdict:?}");
        }
    }

    #[test]
    fn tolerance_is_for_loss_and_order_is_judged_if_asked() {
        let lossy = Arrived { unique: 990, lost: 10, ..arrived() };
        let tolerance = |loss_share| Tolerance { loss_share, in_order: false };
        assert!(Verdict::on(&lossy, &tolerance(0.01)).passed);
        assert!(!Verdict::on(&lossy, &tolerance(0.009)).passed);
        let duplicated = Arrived { duplicated: 1, ..lossy };
        assert!(!Verdict::on(&duplicated, &tolerance(0.5)).passed);
        let reordered = Arrived { reordered: Some(1), ..arrived() };
        assert!(Verdict::on(&reordered, &Tolerance::default()).passed);
        assert!(!Verdict::on(&reordered, &Tolerance { loss_share: 0.0, in_order: true }).passed);
    }

    #[test]
    fn without_a_total_gaps_count() {
        let gaps = Arrived { expected: None, unique: 990, lost: 10, ..arrived() };
        let verdict = Verdict::on(&gaps, &Tolerance::default());
        assert_eq!(verdict.reasons, ["10 metrics lost (1.0000 % of 1,000)"]);
        assert!(verdict.notes[0].contains("unknown"));
    }

    #[test]
    fn the_sinks_own_loss_is_reported_separately() {
        let arrived = Arrived { unique: 990, lost: 10, dropped_at_sinks: 2, ..arrived() };
        let verdict = Verdict::on(&arrived, &Tolerance::default());
        assert!(verdict.notes[0].contains("2 datagrams were dropped at the sinks' sockets"), "{verdict:?}");
    }
}
