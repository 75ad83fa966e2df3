//! One process of the fake host: its workers on fake kernels, and the real state of its control thread.

use super::plan::{Plan, addresses_of, node_number};
use crate::inspection::Inspection;
use crate::oracle::{self, Case};
use crate::run::{Timeline, Verdict};
use arc_swap::ArcSwap;
use statsring::admin::AdminState;
use statsring::config::Config;
use statsring::control::backends::addresses::{CheckResult, Found};
use statsring::control::backends::backend::Backend;
use statsring::control::backends::backend_set::BackendSet;
use statsring::control::backends::check_schedule::{Change, CheckSchedule, Next, judge};
use statsring::control::backends::probe::judge as judge_answer;
use statsring::control::config_diff::compare;
use statsring::control::lifecycle::handover::decide::{IncomingHandover, OutgoingHandover};
use statsring::control::lifecycle::handover::message::{Inherited, Offer, State};
use statsring::control::lifecycle::phase::Phase;
use statsring::driver::Engine;
use statsring::driver::reach::Reach;
use statsring::driver::sim::{Random, SimHandle, SimKernel, SimNetwork, SimSetup};
use statsring::failpoint::{Mutation, is_active};
use statsring::placement::{LiveSet, Placement, splitmix64};
use statsring::relay::{self, Left, RouteTable};
use statsring::stats::{Counter, Counters, WorkerShared};
use statsring::worker::{Ended, Report, Step, Worker, WorkerLinks};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio::sync::mpsc::{Receiver, channel};

/// How a backend answers its checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Behavior {
    Up,
    Down,
    /// It accepts the connection and sends nothing.
    Hangs,
    /// It sends single bytes, and never a complete answer.
    Trickles,
    /// It sends an answer that no StatsD server sends.
    Garbage,
    /// It answers that it is up, in pieces.
    Slow,
    Refuses,
}

impl Behavior {
    pub fn any(random: &mut Random) -> Behavior {
        use Behavior::{Down, Garbage, Hangs, Refuses, Slow, Trickles, Up};
        *random.pick(&[Up, Up, Up, Down, Hangs, Trickles, Garbage, Slow, Refuses]).unwrap_or(&Up)
    }

    /// What it sends when, in ms, and whether it then closes the connection.
    fn answer(self) -> (&'static [(u64, &'static [u8])], bool) {
        match self {
            Behavior::Up => (&[(0, b"health: up\n")], true),
            Behavior::Down => (&[(0, b"health: down\n")], true),
            Behavior::Hangs => (&[], false),
            Behavior::Trickles => {
                (&[(0, b"h"), (1, b"e"), (2, b"a"), (3, b"l"), (5, b"t"), (8, b"h")], false)
            }
            Behavior::Garbage => (&[(0, b"\x00\xff\x1b[2J"), (1, b"\r\n")], false),
            Behavior::Slow => (&[(0, b"health"), (1, b": u"), (1, b"p")], false),
            Behavior::Refuses => (&[], true),
        }
    }

    /// How long a check takes, in ms, and its result.
    fn check(self, timeout_ms: u64) -> (u64, CheckResult) {
        let (pieces, closes) = self.answer();
        let mut answer = Vec::new();
        for (at_ms, piece) in pieces {
            if *at_ms >= timeout_ms {
                return (timeout_ms, CheckResult::Failed);
            }
            answer.extend_from_slice(piece);
            if let Some(verdict) = judge_answer(&answer, false) {
                return (*at_ms, if verdict.is_ok() { CheckResult::Good } else { CheckResult::Failed });
            }
        }
        match (closes, pieces.is_empty()) {
            (true, _) => (0, CheckResult::Failed),
            (false, true) => (timeout_ms, CheckResult::Silent),
            (false, false) => (timeout_ms, CheckResult::Failed),
        }
    }

    /// Whether a check reports it up.
    pub fn is_up(self, timeout_ms: u64) -> bool {
        self.check(timeout_ms).1 == CheckResult::Good
    }
}

