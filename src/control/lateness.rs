//! Whether this process was stalled (stopped, paused with its virtual machine, starved of CPU) while it waited for something:
//! then an expired time limit is not the other side's fault.
//!
//! In: a future to wait for. Out: its result, and whether this thread's timers were late meanwhile. Next: `health_checker.rs`.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Awaits `future`; whether this thread once ran more than `stall_max` later than it should have while it waited.
///
/// A timer is set every `stall_max` for as long as the future is pending, so a future that is ready soon costs none.
pub async fn of<T>(future: impl Future<Output = T>, stall_max: Duration) -> (T, bool) {
    let mut future = pin!(future);
    let mut was_stalled = false;
    loop {
        let due = Instant::now() + stall_max;
        let is_late = || Instant::now() > due + stall_max;
        tokio::select! {
            biased;
            result = future.as_mut() => return (result, was_stalled || is_late()),
            () = sleep_until(due) => was_stalled |= is_late(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a paused clock that advances only when everything waits.
    fn run<T>(test: impl Future<Output = T>) -> T {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_time().start_paused(true).build().unwrap().block_on(test)
    }

    const STALL_MAX: Duration = Duration::from_millis(200);

    #[test]
    fn a_future_that_waits_long_is_not_a_stall() {
        let waits = async || tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(run(async { of(waits(), STALL_MAX).await }), ((), false));
    }

    #[test]
    fn a_thread_that_did_not_run_is_a_stall_whenever_it_was() {
        let stall = || tokio::time::advance(Duration::from_millis(600));
        let waits = async |before_ms, after_ms| {
            tokio::time::sleep(Duration::from_millis(before_ms)).await;
            stall().await;
            tokio::time::sleep(Duration::from_millis(after_ms)).await;
        };
        for (before_ms, after_ms) in [(0, 0), (250, 0), (0, 250), (250, 250)] {
            assert!(run(of(waits(before_ms, after_ms), STALL_MAX)).1, "{before_ms} {after_ms}");
        }
    }
}
