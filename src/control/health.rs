//! Whether one backend is up: a pure state machine.
//!
//! In: results of checks, refusals seen at the data port, the time. Out: transitions, and when to check next.
//! Next: `watch.rs` feeds it, `table.rs` makes the living set of it.
//!
//! - A backend starts up, but unproven: its first failed check takes it down at once (HAProxy does the same), so that
//!   a backend that is dead at start costs one check and not three.
//! - `checkFall` failures in a row take it down, `checkRise` good checks in a row bring it back. While the last result
//!   contradicts the state, checks follow each other by `checkFast`.
//! - A refusal at the data port asks for an early check. Refusals are counted at most once per `checkFast`, whatever
//!   the traffic; `checkFall` of them with no silence of a whole `checkInterval` between two, while the checks are
//!   good, take the backend down: its admin port answers for a data port that is gone.
//! - The checks cannot see the data port, so they alone must not bring such a backend back, or it would flap. It is
//!   held out for a check interval, then needs its `checkRise` good checks, then is on trial: one refusal takes it out
//!   again, for twice as long (at most five minutes). A trial as long as the last hold without a refusal is passed.
//! - A backend without admin port is up unless refused, and is taken back, on trial, when its hold is over.

use crate::config::Check;
use crate::planted::{Defect, is_planted};
use serde::{Deserialize, Serialize};

/// Longest time that a backend whose data port refuses is held out before it is tried again.
const HOLD_MS_MAX: u64 = 300_000;

/// What one check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It answered that it is up.
    Good,
    /// Anything else.
    Failed,
}

/// Why a backend changed its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Its checks failed, or were good again.
    Checks,
    /// Its data port refused.
    Refused,
    /// Its hold is over, and without an admin port only traffic can tell.
    HoldOver,
}

impl Cause {
    /// As the log's field `cause` has it.
    pub const fn name(self) -> &'static str {
        match self {
            Cause::Checks => "checks",
            Cause::Refused => "refused",
            Cause::HoldOver => "hold over",
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

/// The health of one backend as it goes from one process to the next, whose clocks differ: times are told from now.
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
            trial_for_ms: None,
        }
    }
}