/// One worker and its records.
pub struct WorkerHandle {
    pub handle: SimHandle,
    worker: Option<Worker<SimKernel>>,
    shared: Arc<WorkerShared>,
    reports: Receiver<Report>,
    timeline: Timeline,
    inspection: Inspection,
    /// Its sockets' numbers in the network.
    pub sockets: Vec<usize>,
    /// Their drops before it had them.
    drops_before: u64,
    /// Its sockets to backends after the last step, and the table that they belong to.
    opened: Vec<(SocketAddr, u64)>,
    /// Sockets replaced until then, by its counter.
    reopened: u64,
    applied: Option<Arc<RouteTable>>,
    pub is_ready: bool,
    pub ended: Option<Ended>,
}

/// A backend's health checker.
struct Watched {
    backend: Rc<Backend>,
    schedule: CheckSchedule,
    due_us: Option<u64>,
    /// A check in progress: its addresses, its end, its result.
    check: Option<(Vec<SocketAddr>, u64, CheckResult)>,
}

/// Additional state of a process that takes over.
pub struct Inheritance {
    pub old: usize,
    pub incoming: IncomingHandover,
    pub taken: Inherited,
    pub last_state: Option<State>,
    /// Sockets that are bound only when everything is armed.
    pub late: Vec<usize>,
}

impl Inheritance {
    /// For a process that has just been started.
    pub fn new(old: usize) -> Inheritance {
        Inheritance {
            old,
            incoming: IncomingHandover::new(),
            taken: Inherited::default(),
            last_state: None,
            late: Vec::new(),
        }
    }
}

/// One process.
pub struct Process {
    pub number: usize,
    pub phase: Phase,
    pub backend_set: BackendSet,
    pub workers: Vec<WorkerHandle>,
    pub left: Left,
    pub outgoing: OutgoingHandover,
    pub successor: Option<usize>,
    /// Reloads applied, their number when the successor was started, and the time of the last one.
    pub reloads: u64,
    pub reloads_at_start: u64,
    pub reloaded_us: Option<u64>,
    /// When the successor's time limit passes.
    pub deadline_us: Option<u64>,
    pub inheritance: Option<Inheritance>,
    /// It does not run until then.
    pub paused_until_us: u64,
    /// It has no free descriptor for checks until then.
    pub shortage_until_us: u64,
    /// A backend that went down because of checks that were not made.
    pub down_by_shortage: Option<String>,
    /// Since when its backends are checked.
    pub watching_us: Option<u64>,
    born_us: u64,
    routes: Arc<ArcSwap<RouteTable>>,
    watched: Vec<Watched>,
    jitter: u64,
    pub transitions: u64,
}

impl Process {
    /// A process whose workers are not started.
    pub fn new(number: usize, config: Config, born_us: u64) -> Process {
        let nothing = RouteTable {
            generation: 0,
            nodes: Arc::from([]),
            live: LiveSet::nobody(),
            diverted: LiveSet::nobody(),
            placement: Placement::Jump,
            rules: config.rules(),
            phase: relay::Phase::Run,
            observer: None,
        };
        let backend_set = BackendSet::new(config);
        resolve_all(&backend_set.backends());
        Process {
            number,
            phase: Phase::START,
            backend_set,
            workers: Vec::new(),
            left: Left::NONE,
            outgoing: OutgoingHandover::new(),
            successor: None,
            reloads: 0,
            reloads_at_start: 0,
            reloaded_us: None,
            deadline_us: None,
            inheritance: None,
            paused_until_us: 0,
            shortage_until_us: 0,
            down_by_shortage: None,
            watching_us: None,
            born_us,
            routes: Arc::new(ArcSwap::from_pointee(nothing)),
            watched: Vec::new(),
            jitter: number as u64,
            transitions: 0,
        }
    }

