//! Restarts without loss: what both processes do about what the real state machines decide, as
//! `control/lifecycle/event_loop.rs`, `restart.rs`, `stop.rs` and `sockets.rs` do it, with what they say on its way for a while.

use super::plan::address_number;
use super::process::{Inheritance, Process};
use super::world::World;
use statsring::control::Failure;
use statsring::control::lifecycle::handover::decide::{
    IncomingAction, IncomingEvent, OutgoingAction, OutgoingEvent,
};
use statsring::control::lifecycle::handover::inherit::{Plan as SocketPlan, left_to};
use statsring::control::lifecycle::handover::message::{Inherited, Offer, State};
use statsring::control::lifecycle::phase::{Action, Cause, Event, Phase, on};
use statsring::failpoint::{Mutation, is_active};
use statsring::relay::Left;

/// How long a new process that is to end may take beyond `shutdownTimeout`, µs.
const OVERTIME_US: u64 = 1_000_000;

/// What is on its way to a process.
#[derive(Clone, Debug)]
pub enum Mail {
    /// A new process begins, with this offer and these sockets.
    Birth { old: usize, offer: Box<Offer>, fate: Disposition, sockets: Vec<usize> },
    /// To the old process, from the new one.
    OutgoingHandover(OutgoingEvent),
    /// To the new process, from the old one.
    IncomingHandover(IncomingEvent),
    /// To the new process: it serves from this on.
    Go(State),
}

/// What becomes of a program that was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It comes up.
    Fine,
    /// Its config is bad.
    Fails,
    /// It never receives, and ends when told to.
    Dawdles,
    /// It never receives, and hears nothing.
    Hangs,
}

