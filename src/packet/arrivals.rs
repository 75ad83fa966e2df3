//! When the metrics of a packet arrived, each to the µs, as the kernel has stamped their datagrams.
//!
//! In: the arrival of each metric with a stamp, in the order in which they are packed. Out: runs of metrics that arrived
//! together. The memory is fixed: when it is full, neighbours are merged, and both count from the older arrival.
//! So a latency is never understated, and overstated by at most the distance of the neighbours. Next: the worker, which
//! records them when the packet has been sent.

/// Runs that a packet remembers: more than a packet of the usual size has metrics, if they have 22 bytes each.
pub const RUNS_MAX: usize = 64;

/// Metrics that follow each other in a packet and arrived together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Run {
    /// After the first arrival; before it, if negative.
    offset_us: i32,
    metrics: u32,
}

/// The arrivals of a packet's metrics; those without a stamp are left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arrivals {
    /// The first run's arrival, which the others are told from.
    first_us: i64,
    len: usize,
    runs: [Run; RUNS_MAX],
}

impl Arrivals {
    /// None yet.
    pub const fn new() -> Arrivals {
        Arrivals { first_us: 0, len: 0, runs: [Run { offset_us: 0, metrics: 0 }; RUNS_MAX] }
    }

    /// Adds metrics that arrived at `arrived_us`, behind those that are there.
    #[inline]
    pub fn add(&mut self, arrived_us: i64, metrics: u32) {
        if self.len == 0 {
            self.first_us = arrived_us;
        }
        let offset_us = self.offset_us(arrived_us);
        if let Some(last) = self.len.checked_sub(1).and_then(|last| self.runs.get_mut(last))
            && last.offset_us == offset_us
        {
            last.metrics = last.metrics.saturating_add(metrics);
            return;
        }
        self.push(Run { offset_us, metrics });
    }

    /// Adds another packet's, behind those that are there.
    pub fn append(&mut self, other: &Arrivals) {
        other.iter().for_each(|(arrived_us, metrics)| self.add(arrived_us, metrics));
    }

    /// Forgets all of them.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// When metrics arrived, and how many together.
    pub fn iter(&self) -> impl Iterator<Item = (i64, u32)> + '_ {
        let runs = self.runs.get(..self.len).unwrap_or(&[]);
        runs.iter().map(|run| (self.first_us.saturating_add(i64::from(run.offset_us)), run.metrics))
    }

    /// What is half an hour away and more counts as that far away.
    fn offset_us(&self, arrived_us: i64) -> i32 {
        let offset_us = arrived_us.saturating_sub(self.first_us);
        offset_us.clamp(i64::from(i32::MIN), i64::from(i32::MAX)) as i32
    }

    fn push(&mut self, run: Run) {
        if self.len == RUNS_MAX {
            self.halve();
        }
        if let Some(place) = self.runs.get_mut(self.len) {
            *place = run;
            self.len += 1;
        }
    }

    /// Puts each two neighbours together.
    fn halve(&mut self) {
        for pair in 0..RUNS_MAX / 2 {
            let (older, newer) = (self.runs[2 * pair], self.runs[2 * pair + 1]);
            self.runs[pair] = Run {
                offset_us: older.offset_us.min(newer.offset_us),
                metrics: older.metrics.saturating_add(newer.metrics),
            };
        }
        self.len = RUNS_MAX / 2;
    }
}

impl Default for Arrivals {
    fn default() -> Self {
        Arrivals::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn told(arrivals: &Arrivals) -> Vec<(i64, u32)> {
        arrivals.iter().collect()
    }

    #[test]
    fn metrics_that_arrived_together_are_one_run() {
        let mut arrivals = Arrivals::new();
        for (arrived_us, metrics) in [(-5, 1), (-5, 2), (7, 1), (3, 1), (3, 1)] {
            arrivals.add(arrived_us, metrics);
        }
        assert_eq!(told(&arrivals), [(-5, 3), (7, 1), (3, 2)]);
        let mut others = Arrivals::new();
        others.add(3, 4);
        others.add(9, 1);
        arrivals.append(&others);
        assert_eq!(told(&arrivals), [(-5, 3), (7, 1), (3, 6), (9, 1)]);
        arrivals.clear();
        arrivals.add(100, 1);
        assert_eq!(told(&arrivals), [(100, 1)]);
    }

    #[test]
    fn what_is_too_far_away_for_the_memory_counts_as_older() {
        let mut arrivals = Arrivals::new();
        let hour_us = 3_600_000_000;
        arrivals.add(0, 1);
        arrivals.add(hour_us, 1);
        assert_eq!(told(&arrivals), [(0, 1), (i64::from(i32::MAX), 1)]);
    }

    proptest! {
        /// However many there are, the runs are the metrics in order, each counted from no later than it arrived, and no
        /// earlier than its neighbours did.
        #[test]
        fn every_metric_is_in_one_run_that_is_no_younger(
            all in proptest::collection::vec((-10_000i64..10_000, 1u32..5), 0..400),
        ) {
            let mut arrivals = Arrivals::new();
            all.iter().for_each(|(arrived_us, metrics)| arrivals.add(*arrived_us, *metrics));
            let mut single = all.iter().flat_map(|(us, metrics)| (0..*metrics).map(|_| *us));
            for (arrived_us, metrics) in arrivals.iter() {
                let oldest_us = single.by_ref().take(metrics as usize).min();
                prop_assert_eq!(oldest_us, Some(arrived_us));
            }
            prop_assert_eq!(single.next(), None);
            let distinct = 1 + all.windows(2).filter(|pair| pair[0].0 != pair[1].0).count();
            if distinct <= RUNS_MAX && !all.is_empty() {
                prop_assert_eq!(arrivals.iter().count(), distinct, "exact as long as there is room");
            }
        }
    }
}
