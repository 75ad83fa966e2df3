//! One process of the fake host: its workers on fake kernels, and its control thread's knowledge, which is the real one.

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
pub enum Mood {
    Up,
    Down,
    /// It takes the connection and says nothing.
    Hangs,
    /// It says a byte now and then, and never what counts.
    Trickles,
    /// It says what no StatsD server says.
    Garbage,
    /// It says that it is up, in pieces.
    Slow,
    Refuses,
}

impl Mood {
    pub fn any(random: &mut Random) -> Mood {
        use Mood::{Down, Garbage, Hangs, Refuses, Slow, Trickles, Up};
        *random.pick(&[Up, Up, Up, Down, Hangs, Trickles, Garbage, Slow, Refuses]).unwrap_or(&Up)
    }

    /// What it says when, in ms, and whether it then closes the connection.
    fn answer(self) -> (&'static [(u64, &'static [u8])], bool) {
        match self {
            Mood::Up => (&[(0, b"health: up\n")], true),
            Mood::Down => (&[(0, b"health: down\n")], true),
            Mood::Hangs => (&[], false),
            Mood::Trickles => (&[(0, b"h"), (1, b"e"), (2, b"a"), (3, b"l"), (5, b"t"), (8, b"h")], false),
            Mood::Garbage => (&[(0, b"\x00\xff\x1b[2J"), (1, b"\r\n")], false),
            Mood::Slow => (&[(0, b"health"), (1, b": u"), (1, b"p")], false),
            Mood::Refuses => (&[], true),
        }
    }

    /// How long a check takes, in ms, and what it finds.
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

    /// Whether a check finds it up.
    pub fn is_up(self, timeout_ms: u64) -> bool {
        self.check(timeout_ms).1 == CheckResult::Good
    }
}

/// One worker and what is known of it.
pub struct WorkerHandle {
    pub handle: SimHandle,
    worker: Option<Worker<SimKernel>>,
    shared: Arc<WorkerShared>,
    reports: Receiver<Report>,
    timeline: Timeline,
    inspection: Inspection,
    /// Its sockets' numbers in the network.
    pub sockets: Vec<usize>,
    /// What they had dropped before it had them.
    drops_before: u64,
    /// Its backends' sockets as they were after the last step, and the table they were for.
    opened: Vec<(SocketAddr, u64)>,
    /// Sockets replaced until then, as counted.
    reopened: u64,
    followed: Option<Arc<RouteTable>>,
    pub is_ready: bool,
    pub ended: Option<Ended>,
}

/// A task that watches a backend.
struct Watched {
    backend: Rc<Backend>,
    rounds: CheckSchedule,
    due_us: Option<u64>,
    /// A check under way: of which addresses, when it ends, what it finds at each.
    check: Option<(Vec<SocketAddr>, u64, CheckResult)>,
}

/// What a process that takes over has beside.
pub struct Inheritance {
    pub old: usize,
    pub incoming: IncomingHandover,
    pub taken: Inherited,
    pub last_state: Option<State>,
    /// Sockets that are not bound before everything is armed.
    pub late: Vec<usize>,
}

impl Inheritance {
    /// Of a process that has just been started.
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
    pub roster: BackendSet,
    pub seats: Vec<WorkerHandle>,
    pub left: Left,
    pub outgoing: OutgoingHandover,
    pub successor: Option<usize>,
    /// Reloads that were applied; how many there had been when the successor was started; when the last one was.
    pub reloads: u64,
    pub reloads_at_start: u64,
    pub reloaded_us: Option<u64>,
    /// When the successor's time is over.
    pub deadline_us: Option<u64>,
    pub inheritance: Option<Inheritance>,
    /// It does not run before.
    pub frozen_until_us: u64,
    /// It has no descriptor free for a check before.
    pub short_until_us: u64,
    /// A backend that went down because of checks that were not made.
    pub wrongly_down: Option<String>,
    /// Since when its backends are watched.
    pub watching_us: Option<u64>,
    born_us: u64,
    routes: Arc<ArcSwap<RouteTable>>,
    watched: Vec<Watched>,
    jitter: u64,
    pub transitions: u64,
}