    /// When it was started and read the config.
    pub fn born_us(&self) -> u64 {
        self.born_us
    }

    /// The clock of its checks.
    pub fn now_ms(&self, now_us: u64) -> u64 {
        now_us.saturating_sub(self.born_us) / 1_000
    }

    /// Whether it uses the portable engine: half of all processes do, so that restarts change the engine in both directions.
    fn is_portable(&self, plan: &Plan) -> bool {
        splitmix64(plan.seed ^ self.number as u64).is_multiple_of(2)
    }

    /// Starts a worker on these sockets. The first table has been published.
    pub fn start_worker(
        &mut self,
        plan: &Plan,
        network: &SimNetwork,
        sockets: Vec<usize>,
        now_us: u64,
        has_inherited: bool,
    ) {
        let index = self.workers.len();
        let seed = splitmix64(plan.seed ^ ((self.number as u64) << 32) ^ index as u64);
        let engine = if self.is_portable(plan) { Engine::Portable } else { Engine::IoUring };
        let setup = SimSetup { seed, engine, ..plan.setup.clone() };
        let (driver, handle) = SimKernel::driver_on(&setup, network, &sockets, now_us);
        let shared = Arc::new(WorkerShared::default());
        let (sender, reports) = channel(256);
        let links = WorkerLinks {
            index,
            routes: Arc::clone(&self.routes),
            shared: Arc::clone(&shared),
            reports: sender,
            limits: plan.limits,
        };
        let mut worker = Worker::new(driver, links);
        if has_inherited && !is_active(Mutation::DropsCountedTwice) {
            worker.forget_drops();
        }
        self.workers.push(WorkerHandle {
            handle,
            worker: Some(worker),
            shared,
            reports,
            timeline: Timeline::new(&self.routes.load()),
            inspection: Inspection::default(),
            drops_before: sockets.iter().map(|socket| network.drops(*socket)).sum(),
            sockets,
            opened: Vec::new(),
            reopened: 0,
            applied: None,
            is_ready: false,
            ended: None,
        });
    }

    /// Publishes the current state to the workers, like `Control::publish`.
    pub fn publish(&mut self, now_us: u64) {
        let previous = self.routes.load_full();
        let table = Arc::new(self.backend_set.next_table(Some(&previous), None));
        self.routes.store(Arc::clone(&table));
        for entry in self.workers.iter_mut().filter(|entry| entry.ended.is_none()) {
            if is_active(Mutation::GenerationReportedEarly) {
                entry.shared.set_generation(table.generation);
            }
            entry.timeline.publish(&table, now_us.min(entry.handle.now_us()));
            entry.handle.wake();
        }
    }

    /// The latest published table.
    pub fn table(&self) -> Arc<RouteTable> {
        self.routes.load_full()
    }

    /// Orders the workers to end, like `Control::drain`.
    pub fn drain(&mut self, now_us: u64) {
        let is_cut_short = !self.left.is_none() && is_active(Mutation::LeaveWithoutFlush);
        let timeout_us = if is_cut_short { 0 } else { self.backend_set.config().shutdown_timeout_ms * 1_000 };
        self.backend_set.end(timeout_us, self.left);
        self.publish(now_us);
    }

    /// Its offer to a process that is to take over.
    pub fn offer(&self, now_us: u64) -> Offer {
        let config = self.backend_set.config();
        Offer {
            pid: self.number as u32,
            timeout_ms: config.handover_timeout_ms,
            data: config.listen.clone(),
            workers: self.workers.len(),
            state: self.carry(now_us),
            ..Offer::default()
        }
    }

    /// The state that is handed over.
    pub fn carry(&self, now_us: u64) -> State {
        let mut backends = self.backend_set.carry(self.now_ms(now_us));
        for backend in &mut backends {
            if is_active(Mutation::HealthLostAtHandover) {
                backend.health = None;
            }
            if is_active(Mutation::AdminStateLostAtHandover) {
                backend.admin_state = AdminState::Up;
            }
        }
        State { health_wanted: true, backends }
    }

