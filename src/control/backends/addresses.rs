//! The addresses of one backend: which one its metrics are sent to, and in which order its checks try them. Pure.
//!
//! In: what look-ups found, refusals that the workers reported, results of checks. Out: the address in use, the order of a
//! check, whether all of them refuse. Next: `backend.rs` holds them, `check_schedule.rs` feeds them.
//!
//! - The address in use is kept while the name has it: a name server that rotates its answers moves nothing.
//! - One refusal moves the metrics to the next address. Only when each of them has refused within `checkFast` does the
//!   backend as a whole refuse, and then the metrics return to the first address of the round.
//! - Results of checks move the metrics too, after `checkFall` failures in a row at the address in use (at the first one if it
//!   never answered) if another address answers. Metrics and checks need not be at the same one: a StatsD server listens
//!   for metrics at IPv4 and has its admin port at both families.
//! - An address whose admin port is silent is not tried because of refusals: nothing would show that metrics are lost there.

use crate::admin::AddressRole;
use crate::config::AddressFamily;
use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;

/// Most addresses of one name that are used; further ones are ignored.
pub const ADDRESSES_MAX: usize = 8;
/// After this time a refusal of metrics has expired: servers are restarted.
const REFUSAL_MS: u64 = 600_000;

/// An address found by a lookup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// With the port for metrics.
    pub address: SocketAddr,
    /// This proxy listens there: metrics would loop.
    pub is_own: bool,
    /// On this host, with nothing listening on the port.
    pub is_idle: bool,
}

impl Found {
    /// One in unknown state.
    pub fn at(address: SocketAddr) -> Found {
        Found { address, is_own: false, is_idle: false }
    }
}

/// Result of checking one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckResult {
    /// Reported up.
    Good,
    /// Refused, or answered something else.
    Failed,
    /// No answer within the time limit.
    Silent,
    /// Not checked: this process or its host lacks resources.
    NotMade,
}

/// Why metrics are sent to another address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MoveCause {
    /// The old one refused them, or was unreachable.
    Refused,
    /// The old one does not answer checks, and the new one does.
    Checks,
}

/// Consequence of a refusal at the address in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Switch to another address, which has not refused.
    Moved,
    /// All of them refuse.
    All,
}

/// Consequence of the results of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The address in use stays in use.
    Kept,
    /// Keep it for now: it failed and another one answers, so check again soon.
    Contested,
    /// Switch to the one that answers.
    Moved,
}

/// One address and its state.
#[derive(Clone, Copy, Debug)]
struct Entry {
    found: Found,
    /// Consecutive failed checks.
    failures: u32,
    /// The last check timed out.
    is_silent: bool,
    /// The last check succeeded.
    is_good: bool,
    /// A check has succeeded before.
    was_good: bool,
    /// Another process used it.
    was_in_use: bool,
    /// When it last refused metrics.
    refused_ms: Option<u64>,
}

impl Entry {
    fn new(found: Found) -> Entry {
        Entry {
            found,
            failures: 0,
            is_silent: false,
            is_good: false,
            was_good: false,
            was_in_use: false,
            refused_ms: None,
        }
    }

    fn has_refused_within(&self, now_ms: u64, span_ms: u64) -> bool {
        self.refused_ms.is_some_and(|at_ms| now_ms.saturating_sub(at_ms) < span_ms)
    }
}

/// The addresses of one backend.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    /// In order of trial.
    entries: Vec<Entry>,
    family: AddressFamily,
    /// The address that metrics are sent to.
    data: Option<SocketAddr>,
    /// Where the last successful check was answered.
    answering: Option<SocketAddr>,
    /// All have refused, and none has recovered since.
    all_refuse: bool,
}

impl Addresses {
    /// None yet; metrics may be sent to those of this family.
    pub fn new(family: AddressFamily) -> Addresses {
        Addresses { family, ..Addresses::default() }
    }

