//! When one backend is checked, and how: the decisions of its health checker, without the task, the clock and the connection.
//!
//! In: the time, the backend with the errors of sends that the workers reported, results of checks. Out: a check to make or
//! a time to wait for; errors to log, changes of its state. Next: `health_checker.rs` carries them out.

use crate::config::Check;
use crate::control::backends::addresses::{CheckResult, MoveCause, Refusal, Verdict};
use crate::control::backends::backend::{Backend, Move};
use crate::control::backends::health::{Health, Transition};
use crate::packet::SendErrorCounts;
use crate::placement::splitmix64;
use std::net::SocketAddr;

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Query these addresses in this order until one reports it up.
    Check(Vec<SocketAddr>),
    /// Try at these addresses, in this order, whether its host can be reached again; it has no admin port to query.
    Reach(Vec<SocketAddr>),
    /// Poll again at this time, on the clock of the checks, in ms, or when nudged; `None` = only when nudged.
    Wait(Option<u64>),
}

/// News of a backend, for the workers and the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Send errors since the last poll.
    SendErrors(SendErrorCounts),
    /// It went up or down.
    State(Transition),
    /// Its metrics go to another address, or the round of its addresses is over.
    Route,
    /// The address that its metrics go to has proven itself.
    Settled(Move),
}

/// The schedule of one backend.
#[derive(Debug)]
pub struct CheckSchedule {
    /// Any number; it changes with each check.
    jitter: u64,
    /// When the next send error may be reported: one hint at a time, no more often than the fast checks.
    hint_due_ms: Option<u64>,
    /// The kinds of errors in the last report.
    reported: SendErrorCounts,
    /// When an address that metrics were moved to because of refusals has worked for long enough to be logged.
    proven_ms: Option<u64>,
}

impl CheckSchedule {
    /// Not polled yet. With a different `jitter` in each process, the proxies of a fleet do not check at the same time.
    pub fn new(jitter: u64) -> CheckSchedule {
        CheckSchedule { jitter, hint_due_ms: None, reported: SendErrorCounts::default(), proven_ms: None }
    }

    /// The next step for the backend; each change is passed to `settle`, after its cause.
    pub fn poll(
        &mut self,
        backend: &Backend,
        check: Check,
        now_ms: u64,
        mut settle: impl FnMut(Change),
    ) -> Next {
        self.read_send_errors(backend, check, now_ms, &mut settle);
        backend.with_health(|health| health.tick(now_ms)).map(Change::State).map(&mut settle);
        if backend.settle_addresses(now_ms) {
            settle(Change::Route);
            self.proven_ms = Some(now_ms);
        }
        if self.proven_ms.is_some_and(|proven_ms| proven_ms <= now_ms) {
            self.proven_ms = None;
            backend.announce(MoveCause::Refused).map(Change::Settled).map(&mut settle);
        }
        let due_ms = self.due_ms(backend);
        let is_due = due_ms.is_some_and(|due_ms| due_ms <= now_ms);
        let order = if is_due { backend.check_order() } else { Vec::new() };
        if !order.is_empty() {
            self.jitter = splitmix64(self.jitter);
            // A hint that found no room in the workers' channel is taken here.
            if self.hint_due_ms.is_none() && backend.counters.take_hint() {
                backend.note_send_errors(backend.address());
            }
            return Next::Check(order);
        }
        if is_due && backend.with_health(|health| health.is_reach_due(now_ms)) {
            return Next::Reach(backend.reach_order());
        }
        let others = [self.hint_due_ms, self.proven_ms, backend.addresses_settle_ms()];
        Next::Wait(due_ms.into_iter().chain(others.into_iter().flatten()).min())
    }

    /// Evaluates the send errors that the workers reported.
    fn read_send_errors(
        &mut self,
        backend: &Backend,
        check: Check,
        now_ms: u64,
        settle: &mut impl FnMut(Change),
    ) {
        let passed_over = backend.take_passed_over();
        if passed_over.total() > 0 {
            settle(Change::SendErrors(passed_over));
        }
        let is_hint_due = self.hint_due_ms.is_some_and(|due_ms| due_ms <= now_ms);
        if is_hint_due {
            backend.counters.take_hint();
            self.hint_due_ms = None;
        }
        let is_reported = backend.take_send_report();
        if !is_hint_due && !is_reported {
            return;
        }
        let errors = backend.take_send_errors();
        let mut evidence = errors;
        if is_reported {
            self.hint_due_ms = Some(now_ms + check.fast_ms);
            self.reported = errors;
        } else {
            // They came after the last report, which counts for its kinds, while nothing could be reported.
            evidence = errors.without(&self.reported);
        }
        if errors.total() > 0 {
            settle(Change::SendErrors(errors));
        }
        if evidence.iter().any(|(error, _)| error.is_evidence()) {
            self.refused(backend, check, now_ms, &evidence, settle);
        }
    }