    pub fn is_alive(&self) -> bool {
        self.phase != Phase::Ended
    }

    pub fn are_all_ready(&self) -> bool {
        !self.workers.is_empty() && self.workers.iter().all(|entry| entry.is_ready)
    }

    pub fn have_all_ended(&self) -> bool {
        self.workers.iter().all(|entry| entry.ended.is_some())
    }

    /// Starts checking its backends, as after a start.
    pub fn watch(&mut self, now_us: u64) {
        self.watching_us = Some(now_us);
        self.attend(&[], now_us);
    }

    /// Runs the health checkers as far as possible at this time.
    pub fn attend(&mut self, behaviors: &[Behavior], now_us: u64) {
        if self.watching_us.is_none() {
            return;
        }
        self.start_watching(now_us);
        let check = self.backend_set.config().check;
        let now_ms = self.now_ms(now_us);
        let born_us = self.born_us;
        let mut transitions = 0;
        for watched in &mut self.watched {
            let backend = &watched.backend;
            if let Some((order, ends_us, result)) = watched.check.take() {
                if now_us < ends_us {
                    watched.check = Some((order, ends_us, result));
                    continue;
                }
                watched.due_us = Some(now_us);
                let judged = match result {
                    CheckResult::NotMade if is_active(Mutation::ShortageCountedAsFailure) => {
                        CheckResult::Failed
                    }
                    result => result,
                };
                let results: Vec<_> = order.into_iter().map(|address| (address, judged)).collect();
                judge(backend, &results, check, now_ms, |change| {
                    transitions += 1;
                    if result == CheckResult::NotMade && matches!(change, Change::State(state) if !state.up) {
                        self.down_by_shortage = Some(backend.name.to_string());
                    }
                });
            }
            if !is_nudged(backend) && watched.due_us.is_none_or(|due_us| now_us < due_us) {
                continue;
            }
            let next = watched.schedule.poll(backend, check, now_ms, |change| {
                transitions += u64::from(!matches!(change, Change::SendErrors(_)));
            });
            match next {
                // Its host is always reachable.
                Next::Reach(_) => {
                    let reached = backend.with_health(|health| health.reached(now_ms, Reach::Answered));
                    transitions += u64::from(reached.is_some());
                    watched.due_us = Some(now_us + 1_000);
                }
                Next::Check(mut order) => {
                    backend.with_health(|health| health.started(now_ms));
                    let behavior = behaviors.get(node_number(&backend.name)).copied().unwrap_or(Behavior::Up);
                    // A server answers the same at all its addresses, and no further one is queried after a good answer.
                    let (takes_ms, result) = match now_us < self.shortage_until_us {
                        true => (0, CheckResult::NotMade),
                        false => behavior.check(check.timeout_ms),
                    };
                    if result == CheckResult::Good {
                        order.truncate(1);
                    }
                    watched.check = Some((order, now_us + 1_000 * takes_ms + 100, result));
                }
                // Like the real task: not before the next millisecond.
                Next::Wait(wake_ms) => {
                    watched.due_us = wake_ms.map(|ms| (born_us + 1_000 * ms).max(now_us + 1_000));
                }
            }
        }
        if transitions > 0 {
            self.transitions += transitions;
            self.publish(now_us);
        }
    }

    fn start_watching(&mut self, now_us: u64) {
        let backends = self.backend_set.backends().clone();
        self.watched.retain(|watched| !watched.backend.is_removed());
        for backend in backends {
            if !self.watched.iter().any(|watched| Rc::ptr_eq(&watched.backend, &backend)) {
                self.jitter = splitmix64(self.jitter);
                let (schedule, due_us) = (CheckSchedule::new(self.jitter), Some(now_us));
                self.watched.push(Watched { backend, schedule, due_us, check: None });
            }
        }
    }

