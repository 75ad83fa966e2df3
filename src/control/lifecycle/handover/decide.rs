//! Which process serves during a hand-over: two pure state machines, one for each side.
//!
//! In: events of the old side ([`Giver`]) and of the new one ([`Taker`]). Out: actions.
//! Next: `successor.rs` and `predecessor.rs` execute them.
//!
//! ```text
//! old   Idle ─asked─▶ Starting ─ready─▶ Gone                       (cancels, flushes, ends)
//!                        └─late, stop, outdated─▶ Ending ─ended─▶ Idle, or Starting if asked again meanwhile
//! new              Arming ─armed─▶ Offered ─go─▶ Serving ─the old one ended─▶ Alone
//!                      └────abort────▶ Retired                     (cancels, flushes, ends)
//! ```
//!
//! A stop that reaches the new process while it waits for the answer waits too: the "go" may be on its way, and then this
//! one has to stop as the proxy, and relay what is queued, instead of leaving that to a process that is gone.
//!
//! The old process decides: it keeps receiving until it has sent "go", and from then on the new one serves. While
//! both receive, each relays what it receives. So the new process sets no time limit of its own: a "go" in transit
//! must reach it. If the old one exits without a message, the new one serves: there is no other.

use super::message::Taken;
use crate::planted::{Defect, is_planted};

/// Why a new process that is ready does not take over.
const OUTDATED: &str = "the config was reloaded while it was starting";

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
enum Giving {
    /// No hand-over in progress.
    Idle,
    /// A new process was started and is not ready.
    Starting,
    /// The new process has to exit.
    Ending(Ending),
    /// The new process serves.
    Gone,
}

