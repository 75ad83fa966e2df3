//! Which errors of sends are logged: each kind of each backend at once when it begins, then at most once a minute while it goes
//! on; and of one kind no more than a few lines a minute over all backends.
//!
//! In: what `check_schedule.rs` found. Out: what to log. Pure. Next: `health_checker.rs` logs it.

use crate::packet::{SendError, SendErrorCounts};

/// Between two lines of one kind for one backend.
pub const AGAIN_MS: u64 = 60_000;
/// Lines of one kind within that time, over all backends.
const LINES_MAX: u32 = 10;

/// The errors of one backend.
#[derive(Debug, Default)]
pub struct SendErrorLog {
    kinds: [Kind; SendError::COUNT],
}

#[derive(Clone, Copy, Debug, Default)]
struct Kind {
    logged_ms: Option<u64>,
    unlogged: u64,
}

impl SendErrorLog {
    /// More errors.
    pub fn add(&mut self, errors: &SendErrorCounts) {
        errors.iter().for_each(|(error, count)| self.kinds[error as usize].unlogged += count);
    }

    /// The kinds to log now, each with the number of errors since it was logged last.
    pub fn take_due(&mut self, now_ms: u64) -> Vec<(SendError, u64)> {
        let kinds = SendError::ALL.into_iter().zip(&mut self.kinds);
        let due = kinds.filter(|(_, kind)| kind.due_ms().is_some_and(|due_ms| due_ms <= now_ms));
        due.map(|(error, kind)| {
            kind.logged_ms = Some(now_ms);
            (error, std::mem::take(&mut kind.unlogged))
        })
        .collect()
    }

    /// When [`SendErrorLog::take_due`] has something; `None` if nothing is left to log.
    pub fn due_ms(&self) -> Option<u64> {
        self.kinds.iter().filter_map(Kind::due_ms).min()
    }
}

impl Kind {
    fn due_ms(&self) -> Option<u64> {
        (self.unlogged > 0).then(|| self.logged_ms.map_or(0, |logged_ms| logged_ms + AGAIN_MS))
    }
}

/// The lines of all backends.
#[derive(Debug, Default)]
pub struct SendErrorBudget {
    kinds: [Window; SendError::COUNT],
}

#[derive(Clone, Copy, Debug, Default)]
struct Window {
    began_ms: u64,
    lines: u32,
    suppressed: u32,
}

/// Whether a line is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is.
    Granted,
    /// It is not, and it is the first: [`SendErrorBudget::take_suppressed`] has to be asked after [`AGAIN_MS`].
    FirstSuppressed,
    /// It is not.
    Suppressed,
}

impl SendErrorBudget {
    /// Asks for a line.
    pub fn admit(&mut self, error: SendError, now_ms: u64) -> Admission {
        let window = &mut self.kinds[error as usize];
        // One whose suppressed lines have not been reported yet continues.
        if window.suppressed == 0 && now_ms.saturating_sub(window.began_ms) >= AGAIN_MS {
            *window = Window { began_ms: now_ms, lines: 0, suppressed: 0 };
        }
        if window.lines < LINES_MAX {
            window.lines += 1;
            return Admission::Granted;
        }
        window.suppressed += 1;
        if window.suppressed == 1 { Admission::FirstSuppressed } else { Admission::Suppressed }
    }

    /// How many lines of this kind were suppressed; then some are logged again.
    pub fn take_suppressed(&mut self, error: SendError, now_ms: u64) -> u32 {
        let window = &mut self.kinds[error as usize];
        std::mem::replace(window, Window { began_ms: now_ms, ..Window::default() }).suppressed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(error: SendError, count: u64) -> SendErrorCounts {
        let mut errors = SendErrorCounts::default();
        errors.set(error, count);
        errors
    }

    #[test]
    fn a_kind_is_logged_at_once_then_once_a_minute_with_what_came_between() {
        let mut log = SendErrorLog::default();
        assert_eq!((log.due_ms(), log.take_due(5)), (None, Vec::new()));
        log.add(&errors(SendError::NotPermitted, 3));
        assert_eq!(log.take_due(1_000), [(SendError::NotPermitted, 3)]);
        for _ in 0..50 {
            log.add(&errors(SendError::NotPermitted, 2));
            assert_eq!(log.take_due(2_000), Vec::new());
        }
        log.add(&errors(SendError::TooLong, 1));
        assert_eq!(log.take_due(2_000), [(SendError::TooLong, 1)], "another kind does not wait for it");
        assert_eq!(log.due_ms(), Some(61_000));
        assert_eq!(log.take_due(61_000), [(SendError::NotPermitted, 100)]);
        assert_eq!(log.due_ms(), None);
    }

    #[test]
    fn many_backends_share_a_few_lines_per_minute_and_the_rest_is_counted() {
        let mut budget = SendErrorBudget::default();
        let mut admit = |now_ms| budget.admit(SendError::NoNeighbor, now_ms);
        let admitted: Vec<Admission> = (0..12).map(|_| admit(70_000)).collect();
        assert_eq!(admitted[9..], [Admission::Granted, Admission::FirstSuppressed, Admission::Suppressed]);
        assert_eq!(admit(140_000), Admission::Suppressed);
        assert_eq!(budget.admit(SendError::TooLong, 70_000), Admission::Granted);
        assert_eq!(budget.take_suppressed(SendError::NoNeighbor, 140_000), 3);
        assert_eq!(budget.take_suppressed(SendError::NoNeighbor, 140_000), 0);
        assert_eq!(budget.admit(SendError::NoNeighbor, 140_000), Admission::Granted);
    }
}
