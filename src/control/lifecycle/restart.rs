//! Restarts without loss: handling of SIGUSR2, as the old process and as the new one.
//!
//! In: actions that `phase.rs` asks a running [`Process`] for. Out: a new process that has taken over, or a refusal; both are
//! reported in the log, in `status`, and to the service manager. Next: `handover/` decides, `stop.rs` ends the old process.

use crate::config::Config;
use crate::control::lifecycle::failure::Failure;
use crate::control::lifecycle::handover::decide::{
    IncomingAction, IncomingEvent, OutgoingAction, OutgoingEvent,
};
use crate::control::lifecycle::handover::inherit::left_to;
use crate::control::lifecycle::handover::message::Inherited;
use crate::control::lifecycle::handover::successor::Successor;
use crate::control::lifecycle::phase::{Event, Phase};
use crate::control::lifecycle::process::Process;
use crate::control::shortage::with_remedy;
use crate::control::state::{Control, LastRestart};
use crate::driver::socket::Spread;
use crate::relay::Left;
use std::time::{Duration, Instant};

/// How long a new process that has to exit may take beyond `shutdownTimeout`; then it is killed.
const OVERTIME: Duration = Duration::from_secs(1);

impl Process {
    /// SIGUSR2: starts a new process, or reports why not.
    pub(in crate::control) fn restart(&mut self) {
        let obstacle = self.obstacle();
        let taken = self.advance_outgoing(OutgoingEvent::Requested(obstacle));
        debug_assert!(taken.is_none(), "nobody takes over before it was started");
    }