impl World<'_> {
    /// Does what an event asks a process for.
    pub fn happen(&mut self, number: usize, event: Event) -> Result<(), String> {
        self.trace(|| format!("process {number}: {event:?}"));
        let (phase, actions) = on(self.processes[number].phase, event);
        self.processes[number].phase = phase;
        for action in actions {
            self.execute(number, action)?;
        }
        Ok(())
    }

    fn execute(&mut self, number: usize, action: Action) -> Result<(), String> {
        match action {
            Action::Offer => self.offer(number),
            Action::Take(event) => self.take(number, event),
            Action::Give(event) => self.give(number, event),
            Action::Serve => self.serve(number),
            Action::Reload => self.reload(number),
            Action::Restart => {
                let heir = self.processes[number].inheritance.as_ref();
                let is_taking_over = heir.is_some_and(|heir| !heir.incoming.is_complete());
                let obstacle = is_taking_over.then_some("the last restart is not complete");
                self.give(number, OutgoingEvent::Asked(obstacle))
            }
            Action::EndRestart if self.processes[number].outgoing.is_busy() => {
                self.give(number, OutgoingEvent::Stop)
            }
            Action::EndRestart => self.happen(number, Event::RestartOver),
            // No process here has a `shutdownDelay`.
            Action::Delay => self.happen(number, Event::TimeOver),
            Action::Drain => {
                self.stopped_us = self.stopped_us.or(Some(self.now_us));
                self.drain(number)
            }
            Action::Leave(taken) => self.leave(number, &taken),
            Action::Abandon(cause) => self.abandon(number, cause),
            Action::PassOn(_) => {
                if let Some(new) = self.processes[number].successor {
                    self.post(number, new, Mail::IncomingHandover(IncomingEvent::Stop));
                }
                Ok(())
            }
            Action::ForwardReload => {
                let new = self.processes[number].successor;
                match new.filter(|new| self.processes[*new].is_alive()) {
                    // A signal overtakes what was said.
                    Some(new) => self.happen(new, Event::Reload),
                    None => Ok(()),
                }
            }
            Action::DeferReload => {
                self.happened.reloads_deferred += 1;
                Ok(())
            }
            Action::RefuseReload(_) => {
                self.happened.reloads_refused += 1;
                Ok(())
            }
            Action::RefuseRestart(_) => {
                self.happened.restarts_refused += 1;
                Ok(())
            }
            Action::Conclude => {
                self.end_process(number);
                Ok(())
            }
            // Only told to people.
            Action::BeginStop(_) | Action::ReportSuccessorLost(_) => Ok(()),
            // A worker never fails here, a second signal never comes, and every worker ends in time.
            Action::Fail(_)
            | Action::NoteEnd(_)
            | Action::KillSuccessor
            | Action::CutOff(_)
            | Action::RunOut => Err(format!("process {number}: unexpected {action:?}")),
        }
    }

    fn drain(&mut self, number: usize) -> Result<(), String> {
        let now_us = self.now_us;
        self.processes[number].drain(now_us);
        Ok(())
    }

    /// The start of a process failed: the old one is told.
    fn abandon(&mut self, new: usize, cause: Cause) -> Result<(), String> {
        let old = self.processes[new].inheritance.as_ref().map(|inheritance| inheritance.old);
        if let Some(old) = old {
            let why = cause.failure(|worker| Failure::system(format!("worker {worker} ended"))).words;
            self.post(new, old, Mail::OutgoingHandover(OutgoingEvent::Failed(why)));
        }
        self.drain(new)
    }

    /// The config file is edited, and read again.
    fn reload(&mut self, number: usize) -> Result<(), String> {
        let now_us = self.now_us;
        let is_applied = self.processes[number].reload(self.file.clone(), self.plan, now_us)?;
        self.happened.reloads += u64::from(is_applied);
        self.happened.reloads_refused += u64::from(!is_applied);
        Ok(())
    }

    /// Does what an event of a restart asks the old process for.
    fn give(&mut self, old: usize, event: OutgoingEvent) -> Result<(), String> {
        self.trace(|| format!("process {old}: {event:?}"));
        let action = {
            let process = &mut self.processes[old];
            let event = match event {
                OutgoingEvent::Ready { taken, .. } => {
                    let is_current = process.reloads == process.reloads_at_start
                        || is_active(Mutation::ReloadUndoneByRestart);
                    OutgoingEvent::Ready { taken, is_current }
                }
                event => event,
            };
            process.outgoing.on(event)
        };
        match action {
            OutgoingAction::Nothing | OutgoingAction::Defer => {}
            OutgoingAction::Start => self.start_successor(old)?,
            OutgoingAction::Refuse(_) => self.happened.restarts_refused += 1,
            OutgoingAction::Go(taken) => {
                let new = self.processes[old].successor.filter(|new| self.processes[*new].is_alive());
                match new {
                    Some(new) if self.random.below(40) > 0 => {
                        let state = self.processes[old].carry(self.now_us);
                        self.expect_same_names(old, new);
                        self.check_config(old, new)?;
                        self.post(old, new, Mail::Go(state));
                        self.happen(old, Event::TakenOver(taken))?;
                    }
                    _ => self.give(old, OutgoingEvent::Failed("it could not be told to go".into()))?,
                }
            }
            OutgoingAction::Fail(_) => self.set_time(old),
            OutgoingAction::Abort(why) => {
                self.happened.restarts_aborted += 1;
                self.abort_successor(old, why);
            }
            OutgoingAction::StartOver(why) => {
                self.happened.restarts_started_over += 1;
                self.abort_successor(old, why.to_owned());
            }
            OutgoingAction::Kill => {
                if let Some(new) = self.processes[old].successor {
                    self.kill(new)?;
                }
            }
            OutgoingAction::GoOn(_) | OutgoingAction::Clear => {
                self.happened.restarts_failed += 1;
                let process = &mut self.processes[old];
                (process.successor, process.deadline_us) = (None, None);
            }
        }
        Ok(())
    }

    fn abort_successor(&mut self, old: usize, why: String) {
        if let Some(new) = self.processes[old].successor {
            self.post(old, new, Mail::IncomingHandover(IncomingEvent::Abort(why)));
        }
        self.set_time(old);
    }

    fn set_time(&mut self, old: usize) {
        let now_us = self.now_us;
        let process = &mut self.processes[old];
        let grace_us = process.roster.config().shutdown_timeout_ms * 1_000 + OVERTIME_US;
        process.deadline_us = Some(now_us + grace_us);
    }

    fn start_successor(&mut self, old: usize) -> Result<(), String> {
        if self.random.below(25) == 0 {
            self.give(old, OutgoingEvent::Failed("it cannot be started".into()))?;
            return self.give(old, OutgoingEvent::Ended("was not started".into()));
        }
        let fates = [(Disposition::Fails, 12), (Disposition::Dawdles, 16), (Disposition::Hangs, 16)];
        let struck = fates.iter().find(|(_, in_so_many)| self.random.below(*in_so_many) == 0);
        let fate = struck.map_or(Disposition::Fine, |(fate, _)| *fate);
        let offer = Box::new(self.processes[old].offer(self.now_us));
        let sockets: Vec<usize> =
            self.processes[old].seats.iter().flat_map(|seat| seat.sockets.iter().copied()).collect();
        for socket in &sockets {
            self.network.hold(*socket);
        }
        let new = self.processes.len();
        let mut born = Process::new(new, self.file.clone(), self.now_us);
        born.inheritance = Some(Inheritance::new(old));
        self.processes.push(born);
        self.held.insert(new, sockets.clone());
        let timeout_us = offer.timeout_ms * 1_000;
        let process = &mut self.processes[old];
        (process.successor, process.deadline_us) = (Some(new), Some(self.now_us + timeout_us));
        process.reloads_at_start = process.reloads;
        self.happened.restarts += 1;
        self.post(old, new, Mail::Birth { old, offer, fate, sockets });
        Ok(())
    }

    /// The new process begins: what `control/lifecycle/sockets.rs` does with the offer, then the workers.
    pub fn begin(
        &mut self,
        new: usize,
        old: usize,
        offer: &Offer,
        fate: Disposition,
        offered: &[usize],
    ) -> Result<(), String> {
        let config = self.processes[new].roster.config().clone();
        if fate != Disposition::Fine {
            if fate == Disposition::Fails {
                self.post(new, old, Mail::OutgoingHandover(OutgoingEvent::Failed("a bad config".into())));
                self.end_process(new);
            }
            self.deaf.extend((fate == Disposition::Hangs).then_some(new));
            return Ok(());
        }
        self.held.remove(&new);
        let plan = SocketPlan::new(offer, &config.listen, config.workers, &[]);
        let (mut late, mut kept) = (Vec::new(), Vec::new());
        let mut workers = Vec::new();
        for worker in 0..plan.workers {
            let sockets: Vec<usize> = (0..config.listen.len())
                .map(|listener| match plan.data_descriptor(offer, worker, listener) {
                    Some(place) => offered[place],
                    None => {
                        let address = address_number(&config.listen[listener]);
                        late.push(self.network.socket(address, self.plan.setup.queue_bytes_max));
                        late[late.len() - 1]
                    }
                })
                .collect();
            kept.extend(sockets.iter().copied());
            workers.push(sockets);
        }
        for unused in offered.iter().filter(|socket| !kept.contains(socket)) {
            self.network.release(*unused);
        }
        let (now_us, plan_of_run) = (self.now_us, self.plan);
        let process = &mut self.processes[new];
        process.inheritance = Some(Inheritance { taken: plan.taken(), late, ..Inheritance::new(old) });
        process.left = plan.inherited();
        let now_ms = process.now_ms(now_us);
        process.roster.resume(&offer.state.backends, now_ms);
        process.publish(now_us);
        for sockets in workers {
            process.start_worker(plan_of_run, &self.network, sockets, now_us, true);
        }
        Ok(())
    }

    /// Does what an event of a restart asks the new process for.
    fn take(&mut self, new: usize, event: IncomingEvent) -> Result<(), String> {
        self.trace(|| format!("process {new}: {event:?}"));
        let Some(inheritance) = &mut self.processes[new].inheritance else { return Ok(()) };
        let is_old_gone = event == IncomingEvent::Gone;
        let event = match event {
            IncomingEvent::Gone if is_active(Mutation::ExitsWithOldProcess) => {
                IncomingEvent::Abort("the old process has exited".into())
            }
            event => event,
        };
        // A second stop is immediate.
        let is_doubled = event == IncomingEvent::Stop && is_active(Mutation::StopAfterReadyExits);
        let (old, mut action) = (inheritance.old, inheritance.incoming.on(event));
        if is_doubled && action == IncomingAction::Nothing {
            action = inheritance.incoming.on(IncomingEvent::Stop);
        }
        match action {
            IncomingAction::Nothing => {}
            IncomingAction::SayReady => {
                let taken = inheritance.taken.clone();
                self.post(new, old, Mail::OutgoingHandover(OutgoingEvent::Ready { taken, is_current: true }));
            }
            IncomingAction::Serve => self.happen(new, Event::Go)?,
            IncomingAction::ServeUnasked => {
                self.happened.inherited_unasked += 1;
                self.happen(new, Event::Go)?;
            }
            IncomingAction::Complete => self.happened.restarts_complete += 1,
            IncomingAction::Stop => self.happen(new, Event::Stop(None))?,
            IncomingAction::Retire(_) if is_old_gone => {
                return Err(format!("process {new} ends because the old one is gone: nobody is left"));
            }
            IncomingAction::Retire(why) => self.happen(new, Event::Retire(why))?,
        }
        Ok(())
    }

    /// Every receive is armed: what is new at the port is bound, and the old process is told.
    fn offer(&mut self, new: usize) -> Result<(), String> {
        let Some(inheritance) = &self.processes[new].inheritance else {
            return self.happen(new, Event::Go);
        };
        for socket in inheritance.late.clone() {
            self.network.bind(socket);
        }
        self.take(new, IncomingEvent::Armed)
    }

    fn serve(&mut self, number: usize) -> Result<(), String> {
        let now_us = self.now_us;
        let process = &mut self.processes[number];
        let is_to_stop = process.inheritance.as_ref().is_some_and(|heir| heir.incoming.is_to_stop());
        let last_state = process.inheritance.as_mut().and_then(|inheritance| inheritance.last_state.take());
        if let Some(state) = &last_state {
            let now_ms = process.now_ms(now_us);
            process.roster.resume(&state.backends, now_ms);
            process.publish(now_us);
        }
        process.left = Left::NONE;
        if last_state.is_some() {
            self.check_same_names(number)?;
        }
        self.processes[number].watch(now_us);
        if is_to_stop {
            self.stopping.push(number);
        }
        Ok(())
    }

    fn leave(&mut self, old: usize, taken: &Inherited) -> Result<(), String> {
        let now_us = self.now_us;
        let process = &mut self.processes[old];
        process.deadline_us = None;
        let workers = if is_active(Mutation::SurplusSocketLeft) { usize::MAX } else { taken.workers };
        let taken = Inherited { workers, ..taken.clone() };
        process.left = left_to(&taken, &process.roster.config().listen.clone());
        process.drain(now_us);
        Ok(())
    }

    /// A process is gone: its sockets are closed, and who is connected to it learns that.
    pub fn end_process(&mut self, number: usize) {
        self.trace(|| format!("process {number} ends"));
        let process = &mut self.processes[number];
        process.phase = Phase::Ended;
        let mut sockets: Vec<usize> =
            process.seats.iter().flat_map(|seat| seat.sockets.iter().copied()).collect();
        sockets.extend(self.held.remove(&number).unwrap_or_default());
        for socket in sockets {
            self.network.release(socket);
        }
        let process = &self.processes[number];
        let (successor, old) =
            (process.successor, process.inheritance.as_ref().map(|inheritance| inheritance.old));
        if let Some(new) = successor {
            self.post(number, new, Mail::IncomingHandover(IncomingEvent::Gone));
        }
        if let Some(old) = old {
            self.post(number, old, Mail::OutgoingHandover(OutgoingEvent::Ended("ended".into())));
        }
    }

    /// A process is killed.
    pub fn kill(&mut self, number: usize) -> Result<(), String> {
        if !self.processes[number].is_alive() {
            return Ok(());
        }
        self.happened.kills += 1;
        let is_good_day = self.plan.is_good_day;
        self.processes[number].kill(is_good_day)?;
        self.end_process(number);
        Ok(())
    }
}
