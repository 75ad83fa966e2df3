//! Runs seeds on all cores and adds up the results.

use crate::host;
use crate::run::{self, Verdict};
use crate::scenario::Scenario;
use statsring::driver::Engine;
use statsring::driver::sim::Fault;
use statsring::stats::{Counter, DropReason};
use statsring::worker::Ended;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// One worker on io_uring.
    Worker,
    /// One worker on the portable engine.
    Portable,
    /// Whole proxies on a fake host, on either engine.
    Host,
}

impl Family {
    /// The command that replays one seed.
    pub fn replay(self, seed: u64) -> String {
        let variable = match self {
            Family::Worker => "STATSRING_SEED",
            Family::Portable => "STATSRING_PORTABLE_SEED",
            Family::Host => "STATSRING_HOST_SEED",
        };
        format!("{variable}={seed} cargo test --test simulation -- --nocapture")
    }

    /// Runs one seed; a panic is a failure.
    pub fn run(self, seed: u64, is_traced: bool) -> Result<Total, String> {
        let act = || match self {
            Family::Worker | Family::Portable => {
                let is_portable = self == Family::Portable;
                let engine = if is_portable { Engine::Portable } else { Engine::IoUring };
                let scenario = Scenario::new(seed, engine);
                if is_traced {
                    scenario.print();
                }
                run::run(&scenario, is_traced).map(|verdict| Total::of_worker(&verdict))
            }
            Family::Host => {
                let plan = host::Plan::new(seed);
                if is_traced {
                    plan.print();
                }
                host::run(&plan, is_traced).map(Total::of_host)
            }
        };
        catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).into()));
            Err(format!("panicked: {}", text.unwrap_or_default()))
        })
    }
}

/// The sum of many runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Total {
    pub runs: u64,
    pub steps: u64,
    pub virtual_us: u64,
    pub datagrams: u64,
    pub metrics_sent: u64,
    pub faults: Vec<u64>,
    /// By name: drops by reason, events of processes.
    pub events: std::collections::BTreeMap<&'static str, u64>,
    pub failures: Vec<(Family, u64, String)>,
}

impl Total {
    pub fn of_worker(verdict: &Verdict) -> Total {
        let mut total = Total {
            runs: 1,
            steps: verdict.steps,
            virtual_us: verdict.virtual_us,
            datagrams: verdict.counters.get(Counter::DatagramsReceived)
                + verdict.faults[Fault::KernelDrop as usize],
            metrics_sent: verdict.counters.get(Counter::MetricsSent),
            faults: verdict.faults.clone(),
            ..Total::default()
        };
        for reason in DropReason::ALL {
            total.events.insert(reason.name(), verdict.counters.dropped(*reason));
        }
        let drained = u64::from(verdict.ended == Ended::Drained);
        total.events.insert("datagrams joined", verdict.counters.get(Counter::DatagramsGro));
        total.events.insert("workers drained", drained);
        total.events.insert("workers cut short", 1 - drained);
        total
    }

    fn of_host(outcome: host::Outcome) -> Total {
        let events = [
            ("restarts started", outcome.restarts),
            ("restarts complete", outcome.restarts_complete),
            ("restarts refused", outcome.restarts_refused),
            ("restarts aborted", outcome.restarts_aborted),
            ("restarts started over after a reload", outcome.restarts_started_over),
            ("restarts failed", outcome.restarts_failed),
            ("takeovers after the old process had exited", outcome.serving_without_go),
            ("stops during a handover", outcome.stops_during_handover),
            ("reloads", outcome.reloads),
            ("reloads refused", outcome.reloads_refused),
            ("reloads deferred", outcome.reloads_deferred),
            ("processes killed", outcome.kills),
            ("processes paused", outcome.pauses),
            ("processes short of descriptors", outcome.shortages),
            ("health transitions", outcome.transitions),
        ];
        Total {
            runs: 1,
            steps: outcome.steps,
            virtual_us: outcome.virtual_us,
            datagrams: outcome.datagrams,
            metrics_sent: outcome.metrics_sent,
            faults: outcome.faults,
            events: events.into_iter().collect(),
            failures: Vec::new(),
        }
    }

    pub fn add(&mut self, other: Total) {
        self.runs += other.runs;
        self.steps += other.steps;
        self.virtual_us += other.virtual_us;
        self.datagrams += other.datagrams;
        self.metrics_sent += other.metrics_sent;
        self.faults.resize(Fault::COUNT, 0);
        self.faults.iter_mut().zip(other.faults).for_each(|(sum, count)| *sum += count);
        for (name, count) in other.events {
            *self.events.entry(name).or_default() += count;
        }
        self.failures.extend(other.failures);
    }

    pub fn print(&self) {
        println!(
            "{} seeds, {:.3} virtual hours, {} datagrams, {} metrics sent, {} steps",
            self.runs,
            self.virtual_us as f64 / 3.6e9,
            self.datagrams,
            self.metrics_sent,
            self.steps
        );
        for (fault, count) in Fault::ALL.iter().zip(&self.faults) {
            println!("{count:>12}  {}", fault.name());
        }
        for (name, count) in &self.events {
            println!("{count:>12}  {name}");
        }
        for (family, seed, error) in &self.failures {
            println!("{family:?} seed {seed}: {error}\n    replay it: {}", family.replay(*seed));
        }
    }

    /// Fails if any run failed.
    pub fn assert_success(&self) {
        if let Some((family, seed, error)) = self.failures.first() {
            panic!("{family:?} seed {seed}: {error}\nreplay it: {}", family.replay(*seed));
        }
    }
}

/// When to stop starting seeds.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After this number of seeds.
    Seeds(u64),
    /// After this time.
    Time(Duration),
}

/// Runs seeds from `first` on all cores; `family` gives the family of each.
pub fn run_seeds(first: u64, until: Until, family: impl Fn(u64) -> Family + Sync) -> Total {
    let next = AtomicU64::new(first);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let started = Instant::now();
    let mut total = Total::default();
    let run = || {
        let mut mine = Total::default();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            let is_over = match until {
                Until::Seeds(seeds) => seed >= first + seeds,
                Until::Time(time) => started.elapsed() >= time,
            };
            if is_over || mine.failures.len() > 3 {
                return mine;
            }
            let family = family(seed);
            match family.run(seed, false) {
                Ok(one) => mine.add(one),
                Err(error) => mine.failures.push((family, seed, error)),
            }
        }
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(run)).collect();
        for worker in workers {
            total.add(worker.join().expect("a simulation thread panicked outside of a run"));
        }
    });
    total
}
