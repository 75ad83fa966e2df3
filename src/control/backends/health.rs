//! Whether one backend is up: a pure state machine.
//!
//! In: results of checks, errors that sends to the data port report, the time. Out: transitions, and when to check next.
//! Next: `health_checker.rs` feeds it, `table.rs` makes the living set of it.
//!
//! - A backend starts up, but unproven: its first failed check takes it down at once (HAProxy does the same), so that
//!   a backend that is dead at start costs one check and not three.
//! - `checkFall` consecutive failures take it down, `checkRise` consecutive successes bring it back. While the last result
//!   contradicts the state, checks are `checkFast` apart.
//! - A send error that is evidence against the backend (its port refuses, its host is unreachable) triggers an early check.
//!   Such errors are counted at most once per `checkFast`, whatever the traffic; `checkFall` of them with no silence of a whole
//!   `checkInterval` between two, while the checks succeed, take the backend down: its admin port answers for a data port
//!   that is gone.
//! - A host that does not answer ARP is reported after three seconds, in which it was asked three times: that counts as often
//!   as `checkFast` fits into the three seconds.
//! - The checks cannot see the data port, so they alone must not bring such a backend back, or it would flap. It is
//!   held out for a check interval, then needs its `checkRise` good checks, then is on trial: one error takes it out
//!   again, for twice as long (at most five minutes). A trial as long as the last hold without an error is passed.
//! - Errors that another host answers with are as rare as its rate limit for ICMP makes them: a pause, and a trial, is not
//!   shorter than such an answer may take, whatever `checkInterval` says.
//! - A backend without admin port is up unless sends fail. When its hold is over and its host could not be reached,
//!   the host is tried first, without metrics ([`Health::reached`]): as long as it cannot be reached the hold goes on. Else
//!   it is taken back, on trial.

use crate::config::Check;
use crate::driver::reach::Reach;
use crate::packet::{SendError, SendErrorCounts};
use serde::{Deserialize, Serialize};

/// Longest time that a backend whose data port refuses is held out before it is tried again.
const HOLD_MS_MAX: u64 = 300_000;
/// How long the kernel solicits a neighbor before it reports the host as unreachable.
const NEIGHBOR_MS: u64 = 3_000;
/// A host answers with ICMP errors once a second to each other host (`net.ipv4.icmp_ratelimit`), for all its ports together: in
/// this time comes one for each, unless very many of them refuse.
const ANSWERS_MS: u64 = 10_000;
/// The shortest trial of a backend whose host could not be reached: a shorter one would be over before there is a report.
const TRIAL_MS_MIN: u64 = 2 * NEIGHBOR_MS;

/// Result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Reported up.
    Good,
    /// Anything else.
    Failed,
}

/// Why a backend changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its checks failed, or succeeded again.
    Checks,
    /// Its sends failed so.
    Sends(SendError),
    /// Its hold is over, and without an admin port only traffic shows its state.
    HoldOver,
    /// Its host, which was unreachable, answers again.
    Reached,
}

impl Cause {
    /// As in the log's field `cause`.
    pub const fn name(self) -> &'static str {
        match self {
            Cause::Checks => "checks",
            Cause::Sends(error) => error.name(),
            Cause::HoldOver => "hold over",
            Cause::Reached => "reached",
        }
    }
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The new state.
    pub up: bool,
    /// Why.
    pub cause: Cause,
}

/// The health of one backend as handed over between processes, whose clocks differ: times are relative to now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CarriedHealth {
    has_adminport: bool,
    up: bool,
    unproven: bool,
    against: u32,
    refusals: u32,
    refused_ago_ms: Option<u64>,
    held_for_ms: Option<u64>,
    hold_ms: u64,
    is_unreachable: bool,
    trial_for_ms: Option<u64>,
}

impl Default for CarriedHealth {
    /// Nothing is known against it.
    fn default() -> CarriedHealth {
        CarriedHealth {
            has_adminport: false,
            up: true,
            unproven: false,
            against: 0,
            refusals: 0,
            refused_ago_ms: None,
            held_for_ms: None,
            hold_ms: 0,
            is_unreachable: false,
            trial_for_ms: None,
        }
    }
}

