//! Restarts without loss: handling of SIGUSR2, as the old process and as the new one.
//!
//! In: events of a running [`Process`]. Out: a new process that has taken over, or a refusal; both are reported in the log, in
//! `status`, and to the service manager. Next: `handover/` decides, `stop.rs` ends the old process.

use crate::config::Config;
use crate::control::lifecycle::failure::Failure;
use crate::control::lifecycle::handover::decide::{
    IncomingAction, IncomingEvent, OutgoingAction, OutgoingEvent,
};
use crate::control::lifecycle::handover::inherit::left_to;
use crate::control::lifecycle::handover::message::Inherited;
use crate::control::lifecycle::handover::predecessor::Predecessor;
use crate::control::lifecycle::handover::successor::Successor;
use crate::control::lifecycle::process::{Event, Process};
use crate::control::shortage::with_remedy;
use crate::control::state::{Control, LastRestart};
use crate::driver::socket::{Spread, Unbound};
use crate::exit;
use crate::relay::Left;
use std::time::{Duration, Instant};

/// How long a new process that has to exit may take beyond `shutdownTimeout`; then it is killed.
const OVERTIME: Duration = Duration::from_secs(1);

impl Process {
    /// SIGUSR2: starts a new process, or says why not.
    pub(in crate::control) fn ask_restart(&mut self) {
        let obstacle = self.obstacle();
        let taken = self.give(OutgoingEvent::Asked(obstacle));
        debug_assert!(taken.is_none(), "nobody takes over before it was started");
    }

