//! Which process serves during a handover: two pure state machines, one for each side.
//!
//! In: events of the old side ([`OutgoingHandover`]) and of the new one ([`IncomingHandover`]). Out: actions.
//! Next: `successor.rs` and `predecessor.rs` execute them.
//!
//! ```text
//! old   Idle ─asked─▶ Starting ─ready─▶ HandedOver                 (cancels, flushes, ends)
//!                        └─late, stop, outdated─▶ Ending ─ended─▶ Idle, or Starting if asked again meanwhile
//! new              Arming ─armed─▶ Offered ─go─▶ Serving ─the old one ended─▶ Alone
//!                      └────abort────▶ Retired                     (cancels, flushes, ends)
//! ```
//!
//! A stop that reaches the new process while it waits for the answer waits too: the "go" may be on its way, and then this
//! one has to stop as the proxy, and relay what is queued, instead of leaving that to a process that has exited.
//!
//! The old process decides: it keeps receiving until it has sent "go", and from then on the new one serves. While
//! both receive, each relays what it receives. So the new process sets no time limit of its own: a "go" in transit
//! must reach it. If the old one exits without a message, the new one serves: there is no other.

use super::message::Inherited;

/// Why a new process that is ready does not take over.
const OUTDATED: &str = "the config was reloaded while it was starting";

/// Why a second request is refused.
const IN_PROGRESS: &str = "a restart is already in progress";

/// Why a new process exits before it has taken over.
const STOP_REQUESTED: &str = "a stop was requested";

/// A new process that has to exit.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Ending {
    /// Why, if that has not been reported yet.
    unreported: Option<String>,
    /// Another one is started as soon as it has exited.
    again: bool,
    /// This process is stopping: it starts no other.
    stopping: bool,
}

impl Ending {
    /// The failure has been reported.
    const REPORTED: Ending = Ending { unreported: None, again: false, stopping: false };
}

/// State of the old process.
#[derive(Clone, Debug, PartialEq, Eq)]
enum OutgoingState {
    /// No handover in progress.
    Idle,
    /// A new process was started and is not ready.
    Starting,
    /// The new process has to exit.
    Ending(Ending),
    /// The new process serves.
    HandedOver,
}