impl Process {
    /// One whose workers are not started.
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
        let roster = BackendSet::new(config);
        look_up_all(&roster.backends());
        Process {
            number,
            phase: Phase::START,
            roster,
            seats: Vec::new(),
            left: Left::NONE,
            outgoing: OutgoingHandover::new(),
            successor: None,
            reloads: 0,
            reloads_at_start: 0,
            reloaded_us: None,
            deadline_us: None,
            inheritance: None,
            frozen_until_us: 0,
            short_until_us: 0,
            wrongly_down: None,
            watching_us: None,
            born_us,
            routes: Arc::new(ArcSwap::from_pointee(nothing)),
            watched: Vec::new(),
            jitter: number as u64,
            transitions: 0,
        }
    }

    /// When it was started, and read the config.
    pub fn born_us(&self) -> u64 {
        self.born_us
    }

    /// Its clock of the checks.
    pub fn now_ms(&self, now_us: u64) -> u64 {
        now_us.saturating_sub(self.born_us) / 1_000
    }

    /// Whether its engine is the portable one: half of all processes', so that restarts lead from either to either.
    fn is_portable(&self, plan: &Plan) -> bool {
        splitmix64(plan.seed ^ self.number as u64).is_multiple_of(2)
    }

    /// Starts a worker on these sockets. The first table is published.
    pub fn start_worker(
        &mut self,
        plan: &Plan,
        network: &SimNetwork,
        sockets: Vec<usize>,
        now_us: u64,
        has_inherited: bool,
    ) {
        let index = self.seats.len();
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
        self.seats.push(WorkerHandle {
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
            followed: None,
            is_ready: false,
            ended: None,
        });
    }

    /// Hands the present state to the workers, as `Control::publish` does.
    pub fn publish(&mut self, now_us: u64) {
        let previous = self.routes.load_full();
        let table = Arc::new(self.roster.next_table(Some(&previous), None));
        self.routes.store(Arc::clone(&table));
        for seat in self.seats.iter_mut().filter(|seat| seat.ended.is_none()) {
            if is_active(Mutation::GenerationReportedEarly) {
                seat.shared.set_generation(table.generation);
            }
            seat.timeline.publish(&table, now_us.min(seat.handle.now_us()));
            seat.handle.wake();
        }
    }

    /// The table in force, or about to be.
    pub fn table(&self) -> Arc<RouteTable> {
        self.routes.load_full()
    }

    /// The workers are to end, as by `Control::drain`.
    pub fn drain(&mut self, now_us: u64) {
        let is_cut_short = !self.left.is_none() && is_active(Mutation::LeaveWithoutFlush);
        let timeout_us = if is_cut_short { 0 } else { self.roster.config().shutdown_timeout_ms * 1_000 };
        self.roster.end(timeout_us, self.left);
        self.publish(now_us);
    }

    /// What it offers to a process that is to take over.
    pub fn offer(&self, now_us: u64) -> Offer {
        let config = self.roster.config();
        Offer {
            pid: self.number as u32,
            timeout_ms: config.handover_timeout_ms,
            data: config.listen.clone(),
            workers: self.seats.len(),
            state: self.carry(now_us),
            ..Offer::default()
        }
    }

    /// What goes over.
    pub fn carry(&self, now_us: u64) -> State {
        let mut backends = self.roster.carry(self.now_ms(now_us));
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
        !self.seats.is_empty() && self.seats.iter().all(|seat| seat.is_ready)
    }

    pub fn have_all_ended(&self) -> bool {
        self.seats.iter().all(|seat| seat.ended.is_some())
    }

    /// Begins to watch its backends, as after a start.
    pub fn watch(&mut self, now_us: u64) {
        self.watching_us = Some(now_us);
        self.attend(&[], now_us);
    }

    /// Lets the tasks that watch backends run as far as they can now.
    pub fn attend(&mut self, moods: &[Mood], now_us: u64) {
        if self.watching_us.is_none() {
            return;
        }
        self.start_watching(now_us);
        let check = self.roster.config().check;
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
                        self.wrongly_down = Some(backend.name.to_string());
                    }
                });
            }
            if !is_nudged(backend) && watched.due_us.is_none_or(|due_us| now_us < due_us) {
                continue;
            }
            let next = watched.rounds.look(backend, check, now_ms, |change| {
                transitions += u64::from(!matches!(change, Change::SendErrors(_)));
            });
            match next {
                // Its host is there all the time.
                Next::Reach(_) => {
                    let reached = backend.with_health(|health| health.reached(now_ms, Reach::Answered));
                    transitions += u64::from(reached.is_some());
                    watched.due_us = Some(now_us + 1_000);
                }
                Next::Check(mut order) => {
                    backend.with_health(|health| health.started(now_ms));
                    let mood = moods.get(node_number(&backend.name)).copied().unwrap_or(Mood::Up);
                    // A server answers at all its addresses in the same way, and no further one is tried once one is good.
                    let (takes_ms, result) = match now_us < self.short_until_us {
                        true => (0, CheckResult::NotMade),
                        false => mood.check(check.timeout_ms),
                    };
                    if result == CheckResult::Good {
                        order.truncate(1);
                    }
                    watched.check = Some((order, now_us + 1_000 * takes_ms + 100, result));
                }
                // As the real task: not before the next millisecond.
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
        let backends = self.roster.backends().clone();
        self.watched.retain(|watched| !watched.backend.is_removed());
        for backend in backends {
            if !self.watched.iter().any(|watched| Rc::ptr_eq(&watched.backend, &backend)) {
                self.jitter = splitmix64(self.jitter);
                let (rounds, due_us) = (CheckSchedule::new(self.jitter), Some(now_us));
                self.watched.push(Watched { backend, rounds, due_us, check: None });
            }
        }
    }

    /// When one of those tasks has something to do.
    pub fn next_check_us(&self) -> Option<u64> {
        let due =
            |watched: &Watched| watched.check.as_ref().map(|(_, ends_us, _)| *ends_us).or(watched.due_us);
        self.watched.iter().filter_map(due).min()
    }

    /// Reloads `new`, as `Control::reload` does; whether it was applied. What stays has to stay as it was.
    pub fn reload(&mut self, new: Config, plan: &Plan, now_us: u64) -> Result<bool, String> {
        if compare(&self.roster.config(), &new, plan.limits.sockets_max).is_err() {
            return Ok(false);
        }
        let known = |roster: &BackendSet| -> HashMap<Arc<str>, _> {
            let of = |backend: &Rc<Backend>| {
                let is_up = backend.with_health(|health| health.is_up());
                (
                    backend.name.clone(),
                    (Arc::clone(&backend.counters), backend.wish(), is_up, backend.node().clone()),
                )
            };
            roster.backends().iter().map(of).collect()
        };
        let before = known(&self.roster);
        let backends = if is_active(Mutation::BackendLostAtReload) {
            new.nodes.iter().map(|node| Rc::new(Backend::new(node.clone(), new.check))).collect()
        } else {
            self.roster.for_config(&new)
        };
        look_up_all(&self.roster.added(&backends));
        self.roster.replace(new, backends);
        (self.reloads, self.reloaded_us) = (self.reloads + 1, Some(now_us));
        for (name, (counters, wish, is_up, node)) in known(&self.roster) {
            let Some((old_counters, old_wish, was_up, old_node)) = before.get(&name) else { continue };
            let has_same_port = node.adminport == old_node.adminport && node.disabled == old_node.disabled;
            if !Arc::ptr_eq(&counters, old_counters) || wish != *old_wish {
                return Err(format!("a reload began {name} anew"));
            }
            if has_same_port && is_up != *was_up {
                return Err(format!("a reload changed the health of {name}"));
            }
        }
        self.publish(now_us);
        self.start_watching(now_us);
        Ok(true)
    }

    /// One step of a worker; an error says which invariant broke.
    pub fn step(&mut self, index: usize, is_good_day: bool, network: &SimNetwork) -> Result<(), String> {
        let seat = &mut self.seats[index];
        let Some(worker) = &mut seat.worker else { return Ok(()) };
        Inspection::generation(worker, &seat.shared)?;
        let step = worker.step().map_err(|error| format!("the worker failed: {error}"))?;
        seat.timeline.adopt(worker.relay().table().generation, seat.handle.now_us());
        seat.inspect(network)?;
        while let Ok(report) = seat.reports.try_recv() {
            match report {
                Report::Ready { .. } => seat.is_ready = true,
                Report::SendsFail { node, address } => {
                    if let Some(backend) = self.roster.backend(&node) {
                        backend.note_send_errors(address);
                    }
                }
                _ => {}
            }
        }
        let Step::Ended(ended) = step else { return Ok(()) };
        let may_be_short = self.roster.config().shutdown_timeout_ms < 1_000;
        if ended != Ended::Drained && !may_be_short {
            return Err(format!("an end with ample time ended as {ended:?}"));
        }
        seat.end(ended, is_good_day)
    }

    /// Whether a worker that is not about to leave it has a socket.
    pub fn reads(&self, socket: usize) -> bool {
        self.seats.iter().filter(|seat| seat.worker.is_some()).any(|seat| {
            seat.sockets.iter().position(|of| *of == socket).is_some_and(|at| !seat.handle.has_left(at))
        })
    }

    /// It is killed: what its workers had sent until then has to be right.
    pub fn kill(&mut self, is_good_day: bool) -> Result<(), String> {
        self.phase = Phase::Ended;
        for seat in &mut self.seats {
            let Some(worker) = seat.worker.take() else { continue };
            seat.ended = Some(Ended::Panicked);
            let case = Case { is_good_day, timeline: &seat.timeline };
            let counters = worker.relay().counters();
            seat.handle.with_received(|received| {
                seat.handle
                    .with_accepted(|accepted| oracle::judge_killed(&case, received, accepted, counters))
            })?;
        }
        Ok(())
    }

    /// The account of its workers.
    pub fn counters(&self) -> Counters {
        let mut sum = Counters::new();
        for seat in &self.seats {
            sum.merge(&seat.shared.published.read());
        }
        sum
    }
}