    /// The address that metrics are sent to, if any.
    pub fn data(&self) -> Option<SocketAddr> {
        self.data
    }

    /// Where checks are answered, with the port for metrics.
    pub fn answering(&self) -> Option<SocketAddr> {
        self.answering
    }

    /// All of them, in order of trial.
    pub fn all(&self) -> impl Iterator<Item = SocketAddr> {
        self.entries.iter().map(|entry| entry.found.address)
    }

    /// Those at which this proxy itself listens.
    pub fn own(&self) -> impl Iterator<Item = SocketAddr> {
        self.entries.iter().filter(|entry| entry.found.is_own).map(|entry| entry.found.address)
    }

    /// Each with the part that it has, in the order in which they should be tried.
    pub fn roles(&self, now_ms: u64) -> impl Iterator<Item = (SocketAddr, AddressRole)> {
        self.entries.iter().map(move |entry| {
            let address = entry.found.address;
            let role = match () {
                _ if entry.found.is_own => AddressRole::Own,
                _ if !self.family.allows(address) => AddressRole::OtherFamily,
                _ if Some(address) == self.data && self.all_refuse => AddressRole::Refuses,
                _ if Some(address) == self.data => AddressRole::InUse,
                _ if entry.has_refused_within(now_ms, REFUSAL_MS) => AddressRole::Refused,
                _ => AddressRole::Spare,
            };
            (address, role)
        })
    }

    /// Whether a refusal would switch to another address.
    pub fn may_move(&self) -> bool {
        !self.all_refuse && self.others().next().is_some()
    }

    /// Whether all of them refuse.
    pub fn do_all_refuse(&self) -> bool {
        self.all_refuse
    }

    /// Applies the result of a lookup, in order of trial. True if the address in use changed.
    pub fn set(&mut self, mut found: Vec<Found>) -> bool {
        let mut seen = HashSet::new();
        found.retain(|found| seen.insert(found.address));
        if found.len() > ADDRESSES_MAX {
            found.sort_by_key(|found| (Some(found.address) != self.data, !self.is_usable(found)));
            found.truncate(ADDRESSES_MAX);
        }
        let known = |found: Found| match self.entry(found.address) {
            Some(entry) => Entry { found, ..*entry },
            None => Entry::new(found),
        };
        self.entries = found.into_iter().map(known).collect();
        self.answering = self.answering.filter(|address| self.entry(*address).is_some());
        self.choose()
    }

    /// Restores the state of another process: these addresses, and this one in use.
    pub fn resume(&mut self, all: &[SocketAddr], data: Option<SocketAddr>) {
        self.data = data;
        self.set(all.iter().copied().map(Found::at).collect());
        // One bad check after a restart must not move what the old process had at an address that answers.
        if let Some(entry) = data.and_then(|data| self.entry_mut(data)) {
            entry.was_in_use = true;
        }
    }

    /// Changes the permitted family. True if the address in use changed.
    pub fn set_family(&mut self, family: AddressFamily) -> bool {
        self.family = family;
        self.choose()
    }

    /// Redetermines which of them are this proxy's own; unknown ones keep their state. True if the address in use changed.
    pub fn mark_own(&mut self, is_own: impl Fn(SocketAddr) -> io::Result<bool>) -> bool {
        for entry in &mut self.entries {
            if let Ok(is_own) = is_own(entry.found.address) {
                entry.found.is_own = is_own;
            }
        }
        self.choose()
    }

    /// Metrics were refused at the address in use. `recent_ms`: one that refused more recently than this is not tried.
    pub fn refused(&mut self, now_ms: u64, recent_ms: u64) -> Refusal {
        let Some(data) = self.data else { return Refusal::All };
        if let Some(entry) = self.entry_mut(data) {
            entry.refused_ms = Some(now_ms);
        }
        let fresh = self.others().filter(|entry| !entry.has_refused_within(now_ms, recent_ms));
        if let Some(next) = fresh.min_by_key(|entry| rank(entry)) {
            self.data = Some(next.found.address);
            return Refusal::Moved;
        }
        // A server that is being restarted comes back at the first address of the round.
        let first = self.others().min_by_key(|entry| entry.refused_ms).map(|entry| entry.found.address);
        self.data = first.or(Some(data));
        self.all_refuse = true;
        Refusal::All
    }

