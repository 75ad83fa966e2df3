//! A worker on a seeded fake kernel, thousands of times; and planted defects, each of which the same runs must find.
//!
//! A failing seed is printed. `STATSRING_SEED=N cargo test --test simulation` runs that one alone,
//! `STATSRING_SEEDS=N` another number of them.

mod oracle;
mod run;
mod scenario;

use run::{Verdict, run};
use scenario::Scenario;
use statsring::driver::sim::Fault;
use statsring::planted::{Defect, plant};
use statsring::stats::DropReason;
use statsring::worker::Ended;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

/// Seeds in a run of the tests.
const SEEDS: u64 = 40_000;

/// What many runs came to.
#[derive(Default)]
struct Total {
    runs: u64,
    steps: u64,
    faults: Vec<u64>,
    drops: Vec<u64>,
    metrics_sent: u64,
    drained: u64,
    failures: Vec<(u64, String)>,
}

impl Total {
    fn add(&mut self, verdict: &Verdict) {
        self.runs += 1;
        self.steps += verdict.steps;
        self.faults.resize(Fault::COUNT, 0);
        self.drops.resize(DropReason::COUNT, 0);
        for (sum, count) in self.faults.iter_mut().zip(&verdict.faults) {
            *sum += count;
        }
        for (sum, reason) in self.drops.iter_mut().zip(DropReason::ALL) {
            *sum += verdict.counters.dropped(*reason);
        }
        self.metrics_sent += verdict.counters.get(statsring::stats::Counter::MetricsSent);
        self.drained += u64::from(verdict.ended == Ended::Drained);
    }

    fn merge(&mut self, other: Total) {
        self.runs += other.runs;
        self.steps += other.steps;
        self.metrics_sent += other.metrics_sent;
        self.drained += other.drained;
        self.faults.resize(Fault::COUNT, 0);
        self.drops.resize(DropReason::COUNT, 0);
        self.faults.iter_mut().zip(other.faults).for_each(|(sum, count)| *sum += count);
        self.drops.iter_mut().zip(other.drops).for_each(|(sum, count)| *sum += count);
        self.failures.extend(other.failures);
    }

    fn print(&self) {
        println!(
            "{} runs, {} steps, {} metrics sent, {} drained",
            self.runs, self.steps, self.metrics_sent, self.drained
        );
        for (fault, count) in Fault::ALL.iter().zip(&self.faults) {
            println!("{count:>9}  {}", fault.name());
        }
        for (reason, count) in DropReason::ALL.iter().zip(&self.drops) {
            println!("{count:>9}  metrics dropped: {}", reason.name());
        }
    }
}

/// Runs one seed; a panic is a failure like any other.
fn run_seed(seed: u64) -> Result<Verdict, String> {
    run_scenario(&Scenario::new(seed), false)
}

fn run_scenario(scenario: &Scenario, is_traced: bool) -> Result<Verdict, String> {
    match catch_unwind(AssertUnwindSafe(|| run(scenario, is_traced))) {
        Ok(result) => result,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).into()));
            Err(format!("panicked: {}", text.unwrap_or_default()))
        }
    }
}

fn run_seeds(seeds: u64) -> Total {
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut total = Total::default();
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                scope.spawn(|| {
                    let mut mine = Total::default();
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed >= seeds || mine.failures.len() > 3 {
                            return mine;
                        }
                        match run_seed(seed) {
                            Ok(verdict) => mine.add(&verdict),
                            Err(error) => mine.failures.push((seed, error)),
                        }
                    }
                })
            })
            .collect();
        for worker in workers {
            total.merge(worker.join().expect("a simulation thread panicked outside of a run"));
        }
    });
    total
}

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn every_metric_is_accounted_for_whatever_the_kernel_does() {
    if let Some(seed) = from_environment("STATSRING_SEED") {
        let scenario = Scenario::new(seed);
        scenario.print();
        match run_scenario(&scenario, true) {
            Ok(verdict) => println!("seed {seed}: {:?} after {} steps", verdict.ended, verdict.steps),
            Err(error) => panic!("seed {seed}: {error}"),
        }
        return;
    }
    let seeds = from_environment("STATSRING_SEEDS").unwrap_or(SEEDS);
    let total = run_seeds(seeds);
    total.print();
    if let Some((seed, error)) = total.failures.first() {
        for (seed, error) in &total.failures {
            println!("seed {seed}: {error}");
        }
        panic!("seed {seed}: {error}\nreplay it with STATSRING_SEED={seed} cargo test --test simulation");
    }
    assert_eq!(total.runs, seeds);
    if seeds >= SEEDS {
        let silent = Fault::ALL.iter().zip(&total.faults).filter(|(_, count)| **count == 0);
        let silent: Vec<_> = silent.map(|(fault, _)| fault.name()).collect();
        assert!(silent.is_empty(), "faults that never struck: {silent:?}");
        assert!(total.drained > seeds / 2 && total.drained < seeds, "drains both whole and cut short");
    }
}

#[test]
fn each_planted_defect_is_found() {
    let mut missed = Vec::new();
    for defect in Defect::ALL {
        plant(Some(defect));
        let found = (0..SEEDS).find_map(|seed| run_seed(seed).err().map(|error| (seed, error)));
        plant(None);
        match found {
            Some((seed, error)) => println!("{defect:?}: seed {seed}: {error}"),
            None => missed.push(defect),
        }
    }
    assert!(missed.is_empty(), "planted defects that no seed found: {missed:?}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..20 {
        let runs = [run_seed(seed), run_seed(seed)]
            .map(|result| result.map(|verdict| (verdict.steps, verdict.faults, verdict.counters)));
        assert_eq!(runs[0], runs[1], "seed {seed}");
    }
}