    fn obstacle(&self) -> Option<&'static str> {
        obstacle(Circumstances {
            is_first_process: std::process::id() == 1,
            has_program: self.program.is_some(),
            is_stopping: self.control.stopping.get(),
            is_taking_over: self.predecessor.as_ref().is_some_and(|old| !old.is_complete()),
        })
    }

    /// Does what an event of a restart asks for. What the new process takes, if it has just taken over.
    pub(in crate::control) fn give(&mut self, event: OutgoingEvent) -> Option<Inherited> {
        match self.outgoing.on(event) {
            OutgoingAction::Nothing => {}
            OutgoingAction::Start => {
                self.clear_successor();
                return self.start_successor();
            }
            OutgoingAction::Refuse(why) => note(&self.control, Outcome::Refused, why),
            OutgoingAction::Defer => {
                let words = "starts after the process of the last one, which failed, has exited";
                note(&self.control, Outcome::UnderWay, words);
            }
            OutgoingAction::Go(taken) => {
                let state = self.control.carry();
                let told = self.successor.as_ref().map(|successor| successor.say_go(state));
                match told {
                    Some(Ok(())) => return Some(taken),
                    Some(Err(error)) => {
                        return self.give(OutgoingEvent::Failed(format!(
                            "it could not be told to take over: {error}"
                        )));
                    }
                    None => return self.give(OutgoingEvent::Failed("it has exited".to_owned())),
                }
            }
            OutgoingAction::Fail(why) => {
                self.give_grace();
                self.note_failure(&why);
            }
            OutgoingAction::Abort(why) => {
                self.note_failure(&why);
                self.abort_successor(why);
            }
            OutgoingAction::StartOver(why) => {
                note(&self.control, Outcome::UnderWay, &format!("{why}; starting a new process"));
                self.abort_successor(why.to_owned());
            }
            OutgoingAction::Kill => {
                if let Some(successor) = &mut self.successor {
                    successor.kill();
                }
            }
            OutgoingAction::GoOn(why) => {
                self.clear_successor();
                self.note_failure(&why);
            }
            OutgoingAction::Clear => self.clear_successor(),
        }
        None
    }

    /// A new process that does not take over has this long to relay what it received; then it is killed.
    fn give_grace(&mut self) {
        let grace = grace(&self.control.config());
        if let Some(successor) = &mut self.successor {
            successor.set_time(grace);
        }
    }

    fn abort_successor(&mut self, why: String) {
        if let Some(successor) = &mut self.successor {
            successor.say_abort(why);
        }
        self.give_grace();
    }

    /// The new process has exited: resets the shared sockets to this process's config.
    fn clear_successor(&mut self) {
        if self.successor.take().is_some() {
            self.held.restore(&self.control.config(), self.control.spread);
        }
    }

    /// Reports that a restart failed and that this process continues.
    fn note_failure(&self, why: &str) {
        if self.control.stopping.get() {
            note(&self.control, Outcome::Refused, "canceled by a stop");
            return;
        }
        note(&self.control, Outcome::Failed, why);
        self.control.notifier.ready();
        self.control.tell_status();
    }

    fn start_successor(&mut self) -> Option<Inherited> {
        let control = self.control.clone();
        control.notifier.reloading();
        let timeout = Duration::from_millis(control.config().handover_timeout_ms);
        let offer = self.held.offer(timeout, control.carry());
        let program = self.program.as_ref()?;
        let path = program.path.display().to_string();
        let started = self.held.duplicates().and_then(|sockets| Successor::start(program, offer, sockets));
        match started {
            Ok(successor) => {
                let words = format!("started process {}: {path}", successor.pid());
                note(&control, Outcome::UnderWay, &words);
                self.successor = Some(successor);
                self.reloads_at_start = control.reloads.get();
                None
            }
            Err(error) => {
                let taken =
                    self.give(OutgoingEvent::Failed(format!("cannot start {path}: {}", with_remedy(&error))));
                debug_assert!(taken.is_none());
                self.give(OutgoingEvent::Ended("was not started".to_owned()))
            }
        }
    }

    /// Ends a restart that is under way, because this process is to stop; the number of a signal that comes meanwhile.
    pub(in crate::control) async fn end_restart(&mut self) -> Option<u8> {
        if !self.outgoing.is_busy() {
            return None;
        }
        self.give(OutgoingEvent::Stop);
        while self.outgoing.is_busy() {
            match self.event().await {
                Event::Successor(event) => drop(self.give(event)),
                Event::Stop(Some(signal)) => {
                    if let Some(successor) = &mut self.successor {
                        successor.kill();
                    }
                    return Some(signal);
                }
                Event::Ended { .. } => {}
                event => self.decline(&event),
            }
        }
        None
    }

    /// Another process has taken over: it gets what is its own; the number of the process.
    pub(in crate::control) fn leave_to(&mut self, taken: &Inherited) -> u32 {
        let control = &self.control;
        let pid = self.successor.as_ref().map_or(0, Successor::pid);
        control.notifier.main_process(pid);
        control.taken_over_by.set(i32::try_from(pid).ok().filter(|pid| *pid > 0));
        let left = if self.held.is_data_activated() { Left::ALL } else { left_to(taken, &control.listen) };
        control.left.set(left);
        pid
    }

    /// Passes a signal to stop on to the process that has taken over: who asks this one means the proxy. `false` if there is
    /// none, or if it was told already.
    pub(in crate::control) fn pass_on(&mut self, signal: u8) -> bool {
        if !self.outgoing.is_gone() || std::mem::replace(&mut self.has_passed_on, true) {
            return false;
        }
        if let Some(successor) = &self.successor {
            tracing::info!("forwarding signal {signal} to process {}, which has taken over", successor.pid());
            successor.say_stop(signal);
        }
        true
    }

    /// As the new process: binds what is new, says that it receives, and waits until it is the proxy.
    pub(in crate::control) async fn take_over(&mut self, late: &[Unbound]) -> Result<(), Failure> {
        for socket in late {
            socket.bind().map_err(Failure::system)?;
        }
        let Some(old) = &mut self.predecessor else { return Ok(()) };
        let pid = old.offer.pid;
        let mut action = old.on(IncomingEvent::Armed);
        loop {
            match action {
                IncomingAction::SayReady => {
                    tracing::info!("restart: ready to take over from process {pid}");
                    if let Some(Err(error)) = self.predecessor.as_ref().map(|old| old.say_ready()) {
                        tracing::warn!("cannot notify process {pid} that this one is ready: {error}");
                    }
                }
                IncomingAction::Serve => {
                    note(&self.control, Outcome::UnderWay, &format!("taking over from process {pid}"));
                    break;
                }
                IncomingAction::ServeUnasked => {
                    note(
                        &self.control,
                        Outcome::Done,
                        &format!("process {pid} has exited; this one continues"),
                    );
                    break;
                }
                IncomingAction::Retire(why) => return Err(retired(&why)),
                IncomingAction::Nothing | IncomingAction::Complete | IncomingAction::Stop => {}
            }
            action = match self.event().await {
                Event::Predecessor(event) => {
                    self.predecessor.as_mut().map_or(IncomingAction::Nothing, |old| old.on(event))
                }
                Event::Ended { worker } => return Err(self.end_of(worker)),
                Event::Stop(_) => {
                    tracing::info!("stop requested; waiting for process {pid}");
                    self.predecessor
                        .as_mut()
                        .map_or(IncomingAction::Nothing, |old| old.on(IncomingEvent::Stop))
                }
                event => {
                    self.decline(&event);
                    IncomingAction::Nothing
                }
            };
        }
        if self.predecessor.as_ref().is_some_and(Predecessor::is_to_stop) {
            self.stop.notify_one();
        }
        if let Some(state) = self.predecessor.as_mut().and_then(|old| old.take_last_state()) {
            self.control.resume(&state);
            self.control.publish();
        }
        Ok(())
    }

    /// As the new process: what comes after it has taken over.
    pub(in crate::control) fn follow(&mut self, event: IncomingEvent) {
        let Some(old) = &mut self.predecessor else { return };
        let action = old.on(event);
        if action == IncomingAction::Stop {
            self.stop.notify_one();
        }
        if action == IncomingAction::Complete {
            let words = format!("complete: process {} has exited and this one has taken over", old.offer.pid);
            note(&self.control, Outcome::Done, &words);
            if self.control.spread == Spread::Datagram {
                self.held.spread_again();
            }
            // Notifications sent before the service manager knew this process may be lost.
            self.control.notifier.ready();
            self.control.tell_status();
        }
    }

    /// As the new process: tells the old one why this one ends, as long as it has not taken over.
    pub(in crate::control) fn refuse_old(&self, words: &str) {
        if let Some(old) = &self.predecessor {
            old.say_failed(words);
        }
    }

    /// A reload while this process starts or ends: it is meant for the serving process.
    fn decline_reload(&self) {
        match &self.successor {
            Some(successor) if self.outgoing.is_gone() => {
                tracing::info!("reload: forwarded to process {}, which has taken over", successor.pid());
                successor.ask_reload();
            }
            _ if self.control.stopping.get() => tracing::warn!("reload: refused: stopping"),
            _ => {
                // The file may have changed since it was read.
                self.reload_is_due.set(true);
                tracing::info!("reload: deferred until this process serves");
            }
        }
    }

    /// What is said to events that change nothing while this process starts or ends.
    pub(in crate::control) fn decline(&self, event: &Event) {
        match event {
            Event::Restart if self.outgoing.is_gone() => {
                note(&self.control, Outcome::Refused, "another process has taken over");
            }
            Event::Restart if self.control.stopping.get() => {
                note(&self.control, Outcome::Refused, "stopping");
            }
            Event::Restart => note(&self.control, Outcome::Refused, "still starting"),
            Event::Successor(OutgoingEvent::Ended(how)) if self.outgoing.is_gone() => {
                tracing::error!("the process that has taken over {how}; nothing is serving");
            }
            Event::Reload => self.decline_reload(),
            _ => {}
        }
    }
}

