//! One backend as the control thread knows it, from the moment the config names it until a reload takes it away.
//!
//! In: the config's node, checks, refusals, name look-ups. Out: its standing for the route table, its state for the
//! admin port. Next: `watch.rs` keeps it up to date, `table.rs` makes the route table of all of them.

use super::handover::message::CarriedBackend;
use super::health::{Health, Transition};
use super::resolve::literal;
use super::table::Standing;
use crate::admin::{BackendState, Wish};
use crate::config::{Check, Node};
use crate::driver::socket::with_port;
use crate::planted::{Defect, is_planted};
use crate::stats::NodeCounters;
use std::cell::{Cell, Ref, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// One backend; it lives on the control thread.
pub struct Backend {
    /// Its identity.
    pub name: Arc<str>,
    /// Its figures, which the workers count.
    pub counters: Arc<NodeCounters>,
    /// Tells the task that checks it to look again: a refusal, a change, its removal.
    pub nudge: Notify,
    /// Tells the task that looks its name up not to wait any longer.
    pub look_up: Notify,
    node: RefCell<Node>,
    health: RefCell<Health>,
    address: Cell<Option<SocketAddr>>,
    state: Cell<BackendState>,
    since: Cell<Instant>,
    wish: Cell<Wish>,
    refused: Cell<bool>,
    removed: Cell<bool>,
}

impl Backend {
    /// A backend of the config that was not there before; its address is known at once if the config gives one.
    pub fn new(node: Node, check: Check) -> Backend {
        let address = literal(&node.host).map(|ip| SocketAddr::new(ip, node.port));
        let backend = Backend {
            name: node.name.clone(),
            counters: Arc::default(),
            nudge: Notify::new(),
            look_up: Notify::new(),
            health: RefCell::new(Health::new(check, node.adminport.is_some())),
            node: RefCell::new(node),
            address: Cell::new(address),
            state: Cell::new(BackendState::Up),
            since: Cell::new(Instant::now()),
            wish: Cell::new(Wish::Up),
            refused: Cell::new(false),
            removed: Cell::new(false),
        };
        backend.note_state();
        backend
    }

    /// Its part of the config.
    pub fn node(&self) -> Ref<'_, Node> {
        self.node.borrow()
    }

    /// Where it is, if that is known.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address.get()
    }

    /// Whether its host is a name, which has to be looked up.
    pub fn is_named(&self) -> bool {
        literal(&self.node.borrow().host).is_none()
    }

    /// Where its health is asked, if it can be asked now.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        let node = self.node.borrow();
        let (address, port) = (self.address.get()?, node.adminport?);
        (!node.disabled).then(|| with_port(address, port))
    }

    /// For the route table.
    pub fn standing(&self) -> Standing {
        Standing {
            name: self.name.clone(),
            address: self.address.get(),
            counters: self.counters.clone(),
            gso: self.node.borrow().gso,
            disabled: self.node.borrow().disabled,
            up: self.health.borrow().is_up(),
            wish: self.wish.get(),
        }
    }

    /// What its health checks say; `None` if it is not looked at.
    pub fn is_healthy(&self) -> Option<bool> {
        self.admin_address().map(|_| self.health.borrow().is_up())
    }

    /// What the operator wants of it.
    pub fn wish(&self) -> Wish {
        self.wish.get()
    }

    /// The operator wants something else of it. True if that changed anything.
    pub fn set_wish(&self, wish: Wish) -> bool {
        let is_changed = self.wish.replace(wish) != wish;
        self.note_state();
        is_changed
    }

    /// Whether it gets metrics and why not, and since when that is so.
    pub fn state(&self) -> (BackendState, Instant) {
        (self.state.get(), self.since.get())
    }

    /// Reads or changes its health.
    pub fn with_health<T>(&self, act: impl FnOnce(&mut Health) -> T) -> T {
        let result = act(&mut self.health.borrow_mut());
        self.note_state();
        result
    }

    /// Its name leads elsewhere, or to an address at last. True if that changed anything.
    pub fn set_address(&self, address: SocketAddr) -> bool {
        if self.address.replace(Some(address)) == Some(address) {
            return false;
        }
        // Another server may answer there.
        self.with_health(Health::doubt);
        self.nudge.notify_one();
        true
    }

    /// A reload's node of the same identity.
    pub fn update(&self, node: Node, check: Check) {
        let old = self.node.replace(node);
        let (adminport, disabled) = {
            let new = self.node.borrow();
            (new.adminport, new.disabled)
        };
        self.with_health(|health| {
            health.set_rules(check, adminport.is_some());
            if old.disabled && !disabled {
                // It was not checked meanwhile: nothing is known of it.
                *health = Health::new(check, adminport.is_some());
            } else if old.adminport != adminport {
                health.doubt();
            }
        });
        self.nudge.notify_one();
    }

    /// What the process that takes over goes on from.
    pub fn carry(&self, now_ms: u64) -> CarriedBackend {
        CarriedBackend {
            name: self.name.to_string(),
            address: self.address.get(),
            health: Some(self.health.borrow().carry(now_ms)),
            wish: self.wish.get(),
            since_ms: u64::try_from(self.since.get().elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Goes on from what another process knew of it; as far as the config says the same.
    pub fn resume(&self, carried: &CarriedBackend, check: Check, now_ms: u64) {
        if let (true, Some(address)) = (self.is_named(), carried.address) {
            self.address.set(Some(address));
        }
        if let Some(health) = &carried.health {
            let has_adminport = self.node.borrow().adminport.is_some();
            *self.health.borrow_mut() = Health::resume(check, has_adminport, health, now_ms);
        }
        if !is_planted(Defect::WishForgottenAtHandover) {
            self.wish.set(carried.wish);
        }
        self.note_state();
        let since = Instant::now().checked_sub(Duration::from_millis(carried.since_ms));
        self.since.set(since.unwrap_or_else(Instant::now));
        self.nudge.notify_one();
    }

    /// A worker saw it refuse.
    pub fn note_refusal(&self) {
        self.refused.set(true);
        self.nudge.notify_one();
    }

    /// Whether it refused since the last call.
    pub fn take_refusal(&self) -> bool {
        self.refused.replace(false)
    }

    /// A reload took it away: its tasks end.
    pub fn remove(&self) {
        self.removed.set(true);
        self.nudge.notify_one();
        self.look_up.notify_one();
    }

    /// Whether a reload took it away.
    pub fn is_removed(&self) -> bool {
        self.removed.get()
    }

    fn note_state(&self) {
        let state = match () {
            _ if self.node.borrow().disabled => BackendState::Disabled,
            _ if self.wish.get() == Wish::Down => BackendState::ForcedDown,
            _ if self.wish.get() == Wish::Drain => BackendState::Drain,
            _ if self.address.get().is_none() => BackendState::Unresolved,
            _ if self.health.borrow().is_up() => BackendState::Up,
            _ => BackendState::Down,
        };
        if self.state.replace(state) != state {
            self.since.set(Instant::now());
        }
    }
}

/// A transition in words, for the log.
pub fn describe(transition: Transition, last_failure: Option<&str>) -> String {
    use super::health::Cause;
    let failure = last_failure.unwrap_or("no cause known");
    match (transition.up, transition.cause) {
        (true, Cause::HoldOver) => "is tried again: only traffic can tell, it has no adminport".to_owned(),
        (true, _) => "is up".to_owned(),
        (false, Cause::Refused) => "is down: its port for metrics refuses".to_owned(),
        (false, _) => format!("is down: {failure}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::health::Outcome;
    use super::super::reload::tests::config;
    use super::*;

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
        assert!(named.set_address("192.0.2.1:9".parse().unwrap()));
        assert!(!named.set_address("192.0.2.1:9".parse().unwrap()));
        assert_eq!(named.state().0, BackendState::Up);
        assert!(named.standing().is_live());
    }

    #[test]
    fn the_operators_wish_counts_before_health_and_stays_over_a_reload() {
        let backend = backend("127.0.0.1:9");
        let check = config(&["a:1"]).check;
        let mut node = backend.node().clone();
        node.adminport = Some(7);
        backend.update(node.clone(), check);
        assert!(backend.set_wish(Wish::Drain));
        assert!(!backend.set_wish(Wish::Drain));
        assert_eq!((backend.state().0, backend.is_healthy()), (BackendState::Drain, Some(true)));
        assert!(backend.admin_address().is_some(), "it is watched all the same");
        backend.with_health(|health| health.observe(0, Outcome::Failed));
        assert_eq!((backend.state().0, backend.is_healthy()), (BackendState::Drain, Some(false)));
        node.gso = false;
        backend.update(node.clone(), check);
        assert_eq!((backend.state().0, backend.wish()), (BackendState::Drain, Wish::Drain));
        backend.set_wish(Wish::Down);
        assert_eq!(backend.state().0, BackendState::ForcedDown);
        node.disabled = true;
        backend.update(node, check);
        assert_eq!((backend.state().0, backend.is_healthy()), (BackendState::Disabled, None));
        let backend = self::backend("127.0.0.1:9");
        assert_eq!(backend.is_healthy(), None, "without adminport nobody looks");
        backend.set_wish(Wish::Down);
        backend.set_wish(Wish::Up);
        assert_eq!(backend.state().0, BackendState::Up);
    }

    #[test]
    fn the_state_says_why_it_gets_nothing() {
        let backend = backend("127.0.0.1:9");
        let mut node = backend.node().clone();
        let check = config(&["a:1"]).check;
        node.adminport = Some(7);
        backend.update(node.clone(), check);
        assert_eq!(backend.admin_address(), Some("127.0.0.1:7".parse().unwrap()));
        backend.with_health(|health| health.observe(0, Outcome::Failed));
        assert_eq!(backend.state().0, BackendState::Down);
        node.disabled = true;
        backend.update(node.clone(), check);
        assert_eq!(backend.state().0, BackendState::Disabled);
        assert_eq!(backend.admin_address(), None);
        node.disabled = false;
        backend.update(node, check);
        assert_eq!(backend.state().0, BackendState::Up, "enabled again, nothing is known against it");
    }
}
