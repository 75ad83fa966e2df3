//! One backend in the control thread, from its addition by a config until its removal by a reload.
//!
//! In: the config's node, checks, refusals, name look-ups. Out: its standing for the route table, its state for the
//! admin port. Next: `health_checker.rs` keeps it up to date, `table.rs` makes the route table of all of them.

use crate::admin::{AdminState, BackendState, error_meaning, error_name};
use crate::config::{AddressFamily, Check, Node};
use crate::control::backends::addresses::{Addresses, CheckResult, Found, MoveCause, Refusal, Verdict};
use crate::control::backends::health::{Health, Outcome, Transition};
use crate::control::backends::resolve::literal;
use crate::control::backends::table::Standing;
use crate::control::lifecycle::handover::message::CarriedBackend;
use crate::driver::socket::{source_of, with_port};
use crate::packet::{SendError, SendErrorCounts};
use crate::stats::NodeCounters;
use std::cell::{Cell, Ref, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// One backend; it lives on the control thread.
pub struct Backend {
    /// Its identity.
    pub name: Arc<str>,
    /// Its figures, which the workers count.
    pub counters: Arc<NodeCounters>,
    /// Wakes the task that checks it: after a refusal, a change, or its removal.
    pub nudge: Notify,
    /// Wakes the task that looks up its name.
    pub look_up: Notify,
    node: RefCell<Node>,
    health: RefCell<Health>,
    addresses: RefCell<Addresses>,
    /// The address in use that was logged last.
    announced: Cell<Option<SocketAddr>>,
    /// The addresses of the proxy's own that were logged.
    reported_own: RefCell<Vec<SocketAddr>>,
    /// Whether it was logged that its name has no address of the family.
    is_family_reported: Cell<bool>,
    /// An address of it, and that of this host which the kernel chose for packets to it when it was asked last; `None` if there
    /// was no answer yet.
    source: Cell<Option<(SocketAddr, Option<IpAddr>)>>,
    state: Cell<BackendState>,
    since: Cell<Instant>,
    admin_state: Cell<AdminState>,
    /// A worker reported that sends fail.
    sends_fail: Cell<bool>,
    /// The send errors already processed.
    seen_errors: Cell<SendErrorCounts>,
    /// Of those, the errors at addresses no longer in use.
    passed_over: Cell<SendErrorCounts>,
    removed: Cell<bool>,
}

impl Backend {
    /// A new backend; its address is known at once if the config has one.
    pub fn new(node: Node, check: Check) -> Backend {
        let addresses = addresses_of(&node);
        let backend = Backend {
            name: node.name.clone(),
            counters: Arc::default(),
            nudge: Notify::new(),
            look_up: Notify::new(),
            health: RefCell::new(Health::new(check, node.adminport.is_some())),
            node: RefCell::new(node),
            announced: Cell::new(addresses.data()),
            addresses: RefCell::new(addresses),
            reported_own: RefCell::default(),
            is_family_reported: Cell::new(false),
            source: Cell::new(None),
            state: Cell::new(BackendState::Up),
            since: Cell::new(Instant::now()),
            admin_state: Cell::new(AdminState::Up),
            sends_fail: Cell::new(false),
            seen_errors: Cell::default(),
            passed_over: Cell::default(),
            removed: Cell::new(false),
        };
        backend.note_state();
        backend
    }

    /// Its part of the config.
    pub fn node(&self) -> Ref<'_, Node> {
        self.node.borrow()
    }

    /// The address that its metrics are sent to, if known.
    pub fn address(&self) -> Option<SocketAddr> {
        self.addresses.borrow().data()
    }

    /// Its addresses.
    pub fn addresses(&self) -> Ref<'_, Addresses> {
        self.addresses.borrow()
    }

    /// Whether its host is a name, which has to be looked up.
    pub fn is_named(&self) -> bool {
        literal(&self.node.borrow().host).is_none()
    }

    /// Where its host is probed while unreachable: without admin port, at the number of the port for metrics. None if it
    /// cannot be probed now.
    pub fn reach_order(&self) -> Vec<SocketAddr> {
        let node = self.node.borrow();
        let may_be_tried = node.adminport.is_none() && !node.disabled;
        if may_be_tried { self.addresses.borrow().reach_order() } else { Vec::new() }
    }

    /// The admin ports to check, in order of trial; none if it cannot be checked now.
    pub fn check_order(&self) -> Vec<SocketAddr> {
        let node = self.node.borrow();
        let Some(port) = node.adminport.filter(|_| !node.disabled) else { return Vec::new() };
        let order = self.addresses.borrow().check_order();
        order.into_iter().map(|address| with_port(address, port)).collect()
    }

    /// Whether it can be checked now.
    pub fn is_checked(&self) -> bool {
        let node = self.node.borrow();
        node.adminport.is_some() && !node.disabled && self.address().is_some()
    }

    /// The admin port that answered last.
    pub fn answering(&self) -> Option<SocketAddr> {
        let port = self.node.borrow().adminport?;
        Some(with_port(self.addresses.borrow().answering()?, port))
    }

    /// For the route table.
    pub fn standing(&self) -> Standing {
        Standing {
            name: self.name.clone(),
            address: self.address(),
            may_move: self.addresses.borrow().may_move(),
            source: self.source(),
            counters: self.counters.clone(),
            gso: self.node.borrow().gso_mode(),
            disabled: self.node.borrow().disabled,
            up: self.health.borrow().is_up(),
            admin_state: self.admin_state.get(),
        }
    }

    /// Result of its health checks; `None` if it is not checked.
    pub fn is_healthy(&self) -> Option<bool> {
        self.is_checked().then(|| self.health.borrow().is_up())
    }

    /// Its administrative state.
    pub fn admin_state(&self) -> AdminState {
        self.admin_state.get()
    }

    /// Sets its administrative state. True if that changed anything.
    pub fn set_admin_state(&self, admin_state: AdminState) -> bool {
        let is_changed = self.admin_state.replace(admin_state) != admin_state;
        self.note_state();
        is_changed
    }

    /// Its state, and since when.
    pub fn state(&self) -> (BackendState, Instant) {
        (self.state.get(), self.since.get())
    }

    /// Reads or changes its health.
    pub fn with_health<T>(&self, act: impl FnOnce(&mut Health) -> T) -> T {
        let result = act(&mut self.health.borrow_mut());
        self.note_state();
        result
    }

    /// Applies the result of a lookup of its name, in order of trial. True if that changed anything
    /// for the workers.
    pub fn set_addresses(&self, found: Vec<Found>) -> bool {
        self.change_addresses(|addresses| addresses.set(found))
    }

    /// Redetermines at which of its addresses this proxy itself listens. True if that changed anything for the workers.
    pub fn mark_own(&self, is_own: impl Fn(SocketAddr) -> io::Result<bool>) -> bool {
        self.change_addresses(|addresses| addresses.mark_own(is_own))
    }

    /// Those of its addresses that are the proxy's own and were not returned before.
    pub fn take_new_own(&self) -> Vec<SocketAddr> {
        let own: Vec<SocketAddr> = self.addresses.borrow().own().collect();
        let reported = self.reported_own.replace(own.clone());
        own.into_iter().filter(|address| !reported.contains(address)).collect()
    }

    /// Whether its name has addresses, but none of the permitted family; true once.
    pub fn note_family_missing(&self) -> bool {
        let addresses = self.addresses.borrow();
        let is_missing = addresses.data().is_none()
            && addresses.own().next().is_none()
            && addresses.all().next().is_some();
        !self.is_family_reported.replace(is_missing) && is_missing
    }

    fn change_addresses(&self, change: impl FnOnce(&mut Addresses) -> bool) -> bool {
        let (has_moved, has_changed) = self.with_addresses(change);
        self.note_state();
        if has_moved {
            self.announced.set(self.address());
            // The refusals came from the old address; another server may answer at the new one.
            self.sends_fail.set(false);
            self.pass_over_errors();
            self.with_health(Health::doubt);
            self.nudge.notify_one();
        }
        has_changed
    }

    /// The result of `act`, and whether it changed anything for the workers.
    fn with_addresses<T>(&self, act: impl FnOnce(&mut Addresses) -> T) -> (T, bool) {
        let route = || {
            let addresses = self.addresses.borrow();
            (addresses.data(), addresses.may_move())
        };
        let before = route();
        let result = act(&mut self.addresses.borrow_mut());
        (result, route() != before)
    }

    /// A refusal at the address in use, or a report that it cannot be reached, and whether that changed anything for the
    /// workers. An address that refused less than `recent_ms` ago, or less long than it takes to try all of them, is not tried
    /// again.
    pub fn refused(&self, now_ms: u64, recent_ms: u64) -> (Refusal, bool) {
        let count = self.addresses.borrow().all().count() as u64;
        let recent_ms = self.health.borrow().report_ms().saturating_mul(count).max(recent_ms);
        self.with_addresses(|addresses| addresses.refused(now_ms, recent_ms))
    }

    /// Its host, which was unreachable, answered at this address. True if another one was in use so far.
    pub fn reached_at(&self, address: SocketAddr) -> bool {
        self.with_addresses(|addresses| addresses.reached(address)).1
    }

    /// Time passed: whether that changed anything for the workers.
    pub fn settle_addresses(&self, now_ms: u64) -> bool {
        let quiet_ms = self.health.borrow().quiet_ms();
        self.with_addresses(|addresses| addresses.settle(now_ms, quiet_ms)).1
    }

    /// When to call [`Backend::settle_addresses`].
    pub fn addresses_settle_ms(&self) -> Option<u64> {
        self.addresses.borrow().settles_ms(self.health.borrow().quiet_ms())
    }

    /// Applies the results of a check at the admin ports that it tried; `None` if none of them is its own any more, or if the only one that
    /// might be up could not be asked. `fall` is the number of failures in a row that count.
    pub fn checked(
        &self,
        results: &[(SocketAddr, CheckResult)],
        fall: u32,
        now_ms: u64,
    ) -> Option<(Outcome, Verdict)> {
        let order = self.check_order();
        let port = self.node.borrow().port;
        let known = results.iter().filter(|(address, _)| order.contains(address));
        let mut known: Vec<_> = known.map(|(address, result)| (with_port(*address, port), *result)).collect();
        let asked = known.len();
        known.retain(|(_, result)| *result != CheckResult::NotMade);
        let any_is_good = known.iter().any(|(_, result)| *result == CheckResult::Good);
        if known.is_empty() || (known.len() < asked && !any_is_good) {
            return None;
        }
        let outcome = if any_is_good { Outcome::Good } else { Outcome::Failed };
        let quiet_ms = self.health.borrow().quiet_ms();
        Some((outcome, self.addresses.borrow_mut().checked(&known, fall, now_ms, quiet_ms)))
    }

    /// The move to the address in use, if it was not logged yet and is not one of a round in which all refuse.
    pub fn announce(&self, cause: MoveCause) -> Option<Move> {
        let to = self.address().filter(|_| !self.addresses.borrow().do_all_refuse())?;
        let from = self.announced.replace(Some(to)).filter(|from| *from != to)?;
        Some(Move { from, to, cause })
    }

    /// The address of this host that packets to it come from, as the kernel's routing chose it last.
    pub fn source(&self) -> Option<IpAddr> {
        let address = self.address();
        self.source.get().filter(|(of, _)| Some(*of) == address)?.1
    }

    /// Whether the kernel was asked for that since its metrics go to the address in use.
    pub fn is_source_asked(&self) -> bool {
        self.source.get().map(|(of, _)| of) == self.address()
    }

    /// Asks the kernel from which address of this host packets to it would come now; the one before, if one was known, and this
    /// one, if they differ. Without a route to it, or a descriptor to ask by, nothing is known, and the last answer counts.
    pub fn ask_source(&self) -> Option<(Option<IpAddr>, IpAddr)> {
        let address = self.address()?;
        let before = self.source();
        let now = source_of(address).ok();
        self.source.set(Some((address, now.or(before))));
        now.filter(|now| before != Some(*now)).map(|now| (before, now))
    }

    /// A reload's node of the same identity.
    pub fn update(&self, node: Node, check: Check) {
        let old = self.node.replace(node);
        let (adminport, disabled, family) = {
            let new = self.node.borrow();
            (new.adminport, new.disabled, new.family)
        };
        if old.family != family && self.is_named() {
            self.change_addresses(|addresses| addresses.set_family(family));
            self.look_up.notify_one();
        }
        self.with_health(|health| {
            health.set_rules(check, adminport.is_some());
            if old.disabled && !disabled {
                // It was not checked meanwhile: its state is unknown.
                *health = Health::new(check, adminport.is_some());
            } else if old.adminport != adminport {
                health.doubt();
            }
        });
        self.nudge.notify_one();
    }

    /// The state to hand over.
    pub fn carry(&self, now_ms: u64) -> CarriedBackend {
        CarriedBackend {
            name: self.name.to_string(),
            address: self.address(),
            addresses: self.addresses.borrow().all().collect(),
            health: Some(self.health.borrow().carry(now_ms)),
            admin_state: self.admin_state.get(),
            since_ms: u64::try_from(self.since.get().elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Restores the state handed over, as far as the config is the same.
    pub fn resume(&self, carried: &CarriedBackend, check: Check, now_ms: u64) {
        if self.is_named() {
            // An older version has only one.
            let only: Vec<SocketAddr> = carried.address.into_iter().collect();
            let all = if carried.addresses.is_empty() { &only } else { &carried.addresses };
            self.addresses.borrow_mut().resume(all, carried.address);
            self.announced.set(self.address());
        }
        if let Some(health) = &carried.health {
            let has_adminport = self.node.borrow().adminport.is_some();
            *self.health.borrow_mut() = Health::resume(check, has_adminport, health, now_ms);
        }
        self.admin_state.set(carried.admin_state);
        self.note_state();
        let since = Instant::now().checked_sub(Duration::from_millis(carried.since_ms));
        self.since.set(since.unwrap_or_else(Instant::now));
        self.nudge.notify_one();
    }

    /// A worker reported that sends to it at this address fail.
    pub fn note_send_errors(&self, at: Option<SocketAddr>) {
        if at == self.address() {
            self.sends_fail.set(true);
        } else {
            // Its metrics are already sent elsewhere: these errors do not concern the address in use; the next one may.
            self.counters.take_hint();
            self.pass_over_errors();
        }
        self.nudge.notify_one();
    }

    /// Whether a worker reported that since the last call.
    pub fn take_send_report(&self) -> bool {
        self.sends_fail.replace(false)
    }

    /// Errors at addresses no longer in use, since the last call.
    pub fn take_passed_over(&self) -> SendErrorCounts {
        self.passed_over.take()
    }

    fn pass_over_errors(&self) {
        let mut errors = self.passed_over.get();
        errors.merge(&self.take_send_errors());
        self.passed_over.set(errors);
    }

    /// The send errors since the last call.
    pub fn take_send_errors(&self) -> SendErrorCounts {
        let now = self.counters.error_counts();
        let before = self.seen_errors.replace(now);
        now.since(&before)
    }

    /// Removed by a reload: its tasks end.
    pub fn remove(&self) {
        self.removed.set(true);
        self.nudge.notify_one();
        self.look_up.notify_one();
    }

    /// Whether it was removed by a reload.
    pub fn is_removed(&self) -> bool {
        self.removed.get()
    }

    fn note_state(&self) {
        let state = match () {
            _ if self.node.borrow().disabled => BackendState::Disabled,
            _ if self.admin_state.get() == AdminState::Down => BackendState::ForcedDown,
            _ if self.admin_state.get() == AdminState::Drain => BackendState::Drain,
            _ if self.address().is_some() && self.health.borrow().is_up() => BackendState::Up,
            _ if self.address().is_some() => BackendState::Down,
            _ if self.addresses.borrow().own().next().is_some() => BackendState::OwnAddress,
            _ => BackendState::Unresolved,
        };
        if self.state.replace(state) != state {
            self.since.set(Instant::now());
        }
    }
}

/// A switch to another address of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// The previous address.
    pub from: SocketAddr,
    /// The new address.
    pub to: SocketAddr,
    /// Why.
    pub cause: MoveCause,
}

impl Move {
    /// For the log.
    pub fn message(self) -> String {
        let Move { from, to, cause } = self;
        match cause {
            MoveCause::Refused => {
                format!("switched to {to}: {from} refuses metrics or is unreachable")
            }
            MoveCause::Checks => {
                format!("switched to {to}: it answers the checks, {from} does not")
            }
        }
    }
}

/// The address of a node that has one instead of a name; none yet of others.
fn addresses_of(node: &Node) -> Addresses {
    let Some(ip) = literal(&node.host) else { return Addresses::new(node.family) };
    // An address in the config is used as it is.
    let mut addresses = Addresses::new(AddressFamily::Any);
    addresses.set(vec![Found::at(SocketAddr::new(ip, node.port))]);
    addresses
}

/// A transition as text, for the log.
pub fn describe(transition: Transition, last_failure: Option<&str>) -> String {
    use crate::control::backends::health::Cause;
    let failure = last_failure.unwrap_or("unknown cause");
    match (transition.up, transition.cause) {
        (true, Cause::HoldOver) => {
            "is retried: it has no adminport, so only traffic shows whether it is up".to_owned()
        }
        (true, Cause::Reached) => "is up: its host is reachable again".to_owned(),
        (true, _) => "is up".to_owned(),
        (false, Cause::Sends(error)) => {
            format!("is down: {}", describe_evidence(error))
        }
        (false, _) => format!("is down: {failure}"),
    }
}

/// A send error as evidence against a backend.
fn describe_evidence(error: SendError) -> String {
    let name = error_name(error, None);
    match error {
        SendError::Refused => format!("its metrics port refuses packets ({name})"),
        _ => format!("its host is unreachable ({name}: {})", error_meaning(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::config_diff::tests::config;

    fn backend(name: &str) -> Backend {
        let config = config(&[name]);
        Backend::new(config.nodes[0].clone(), config.check)
    }

    #[test]
    fn an_address_is_known_at_once_and_a_name_is_not() {
        assert_eq!(backend("127.0.0.1:9").address(), Some("127.0.0.1:9".parse().unwrap()));
        assert_eq!(backend("127.0.0.1:9").state().0, BackendState::Up);
        let named = backend("metrics.example:9");
        assert!(named.is_named());
        assert_eq!(named.state().0, BackendState::Unresolved);
        assert!(!named.standing().is_live());
        let found = || vec![Found::at("192.0.2.1:9".parse().unwrap())];
        assert!(named.set_addresses(found()));
        assert!(!named.set_addresses(found()));
        assert_eq!(named.state().0, BackendState::Up);
        assert!(named.standing().is_live());
    }

    #[test]
    fn the_admin_state_takes_precedence_over_health_and_survives_a_reload() {
        let backend = backend("127.0.0.1:9");
        let check = config(&["a:1"]).check;
        let mut node = backend.node().clone();
        node.adminport = Some(7);
        backend.update(node.clone(), check);
        assert!(backend.set_admin_state(AdminState::Drain));
        assert!(!backend.set_admin_state(AdminState::Drain));
        assert_eq!((backend.state().0, backend.is_healthy()), (BackendState::Drain, Some(true)));
        assert!(backend.is_checked(), "it is watched all the same");
        backend.with_health(|health| health.observe(0, Outcome::Failed));
        assert_eq!((backend.state().0, backend.is_healthy()), (BackendState::Drain, Some(false)));
        node.gso = crate::config::Gso::Off;
        backend.update(node.clone(), check);
        assert_eq!((backend.state().0, backend.admin_state()), (BackendState::Drain, AdminState::Drain));
        backend.set_admin_state(AdminState::Down);
        assert_eq!(backend.state().0, BackendState::ForcedDown);
        node.disabled = true;
        backend.update(node, check);
        assert_eq!((backend.state().0, backend.is_healthy()), (BackendState::Disabled, None));
        let backend = self::backend("127.0.0.1:9");
        assert_eq!(backend.is_healthy(), None, "without adminport nobody looks");
        backend.set_admin_state(AdminState::Down);
        backend.set_admin_state(AdminState::Up);
        assert_eq!(backend.state().0, BackendState::Up);
    }

    #[test]
    fn the_state_shows_why_it_gets_no_metrics() {
        let backend = backend("127.0.0.1:9");
        let mut node = backend.node().clone();
        let check = config(&["a:1"]).check;
        node.adminport = Some(7);
        backend.update(node.clone(), check);
        assert_eq!(backend.check_order(), ["127.0.0.1:7".parse().unwrap()]);
        backend.with_health(|health| health.observe(0, Outcome::Failed));
        assert_eq!(backend.state().0, BackendState::Down);
        node.disabled = true;
        backend.update(node.clone(), check);
        assert_eq!(backend.state().0, BackendState::Disabled);
        assert_eq!(backend.check_order(), []);
        node.disabled = false;
        backend.update(node, check);
        assert_eq!(backend.state().0, BackendState::Up, "enabled again, nothing is known against it");
    }

    #[test]
    fn the_source_address_is_looked_up_once_even_without_a_route() {
        // Without SO_BROADCAST no socket is connected to this one.
        for (name, has_route) in [("127.0.0.1:9", true), ("255.255.255.255:9", false)] {
            let backend = backend(name);
            assert!(!backend.is_source_asked(), "{name}");
            let source = has_route.then(|| "127.0.0.1".parse().unwrap());
            assert_eq!(backend.ask_source(), source.map(|source| (None, source)), "{name}");
            assert_eq!((backend.is_source_asked(), backend.source()), (true, source), "{name}");
            assert_eq!(backend.ask_source(), None, "{name}");
        }
        let named = self::backend("metrics.example:9");
        named.set_addresses(vec![Found::at("127.0.0.1:9".parse().unwrap())]);
        named.ask_source();
        named.set_addresses(vec![Found::at("127.0.0.2:9".parse().unwrap())]);
        assert_eq!((named.is_source_asked(), named.source()), (false, None));
    }
}