/// The health of one backend. Times are ms of a monotonic clock.
#[derive(Clone, Debug)]
pub struct Health {
    check: Check,
    has_adminport: bool,
    up: bool,
    /// No check has succeeded yet: one failure decides.
    unproven: bool,
    /// Consecutive check results that contradict the state.
    against: u32,
    /// A send error triggered an early check.
    early: bool,
    /// When the last check was started.
    checked_ms: Option<u64>,
    /// Counted errors of sends in a row, and when the last was counted.
    refusals: u32,
    refused_ms: Option<u64>,
    /// Down by send errors, at least until then.
    held_until_ms: Option<u64>,
    /// Those errors reported its host as unreachable.
    is_unreachable: bool,
    /// The last error that was evidence against it.
    last_error: Option<SendError>,
    /// Its errors come from another host.
    is_remote: bool,
    /// How long the last hold was; the next one's length if a trial fails is twice that.
    hold_ms: u64,
    /// Back from a hold, and on trial until then.
    trial_until_ms: Option<u64>,
}

impl Health {
    /// A backend that was never checked: up, unproven, to be checked at once.
    pub fn new(check: Check, has_adminport: bool) -> Health {
        Health {
            check,
            has_adminport,
            up: true,
            unproven: has_adminport,
            against: 0,
            early: false,
            checked_ms: None,
            refusals: 0,
            refused_ms: None,
            held_until_ms: None,
            is_unreachable: false,
            last_error: None,
            is_remote: false,
            hold_ms: 0,
            trial_until_ms: None,
        }
    }

    /// The state to hand over.
    pub fn carry(&self, now_ms: u64) -> CarriedHealth {
        CarriedHealth {
            has_adminport: self.has_adminport,
            up: self.up,
            unproven: self.unproven,
            against: self.against,
            refusals: self.refusals,
            refused_ago_ms: self.refused_ms.map(|refused_ms| now_ms.saturating_sub(refused_ms)),
            held_for_ms: self.held_until_ms.map(|until_ms| until_ms.saturating_sub(now_ms)),
            hold_ms: self.hold_ms,
            is_unreachable: self.is_unreachable,
            trial_for_ms: self.trial_until_ms.map(|until_ms| until_ms.saturating_sub(now_ms)),
        }
    }

    /// Restores the state handed over. It is checked at once; if its admin port was added or removed, it starts anew.
    pub fn resume(check: Check, has_adminport: bool, carried: &CarriedHealth, now_ms: u64) -> Health {
        let new = Health::new(check, has_adminport);
        if carried.has_adminport != has_adminport {
            return new;
        }
        Health {
            up: carried.up,
            unproven: carried.unproven,
            against: carried.against,
            refusals: carried.refusals,
            refused_ms: carried.refused_ago_ms.map(|ago_ms| now_ms.saturating_sub(ago_ms)),
            held_until_ms: carried.held_for_ms.map(|for_ms| now_ms.saturating_add(for_ms)),
            hold_ms: carried.hold_ms,
            is_unreachable: carried.is_unreachable,
            trial_until_ms: carried.trial_for_ms.map(|for_ms| now_ms.saturating_add(for_ms)),
            ..new
        }
    }

    /// Whether it may receive metrics.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Until when it is held out at least, if send errors took it down.
    pub fn held_until_ms(&self) -> Option<u64> {
        self.held_until_ms
    }

    /// A reload's rules: the state stays, the next result is judged by them.
    pub fn set_rules(&mut self, check: Check, has_adminport: bool) {
        if has_adminport != self.has_adminport {
            *self = Health::new(check, has_adminport);
        }
        self.check = check;
    }

    /// It may be another server now (its name leads elsewhere): keeps the state, but checks at once, and the first
    /// failure decides.
    pub fn doubt(&mut self) {
        self.unproven = self.has_adminport;
        self.checked_ms = None;
    }

    /// Schedules the next check soon.
    pub fn hurry(&mut self) {
        self.early = true;
    }

    /// A check was started.
    pub fn started(&mut self, now_ms: u64) {
        self.checked_ms = Some(now_ms);
        self.early = false;
    }

    /// A check's result.
    pub fn observe(&mut self, now_ms: u64, outcome: Outcome) -> Option<Transition> {
        if !self.has_adminport {
            return None;
        }
        match (self.up, outcome) {
            (true, Outcome::Good) => {
                self.unproven = false;
                self.against = 0;
                None
            }
            (true, Outcome::Failed) => {
                // From here on the checks decide, and a restart is not mistaken for a lost data port.
                self.refusals = 0;
                self.against += 1;
                (self.unproven || self.against >= self.check.fall).then(|| self.fall(Cause::Checks))
            }
            (false, Outcome::Failed) => {
                self.against = 0;
                None
            }
            (false, Outcome::Good) => {
                self.against = self.against.saturating_add(1);
                let held = self.held_until_ms.is_some_and(|until| now_ms < until);
                (!held && self.against >= self.check.rise).then(|| self.rise(now_ms, Cause::Checks))
            }
        }
    }

