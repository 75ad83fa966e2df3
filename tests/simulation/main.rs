//! A worker on a seeded fake kernel, with either engine, and whole proxies on a fake host, thousands of times; and planted
//! defects, each of which the same runs must find.
//!
//! A failing seed is printed. `STATSRING_SEED=N cargo test --test simulation` runs that one alone with a worker on
//! io_uring, `STATSRING_PORTABLE_SEED=N` with one on the portable engine, `STATSRING_HOST_SEED=N` with a host;
//! `STATSRING_SEEDS=N` runs another number of them. `scripts/simulate.sh` runs seeds that are not among the tests' for as
//! long as it is told.

mod host;
mod inspection;
mod oracle;
mod run;
mod scenario;
mod total;

use statsring::driver::Engine;
use statsring::driver::sim::Fault;
use statsring::planted::{Defect, plant};
use std::time::Duration;
use total::{Family, Total, Until, run_seeds};

/// Seeds in a run of the tests: of a worker on io_uring …
const WORKER_SEEDS: u64 = 25_000;
/// … of one on the portable engine …
const PORTABLE_SEEDS: u64 = 10_000;
/// … and of a host.
const HOST_SEEDS: u64 = 10_000;
/// Where the seeds of a run for a given time begin, if it is not told.
const OTHER_SEEDS: u64 = 1_000_000;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Runs the seed that is to be replayed; `false` if there is none.
fn replay(family: Family, variable: &str) -> bool {
    let Some(seed) = from_environment(variable) else { return false };
    match family.run(seed, true) {
        Ok(total) => println!("seed {seed}: {} steps, {} datagrams", total.steps, total.datagrams),
        Err(error) => panic!("seed {seed}: {error}"),
    }
    true
}

/// Runs the fixed share of a family; whether all of it was run.
fn run_share(family: Family, seeds: u64) -> Option<Total> {
    let asked = from_environment("STATSRING_SEEDS").unwrap_or(seeds);
    let total = run_seeds(0, Until::Seeds(asked), |_| family);
    total.print();
    total.demand_success();
    assert_eq!(total.runs, asked);
    (asked >= seeds).then_some(total)
}

/// How often each fault struck that can happen to the driver of `engine`.
fn faults_of(engine: Engine, total: &Total) -> impl Iterator<Item = (&'static str, u64)> {
    let counts = Fault::ALL.iter().zip(total.faults.iter().copied());
    counts.filter(move |(fault, _)| fault.concerns(engine)).map(|(fault, count)| (fault.name(), count))
}

fn none_is_silent<'a>(counts: impl Iterator<Item = (&'a str, u64)>) {
    let silent: Vec<&str> = counts.filter(|(_, count)| *count == 0).map(|(name, _)| name).collect();
    assert!(silent.is_empty(), "what never happened: {silent:?}");
}

#[test]
fn every_metric_is_accounted_for_whatever_the_kernel_does() {
    if replay(Family::Worker, "STATSRING_SEED") {
        return;
    }
    let Some(total) = run_share(Family::Worker, WORKER_SEEDS) else { return };
    none_is_silent(faults_of(Engine::IoUring, &total));
    let drained = total.events["workers drained"];
    assert!(drained > total.runs / 2 && drained < total.runs, "drains both whole and cut short");
}

#[test]
fn every_metric_is_accounted_for_on_the_portable_engine_too() {
    if replay(Family::Portable, "STATSRING_PORTABLE_SEED") {
        return;
    }
    let Some(total) = run_share(Family::Portable, PORTABLE_SEEDS) else { return };
    none_is_silent(faults_of(Engine::Portable, &total));
    let drained = total.events["workers drained"];
    assert!(drained > total.runs / 2 && drained < total.runs, "drains both whole and cut short");
}

#[test]
fn somebody_receives_and_nothing_is_lost_whatever_people_processes_and_backends_do() {
    if replay(Family::Host, "STATSRING_HOST_SEED") {
        return;
    }
    let Some(total) = run_share(Family::Host, HOST_SEEDS) else { return };
    none_is_silent(Fault::ALL.iter().map(|fault| fault.name()).zip(total.faults.iter().copied()));
    none_is_silent(total.events.iter().map(|(name, count)| (*name, *count)));
}

fn find(family: Family, seeds: u64, defects: &[Defect]) {
    let mut missed = Vec::new();
    for defect in defects {
        plant(Some(*defect));
        let found = (0..seeds).find_map(|seed| family.run(seed, false).err().map(|error| (seed, error)));
        plant(None);
        match found {
            Some((seed, error)) => println!("{defect:?}: seed {seed}: {error}"),
            None => missed.push(defect),
        }
    }
    assert!(missed.is_empty(), "planted defects that no seed found: {missed:?}");
}

#[test]
fn each_planted_defect_of_the_data_path_is_found() {
    find(Family::Worker, WORKER_SEEDS, &Defect::DATA_PATH);
}

#[test]
fn each_planted_defect_that_the_portable_engine_can_have_is_found() {
    // Nothing shows this one here, since the step that fences the queues reads them out.
    let defects = Defect::DATA_PATH.into_iter().filter(|defect| *defect != Defect::DrainedTooEarly);
    let defects: Vec<Defect> = defects.collect();
    find(Family::Portable, PORTABLE_SEEDS, &defects);
}

#[test]
fn each_planted_defect_of_hand_over_and_reload_is_found() {
    find(Family::Host, HOST_SEEDS, &Defect::CONTROL);
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for family in [Family::Worker, Family::Portable, Family::Host] {
        for seed in 0..20 {
            assert_eq!(family.run(seed, false), family.run(seed, false), "{family:?} seed {seed}");
        }
    }
}

#[test]
#[ignore = "runs for as long as STATSRING_SECONDS says: scripts/simulate.sh"]
fn seeds_for_a_given_time() {
    let seconds = from_environment("STATSRING_SECONDS").unwrap_or(10);
    let first = from_environment("STATSRING_FIRST_SEED").unwrap_or(OTHER_SEEDS);
    let family = |seed: u64| match seed % 4 {
        0 | 2 => Family::Host,
        1 => Family::Worker,
        _ => Family::Portable,
    };
    let total = run_seeds(first, Until::Time(Duration::from_secs(seconds)), family);
    total.print();
    total.demand_success();
}
