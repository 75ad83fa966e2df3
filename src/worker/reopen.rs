//! When the socket to a backend is replaced by a new one, and why. Pure.
//!
//! A connected UDP socket keeps the source address that the kernel chose when it was made, and its source port keeps the
//! flow at the server that address translation (conntrack) chose for its first packet. Neither changes while packets are sent,
//! even if that address or server is gone. In: the time, reasons. Out: whether it is due. Next: `sockets.rs` opens the socket.

use std::fmt;

/// The pause between two sockets that are made because sends fail, µs: when nothing listens, each of them fails too.
const FAILURE_PAUSE_US: u64 = 1_000_000;
/// The pause before the next try after a new socket could not be made, µs.
const RETRY_US: u64 = 200_000;
/// How long a socket that holds packets may defer its replacement, µs; after that it is replaced anyway.
const PATIENCE_US: u64 = 10_000_000;

/// Why a socket is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReopenReason {
    /// The backend is up again: another server may have its address now.
    Up,
    /// The kernel would choose another source address now.
    SourceChanged,
    /// A send failed with an error that may be the socket's.
    SendFailed,
    /// `reopenInterval` is over.
    Interval,
}

impl fmt::Display for ReopenReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReopenReason::Up => "the backend is up again",
            ReopenReason::SourceChanged => "the source address changed",
            ReopenReason::SendFailed => "a send failed",
            ReopenReason::Interval => "reopenInterval",
        })
    }
}

/// The schedule of one socket. Times are µs of the driver's clock.
#[derive(Clone, Copy, Debug)]
pub struct Reopening {
    opened_us: u64,
    /// When the interval is over, if there is one.
    due_us: Option<u64>,
    /// Another reason, and its earliest time.
    wanted: Option<(ReopenReason, u64)>,
    /// After a failed attempt.
    not_before_us: u64,
    /// When it was replaced last because a send had failed.
    failed_us: Option<u64>,
}

impl Reopening {
    /// A socket made at `now_us`.
    pub fn new(now_us: u64) -> Reopening {
        Reopening { opened_us: now_us, due_us: None, wanted: None, not_before_us: 0, failed_us: None }
    }

    /// Schedules the replacement `interval_us` after it was made (0 = never), a tenth earlier or later by `jitter`, which is
    /// any number, so that not all sockets are replaced together.
    pub fn set_interval(&mut self, interval_us: u64, jitter: u64) {
        let spread_us = u128::from(interval_us) * u128::from(900 + jitter % 201) / 1_000;
        let spread_us = u64::try_from(spread_us).unwrap_or(u64::MAX);
        self.due_us = (interval_us > 0).then(|| self.opened_us.saturating_add(spread_us));
    }

    /// Schedules its replacement for `reason`, as soon as possible.
    pub fn want(&mut self, reason: ReopenReason, now_us: u64) {
        let first_us = match (reason, self.failed_us) {
            (ReopenReason::SendFailed, Some(failed_us)) => {
                failed_us.saturating_add(FAILURE_PAUSE_US).max(now_us)
            }
            _ => now_us,
        };
        if self.wanted.is_none_or(|(_, other_us)| first_us < other_us) {
            self.wanted = Some((reason, first_us));
        }
    }

    /// The next reason for its replacement, and the earliest time.
    pub fn next(&self) -> Option<(ReopenReason, u64)> {
        let due = self.due_us.map(|due_us| (ReopenReason::Interval, due_us));
        let next = self.wanted.into_iter().chain(due).min_by_key(|(_, at_us)| *at_us);
        next.map(|(reason, at_us)| (reason, at_us.max(self.not_before_us)))
    }

    /// Whether it has deferred its replacement long enough, regardless of its packets.
    pub fn is_overdue(&self, now_us: u64) -> bool {
        self.next().is_some_and(|(_, at_us)| now_us >= at_us.saturating_add(PATIENCE_US))
    }

    /// It was replaced by another one: updates the schedule.
    pub fn replaced(&self, reason: ReopenReason, now_us: u64) -> Reopening {
        let failed_us = if reason == ReopenReason::SendFailed { Some(now_us) } else { self.failed_us };
        Reopening { failed_us, ..Reopening::new(now_us) }
    }

    /// It could not be replaced.
    pub fn defer(&mut self, now_us: u64) {
        self.not_before_us = now_us.saturating_add(RETRY_US);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL_US: u64 = 60_000_000;

    #[test]
    fn sockets_made_together_are_replaced_within_a_fifth_of_the_interval() {
        let due_us = |jitter: u64| {
            let mut socket = Reopening::new(1_000);
            socket.set_interval(INTERVAL_US, jitter);
            socket.next().unwrap().1 - 1_000
        };
        assert_eq!((due_us(0), due_us(100), due_us(200)), (54_000_000, INTERVAL_US, 66_000_000));
        assert!((0..1_000).map(due_us).all(|due_us| (54_000_000..=66_000_000).contains(&due_us)));
    }

    #[test]
    fn without_an_interval_and_a_reason_it_stays() {
        let mut socket = Reopening::new(5);
        socket.set_interval(0, 7);
        assert_eq!(socket.next(), None);
        socket.set_interval(u64::MAX, 200);
        assert_eq!(socket.next(), Some((ReopenReason::Interval, u64::MAX)));
        socket.want(ReopenReason::Up, 9);
        assert_eq!(socket.next(), Some((ReopenReason::Up, 9)));
    }

    #[test]
    fn failing_sends_replace_it_at_once_and_then_once_a_second() {
        let mut socket = Reopening::new(0);
        socket.want(ReopenReason::SendFailed, 10);
        assert_eq!(socket.next(), Some((ReopenReason::SendFailed, 10)));
        let mut second = socket.replaced(ReopenReason::SendFailed, 10);
        second.want(ReopenReason::SendFailed, 20);
        second.want(ReopenReason::SendFailed, 30);
        assert_eq!(second.next(), Some((ReopenReason::SendFailed, 1_000_010)));
        // Another reason does not wait for that.
        second.want(ReopenReason::SourceChanged, 40);
        assert_eq!(second.next(), Some((ReopenReason::SourceChanged, 40)));
        let mut third = second.replaced(ReopenReason::SourceChanged, 40);
        third.want(ReopenReason::SendFailed, 2_000_000);
        assert_eq!(third.next(), Some((ReopenReason::SendFailed, 2_000_000)));
    }

    #[test]
    fn a_try_that_failed_is_followed_by_a_pause_and_patience_has_an_end() {
        let mut socket = Reopening::new(0);
        socket.want(ReopenReason::Up, 10);
        assert!(!socket.is_overdue(10_000_009) && socket.is_overdue(10_000_010));
        socket.defer(10);
        assert_eq!(socket.next(), Some((ReopenReason::Up, 200_010)));
    }
}