    /// Time passed: if none has refused for `quiet_ms`, they no longer all refuse. True if that changed.
    pub fn settle(&mut self, now_ms: u64, quiet_ms: u64) -> bool {
        let is_over =
            self.all_refuse && !self.entries.iter().any(|entry| entry.has_refused_within(now_ms, quiet_ms));
        self.all_refuse &= !is_over;
        is_over
    }

    /// When to call [`Addresses::settle`].
    pub fn settles_ms(&self, quiet_ms: u64) -> Option<u64> {
        let last_ms = self.entries.iter().filter_map(|entry| entry.refused_ms).max()?;
        self.all_refuse.then(|| last_ms.saturating_add(quiet_ms))
    }

    /// The order in which a check tries them, with the port for metrics; empty if there is no usable address.
    pub fn check_order(&self) -> Vec<SocketAddr> {
        let mut order: Vec<&Entry> = self.entries.iter().filter(|entry| !entry.found.is_own).collect();
        order.sort_by_key(|entry| {
            let address = Some(entry.found.address);
            (address != self.data, address != self.answering, rank(entry))
        });
        if self.data.is_some() { order.iter().map(|entry| entry.found.address).collect() } else { Vec::new() }
    }

    /// The order in which reachability is probed: those that metrics may be sent to, the one in use first.
    pub fn reach_order(&self) -> Vec<SocketAddr> {
        let mut order: Vec<&Entry> = self.usable().collect();
        order.sort_by_key(|entry| (Some(entry.found.address) != self.data, rank(entry)));
        order.iter().map(|entry| entry.found.address).collect()
    }

    /// One of them is reachable again: switch to it.
    pub fn reached(&mut self, address: SocketAddr) {
        if self.usable().any(|entry| entry.found.address == address) {
            self.data = Some(address);
            self.all_refuse = false;
        }
    }

    /// Applies the results of a check at the addresses that it tried. `fall` consecutive failures switch away from an address that
    /// had answered; one that refused metrics less than `quiet_ms` ago is not moved to.
    pub fn checked(
        &mut self,
        results: &[(SocketAddr, CheckResult)],
        fall: u32,
        now_ms: u64,
        quiet_ms: u64,
    ) -> Verdict {
        for (address, result) in results {
            let Some(entry) = self.entry_mut(*address) else { continue };
            let is_good = *result == CheckResult::Good;
            entry.failures = if is_good { 0 } else { entry.failures.saturating_add(1) };
            entry.is_silent = *result == CheckResult::Silent;
            (entry.is_good, entry.was_good) = (is_good, entry.was_good || is_good);
        }
        let is_good = |address: &SocketAddr| results.contains(&(*address, CheckResult::Good));
        let answering = self.check_order().into_iter().find(is_good);
        self.answering = answering.or(self.answering);
        let Some(data) = self.data.and_then(|data| self.entry(data)).copied() else { return Verdict::Kept };
        if data.failures == 0 {
            return Verdict::Kept;
        }
        // Where something answers, a refusal would tell that metrics are lost: then it stays unless the other is as good. One
        // that never answered that it is up may be where only the port for metrics is.
        let may_go = |entry: &&Entry| match (data.is_silent, data.was_good) {
            (true, _) => !entry.has_refused_within(now_ms, quiet_ms),
            (false, true) => !entry.has_refused_within(now_ms, REFUSAL_MS),
            (false, false) => entry.refused_ms.is_none(),
        };
        let best = self
            .usable()
            .filter(|entry| is_good(&entry.found.address))
            .filter(may_go)
            .min_by_key(|entry| rank(entry));
        match best.map(|entry| entry.found.address) {
            None => Verdict::Kept,
            Some(_) if (data.was_good || data.was_in_use) && data.failures < fall => Verdict::Contested,
            Some(address) => {
                self.data = Some(address);
                Verdict::Moved
            }
        }
    }

