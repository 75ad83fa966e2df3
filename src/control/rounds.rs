//! When to look at one backend, and what for: what its watching task would do next, without the task, the clock and the
//! connection.
//!
//! In: the time, the backend with the refusals that the workers reported, what a check found. Out: a check to be made or a
//! moment to wait for; changes of its state. Next: `watch.rs` does it.

use super::backend::Backend;
use super::health::{Outcome, Transition};
use crate::config::Check;
use crate::placement::splitmix64;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Ask at this address whether it is up.
    Check(SocketAddr),
    /// Look again then, on the clock of the checks, in ms, or when nudged; `None` = only then.
    Wait(Option<u64>),
}

/// The rounds of one backend.
#[derive(Debug)]
pub struct Rounds {
    /// Any number; it changes with each check.
    jitter: u64,
    /// When the next refusal may be reported: one hint at a time, no more often than the fast checks.
    hint_due_ms: Option<u64>,
    last_hint_ms: u64,
}

impl Rounds {
    /// Not looked yet. With another `jitter` in every process, the proxies of a fleet do not check together.
    pub fn new(jitter: u64) -> Rounds {
        Rounds { jitter, hint_due_ms: None, last_hint_ms: 0 }
    }

    /// Looks at the backend; each change of its state goes to `settle`.
    pub fn look(
        &mut self,
        backend: &Backend,
        check: Check,
        now_ms: u64,
        mut settle: impl FnMut(Transition),
    ) -> Next {
        if self.hint_due_ms.is_some_and(|due| due <= now_ms) {
            backend.counters.take_hint();
            self.hint_due_ms = None;
        }
        if backend.take_refusal() {
            self.hint_due_ms = Some(now_ms + check.fast_ms);
            self.last_hint_ms = now_ms;
            backend.with_health(|health| health.refused(now_ms)).map(&mut settle);
        }
        backend.with_health(|health| health.tick(now_ms)).map(&mut settle);
        let due_ms = self.due_ms(backend);
        match backend.admin_address() {
            Some(address) if due_ms.is_some_and(|due_ms| due_ms <= now_ms) => {
                self.jitter = splitmix64(self.jitter);
                // A hint that found no room in the workers' channel is taken here.
                if self.hint_due_ms.is_none() && backend.counters.take_hint() {
                    backend.note_refusal();
                }
                Next::Check(address)
            }
            _ => Next::Wait(due_ms.into_iter().chain(self.hint_due_ms).min()),
        }
    }

    /// A check was made: refusals that are long past are not in a row with later ones.
    pub fn checked(&self, backend: &Backend, check: Check, now_ms: u64) {
        if now_ms.saturating_sub(self.last_hint_ms) > check.interval_ms {
            backend.counters.refused_in_a_row.store(0, Ordering::Relaxed);
        }
    }

    /// When to look at the backend again; `None` if only a nudge can change anything.
    fn due_ms(&self, backend: &Backend) -> Option<u64> {
        let can_be_checked = backend.admin_address().is_some();
        let has_adminport = backend.node().adminport.is_some();
        // Disabled, or without an address: nothing to check, and whoever changes that nudges.
        (can_be_checked || !has_adminport)
            .then(|| backend.with_health(|health| health.next_check_ms(self.jitter)))?
    }
}

/// What the check of `address` says about the backend, which may have gone or moved meanwhile: the answer of an address that
/// is no longer its own says nothing about it.
pub fn judge(backend: &Backend, address: SocketAddr, now_ms: u64, outcome: Outcome) -> Option<Transition> {
    if backend.is_removed() || backend.admin_address() != Some(address) {
        return None;
    }
    backend.with_health(|health| health.observe(now_ms, outcome))
}

#[cfg(test)]
mod tests {
    use super::super::reload::tests::config;
    use super::*;

    #[test]
    fn it_is_checked_at_once_then_by_the_interval_and_early_after_a_refusal() {
        let config = config(&["127.0.0.1:9"]);
        let backend = Backend::new(config.nodes[0].clone(), config.check);
        let mut node = config.nodes[0].clone();
        node.adminport = Some(7);
        backend.update(node, config.check);
        let address = "127.0.0.1:7".parse().unwrap();
        let mut rounds = Rounds::new(1);
        let mut look = |now_ms| rounds.look(&backend, config.check, now_ms, |change| panic!("{change:?}"));
        assert_eq!(look(0), Next::Check(address));
        backend.with_health(|health| health.started(0));
        assert_eq!(judge(&backend, address, 1, Outcome::Good), None);
        let Next::Wait(Some(due_ms)) = look(1) else { panic!("a check at once") };
        assert!(due_ms >= config.check.interval_ms * 9 / 10, "{due_ms}");
        backend.note_refusal();
        assert_eq!(look(config.check.fast_ms * 2), Next::Check(address));
        let elsewhere = "127.0.0.1:8".parse().unwrap();
        assert_eq!(judge(&backend, elsewhere, 3, Outcome::Failed), None);
        backend.with_health(|health| assert!(health.is_up()));
        assert!(judge(&backend, address, 3, Outcome::Failed).is_none(), "it was good before");
    }
}