    /// The address in use refuses metrics or cannot be reached: they go to the next one, unless all addresses do so.
    fn refused(
        &mut self,
        backend: &Backend,
        check: Check,
        now_ms: u64,
        errors: &SendErrorCounts,
        settle: &mut impl FnMut(Change),
    ) {
        let is_remote = backend.address().is_some_and(|address| !address.ip().is_loopback());
        backend.with_health(|health| health.note_errors(errors, is_remote));
        let (refusal, has_changed) = backend.refused(now_ms, check.fast_ms);
        if has_changed {
            settle(Change::Route);
        }
        self.proven_ms = Some(now_ms + check.fast_ms);
        match refusal {
            Refusal::Moved => {
                // A refusal at the next address must be reported at once, so that all are tried within milliseconds.
                self.hint_due_ms = None;
                backend.counters.take_hint();
                backend.with_health(Health::hurry);
            }
            Refusal::All => {
                self.hint_due_ms = Some(now_ms + check.fast_ms);
                let transition = backend.with_health(|health| health.sends_failed(now_ms, errors));
                transition.map(Change::State).map(settle);
            }
        }
    }

    /// When the backend is due for a check; `None` if only a nudge can change anything.
    fn due_ms(&self, backend: &Backend) -> Option<u64> {
        // Disabled, or without an address: nothing to check; a change of that wakes the checker.
        let may_be_tried = backend.is_checked() || !backend.reach_order().is_empty();
        may_be_tried.then(|| backend.with_health(|health| health.next_check_ms(self.jitter)))?
    }
}

