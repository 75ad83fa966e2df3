//! An operation that should always stand in the kernel: a multishot receive, the wake's read. Its state, purely.
//!
//! In: queued, consumed, ended, as they happen. Out: whether it is armed, has to be armed, may be tried again when.
//! Next: `engine.rs`, which asks before each `enter`.

/// Failures in a row before trying again at once becomes waiting.
const FAILURES_AT_ONCE_MAX: u32 = 4;
/// The first wait after a failure, µs; it doubles.
const RETRY_FIRST_US: u64 = 1_000;
/// The longest, µs.
const RETRY_LONGEST_US: u64 = 1_000_000;
/// Doublings that surely reach it.
const DOUBLINGS_MAX: u32 = 10;
const _: () = assert!(RETRY_FIRST_US << DOUBLINGS_MAX >= RETRY_LONGEST_US);

/// Where the operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nowhere: it has to be queued.
    Idle,
    /// In the submission queue, as the submission of this number.
    Queued { number: u64 },
    /// In the kernel.
    Armed,
}

/// One standing operation.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    state: State,
    /// Of the token in force, or of the last one.
    generation: u32,
    /// A cancel is queued or in the kernel.
    is_cancel_under_way: bool,
    failures_in_a_row: u32,
    retry_at_us: Option<u64>,
}

impl Standing {
    /// Not armed yet.
    pub fn new() -> Standing {
        Standing {
            state: State::Idle,
            generation: 0,
            is_cancel_under_way: false,
            failures_in_a_row: 0,
            retry_at_us: None,
        }
    }

    /// It was queued as submission `number`, under a token of `generation`.
    pub fn queued(&mut self, number: u64, generation: u32) {
        self.state = State::Queued { number };
        self.generation = generation;
        self.retry_at_us = None;
    }

    /// The kernel has taken the first `consumed` submissions.
    pub fn consumed(&mut self, consumed: u64) {
        if let State::Queued { number } = self.state
            && number < consumed
        {
            self.state = State::Armed;
        }
    }

    /// It is over, and has to be queued again.
    pub fn ended(&mut self) {
        self.state = State::Idle;
    }

    /// It did its work.
    pub fn succeeded(&mut self) {
        self.failures_in_a_row = 0;
        self.retry_at_us = None;
    }

    /// It failed: after several times in a row the next try waits, longer each time, or a lasting error would keep the
    /// thread busy.
    pub fn failed(&mut self, now_us: u64) {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        if let Some(waits) = self.failures_in_a_row.checked_sub(FAILURES_AT_ONCE_MAX + 1) {
            let wait_us = (RETRY_FIRST_US << waits.min(DOUBLINGS_MAX)).min(RETRY_LONGEST_US);
            self.retry_at_us = Some(now_us.saturating_add(wait_us));
        }
    }

    /// A cancel of it was queued.
    pub fn cancel_queued(&mut self) {
        self.is_cancel_under_way = true;
    }

    /// The cancel's own completion came; if the operation still stands, it has to be cancelled again.
    pub fn cancel_ended(&mut self) {
        self.is_cancel_under_way = false;
    }

    /// The generation of the token in force, or of the last one.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// Whether a token of `generation` is the one in force, or was the last.
    pub fn is_current(&self, generation: u32) -> bool {
        self.generation == generation
    }

    /// Whether it has to be queued.
    pub fn is_idle(&self) -> bool {
        self.state == State::Idle
    }

    /// Whether it stands in the kernel.
    pub fn is_armed(&self) -> bool {
        self.state == State::Armed
    }

    /// Whether a cancel is queued or in the kernel.
    pub fn is_cancel_under_way(&self) -> bool {
        self.is_cancel_under_way
    }

    /// Whether neither it nor a cancel of it is anywhere.
    pub fn is_quiet(&self) -> bool {
        self.is_idle() && !self.is_cancel_under_way
    }

    /// When to try again after failures; `None`: at once.
    pub fn retry_at_us(&self) -> Option<u64> {
        self.retry_at_us
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_armed_when_the_kernel_took_its_submission() {
        let mut standing = Standing::new();
        assert!(standing.is_idle() && standing.is_quiet());
        standing.queued(5, 1);
        standing.consumed(5);
        assert!(!standing.is_idle() && !standing.is_armed());
        standing.consumed(6);
        assert!(standing.is_armed() && standing.is_current(1) && !standing.is_current(0));
        standing.cancel_queued();
        standing.ended();
        assert!(standing.is_idle() && !standing.is_quiet());
        standing.cancel_ended();
        assert!(standing.is_quiet());
    }

    #[test]
    fn lasting_failures_are_tried_again_ever_later_but_not_never() {
        let mut standing = Standing::new();
        for _ in 0..FAILURES_AT_ONCE_MAX {
            standing.failed(0);
            assert_eq!(standing.retry_at_us(), None);
        }
        let mut last_us = 0;
        for _ in 0..100 {
            standing.failed(0);
            let retry_us = standing.retry_at_us().unwrap();
            assert!(retry_us >= last_us.max(RETRY_FIRST_US) && retry_us <= RETRY_LONGEST_US);
            last_us = retry_us;
        }
        assert_eq!(last_us, RETRY_LONGEST_US);
        standing.succeeded();
        assert_eq!(standing.retry_at_us(), None);
    }
}
