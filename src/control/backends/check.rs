//! One check of a backend at all its addresses, one after the other, within one time limit.
//!
//! In: admin ports in the order in which they are to be tried. Out: what was found at each that was tried. Next: `check_schedule.rs`
//! judges.
//!
//! The first address has the full time. The next one is tried as soon as one has failed, or when its share of the time is
//! over, so that one that never answers leaves time for the others, and a slow one is not cut short. Once one reports
//! up, no further one is tried; that ends the check if the first has answered or failed.

use crate::control::backends::addresses::CheckResult;
use crate::control::backends::probe::{ProbeError, probe};
use crate::control::net;
use crate::control::service::spares::Spares;
use crate::control::shortage::{Operation, Shortages, is_of_descriptors};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, sleep_until};

/// Result at one address.
type Found = (SocketAddr, Result<(), ProbeError>);

/// Resources of checks, shared by all of them.
pub struct Slots {
    /// Connections that may still be made.
    pub free: Semaphore,
    spares: Rc<Spares>,
    shortages: Rc<Shortages>,
}

impl Slots {
    /// For this many connections at once; shortages are recorded in `shortages`.
    pub fn new(connections: usize, shortages: Rc<Shortages>) -> Rc<Slots> {
        Rc::new(Slots { free: Semaphore::new(connections), spares: Spares::for_checks(), shortages })
    }

    /// Checks one address; without a descriptor, retries with a spare one.
    async fn probe(&self, address: SocketAddr, limit_ms: u64) -> Result<(), ProbeError> {
        let verdict = probe(address, limit_ms).await;
        let Err(ProbeError::NotMade(error)) = &verdict else {
            self.shortages.note_done(Operation::Check);
            return verdict;
        };
        self.shortages.note(Operation::Check, error);
        // Until the connection is closed again.
        let Some(_lent) = is_of_descriptors(error).then(|| self.spares.lend()).flatten() else {
            return verdict;
        };
        probe(address, limit_ms).await
    }
}

/// Checks a backend whose admin ports are at `order`, within `limit_ms`. The caller has one of the `slots`, further ones
/// are taken if they are free.
pub async fn check(slots: &Rc<Slots>, order: &[SocketAddr], limit_ms: u64) -> Vec<Found> {
    let [first, others @ ..] = order else { return Vec::new() };
    if others.is_empty() {
        return vec![(*first, slots.probe(*first, limit_ms).await)];
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
            let is_further = address != *first;
            net::spawn(attempt(address, deadline, slots.clone(), is_further, give.clone()));
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

/// Checks one address in the time left; `None` if it needs a further slot and there is none. A check that is no longer
/// awaited ends by itself.
async fn attempt(
    address: SocketAddr,
    deadline: Instant,
    slots: Rc<Slots>,
    is_further: bool,
    give: mpsc::Sender<(SocketAddr, Option<Result<(), ProbeError>>)>,
) {
    let slot = is_further.then(|| slots.free.try_acquire());
    if let Some(Err(_)) = slot {
        let _ = give.send((address, None)).await;
        return;
    }
    let left = deadline.saturating_duration_since(Instant::now());
    let verdict = slots.probe(address, u64::try_from(left.as_millis()).unwrap_or(u64::MAX)).await;
    let _ = give.send((address, Some(verdict))).await;
}

/// Effect of a result on an address.
pub fn result(verdict: &Result<(), ProbeError>) -> CheckResult {
    match verdict {
        Ok(()) => CheckResult::Good,
        Err(ProbeError::NotMade(_)) => CheckResult::NotMade,
        Err(ProbeError::TimedOut(_)) => CheckResult::Silent,
        Err(_) => CheckResult::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::net::tests::run_on_both;
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// A limit that only silent backends reach.
    const LIMIT_MS: u64 = 2_000;

    /// How a backend answers.
    #[derive(Clone, Copy)]
    enum Answer {
        Up { after_ms: u64 },
        Down,
        Nothing,
        Refuses,
    }

    /// A backend, and how often it was asked. Its thread ends with the test's process.
    fn backend(answer: Answer) -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::new(AtomicUsize::new(0));
        if matches!(answer, Answer::Refuses) {
            return (address, asked);
        }
        let counted = asked.clone();
        std::thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                counted.fetch_add(1, Ordering::Relaxed);
                std::thread::spawn(move || {
                    let _ = stream.read(&mut [0; 64]);
                    match answer {
                        Answer::Up { after_ms } => {
                            std::thread::sleep(Duration::from_millis(after_ms));
                            let _ = stream.write_all(b"health: up\n");
                        }
                        Answer::Down => drop(stream.write_all(b"health: down\n")),
                        // Until the other side has had enough.
                        Answer::Nothing | Answer::Refuses => drop(stream.read(&mut [0; 64])),
                    }
                });
            }
        });
        (address, asked)
    }

    /// Checks backends that answer so, in this order, with so many `free` slots: what is expected to be found at each; none of
    /// those of which nothing is was asked.
    fn finds(answers: &[Answer], free: usize, expected: &[Option<CheckResult>]) {
        run_on_both(async || {
            let backends: Vec<_> = answers.iter().map(|answer| backend(*answer)).collect();
            let order: Vec<SocketAddr> = backends.iter().map(|(address, _)| *address).collect();
            let found = check(&Slots::new(free, Rc::default()), &order, LIMIT_MS).await;
            let at = |address: &SocketAddr| {
                let verdict = found.iter().find(|(of, _)| of == address);
                verdict.map(|(_, verdict)| result(verdict))
            };
            assert_eq!(order.iter().map(at).collect::<Vec<_>>(), expected);
            for ((answer, (_, asked)), expected) in answers.iter().zip(&backends).zip(expected) {
                // One that says nothing may have been asked and not waited for.
                let may_be_asked = expected.is_some() || matches!(answer, Answer::Nothing);
                assert!(may_be_asked || asked.load(Ordering::Relaxed) == 0, "asked for nothing");
            }
        });
    }

    use Answer::{Down, Nothing, Refuses, Up};
    use CheckResult::{Failed, Good, Silent};
    const AT_ONCE: Answer = Up { after_ms: 0 };

    #[test]
    fn no_further_address_is_asked_once_one_is_up() {
        finds(&[AT_ONCE], 0, &[Some(Good)]);
        finds(&[AT_ONCE, AT_ONCE], 9, &[Some(Good), None]);
        finds(&[Refuses, AT_ONCE, AT_ONCE], 9, &[Some(Failed), Some(Good), None]);
        finds(&[Down, AT_ONCE], 9, &[Some(Failed), Some(Good)]);
    }

    #[test]
    fn a_silent_address_leaves_time_for_the_others() {
        finds(&[Nothing, AT_ONCE], 9, &[Some(Silent), Some(Good)]);
        finds(&[Nothing, Nothing, AT_ONCE], 9, &[Some(Silent), None, Some(Good)]);
    }

    #[test]
    fn a_slow_first_one_has_all_of_the_time() {
        let slow = Up { after_ms: LIMIT_MS * 2 / 3 };
        finds(&[slow, Refuses], 9, &[Some(Good), Some(Failed)]);
    }

    #[test]
    fn all_are_tried_if_none_is_up() {
        finds(&[Refuses, Down, Refuses], 9, &[Some(Failed); 3]);
        finds(&[Nothing, Refuses], 9, &[Some(Silent), Some(Failed)]);
    }

    #[test]
    fn without_a_free_slot_only_the_first_is_tried() {
        finds(&[Refuses, AT_ONCE], 0, &[Some(Failed), None]);
    }
}