/// Applies the results of a check. The backend may have been removed or moved meanwhile: the answer of an address that is no
/// longer its own does not count. Each change goes to `settle`.
pub fn judge(
    backend: &Backend,
    results: &[(SocketAddr, CheckResult)],
    check: Check,
    now_ms: u64,
    mut settle: impl FnMut(Change),
) {
    if backend.is_removed() {
        return;
    }
    let Some((outcome, verdict)) = backend.checked(results, check.fall, now_ms) else {
        if results.iter().any(|(_, result)| *result == CheckResult::NotMade) {
            // It counts for nothing, and is made up for soon.
            backend.with_health(Health::hurry);
        }
        return;
    };
    if verdict == Verdict::Moved {
        settle(Change::Route);
        backend.announce(MoveCause::Checks).map(Change::Settled).map(&mut settle);
    }
    backend.with_health(|health| health.observe(now_ms, outcome)).map(Change::State).map(&mut settle);
    if verdict == Verdict::Contested {
        backend.with_health(Health::hurry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::backends::addresses::Found;
    use crate::control::config_diff::tests::config;
    use crate::packet::SendError;

    /// What the rounds of a backend with two addresses and without admin port do, and its clock.
    struct Walk {
        backend: Backend,
        check: Check,
        schedule: CheckSchedule,
        changes: Vec<Change>,
    }

    const ONE: &str = "10.0.0.1:9";
    const TWO: &str = "10.0.0.2:9";

    impl Walk {
        fn new() -> Walk {
            let config = config(&["metrics.example:9"]);
            let backend = Backend::new(config.nodes[0].clone(), config.check);
            backend.set_addresses([ONE, TWO].map(|address| Found::at(address.parse().unwrap())).to_vec());
            Walk { backend, check: config.check, schedule: CheckSchedule::new(1), changes: Vec::new() }
        }

        /// A worker reports a refusal at `address`; the changes that follow at once, and where metrics go then.
        fn refuse(&mut self, now_ms: u64, address: &str) -> (Vec<Change>, String) {
            self.fail(now_ms, address, SendError::Refused)
        }

        /// The same with another error.
        fn fail(&mut self, now_ms: u64, address: &str, error: SendError) -> (Vec<Change>, String) {
            self.backend.counters.failed(error, None, now_ms);
            self.backend.note_send_errors(address.parse().ok());
            (self.poll(now_ms).0, self.backend.address().unwrap().to_string())
        }

        fn poll(&mut self, now_ms: u64) -> (Vec<Change>, Next) {
            let changes = &mut self.changes;
            let next = self.schedule.poll(&self.backend, self.check, now_ms, |change| {
                if !matches!(change, Change::SendErrors(_)) {
                    changes.push(change);
                }
            });
            (std::mem::take(&mut self.changes), next)
        }
    }

    #[test]
    fn a_refusal_moves_metrics_and_is_logged_when_the_new_address_has_proven_itself() {
        let mut walk = Walk::new();
        assert_eq!(walk.refuse(5_000, ONE), (vec![Change::Route], TWO.to_owned()));
        assert!(!walk.backend.counters.take_hint(), "the next refusal is reported at once");
        // Another worker's report about the old address is too late.
        assert_eq!(walk.refuse(5_001, ONE), (vec![], TWO.to_owned()));
        assert!(!walk.backend.counters.take_hint());
        let (changes, next) = walk.poll(5_002);
        assert_eq!((changes, next), (vec![], Next::Wait(Some(5_000 + walk.check.fast_ms))));
        let (from, to) = (ONE.parse().unwrap(), TWO.parse().unwrap());
        let logged = Change::Settled(Move { from, to, cause: MoveCause::Refused });
        assert_eq!(walk.poll(5_000 + walk.check.fast_ms).0, [logged]);
        walk.backend.with_health(|health| assert!(health.is_up()));
    }

    #[test]
    fn a_backend_is_down_when_all_its_addresses_refuse_round_after_round() {
        let mut walk = Walk::new();
        let mut now_ms = 5_000;
        for round in 1..=walk.check.fall {
            let (mut changes, address) = walk.refuse(now_ms, ONE);
            assert_eq!(address, TWO);
            let (more, address) = walk.refuse(now_ms + 1, TWO);
            changes.extend(more);
            assert_eq!(address, ONE, "the next round begins where this one did");
            let is_down = changes.iter().any(|change| matches!(change, Change::State(to) if !to.up));
            assert_eq!(is_down, round == walk.check.fall, "{round}: {changes:?}");
            assert!(walk.backend.counters.take_hint() || round > 0);
            now_ms += walk.check.fast_ms + 2;
        }
        let is_logged =
            |changes: Vec<Change>| changes.into_iter().any(|change| matches!(change, Change::Settled(_)));
        assert!(!is_logged(walk.poll(now_ms).0), "there is no address to log");
        // After a while without a refusal they are tried anew.
        let later_ms = now_ms + 2 * walk.check.interval_ms;
        assert!(!walk.backend.standing().may_move);
        walk.poll(later_ms);
        assert!(walk.backend.standing().may_move);
    }

    #[test]
    fn addresses_whose_hosts_do_not_answer_arp_are_tried_one_after_the_other() {
        let mut walk = Walk::new();
        walk.check.interval_ms = 1_000;
        let node = walk.backend.node().clone();
        walk.backend.update(node, walk.check);
        // Each takes three seconds to be reported.
        assert_eq!(walk.fail(3_000, ONE, SendError::NoNeighbor), (vec![Change::Route], TWO.to_owned()));
        walk.poll(5_000);
        let (changes, address) = walk.fail(6_000, TWO, SendError::NoNeighbor);
        assert!(matches!(changes.last(), Some(Change::State(change)) if !change.up), "{changes:?}");
        assert_eq!(address, ONE, "a round is over when each has been tried");
        let order = [ONE, TWO].map(|address| address.parse().unwrap()).to_vec();
        assert_eq!(walk.poll(7_000).1, Next::Reach(order));
        let two = TWO.parse().unwrap();
        assert!(walk.backend.reached_at(two) && !walk.backend.reached_at(two));
        assert_eq!(walk.backend.address(), Some(two), "metrics go to the one that answered");
    }

    #[test]
    fn two_remote_addresses_whose_refusals_share_the_rate_limit_of_icmp_are_found_to_refuse() {
        let mut walk = Walk::new();
        walk.check.interval_ms = 1_000;
        let node = walk.backend.node().clone();
        walk.backend.update(node, walk.check);
        let mut now_ms = 0;
        // Another backend at the same host gets every second answer.
        while walk.backend.with_health(|health| health.is_up()) && now_ms < 60_000 {
            now_ms += 2_100;
            let address = walk.backend.address().unwrap().to_string();
            walk.poll(now_ms);
            walk.refuse(now_ms, &address);
        }
        assert!(now_ms <= 4 * 2_100, "{now_ms} ms");
    }

    #[test]
    fn errors_that_come_while_none_can_be_reported_are_found_and_a_cause_comes_before_its_change() {
        let config = config(&["127.0.0.1:9"]);
        let backend = Backend::new(config.nodes[0].clone(), config.check);
        let mut schedule = CheckSchedule::new(1);
        let mut poll = |now_ms| {
            let mut found = Vec::new();
            let next = schedule.poll(&backend, config.check, now_ms, |change| {
                found.push(match change {
                    Change::SendErrors(errors) => format!("{:?}", errors.iter().collect::<Vec<_>>()),
                    Change::State(change) => format!("up: {}", change.up),
                    other => format!("{other:?}"),
                });
            });
            (found, next)
        };
        let fast_ms = config.check.fast_ms;
        assert!(backend.counters.failed(SendError::NotPermitted, None, 1));
        backend.note_send_errors(backend.address());
        assert_eq!(poll(10), (vec!["[(NotPermitted, 1)]".to_owned()], Next::Wait(Some(10 + fast_ms))));
        // These are not reported.
        let mut answers = SendErrorCounts::default();
        answers.add(SendError::NoNeighbor);
        assert!(!backend.counters.answered(&answers, 2));
        assert_eq!(poll(11).0, Vec::<String>::new());
        let found = poll(10 + fast_ms).0;
        let expected = ["[(NoNeighbor, 1)]", "up: false"].map(str::to_owned).to_vec();
        assert_eq!(found, expected);
        let address = "127.0.0.1:9".parse().unwrap();
        assert_eq!(poll(10 + fast_ms + config.check.interval_ms).1, Next::Reach(vec![address]));
    }

    #[test]
    fn it_is_checked_at_once_then_by_the_interval_and_early_after_a_refusal() {
        let config = config(&["127.0.0.1:9"]);
        let backend = Backend::new(config.nodes[0].clone(), config.check);
        let mut node = config.nodes[0].clone();
        node.adminport = Some(7);
        backend.update(node, config.check);
        let address = "127.0.0.1:7".parse().unwrap();
        let mut schedule = CheckSchedule::new(1);
        let mut poll = |now_ms| {
            schedule.poll(&backend, config.check, now_ms, |change| {
                assert!(matches!(change, Change::SendErrors(_)), "{change:?}");
            })
        };
        let never = |change| panic!("{change:?}");
        assert_eq!(poll(0), Next::Check(vec![address]));
        backend.with_health(|health| health.started(0));
        judge(&backend, &[(address, CheckResult::Good)], config.check, 1, never);
        let Next::Wait(Some(due_ms)) = poll(1) else { panic!("a check at once") };
        assert!(due_ms >= config.check.interval_ms * 9 / 10, "{due_ms}");
        assert!(backend.counters.failed(SendError::Refused, None, 1));
        backend.note_send_errors(backend.address());
        assert_eq!(poll(config.check.fast_ms * 2), Next::Check(vec![address]));
        let elsewhere = "127.0.0.1:8".parse().unwrap();
        judge(&backend, &[(elsewhere, CheckResult::Failed)], config.check, 3, never);
        backend.with_health(|health| assert!(health.is_up()));
        // It was good before.
        judge(&backend, &[(address, CheckResult::Failed)], config.check, 3, never);
    }

    #[test]
    fn a_check_that_could_not_be_made_is_no_evidence_and_is_repeated_soon() {
        let config = config(&["127.0.0.1:9"]);
        let mut node = config.nodes[0].clone();
        node.adminport = Some(7);
        let backend = Backend::new(node, config.check);
        let (address, other) = ("127.0.0.1:7".parse().unwrap(), "127.0.0.2:7".parse().unwrap());
        let mut schedule = CheckSchedule::new(1);
        let never = |change| panic!("{change:?}");
        let not_made = (address, CheckResult::NotMade);
        // It is unproven: one failure would take it down.
        for round in 0..u64::from(config.check.fall) + 2 {
            let now_ms = round * 2 * config.check.fast_ms;
            assert_eq!(schedule.poll(&backend, config.check, now_ms, never), Next::Check(vec![address]));
            backend.with_health(|health| health.started(now_ms));
            judge(&backend, &[not_made, (other, CheckResult::Failed)], config.check, now_ms, never);
        }
        let mut changes = Vec::new();
        let failed = [(address, CheckResult::Failed)];
        judge(&backend, &failed, config.check, 0, |change| changes.push(change));
        assert!(matches!(changes[..], [Change::State(transition)] if !transition.up), "{changes:?}");
    }
}
