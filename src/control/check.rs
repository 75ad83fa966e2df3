//! One check of a backend at all its addresses, one after the other, within one time limit.
//!
//! In: admin ports in the order in which they are to be tried. Out: what was found at each that was tried. Next: `rounds.rs`
//! judges.
//!
//! The first address has all of the time. The next one is tried as soon as one has failed, or when its share of the time is
//! over, so that one that swallows everything leaves time for the others, and a slow one is not cut short. Once one says
//! that it is up, no further one is tried; that ends the check if the first has answered or failed.

use super::addresses::CheckResult;
use super::net;
use super::probe::{ProbeError, probe};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until};

/// What was found at one address.
type Found = (SocketAddr, Result<(), ProbeError>);

/// Checks a backend whose admin ports are at `order`, within `limit_ms`. The caller has one of the slots `probes`, further ones
/// are taken if they are free.
pub async fn check(probes: &Rc<Semaphore>, order: &[SocketAddr], limit_ms: u64) -> Vec<Found> {
    let [first, others @ ..] = order else { return Vec::new() };
    if others.is_empty() {
        return vec![(*first, probe(*first, limit_ms).await)];
    }
    let limit = Duration::from_millis(limit_ms);
    let deadline = Instant::now() + limit;
    let share = limit / order.len() as u32;
    let (give, mut take) = mpsc::channel(order.len());
    let mut waiting = order.iter().copied();
    let mut next_at = Instant::now();
    let mut running = 0;
    let mut found: Vec<Found> = Vec::new();
    loop {
        let is_up = found.iter().any(|(_, verdict)| verdict.is_ok());
        if is_up && found.iter().any(|(address, _)| address == first) {
            return found;
        }
        if !is_up
            && Instant::now() >= next_at
            && let Some(address) = waiting.next()
        {
            let further = (address != *first).then(|| probes.clone());
            net::spawn(attempt(address, deadline, further, give.clone()));
            (running, next_at) = (running + 1, Instant::now() + share);
        }
        if running == 0 && (is_up || waiting.len() == 0) {
            return found;
        }
        tokio::select! {
            // One sender is kept here: it never ends.
            Some((address, verdict)) = take.recv() => {
                running -= 1;
                found.extend(verdict.map(|verdict| (address, verdict)));
                next_at = Instant::now();
            }
            () = sleep_until(next_at), if !is_up && waiting.len() > 0 => {}
        }
    }
}

/// Checks one address in the time that is left; `None` if it needs a `further` slot and there is none. What is no longer
/// waited for ends by itself.
async fn attempt(
    address: SocketAddr,
    deadline: Instant,
    further: Option<Rc<Semaphore>>,
    give: mpsc::Sender<(SocketAddr, Option<Result<(), ProbeError>>)>,
) {
    let slot = further.as_ref().map(|probes| probes.try_acquire());
    if let Some(Err(_)) = slot {
        let _ = give.send((address, None)).await;
        return;
    }
    let left = deadline.saturating_duration_since(Instant::now());
    let verdict = probe(address, u64::try_from(left.as_millis()).unwrap_or(u64::MAX)).await;
    let _ = give.send((address, Some(verdict))).await;
}

/// What a verdict says about an address.
pub fn result(verdict: &Result<(), ProbeError>) -> CheckResult {
    match verdict {
        Ok(()) => CheckResult::Good,
        Err(ProbeError::TimedOut(_)) => CheckResult::Silent,
        Err(_) => CheckResult::Failed,
    }
}
