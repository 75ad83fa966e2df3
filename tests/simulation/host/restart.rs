//! Restarts without loss: executes the actions of the real state machines in both processes, like
//! `control/lifecycle/event_loop.rs`, `restart.rs`, `stop.rs` and `sockets.rs`, with delayed messages between them.

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

/// How long a new process that has to exit may take beyond `shutdownTimeout`, µs.
const OVERTIME_US: u64 = 1_000_000;

/// A message on its way to a process.
#[derive(Clone, Debug)]
pub enum Mail {
    /// A new process starts, with this offer and these sockets.
    Started { old: usize, offer: Box<Offer>, disposition: Disposition, sockets: Vec<usize> },
    /// To the old process, from the new one.
    OutgoingHandover(OutgoingEvent),
    /// To the new process, from the old one.
    IncomingHandover(IncomingEvent),
    /// To the new process: "go", with the last state.
    Go(State),
}

/// What a new process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disposition {
    /// It starts.
    Starts,
    /// Its config is bad.
    Fails,
    /// It is never ready, and exits when ordered to.
    NeverReady,
    /// It is never ready, and does not react.
    Hangs,
}

impl World<'_> {
    /// Passes an event to a process and executes its actions.
    pub fn dispatch(&mut self, number: usize, event: Event) -> Result<(), String> {
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
            Action::Incoming(event) => self.advance_incoming(number, event),
            Action::Outgoing(event) => self.advance_outgoing(number, event),
            Action::Serve => self.serve(number),
            Action::Reload => self.reload(number),
            Action::Restart => {
                let successor = self.processes[number].inheritance.as_ref();
                let is_taking_over = successor.is_some_and(|successor| !successor.incoming.is_complete());
                let obstacle = is_taking_over.then_some("the last restart is not complete");
                self.advance_outgoing(number, OutgoingEvent::Requested(obstacle))
            }
            Action::EndRestart if self.processes[number].outgoing.is_busy() => {
                self.advance_outgoing(number, OutgoingEvent::Stop)
            }
            Action::EndRestart => self.dispatch(number, Event::RestartOver),
            // No process here has a `shutdownDelay`.
            Action::Delay => self.dispatch(number, Event::TimeOver),
            Action::Drain => {
                self.stopped_us = self.stopped_us.or(Some(self.now_us));
                self.drain(number)
            }
            Action::Leave(taken) => self.leave(number, &taken),
            Action::Abandon(cause) => self.abandon(number, cause),
            Action::ForwardStop(_) => {
                if let Some(new) = self.processes[number].successor {
                    self.post(number, new, Mail::IncomingHandover(IncomingEvent::Stop));
                }
                Ok(())
            }
            Action::ForwardReload => {
                let new = self.processes[number].successor;
                match new.filter(|new| self.processes[*new].is_alive()) {
                    // A signal overtakes messages.
                    Some(new) => self.dispatch(new, Event::Reload),
                    None => Ok(()),
                }
            }
            Action::DeferReload => {
                self.outcome.reloads_deferred += 1;
                Ok(())
            }
            Action::RefuseReload(_) => {
                self.outcome.reloads_refused += 1;
                Ok(())
            }
            Action::RefuseRestart(_) => {
                self.outcome.restarts_refused += 1;
                Ok(())
            }
            Action::Exit => {
                self.end_process(number);
                Ok(())
            }
            // Logged only.
            Action::BeginStop(_) | Action::ReportSuccessorLost(_) => Ok(()),
            // Here no worker fails, no second signal is sent, and every worker ends in time.
            Action::Fail(_)
            | Action::LogWorkerEnd(_)
            | Action::KillSuccessor
            | Action::ExitNow(_)
            | Action::ExitTimedOut => Err(format!("process {number}: unexpected {action:?}")),
        }
    }

    fn drain(&mut self, number: usize) -> Result<(), String> {
        let now_us = self.now_us;
        self.processes[number].drain(now_us);
        Ok(())
    }

    /// The start of a process failed: reports it to the old one.
    fn abandon(&mut self, new: usize, cause: Cause) -> Result<(), String> {
        let old = self.processes[new].inheritance.as_ref().map(|inheritance| inheritance.old);
        if let Some(old) = old {
            let why = cause.failure(|worker| Failure::system(format!("worker {worker} ended"))).message;
            self.post(new, old, Mail::OutgoingHandover(OutgoingEvent::Failed(why)));
        }
        self.drain(new)
    }

    /// Reads the config file again.
    fn reload(&mut self, number: usize) -> Result<(), String> {
        let now_us = self.now_us;
        let is_applied = self.processes[number].reload(self.file.clone(), self.plan, now_us)?;
        self.outcome.reloads += u64::from(is_applied);
        self.outcome.reloads_refused += u64::from(!is_applied);
        Ok(())
    }

    /// Passes an event to the old side of the handover and executes its action.
    fn advance_outgoing(&mut self, old: usize, event: OutgoingEvent) -> Result<(), String> {
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
            OutgoingAction::Refuse(_) => self.outcome.restarts_refused += 1,
            OutgoingAction::SendGo(taken) => {
                let new = self.processes[old].successor.filter(|new| self.processes[*new].is_alive());
                match new {
                    Some(new) if self.random.below(40) > 0 => {
                        let state = self.processes[old].carry(self.now_us);
                        self.record_statuses(old, new);
                        self.check_config(old, new)?;
                        self.post(old, new, Mail::Go(state));
                        self.dispatch(old, Event::TakenOver(taken))?;
                    }
                    _ => {
                        self.advance_outgoing(old, OutgoingEvent::Failed("\"go\" could not be sent".into()))?
                    }
                }
            }
            OutgoingAction::Fail(_) => self.set_time(old),
            OutgoingAction::Abort(why) => {
                self.outcome.restarts_aborted += 1;
                self.abort_successor(old, why);
            }
            OutgoingAction::StartOver(why) => {
                self.outcome.restarts_started_over += 1;
                self.abort_successor(old, why.to_owned());
            }
            OutgoingAction::Kill => {
                if let Some(new) = self.processes[old].successor {
                    self.kill(new)?;
                }
            }
            OutgoingAction::Continue(_) | OutgoingAction::Clear => {
                self.outcome.restarts_failed += 1;
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
        let grace_us = process.backend_set.config().shutdown_timeout_ms * 1_000 + OVERTIME_US;
        process.deadline_us = Some(now_us + grace_us);
    }

    fn start_successor(&mut self, old: usize) -> Result<(), String> {
        if self.random.below(25) == 0 {
            self.advance_outgoing(old, OutgoingEvent::Failed("it cannot be started".into()))?;
            return self.advance_outgoing(old, OutgoingEvent::Exited("was not started".into()));
        }
        let dispositions =
            [(Disposition::Fails, 12), (Disposition::NeverReady, 16), (Disposition::Hangs, 16)];
        let struck = dispositions.iter().find(|(_, in_so_many)| self.random.below(*in_so_many) == 0);
        let disposition = struck.map_or(Disposition::Starts, |(disposition, _)| *disposition);
        let offer = Box::new(self.processes[old].offer(self.now_us));
        let sockets: Vec<usize> =
            self.processes[old].workers.iter().flat_map(|entry| entry.sockets.iter().copied()).collect();
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
        self.outcome.restarts += 1;
        self.post(old, new, Mail::Started { old, offer, disposition, sockets });
        Ok(())
    }

    /// The new process starts: handles the offer like `control/lifecycle/sockets.rs`, then starts the workers.
    pub fn begin(
        &mut self,
        new: usize,
        old: usize,
        offer: &Offer,
        disposition: Disposition,
        offered: &[usize],
    ) -> Result<(), String> {
        let config = self.processes[new].backend_set.config().clone();
        if disposition != Disposition::Starts {
            if disposition == Disposition::Fails {
                self.post(new, old, Mail::OutgoingHandover(OutgoingEvent::Failed("a bad config".into())));
                self.end_process(new);
            }
            self.unresponsive.extend((disposition == Disposition::Hangs).then_some(new));
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
        process.backend_set.resume(&offer.state.backends, now_ms);
        process.publish(now_us);
        for sockets in workers {
            process.start_worker(plan_of_run, &self.network, sockets, now_us, true);
        }
        Ok(())
    }

    /// Passes an event to the new side of the handover and executes its action.
    fn advance_incoming(&mut self, new: usize, event: IncomingEvent) -> Result<(), String> {
        self.trace(|| format!("process {new}: {event:?}"));
        let Some(inheritance) = &mut self.processes[new].inheritance else { return Ok(()) };
        let has_old_exited = event == IncomingEvent::OldExited;
        let event = match event {
            IncomingEvent::OldExited if is_active(Mutation::ExitsWithOldProcess) => {
                IncomingEvent::Abort("the old process has exited".into())
            }
            event => event,
        };
        // A second stop takes effect immediately.
        let is_doubled = event == IncomingEvent::Stop && is_active(Mutation::StopAfterReadyExits);
        let (old, mut action) = (inheritance.old, inheritance.incoming.on(event));
        if is_doubled && action == IncomingAction::Nothing {
            action = inheritance.incoming.on(IncomingEvent::Stop);
        }
        match action {
            IncomingAction::Nothing => {}
            IncomingAction::SendReady => {
                let taken = inheritance.taken.clone();
                self.post(new, old, Mail::OutgoingHandover(OutgoingEvent::Ready { taken, is_current: true }));
            }
            IncomingAction::Serve => self.dispatch(new, Event::Go)?,
            IncomingAction::ServeWithoutGo => {
                self.outcome.serving_without_go += 1;
                self.dispatch(new, Event::Go)?;
            }
            IncomingAction::Complete => self.outcome.restarts_complete += 1,
            IncomingAction::Stop => self.dispatch(new, Event::Stop(None))?,
            IncomingAction::Retire(_) if has_old_exited => {
                return Err(format!(
                    "process {new} exits because the old one has exited: no process is left"
                ));
            }
            IncomingAction::Retire(why) => self.dispatch(new, Event::Retire(why))?,
        }
        Ok(())
    }

    /// Every receive is armed: binds the new sockets and notifies the old process.
    fn offer(&mut self, new: usize) -> Result<(), String> {
        let Some(inheritance) = &self.processes[new].inheritance else {
            return self.dispatch(new, Event::Go);
        };
        for socket in inheritance.late.clone() {
            self.network.bind(socket);
        }
        self.advance_incoming(new, IncomingEvent::Armed)
    }

    fn serve(&mut self, number: usize) -> Result<(), String> {
        let now_us = self.now_us;
        let process = &mut self.processes[number];
        let is_stop_pending =
            process.inheritance.as_ref().is_some_and(|successor| successor.incoming.is_stop_pending());
        let last_state = process.inheritance.as_mut().and_then(|inheritance| inheritance.last_state.take());
        if let Some(state) = &last_state {
            let now_ms = process.now_ms(now_us);
            process.backend_set.resume(&state.backends, now_ms);
            process.publish(now_us);
        }
        process.left = Left::NONE;
        if last_state.is_some() {
            self.check_statuses(number)?;
        }
        self.processes[number].watch(now_us);
        if is_stop_pending {
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
        process.left = left_to(&taken, &process.backend_set.config().listen.clone());
        process.drain(now_us);
        Ok(())
    }

    /// A process exits: its sockets are closed, and its peers are notified.
    pub fn end_process(&mut self, number: usize) {
        self.trace(|| format!("process {number} exits"));
        let process = &mut self.processes[number];
        process.phase = Phase::Ended;
        let mut sockets: Vec<usize> =
            process.workers.iter().flat_map(|entry| entry.sockets.iter().copied()).collect();
        sockets.extend(self.held.remove(&number).unwrap_or_default());
        for socket in sockets {
            self.network.release(socket);
        }
        let process = &self.processes[number];
        let (successor, old) =
            (process.successor, process.inheritance.as_ref().map(|inheritance| inheritance.old));
        if let Some(new) = successor {
            self.post(number, new, Mail::IncomingHandover(IncomingEvent::OldExited));
        }
        if let Some(old) = old {
            self.post(number, old, Mail::OutgoingHandover(OutgoingEvent::Exited("ended".into())));
        }
    }

    /// Kills a process.
    pub fn kill(&mut self, number: usize) -> Result<(), String> {
        if !self.processes[number].is_alive() {
            return Ok(());
        }
        self.outcome.kills += 1;
        let is_fault_free = self.plan.is_fault_free;
        self.processes[number].kill(is_fault_free)?;
        self.end_process(number);
        Ok(())
    }
}
