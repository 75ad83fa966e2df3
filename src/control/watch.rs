//! The tasks that keep one backend up to date: one checks its health, one looks its name up.
//!
//! In: time, refusals that workers report, the answers of checks and of the resolver. Out: a published table for each
//! change. Next: `rounds.rs` and `health.rs` decide, `state.rs` publishes.

use super::backend::{Backend, describe};
use super::health::{Outcome, Transition};
use super::probe::probe;
use super::resolve::choose;
use super::rounds::{Next, Rounds, judge};
use super::state::Control;
use super::{lateness, net};
use crate::admin::Wish;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Between two look-ups of a name that has an address.
const LOOKUP_AGAIN: Duration = Duration::from_secs(30);
/// Between two look-ups of a name that has none, or whose backend just went down.
const LOOKUP_SOON: Duration = Duration::from_secs(5);

/// Checks made for one result where this process is stalled during each: then the result counts, or a process that is starved
/// all the time would never find a backend dead.
const CHECKS_PER_RESULT: usize = 5;
/// Shorter stalls are a scheduler's daily work.
const STALL_MS_MIN: u64 = 10;

/// Watches `backend` until a reload takes it away.
pub fn start(control: &Rc<Control>, backend: Rc<Backend>) {
    if backend.is_named() {
        net::spawn(look_up(control.clone(), backend.clone()));
    }
    net::spawn(check(control.clone(), backend));
}

/// One backend's checks, and what the workers' refusals say about it.
async fn check(control: Rc<Control>, backend: Rc<Backend>) {
    // Another one in every process, so that the proxies of a fleet do not check together.
    let mut rounds = Rounds::new(RandomState::new().hash_one(&backend.name));
    while !backend.is_removed() {
        let rules = control.config().check;
        let settled = |transition| settle(&control, &backend, Some(transition), None);
        match rounds.look(&backend, rules, control.now_ms(), settled) {
            Next::Check(address) => {
                check_once(&control, &backend, address).await;
                rounds.checked(&backend, control.config().check, control.now_ms());
            }
            Next::Wait(wake_ms) => sleep_until(&control, wake_ms, &backend).await,
        }
    }
}

async fn sleep_until(control: &Control, wake_ms: Option<u64>, backend: &Backend) {
    let nudged = backend.nudge.notified();
    match wake_ms {
        None => nudged.await,
        Some(wake_ms) => {
            let wait = Duration::from_millis(wake_ms.saturating_sub(control.now_ms()).max(1));
            let _ = tokio::time::timeout(wait, nudged).await;
        }
    }
}

async fn check_once(control: &Rc<Control>, backend: &Backend, address: SocketAddr) {
    let Ok(_slot) = control.probes.acquire().await else { return };
    let timeout_ms = control.config().check.timeout_ms;
    let mut verdict = Ok(());
    for _ in 0..CHECKS_PER_RESULT {
        backend.with_health(|health| health.started(control.now_ms()));
        let stalled;
        (verdict, stalled) = lateness::of(probe(address, timeout_ms), stall_max(timeout_ms)).await;
        if verdict.is_ok() || !stalled {
            break;
        }
        tracing::debug!(
            "backend {}: the check of {address} is repeated: this process did not run for a part of its time",
            backend.name.escape_default()
        );
    }
    let outcome = if verdict.is_ok() { Outcome::Good } else { Outcome::Failed };
    let failure = verdict.err().map(|error| format!("check of {address}: {error}"));
    if let Some(failure) = &failure {
        tracing::debug!("backend {}: {failure}", backend.name.escape_default());
    }
    let transition = judge(backend, address, control.now_ms(), outcome);
    settle(control, backend, transition, failure.as_deref());
}

/// A check during which this process was stalled for longer than this says nothing about the backend, which had less than
/// nine tenths of its time.
fn stall_max(timeout_ms: u64) -> Duration {
    Duration::from_millis((timeout_ms / 10).max(STALL_MS_MIN))
}

/// Logs and publishes a change of state, if there is one.
fn settle(control: &Control, backend: &Backend, transition: Option<Transition>, failure: Option<&str>) {
    let Some(transition) = transition else { return };
    let mut words = describe(transition, failure);
    if backend.wish() != Wish::Up {
        words.push_str(&format!("; the operator has set it to {}, so no name moves", backend.wish().name()));
    }
    let name = backend.name.escape_default();
    backend.counters.refused_in_a_row.store(0, std::sync::atomic::Ordering::Relaxed);
    control.publish();
    if transition.up {
        tracing::info!("backend {name} {words}");
        return;
    }
    tracing::warn!("backend {name} {words}");
    // It may have moved: its name is asked again.
    backend.look_up.notify_one();
    control.warn_if_none_lives();
}

/// Keeps the address of a named backend up to date. An answer that fails does not take the last address away: a name
/// server that is down must not stop metrics.
async fn look_up(control: Rc<Control>, backend: Rc<Backend>) {
    let (host, port) = {
        let node = backend.node();
        (node.host.clone(), node.port)
    };
    let name = backend.name.escape_default().to_string();
    let mut failing = false;
    let mut first = backend.address().is_none();
    while !backend.is_removed() {
        if !std::mem::take(&mut first) {
            let wait = if backend.address().is_some() { LOOKUP_AGAIN } else { LOOKUP_SOON };
            let asked = tokio::time::timeout(wait, backend.look_up.notified()).await.is_ok();
            if backend.is_removed() {
                return;
            }
            if asked {
                // Not at once: what just failed may be about to move.
                tokio::time::sleep(LOOKUP_SOON).await;
            }
        }
        match control.resolver.resolve(&host, port).await {
            Ok(found) => {
                failing = false;
                let before = backend.address();
                if choose(before, &found).is_some_and(|address| backend.set_address(address)) {
                    tracing::info!("backend {name} is at {}", found[0]);
                    control.publish();
                }
            }
            Err(error) if !failing => {
                failing = true;
                let kept = if backend.address().is_some() {
                    "its last address is kept"
                } else {
                    "it counts as down"
                };
                tracing::warn!("backend {name} does not resolve: {error}; {kept}, and it is tried again");
            }
            Err(_) => {}
        }
    }
}
