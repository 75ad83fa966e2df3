//! The tasks that keep one backend up to date: one checks its health, one looks its name up.
//!
//! In: time, refusals that workers report, the answers of checks and of the resolver. Out: a published table for each
//! change. Next: `check_schedule.rs` and `health.rs` decide, `state.rs` publishes.

use crate::admin::{AdminState, error_message, error_name};
use crate::control::backends::backend::{Backend, describe};
use crate::control::backends::check::check as check_addresses;
use crate::control::backends::check::result;
use crate::control::backends::check_schedule::{Change, CheckSchedule, Next, judge};
use crate::control::backends::health::Transition;
use crate::control::backends::send_error_log::{AGAIN_MS, Admission, SendErrorLog};
use crate::control::lateness;
use crate::control::net;
use crate::control::shortage::{Operation, is_shortage};
use crate::control::state::Control;
use crate::driver::reach::Reach;
use crate::packet::SendError;
use crate::text;
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// Target of the log lines about backends going down and up.
pub const LOG_TARGET: &str = module_path!();

/// Between two look-ups of a name that has an address.
const LOOKUP_AGAIN: Duration = Duration::from_secs(30);
/// Between two look-ups of a name that has none, or whose backend just went down.
const LOOKUP_SOON: Duration = Duration::from_secs(5);

/// For reaching a host: longer than a neighbor takes to be reported as missing.
const REACH: Duration = Duration::from_secs(5);

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

/// One backend's checks, combined with the workers' refusals.
async fn check(control: Rc<Control>, backend: Rc<Backend>) {
    // Another one in every process, so that the proxies of a fleet do not check together.
    let mut schedule = CheckSchedule::new(RandomState::new().hash_one(&backend.name));
    let mut errors = SendErrorLog::default();
    while !backend.is_removed() {
        let rules = control.config().check;
        let now_ms = control.now_ms();
        let next = schedule.poll(&backend, rules, now_ms, |change| match change {
            Change::SendErrors(more) => {
                errors.add(&more);
                log_send_errors(&control, &backend, &mut errors);
            }
            other => settle(&control, &backend, other, None),
        });
        log_send_errors(&control, &backend, &mut errors);
        match next {
            Next::Check(order) => check_once(&control, &backend, &order).await,
            Next::Reach(order) => reach_once(&control, &backend, &order).await,
            Next::Wait(wake_ms) => {
                let wake_ms = wake_ms.into_iter().chain(errors.due_ms()).min();
                sleep_until(&control, wake_ms, &backend).await;
            }
        }
    }
}

/// Logs the errors of sends that are due.
fn log_send_errors(control: &Rc<Control>, backend: &Backend, errors: &mut SendErrorLog) {
    let now_ms = control.now_ms();
    for (error, count) in errors.take_due(now_ms) {
        match control.send_errors.borrow_mut().admit(error, now_ms) {
            Admission::Granted => {}
            Admission::FirstSuppressed => {
                net::spawn(log_suppressed(control.clone(), error));
                continue;
            }
            Admission::Suppressed => continue,
        }
        let Some(view) = backend.counters.error(error) else { continue };
        let (name, errno) = (backend.name.escape_default(), error_name(error, view.other_errno));
        tracing::warn!(
            backend = %name,
            errno,
            cause = error.name(),
            count,
            "backend {name}: sends fail: {}",
            error_message(&view, backend.address())
        );
    }
}

/// Logs, after a while, how many lines of a kind were suppressed.
async fn log_suppressed(control: Rc<Control>, error: SendError) {
    tokio::time::sleep(Duration::from_millis(AGAIN_MS)).await;
    let count = control.send_errors.borrow_mut().take_suppressed(error, control.now_ms());
    let name = error_name(error, None);
    tracing::warn!(
        errno = name,
        cause = error.name(),
        suppressed = count,
        "sends to other backends fail too: {name}: {} suppressed; the admin command backends lists them",
        text::count(count, "line")
    );
}