/// How long a new process may take to exit.
fn grace(config: &Config) -> Duration {
    Duration::from_millis(config.shutdown_timeout_ms) + OVERTIME
}

/// Why a process that was to take over ends.
pub(in crate::control) fn retired(why: &str) -> Failure {
    let words = format!("process {} exits, and the old one continues: {why}", std::process::id());
    Failure { words, code: exit::OK }
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
fn note(control: &Control, outcome: Outcome, words: &str) {
    let words = match outcome {
        Outcome::UnderWay | Outcome::Done => words.to_owned(),
        Outcome::Refused => format!("refused: {words}"),
        Outcome::Failed => format!("failed, and process {} continues: {words}", std::process::id()),
    };
    match outcome {
        Outcome::UnderWay => tracing::info!(restart = "under way", "restart: {words}"),
        Outcome::Done => tracing::info!(restart = "complete", "restart: {words}"),
        Outcome::Refused => tracing::warn!(restart = "refused", "restart: {words}"),
        Outcome::Failed => tracing::error!(restart = "failed", "restart: {words}"),
    }
    let is_under_way = outcome == Outcome::UnderWay;
    let mut last = control.last_restart.borrow_mut();
    // A refused second request does not hide the state of the first one.
    if outcome != Outcome::Refused || last.as_ref().is_none_or(|last| !last.is_under_way) {
        *last = Some(LastRestart { at: Instant::now(), words, is_under_way });
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
