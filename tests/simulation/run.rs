//! One run of a worker on the fake kernel, with its invariants checked after every step.

use crate::inspection::Inspection;
use crate::oracle::{self, Case};
use crate::scenario::{START_US, Scenario};
use arc_swap::ArcSwap;
use statsring::driver::sim::{Fault, SimHandle, SimKernel};
use statsring::packet::SocketSlot;
use statsring::relay::RouteTable;
use statsring::stats::{Counter, Counters, Latency, WorkerShared};
use statsring::worker::{Ended, Report, Step, Worker, WorkerLinks};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::mpsc::{Receiver, channel};

/// An upper limit of the steps of a run.
const STEPS_MAX: u64 = 60_000;
/// A drain with this time limit must never be cut short.
const AMPLE_TIMEOUT_US: u64 = 1_000_000;

/// The result of a run.
pub struct Verdict {
    pub counters: Counters,
    pub ended: Ended,
    /// By [`Fault::ALL`].
    pub faults: Vec<u64>,
    pub steps: u64,
    pub virtual_us: u64,
    /// All that was measured during the drain.
    pub latency: Option<Latency>,
}

/// Which tables may have been in force at a given time.
pub struct Timeline {
    entries: Vec<Entry>,
}

struct Entry {
    table: Arc<RouteTable>,
    published_us: u64,
    /// When the worker was first seen to apply it, or a later one.
    adopted_us: Option<u64>,
}

impl Timeline {
    pub fn new(first: &Arc<RouteTable>) -> Timeline {
        let table = Arc::clone(first);
        Timeline { entries: vec![Entry { table, published_us: 0, adopted_us: Some(0) }] }
    }

    pub fn publish(&mut self, table: &Arc<RouteTable>, published_us: u64) {
        self.entries.push(Entry { table: Arc::clone(table), published_us, adopted_us: None });
    }

    pub fn adopt(&mut self, generation: u64, now_us: u64) {
        for entry in &mut self.entries {
            if entry.table.generation <= generation && entry.adopted_us.is_none() {
                entry.adopted_us = Some(now_us);
            }
        }
    }

    pub fn first(&self) -> &RouteTable {
        &self.entries[0].table
    }

    pub fn tables(&self) -> impl Iterator<Item = &RouteTable> {
        self.entries.iter().map(|entry| &*entry.table)
    }

    /// Tables that may have been in force in an interval.
    pub fn in_force(&self, from_us: u64, to_us: u64) -> impl Iterator<Item = &RouteTable> {
        self.entries.iter().enumerate().filter_map(move |(index, entry)| {
            let next = self.entries.get(index + 1);
            let until_us = next.and_then(|next| next.adopted_us).unwrap_or(u64::MAX);
            (entry.published_us <= to_us && until_us >= from_us).then_some(&*entry.table)
        })
    }
}

/// A run in progress.
struct Run<'a> {
    scenario: &'a Scenario,
    handle: SimHandle,
    worker: Worker<SimKernel>,
    routes: Arc<ArcSwap<RouteTable>>,
    shared: Arc<WorkerShared>,
    reports: Receiver<Report>,
    timeline: Timeline,
    tables: VecDeque<(u64, Arc<RouteTable>)>,
    path_changes: VecDeque<(u64, u32, usize)>,
    wakes: VecDeque<u64>,
    is_draining: bool,
    inspection: Inspection,
    ready_reports: u64,
}

/// Runs a scenario to its end; an error names the broken invariant. A traced run prints each step.
pub fn run(scenario: &Scenario, is_traced: bool) -> Result<Verdict, String> {
    let mut run = Run::start(scenario);
    let mut steps = 0;
    let mut latency = Latency::new();
    let ended = loop {
        run.act();
        steps += 1;
        let asks_latency = run.is_draining;
        if asks_latency {
            run.shared.latency.request();
        }
        let step = run.worker.step().map_err(|error| format!("the worker failed: {error}"))?;
        if asks_latency {
            run.shared.latency.collect(&mut latency);
        }
        if is_traced {
            run.print();
        }
        run.check()?;
        if let Step::Ended(ended) = step {
            break ended;
        }
        run.check_sleep()?;
        if steps >= STEPS_MAX {
            return Err(format!("no end after {steps} steps"));
        }
    };
    let verdict = Verdict {
        counters: run.worker.relay().counters().clone(),
        ended,
        faults: run.handle.fault_counts(),
        steps,
        virtual_us: run.handle.now_us() - START_US,
        latency: Some(latency),
    };
    run.check_end(&verdict)?;
    let case = Case {
        is_fault_free: scenario.is_fault_free,
        are_paths_steady: scenario.path_changes.is_empty(),
        timeline: &run.timeline,
    };
    let judged = run.handle.with_received(|received| {
        run.handle.with_accepted(|accepted| oracle::judge(&case, received, accepted, &verdict))
    });
    judged.map(|()| verdict)
}

