//! The phases of the process's life, as one pure state machine: [`on`] maps every phase and every event to the next phase and its actions.
//!
//! Invariants: a reload is carried out, deferred, forwarded or refused, and one that was deferred is answered before its
//! phase ends; a stop is honoured in every phase; a restart is begun, or refused with a reason. No pair of a phase and an
//! event falls into a wildcard. `event_loop.rs` executes the actions; the simulation drives the same function.
//!
//! ```text
//! phase         Reload   Restart  Stop                  worker ends  leaves for
//! Arming        deferred refused  Abandoning            Abandoning   Offering (armed)
//! Offering      deferred refused  asks the predecessor  Abandoning   Serving (go), Abandoning (abort)
//! Serving       done     begun    Withdrawing           Withdrawing  Leaving (taken over)
//! Withdrawing   refused  refused  Ended                 fails        Delaying, Draining (no new process is left)
//! Delaying      refused  refused  Ended                 Draining     Draining (shutdownDelay is over)
//! Draining      refused  refused  Ended                 noted        Ended (all workers ended, or time over)
//! Leaving       forward  refused  forward, then Ended   noted        Ended (all workers ended, or time over)
//! Abandoning    refused  refused  Ended                 noted        Ended (all workers ended, or time over)
//! ```

use crate::control::lifecycle::failure::Failure;
use crate::control::lifecycle::handover::decide::{IncomingEvent, OutgoingEvent};
use crate::control::lifecycle::handover::message::Inherited;
use crate::exit;

/// Why a restart is refused before the process serves.
const STARTING: &str = "still starting";
/// Why a reload or a restart is refused during a stop.
const STOPPING: &str = "stopping";
/// Why a restart is refused after a handover.
const TAKEN_OVER: &str = "another process has taken over";
/// Why a reload or a restart is refused after a start that failed.
const ABANDONED: &str = "this process exits before it serves";

/// A phase of the process's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The workers arm their receives.
    Arming {
        /// A reload was requested, and follows when this process serves.
        is_reload_due: bool,
    },
    /// Every receive is armed; the process that this one takes over from, if there is one, decides.
    Offering {
        /// A reload was requested, and follows when this process serves.
        is_reload_due: bool,
    },
    /// It serves.
    Serving,
    /// It is to end, and a restart that was under way ends first.
    Withdrawing {
        /// A worker has failed: metrics are not forwarded for another `shutdownDelay`.
        has_failed: bool,
    },
    /// A stop was requested, and metrics are forwarded for another `shutdownDelay`.
    Delaying,
    /// The workers relay what they hold, and end.
    Draining,
    /// Another process has taken over; the workers relay what they hold, and end.
    Leaving {
        /// A signal to stop was forwarded to the other process.
        is_stop_forwarded: bool,
    },
    /// The start failed; the workers relay what they hold, and end.
    Abandoning,
    /// The process exits.
    Ended,
}

impl Phase {
    /// The first one.
    pub const START: Phase = Phase::Arming { is_reload_due: false };

    /// Whether it does not serve yet.
    pub fn is_starting(self) -> bool {
        matches!(self, Phase::Arming { .. } | Phase::Offering { .. })
    }

    /// Whether the workers were ordered to end.
    pub fn is_draining(self) -> bool {
        matches!(self, Phase::Draining | Phase::Leaving { .. } | Phase::Abandoning)
    }
}

/// Events of the process.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Every worker's receive is armed.
    Armed,
    /// SIGHUP.
    Reload,
    /// SIGUSR2.
    Restart,
    /// A stop was requested: the signal's number, or `None` if it was requested from within the process.
    Stop(Option<u8>),
    /// This worker's thread ended.
    WorkerEnded(usize),
    /// Every worker has ended.
    AllEnded,
    /// The process that is to take over from this one reported an event.
    Successor(OutgoingEvent),
    /// An event of the process that this one takes over from.
    Predecessor(IncomingEvent),
    /// This process is now the proxy.
    Go,
    /// The old process continues, for this reason.
    Retire(String),
    /// A step of the start failed.
    Failed(Failure),
    /// Another process is now the proxy, with these sockets.
    TakenOver(Inherited),
    /// No restart is under way, or not any more.
    RestartOver,
    /// The time of the phase is over.
    TimeOver,
}