    /// When the next health checker is due.
    pub fn next_check_us(&self) -> Option<u64> {
        let due =
            |watched: &Watched| watched.check.as_ref().map(|(_, ends_us, _)| *ends_us).or(watched.due_us);
        self.watched.iter().filter_map(due).min()
    }

    /// Reloads `new`, like `Control::reload`; whether it was applied. Backends that stay must be unchanged.
    pub fn reload(&mut self, new: Config, plan: &Plan, now_us: u64) -> Result<bool, String> {
        if compare(&self.backend_set.config(), &new, plan.limits.sockets_max).is_err() {
            return Ok(false);
        }
        let known = |backend_set: &BackendSet| -> HashMap<Arc<str>, _> {
            let of = |backend: &Rc<Backend>| {
                let is_up = backend.with_health(|health| health.is_up());
                (
                    backend.name.clone(),
                    (Arc::clone(&backend.counters), backend.admin_state(), is_up, backend.node().clone()),
                )
            };
            backend_set.backends().iter().map(of).collect()
        };
        let before = known(&self.backend_set);
        let backends = if is_active(Mutation::BackendLostAtReload) {
            new.nodes.iter().map(|node| Rc::new(Backend::new(node.clone(), new.check))).collect()
        } else {
            self.backend_set.for_config(&new)
        };
        resolve_all(&self.backend_set.added(&backends));
        self.backend_set.replace(new, backends);
        (self.reloads, self.reloaded_us) = (self.reloads + 1, Some(now_us));
        for (name, (counters, admin_state, is_up, node)) in known(&self.backend_set) {
            let Some((old_counters, old_admin_state, was_up, old_node)) = before.get(&name) else { continue };
            let has_same_port = node.adminport == old_node.adminport && node.disabled == old_node.disabled;
            if !Arc::ptr_eq(&counters, old_counters) || admin_state != *old_admin_state {
                return Err(format!("a reload reset {name}"));
            }
            if has_same_port && is_up != *was_up {
                return Err(format!("a reload changed the health of {name}"));
            }
        }
        self.publish(now_us);
        self.start_watching(now_us);
        Ok(true)
    }

    /// One step of a worker; an error names the broken invariant.
    pub fn step(&mut self, index: usize, is_fault_free: bool, network: &SimNetwork) -> Result<(), String> {
        let entry = &mut self.workers[index];
        let Some(worker) = &mut entry.worker else { return Ok(()) };
        Inspection::generation(worker, &entry.shared)?;
        let step = worker.step().map_err(|error| format!("the worker failed: {error}"))?;
        entry.timeline.adopt(worker.relay().table().generation, entry.handle.now_us());
        entry.inspect(network)?;
        while let Ok(report) = entry.reports.try_recv() {
            match report {
                Report::Ready { .. } => entry.is_ready = true,
                Report::SendsFail { node, address } => {
                    if let Some(backend) = self.backend_set.backend(&node) {
                        backend.note_send_errors(address);
                    }
                }
                _ => {}
            }
        }
        let Step::Ended(ended) = step else { return Ok(()) };
        let may_be_short = self.backend_set.config().shutdown_timeout_ms < 1_000;
        if ended != Ended::Drained && !may_be_short {
            return Err(format!("drain with ample time: expected Drained, found {ended:?}"));
        }
        entry.end(ended, is_fault_free)
    }

    /// Whether a worker reads this socket: it has not left it.
    pub fn reads(&self, socket: usize) -> bool {
        self.workers.iter().filter(|entry| entry.worker.is_some()).any(|entry| {
            entry.sockets.iter().position(|of| *of == socket).is_some_and(|at| !entry.handle.has_left(at))
        })
    }