impl<'a> Run<'a> {
    fn start(scenario: &'a Scenario) -> Run<'a> {
        let (driver, handle) = SimKernel::driver(&scenario.setup);
        let routes = Arc::new(ArcSwap::new(Arc::clone(&scenario.first)));
        let shared = Arc::new(WorkerShared::default());
        let (sender, reports) = channel(256);
        for (at_us, listener, bytes) in &scenario.datagrams {
            handle.datagram_at(*at_us, *listener, bytes.as_slice());
        }
        for at_us in scenario.tables.iter().map(|(at_us, _)| at_us).chain(&scenario.wakes) {
            handle.interrupt_at(*at_us);
        }
        let mut wakes = scenario.wakes.clone();
        wakes.sort_unstable();
        let links = WorkerLinks {
            index: 0,
            routes: Arc::clone(&routes),
            shared: Arc::clone(&shared),
            reports: sender,
            limits: scenario.limits,
        };
        Run {
            scenario,
            handle,
            worker: Worker::new(driver, links),
            routes,
            shared,
            reports,
            timeline: Timeline::new(&scenario.first),
            tables: scenario.tables.iter().cloned().collect(),
            path_changes: scenario.path_changes.iter().copied().collect(),
            wakes: wakes.into(),
            is_draining: false,
            inspection: Inspection::default(),
            ready_reports: 0,
        }
    }

    /// Does what control does at this time.
    fn act(&mut self) {
        let now_us = self.handle.now_us();
        while self.tables.front().is_some_and(|(at_us, _)| *at_us <= now_us) {
            let Some((_, table)) = self.tables.pop_front() else { break };
            self.is_draining |= table.phase != statsring::relay::Phase::Run;
            self.timeline.publish(&table, now_us);
            self.routes.store(table);
            self.handle.wake();
        }
        while self.path_changes.front().is_some_and(|(at_us, ..)| *at_us <= now_us) {
            let Some((_, slot, bytes)) = self.path_changes.pop_front() else { break };
            self.handle.set_path(SocketSlot(slot), bytes);
        }
        while self.wakes.front().is_some_and(|at_us| *at_us <= now_us) {
            self.wakes.pop_front();
            self.handle.wake();
        }
    }

    fn print(&self) {
        let counters = self.worker.relay().counters();
        println!(
            "{}: table {}, received {}, sent {}, pending {}, dropped {}",
            self.handle.now_us(),
            self.worker.relay().table().generation,
            counters.get(Counter::DatagramsReceived),
            counters.get(Counter::MetricsSent),
            counters.get(Counter::MetricsPending),
            counters.dropped_total(),
        );
    }

    /// Checked after every step.
    fn check(&mut self) -> Result<(), String> {
        self.timeline.adopt(self.worker.relay().table().generation, self.handle.now_us());
        self.inspection.step(&self.worker, &self.handle, &self.shared)?;
        while let Ok(report) = self.reports.try_recv() {
            self.ready_reports += u64::from(matches!(report, Report::Ready { .. }));
        }
        Ok(())
    }

    /// A sleep without a deadline is valid only if nothing is pending.
    fn check_sleep(&mut self) -> Result<(), String> {
        // Control acts between steps only: what became due within this one wakes the next.
        let is_control_due = self.tables.front().is_some_and(|(at_us, _)| *at_us <= self.handle.now_us());
        if !self.handle.is_stuck() || is_control_due {
            return Ok(());
        }
        let pending = self.worker.relay().counters().get(Counter::MetricsPending);
        let queued = if self.handle.is_queue_empty() { "empty" } else { "not empty" };
        Err(format!("asleep without a deadline; {pending} metrics pending, socket queues {queued}"))
    }

    /// A smaller path MTU does not disable GSO, unless it changes between a send and the read of the path.
    fn check_gso(&self, verdict: &Verdict) -> Result<(), String> {
        let causes = [
            Fault::GsoRefused,
            Fault::PathChanged,
            Fault::SendInvalid,
            Fault::SendInputOutput,
            Fault::SendTooLong,
        ];
        let nodes = self.timeline.tables().flat_map(|table| table.nodes.iter());
        let refused: u64 = nodes.map(|node| node.counters.gso_refused.load(Ordering::Relaxed)).sum();
        if refused > 0 && causes.iter().all(|fault| verdict.faults[*fault as usize] == 0) {
            return Err("GSO was disabled without a cause".into());
        }
        Ok(())
    }

    fn check_end(&mut self, verdict: &Verdict) -> Result<(), String> {
        self.inspection.end(&self.worker)?;
        if !self.tables.is_empty() && !self.is_draining {
            return Err("it ended before it was ordered to".into());
        }
        if !self.handle.is_queue_empty() {
            return Err("datagrams that arrived before the fence are left in the socket queues".into());
        }
        let is_cut_short = verdict.ended != Ended::Drained;
        if is_cut_short && self.scenario.drain_timeout_us >= AMPLE_TIMEOUT_US {
            return Err(format!("drain with ample time: expected Drained, found {:?}", verdict.ended));
        }
        self.check_gso(verdict)?;
        // With faults, the end may come before every receive has been armed once.
        if self.ready_reports > 1 || (self.ready_reports == 0 && self.scenario.is_fault_free) {
            return Err(format!("ready was reported {} times", self.ready_reports));
        }
        let counted = verdict.counters.get(Counter::KernelDrops);
        let driver = self.worker.driver_mut();
        let dropped: u64 =
            (0..driver.listeners()).map(|listener| driver.receive_memory(listener).drops).sum();
        if counted != dropped {
            return Err(format!("kernel_drops: {counted}, expected {dropped}"));
        }
        Ok(())
    }
}
