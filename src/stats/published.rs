//! One worker's snapshot, readable at any moment without stopping the worker: a sequence lock of atomics.
//!
//! In: the worker's counters, once per batch. Out: a consistent copy for `admin/`. The writer never waits; a reader
//! that meets a write tries again. Source: H.-J. Boehm, "Can seqlocks get along with programming language memory
//! models?", MSPC 2012, the variant with relaxed data and fences.

use super::Counters;
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// A snapshot with one writer and any number of readers.
pub struct Published {
    /// Odd while a write is under way.
    sequence: AtomicU64,
    words: [AtomicU64; Counters::WORDS],
}

impl Published {
    /// All zero.
    pub fn new() -> Published {
        Published { sequence: AtomicU64::new(0), words: [const { AtomicU64::new(0) }; Counters::WORDS] }
    }

    /// Replaces the snapshot. Only one thread may publish.
    pub fn publish(&self, counters: &Counters) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        for (word, value) in self.words.iter().zip(counters.words()) {
            word.store(value, Ordering::Relaxed);
        }
        self.sequence.store(sequence + 2, Ordering::Release);
    }

    /// A copy in which all numbers belong to the same moment.
    pub fn read(&self) -> Counters {
        let mut copy = [0; Counters::WORDS];
        loop {
            let before = self.sequence.load(Ordering::Acquire);
            for (value, word) in copy.iter_mut().zip(&self.words) {
                *value = word.load(Ordering::Relaxed);
            }
            fence(Ordering::Acquire);
            if before.is_multiple_of(2) && self.sequence.load(Ordering::Relaxed) == before {
                return Counters::from_words(&copy);
            }
            // The writer may have been pre-empted in the middle: let it run.
            std::thread::yield_now();
        }
    }
}

impl Default for Published {
    fn default() -> Self {
        Published::new()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Counter;
    use super::*;

    #[test]
    fn a_reader_never_sees_half_a_snapshot() {
        let published = Published::new();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut counters = Counters::new();
                for _ in 0..50_000 {
                    counters.add(Counter::MetricsReceived, 3);
                    counters.add(Counter::MetricsSent, 2);
                    counters.add(Counter::MetricsPending, 1);
                    published.publish(&counters);
                }
            });
            while !writer.is_finished() {
                let seen = published.read();
                assert_eq!(seen.imbalance(), 0);
            }
        });
        assert_eq!(published.read().get(Counter::MetricsReceived), 150_000);
    }
}
