//! Runs everything on the fake host in order of virtual time: steps of workers, checks, messages, orders.

use super::plan::{NODES, Order, Plan, address_number, edited};
use super::process::{Behavior, Process, resolve};
use super::promises::BackendStatus;
use super::restart::Mail;
use crate::scenario::START_US;
use statsring::admin::AdminState;
use statsring::config::Config;
use statsring::control::lifecycle::handover::decide::{IncomingEvent, OutgoingEvent};
use statsring::control::lifecycle::handover::message::Inherited;
use statsring::control::lifecycle::phase::{Event, Phase};
use statsring::driver::sim::{Fault, Random, SimNetwork};
use statsring::failpoint::{Mutation, is_active};
use statsring::stats::{Counter, Counters};
use std::collections::HashMap;
use std::sync::Arc;

/// An upper limit of the time of a run, µs.
const SPAN_US_MAX: u64 = 60_000_000;
/// An upper limit of the steps of a run.
const STEPS_MAX: u64 = 100_000;
/// How far a worker's clock may be ahead of another's, µs.
const AHEAD_US: u64 = 2_500;
/// The number of SIGTERM.
const SIGTERM: u8 = 15;

/// The result of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub steps: u64,
    pub virtual_us: u64,
    pub datagrams: u64,
    pub metrics_sent: u64,
    /// By [`Fault::ALL`].
    pub faults: Vec<u64>,
    pub restarts: u64,
    pub restarts_complete: u64,
    pub restarts_refused: u64,
    pub restarts_aborted: u64,
    pub restarts_started_over: u64,
    pub stops_during_handover: u64,
    pub restarts_failed: u64,
    pub serving_without_go: u64,
    pub reloads: u64,
    pub reloads_refused: u64,
    pub reloads_deferred: u64,
    pub kills: u64,
    pub pauses: u64,
    pub shortages: u64,
    pub transitions: u64,
}

/// The host.
pub struct World<'a> {
    pub plan: &'a Plan,
    pub random: Random,
    pub network: SimNetwork,
    /// By number; those that have exited stay.
    pub processes: Vec<Process>,
    /// The config file.
    pub file: Config,
    /// How each backend answers its checks, and since when.
    pub behaviors: Vec<(Behavior, u64)>,
    /// When the config last changed.
    pub changed_us: u64,
    pub now_us: u64,
    pub stopped_us: Option<u64>,
    pub outcome: Outcome,
    /// Sockets that new processes hold without using them.
    pub held: HashMap<usize, Vec<usize>>,
    /// New processes that do not react.
    pub unresponsive: Vec<usize>,
    /// New processes that were stopped before they served.
    stopped_early: Vec<usize>,
    /// Processes that have to stop as soon as they serve.
    pub stopping: Vec<usize>,
    pub statuses: HashMap<usize, HashMap<Arc<str>, BackendStatus>>,
    /// Due time, sequence number, receiver, message.
    mail: Vec<(u64, u64, usize, Mail)>,
    posted: u64,
    /// When the last message from one process to another is due.
    last_due_us: HashMap<(usize, usize), u64>,
    orders: std::iter::Peekable<std::vec::IntoIter<(u64, Order)>>,
    /// Iterations so far.
    rounds: u64,
    is_traced: bool,
}