/// The health of one backend. Times are ms of a clock that only grows.
#[derive(Clone, Debug)]
pub struct Health {
    check: Check,
    has_adminport: bool,
    up: bool,
    /// No check has been good yet: one failure decides.
    unproven: bool,
    /// Results of checks in a row that contradict the state.
    against: u32,
    /// A refusal asked for an early check.
    early: bool,
    /// When the last check was started.
    checked_ms: Option<u64>,
    /// Counted refusals in a row, and when the last was counted.
    refusals: u32,
    refused_ms: Option<u64>,
    /// Down by refusals, at least until then.
    held_until_ms: Option<u64>,
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
            hold_ms: 0,
            trial_until_ms: None,
        }
    }

    /// What the process that takes over goes on from.
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
            trial_for_ms: self.trial_until_ms.map(|until_ms| until_ms.saturating_sub(now_ms)),
        }
    }

    /// Goes on from what another process knew. It is checked at once; if its admin port came or went, it begins anew.
    pub fn resume(check: Check, has_adminport: bool, carried: &CarriedHealth, now_ms: u64) -> Health {
        let new = Health::new(check, has_adminport);
        if carried.has_adminport != has_adminport || is_planted(Defect::HealthForgottenAtHandover) {
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
            trial_until_ms: carried.trial_for_ms.map(|for_ms| now_ms.saturating_add(for_ms)),
            ..new
        }
    }

    /// Whether it may get metrics.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Until when it is held out at least, if refusals took it down.
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

    /// The next check is to come soon.
    pub fn hurry(&mut self) {
        self.early = true;
    }

    /// A check is being started.
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

    /// The data port refused. Calls closer than `checkFast` to the last counted one change nothing.
    pub fn refused(&mut self, now_ms: u64) -> Option<Transition> {
        if !self.up {
            return None;
        }
        let since_last = self.refused_ms.map(|last| now_ms.saturating_sub(last));
        if since_last.is_some_and(|since| since < self.check.fast_ms) {
            return None;
        }
        if since_last.is_some_and(|since| since > self.quiet_ms()) {
            self.refusals = 0;
        }
        self.refused_ms = Some(now_ms);
        self.refusals += 1;
        self.early = true;
        let on_trial = self.trial_until_ms.is_some_and(|until| now_ms < until);
        if on_trial || (self.against == 0 && self.refusals >= self.check.fall) {
            let shortest = self.check.interval_ms.max(self.check.fast_ms);
            let doubled = self.hold_ms.saturating_mul(2).min(HOLD_MS_MAX);
            self.hold_ms = if on_trial { doubled.max(shortest) } else { shortest };
            let transition = self.fall(Cause::Refused);
            self.held_until_ms = Some(now_ms + self.hold_ms);
            return Some(transition);
        }
        None
    }

    /// Time went by: takes back a backend without admin port whose hold is over.
    pub fn tick(&mut self, now_ms: u64) -> Option<Transition> {
        let over = self.held_until_ms.is_some_and(|until| now_ms >= until);
        (!self.up && !self.has_adminport && over).then(|| self.rise(now_ms, Cause::HoldOver))
    }

    /// When to start the next check (or, without admin port, to call [`Health::tick`]); `None` if only a refusal can
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

    /// Refusals further apart than this are not in a row. Hints come at best once per `checkFast`, so it cannot be less
    /// than that, however short the check interval.
    pub fn quiet_ms(&self) -> u64 {
        self.check.interval_ms.max(self.check.fast_ms.saturating_mul(2))
    }

    fn fall(&mut self, cause: Cause) -> Transition {
        self.settle(false);
        self.held_until_ms = None;
        self.trial_until_ms = None;
        Transition { up: false, cause }
    }

    fn rise(&mut self, now_ms: u64, cause: Cause) -> Transition {
        self.settle(true);
        // Only a hold is followed by a trial, as long as the hold was.
        self.trial_until_ms = self.held_until_ms.take().map(|_| now_ms + self.hold_ms);
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
    const DOWN_REFUSED: Option<Transition> = Some(Transition { up: false, cause: Cause::Refused });

    /// The jitter that leaves a period as it is.
    const NO_JITTER: u64 = 100;

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
        assert_eq!(health.refused(3_000), None);
        assert_eq!(health.next_check_ms(NO_JITTER), Some(1_000), "at once: the last check is long ago");
        health.started(3_000);
        assert_eq!(health.next_check_ms(NO_JITTER), Some(13_000));
    }

    #[test]
    fn a_burst_of_refusals_counts_once() {
        let mut health = proven();
        for now in 3_000..3_900 {
            assert_eq!(health.refused(now), None);
        }
        assert!(health.is_up());
    }

    #[test]
    fn refusals_with_a_healthy_adminport_take_it_down_and_hold_it() {
        let mut health = proven();
        assert_eq!(health.refused(1_000), None);
        assert_eq!(health.observe(1_000, Outcome::Good), None);
        assert_eq!(health.refused(2_000), None);
        assert_eq!(health.observe(2_000, Outcome::Good), None);
        assert_eq!(health.refused(3_000), DOWN_REFUSED);
        // Held for one interval, however good the checks.
        for now in [4_000, 5_000, 6_000, 12_999] {
            health.started(now);
            assert_eq!(health.observe(now, Outcome::Good), None);
        }
        assert_eq!(health.next_check_ms(NO_JITTER), Some(13_999));
        assert_eq!(health.observe(13_999, Outcome::Good), UP_BY_CHECKS);
        // On trial: one refusal is enough, and the hold doubles.
        assert_eq!(health.refused(14_500), DOWN_REFUSED);
        assert_eq!(health.held_until_ms(), Some(34_500));
        health.observe(34_000, Outcome::Good);
        assert_eq!(health.observe(34_500, Outcome::Good), UP_BY_CHECKS);
        // The trial is passed after as long a time without refusals: then it takes three again.
        assert_eq!(health.refused(54_500), None);
        assert_eq!(health.refused(55_500), None);
        assert_eq!(health.refused(56_500), DOWN_REFUSED);
        assert_eq!(health.held_until_ms(), Some(66_500));
    }

    #[test]
    fn a_hold_needs_its_good_checks_too() {
        let mut health = proven();
        for now in [1_000, 2_000, 3_000] {
            health.refused(now);
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
        assert_eq!(health.refused(1_000), None);
        assert_eq!(health.observe(1_000, Outcome::Failed), None);
        assert_eq!(health.refused(2_000), None);
        assert_eq!(health.observe(2_000, Outcome::Failed), None);
        assert_eq!(health.refused(3_000), None);
        assert_eq!(health.observe(3_000, Outcome::Failed), DOWN_BY_CHECKS);
        assert_eq!(health.held_until_ms(), None, "a restarted server is back after two good checks");
    }

    #[test]
    fn a_silence_of_an_interval_forgets_refusals() {
        let mut health = proven();
        for round in 0..20 {
            assert_eq!(health.refused(1_000 + round * 10_001), None);
        }
    }

    #[test]
    fn without_adminport_it_is_up_unless_refused_then_tried_again() {
        let mut health = Health::new(CHECK, false);
        assert_eq!(health.next_check_ms(1), None);
        assert_eq!(health.observe(1, Outcome::Failed), None);
        assert_eq!(health.refused(1_000), None);
        assert_eq!(health.refused(2_000), None);
        assert_eq!(health.refused(3_000), DOWN_REFUSED);
        assert_eq!(health.next_check_ms(1), Some(13_000));
        assert_eq!(health.tick(12_999), None);
        assert_eq!(health.tick(13_000), Some(Transition { up: true, cause: Cause::HoldOver }));
        assert_eq!(health.next_check_ms(1), None);
        assert_eq!(health.refused(13_100), DOWN_REFUSED);
        assert_eq!(health.next_check_ms(1), Some(33_100));
    }

    #[test]
    fn holds_stop_doubling_at_five_minutes() {
        let mut health = Health::new(CHECK, false);
        let mut now = 0;
        while health.is_up() {
            now += 1_000;
            health.refused(now);
        }
        let mut longest = 0;
        for _ in 0..12 {
            let until = health.held_until_ms().unwrap();
            longest = until - now;
            now = until;
            assert!(health.tick(now).is_some());
            now += 1;
            assert_eq!(health.refused(now), DOWN_REFUSED);
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

    /// The rules said once more, the slow way: the whole history is kept, and each question is answered by reading it.
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
    fn a_hold_goes_on_in_the_next_process() {
        let mut health = proven();
        for now in [1_000, 2_000, 3_000] {
            health.refused(now);
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
        fn it_does_what_the_oracle_says(
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
                    Event::Refused => health.refused(now),
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
                    Event::Refused => { health.refused(now); }
                    Event::Tick => { health.tick(now); }
                }
                let due = health.next_check_ms(jitter).expect("a backend with an admin port is always checked");
                let shortest = check.interval_ms.min(fast_ms) * 9 / 10;
                prop_assert!((now + shortest..=now + check.interval_ms * 11 / 10).contains(&due));
            }
        }
    }
}