impl WorkerHandle {
    /// Whether it runs.
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
            return Err(format!(
                "{counted} kernel drops counted, there were {here} since it has the sockets"
            ));
        }
        let table = worker.relay().table();
        if self.followed.as_ref().is_some_and(|followed| Arc::ptr_eq(followed, table)) {
            return Ok(());
        }
        let opened = self.handle.backend_sockets();
        if opened.len() > table.nodes.len() {
            return Err(format!("{} sockets for {} backends", opened.len(), table.nodes.len()));
        }
        let before = self.followed.iter().flat_map(|table| table.nodes.iter());
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
            return Err(format!("sockets to {replaced:?} were replaced and not counted"));
        }
        (self.opened, self.reopened, self.followed) = (opened, reopened, Some(Arc::clone(table)));
        Ok(())
    }

    fn end(&mut self, ended: Ended, is_good_day: bool) -> Result<(), String> {
        let Some(worker) = self.worker.take() else { return Ok(()) };
        self.ended = Some(ended);
        self.inspection.end(&worker)?;
        let counters = worker.relay().counters().clone();
        let faults = self.handle.fault_counts();
        let verdict = Verdict { counters, ended, faults, steps: 0, virtual_us: 0, latency: None };
        let case = Case { is_good_day, timeline: &self.timeline };
        self.handle.with_received(|received| {
            self.handle.with_accepted(|accepted| oracle::judge(&case, received, accepted, &verdict))
        })
    }
}

/// The name server's answer for a backend that has a name, rotated by so many; true if that changed anything for the workers.
pub fn look_up(backend: &Backend, rotated: usize) -> bool {
    if !backend.is_named() {
        return false;
    }
    let mut found: Vec<Found> = addresses_of(&backend.node()).into_iter().map(Found::at).collect();
    let count = found.len().max(1);
    found.rotate_left(rotated % count);
    backend.set_addresses(found)
}

fn look_up_all(backends: &[Rc<Backend>]) {
    for backend in backends {
        look_up(backend, 0);
    }
}

/// Whether its task was nudged since it was last asked.
fn is_nudged(backend: &Backend) -> bool {
    let nudged = std::pin::pin!(backend.nudge.notified());
    nudged.poll(&mut Context::from_waker(Waker::noop())) == Poll::Ready(())
}
