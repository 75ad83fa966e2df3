//! The phases of a process that runs: until its workers are ready, and until it is to end.
//!
//! In: a started [`Process`], its events. Out: an exit code (`exit.rs`). The stop is `stop.rs`, a restart without loss
//! `restart.rs`.

use crate::control::lifecycle::failure::Failure;
use crate::control::lifecycle::handover::decide::IncomingAction;
use crate::control::lifecycle::process::{Event, Process};
use crate::control::lifecycle::restart;
use crate::control::lifecycle::stop;
use crate::control::net;
use crate::control::reload;
use crate::control::service::admin_listeners::AdminListeners;
use crate::exit;
use std::time::Duration;

/// How long the workers may take to arm their receives.
const READY: Duration = Duration::from_secs(30);

impl Process {
    /// Waits until every worker's receive is armed.
    pub(in crate::control) async fn armed(&mut self) -> Result<(), Failure> {
        if let Some(obstacle) = self.obstacle.take() {
            return Err(obstacle);
        }
        let deadline = net::deadline_in(READY);
        while self.control.seats.iter().any(|seat| seat.facts.borrow().is_none()) {
            match tokio::time::timeout_at(deadline, self.event()).await {
                Ok(Event::Ended { worker }) => return Err(self.end_of(worker)),
                Ok(Event::Stop(_)) => {
                    return Err(Failure { words: "stopped before ready".to_owned(), code: exit::OK });
                }
                Ok(Event::Predecessor(event)) => {
                    let old = self.predecessor.as_mut();
                    if let Some(IncomingAction::Retire(why)) = old.map(|old| old.on(event)) {
                        return Err(restart::retired(&why));
                    }
                }
                Ok(event) => self.decline(&event),
                Err(_) => return Err(Failure::system("the workers did not start receiving in time")),
            }
        }
        Ok(())
    }

    /// Runs until the end; the exit code.
    pub(in crate::control) async fn serve(&mut self, doors: AdminListeners) -> u8 {
        if self.reload_is_due.take() {
            self.start_reload();
        }
        let code = loop {
            match self.event().await {
                Event::Reload => self.start_reload(),
                Event::Noted => {}
                Event::Restart => self.ask_restart(),
                Event::Successor(event) => {
                    if let Some(taken) = self.give(event) {
                        doors.leave(&taken.admin).await;
                        return stop::leave(self, &taken).await;
                    }
                }
                Event::Predecessor(event) => self.follow(event),
                Event::Stop(signal) => break stop::stop(self, signal).await,
                Event::Ended { worker } => {
                    let failure = self.end_of(worker);
                    break stop::fail(self, failure).await;
                }
            }
        };
        doors.close().await;
        code
    }

    fn start_reload(&self) {
        let control = self.control.clone();
        // Both outcomes go to the log there.
        net::spawn(async move { drop(reload::reload(&control).await) });
    }
}
