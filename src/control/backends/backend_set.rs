//! The config in effect, its backends, and the route tables built from them: pure, no task, no clock, no socket.
//!
//! In: a new config, what an old process knew, how the workers are to end. Out: the next route table, which backends a config
//! adds and takes away, the state that a new process continues from. Next: `state.rs` publishes and starts tasks; `table.rs` builds.

use crate::config::{Config, Node};
use crate::control::backends::backend::Backend;
use crate::control::backends::table;
use crate::control::lifecycle::handover::message::CarriedBackend;
use crate::relay::{Left, Observer, Phase, RouteTable};
use std::cell::{Cell, Ref, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

/// The desired state; owned by the control thread.
pub struct BackendSet {
    config: RefCell<Config>,
    backends: RefCell<Vec<Rc<Backend>>>,
    phase: Cell<Phase>,
    generation: Cell<u64>,
}

impl BackendSet {
    /// The backends of the config to start with; nothing is known of them.
    pub fn new(config: Config) -> BackendSet {
        let backends = config.nodes.iter().map(|node| Rc::new(Backend::new(node.clone(), config.check)));
        BackendSet {
            backends: RefCell::new(backends.collect()),
            config: RefCell::new(config),
            phase: Cell::new(Phase::Run),
            generation: Cell::new(0),
        }
    }

    /// The config in effect.
    pub fn config(&self) -> Ref<'_, Config> {
        self.config.borrow()
    }

    /// The backends, in the config's order.
    pub fn backends(&self) -> Ref<'_, Vec<Rc<Backend>>> {
        self.backends.borrow()
    }

    /// The backend of this identity.
    pub fn backend(&self, name: &str) -> Option<Rc<Backend>> {
        self.backends.borrow().iter().find(|backend| &*backend.name == name).cloned()
    }

    /// The number of the last table.
    pub fn generation(&self) -> u64 {
        self.generation.get()
    }

    /// The next table. `previous` is the last one, whose parts are kept where they are the same.
    pub fn next_table(
        &self,
        previous: Option<&RouteTable>,
        observer: Option<Arc<dyn Observer>>,
    ) -> RouteTable {
        self.generation.set(self.generation.get() + 1);
        table::build(
            self.generation.get(),
            &self.config.borrow(),
            self.backends.borrow().iter().map(|backend| backend.standing()),
            previous,
            self.phase.get(),
            observer,
        )
    }

    /// With the next table the workers end within `timeout_us`, and leave these sockets to others.
    pub fn end(&self, timeout_us: u64, left: Left) {
        let phase =
            if left.is_none() { Phase::Drain { timeout_us } } else { Phase::Leave { timeout_us, left } };
        self.phase.set(phase);
    }

    /// The backends that `config` lists: those that are known already, and new ones for the others.
    pub fn for_config(&self, config: &Config) -> Vec<Rc<Backend>> {
        let old = self.backends.borrow();
        let old: HashMap<&str, &Rc<Backend>> = old.iter().map(|old| (&*old.name, old)).collect();
        let known = |node: &Node| old.get(&*node.name).map(|backend| (*backend).clone());
        let made = |node: &Node| Rc::new(Backend::new(node.clone(), config.check));
        config.nodes.iter().map(|node| known(node).unwrap_or_else(|| made(node))).collect()
    }

    /// Of these, the backends that are new.
    pub fn added(&self, backends: &[Rc<Backend>]) -> Vec<Rc<Backend>> {
        let running = self.backends.borrow();
        let is_added = |backend: &&Rc<Backend>| !running.iter().any(|old| Rc::ptr_eq(old, backend));
        backends.iter().filter(is_added).cloned().collect()
    }

    /// With the next table `config` and its `backends` are in effect: those that stay adopt it and keep their counters, their
    /// health and their admin state; removed ones are notified.
    pub fn replace(&self, config: Config, backends: Vec<Rc<Backend>>) {
        for node in &config.nodes {
            if let Some(backend) = self.backend(&node.name) {
                backend.update(node.clone(), config.check);
            }
        }
        let old = self.backends.replace(backends);
        let backends = self.backends.borrow();
        for backend in old.iter().filter(|old| !backends.iter().any(|new| Rc::ptr_eq(new, old))) {
            backend.remove();
        }
        *self.config.borrow_mut() = config;
    }

    /// The state that a process which takes over continues from.
    pub fn carry(&self, now_ms: u64) -> Vec<CarriedBackend> {
        self.backends.borrow().iter().map(|backend| backend.carry(now_ms)).collect()
    }

    /// Continues from the state of an old process, for the backends that this one has as well.
    pub fn resume(&self, carried: &[CarriedBackend], now_ms: u64) {
        let check = self.config.borrow().check;
        let carried: HashMap<&str, _> =
            carried.iter().map(|carried| (carried.name.as_str(), carried)).collect();
        for backend in self.backends.borrow().iter() {
            if let Some(carried) = carried.get(&*backend.name) {
                backend.resume(carried, check, now_ms);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::AdminState;
    use crate::control::config_diff::tests::config;

    #[test]
    fn a_config_keeps_remaining_backends_and_notifies_removed_ones() {
        let backend_set = BackendSet::new(config(&["127.0.0.1:1", "127.0.0.1:2"]));
        let [gone, kept] = [0, 1].map(|index| backend_set.backends()[index].clone());
        kept.set_admin_state(AdminState::Drain);
        let next = config(&["127.0.0.1:3", "127.0.0.1:2"]);
        let backends = backend_set.for_config(&next);
        let added = backend_set.added(&backends);
        assert_eq!(added.iter().map(|backend| &*backend.name).collect::<Vec<_>>(), ["127.0.0.1:3"]);
        backend_set.replace(next, backends);
        assert!(Rc::ptr_eq(&backend_set.backends()[1], &kept) && kept.admin_state() == AdminState::Drain);
        assert!(gone.is_removed() && !kept.is_removed() && backend_set.backend("127.0.0.1:1").is_none());
    }

    #[test]
    fn tables_are_numbered_and_say_how_the_workers_end() {
        let backend_set = BackendSet::new(config(&["127.0.0.1:1"]));
        let first = backend_set.next_table(None, None);
        backend_set.end(7, Left::NONE);
        let second = backend_set.next_table(Some(&first), None);
        assert_eq!((first.generation, second.generation, backend_set.generation()), (1, 2, 2));
        assert_eq!((first.phase, second.phase), (Phase::Run, Phase::Drain { timeout_us: 7 }));
        assert!(Arc::ptr_eq(&first.nodes, &second.nodes));
        backend_set.end(7, Left::ALL);
        let third = backend_set.next_table(Some(&first), None);
        assert_eq!(third.phase, Phase::Leave { timeout_us: 7, left: Left::ALL });
    }

    #[test]
    fn the_next_process_continues_from_the_carried_state() {
        let old = BackendSet::new(config(&["127.0.0.1:1", "127.0.0.1:2"]));
        old.backends()[1].set_admin_state(AdminState::Down);
        let new = BackendSet::new(config(&["127.0.0.1:2", "127.0.0.1:3"]));
        new.resume(&old.carry(5), 0);
        assert_eq!(
            [0, 1].map(|index| new.backends()[index].admin_state()),
            [AdminState::Down, AdminState::Up]
        );
    }
}