    /// Sends reported these errors; the one that weighs most counts.
    pub fn sends_failed(&mut self, now_ms: u64, errors: &SendErrorCounts) -> Option<Transition> {
        let heaviest = self.heaviest(errors)?;
        self.send_failed(now_ms, heaviest)
    }

    /// A send reported `error`; only those matter that are evidence against the backend. Calls closer than `checkFast` to the
    /// last counted one change nothing.
    fn send_failed(&mut self, now_ms: u64, error: SendError) -> Option<Transition> {
        if !self.up || !error.is_evidence() {
            return None;
        }
        self.last_error = Some(error);
        let since_last = self.refused_ms.map(|last| now_ms.saturating_sub(last));
        if since_last.is_some_and(|since| since < self.check.fast_ms) {
            return None;
        }
        if since_last.is_some_and(|since| since > self.quiet_ms()) {
            self.refusals = 0;
        }
        self.refused_ms = Some(now_ms);
        self.refusals = self.refusals.saturating_add(self.weight(error));
        self.early = true;
        let on_trial = self.trial_until_ms.is_some_and(|until| now_ms < until);
        if on_trial || (self.against == 0 && self.refusals >= self.check.fall) {
            let shortest = self.check.interval_ms.max(self.check.fast_ms);
            let doubled = self.hold_ms.saturating_mul(2).min(HOLD_MS_MAX);
            self.hold_ms = if on_trial { doubled.max(shortest) } else { shortest };
            let transition = self.fall(Cause::Sends(error));
            self.held_until_ms = Some(now_ms + self.hold_ms);
            self.is_unreachable = error.is_unreachable();
            return Some(transition);
        }
        None
    }

    /// Time passed: takes back a backend without admin port whose hold is over, unless its host has to be probed first.
    pub fn tick(&mut self, now_ms: u64) -> Option<Transition> {
        (self.is_hold_over(now_ms) && !self.is_unreachable).then(|| self.rise(now_ms, Cause::HoldOver))
    }

    /// Whether to probe now if the host of a backend without admin port is reachable again: [`Health::reached`] takes the
    /// result.
    pub fn is_reach_due(&self, now_ms: u64) -> bool {
        self.is_hold_over(now_ms) && self.is_unreachable
    }

    /// The result of probing its host.
    pub fn reached(&mut self, now_ms: u64, reach: Reach) -> Option<Transition> {
        if !self.is_reach_due(now_ms) {
            return None;
        }
        match reach {
            Reach::Answered => Some(self.rise(now_ms, Cause::Reached)),
            Reach::Unknown => Some(self.rise(now_ms, Cause::HoldOver)),
            Reach::Unreachable => {
                // Probing costs no metrics, so no backoff is needed.
                self.held_until_ms = Some(now_ms + self.check.interval_ms.max(self.check.fast_ms));
                None
            }
        }
    }

    /// Whether it has no admin port, was taken down by errors of sends, and its hold is over.
    fn is_hold_over(&self, now_ms: u64) -> bool {
        !self.up && !self.has_adminport && self.held_until_ms.is_some_and(|until| now_ms >= until)
    }

    /// When to start the next check (or, without admin port, to call [`Health::tick`]); `None` if only an error of a send can
    /// change anything. `jitter` is any number: it moves the time by up to a tenth, so that the checks of many
    /// backends and of many proxies do not fall together.
    pub fn next_check_ms(&self, jitter: u64) -> Option<u64> {
        if !self.has_adminport {
            return self.held_until_ms;
        }
        let Some(checked_ms) = self.checked_ms else {
            return Some(0);
        };
        let spread = |period_ms: u64| period_ms.saturating_mul(900 + jitter % 201) / 1_000;
        let settled = checked_ms + spread(self.check.interval_ms);
        let fast = checked_ms + spread(self.check.fast_ms);
        Some(match self.held_until_ms {
            // Good checks cannot settle it before its hold is over.
            Some(until) if self.against > 0 => settled.min(fast.max(until)),
            _ if self.against > 0 || self.early => settled.min(fast),
            _ => settled,
        })
    }

    /// Errors of sends further apart than this are not in a row. Hints come at best once per `checkFast`, so it cannot be less
    /// than that, however short the check interval.
    pub fn quiet_ms(&self) -> u64 {
        self.check.interval_ms.max(self.check.fast_ms.saturating_mul(2)).max(self.report_ms())
    }

    /// Within which time the next report of the last error comes if it goes on; 0 if at once.
    pub fn report_ms(&self) -> u64 {
        match self.last_error {
            Some(SendError::NoNeighbor) => TRIAL_MS_MIN,
            Some(_) if self.is_remote => ANSWERS_MS,
            _ => 0,
        }
    }