/// Runs a plan to its end; an error names the broken invariant. A traced run prints the events.
pub fn run(plan: &Plan, is_traced: bool) -> Result<Outcome, String> {
    let mut world = World::new(plan, is_traced);
    world.start();
    loop {
        let due_us = world.next_us();
        world.rounds += 1;
        if world.rounds > 2 * STEPS_MAX {
            return Err(format!("no end at {} after {} rounds", world.now_us, world.rounds));
        }
        let Some((process, entry, clock_us, others_us)) = world.earliest() else {
            let Some(due_us) = due_us.filter(|_| world.is_any_alive()) else { break };
            world.control(due_us)?;
            continue;
        };
        if let Some(due_us) = due_us.filter(|due_us| *due_us <= clock_us) {
            world.control(due_us)?;
            continue;
        }
        let ahead_us = world.random.between(100, AHEAD_US);
        let horizon_us = others_us.map(|others_us| others_us + ahead_us).into_iter().chain(due_us).min();
        world.step(process, entry, horizon_us.unwrap_or(clock_us + SPAN_US_MAX).max(clock_us + 1))?;
        if world.outcome.steps > STEPS_MAX || clock_us > START_US + SPAN_US_MAX {
            return Err(format!("no end at {clock_us} after {} steps", world.outcome.steps));
        }
    }
    world.check_datagrams(plan)?;
    Ok(world.into_outcome())
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan, is_traced: bool) -> World<'a> {
        let network = SimNetwork::new();
        for (at_us, address, sender, bytes) in &plan.datagrams {
            network.datagram_at(*at_us, *address, *sender, bytes.as_slice());
        }
        let mut random = Random::new(plan.seed ^ 0x7A1E_0F7E);
        let behaviors = (0..NODES)
            .map(|_| (if random.below(3) == 0 { Behavior::any(&mut random) } else { Behavior::Up }, START_US))
            .collect();
        World {
            plan,
            random,
            network,
            processes: Vec::new(),
            file: plan.config.clone(),
            behaviors,
            changed_us: START_US,
            now_us: START_US,
            stopped_us: None,
            outcome: Outcome::default(),
            held: HashMap::new(),
            unresponsive: Vec::new(),
            stopped_early: Vec::new(),
            stopping: Vec::new(),
            statuses: HashMap::new(),
            mail: Vec::new(),
            posted: 0,
            last_due_us: HashMap::new(),
            orders: plan.orders.clone().into_iter().peekable(),
            rounds: 0,
            is_traced,
        }
    }

    /// Prints an event, if the run is traced.
    pub fn trace(&self, message: impl FnOnce() -> String) {
        if self.is_traced {
            println!("{}: {}", self.now_us, message());
        }
    }

    /// The first process, with its own sockets.
    fn start(&mut self) {
        let mut process = Process::new(0, self.file.clone(), self.now_us);
        process.publish(self.now_us);
        let listen = self.file.listen.clone();
        for _ in 0..self.file.workers {
            let sockets: Vec<usize> = listen
                .iter()
                .map(|address| self.network.socket(address_number(address), self.plan.setup.queue_bytes_max))
                .collect();
            for socket in &sockets {
                self.network.bind(*socket);
            }
            process.start_worker(self.plan, &self.network, sockets, self.now_us, false);
        }
        self.processes.push(process);
    }

    /// Sends a message to another process; messages arrive in order after a delay.
    pub fn post(&mut self, from: usize, to: usize, mail: Mail) {
        let delay_us = match self.random.below(4) {
            0 => self.random.below(20_000),
            _ => self.random.below(1_000),
        };
        let last_us = self.last_due_us.entry((from, to)).or_default();
        let due_us = (self.now_us + delay_us).max(*last_us);
        *last_us = due_us;
        self.posted += 1;
        self.mail.push((due_us, self.posted, to, mail));
    }

    /// When control is due next in any process.
    fn next_us(&mut self) -> Option<u64> {
        let mut next_us: Option<u64> = self.orders.peek().map(|(at_us, _)| *at_us);
        let mut consider = |due_us: u64, paused_until_us: u64| {
            let due_us = due_us.max(paused_until_us);
            next_us = Some(next_us.map_or(due_us, |next_us| next_us.min(due_us)));
        };
        for (due_us, _, to, _) in &self.mail {
            consider(*due_us, self.processes[*to].paused_until_us);
        }
        for process in self.processes.iter().filter(|process| process.is_alive()) {
            let is_withdrawn =
                matches!(process.phase, Phase::Withdrawing { .. }) && !process.outgoing.is_busy();
            let is_stop_due = is_withdrawn || self.stopping.contains(&process.number);
            let stop_us = is_stop_due.then_some(self.now_us);
            for due_us in process.next_check_us().into_iter().chain(process.deadline_us).chain(stop_us) {
                consider(due_us, process.paused_until_us);
            }
        }
        next_us
    }

    fn is_any_alive(&self) -> bool {
        self.processes.iter().any(Process::is_alive)
    }

    /// The running worker with the earliest clock, that clock, and the next one's.
    fn earliest(&self) -> Option<(usize, usize, u64, Option<u64>)> {
        let mut first: Option<(usize, usize, u64)> = None;
        let mut second_us: Option<u64> = None;
        for (number, process) in self.processes.iter().enumerate() {
            for (index, entry) in process.workers.iter().enumerate().filter(|(_, entry)| entry.is_running()) {
                let clock_us = entry.handle.now_us();
                let later_us = match first {
                    Some((.., first_us)) if first_us <= clock_us => Some(clock_us),
                    _ => first.replace((number, index, clock_us)).map(|(.., first_us)| first_us),
                };
                second_us = second_us.into_iter().chain(later_us).min();
            }
        }
        first.map(|(number, index, clock_us)| (number, index, clock_us, second_us))
    }

    fn step(&mut self, number: usize, index: usize, horizon_us: u64) -> Result<(), String> {
        self.outcome.steps += 1;
        let process = &mut self.processes[number];
        process.workers[index].handle.set_horizon(horizon_us);
        let was_ready = process.are_all_ready();
        process
            .step(index, self.plan.is_fault_free, &self.network)
            .map_err(|error| format!("process {number} worker {index}: {error}"))?;
        let clock_us = process.workers[index].handle.now_us();
        self.outcome.virtual_us = self.outcome.virtual_us.max(clock_us - START_US);
        let is_armed = !was_ready && process.are_all_ready() && process.phase.is_starting();
        let is_over = process.phase.is_draining() && process.have_all_ended();
        if process.workers[index].ended.is_some() && !process.phase.is_draining() {
            return Err(format!("process {number} worker {index} ended without an order"));
        }
        if is_armed || is_over {
            self.now_us = self.now_us.max(clock_us);
        }
        if is_armed {
            self.dispatch(number, Event::Armed)?;
        }
        if is_over {
            self.dispatch(number, Event::AllEnded)?;
        }
        let (behaviors, now_us) = (self.current_behaviors(), self.now_us);
        self.processes[number].attend(&behaviors, now_us);
        self.check_reception()
    }

    fn current_behaviors(&self) -> Vec<Behavior> {
        self.behaviors.iter().map(|(behavior, _)| *behavior).collect()
    }

    /// Runs control up to `due_us`, in every process.
    fn control(&mut self, due_us: u64) -> Result<(), String> {
        self.now_us = self.now_us.max(due_us);
        while let Some(place) = self.due_mail() {
            let (_, _, to, mail) = self.mail.remove(place);
            self.deliver(to, mail)?;
        }
        while let Some((_, order)) = self.orders.next_if(|(at_us, _)| *at_us <= due_us) {
            self.execute_order(order)?;
        }
        for number in 0..self.processes.len() {
            self.run_process(number)?;
        }
        self.check_reception()
    }

    /// The oldest message that is due.
    fn due_mail(&self) -> Option<usize> {
        let due = |(due_us, number, to, _): &(u64, u64, usize, Mail)| {
            let due_us = (*due_us).max(self.processes[*to].paused_until_us);
            (due_us <= self.now_us).then_some(*number)
        };
        let places = self.mail.iter().enumerate();
        places
            .filter_map(|(place, mail)| due(mail).map(|number| (number, place)))
            .min()
            .map(|(_, place)| place)
    }

    fn deliver(&mut self, to: usize, mail: Mail) -> Result<(), String> {
        if !self.processes[to].is_alive() {
            return Ok(());
        }
        match mail {
            Mail::Started { old, offer, disposition, sockets } => {
                self.begin(to, old, &offer, disposition, &sockets)
            }
            Mail::OutgoingHandover(event) => self.dispatch(to, Event::Successor(event)),
            _ if self.unresponsive.contains(&to) => Ok(()),
            Mail::IncomingHandover(event) => self.dispatch(to, Event::Predecessor(event)),
            Mail::Go(state) => {
                if let Some(inheritance) = &mut self.processes[to].inheritance {
                    inheritance.last_state = Some(state);
                }
                self.dispatch(to, Event::Predecessor(IncomingEvent::Go))
            }
        }
    }

    /// Runs the timers and tasks of a process.
    fn run_process(&mut self, number: usize) -> Result<(), String> {
        let now_us = self.now_us;
        let process = &mut self.processes[number];
        if !process.is_alive() || process.paused_until_us > now_us {
            return Ok(());
        }
        if process.deadline_us.is_some_and(|deadline_us| deadline_us <= now_us) {
            process.deadline_us = None;
            if is_active(Mutation::HandoverBeforeReady) {
                let taken = Inherited::default();
                let ready = OutgoingEvent::Ready { taken, is_current: true };
                self.dispatch(number, Event::Successor(ready))?;
            } else {
                self.dispatch(number, Event::Successor(OutgoingEvent::TimedOut))?;
            }
        }
        let behaviors = self.current_behaviors();
        self.processes[number].attend(&behaviors, now_us);
        if let Some(place) = self.stopping.iter().position(|stopping| *stopping == number) {
            self.stopping.remove(place);
            self.dispatch(number, Event::Stop(None))?;
        }
        let process = &self.processes[number];
        if matches!(process.phase, Phase::Withdrawing { .. }) && !process.outgoing.is_busy() {
            self.dispatch(number, Event::RestartOver)?;
        }
        // A new process that never had workers exits as soon as it is stopped.
        let process = &self.processes[number];
        if process.phase.is_draining() && process.workers.is_empty() {
            self.dispatch(number, Event::AllEnded)?;
        }
        Ok(())
    }

    fn execute_order(&mut self, order: Order) -> Result<(), String> {
        self.trace(|| format!("{order:?}"));
        let now_us = self.now_us;
        let serving = self.serving();
        match (order, serving) {
            (Order::Behavior, _) => {
                let place = self.random.below(NODES as u64) as usize;
                self.behaviors[place] = (Behavior::any(&mut self.random), now_us);
            }
            (Order::Edit, _) => self.file = edited(&mut self.random, &self.file),
            (Order::Kill, _) => {
                if let Some(number) = self.any_alive() {
                    self.kill(number)?;
                }
            }
            (Order::Pause, _) => self.pause(),
            (Order::Shortage, _) => self.cause_shortage(),
            (Order::Stop, None) if self.earliest().is_some() || !self.mail.is_empty() => {
                // "go" is on its way: only its receiver can react. Retried a little later.
                self.stop_during_handover()?;
                self.orders = vec![(now_us + 1_000, Order::Stop)].into_iter().peekable();
            }
            (Order::Stop, Some(number)) => {
                self.check_health(number)?;
                self.dispatch(number, Event::Stop(Some(SIGTERM)))?;
            }
            (Order::Restart, Some(number)) => self.dispatch(number, Event::Restart)?,
            (Order::Reload, Some(number)) => {
                self.changed_us = now_us;
                self.file = edited(&mut self.random, &self.file);
                self.dispatch(number, Event::Reload)?;
            }
            // To a process that starts or leaves, while another one is about to serve.
            (Order::Reload, None) => {
                let newest = self.processes.iter().rposition(Process::is_alive);
                if let Some(number) = newest.filter(|number| !self.unresponsive.contains(number)) {
                    self.changed_us = now_us;
                    self.file = edited(&mut self.random, &self.file);
                    self.dispatch(number, Event::Reload)?;
                }
            }
            (Order::AdminState, Some(number)) => self.set_admin_state(number),
            (Order::Lookup, Some(number)) => self.resolve(number),
            _ => {}
        }
        Ok(())
    }

    /// A stop while "go" is on its way: the old process forwards it, or a signal reaches the new one first.
    fn stop_during_handover(&mut self) -> Result<(), String> {
        let successors =
            self.processes.iter().filter(|process| process.is_alive() && process.phase.is_starting());
        let successor = successors
            .filter_map(|process| Some((process.inheritance.as_ref()?.old, process.number)))
            .next_back();
        let Some((old, new)) = successor.filter(|(old, new)| {
            self.processes[*old].outgoing.has_handed_over() && !self.stopped_early.contains(new)
        }) else {
            return Ok(());
        };
        self.stopped_early.push(new);
        self.outcome.stops_during_handover += 1;
        if self.processes[old].is_alive() && self.random.below(2) == 0 {
            return self.dispatch(old, Event::Stop(Some(SIGTERM)));
        }
        self.dispatch(new, Event::Stop(Some(SIGTERM)))
    }

    /// The process that serves.
    fn serving(&self) -> Option<usize> {
        self.processes.iter().rposition(|process| process.phase == Phase::Serving)
    }

    fn set_admin_state(&mut self, number: usize) {
        let backends = self.processes[number].backend_set.backends().clone();
        let admin_state = *self
            .random
            .pick(&[AdminState::Drain, AdminState::Down, AdminState::Up])
            .unwrap_or(&AdminState::Up);
        if let Some(backend) = self.random.pick(&backends)
            && backend.set_admin_state(admin_state)
        {
            let now_us = self.now_us;
            self.processes[number].publish(now_us);
        }
    }

    /// Resolves all names of a process again.
    fn resolve(&mut self, number: usize) {
        let backends = self.processes[number].backend_set.backends().clone();
        let rotated = self.random.below(3) as usize;
        let changes = backends.iter().filter(|backend| resolve(backend, rotated)).count();
        if changes > 0 {
            let now_us = self.now_us;
            self.processes[number].publish(now_us);
        }
    }

    /// A random process that is alive.
    fn any_alive(&mut self) -> Option<usize> {
        let alive = self.processes.iter().filter(|process| process.is_alive());
        let alive: Vec<usize> = alive.map(|process| process.number).collect();
        self.random.pick(&alive).copied()
    }

    fn cause_shortage(&mut self) {
        let Some(number) = self.any_alive() else { return };
        let short_us = self.random.between(1_000, 100_000);
        self.processes[number].shortage_until_us = self.now_us + short_us;
        self.outcome.shortages += 1;
    }

    fn pause(&mut self) {
        let Some(number) = self.any_alive() else { return };
        let pause_us = [5_000, 60_000, 10_000_000][self.random.below(3) as usize];
        let pause_us = self.random.between(1, pause_us);
        let process = &mut self.processes[number];
        process.paused_until_us = self.now_us + pause_us;
        for entry in process.workers.iter().filter(|entry| entry.is_running()) {
            entry.handle.pause(pause_us);
        }
        self.outcome.pauses += 1;
    }

    fn into_outcome(mut self) -> Outcome {
        let mut counters = Counters::new();
        self.outcome.faults.resize(Fault::COUNT, 0);
        for process in &self.processes {
            counters.merge(&process.counters());
            self.outcome.transitions += process.transitions;
            for entry in &process.workers {
                let counts = entry.handle.fault_counts();
                self.outcome.faults.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            }
        }
        self.outcome.datagrams = self.network.arrived();
        self.outcome.metrics_sent = counters.get(Counter::MetricsSent);
        self.outcome
    }
}