/// Events of the old side.
#[derive(Clone, Debug, PartialEq)]
pub enum OutgoingEvent {
    /// Requested by the operator; with an obstacle, if any.
    Requested(Option<&'static str>),
    /// The new process receives.
    Ready {
        /// The sockets it uses.
        taken: Inherited,
        /// Whether no reload was accepted since it read the config.
        is_current: bool,
    },
    /// It failed, or the "go" could not be sent.
    Failed(String),
    /// It has exited, described by this text.
    Exited(String),
    /// Its time limit has passed.
    TimedOut,
    /// This process has to stop.
    Stop,
}

/// Actions of the old side.
#[derive(Clone, Debug, PartialEq)]
pub enum OutgoingAction {
    /// Nothing.
    Nothing,
    /// Start a new process and its time limit.
    Start,
    /// Refuse, with the reason.
    Refuse(&'static str),
    /// Report that it starts after the last new process, which failed, has exited.
    Defer,
    /// Send "go", and hand over these sockets. If it cannot be sent, that is [`OutgoingEvent::Failed`].
    SendGo(Inherited),
    /// Report that the restart failed, for this reason, and that this process continues; give the new process time to exit.
    Fail(String),
    /// The same, and order the new process to exit.
    Abort(String),
    /// Tell the new process to exit: it read a config that a reload has replaced, so another one is started after it.
    StartOver(&'static str),
    /// Kill the new process: it no longer responds.
    Kill,
    /// Report that the restart failed, for this reason; this process continues as before.
    Continue(String),
    /// The new process has exited, which was already reported: clean up.
    Clear,
}

/// The old side.
#[derive(Debug)]
pub struct OutgoingHandover {
    state: OutgoingState,
}

impl OutgoingHandover {
    /// No handover in progress.
    pub fn new() -> OutgoingHandover {
        OutgoingHandover { state: OutgoingState::Idle }
    }

    /// Whether one is in progress, and no process has taken over yet.
    pub fn is_busy(&self) -> bool {
        matches!(self.state, OutgoingState::Starting | OutgoingState::Ending(_))
    }

    /// Whether another process has taken over.
    pub fn has_handed_over(&self) -> bool {
        self.state == OutgoingState::HandedOver
    }

    /// The action for an event.
    pub fn on(&mut self, event: OutgoingEvent) -> OutgoingAction {
        let (state, action) = match std::mem::replace(&mut self.state, OutgoingState::Idle) {
            OutgoingState::Idle => on_idle(event),
            OutgoingState::Starting => on_starting(event),
            OutgoingState::Ending(ending) => on_ending(ending, event),
            OutgoingState::HandedOver => on_handed_over(event),
        };
        self.state = state;
        action
    }
}

fn on_idle(event: OutgoingEvent) -> (OutgoingState, OutgoingAction) {
    match event {
        OutgoingEvent::Requested(None) => (OutgoingState::Starting, OutgoingAction::Start),
        OutgoingEvent::Requested(Some(obstacle)) => (OutgoingState::Idle, OutgoingAction::Refuse(obstacle)),
        // Leftovers of a process that has exited; a stop has nothing to end here.
        OutgoingEvent::Ready { .. }
        | OutgoingEvent::Failed(_)
        | OutgoingEvent::Exited(_)
        | OutgoingEvent::TimedOut
        | OutgoingEvent::Stop => (OutgoingState::Idle, OutgoingAction::Nothing),
    }
}

fn on_starting(event: OutgoingEvent) -> (OutgoingState, OutgoingAction) {
    match event {
        OutgoingEvent::Requested(obstacle) => {
            (OutgoingState::Starting, OutgoingAction::Refuse(obstacle.unwrap_or(IN_PROGRESS)))
        }
        OutgoingEvent::Ready { taken, is_current: true } => {
            (OutgoingState::HandedOver, OutgoingAction::SendGo(taken))
        }
        OutgoingEvent::Ready { .. } => (
            OutgoingState::Ending(Ending { again: true, ..Ending::REPORTED }),
            OutgoingAction::StartOver(OUTDATED),
        ),
        // It reports the reason before it exits; the exit is still to come.
        OutgoingEvent::Failed(why) => (OutgoingState::Ending(Ending::REPORTED), OutgoingAction::Fail(why)),
        OutgoingEvent::Exited(how) => {
            (OutgoingState::Idle, OutgoingAction::Continue(format!("the new process {how}")))
        }
        OutgoingEvent::TimedOut => {
            let why = "the new process was not ready in time (handoverTimeout)".to_owned();
            (OutgoingState::Ending(Ending::REPORTED), OutgoingAction::Abort(why))
        }
        OutgoingEvent::Stop => {
            let ending = Ending { stopping: true, ..Ending::REPORTED };
            (OutgoingState::Ending(ending), OutgoingAction::Abort(STOP_REQUESTED.to_owned()))
        }
    }
}

fn on_ending(ending: Ending, event: OutgoingEvent) -> (OutgoingState, OutgoingAction) {
    match event {
        OutgoingEvent::Requested(None) if !ending.stopping => {
            (OutgoingState::Ending(Ending { again: true, ..ending }), OutgoingAction::Defer)
        }
        OutgoingEvent::Requested(obstacle) => {
            (OutgoingState::Ending(ending), OutgoingAction::Refuse(obstacle.unwrap_or(IN_PROGRESS)))
        }
        OutgoingEvent::Exited(_) if ending.again => (OutgoingState::Starting, OutgoingAction::Start),
        OutgoingEvent::Exited(_) => {
            (OutgoingState::Idle, ending.unreported.map_or(OutgoingAction::Clear, OutgoingAction::Continue))
        }
        OutgoingEvent::TimedOut => (OutgoingState::Ending(ending), OutgoingAction::Kill),
        OutgoingEvent::Stop => (
            OutgoingState::Ending(Ending { again: false, stopping: true, ..ending }),
            OutgoingAction::Nothing,
        ),
        // Sent before it learned that it has to exit.
        OutgoingEvent::Ready { .. } | OutgoingEvent::Failed(_) => {
            (OutgoingState::Ending(ending), OutgoingAction::Nothing)
        }
    }
}

fn on_handed_over(event: OutgoingEvent) -> (OutgoingState, OutgoingAction) {
    match event {
        OutgoingEvent::Requested(_) => {
            (OutgoingState::HandedOver, OutgoingAction::Refuse("another process has taken over"))
        }
        // The "go" could not be delivered.
        OutgoingEvent::Failed(why) => {
            let ending = Ending { unreported: Some(why), ..Ending::REPORTED };
            (OutgoingState::Ending(ending), OutgoingAction::Kill)
        }
        // What the process that serves does now is reported by its own log; a stop is forwarded to it by `phase.rs`.
        OutgoingEvent::Ready { .. }
        | OutgoingEvent::Exited(_)
        | OutgoingEvent::TimedOut
        | OutgoingEvent::Stop => (OutgoingState::HandedOver, OutgoingAction::Nothing),
    }
}

impl Default for OutgoingHandover {
    fn default() -> Self {
        OutgoingHandover::new()
    }
}

/// State of the new process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum IncomingState {
    /// It prepares.
    Arming,
    /// It receives and has reported it.
    Offered,
    /// It serves; the old process has not exited yet.
    Serving,
    /// It is the only one.
    Alone,
    /// It exits, and the old one continues.
    Retired,
}

/// Events of the new side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IncomingEvent {
    /// Every receive is armed.
    Armed,
    /// "go" from the old process.
    Go,
    /// The old process requests that this one exits.
    Abort(String),
    /// The old process has exited.
    OldExited,
    /// This process has to stop: a signal, or one forwarded by the old process.
    Stop,
}

/// Actions of the new side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IncomingAction {
    /// Nothing.
    Nothing,
    /// Send "ready", and wait for the answer.
    SendReady,
    /// Serve.
    Serve,
    /// Serve; the old process exited without "go".
    ServeWithoutGo,
    /// The handover is complete.
    Complete,
    /// Stop, as the serving process.
    Stop,
    /// Exit, for this reason, and relay what was received.
    Retire(String),
}