/// Tries to reach the host of a backend that has no admin port, at these addresses until one answers.
async fn reach_once(control: &Rc<Control>, backend: &Backend, order: &[SocketAddr]) {
    let Ok(_slots) = control.checks.free.acquire_many(net::REACH_DESCRIPTORS).await else { return };
    let mut best = Reach::Unreachable;
    for address in order {
        let reach = net::reach(*address, net::deadline_in(REACH)).await;
        if let Err(error) = &reach
            && is_shortage(error)
        {
            control.shortages.note(Operation::Check, error);
        }
        // This process's own shortage is not evidence about the host: its hold continues.
        let reach = reach.unwrap_or(Reach::Unreachable);
        tracing::debug!("backend {}: probe of {address}: {reach:?}", backend.name.escape_default());
        if backend.is_removed() || !backend.reach_order().contains(address) {
            return;
        }
        match reach {
            Reach::Unreachable => continue,
            Reach::Unknown => best = Reach::Unknown,
            Reach::Answered => {
                best = Reach::Answered;
                backend.reached_at(*address);
                break;
            }
        }
    }
    let transition = backend.with_health(|health| health.reached(control.now_ms(), best));
    if let Some(transition) = transition {
        settle(control, backend, Change::State(transition), None);
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

async fn check_once(control: &Rc<Control>, backend: &Backend, order: &[SocketAddr]) {
    let Ok(_slot) = control.checks.free.acquire().await else { return };
    let timeout_ms = control.config().check.timeout_ms;
    let mut found = Vec::new();
    for _ in 0..CHECKS_PER_RESULT {
        backend.with_health(|health| health.started(control.now_ms()));
        let stalled;
        let checked = check_addresses(&control.checks, order, timeout_ms);
        (found, stalled) = lateness::of(checked, stall_max(timeout_ms)).await;
        if !stalled || found.iter().all(|(_, verdict)| verdict.is_ok()) {
            break;
        }
        tracing::debug!(
            "backend {}: repeating the check: this process was stalled during it",
            backend.name.escape_default()
        );
    }
    let failures: Vec<String> = found
        .iter()
        .filter_map(|(address, verdict)| Some(format!("check of {address}: {}", verdict.as_ref().err()?)))
        .collect();
    let failure = Some(failures.join("; ")).filter(|failure| !failure.is_empty());
    if let Some(failure) = &failure {
        tracing::debug!("backend {}: {failure}", backend.name.escape_default());
    }
    let results: Vec<_> = found.iter().map(|(address, verdict)| (*address, result(verdict))).collect();
    let settled = |change| settle(control, backend, change, failure.as_deref());
    judge(backend, &results, control.config().check, control.now_ms(), settled);
}

/// A check during which this process was stalled for longer than this is not evidence about the backend, which had less than
/// nine tenths of its time.
fn stall_max(timeout_ms: u64) -> Duration {
    Duration::from_millis((timeout_ms / 10).max(STALL_MS_MIN))
}

/// Logs and publishes a change.
fn settle(control: &Control, backend: &Backend, change: Change, failure: Option<&str>) {
    match change {
        Change::State(transition) => settle_state(control, backend, transition, failure),
        Change::Route => control.publish(),
        // It is logged apart.
        Change::SendErrors(_) => {}
        Change::Settled(moved) => {
            let name = backend.name.escape_default();
            tracing::warn!(backend = %name, address = %moved.to, "backend {name}: {}", moved.message());
        }
    }
}

fn settle_state(control: &Control, backend: &Backend, transition: Transition, failure: Option<&str>) {
    let mut message = describe(transition, failure);
    if backend.admin_state() != AdminState::Up {
        message.push_str(&format!(
            "; set to {} by the operator, so no name moves",
            backend.admin_state().name()
        ));
    }
    let (name, cause) = (backend.name.escape_default(), transition.cause.name());
    // The cause first, then what follows from it.
    if transition.up {
        tracing::info!(backend = %name, state = "up", cause, "backend {name} {message}");
        control.publish();
        return;
    }
    tracing::warn!(backend = %name, state = "down", cause, "backend {name} {message}");
    control.publish();
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
                control.shortages.note_done(Operation::Lookup);
                control.take_addresses(&backend, &found);
            }
            Err(error) if is_shortage(&error) => control.shortages.note(Operation::Lookup, &error),
            Err(error) if !failing => {
                failing = true;
                let kept = if backend.address().is_some() {
                    "keeping its last address"
                } else {
                    "treating it as down"
                };
                tracing::warn!("backend {name} does not resolve: {error}; {kept} and retrying");
            }
            Err(_) => {}
        }
    }
}
