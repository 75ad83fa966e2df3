//! Latency histograms that a worker fills once per batch, and hands over on request.
//!
//! In: the worker records each batch. Out: `latency` on the admin port. The reader swaps an empty set in and takes the
//! full one, so neither side waits for the other; an idle worker is woken to swap. Next: `admin/`.

use hdrhistogram::Histogram;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

/// Longest recorded value, in µs; longer ones are recorded as this.
const LATENCY_US_MAX: u64 = 60_000_000;

/// Kinds of latency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LatencyKind {
    /// From the return of the wait that delivered a datagram to the submit that sent its metrics.
    Residence,
    /// An upper bound from arrival: from the last moment the socket was known empty to that submit.
    Bound,
    /// Batches that ended an idle sleep, measured from the wake-up.
    AfterIdle,
    /// With `timestamps`: from the arrival that the kernel has stamped, to that submit.
    Exact,
}

impl LatencyKind {
    /// All of them.
    pub const ALL: [LatencyKind; 4] =
        [LatencyKind::Residence, LatencyKind::Bound, LatencyKind::AfterIdle, LatencyKind::Exact];

    /// Those that are measured, with or without the kernel's timestamps.
    pub fn measured(timestamps: bool) -> impl Iterator<Item = LatencyKind> {
        LatencyKind::ALL.into_iter().filter(move |kind| timestamps || *kind != LatencyKind::Exact)
    }

    /// Its name in the output.
    pub const fn name(self) -> &'static str {
        match self {
            LatencyKind::Residence => "latency_residence",
            LatencyKind::Bound => "latency_bound",
            LatencyKind::AfterIdle => "latency_after_idle",
            LatencyKind::Exact => "latency_exact",
        }
    }
}

/// An empty histogram of µs, 1 to 60,000,000, with two significant digits.
pub fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 2).expect("these bounds are valid")
}

/// One histogram of each kind.
#[derive(Clone, Debug)]
pub struct Latency {
    histograms: [Histogram<u64>; LatencyKind::ALL.len()],
}

impl Latency {
    /// Empty ones.
    pub fn new() -> Latency {
        Latency { histograms: std::array::from_fn(|_| new_histogram()) }
    }

    /// Records `count` metrics that took `us`. Never allocates.
    pub fn record(&mut self, kind: LatencyKind, us: u64, count: u64) {
        self.histograms[kind as usize].saturating_record_n(us.clamp(1, LATENCY_US_MAX), count);
    }

    /// One kind's histogram.
    pub fn get(&self, kind: LatencyKind) -> &Histogram<u64> {
        &self.histograms[kind as usize]
    }

    /// From arrival to sending, of every metric once: the upper bounds while traffic flows, and after idle sleeps.
    ///
    /// The two are kept apart because they are measured from different moments; `stats`, `latency hgrm` and the demo want one
    /// figure that covers all metrics.
    pub fn arrival_to_sent(&self) -> Histogram<u64> {
        let mut sum = self.get(LatencyKind::Bound).clone();
        // Cannot fail: all have the same bounds.
        let _ = sum.add(self.get(LatencyKind::AfterIdle));
        sum
    }

    /// Adds another set.
    pub fn merge(&mut self, other: &Latency) {
        for (mine, theirs) in self.histograms.iter_mut().zip(&other.histograms) {
            // Cannot fail: all have the same bounds.
            let _ = mine.add(theirs);
        }
    }

    /// Empties them.
    pub fn clear(&mut self) {
        for histogram in &mut self.histograms {
            histogram.reset();
        }
    }
}

impl Default for Latency {
    fn default() -> Self {
        Latency::new()
    }
}

/// Where worker and reader swap histograms.
///
/// The lock is touched by the worker only after a request, and then only tried: the data path never waits.
pub struct LatencyExchange {
    requested: AtomicBool,
    slot: Mutex<Latency>,
}

impl LatencyExchange {
    /// With an empty set to swap in.
    pub fn new() -> LatencyExchange {
        LatencyExchange { requested: AtomicBool::new(false), slot: Mutex::new(Latency::new()) }
    }

    /// Reader: requests a swap; wake the worker afterwards.
    pub fn request(&self) {
        self.requested.store(true, Ordering::Release);
    }

    /// Reader: whether the worker has swapped since the request.
    pub fn is_done(&self) -> bool {
        !self.requested.load(Ordering::Acquire)
    }

    /// Reader: adds what was handed over to `total` and leaves an empty set.
    pub fn collect(&self, total: &mut Latency) {
        let mut slot = self.slot.lock().unwrap_or_else(PoisonError::into_inner);
        total.merge(&slot);
        slot.clear();
    }

    /// Worker: swaps if requested.
    pub fn serve(&self, current: &mut Latency) {
        if !self.requested.load(Ordering::Acquire) {
            return;
        }
        if let Ok(mut slot) = self.slot.try_lock() {
            // What an earlier swap left uncollected goes along.
            current.merge(&slot);
            slot.clear();
            std::mem::swap(&mut *slot, current);
            self.requested.store(false, Ordering::Release);
        }
    }
}

impl Default for LatencyExchange {
    fn default() -> Self {
        LatencyExchange::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swapping_loses_no_sample() {
        let exchange = LatencyExchange::new();
        let mut current = Latency::new();
        let mut total = Latency::new();
        for round in 0..5u64 {
            current.record(LatencyKind::Bound, 100 * (round + 1), 3);
            exchange.serve(&mut current);
            exchange.request();
            assert!(!exchange.is_done());
            exchange.serve(&mut current);
            assert!(exchange.is_done());
            if round % 2 == 0 {
                exchange.collect(&mut total);
            }
        }
        exchange.collect(&mut total);
        assert_eq!(total.get(LatencyKind::Bound).len(), 15);
        assert_eq!(current.get(LatencyKind::Bound).len(), 0);
    }

    #[test]
    fn absurd_values_are_recorded_at_the_ends() {
        let mut latency = Latency::new();
        latency.record(LatencyKind::Residence, 0, 1);
        latency.record(LatencyKind::Residence, u64::MAX, 1);
        assert_eq!(latency.get(LatencyKind::Residence).len(), 2);
    }
}