/// The new side.
#[derive(Debug)]
pub struct IncomingHandover {
    state: IncomingState,
    has_old_exited: bool,
    is_stop_pending: bool,
}

impl IncomingHandover {
    /// It begins to prepare.
    pub fn new() -> IncomingHandover {
        IncomingHandover { state: IncomingState::Arming, has_old_exited: false, is_stop_pending: false }
    }

    /// Whether the handover is complete: this process serves, and the old one has exited.
    pub fn is_complete(&self) -> bool {
        self.state == IncomingState::Alone
    }

    /// Whether a stop waits until this process serves.
    pub fn is_stop_pending(&self) -> bool {
        self.is_stop_pending
    }

    /// The action for an event.
    pub fn on(&mut self, event: IncomingEvent) -> IncomingAction {
        let (state, action) = match self.state {
            IncomingState::Arming => self.on_arming(event),
            IncomingState::Offered => self.on_offered(event),
            IncomingState::Serving => on_serving(event),
            state @ (IncomingState::Alone | IncomingState::Retired) => on_settled(state, event),
        };
        self.state = state;
        action
    }

    fn on_arming(&mut self, event: IncomingEvent) -> (IncomingState, IncomingAction) {
        match event {
            IncomingEvent::Armed if self.has_old_exited => {
                (IncomingState::Alone, IncomingAction::ServeWithoutGo)
            }
            IncomingEvent::Armed => (IncomingState::Offered, IncomingAction::SendReady),
            IncomingEvent::OldExited => {
                self.has_old_exited = true;
                (IncomingState::Arming, IncomingAction::Nothing)
            }
            IncomingEvent::Abort(why) => (IncomingState::Retired, IncomingAction::Retire(why)),
            IncomingEvent::Stop => {
                (IncomingState::Retired, IncomingAction::Retire(STOP_REQUESTED.to_owned()))
            }
            // "go" answers "ready", which has not been sent.
            IncomingEvent::Go => (IncomingState::Arming, IncomingAction::Nothing),
        }
    }