/// Why a start is abandoned.
#[derive(Clone, Debug, PartialEq)]
pub enum Cause {
    /// A stop was requested.
    Stopped,
    /// This worker ended.
    Worker(usize),
    /// The workers took too long.
    TooLate,
    /// The old process continues.
    Retired(String),
    /// A step of the start failed.
    Failed(Failure),
}

impl Cause {
    /// The message and the exit code; `of_worker` provides those of a worker that ended.
    pub fn failure(self, of_worker: impl FnOnce(usize) -> Failure) -> Failure {
        let no_error = |message| Failure { message, code: exit::OK };
        match self {
            Cause::Stopped => no_error("stopped before ready".to_owned()),
            Cause::Worker(worker) => of_worker(worker),
            Cause::TooLate => Failure::system("the workers did not start receiving in time"),
            Cause::Retired(why) => {
                no_error(format!("process {} exits, and the old one continues: {why}", std::process::id()))
            }
            Cause::Failed(failure) => failure,
        }
    }
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Bind what is bound late, and send "ready" to the process that this one takes over from. [`Event::Go`] follows at once
    /// if there is none.
    Offer,
    /// Pass an event to the new side of the handover ([`IncomingHandover`](crate::control::lifecycle::handover::decide::IncomingHandover)).
    Incoming(IncomingEvent),
    /// Pass an event to the old side of the handover ([`OutgoingHandover`](crate::control::lifecycle::handover::decide::OutgoingHandover)).
    Outgoing(OutgoingEvent),
    /// Begin to serve.
    Serve,
    /// Read the config again.
    Reload,
    /// Report that a reload follows when this process serves.
    DeferReload,
    /// Have the process that has taken over read its config again.
    ForwardReload,
    /// Report why a reload is refused.
    RefuseReload(&'static str),
    /// Start a process that takes over, or report why not.
    Restart,
    /// Report why a restart is refused.
    RefuseRestart(&'static str),
    /// Report that a stop begins, and the signal.
    BeginStop(Option<u8>),
    /// Report that this worker failed, and that the process exits.
    Fail(usize),
    /// End a restart that is under way; [`Event::RestartOver`] follows.
    EndRestart,
    /// Continue for `shutdownDelay`; then comes [`Event::TimeOver`].
    Delay,
    /// Order the workers to end.
    Drain,
    /// Leave the sockets to the process that has taken over, and order the workers to end.
    Leave(Inherited),
    /// Report why the start failed, to the operator and the old process, and order the workers to end.
    Abandon(Cause),
    /// Forward a signal to stop to the process that has taken over.
    ForwardStop(u8),
    /// Report how a worker ended, if that is an error.
    LogWorkerEnd(usize),
    /// Report that the process that has taken over has ended, as described.
    ReportSuccessorLost(String),
    /// Kill a new process.
    KillSuccessor,
    /// Report the counters; the exit code is that of the signal.
    ExitNow(u8),
    /// Report the counters; the workers did not end in time.
    ExitTimedOut,
    /// Report the counters; the exit code depends on how the workers ended.
    Exit,
}

/// The next phase, and the actions, for `event` in `phase`.
pub fn on(phase: Phase, event: Event) -> (Phase, Vec<Action>) {
    match phase {
        Phase::Arming { is_reload_due } | Phase::Offering { is_reload_due } => {
            in_start(phase, is_reload_due, event)
        }
        Phase::Serving => in_service(event),
        Phase::Withdrawing { has_failed } => in_withdrawal(has_failed, event),
        Phase::Delaying => in_delay(event),
        Phase::Draining => in_drain(phase, STOPPING, event),
        Phase::Leaving { is_stop_forwarded } => in_leave(is_stop_forwarded, event),
        Phase::Abandoning => in_drain(phase, ABANDONED, event),
        // No event is read any more.
        Phase::Ended => (Phase::Ended, Vec::new()),
    }
}

/// In [`Phase::Arming`] and [`Phase::Offering`].
fn in_start(phase: Phase, is_reload_due: bool, event: Event) -> (Phase, Vec<Action>) {
    let is_armed = matches!(phase, Phase::Offering { .. });
    let abandon = |cause| {
        let refusal = is_reload_due.then_some(Action::RefuseReload(ABANDONED));
        (Phase::Abandoning, refusal.into_iter().chain([Action::Abandon(cause)]).collect())
    };
    match event {
        Event::Armed if is_armed => (phase, Vec::new()),
        Event::Armed => (Phase::Offering { is_reload_due }, vec![Action::Offer]),
        Event::Reload if is_armed => (Phase::Offering { is_reload_due: true }, vec![Action::DeferReload]),
        Event::Reload => (Phase::Arming { is_reload_due: true }, vec![Action::DeferReload]),
        Event::Restart => (phase, vec![Action::RefuseRestart(STARTING)]),
        // "Go" may be on its way: then this one stops as the proxy.
        Event::Stop(_) if is_armed => (phase, vec![Action::Incoming(IncomingEvent::Stop)]),
        Event::Stop(_) => abandon(Cause::Stopped),
        Event::WorkerEnded(worker) => abandon(Cause::Worker(worker)),
        Event::Predecessor(event) => (phase, vec![Action::Incoming(event)]),
        Event::Go => {
            let reload = is_reload_due.then_some(Action::Reload);
            (Phase::Serving, [Action::Serve].into_iter().chain(reload).collect())
        }
        Event::Retire(why) => abandon(Cause::Retired(why)),
        Event::Failed(failure) => abandon(Cause::Failed(failure)),
        Event::TimeOver if is_armed => (phase, Vec::new()),
        Event::TimeOver => abandon(Cause::TooLate),
        // No new process was started, and each worker's end comes first.
        Event::Successor(_) | Event::TakenOver(_) | Event::RestartOver | Event::AllEnded => {
            (phase, Vec::new())
        }
    }
}

fn in_service(event: Event) -> (Phase, Vec<Action>) {
    let phase = Phase::Serving;
    match event {
        Event::Reload => (phase, vec![Action::Reload]),
        Event::Restart => (phase, vec![Action::Restart]),
        Event::Stop(signal) => {
            (Phase::Withdrawing { has_failed: false }, vec![Action::BeginStop(signal), Action::EndRestart])
        }
        Event::WorkerEnded(worker) => {
            (Phase::Withdrawing { has_failed: true }, vec![Action::Fail(worker), Action::EndRestart])
        }
        Event::Successor(event) => (phase, vec![Action::Outgoing(event)]),
        Event::Predecessor(event) => (phase, vec![Action::Incoming(event)]),
        Event::TakenOver(taken) => (Phase::Leaving { is_stop_forwarded: false }, vec![Action::Leave(taken)]),
        Event::Failed(failure) => (Phase::Abandoning, vec![Action::Abandon(Cause::Failed(failure))]),
        // The start is over, and no time is set.
        Event::Armed
        | Event::Go
        | Event::Retire(_)
        | Event::RestartOver
        | Event::AllEnded
        | Event::TimeOver => (phase, Vec::new()),
    }
}

fn in_withdrawal(has_failed: bool, event: Event) -> (Phase, Vec<Action>) {
    let phase = Phase::Withdrawing { has_failed };
    match event {
        Event::Reload => (phase, vec![Action::RefuseReload(STOPPING)]),
        Event::Restart => (phase, vec![Action::RefuseRestart(STOPPING)]),
        Event::Stop(Some(signal)) => (Phase::Ended, vec![Action::KillSuccessor, Action::ExitNow(signal)]),
        Event::WorkerEnded(worker) if has_failed => (phase, vec![Action::LogWorkerEnd(worker)]),
        Event::WorkerEnded(worker) => (Phase::Withdrawing { has_failed: true }, vec![Action::Fail(worker)]),
        Event::Successor(event) => (phase, vec![Action::Outgoing(event)]),
        Event::RestartOver if has_failed => (Phase::Draining, vec![Action::Drain]),
        Event::RestartOver => (Phase::Delaying, vec![Action::Delay]),
        // A stop is under way, so a request from within changes nothing, nor does the old process.
        Event::Stop(None) | Event::Predecessor(_) => (phase, Vec::new()),
        // The handover sends no "go" after a stop, and the start is over.
        Event::TakenOver(_)
        | Event::Failed(_)
        | Event::Armed
        | Event::Go
        | Event::Retire(_)
        | Event::AllEnded
        | Event::TimeOver => (phase, Vec::new()),
    }
}

fn in_delay(event: Event) -> (Phase, Vec<Action>) {
    let phase = Phase::Delaying;
    match event {
        Event::Reload => (phase, vec![Action::RefuseReload(STOPPING)]),
        Event::Restart => (phase, vec![Action::RefuseRestart(STOPPING)]),
        Event::Stop(Some(signal)) => (Phase::Ended, vec![Action::ExitNow(signal)]),
        Event::WorkerEnded(worker) => (Phase::Draining, vec![Action::Fail(worker), Action::Drain]),
        Event::TimeOver => (Phase::Draining, vec![Action::Drain]),
        // A stop is under way, so a request from within changes nothing, nor does the old process.
        Event::Stop(None) | Event::Predecessor(_) => (phase, Vec::new()),
        // No new process is left, and the start is over.
        Event::Successor(_)
        | Event::TakenOver(_)
        | Event::RestartOver
        | Event::Failed(_)
        | Event::Armed
        | Event::Go
        | Event::Retire(_)
        | Event::AllEnded => (phase, Vec::new()),
    }
}

/// In [`Phase::Draining`] and [`Phase::Abandoning`]; `why` a reload or a restart is refused.
fn in_drain(phase: Phase, why: &'static str, event: Event) -> (Phase, Vec<Action>) {
    match event {
        Event::Reload => (phase, vec![Action::RefuseReload(why)]),
        Event::Restart => (phase, vec![Action::RefuseRestart(why)]),
        Event::Stop(Some(signal)) => (Phase::Ended, vec![Action::ExitNow(signal)]),
        Event::WorkerEnded(worker) => (phase, vec![Action::LogWorkerEnd(worker)]),
        Event::AllEnded => (Phase::Ended, vec![Action::Exit]),
        Event::TimeOver => (Phase::Ended, vec![Action::ExitTimedOut]),
        // The process ends already, whatever is requested internally or by the old process.
        Event::Stop(None) | Event::Predecessor(_) => (phase, Vec::new()),
        // No new process is left, and the start is over.
        Event::Successor(_)
        | Event::TakenOver(_)
        | Event::RestartOver
        | Event::Failed(_)
        | Event::Armed
        | Event::Go
        | Event::Retire(_) => (phase, Vec::new()),
    }
}

fn in_leave(is_stop_forwarded: bool, event: Event) -> (Phase, Vec<Action>) {
    let phase = Phase::Leaving { is_stop_forwarded };
    match event {
        Event::Reload => (phase, vec![Action::ForwardReload]),
        Event::Restart => (phase, vec![Action::RefuseRestart(TAKEN_OVER)]),
        Event::Stop(Some(signal)) if is_stop_forwarded => (Phase::Ended, vec![Action::ExitNow(signal)]),
        // A request to this process is meant for the proxy.
        Event::Stop(Some(signal)) => {
            (Phase::Leaving { is_stop_forwarded: true }, vec![Action::ForwardStop(signal)])
        }
        Event::WorkerEnded(worker) => (phase, vec![Action::LogWorkerEnd(worker)]),
        Event::AllEnded => (Phase::Ended, vec![Action::Exit]),
        Event::TimeOver => (Phase::Ended, vec![Action::ExitTimedOut]),
        Event::Successor(OutgoingEvent::Exited(how)) => (phase, vec![Action::ReportSuccessorLost(how)]),
        // It serves: its earlier messages, and its time limit, are irrelevant.
        Event::Successor(
            OutgoingEvent::Requested(_)
            | OutgoingEvent::Ready { .. }
            | OutgoingEvent::Failed(_)
            | OutgoingEvent::TimedOut
            | OutgoingEvent::Stop,
        ) => (phase, Vec::new()),
        // This process ends anyway, and a program that embeds the proxy is never restarted.
        Event::Stop(None) | Event::Predecessor(_) => (phase, Vec::new()),
        Event::TakenOver(_)
        | Event::RestartOver
        | Event::Failed(_)
        | Event::Armed
        | Event::Go
        | Event::Retire(_) => (phase, Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phases() -> Vec<Phase> {
        let flags = [false, true];
        let mut phases =
            vec![Phase::Serving, Phase::Delaying, Phase::Draining, Phase::Abandoning, Phase::Ended];
        for flag in flags {
            phases.push(Phase::Arming { is_reload_due: flag });
            phases.push(Phase::Offering { is_reload_due: flag });
            phases.push(Phase::Withdrawing { has_failed: flag });
            phases.push(Phase::Leaving { is_stop_forwarded: flag });
        }
        phases
    }

    fn events() -> Vec<Event> {
        let successor = [
            OutgoingEvent::Requested(None),
            OutgoingEvent::Ready { taken: Inherited::default(), is_current: true },
            OutgoingEvent::Failed("failed".to_owned()),
            OutgoingEvent::Exited("ended".to_owned()),
            OutgoingEvent::TimedOut,
            OutgoingEvent::Stop,
        ];
        let predecessor = [
            IncomingEvent::Armed,
            IncomingEvent::Go,
            IncomingEvent::Abort("abort".to_owned()),
            IncomingEvent::OldExited,
            IncomingEvent::Stop,
        ];
        let others = [
            Event::Armed,
            Event::Reload,
            Event::Restart,
            Event::Stop(None),
            Event::Stop(Some(15)),
            Event::WorkerEnded(0),
            Event::AllEnded,
            Event::Go,
            Event::Retire("retired".to_owned()),
            Event::Failed(Failure::system("failed")),
            Event::TakenOver(Inherited::default()),
            Event::RestartOver,
            Event::TimeOver,
        ];
        let successor = successor.into_iter().map(Event::Successor);
        others.into_iter().chain(successor).chain(predecessor.into_iter().map(Event::Predecessor)).collect()
    }

    /// Where a phase may lead, and nowhere else.
    fn may_follow(phase: Phase, next: Phase) -> bool {
        use Phase::*;
        match (phase, next) {
            (Arming { is_reload_due: true }, Arming { is_reload_due } | Offering { is_reload_due })
            | (Offering { is_reload_due: true }, Offering { is_reload_due }) => is_reload_due,
            (Arming { .. }, Arming { .. } | Offering { .. } | Serving | Abandoning) => true,
            (Offering { .. }, Offering { .. } | Serving | Abandoning) => true,
            (Serving, Serving | Withdrawing { .. } | Leaving { is_stop_forwarded: false } | Abandoning) => {
                true
            }
            (Withdrawing { has_failed: true }, next) => {
                matches!(next, Withdrawing { has_failed: true } | Draining | Ended)
            }
            (Withdrawing { .. }, Withdrawing { .. } | Delaying | Ended) => true,
            (Delaying, Delaying | Draining | Ended) => true,
            (Draining, Draining | Ended) | (Abandoning, Abandoning | Ended) | (Ended, Ended) => true,
            (Leaving { is_stop_forwarded: true }, Leaving { is_stop_forwarded }) => is_stop_forwarded,
            (Leaving { .. }, Leaving { .. } | Ended) => true,
            _ => false,
        }
    }

    #[test]
    fn every_phase_handles_every_event() {
        for phase in phases() {
            for event in events() {
                let (next, actions) = on(phase, event.clone());
                assert!(may_follow(phase, next), "{phase:?} {event:?}: {next:?}");
                assert!(next == phase || !actions.is_empty(), "{phase:?} {event:?}: silently {next:?}");
                assert_eq!(phase == Phase::Ended, on(phase, Event::WorkerEnded(0)).1.is_empty(), "{phase:?}");
            }
        }
    }

    #[test]
    fn a_reload_is_carried_out_deferred_forwarded_or_refused_in_every_phase() {
        for phase in phases().into_iter().filter(|phase| *phase != Phase::Ended) {
            let (next, actions) = on(phase, Event::Reload);
            let expected = match phase {
                Phase::Arming { .. } | Phase::Offering { .. } => vec![Action::DeferReload],
                Phase::Serving => vec![Action::Reload],
                Phase::Leaving { .. } => vec![Action::ForwardReload],
                Phase::Abandoning => vec![Action::RefuseReload(ABANDONED)],
                _ => vec![Action::RefuseReload(STOPPING)],
            };
            assert_eq!(actions, expected, "{phase:?}");
            assert_eq!(next.is_starting(), phase.is_starting(), "{phase:?}");
        }
    }

    #[test]
    fn a_deferred_reload_stays_due_until_it_is_carried_out_or_refused() {
        let is_due = |phase| {
            matches!(phase, Phase::Arming { is_reload_due: true } | Phase::Offering { is_reload_due: true })
        };
        for phase in phases().into_iter().filter(|phase| is_due(*phase)) {
            for event in events() {
                let (next, actions) = on(phase, event.clone());
                let answers = actions
                    .iter()
                    .filter(|action| matches!(action, Action::Reload | Action::RefuseReload(_)))
                    .count();
                assert_eq!(answers, usize::from(!is_due(next)), "{phase:?} {event:?}");
            }
        }
    }

    #[test]
    fn a_signal_to_stop_is_honoured_in_every_phase_and_a_second_one_ends_at_once() {
        for phase in phases().into_iter().filter(|phase| *phase != Phase::Ended) {
            let (next, actions) = on(phase, Event::Stop(Some(15)));
            match phase {
                Phase::Arming { .. } => assert_eq!(next, Phase::Abandoning),
                // The handover remembers it.
                Phase::Offering { .. } => assert_eq!(actions, [Action::Incoming(IncomingEvent::Stop)]),
                Phase::Serving => assert_eq!(next, Phase::Withdrawing { has_failed: false }),
                Phase::Leaving { is_stop_forwarded: false } => assert_eq!(actions, [Action::ForwardStop(15)]),
                _ => {
                    assert_eq!(
                        (next, actions.last()),
                        (Phase::Ended, Some(&Action::ExitNow(15))),
                        "{phase:?}"
                    );
                    continue;
                }
            }
            if !next.is_starting() {
                let (end, actions) = on(next, Event::Stop(Some(2)));
                assert_eq!((end, actions.last()), (Phase::Ended, Some(&Action::ExitNow(2))), "{phase:?}");
            }
        }
    }

    #[test]
    fn a_restart_is_begun_by_a_process_that_serves_and_refused_with_a_reason_in_every_other_phase() {
        for phase in phases().into_iter().filter(|phase| *phase != Phase::Ended) {
            let (next, actions) = on(phase, Event::Restart);
            assert_eq!(next, phase);
            match phase {
                Phase::Serving => assert_eq!(actions, [Action::Restart]),
                _ => assert!(matches!(actions[..], [Action::RefuseRestart(_)]), "{phase:?}: {actions:?}"),
            }
        }
    }

    #[test]
    fn every_way_to_the_end_drains_the_workers_once_unless_a_signal_cuts_it_off() {
        let drains = |actions: &[Action]| {
            let is_drain =
                |action: &&Action| matches!(action, Action::Drain | Action::Leave(_) | Action::Abandon(_));
            actions.iter().filter(is_drain).count()
        };
        for phase in phases() {
            for event in events() {
                let (next, actions) = on(phase, event.clone());
                let begins = next.is_draining() && !phase.is_draining();
                assert_eq!(drains(&actions), usize::from(begins), "{phase:?} {event:?}");
                let reports = |action: &Action| {
                    matches!(action, Action::Exit | Action::ExitTimedOut | Action::ExitNow(_))
                };
                let ends = next == Phase::Ended && phase != Phase::Ended;
                assert_eq!(actions.iter().filter(|action| reports(action)).count(), usize::from(ends));
            }
        }
    }

    #[test]
    fn a_worker_that_fails_while_a_restart_is_ended_spares_the_delay() {
        let (phase, actions) = on(Phase::Withdrawing { has_failed: false }, Event::WorkerEnded(3));
        assert_eq!(actions, [Action::Fail(3)]);
        assert_eq!(on(phase, Event::RestartOver), (Phase::Draining, vec![Action::Drain]));
    }
}