    /// Sends reported these errors; the one that weighs most says what is to be expected of the next ones. `is_remote`: they
    /// came from another host, or would have.
    pub fn note_errors(&mut self, errors: &SendErrorCounts, is_remote: bool) {
        self.is_remote = is_remote;
        self.last_error = self.heaviest(errors).or(self.last_error);
    }

    fn heaviest(&self, errors: &SendErrorCounts) -> Option<SendError> {
        let evidence = errors.iter().map(|(error, _)| error).filter(|error| error.is_evidence());
        evidence.max_by_key(|error| self.weight(*error))
    }

    /// How many send errors this one counts as.
    fn weight(&self, error: SendError) -> u32 {
        match error {
            SendError::NoNeighbor => {
                u32::try_from(NEIGHBOR_MS.div_ceil(self.check.fast_ms.max(1))).unwrap_or(u32::MAX)
            }
            _ => 1,
        }
    }

    fn fall(&mut self, cause: Cause) -> Transition {
        self.settle(false);
        self.held_until_ms = None;
        self.is_unreachable = false;
        self.trial_until_ms = None;
        Transition { up: false, cause }
    }

    fn rise(&mut self, now_ms: u64, cause: Cause) -> Transition {
        self.settle(true);
        // Only a hold is followed by a trial, as long as the hold was.
        let shortest = if self.is_unreachable { TRIAL_MS_MIN } else { 0 };
        let shortest = shortest.max(self.report_ms());
        self.trial_until_ms = self.held_until_ms.take().map(|_| now_ms + self.hold_ms.max(shortest));
        self.is_unreachable = false;
        Transition { up: true, cause }
    }