/// Events of the old side.
#[derive(Clone, Debug, PartialEq)]
pub enum GiverEvent {
    /// Requested by the operator; with an obstacle, if any.
    Asked(Option<&'static str>),
    /// The new process receives.
    Ready {
        /// The sockets it uses.
        taken: Taken,
        /// Whether no reload was accepted since it read the config.
        is_current: bool,
    },
    /// It failed, or the "go" could not be sent.
    Failed(String),
    /// It has exited, described by this text.
    Ended(String),
    /// Its time limit has passed.
    Late,
    /// This process has to stop.
    Stop,
}

/// Actions of the old side.
#[derive(Clone, Debug, PartialEq)]
pub enum GiverAction {
    /// Nothing.
    Nothing,
    /// Start a new process and its time limit.
    Start,
    /// Refuse, with the reason.
    Refuse(&'static str),
    /// Report that it starts after the last new process, which failed, has exited.
    Defer,
    /// Send "go", and hand over these sockets. If it cannot be sent, that is [`GiverEvent::Failed`].
    Go(Taken),
    /// Report that the restart failed, for this reason, and that this process continues; give the new process time to exit.
    Fail(String),
    /// The same, and tell the new process to exit.
    Abort(String),
    /// Tell the new process to exit: it read a config that a reload has replaced, so another one is started after it.
    StartOver(&'static str),
    /// Kill the new process: it no longer responds.
    Kill,
    /// Report that the restart failed, for this reason; this process continues as before.
    GoOn(String),
    /// The new process has exited, which was already reported: clean up.
    Clear,
}

/// The old side.
#[derive(Debug)]
pub struct Giver {
    stage: Giving,
}

impl Giver {
    /// No hand-over in progress.
    pub fn new() -> Giver {
        Giver { stage: Giving::Idle }
    }

    /// Whether one is in progress, and no process has taken over yet.
    pub fn is_busy(&self) -> bool {
        matches!(self.stage, Giving::Starting | Giving::Ending(_))
    }

    /// Whether another process has taken over.
    pub fn is_gone(&self) -> bool {
        self.stage == Giving::Gone
    }

    /// The action for an event.
    pub fn on(&mut self, event: GiverEvent) -> GiverAction {
        use GiverAction::*;
        let stage = std::mem::replace(&mut self.stage, Giving::Idle);
        let (stage, action) = match (stage, event) {
            (Giving::Idle, GiverEvent::Asked(None)) => (Giving::Starting, Start),
            (Giving::Idle, GiverEvent::Asked(Some(obstacle))) => (Giving::Idle, Refuse(obstacle)),
            (Giving::Gone, GiverEvent::Asked(_)) => (Giving::Gone, Refuse("another process has taken over")),
            (Giving::Ending(ending), GiverEvent::Asked(None)) if !ending.stopping => {
                (Giving::Ending(Ending { again: true, ..ending }), Defer)
            }
            (stage, GiverEvent::Asked(obstacle)) => {
                (stage, Refuse(obstacle.unwrap_or("a restart is already in progress")))
            }
            (Giving::Starting, GiverEvent::Ready { taken, is_current })
                if is_current || is_planted(Defect::ReloadUndoneByRestart) =>
            {
                (Giving::Gone, Go(taken))
            }
            (Giving::Starting, GiverEvent::Ready { .. }) => {
                (Giving::Ending(Ending { again: true, ..Ending::REPORTED }), StartOver(OUTDATED))
            }
            (Giving::Starting, GiverEvent::Late) if is_planted(Defect::GoneBeforeReady) => {
                (Giving::Gone, Go(Taken::default()))
            }
            (Giving::Starting, GiverEvent::Late) => {
                let why = "the new process was not ready in time (handoverTimeout)".to_owned();
                (Giving::Ending(Ending::REPORTED), Abort(why))
            }
            (Giving::Starting, GiverEvent::Stop) => {
                let ending = Ending { stopping: true, ..Ending::REPORTED };
                (Giving::Ending(ending), Abort("a stop was requested".to_owned()))
            }
            (Giving::Ending(ending), GiverEvent::Stop) => {
                (Giving::Ending(Ending { again: false, stopping: true, ..ending }), Nothing)
            }
            // It reports the reason before it exits; the exit is still to come.
            (Giving::Starting, GiverEvent::Failed(why)) => (Giving::Ending(Ending::REPORTED), Fail(why)),
            (Giving::Starting, GiverEvent::Ended(how)) => {
                (Giving::Idle, GoOn(format!("the new process {how}")))
            }
            (Giving::Ending(Ending { again: true, .. }), GiverEvent::Ended(_)) => (Giving::Starting, Start),
            (Giving::Ending(Ending { unreported: Some(why), .. }), GiverEvent::Ended(_)) => {
                (Giving::Idle, GoOn(why))
            }
            (Giving::Ending(_), GiverEvent::Ended(_)) => (Giving::Idle, Clear),
            (Giving::Ending(ending), GiverEvent::Late) => (Giving::Ending(ending), Kill),
            // The "go" could not be delivered.
            (Giving::Gone, GiverEvent::Failed(why)) => {
                (Giving::Ending(Ending { unreported: Some(why), ..Ending::REPORTED }), Kill)
            }
            (stage, _) => (stage, Nothing),
        };
        self.stage = stage;
        action
    }
}

impl Default for Giver {
    fn default() -> Self {
        Giver::new()
    }
}

/// State of the new process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Taking {
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
pub enum TakerEvent {
    /// Every receive is armed.
    Armed,
    /// "go" from the old process.
    Go,
    /// The old process requests that this one exits.
    Abort(String),
    /// The old process has exited.
    Gone,
    /// This process has to stop: a signal, or one forwarded by the old process.
    Stop,
}

/// Actions of the new side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TakerAction {
    /// Nothing.
    Nothing,
    /// Send "ready", and wait for the answer.
    SayReady,
    /// Serve.
    Serve,
    /// Serve; the old process exited without "go".
    ServeUnasked,
    /// The hand-over is complete.
    Complete,
    /// Stop, as the serving process.
    Stop,
    /// Exit, for this reason, and relay what was received.
    Retire(String),
}

/// The new side.
#[derive(Debug)]
pub struct Taker {
    stage: Taking,
    is_old_gone: bool,
    is_to_stop: bool,
}

impl Taker {
    /// It begins to prepare.
    pub fn new() -> Taker {
        Taker { stage: Taking::Arming, is_old_gone: false, is_to_stop: false }
    }