    /// Keeps the address in use if still permitted, or takes the first of the others.
    fn choose(&mut self) -> bool {
        let before = self.data;
        let is_kept =
            before.and_then(|data| self.entry(data)).is_some_and(|entry| self.is_usable(&entry.found));
        if !is_kept {
            self.data = self.usable().min_by_key(|entry| rank(entry)).map(|entry| entry.found.address);
            self.all_refuse = false;
        }
        self.data != before
    }

    /// Candidates if the address in use refuses.
    fn others(&self) -> impl Iterator<Item = &Entry> {
        let any_is_good = self.entries.iter().any(|entry| entry.is_good);
        let others = self.usable().filter(|entry| Some(entry.found.address) != self.data);
        others.filter(move |entry| !(entry.is_silent && any_is_good))
    }

    fn usable(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(|entry| self.is_usable(&entry.found))
    }

    fn is_usable(&self, found: &Found) -> bool {
        !found.is_own && self.family.allows(found.address)
    }

    fn entry(&self, address: SocketAddr) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.found.address == address)
    }

    fn entry_mut(&mut self, address: SocketAddr) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|entry| entry.found.address == address)
    }
}

/// Lower is preferred; equal ones in their order.
fn rank(entry: &Entry) -> (u8, bool) {
    let by_checks = match (entry.is_good, entry.failures) {
        (true, _) => 0,
        (false, 0) => 1,
        (false, _) => 2,
    };
    (by_checks, entry.found.is_idle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FALL: u32 = 3;
    const RECENT_MS: u64 = 1_000;
    const QUIET_MS: u64 = 10_000;
    const V4: &str = "127.0.0.1:9";
    const V6: &str = "[::1]:9";

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn found(texts: &[&str]) -> Vec<Found> {
        texts.iter().map(|text| Found::at(at(text))).collect()
    }

    fn addresses(texts: &[&str]) -> Addresses {
        let mut addresses = Addresses::new(AddressFamily::Any);
        assert!(addresses.set(found(texts)));
        addresses
    }

    fn check(addresses: &mut Addresses, results: &[(&str, CheckResult)]) -> Verdict {
        let results: Vec<_> = results.iter().map(|(text, result)| (at(text), *result)).collect();
        addresses.checked(&results, FALL, 0, QUIET_MS)
    }

    #[test]
    fn the_first_is_used_and_kept_as_long_as_the_name_has_it() {
        let mut addresses = addresses(&[V4, V6]);
        assert_eq!((addresses.data(), addresses.may_move()), (Some(at(V4)), true));
        assert!(!addresses.set(found(&[V6, V4])), "rotated answers move nothing");
        assert!(!addresses.set(found(&[V4])) && !addresses.may_move());
        assert!(addresses.set(found(&[V6])));
        assert_eq!(addresses.data(), Some(at(V6)));
        assert!(addresses.set(Vec::new()) && addresses.check_order().is_empty());
    }

    #[test]
    fn what_may_not_be_used_is_not() {
        let mut addresses = Addresses::new(AddressFamily::Ipv6);
        addresses.set(found(&[V4, V6]));
        assert_eq!((addresses.data(), addresses.may_move()), (Some(at(V6)), false));
        assert_eq!(addresses.check_order(), [at(V6), at(V4)], "checks may go to either family");
        assert!(addresses.set_family(AddressFamily::Any) || addresses.may_move());
        assert!(addresses.mark_own(|address| Ok(address.is_ipv6())));
        assert_eq!((addresses.data(), addresses.own().collect::<Vec<_>>()), (Some(at(V4)), vec![at(V6)]));
        assert_eq!(addresses.check_order(), [at(V4)]);
        assert!(addresses.mark_own(|_| Ok(true)));
        assert_eq!((addresses.data(), addresses.check_order()), (None, Vec::new()));
        assert!(
            !addresses.mark_own(|_| Err(io::Error::other("no descriptor"))),
            "what is unknown changes nothing"
        );
        assert_eq!(addresses.data(), None);
        addresses.set_family(AddressFamily::Ipv4);
        assert_eq!(addresses.data(), None);
    }

    #[test]
    fn an_address_without_a_listener_comes_last() {
        let mut addresses = Addresses::new(AddressFamily::Any);
        let idle = Found { is_idle: true, ..Found::at(at(V4)) };
        addresses.set(vec![idle, Found::at(at(V6))]);
        assert_eq!(addresses.data(), Some(at(V6)));
    }

    #[test]
    fn a_refusal_moves_metrics_on_and_all_refuse_only_when_each_has() {
        let mut addresses = addresses(&["10.0.0.1:9", "10.0.0.2:9", "10.0.0.3:9"]);
        assert_eq!(addresses.refused(5_000, RECENT_MS), Refusal::Moved);
        assert_eq!(addresses.data(), Some(at("10.0.0.2:9")));
        assert_eq!(addresses.refused(5_001, RECENT_MS), Refusal::Moved);
        assert!(addresses.may_move() && !addresses.do_all_refuse());
        assert_eq!(addresses.refused(5_002, RECENT_MS), Refusal::All);
        assert_eq!(addresses.data(), Some(at("10.0.0.1:9")), "back where the round began");
        assert!(!addresses.may_move() && addresses.do_all_refuse());
        // The next round, a while later, tries each of them again.
        assert_eq!(addresses.refused(6_005, RECENT_MS), Refusal::Moved);
        assert_eq!(addresses.refused(6_006, RECENT_MS), Refusal::Moved);
        assert!(!addresses.may_move(), "until one is found that does not refuse");
        assert_eq!(addresses.settles_ms(QUIET_MS), Some(16_006));
        assert!(!addresses.settle(16_005, QUIET_MS));
        assert!(addresses.settle(16_006, QUIET_MS) && addresses.may_move());
        assert_eq!((addresses.data(), addresses.settles_ms(QUIET_MS)), (Some(at("10.0.0.3:9")), None));
    }

    #[test]
    fn the_only_one_refuses_for_all() {
        let mut addresses = addresses(&[V4]);
        assert_eq!(addresses.refused(1, RECENT_MS), Refusal::All);
        assert_eq!(addresses.data(), Some(at(V4)));
        assert_eq!(Addresses::default().refused(1, RECENT_MS), Refusal::All);
    }

    #[test]
    fn a_first_address_that_never_answered_is_left_at_once_and_one_that_did_after_failures_in_a_row() {
        use CheckResult::{Good, Silent};
        let mut fresh = addresses(&["10.0.0.1:9", "10.0.0.2:9"]);
        assert_eq!(check(&mut fresh, &[("10.0.0.1:9", Silent), ("10.0.0.2:9", Good)]), Verdict::Moved);
        assert_eq!((fresh.data(), fresh.answering()), (Some(at("10.0.0.2:9")), Some(at("10.0.0.2:9"))));
        let mut proven = addresses(&["10.0.0.1:9", "10.0.0.2:9"]);
        assert_eq!(check(&mut proven, &[("10.0.0.1:9", Good)]), Verdict::Kept);
        let bad = [("10.0.0.1:9", Silent), ("10.0.0.2:9", Good)];
        for _ in 1..FALL {
            assert_eq!(check(&mut proven, &bad), Verdict::Contested);
        }
        assert_eq!(check(&mut proven, &bad), Verdict::Moved);
        assert_eq!(proven.data(), Some(at("10.0.0.2:9")));
        // None answers: no address is better.
        let none = [("10.0.0.2:9", Silent), ("10.0.0.1:9", Silent)];
        assert_eq!(check(&mut addresses(&["10.0.0.1:9", "10.0.0.2:9"]), &none), Verdict::Kept);
    }

    #[test]
    fn metrics_and_checks_may_need_different_addresses() {
        use CheckResult::{Failed, Good};
        let mut addresses = addresses(&[V4, V6]);
        // Its admin port is at IPv6 only ...
        assert_eq!(check(&mut addresses, &[(V4, Failed), (V6, Good)]), Verdict::Moved);
        // ... and its port for metrics at IPv4 only.
        assert_eq!(addresses.refused(1_000, RECENT_MS), Refusal::Moved);
        for _ in 0..2 * FALL {
            assert_eq!(check(&mut addresses, &[(V4, Failed), (V6, Good)]), Verdict::Kept);
        }
        assert_eq!((addresses.data(), addresses.answering()), (Some(at(V4)), Some(at(V6))));
        assert_eq!(addresses.check_order(), [at(V4), at(V6)]);
    }

    #[test]
    fn a_refusal_of_long_ago_keeps_metrics_from_no_address_that_answers() {
        use CheckResult::{Failed, Good};
        let mut addresses = addresses(&["10.0.0.1:9", "10.0.0.2:9"]);
        check(&mut addresses, &[("10.0.0.1:9", Good)]);
        // A restart of the first moved them to the second.
        assert_eq!(addresses.refused(1_000, RECENT_MS), Refusal::Moved);
        check(&mut addresses, &[("10.0.0.2:9", Good)]);
        let mut check_at = |now_ms| {
            let answers = [("10.0.0.2:9", Failed), ("10.0.0.1:9", Good)];
            let results = answers.map(|(text, result)| (at(text), result));
            addresses.checked(&results, FALL, now_ms, QUIET_MS)
        };
        // Then the second says that it is down, and goes on taking what it is sent.
        let verdicts = [2_000, 3_000, 4_000].map(&mut check_at);
        assert_eq!(verdicts, [Verdict::Kept; 3], "the first has just refused");
        let later_ms = 1_000 + REFUSAL_MS;
        assert_eq!(check_at(later_ms - 1), Verdict::Kept);
        assert_eq!(check_at(later_ms), Verdict::Moved);
        assert_eq!(addresses.data(), Some(at("10.0.0.1:9")));
        let role = |addresses: &Addresses, now_ms| addresses.roles(now_ms).nth(1).unwrap().1;
        addresses.refused(later_ms, RECENT_MS);
        addresses.refused(later_ms + 1, RECENT_MS);
        assert_eq!(role(&addresses, later_ms + 1), AddressRole::Refused);
        assert_eq!(role(&addresses, later_ms + 1 + REFUSAL_MS), AddressRole::Spare);
    }

    #[test]
    fn refusals_do_not_move_metrics_to_where_a_loss_would_be_invisible() {
        use CheckResult::{Good, Silent};
        let mut addresses = addresses(&["10.0.0.1:9", "10.0.0.2:9"]);
        check(&mut addresses, &[("10.0.0.1:9", Silent), ("10.0.0.2:9", Good)]);
        assert!(!addresses.may_move());
        assert_eq!(addresses.refused(1_000, RECENT_MS), Refusal::All);
        assert_eq!(addresses.data(), Some(at("10.0.0.2:9")));
    }

    #[test]
    fn a_new_process_continues_with_the_old_ones_address() {
        use CheckResult::{Failed, Good};
        let mut addresses = Addresses::new(AddressFamily::Any);
        addresses.resume(&[at(V4), at(V6)], Some(at(V6)));
        assert_eq!(addresses.data(), Some(at(V6)));
        assert_eq!(check(&mut addresses, &[(V6, Failed), (V4, Good)]), Verdict::Contested);
    }

    #[test]
    fn a_name_with_very_many_addresses_keeps_those_that_are_of_use() {
        let mut addresses = addresses(&["[2001:db8::99]:9"]);
        let mut many: Vec<Found> =
            (0..20).map(|last| Found::at(SocketAddr::from(([10, 0, 0, last], 9)))).collect();
        many.push(Found::at(at("[2001:db8::99]:9")));
        many[0].is_own = true;
        assert!(!addresses.set(many));
        assert_eq!(addresses.all().count(), ADDRESSES_MAX);
        assert!(addresses.all().all(|address| address != at("10.0.0.0:9")));
    }

    #[derive(Clone, Debug)]
    enum Event {
        Refused,
        Checked(Vec<CheckResult>),
        Found(Vec<u8>, u8),
        Settle,
    }

    fn events() -> impl Strategy<Value = Vec<(u64, Event)>> {
        let result =
            prop_oneof![Just(CheckResult::Good), Just(CheckResult::Failed), Just(CheckResult::Silent)];
        let event = prop_oneof![
            4 => Just(Event::Refused),
            3 => prop::collection::vec(result, 1..5).prop_map(Event::Checked),
            1 => (prop::collection::vec(0u8..6, 0..6), 0u8..8).prop_map(|(found, own)| Event::Found(found, own)),
            1 => Just(Event::Settle),
        ];
        prop::collection::vec((prop_oneof![0u64..5, 900u64..1_200, 9_000u64..30_000], event), 1..80)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1_000))]

        /// Metrics go to an address of the name that may be used, if there is one; refusals in quick succession try each of
        /// those that would tell of a loss, and then say that all refuse.
        #[test]
        fn metrics_always_have_an_address_and_refusals_try_each(events in events()) {
            let mut addresses = addresses(&["10.0.0.1:9"]);
            let mut now_ms = 100_000;
            for (wait_ms, event) in events {
                now_ms += wait_ms;
                let before = addresses.data();
                match event {
                    Event::Refused => {
                        let mut tried = HashSet::new();
                        let span_ms = now_ms;
                        while addresses.refused(now_ms, RECENT_MS) == Refusal::Moved {
                            prop_assert!(tried.insert(addresses.data()), "tried twice in one round");
                            now_ms += 1;
                        }
                        prop_assert!(now_ms - span_ms <= ADDRESSES_MAX as u64);
                        let others = addresses.others().map(|entry| entry.refused_ms).collect::<Vec<_>>();
                        prop_assert!(others.iter().all(|at_ms| at_ms.is_some_and(|at_ms| now_ms - at_ms < RECENT_MS)));
                        prop_assert_eq!(addresses.do_all_refuse() || before.is_none(), true);
                    }
                    Event::Checked(results) => {
                        let order = addresses.check_order();
                        let results: Vec<_> = order.iter().copied().zip(results).collect();
                        let verdict = addresses.checked(&results, FALL, now_ms, QUIET_MS);
                        prop_assert_eq!(verdict == Verdict::Moved, addresses.data() != before);
                        if verdict == Verdict::Moved {
                            let new = addresses.data().unwrap();
                            prop_assert!(results.contains(&(new, CheckResult::Good)));
                        }
                    }
                    Event::Found(found, own) => {
                        let found: Vec<Found> = found
                            .into_iter()
                            .map(|last| Found {
                                is_own: last == own,
                                ..Found::at(SocketAddr::from(([10, 0, 0, last], 9)))
                            })
                            .collect();
                        addresses.set(found);
                    }
                    Event::Settle => {
                        addresses.settle(now_ms, QUIET_MS);
                    }
                }
                let data = addresses.data();
                prop_assert_eq!(data.is_some(), addresses.usable().next().is_some());
                prop_assert!(data.is_none_or(|data| addresses.usable().any(|entry| entry.found.address == data)));
                prop_assert!(addresses.own().all(|address| Some(address) != data));
                prop_assert!(addresses.check_order().first().copied() == data);
            }
        }
    }
}
