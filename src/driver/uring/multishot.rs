//! The state of an operation that should always be armed: a multishot receive, the wake's read. Pure.
//!
//! In: queued, consumed, ended, as they happen. Out: whether it is armed, has to be armed, may be tried again when.
//! Next: `engine.rs`, which asks before each `enter`.

use crate::driver::backoff::Backoff;

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
pub(super) struct MultishotState {
    state: State,
    /// Of the token in force, or of the last one.
    generation: u32,
    /// A cancel is queued or in the kernel.
    is_cancel_under_way: bool,
    backoff: Backoff,
}

impl MultishotState {
    /// Not armed yet.
    pub fn new() -> MultishotState {
        MultishotState {
            state: State::Idle,
            generation: 0,
            is_cancel_under_way: false,
            backoff: Backoff::default(),
        }
    }

    /// It was queued as submission `number`, under a token of `generation`.
    pub fn queued(&mut self, number: u64, generation: u32) {
        self.state = State::Queued { number };
        self.generation = generation;
        self.backoff.tried();
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
        self.backoff.succeeded();
    }

    /// It failed: see [`Backoff::failed`].
    pub fn failed(&mut self, now_us: u64) {
        self.backoff.failed(now_us);
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

    /// Whether it is armed in the kernel.
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
        self.backoff.retry_at_us()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_armed_when_the_kernel_took_its_submission() {
        let mut standing = MultishotState::new();
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
}
