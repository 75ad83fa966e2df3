//! Retry backoff: immediate retries a few times, then exponentially later. Pure.
//!
//! In: failures and successes as they happen. Out: the time of the next try. Next: `engine.rs`, for receives.

/// Consecutive failures that are retried immediately.
const FAILURES_AT_ONCE_MAX: u32 = 4;
/// The first wait after a failure, µs; it doubles.
const RETRY_FIRST_US: u64 = 1_000;
/// The longest wait, µs.
const RETRY_LONGEST_US: u64 = 1_000_000;
/// Doublings after which the limit is certainly reached.
const DOUBLINGS_MAX: u32 = 10;
const _: () = assert!(RETRY_FIRST_US << DOUBLINGS_MAX >= RETRY_LONGEST_US);

/// The number of consecutive failures.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures_in_a_row: u32,
    retry_at_us: Option<u64>,
}

impl Backoff {
    /// It failed: after several consecutive failures the next try waits, longer each time, since a lasting error would keep the
    /// thread busy.
    pub fn failed(&mut self, now_us: u64) {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        if let Some(waits) = self.failures_in_a_row.checked_sub(FAILURES_AT_ONCE_MAX + 1) {
            let wait_us = (RETRY_FIRST_US << waits.min(DOUBLINGS_MAX)).min(RETRY_LONGEST_US);
            self.retry_at_us = Some(now_us.saturating_add(wait_us));
        }
    }

    /// It succeeded.
    pub fn succeeded(&mut self) {
        *self = Backoff::default();
    }

    /// It is retried.
    pub fn tried(&mut self) {
        self.retry_at_us = None;
    }

    /// When to retry; `None`: at once.
    pub fn retry_at_us(&self) -> Option<u64> {
        self.retry_at_us
    }

    /// Whether the last try failed.
    pub fn is_failing(&self) -> bool {
        self.failures_in_a_row > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lasting_failures_are_tried_again_ever_later_but_not_never() {
        let mut backoff = Backoff::default();
        for _ in 0..FAILURES_AT_ONCE_MAX {
            backoff.failed(0);
            assert_eq!(backoff.retry_at_us(), None);
        }
        let mut last_us = 0;
        for _ in 0..100 {
            backoff.tried();
            backoff.failed(0);
            let retry_us = backoff.retry_at_us().unwrap();
            assert!(retry_us >= last_us.max(RETRY_FIRST_US) && retry_us <= RETRY_LONGEST_US);
            last_us = retry_us;
        }
        assert_eq!(last_us, RETRY_LONGEST_US);
        assert!(backoff.is_failing());
        backoff.succeeded();
        assert!(backoff.retry_at_us().is_none() && !backoff.is_failing());
    }
}