    fn obstacle(&self) -> Option<&'static str> {
        obstacle(Circumstances {
            is_first_process: std::process::id() == 1,
            has_program: self.program.is_some(),
            is_stopping: self.control.is_stopping(),
            is_taking_over: self.predecessor.as_ref().is_some_and(|old| !old.is_complete()),
        })
    }

    /// Does what an event of a restart asks for. What the new process takes, if it has just taken over.
    pub(in crate::control) fn advance_outgoing(&mut self, event: OutgoingEvent) -> Option<Inherited> {
        match self.outgoing.on(event) {
            OutgoingAction::Nothing => {}
            OutgoingAction::Start => {
                self.clear_successor();
                return self.start_successor();
            }
            OutgoingAction::Refuse(why) => note(&self.control, Outcome::Refused, why),
            OutgoingAction::Defer => {
                let message = "deferred until the process of the last restart, which failed, has exited";
                note(&self.control, Outcome::UnderWay, message);
            }
            OutgoingAction::SendGo(taken) => {
                let state = self.control.carry();
                let sent = self.successor.as_ref().map(|successor| successor.send_go(state));
                match sent {
                    Some(Ok(())) => return Some(taken),
                    Some(Err(error)) => {
                        return self.advance_outgoing(OutgoingEvent::Failed(format!(
                            "cannot order it to take over: {error}"
                        )));
                    }
                    None => return self.advance_outgoing(OutgoingEvent::Failed("it has exited".to_owned())),
                }
            }
            OutgoingAction::Fail(why) => {
                self.limit_exit();
                self.report_failure(&why);
            }
            OutgoingAction::Abort(why) => {
                self.report_failure(&why);
                self.abort_successor(why);
            }
            OutgoingAction::StartOver(why) => {
                note(&self.control, Outcome::UnderWay, &format!("{why}; starting a new process"));
                self.abort_successor(why.to_owned());
            }
            OutgoingAction::Kill => self.kill_successor(),
            OutgoingAction::Continue(why) => {
                self.clear_successor();
                self.report_failure(&why);
            }
            OutgoingAction::Clear => self.clear_successor(),
        }
        None
    }

    /// A new process that does not take over has this long to relay what it received; then it is killed.
    fn limit_exit(&mut self) {
        let grace = grace(&self.control.config());
        if let Some(successor) = &mut self.successor {
            successor.set_time_limit(grace);
        }
    }

    fn abort_successor(&mut self, why: String) {
        if let Some(successor) = &mut self.successor {
            successor.send_abort(why);
        }
        self.limit_exit();
    }

    /// The new process has exited: resets the shared sockets to this process's config.
    fn clear_successor(&mut self) {
        if self.successor.take().is_some() {
            self.listener_set.restore(&self.control.config(), self.control.spread.get());
        }
    }

    /// Reports that a restart failed and that this process continues.
    fn report_failure(&self, why: &str) {
        if self.control.is_stopping() {
            note(&self.control, Outcome::Refused, "canceled by a stop");
            return;
        }
        note(&self.control, Outcome::Failed, why);
        self.control.notifier.ready();
        self.control.notify_status();
    }

    fn start_successor(&mut self) -> Option<Inherited> {
        let control = self.control.clone();
        control.notifier.reloading();
        let timeout = Duration::from_millis(control.config().handover_timeout_ms);
        let offer = self.listener_set.offer(timeout, control.carry());
        let program = self.program.as_ref()?;
        let path = program.path.display().to_string();
        let started =
            self.listener_set.duplicates().and_then(|sockets| Successor::start(program, offer, sockets));
        match started {
            Ok(successor) => {
                let message = format!("started process {}: {path}", successor.pid());
                note(&control, Outcome::UnderWay, &message);
                self.successor = Some(successor);
                self.reloads_at_start = control.reloads.get();
                None
            }
            Err(error) => {
                let taken = self.advance_outgoing(OutgoingEvent::Failed(format!(
                    "cannot start {path}: {}",
                    with_remedy(&error)
                )));
                debug_assert!(taken.is_none());
                self.advance_outgoing(OutgoingEvent::Exited("was not started".to_owned()))
            }
        }
    }

    /// Ends a restart that is under way, because this process is to stop.
    pub(in crate::control) fn end_restart(&mut self) {
        if self.outgoing.is_busy() {
            self.advance_outgoing(OutgoingEvent::Stop);
        }
    }

    /// Ends a new process by force.
    pub(in crate::control) fn kill_successor(&mut self) {
        if let Some(successor) = &mut self.successor {
            successor.kill();
        }
    }

    /// Another process has taken over: it gets what is its own; the number of the process.
    pub(in crate::control) fn leave_to(&mut self, taken: &Inherited) -> u32 {
        let control = &self.control;
        let pid = self.successor.as_ref().map_or(0, Successor::pid);
        control.notifier.main_process(pid);
        control.taken_over_by.set(i32::try_from(pid).ok().filter(|pid| *pid > 0));
        let left =
            if self.listener_set.is_data_activated() { Left::ALL } else { left_to(taken, &control.listen) };
        control.left.set(left);
        pid
    }

    /// Passes a signal to stop on to the process that has taken over.
    pub(in crate::control) fn forward_signal(&self, signal: u8) {
        if let Some(successor) = &self.successor {
            tracing::info!("forwarding signal {signal} to process {}, which has taken over", successor.pid());
            successor.send_stop(signal);
        }
    }

    /// Has the process that has taken over read its config again.
    pub(in crate::control) fn forward_reload(&self) {
        if let Some(successor) = &self.successor {
            tracing::info!("reload: forwarded to process {}, which has taken over", successor.pid());
            successor.request_reload();
        }
    }

    /// Says why no restart is begun.
    pub(in crate::control) fn refuse_restart(&self, why: &str) {
        note(&self.control, Outcome::Refused, why);
    }

    /// Every receive is armed: binds new sockets, and notifies the old process, if there is one.
    pub(in crate::control) fn offer(&mut self) {
        for socket in std::mem::take(&mut self.late) {
            if let Err(error) = socket.bind() {
                return self.pending.push_back(Event::Failed(Failure::system(error)));
            }
        }
        match self.predecessor {
            Some(_) => self.advance_incoming(IncomingEvent::Armed),
            None => self.pending.push_back(Event::Go),
        }
    }

    /// As the new process: does what an event of the handover asks for.
    pub(in crate::control) fn advance_incoming(&mut self, event: IncomingEvent) {
        let Some(old) = &mut self.predecessor else { return };
        let pid = old.offer.pid;
        if event == IncomingEvent::Stop && matches!(self.phase, Phase::Offering { .. }) {
            tracing::info!("stop requested; waiting for process {pid}");
        }
        match old.on(event) {
            IncomingAction::Nothing => {}
            IncomingAction::SendReady => {
                tracing::info!("restart: ready to take over from process {pid}");
                if let Err(error) = old.send_ready() {
                    tracing::warn!("cannot notify process {pid} that this one is ready: {error}");
                }
            }
            IncomingAction::Serve => {
                note(&self.control, Outcome::UnderWay, &format!("taking over from process {pid}"));
                self.pending.push_back(Event::Go);
            }
            IncomingAction::ServeWithoutGo => {
                note(&self.control, Outcome::Done, &format!("process {pid} has exited; this one continues"));
                self.pending.push_back(Event::Go);
            }
            IncomingAction::Retire(why) => self.pending.push_back(Event::Retire(why)),
            IncomingAction::Stop => self.pending.push_back(Event::Stop(None)),
            IncomingAction::Complete => self.complete(pid),
        }
    }

    /// As the new process: continues from the last state of the old one, and stops if that was requested meanwhile.
    pub(in crate::control) fn inherit(&mut self) {
        let Some(old) = &mut self.predecessor else { return };
        if old.is_stop_pending() {
            self.pending.push_back(Event::Stop(None));
        }
        if let Some(state) = old.take_last_state() {
            self.control.resume(&state);
            self.control.publish();
        }
    }

    /// As the new process: the old one has exited.
    fn complete(&self, pid: u32) {
        let message = format!("complete: process {pid} has exited and this one has taken over");
        note(&self.control, Outcome::Done, &message);
        // The old process undid it when it fenced sockets of its own.
        let spread = self.control.spread.get();
        if spread != Spread::Flow
            && let Err(message) = self.listener_set.distribute(spread)
        {
            tracing::warn!("{message}");
            self.control.spread.set(Spread::Flow);
            self.control.degraded.borrow_mut().push(message);
        }
        // Notifications sent before the service manager knew this process may have been ignored.
        self.control.notifier.ready();
        self.control.notify_status();
    }

    /// As the new process: tells the old one why this one ends, as long as it has not taken over.
    pub(in crate::control) fn report_to_old(&self, message: &str) {
        if let Some(old) = &self.predecessor {
            old.send_failed(message);
        }
    }
}