    fn on_offered(&mut self, event: IncomingEvent) -> (IncomingState, IncomingAction) {
        match event {
            IncomingEvent::Go => (IncomingState::Serving, IncomingAction::Serve),
            IncomingEvent::Abort(why) => (IncomingState::Retired, IncomingAction::Retire(why)),
            IncomingEvent::Stop if !self.is_stop_pending => {
                self.is_stop_pending = true;
                (IncomingState::Offered, IncomingAction::Nothing)
            }
            // The second stop is immediate.
            IncomingEvent::Stop => {
                (IncomingState::Retired, IncomingAction::Retire(STOP_REQUESTED.to_owned()))
            }
            IncomingEvent::OldExited => (IncomingState::Alone, IncomingAction::ServeWithoutGo),
            IncomingEvent::Armed => (IncomingState::Offered, IncomingAction::Nothing),
        }
    }
}

fn on_serving(event: IncomingEvent) -> (IncomingState, IncomingAction) {
    match event {
        IncomingEvent::OldExited => (IncomingState::Alone, IncomingAction::Complete),
        IncomingEvent::Stop => (IncomingState::Serving, IncomingAction::Stop),
        // Too late for an abort: the old process has handed over.
        IncomingEvent::Armed | IncomingEvent::Go | IncomingEvent::Abort(_) => {
            (IncomingState::Serving, IncomingAction::Nothing)
        }
    }
}

/// Alone or retired: no event changes anything. `phase.rs` handles a stop.
fn on_settled(state: IncomingState, event: IncomingEvent) -> (IncomingState, IncomingAction) {
    match event {
        IncomingEvent::Armed
        | IncomingEvent::Go
        | IncomingEvent::Abort(_)
        | IncomingEvent::OldExited
        | IncomingEvent::Stop => (state, IncomingAction::Nothing),
    }
}

