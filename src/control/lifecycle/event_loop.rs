//! Runs a process until its end: takes events, has `phase.rs` decide, and does what follows.
//!
//! Invariant: every event goes through [`on`]; nothing is decided here. Next: `restart.rs` and `stop.rs` do the actions.

use crate::control::lifecycle::failure::Failure;
use crate::control::lifecycle::handover::decide::OutgoingEvent;
use crate::control::lifecycle::phase::{Action, Event, Phase, on};
use crate::control::lifecycle::process::Process;
use crate::control::lifecycle::stop::OVERTIME;
use crate::control::service::admin_listeners::AdminListeners;
use crate::control::{net, reload};
use std::time::Duration;
use tokio::time::timeout_at;

/// How long the workers may take to arm their receives.
const READY: Duration = Duration::from_secs(30);

impl Process {
    /// Runs until the end; the exit code. `begin` is called once, when this process is to serve; never if the start fails.
    pub(in crate::control) async fn run(
        &mut self,
        begin: impl FnOnce(&Process) -> Result<AdminListeners, Failure>,
    ) -> u8 {
        let mut begin = Some(begin);
        self.set_time_limit(READY);
        while self.phase != Phase::Ended {
            let Some(event) = self.next_event().await else { continue };
            let before = self.phase;
            let (phase, actions) = on(before, event);
            self.phase = phase;
            for action in actions {
                if action == Action::Serve {
                    self.serve(begin.take());
                } else {
                    self.execute(before, action).await;
                }
            }
        }
        if let Some(admin_listeners) = self.admin_listeners.take() {
            admin_listeners.close().await;
        }
        self.exit_code
    }

    /// What follows from the state of the parts, or else the next event from outside, or the end of the time. `None` if it
    /// needs no decision.
    async fn next_event(&mut self) -> Option<Event> {
        if let Some(event) = self.pending.pop_front() {
            return Some(event);
        }
        match self.phase {
            Phase::Arming { .. } if self.are_all_armed() => return Some(Event::Armed),
            Phase::Withdrawing { .. } if !self.outgoing.is_busy() => return Some(Event::RestartOver),
            phase if phase.is_draining() && self.ended.iter().all(Option::is_some) => {
                return Some(Event::AllEnded);
            }
            _ => {}
        }
        let Some((deadline, _)) = self.deadline else { return self.event().await };
        timeout_at(deadline, self.event()).await.unwrap_or(Some(Event::TimeOver))
    }

    fn are_all_armed(&self) -> bool {
        self.control.worker_handles.iter().all(|worker_handle| worker_handle.driver_info.borrow().is_some())
    }

    /// Goes on from what the old process knew, and begins.
    fn serve(&mut self, begin: Option<impl FnOnce(&Process) -> Result<AdminListeners, Failure>>) {
        self.inherit();
        match begin.map(|begin| begin(self)) {
            Some(Ok(admin_listeners)) => self.admin_listeners = Some(admin_listeners),
            Some(Err(failure)) => self.pending.push_front(Event::Failed(failure)),
            None => {}
        }
    }

    /// Does `action`, which followed from an event in the phase `before`.
    async fn execute(&mut self, before: Phase, action: Action) {
        match action {
            Action::Offer => {
                self.deadline = None;
                self.offer();
            }
            Action::Incoming(event) => self.advance_incoming(event),
            Action::Outgoing(event) => self.on_outgoing(event),
            // It is done where the way to begin is known.
            Action::Serve => {}
            Action::Reload => self.reload(),
            Action::DeferReload => tracing::info!("reload: deferred until this process serves"),
            Action::ForwardReload => self.forward_reload(),
            Action::RefuseReload(why) => tracing::warn!("reload: refused: {why}"),
            Action::Restart => self.restart(),
            Action::RefuseRestart(why) => self.refuse_restart(why),
            Action::BeginStop(signal) => self.begin_stop(signal),
            Action::Fail(worker) => self.fail(worker),
            Action::EndRestart => self.end_restart(),
            Action::Delay => self.delay(),
            Action::Drain => self.drain(OVERTIME),
            Action::Leave(taken) => self.leave(&taken).await,
            Action::Abandon(cause) => self.abandon(cause),
            Action::ForwardStop(signal) => self.forward_signal(signal),
            Action::LogWorkerEnd(worker) => self.log_worker_end(worker),
            Action::ReportSuccessorLost(how) => {
                tracing::error!("the process that has taken over {how}; nothing is serving");
            }
            Action::KillSuccessor => self.kill_successor(),
            Action::ExitNow(signal) => self.exit_now(before, signal),
            Action::ExitTimedOut => self.exit_timed_out(),
            Action::Exit => self.exit(),
        }
    }

    /// Passes an event on to the old side of the handover.
    fn on_outgoing(&mut self, event: OutgoingEvent) {
        if let Some(taken) = self.advance_outgoing(event) {
            self.pending.push_back(Event::TakenOver(taken));
        }
    }

    fn reload(&self) {
        let control = self.control.clone();
        // Both outcomes go to the log there.
        net::spawn(async move { drop(reload::reload(&control).await) });
    }
}