/// How long a new process may take to exit.
fn grace(config: &Config) -> Duration {
    Duration::from_millis(config.shutdown_timeout_ms) + OVERTIME
}

/// Conditions for a restart.
struct Circumstances {
    is_first_process: bool,
    has_program: bool,
    is_stopping: bool,
    is_taking_over: bool,
}

fn obstacle(circumstances: Circumstances) -> Option<&'static str> {
    match circumstances {
        Circumstances { is_stopping: true, .. } => Some("stopping"),
        Circumstances { is_first_process: true, .. } => Some(
            "this is process 1, so the container would end with it: start a new container instead, or use socket activation",
        ),
        Circumstances { has_program: false, .. } => Some("the command that started it is not known"),
        Circumstances { is_taking_over: true, .. } => {
            Some("the last restart is not complete: the old process has not exited yet")
        }
        _ => None,
    }
}

/// State of a restart.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    UnderWay,
    Done,
    Refused,
    Failed,
}

/// Reports it in the log and in `status`.
fn note(control: &Control, outcome: Outcome, message: &str) {
    let message = match outcome {
        Outcome::UnderWay | Outcome::Done => message.to_owned(),
        Outcome::Refused => format!("refused: {message}"),
        Outcome::Failed => format!("failed, and process {} continues: {message}", std::process::id()),
    };
    match outcome {
        Outcome::UnderWay => tracing::info!(restart = "under way", "restart: {message}"),
        Outcome::Done => tracing::info!(restart = "complete", "restart: {message}"),
        Outcome::Refused => tracing::warn!(restart = "refused", "restart: {message}"),
        Outcome::Failed => {
            for line in message.lines() {
                tracing::error!(restart = "failed", "restart: {}", line.trim_start());
            }
        }
    }
    let is_under_way = outcome == Outcome::UnderWay;
    let mut last = control.last_restart.borrow_mut();
    // A refused second request does not hide the state of the first one.
    if outcome != Outcome::Refused || last.as_ref().is_none_or(|last| !last.is_under_way) {
        *last = Some(LastRestart { at: Instant::now(), message, is_under_way });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_first_process_is_not_restarted() {
        let fine = || Circumstances {
            is_first_process: false,
            has_program: true,
            is_stopping: false,
            is_taking_over: false,
        };
        assert_eq!(obstacle(fine()), None);
        let first = obstacle(Circumstances { is_first_process: true, ..fine() }).unwrap();
        assert!(first.contains("process 1"), "{first}");
        assert!(obstacle(Circumstances { has_program: false, ..fine() }).is_some());
        assert!(obstacle(Circumstances { is_stopping: true, ..fine() }).unwrap().contains("stop"));
        assert!(obstacle(Circumstances { is_taking_over: true, ..fine() }).unwrap().contains("not complete"));
    }
}