impl Default for IncomingHandover {
    fn default() -> Self {
        IncomingHandover::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn ready(taken: Inherited, is_current: bool) -> OutgoingEvent {
        OutgoingEvent::Ready { taken, is_current }
    }

    #[test]
    fn a_restart_that_goes_well() {
        let (mut outgoing, mut incoming) = (OutgoingHandover::new(), IncomingHandover::new());
        assert_eq!(outgoing.on(OutgoingEvent::Requested(None)), OutgoingAction::Start);
        assert_eq!(incoming.on(IncomingEvent::Armed), IncomingAction::SendReady);
        let taken = Inherited { workers: 2, ..Inherited::default() };
        assert_eq!(outgoing.on(ready(taken.clone(), true)), OutgoingAction::SendGo(taken));
        assert!(outgoing.has_handed_over() && !incoming.is_complete());
        assert_eq!(incoming.on(IncomingEvent::Go), IncomingAction::Serve);
        assert_eq!(incoming.on(IncomingEvent::OldExited), IncomingAction::Complete);
        assert!(incoming.is_complete());
    }

    fn ended(how: &str) -> OutgoingEvent {
        OutgoingEvent::Exited(how.to_owned())
    }

    #[test]
    fn a_second_request_is_refused_until_the_first_has_failed_and_then_waits_for_its_process_to_end() {
        let mut outgoing = OutgoingHandover::new();
        let refused = |outgoing: &mut OutgoingHandover| {
            matches!(outgoing.on(OutgoingEvent::Requested(None)), OutgoingAction::Refuse(_))
        };
        assert_eq!(outgoing.on(OutgoingEvent::Requested(Some("no"))), OutgoingAction::Refuse("no"));
        outgoing.on(OutgoingEvent::Requested(None));
        assert!(refused(&mut outgoing));
        assert!(
            matches!(outgoing.on(OutgoingEvent::TimedOut), OutgoingAction::Abort(_)),
            "the limit is the limit"
        );
        assert_eq!(outgoing.on(OutgoingEvent::Requested(None)), OutgoingAction::Defer);
        assert_eq!(outgoing.on(OutgoingEvent::Requested(Some("no"))), OutgoingAction::Refuse("no"));
        assert_eq!(outgoing.on(OutgoingEvent::TimedOut), OutgoingAction::Kill);
        assert_eq!(outgoing.on(ended("was killed")), OutgoingAction::Start);
        outgoing.on(OutgoingEvent::TimedOut);
        assert_eq!(outgoing.on(ended("was killed")), OutgoingAction::Clear);
        assert_eq!(outgoing.on(OutgoingEvent::Requested(None)), OutgoingAction::Start);
        outgoing.on(ready(Inherited::default(), true));
        assert!(refused(&mut outgoing));
    }

    #[test]
    fn a_stop_ends_a_restart_and_starts_no_other() {
        let mut outgoing = OutgoingHandover::new();
        outgoing.on(OutgoingEvent::Requested(None));
        outgoing.on(OutgoingEvent::TimedOut);
        outgoing.on(OutgoingEvent::Requested(None));
        outgoing.on(OutgoingEvent::Stop);
        assert!(matches!(outgoing.on(OutgoingEvent::Requested(None)), OutgoingAction::Refuse(_)));
        assert_eq!(outgoing.on(ended("was killed")), OutgoingAction::Clear);
    }

    #[test]
    fn the_failure_reported_by_the_new_process_is_logged() {
        let mut outgoing = OutgoingHandover::new();
        outgoing.on(OutgoingEvent::Requested(None));
        let why = "no such key".to_owned();
        assert_eq!(outgoing.on(OutgoingEvent::Failed(why.clone())), OutgoingAction::Fail(why));
        assert_eq!(outgoing.on(ended("exited with code 64")), OutgoingAction::Clear);
    }

    #[test]
    fn a_process_that_read_the_config_before_a_reload_does_not_take_over() {
        let mut outgoing = OutgoingHandover::new();
        outgoing.on(OutgoingEvent::Requested(None));
        assert!(matches!(outgoing.on(ready(Inherited::default(), false)), OutgoingAction::StartOver(_)));
        assert!(outgoing.is_busy() && !outgoing.has_handed_over());
        assert_eq!(outgoing.on(ended("ended")), OutgoingAction::Start);
        assert!(matches!(outgoing.on(ready(Inherited::default(), true)), OutgoingAction::SendGo(_)));
    }

    #[test]
    fn a_process_that_cannot_be_sent_go_is_reported_when_it_has_exited() {
        let mut outgoing = OutgoingHandover::new();
        outgoing.on(OutgoingEvent::Requested(None));
        outgoing.on(ready(Inherited::default(), true));
        let why = "it is gone".to_owned();
        assert_eq!(outgoing.on(OutgoingEvent::Failed(why.clone())), OutgoingAction::Kill);
        assert_eq!(outgoing.on(ended("was killed")), OutgoingAction::Continue(why));
    }

    /// What may happen at any moment, beside what the two sides say to each other.
    #[derive(Clone, Copy, Debug)]
    enum Chance {
        DeliverToOld,
        DeliverToNew,
        Arm,
        NewFails,
        OldLate,
        Stop,
        StopNew,
        AskAgain,
        Reload,
    }

    /// Both sides with the messages in transit.
    struct World {
        outgoing: OutgoingHandover,
        incoming: Option<IncomingHandover>,
        to_old: VecDeque<OutgoingEvent>,
        to_new: VecDeque<IncomingEvent>,
        old_receives: bool,
        new_receives: bool,
        stop: bool,
        /// A signal has reached the new process, or has been passed on to it.
        is_new_signalled: bool,
        is_passed_on: bool,
        /// The number of the config in force at the old process, and of the one that the new process has read.
        config: u32,
        new_config: u32,
    }

    impl World {
        fn new() -> World {
            World {
                outgoing: OutgoingHandover::new(),
                incoming: None,
                to_old: VecDeque::new(),
                to_new: VecDeque::new(),
                old_receives: true,
                new_receives: false,
                stop: false,
                is_new_signalled: false,
                is_passed_on: false,
                config: 0,
                new_config: 0,
            }
        }

        fn end_new(&mut self, how: &str) {
            (self.incoming, self.new_receives) = (None, false);
            self.to_new.clear();
            self.to_old.push_back(OutgoingEvent::Exited(how.to_owned()));
        }

        fn old(&mut self, event: OutgoingEvent) {
            match self.outgoing.on(event) {
                OutgoingAction::Start => {
                    assert!(self.incoming.is_none(), "two new processes at once");
                    self.incoming = Some(IncomingHandover::new());
                    self.new_config = self.config;
                    self.is_new_signalled = false;
                    // Each attempt has a channel of its own: what was said to or by the last new process is lost with it.
                    self.to_old.clear();
                    self.to_new.clear();
                }
                OutgoingAction::SendGo(_) if self.incoming.is_none() => {
                    self.old(OutgoingEvent::Failed("it has exited".to_owned()));
                }
                OutgoingAction::SendGo(_) => {
                    assert_eq!(self.new_config, self.config, "a reload is undone");
                    self.old_receives = false;
                    self.to_new.push_back(IncomingEvent::Go);
                    self.to_new.push_back(IncomingEvent::OldExited);
                }
                OutgoingAction::Abort(why) => self.to_new.push_back(IncomingEvent::Abort(why)),
                OutgoingAction::StartOver(why) => self.to_new.push_back(IncomingEvent::Abort(why.to_owned())),
                OutgoingAction::Kill if self.incoming.is_some() => self.end_new("was killed"),
                OutgoingAction::Kill
                | OutgoingAction::Nothing
                | OutgoingAction::Refuse(_)
                | OutgoingAction::Defer => {}
                OutgoingAction::Continue(_) | OutgoingAction::Fail(_) | OutgoingAction::Clear => {
                    assert!(self.old_receives, "it goes on and does not receive")
                }
            }
        }

        fn new_side(&mut self, event: IncomingEvent) {
            let Some(incoming) = &mut self.incoming else { return };
            match incoming.on(event) {
                IncomingAction::SendReady => {
                    self.new_receives = true;
                    self.to_old
                        .push_back(OutgoingEvent::Ready { taken: Inherited::default(), is_current: true });
                }
                IncomingAction::Retire(_) => self.end_new("retired"),
                IncomingAction::Serve | IncomingAction::ServeWithoutGo | IncomingAction::Complete => {
                    assert!(self.new_receives, "it serves and does not receive");
                }
                IncomingAction::Stop => assert!(!self.old_receives, "the proxy stops, and there are two"),
                IncomingAction::Nothing => {}
            }
        }

        fn happen(&mut self, chance: Chance) {
            match chance {
                Chance::DeliverToOld => {
                    if let Some(mut event) = self.to_old.pop_front() {
                        if let OutgoingEvent::Ready { is_current, .. } = &mut event {
                            *is_current = self.new_config == self.config;
                        }
                        self.old(event);
                    }
                }
                Chance::DeliverToNew => {
                    if let Some(event) = self.to_new.pop_front() {
                        self.new_side(event);
                    }
                }
                Chance::Arm => self.new_side(IncomingEvent::Armed),
                Chance::NewFails if self.incoming.is_some() && !self.new_receives => {
                    self.to_old.push_back(OutgoingEvent::Failed("a bad config".to_owned()));
                    self.end_new("exited with code 64");
                }
                Chance::NewFails => {}
                Chance::OldLate if self.outgoing.is_busy() => self.old(OutgoingEvent::TimedOut),
                Chance::OldLate => {}
                Chance::Stop if self.outgoing.has_handed_over() => {
                    self.stop = true;
                    if !std::mem::replace(&mut self.is_passed_on, true) {
                        // After the "go", in the same channel.
                        let before_end =
                            self.to_new.iter().position(|event| *event == IncomingEvent::OldExited);
                        self.to_new.insert(before_end.unwrap_or(self.to_new.len()), IncomingEvent::Stop);
                    }
                }
                Chance::Stop => {
                    self.stop = true;
                    self.old(OutgoingEvent::Stop);
                }
                // A signal overtakes messages.
                Chance::StopNew if !std::mem::replace(&mut self.is_new_signalled, true) => {
                    self.new_side(IncomingEvent::Stop);
                }
                Chance::StopNew => {}
                Chance::AskAgain if !self.stop => self.old(OutgoingEvent::Requested(None)),
                Chance::AskAgain => {}
                Chance::Reload if !self.outgoing.has_handed_over() => self.config += 1,
                Chance::Reload => {}
            }
            assert!(self.old_receives || self.new_receives, "nobody receives");
        }

        /// All messages arrive, and all time limits pass.
        fn settle(&mut self) {
            for _ in 0..10 {
                while !self.to_old.is_empty() || !self.to_new.is_empty() {
                    self.happen(Chance::DeliverToOld);
                    self.happen(Chance::DeliverToNew);
                }
                self.happen(Chance::OldLate);
            }
        }
    }

    #[test]
    fn a_message_to_a_failed_process_does_not_reach_the_next_one() {
        let mut world = World::new();
        world.old(OutgoingEvent::Requested(None));
        use Chance::*;
        for chance in [NewFails, OldLate, DeliverToOld, DeliverToOld, AskAgain, Arm, DeliverToOld] {
            world.happen(chance);
        }
        world.settle();
        assert!(world.new_receives && !world.old_receives);
    }

    #[test]
    fn a_stop_that_overtakes_the_go_stops_the_proxy() {
        let (mut first, mut second) = (IncomingHandover::new(), IncomingHandover::new());
        for incoming in [&mut first, &mut second] {
            assert_eq!(incoming.on(IncomingEvent::Armed), IncomingAction::SendReady);
            assert_eq!(incoming.on(IncomingEvent::Stop), IncomingAction::Nothing);
        }
        assert_eq!(first.on(IncomingEvent::Go), IncomingAction::Serve);
        assert!(first.is_stop_pending());
        // Forwarded as well, which repeats the request.
        assert_eq!(first.on(IncomingEvent::Stop), IncomingAction::Stop);
        assert_eq!(second.on(IncomingEvent::OldExited), IncomingAction::ServeWithoutGo);
        assert!(second.is_stop_pending());
        let mut third = IncomingHandover::new();
        assert!(
            matches!(third.on(IncomingEvent::Stop), IncomingAction::Retire(_)),
            "nothing was promised yet"
        );
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        #[test]
        fn at_least_one_process_receives_at_every_moment_and_exactly_one_in_the_end(
            chances in prop::collection::vec(
                prop_oneof![
                    6 => Just(Chance::DeliverToOld), 6 => Just(Chance::DeliverToNew), 4 => Just(Chance::Arm),
                    1 => Just(Chance::NewFails), 1 => Just(Chance::OldLate),
                    1 => Just(Chance::Stop), 1 => Just(Chance::StopNew), 2 => Just(Chance::AskAgain),
                    1 => Just(Chance::Reload),
                ],
                1..80,
            ),
        ) {
            let mut world = World::new();
            world.old(OutgoingEvent::Requested(None));
            for chance in chances {
                world.happen(chance);
            }
            world.settle();
            prop_assert!(world.old_receives != world.new_receives, "two serve, or none");
            prop_assert!(!world.outgoing.is_busy(), "it never ends");
            if world.new_receives {
                prop_assert!(world.incoming.is_some_and(|incoming| incoming.is_complete()));
            }
        }
    }
}
