//! Whether all workers make progress: each is woken and has to process a batch.
//!
//! In: a request of `/healthz`, or the period of the service manager's watchdog. Out: the workers that do not respond, with how
//! long they have not. Next: `admin/http`, `systemd.rs`. No worker is woken without a request.

use crate::control::net;
use crate::control::state::{Control, WorkerHandle};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How long a worker may take beyond the time that it may sleep.
const MARGIN: Duration = Duration::from_millis(900);

/// A worker that does not respond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stuck {
    /// Which.
    pub worker: usize,
    /// For how long at least, in seconds: since the first request that it has not responded to.
    pub for_s: u64,
}

/// The workers that do not process a batch within the time limit; none while stopping, when they end one by one.
pub async fn stuck(control: &Control) -> Vec<Stuck> {
    if control.is_stopping() {
        return Vec::new();
    }
    let time = Duration::from_micros(control.config().flush_us) + MARGIN;
    let asked_at = Instant::now();
    let asked: Vec<u64> =
        control.worker_handles.iter().map(|worker_handle| worker_handle.shared.ask_echo()).collect();
    control.publisher.wake();
    let all = async {
        while !control
            .worker_handles
            .iter()
            .zip(&asked)
            .all(|(worker_handle, number)| worker_handle.shared.has_echoed(*number))
        {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let _ = tokio::time::timeout(time, all).await;
    let is_stuck = |(worker, (worker_handle, number)): (usize, (&WorkerHandle, &u64))| {
        if worker_handle.shared.has_echoed(*number) {
            worker_handle.stuck_since.set(None);
            return None;
        }
        let since = worker_handle.stuck_since.get().unwrap_or(asked_at);
        worker_handle.stuck_since.set(Some(since));
        Some(Stuck { worker, for_s: since.elapsed().as_secs() })
    };
    let stuck: Vec<Stuck> =
        control.worker_handles.iter().zip(&asked).enumerate().filter_map(is_stuck).collect();
    if control.is_stopping() { Vec::new() } else { stuck }
}

/// The message about them.
pub fn describe(stuck: &[Stuck]) -> String {
    let each: Vec<String> = stuck
        .iter()
        .map(|stuck| format!("worker {} has made no progress for {} s", stuck.worker, stuck.for_s))
        .collect();
    each.join("; ")
}

/// Notifies the service manager's watchdog at a third of its period (so that one message may be lost) while all workers make progress.
pub fn watch(control: &Rc<Control>) {
    let Some(period) = control.notifier.watchdog_period() else { return };
    let control = control.clone();
    net::spawn(async move {
        let mut was_stuck = false;
        loop {
            let stuck = stuck(&control).await;
            if stuck.is_empty() {
                control.notifier.watchdog();
            } else if !was_stuck {
                let message = describe(&stuck);
                tracing::error!("{message}: the service manager's watchdog is not notified");
            }
            was_stuck = !stuck.is_empty();
            tokio::time::sleep(period / 3).await;
        }
    });
}