    fn settle(&mut self, up: bool) {
        self.up = up;
        self.unproven = false;
        self.against = 0;
        self.refusals = 0;
        self.refused_ms = None;
        self.early = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CHECK: Check = Check { interval_ms: 10_000, timeout_ms: 1_000, fast_ms: 1_000, fall: 3, rise: 2 };
    const DOWN_BY_CHECKS: Option<Transition> = Some(Transition { up: false, cause: Cause::Checks });
    const UP_BY_CHECKS: Option<Transition> = Some(Transition { up: true, cause: Cause::Checks });
    const DOWN_REFUSED: Option<Transition> =
        Some(Transition { up: false, cause: Cause::Sends(SendError::Refused) });

    /// The jitter that leaves a period as it is.
    const NO_JITTER: u64 = 100;

    fn refused(health: &mut Health, now_ms: u64) -> Option<Transition> {
        health.send_failed(now_ms, SendError::Refused)
    }

    fn proven() -> Health {
        let mut health = Health::new(CHECK, true);
        health.started(0);
        assert_eq!(health.observe(0, Outcome::Good), None);
        health
    }

    #[test]
    fn the_first_failed_check_takes_an_unproven_backend_down() {
        let mut health = Health::new(CHECK, true);
        assert!(health.is_up());
        assert_eq!(health.next_check_ms(7), Some(0));
        assert_eq!(health.observe(0, Outcome::Failed), DOWN_BY_CHECKS);
    }

    #[test]
    fn only_failures_in_a_row_count() {
        let mut health = proven();
        for _ in 0..10 {
            assert_eq!(health.observe(1, Outcome::Failed), None);
            assert_eq!(health.observe(1, Outcome::Failed), None);
            assert_eq!(health.observe(1, Outcome::Good), None);
        }
        assert_eq!(health.observe(1, Outcome::Failed), None);
        assert_eq!(health.observe(1, Outcome::Failed), None);
        assert_eq!(health.observe(1, Outcome::Failed), DOWN_BY_CHECKS);
        for _ in 0..10 {
            assert_eq!(health.observe(1, Outcome::Good), None);
            assert_eq!(health.observe(1, Outcome::Failed), None);
        }
        assert_eq!(health.observe(1, Outcome::Good), None);
        assert_eq!(health.observe(1, Outcome::Good), UP_BY_CHECKS);
    }

    #[test]
    fn a_contradiction_is_checked_fast_and_a_settled_state_slowly() {
        let mut health = proven();
        assert_eq!(health.next_check_ms(NO_JITTER), Some(10_000));
        health.started(10_000);
        health.observe(10_000, Outcome::Failed);
        assert_eq!(health.next_check_ms(NO_JITTER), Some(11_000));
        health.started(11_000);
        health.observe(11_000, Outcome::Failed);
        health.started(12_000);
        assert_eq!(health.observe(12_000, Outcome::Failed), DOWN_BY_CHECKS);
        assert_eq!(health.next_check_ms(NO_JITTER), Some(22_000));
        health.started(22_000);
        health.observe(22_000, Outcome::Good);
        assert_eq!(health.next_check_ms(NO_JITTER), Some(23_000));
    }

    #[test]
    fn fast_checks_are_never_slower_than_the_interval() {
        let mut health = Health::new(Check { interval_ms: 50, ..CHECK }, true);
        health.started(0);
        health.observe(0, Outcome::Good);
        health.observe(0, Outcome::Failed);
        assert_eq!(health.next_check_ms(NO_JITTER), Some(50));
    }

    #[test]
    fn a_refusal_asks_for_an_early_check() {
        let mut health = proven();
        assert_eq!(refused(&mut health, 3_000), None);
        assert_eq!(health.next_check_ms(NO_JITTER), Some(1_000), "at once: the last check is long ago");
        health.started(3_000);
        assert_eq!(health.next_check_ms(NO_JITTER), Some(13_000));
    }

    #[test]
    fn a_burst_of_refusals_counts_once() {
        let mut health = proven();
        for now in 3_000..3_900 {
            assert_eq!(refused(&mut health, now), None);
        }
        assert!(health.is_up());
    }

    #[test]
    fn refusals_with_a_healthy_adminport_take_it_down_and_hold_it() {
        let mut health = proven();
        assert_eq!(refused(&mut health, 1_000), None);
        assert_eq!(health.observe(1_000, Outcome::Good), None);
        assert_eq!(refused(&mut health, 2_000), None);
        assert_eq!(health.observe(2_000, Outcome::Good), None);
        assert_eq!(refused(&mut health, 3_000), DOWN_REFUSED);
        // Held for one interval, even if checks succeed.
        for now in [4_000, 5_000, 6_000, 12_999] {
            health.started(now);
            assert_eq!(health.observe(now, Outcome::Good), None);
        }
        assert_eq!(health.next_check_ms(NO_JITTER), Some(13_999));
        assert_eq!(health.observe(13_999, Outcome::Good), UP_BY_CHECKS);
        // On trial: one refusal is enough, and the hold doubles.
        assert_eq!(refused(&mut health, 14_500), DOWN_REFUSED);
        assert_eq!(health.held_until_ms(), Some(34_500));
        health.observe(34_000, Outcome::Good);
        assert_eq!(health.observe(34_500, Outcome::Good), UP_BY_CHECKS);
        // The trial is passed after as long a time without refusals: then it takes three again.
        assert_eq!(refused(&mut health, 54_500), None);
        assert_eq!(refused(&mut health, 55_500), None);
        assert_eq!(refused(&mut health, 56_500), DOWN_REFUSED);
        assert_eq!(health.held_until_ms(), Some(66_500));
    }

    #[test]
    fn a_hold_needs_its_good_checks_too() {
        let mut health = proven();
        for now in [1_000, 2_000, 3_000] {
            refused(&mut health, now);
        }
        assert!(!health.is_up());
        assert_eq!(health.observe(13_000, Outcome::Good), None);
        assert_eq!(health.observe(14_000, Outcome::Failed), None);
        assert_eq!(health.observe(15_000, Outcome::Good), None);
        assert_eq!(health.observe(16_000, Outcome::Good), UP_BY_CHECKS);
    }

    #[test]
    fn refusals_of_a_backend_whose_checks_fail_leave_the_matter_to_the_checks() {
        let mut health = proven();
        assert_eq!(refused(&mut health, 1_000), None);
        assert_eq!(health.observe(1_000, Outcome::Failed), None);
        assert_eq!(refused(&mut health, 2_000), None);
        assert_eq!(health.observe(2_000, Outcome::Failed), None);
        assert_eq!(refused(&mut health, 3_000), None);
        assert_eq!(health.observe(3_000, Outcome::Failed), DOWN_BY_CHECKS);
        assert_eq!(health.held_until_ms(), None, "a restarted server is back after two good checks");
    }

    #[test]
    fn a_silence_of_an_interval_forgets_refusals() {
        let mut health = proven();
        for round in 0..20 {
            assert_eq!(refused(&mut health, 1_000 + round * 10_001), None);
        }
    }

    #[test]
    fn without_adminport_it_is_up_unless_refused_then_tried_again() {
        let mut health = Health::new(CHECK, false);
        assert_eq!(health.next_check_ms(1), None);
        assert_eq!(health.observe(1, Outcome::Failed), None);
        assert_eq!(refused(&mut health, 1_000), None);
        assert_eq!(refused(&mut health, 2_000), None);
        assert_eq!(refused(&mut health, 3_000), DOWN_REFUSED);
        assert_eq!(health.next_check_ms(1), Some(13_000));
        assert_eq!(health.tick(12_999), None);
        assert_eq!(health.tick(13_000), Some(Transition { up: true, cause: Cause::HoldOver }));
        assert_eq!(health.next_check_ms(1), None);
        assert_eq!(refused(&mut health, 13_100), DOWN_REFUSED);
        assert_eq!(health.next_check_ms(1), Some(33_100));
    }

    /// The example config's rules: checks follow each other faster than a missing neighbor is reported.
    const QUICK: Check = Check { interval_ms: 1_000, ..CHECK };
    const NO_NEIGHBOR: Option<Transition> =
        Some(Transition { up: false, cause: Cause::Sends(SendError::NoNeighbor) });

    #[test]
    fn a_host_that_does_not_answer_arp_is_down_at_the_first_report_or_after_check_fall() {
        let mut health = Health::new(QUICK, false);
        assert_eq!(health.send_failed(3_000, SendError::NoNeighbor), NO_NEIGHBOR);
        let patient = Check { fall: 7, ..QUICK };
        let mut health = Health::new(patient, false);
        assert_eq!(health.send_failed(3_000, SendError::NoNeighbor), None);
        assert_eq!(health.send_failed(6_100, SendError::NoNeighbor), None);
        assert_eq!(health.send_failed(9_200, SendError::NoNeighbor), NO_NEIGHBOR);
        let mut health = Health::new(patient, false);
        for report in 1..20 {
            assert_eq!(health.send_failed(report * 6_001, SendError::NoNeighbor), None, "not in a row");
        }
    }

    #[test]
    fn other_reports_that_it_cannot_be_reached_count_like_refusals_and_errors_of_this_host_do_not() {
        let mut health = Health::new(CHECK, false);
        for now_ms in (0..100_000).step_by(1_000) {
            for error in [SendError::NotPermitted, SendError::TooLong, SendError::NoBuffers, SendError::Other]
            {
                assert_eq!(health.send_failed(now_ms, error), None);
            }
        }
        assert_eq!(health.send_failed(1_000, SendError::NetworkUnreachable), None);
        assert_eq!(health.send_failed(1_500, SendError::HostUnreachable), None);
        assert_eq!(health.send_failed(2_000, SendError::Refused), None);
        let down = Transition { up: false, cause: Cause::Sends(SendError::HostUnreachable) };
        assert_eq!(health.send_failed(3_000, SendError::HostUnreachable), Some(down));
    }

    #[test]
    fn a_host_that_could_not_be_reached_is_tried_before_it_gets_metrics_again() {
        let mut health = Health::new(QUICK, false);
        health.send_failed(3_000, SendError::NoNeighbor);
        assert_eq!((health.tick(4_000), health.is_reach_due(3_999)), (None, false));
        assert!(health.is_reach_due(4_000));
        for now_ms in (7_000..400_000).step_by(4_000) {
            assert_eq!(health.reached(now_ms, Reach::Unreachable), None);
            assert_eq!(health.reached(now_ms, Reach::Answered), None, "only when it is due");
            assert_eq!(health.next_check_ms(1), Some(now_ms + 1_000), "the hold does not grow");
        }
        let reached = Some(Transition { up: true, cause: Cause::Reached });
        assert_eq!(health.reached(500_000, Reach::Answered), reached);
        // Its trial is as long as a report takes; a failed one doubles the hold.
        assert_eq!(health.send_failed(505_900, SendError::NoNeighbor), NO_NEIGHBOR);
        assert_eq!(health.held_until_ms(), Some(507_900));
        let over = Some(Transition { up: true, cause: Cause::HoldOver });
        assert_eq!(health.reached(507_900, Reach::Unknown), over);
        assert_eq!((health.next_check_ms(1), health.is_reach_due(600_000)), (None, false));
        // After a refusal only traffic shows its state.
        let mut health = Health::new(QUICK, false);
        for now_ms in [1_000, 2_000, 3_000] {
            refused(&mut health, now_ms);
        }
        assert_eq!((health.is_reach_due(9_000), health.tick(9_000)), (false, over));
    }

    #[test]
    fn the_next_process_tries_the_host_too() {
        let mut health = Health::new(QUICK, false);
        health.send_failed(3_000, SendError::NoNeighbor);
        let next = Health::resume(QUICK, false, &health.carry(3_400), 50);
        assert_eq!((next.is_up(), next.is_reach_due(649), next.is_reach_due(650)), (false, false, true));
    }

    #[test]
    fn refusals_from_a_remote_host_come_as_seldom_as_its_rate_limit_lets_them() {
        let check = Check { interval_ms: 1_000, ..CHECK };
        let mut health = Health::new(check, false);
        let mut refused = |now_ms| {
            let mut errors = SendErrorCounts::default();
            errors.add(SendError::Refused);
            health.note_errors(&errors, true);
            let change = health.sends_failed(now_ms, &errors).map(|change| change.up);
            (change, health.tick(now_ms + health.hold_ms).map(|change| change.up))
        };
        assert_eq!([2_500, 5_000].map(&mut refused), [(None, None); 2]);
        assert_eq!(refused(7_500), (Some(false), Some(true)));
        assert_eq!(refused(12_500), (Some(false), Some(true)), "on trial, one is enough");
        assert_eq!(health.hold_ms, 2 * check.interval_ms);
    }

    #[test]
    fn holds_stop_doubling_at_five_minutes() {
        let mut health = Health::new(CHECK, false);
        let mut now = 0;
        while health.is_up() {
            now += 1_000;
            refused(&mut health, now);
        }
        let mut longest = 0;
        for _ in 0..12 {
            let until = health.held_until_ms().unwrap();
            longest = until - now;
            now = until;
            assert!(health.tick(now).is_some());
            now += 1;
            assert_eq!(refused(&mut health, now), DOWN_REFUSED);
        }
        assert_eq!(longest, HOLD_MS_MAX);
    }

    #[test]
    fn a_reload_keeps_the_state_and_changes_the_rules() {
        let mut health = proven();
        health.observe(1, Outcome::Failed);
        health.set_rules(Check { fall: 2, ..CHECK }, true);
        assert_eq!(health.observe(2, Outcome::Failed), DOWN_BY_CHECKS);
        health.set_rules(CHECK, false);
        assert!(health.is_up(), "without admin port there is nothing against it");
    }

    #[test]
    fn a_doubted_backend_is_checked_at_once_and_falls_at_the_first_failure() {
        let mut health = proven();
        health.doubt();
        assert_eq!(health.next_check_ms(3), Some(0));
        assert_eq!(health.observe(20, Outcome::Failed), DOWN_BY_CHECKS);
    }

    #[derive(Clone, Copy, Debug)]
    enum Event {
        Good,
        Failed,
        Refused,
        Tick,
    }

    /// Reference implementation of the rules: the whole history is kept, and each question is answered by reading it.
    struct Oracle {
        check: Check,
        has_adminport: bool,
        history: Vec<(u64, Event)>,
        /// Index into the history, new state, and for falls by refusal the hold in ms.
        changes: Vec<(usize, u64, bool, Option<u64>)>,
    }

    impl Oracle {
        fn up(&self) -> bool {
            self.changes.last().is_none_or(|change| change.2)
        }

        fn since_change(&self) -> &[(u64, Event)] {
            &self.history[self.changes.last().map_or(0, |change| change.0 + 1)..]
        }

        /// How many of the last checks since the change were like this.
        fn in_a_row(&self, good: bool) -> u32 {
            let checks = self.since_change().iter().filter(|e| matches!(e.1, Event::Good | Event::Failed));
            checks.rev().take_while(|e| matches!(e.1, Event::Good) == good).count() as u32
        }

        /// Counted refusals in a row, if the last event is one of them.
        fn counted_refusals(&self) -> u32 {
            let quiet = self.check.interval_ms.max(2 * self.check.fast_ms);
            let (mut count, mut last, mut counted) = (0, None::<u64>, false);
            for (at, event) in self.since_change() {
                counted = false;
                match event {
                    Event::Failed if self.has_adminport => count = 0,
                    Event::Refused if last.is_none_or(|last| at - last >= self.check.fast_ms) => {
                        if last.is_some_and(|last| at - last > quiet) {
                            count = 0;
                        }
                        count += 1;
                        last = Some(*at);
                        counted = true;
                    }
                    _ => {}
                }
            }
            if counted { count } else { 0 }
        }

        /// The hold that the present trial follows, if there is a trial.
        fn trial(&self, now: u64) -> Option<u64> {
            let [.., (_, _, false, Some(hold)), (_, risen, true, _)] = self.changes.as_slice() else {
                return None;
            };
            (now < risen + hold).then_some(*hold)
        }

        fn event(&mut self, now: u64, event: Event) -> Option<bool> {
            self.history.push((now, event));
            let proven = self.history.iter().any(|e| matches!(e.1, Event::Good)) || !self.changes.is_empty();
            let change = match (self.up(), event) {
                (true, Event::Failed) if self.has_adminport => {
                    (!proven || self.in_a_row(false) >= self.check.fall).then_some((false, None))
                }
                (true, Event::Refused) => {
                    let shortest = self.check.interval_ms.max(self.check.fast_ms);
                    let settled = !self.has_adminport || self.in_a_row(false) == 0;
                    if let Some(hold) = self.trial(now) {
                        Some((false, Some((2 * hold).min(HOLD_MS_MAX).max(shortest))))
                    } else {
                        (settled && self.counted_refusals() >= self.check.fall)
                            .then_some((false, Some(shortest)))
                    }
                }
                (false, Event::Good) if self.has_adminport => {
                    let (_, fell, _, hold) = *self.changes.last().unwrap();
                    (now >= fell + hold.unwrap_or(0) && self.in_a_row(true) >= self.check.rise)
                        .then_some((true, None))
                }
                (false, Event::Tick) if !self.has_adminport => {
                    let (_, fell, _, hold) = *self.changes.last().unwrap();
                    (now >= fell + hold.unwrap_or(0)).then_some((true, None))
                }
                _ => None,
            }?;
            self.changes.push((self.history.len() - 1, now, change.0, change.1));
            Some(change.0)
        }
    }

    fn events() -> impl Strategy<Value = Vec<(u64, Event)>> {
        let event = prop_oneof![
            3 => Just(Event::Good),
            3 => Just(Event::Failed),
            4 => Just(Event::Refused),
            2 => Just(Event::Tick),
        ];
        let wait = prop_oneof![3 => 0u64..200, 4 => 90u64..400, 2 => 900u64..2_500, 1 => 0u64..40_000];
        prop::collection::vec((wait, event), 1..120)
    }

    #[test]
    fn a_hold_continues_in_the_next_process() {
        let mut health = proven();
        for now in [1_000, 2_000, 3_000] {
            refused(&mut health, now);
        }
        assert!(!health.is_up());
        let carried = health.carry(5_000);
        let text = serde_json::to_string(&carried).unwrap();
        assert_eq!(serde_json::from_str::<CarriedHealth>(&text).unwrap(), carried);
        let mut next = Health::resume(CHECK, true, &carried, 70);
        assert_eq!((next.is_up(), next.held_until_ms()), (false, Some(8_070)));
        assert_eq!(next.next_check_ms(NO_JITTER), Some(0), "it is checked at once");
        assert_eq!(next.observe(100, Outcome::Good), None);
        assert_eq!(next.observe(8_069, Outcome::Good), None);
        assert_eq!(next.observe(8_070, Outcome::Good), UP_BY_CHECKS);
        assert!(Health::resume(CHECK, false, &carried, 70).is_up(), "without its admin port it begins anew");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn it_agrees_with_the_oracle(
            events in events(), fall in 1u32..5, rise in 1u32..4, has_adminport: bool, fast_ms in 100u64..1_500,
        ) {
            let check = Check { interval_ms: 1_000, timeout_ms: 100, fast_ms, fall, rise };
            let mut health = Health::new(check, has_adminport);
            let mut oracle = Oracle { check, has_adminport, history: Vec::new(), changes: Vec::new() };
            let mut now = 0;
            for (wait, event) in events {
                now += wait;
                let change = match event {
                    Event::Good => health.observe(now, Outcome::Good),
                    Event::Failed => health.observe(now, Outcome::Failed),
                    Event::Refused => refused(&mut health, now),
                    Event::Tick => health.tick(now),
                };
                prop_assert_eq!(change.map(|c| c.up), oracle.event(now, event), "at {} after {:?}", now, event);
                prop_assert_eq!(health.is_up(), oracle.up());
            }
        }

        #[test]
        fn a_check_is_always_due_and_within_a_tenth_of_its_period(
            events in events(), jitter: u64, fast_ms in 100u64..1_500,
        ) {
            let check = Check { interval_ms: 1_000, timeout_ms: 100, fast_ms, fall: 3, rise: 2 };
            let mut health = Health::new(check, true);
            let mut now = 0;
            for (wait, event) in events {
                now += wait;
                health.started(now);
                match event {
                    Event::Good => { health.observe(now, Outcome::Good); }
                    Event::Failed => { health.observe(now, Outcome::Failed); }
                    Event::Refused => { refused(&mut health, now); }
                    Event::Tick => { health.tick(now); }
                }
                let due = health.next_check_ms(jitter).expect("a backend with an admin port is always checked");
                let shortest = check.interval_ms.min(fast_ms) * 9 / 10;
                prop_assert!((now + shortest..=now + check.interval_ms * 11 / 10).contains(&due));
            }
        }
    }
}