    /// Whether the hand-over is complete: this process serves, and the old one has exited.
    pub fn is_complete(&self) -> bool {
        self.stage == Taking::Alone
    }

    /// Whether a stop waits until this process serves.
    pub fn is_to_stop(&self) -> bool {
        self.is_to_stop
    }

    /// The action for an event.
    pub fn on(&mut self, event: TakerEvent) -> TakerAction {
        use TakerAction::*;
        let (stage, action) = match (self.stage, event) {
            (Taking::Arming, TakerEvent::Armed) if self.is_old_gone => (Taking::Alone, ServeUnasked),
            (Taking::Arming, TakerEvent::Armed) => (Taking::Offered, SayReady),
            (Taking::Arming, TakerEvent::Gone) => {
                self.is_old_gone = true;
                (Taking::Arming, Nothing)
            }
            (Taking::Arming | Taking::Offered, TakerEvent::Abort(why)) => (Taking::Retired, Retire(why)),
            (Taking::Offered, TakerEvent::Stop)
                if !self.is_to_stop && !is_planted(Defect::StopForgetsPromise) =>
            {
                self.is_to_stop = true;
                (Taking::Offered, Nothing)
            }
            // The second stop is immediate.
            (Taking::Arming | Taking::Offered, TakerEvent::Stop) => {
                (Taking::Retired, Retire("a stop was requested".to_owned()))
            }
            (Taking::Serving, TakerEvent::Stop) => (Taking::Serving, Stop),
            (Taking::Offered, TakerEvent::Go) => (Taking::Serving, Serve),
            (Taking::Offered, TakerEvent::Gone) if is_planted(Defect::RetiresWithOldProcess) => {
                (Taking::Retired, Retire("the old process has exited".to_owned()))
            }
            (Taking::Offered, TakerEvent::Gone) => (Taking::Alone, ServeUnasked),
            (Taking::Serving, TakerEvent::Gone) => (Taking::Alone, Complete),
            (stage, _) => (stage, Nothing),
        };
        self.stage = stage;
        action
    }
}

impl Default for Taker {
    fn default() -> Self {
        Taker::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    fn ready(taken: Taken, is_current: bool) -> GiverEvent {
        GiverEvent::Ready { taken, is_current }
    }

    #[test]
    fn a_restart_that_goes_well() {
        let (mut giver, mut taker) = (Giver::new(), Taker::new());
        assert_eq!(giver.on(GiverEvent::Asked(None)), GiverAction::Start);
        assert_eq!(taker.on(TakerEvent::Armed), TakerAction::SayReady);
        let taken = Taken { workers: 2, ..Taken::default() };
        assert_eq!(giver.on(ready(taken.clone(), true)), GiverAction::Go(taken));
        assert!(giver.is_gone() && !taker.is_complete());
        assert_eq!(taker.on(TakerEvent::Go), TakerAction::Serve);
        assert_eq!(taker.on(TakerEvent::Gone), TakerAction::Complete);
        assert!(taker.is_complete());
    }

    fn ended(how: &str) -> GiverEvent {
        GiverEvent::Ended(how.to_owned())
    }

    #[test]
    fn a_second_request_is_refused_until_the_first_has_failed_and_then_waits_for_its_process_to_end() {
        let mut giver = Giver::new();
        let refused = |giver: &mut Giver| matches!(giver.on(GiverEvent::Asked(None)), GiverAction::Refuse(_));
        assert_eq!(giver.on(GiverEvent::Asked(Some("no"))), GiverAction::Refuse("no"));
        giver.on(GiverEvent::Asked(None));
        assert!(refused(&mut giver));
        assert!(matches!(giver.on(GiverEvent::Late), GiverAction::Abort(_)), "the limit is the limit");
        assert_eq!(giver.on(GiverEvent::Asked(None)), GiverAction::Defer);
        assert_eq!(giver.on(GiverEvent::Asked(Some("no"))), GiverAction::Refuse("no"));
        assert_eq!(giver.on(GiverEvent::Late), GiverAction::Kill);
        assert_eq!(giver.on(ended("was killed")), GiverAction::Start);
        giver.on(GiverEvent::Late);
        assert_eq!(giver.on(ended("was killed")), GiverAction::Clear);
        assert_eq!(giver.on(GiverEvent::Asked(None)), GiverAction::Start);
        giver.on(ready(Taken::default(), true));
        assert!(refused(&mut giver));
    }

    #[test]
    fn a_stop_ends_a_restart_and_starts_no_other() {
        let mut giver = Giver::new();
        giver.on(GiverEvent::Asked(None));
        giver.on(GiverEvent::Late);
        giver.on(GiverEvent::Asked(None));
        giver.on(GiverEvent::Stop);
        assert!(matches!(giver.on(GiverEvent::Asked(None)), GiverAction::Refuse(_)));
        assert_eq!(giver.on(ended("was killed")), GiverAction::Clear);
    }

    #[test]
    fn what_the_new_process_says_of_its_failure_is_what_is_told() {
        let mut giver = Giver::new();
        giver.on(GiverEvent::Asked(None));
        let why = "no such key".to_owned();
        assert_eq!(giver.on(GiverEvent::Failed(why.clone())), GiverAction::Fail(why));
        assert_eq!(giver.on(ended("exited with code 64")), GiverAction::Clear);
    }

    #[test]
    fn a_process_that_read_the_config_before_a_reload_does_not_take_over() {
        let mut giver = Giver::new();
        giver.on(GiverEvent::Asked(None));
        assert!(matches!(giver.on(ready(Taken::default(), false)), GiverAction::StartOver(_)));
        assert!(giver.is_busy() && !giver.is_gone());
        assert_eq!(giver.on(ended("ended")), GiverAction::Start);
        assert!(matches!(giver.on(ready(Taken::default(), true)), GiverAction::Go(_)));
    }

    #[test]
    fn one_that_cannot_be_told_to_go_is_reported_when_it_has_ended() {
        let mut giver = Giver::new();
        giver.on(GiverEvent::Asked(None));
        giver.on(ready(Taken::default(), true));
        let why = "it is gone".to_owned();
        assert_eq!(giver.on(GiverEvent::Failed(why.clone())), GiverAction::Kill);
        assert_eq!(giver.on(ended("was killed")), GiverAction::GoOn(why));
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
        giver: Giver,
        taker: Option<Taker>,
        to_old: VecDeque<GiverEvent>,
        to_new: VecDeque<TakerEvent>,
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
                giver: Giver::new(),
                taker: None,
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
            (self.taker, self.new_receives) = (None, false);
            self.to_new.clear();
            self.to_old.push_back(GiverEvent::Ended(how.to_owned()));
        }

        fn old(&mut self, event: GiverEvent) {
            match self.giver.on(event) {
                GiverAction::Start => {
                    assert!(self.taker.is_none(), "two new processes at once");
                    self.taker = Some(Taker::new());
                    self.new_config = self.config;
                    self.is_new_signalled = false;
                    // Each attempt has a channel of its own: what was said to or by the last new process is lost with it.
                    self.to_old.clear();
                    self.to_new.clear();
                }
                GiverAction::Go(_) if self.taker.is_none() => {
                    self.old(GiverEvent::Failed("it has exited".to_owned()));
                }
                GiverAction::Go(_) => {
                    assert_eq!(self.new_config, self.config, "a reload is undone");
                    self.old_receives = false;
                    self.to_new.push_back(TakerEvent::Go);
                    self.to_new.push_back(TakerEvent::Gone);
                }
                GiverAction::Abort(why) => self.to_new.push_back(TakerEvent::Abort(why)),
                GiverAction::StartOver(why) => self.to_new.push_back(TakerEvent::Abort(why.to_owned())),
                GiverAction::Kill if self.taker.is_some() => self.end_new("was killed"),
                GiverAction::Kill | GiverAction::Nothing | GiverAction::Refuse(_) | GiverAction::Defer => {}
                GiverAction::GoOn(_) | GiverAction::Fail(_) | GiverAction::Clear => {
                    assert!(self.old_receives, "it goes on and does not receive")
                }
            }
        }

        fn new_side(&mut self, event: TakerEvent) {
            let Some(taker) = &mut self.taker else { return };
            match taker.on(event) {
                TakerAction::SayReady => {
                    self.new_receives = true;
                    self.to_old.push_back(GiverEvent::Ready { taken: Taken::default(), is_current: true });
                }
                TakerAction::Retire(_) => self.end_new("retired"),
                TakerAction::Serve | TakerAction::ServeUnasked | TakerAction::Complete => {
                    assert!(self.new_receives, "it serves and does not receive");
                }
                TakerAction::Stop => assert!(!self.old_receives, "the proxy stops, and there are two"),
                TakerAction::Nothing => {}
            }
        }

        fn happen(&mut self, chance: Chance) {
            match chance {
                Chance::DeliverToOld => {
                    if let Some(mut event) = self.to_old.pop_front() {
                        if let GiverEvent::Ready { is_current, .. } = &mut event {
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
                Chance::Arm => self.new_side(TakerEvent::Armed),
                Chance::NewFails if self.taker.is_some() && !self.new_receives => {
                    self.to_old.push_back(GiverEvent::Failed("a bad config".to_owned()));
                    self.end_new("exited with code 64");
                }
                Chance::NewFails => {}
                Chance::OldLate if self.giver.is_busy() => self.old(GiverEvent::Late),
                Chance::OldLate => {}
                Chance::Stop if self.giver.is_gone() => {
                    self.stop = true;
                    if !std::mem::replace(&mut self.is_passed_on, true) {
                        // After the "go", in the same channel.
                        let before_end = self.to_new.iter().position(|event| *event == TakerEvent::Gone);
                        self.to_new.insert(before_end.unwrap_or(self.to_new.len()), TakerEvent::Stop);
                    }
                }
                Chance::Stop => {
                    self.stop = true;
                    self.old(GiverEvent::Stop);
                }
                // A signal overtakes messages.
                Chance::StopNew if !std::mem::replace(&mut self.is_new_signalled, true) => {
                    self.new_side(TakerEvent::Stop);
                }
                Chance::StopNew => {}
                Chance::AskAgain if !self.stop => self.old(GiverEvent::Asked(None)),
                Chance::AskAgain => {}
                Chance::Reload if !self.giver.is_gone() => self.config += 1,
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
    fn a_word_to_a_process_that_has_failed_does_not_reach_the_next_one() {
        let mut world = World::new();
        world.old(GiverEvent::Asked(None));
        use Chance::*;
        for chance in [NewFails, OldLate, DeliverToOld, DeliverToOld, AskAgain, Arm, DeliverToOld] {
            world.happen(chance);
        }
        world.settle();
        assert!(world.new_receives && !world.old_receives);
    }

    #[test]
    fn a_stop_that_overtakes_the_go_stops_the_proxy_and_not_a_process_that_steps_back() {
        let (mut first, mut second) = (Taker::new(), Taker::new());
        for taker in [&mut first, &mut second] {
            assert_eq!(taker.on(TakerEvent::Armed), TakerAction::SayReady);
            assert_eq!(taker.on(TakerEvent::Stop), TakerAction::Nothing);
        }
        assert_eq!(first.on(TakerEvent::Go), TakerAction::Serve);
        assert!(first.is_to_stop());
        // Forwarded as well, which repeats the request.
        assert_eq!(first.on(TakerEvent::Stop), TakerAction::Stop);
        assert_eq!(second.on(TakerEvent::Gone), TakerAction::ServeUnasked);
        assert!(second.is_to_stop());
        let mut third = Taker::new();
        assert!(matches!(third.on(TakerEvent::Stop), TakerAction::Retire(_)), "nothing was promised yet");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5_000))]

        #[test]
        fn somebody_receives_at_every_moment_and_exactly_one_in_the_end(
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
            world.old(GiverEvent::Asked(None));
            for chance in chances {
                world.happen(chance);
            }
            world.settle();
            prop_assert!(world.old_receives != world.new_receives, "two serve, or none");
            prop_assert!(!world.giver.is_busy(), "it never ends");
            if world.new_receives {
                prop_assert!(world.taker.is_some_and(|taker| taker.is_complete()));
            }
        }
    }
}