    /// Kills it: what its workers had sent until then must be right.
    pub fn kill(&mut self, is_fault_free: bool) -> Result<(), String> {
        self.phase = Phase::Ended;
        for entry in &mut self.workers {
            let Some(worker) = entry.worker.take() else { continue };
            entry.ended = Some(Ended::Panicked);
            let case = Case { is_fault_free, are_paths_steady: true, timeline: &entry.timeline };
            let counters = worker.relay().counters();
            entry.handle.with_received(|received| {
                entry
                    .handle
                    .with_accepted(|accepted| oracle::judge_killed(&case, received, accepted, counters))
            })?;
        }
        Ok(())
    }

    /// The sum of its workers' counters.
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::new();
        for entry in &self.workers {
            sum.merge(&entry.shared.published.read());
        }
        sum
    }
}

impl WorkerHandle {
    /// Whether it is running.
    pub fn is_running(&self) -> bool {
        self.worker.is_some()
    }

    fn inspect(&mut self, network: &SimNetwork) -> Result<(), String> {
        let Some(worker) = &self.worker else { return Ok(()) };
        self.inspection.step(worker, &self.handle, &self.shared)?;
        let dropped: u64 = self.sockets.iter().map(|socket| network.drops(*socket)).sum();
        let counted = worker.relay().counters().get(Counter::KernelDrops);
        if counted > dropped - self.drops_before {
            let here = dropped - self.drops_before;
            return Err(format!("kernel_drops: {counted}, expected at most {here} since it has the sockets"));
        }
        let table = worker.relay().table();
        if self.applied.as_ref().is_some_and(|applied| Arc::ptr_eq(applied, table)) {
            return Ok(());
        }
        let opened = self.handle.backend_sockets();
        if opened.len() > table.nodes.len() {
            return Err(format!("{} sockets for {} backends", opened.len(), table.nodes.len()));
        }
        let before = self.applied.iter().flat_map(|table| table.nodes.iter());
        let mut replaced = Vec::new();
        for address in before.filter_map(|node| node.address) {
            let serial = |sockets: &[(SocketAddr, u64)]| {
                sockets.iter().find(|(of, _)| *of == address).map(|(_, serial)| *serial)
            };
            let stays = table.nodes.iter().any(|node| node.address == Some(address));
            if let (true, Some(old)) = (stays, serial(&self.opened))
                && serial(&opened) != Some(old)
            {
                replaced.push(address);
            }
        }
        let reopened = worker.relay().counters().get(Counter::SocketsReopened);
        if replaced.len() as u64 > reopened - self.reopened {
            return Err(format!("sockets to {replaced:?} were replaced without being counted"));
        }
        (self.opened, self.reopened, self.applied) = (opened, reopened, Some(Arc::clone(table)));
        Ok(())
    }

    fn end(&mut self, ended: Ended, is_fault_free: bool) -> Result<(), String> {
        let Some(worker) = self.worker.take() else { return Ok(()) };
        self.ended = Some(ended);
        self.inspection.end(&worker)?;
        let counters = worker.relay().counters().clone();
        let faults = self.handle.fault_counts();
        let verdict = Verdict { counters, ended, faults, steps: 0, virtual_us: 0, latency: None };
        let case = Case { is_fault_free, are_paths_steady: true, timeline: &self.timeline };
        self.handle.with_received(|received| {
            self.handle.with_accepted(|accepted| oracle::judge(&case, received, accepted, &verdict))
        })
    }
}

/// Applies a name server's answer for a backend that has a name, rotated; true if that changed anything for the workers.
pub fn resolve(backend: &Backend, rotated: usize) -> bool {
    if !backend.is_named() {
        return false;
    }
    let mut found: Vec<Found> = addresses_of(&backend.node()).into_iter().map(Found::at).collect();
    let count = found.len().max(1);
    found.rotate_left(rotated % count);
    backend.set_addresses(found)
}

fn resolve_all(backends: &[Rc<Backend>]) {
    for backend in backends {
        resolve(backend, 0);
    }
}

/// Whether its task was nudged since the last call.
fn is_nudged(backend: &Backend) -> bool {
    let nudged = std::pin::pin!(backend.nudge.notified());
    nudged.poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
}
