//! A worker on a seeded fake kernel, with either engine, and whole proxies on a fake host, thousands of times; and mutations,
//! each of which the same runs must detect.
//!
//! A failing seed is printed. `STATSRING_SEED=N cargo test --test simulation` runs that one alone with a worker on
//! io_uring, `STATSRING_PORTABLE_SEED=N` with one on the portable engine, `STATSRING_HOST_SEED=N` with a host;
//! `STATSRING_SEEDS=N` sets how many seeds are run. `scripts/simulate.sh` runs further seeds for a given time.

mod host;
mod inspection;
mod oracle;
mod run;
mod scenario;
mod total;

use statsring::driver::Engine;
use statsring::driver::sim::Fault;
use statsring::failpoint::{Mutation, activate};
use std::time::Duration;
use total::{Family, Total, Until, run_seeds};

/// Seeds in a run of the tests: of a worker on io_uring …
const WORKER_SEEDS: u64 = 25_000;
/// … of one on the portable engine …
const PORTABLE_SEEDS: u64 = 10_000;
/// … and of a host.
const HOST_SEEDS: u64 = 10_000;
/// First seed of a run for a given time, by default.
const OTHER_SEEDS: u64 = 1_000_000;

fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

/// Replays the seed that the environment names; `false` if it names none.
fn replay(family: Family, variable: &str) -> bool {
    let Some(seed) = from_environment(variable) else { return false };
    match family.run(seed, true) {
        Ok(total) => println!("seed {seed}: {} steps, {} datagrams", total.steps, total.datagrams),
        Err(error) => panic!("seed {seed}: {error}"),
    }
    true
}

/// Runs the seeds of a family; `None` if fewer than `seeds` were requested.
fn run_family(family: Family, seeds: u64) -> Option<Total> {
    let requested = from_environment("STATSRING_SEEDS").unwrap_or(seeds);
    let total = run_seeds(0, Until::Seeds(requested), |_| family);
    total.print();
    total.assert_success();
    assert_eq!(total.runs, requested);
    (requested >= seeds).then_some(total)
}

/// How often each fault struck that can happen to the driver of `engine`.
fn faults_of(engine: Engine, total: &Total) -> impl Iterator<Item = (&'static str, u64)> {
    let counts = Fault::ALL.iter().zip(total.faults.iter().copied());
    counts.filter(move |(fault, _)| fault.concerns(engine)).map(|(fault, count)| (fault.name(), count))
}

fn assert_all_occurred<'a>(counts: impl Iterator<Item = (&'a str, u64)>) {
    let missing: Vec<&str> = counts.filter(|(_, count)| *count == 0).map(|(name, _)| name).collect();
    assert!(missing.is_empty(), "never occurred: {missing:?}");
}

#[test]
fn every_metric_is_accounted_for_whatever_the_kernel_does() {
    if replay(Family::Worker, "STATSRING_SEED") {
        return;
    }
    let Some(total) = run_family(Family::Worker, WORKER_SEEDS) else { return };
    assert_all_occurred(faults_of(Engine::IoUring, &total));
    assert!(total.events["datagrams joined"] > total.runs, "{:?}", total.events);
    let drained = total.events["workers drained"];
    assert!(
        drained > total.runs / 2 && drained < total.runs,
        "some drains must complete and some must be cut short"
    );
}

#[test]
fn every_metric_is_accounted_for_on_the_portable_engine_too() {
    if replay(Family::Portable, "STATSRING_PORTABLE_SEED") {
        return;
    }
    let Some(total) = run_family(Family::Portable, PORTABLE_SEEDS) else { return };
    assert_all_occurred(faults_of(Engine::Portable, &total));
    assert!(total.events["datagrams joined"] > total.runs, "{:?}", total.events);
    let drained = total.events["workers drained"];
    assert!(
        drained > total.runs / 2 && drained < total.runs,
        "some drains must complete and some must be cut short"
    );
}

#[test]
fn no_datagram_is_lost_whatever_operators_processes_and_backends_do() {
    if replay(Family::Host, "STATSRING_HOST_SEED") {
        return;
    }
    let Some(total) = run_family(Family::Host, HOST_SEEDS) else { return };
    assert_all_occurred(Fault::ALL.iter().map(|fault| fault.name()).zip(total.faults.iter().copied()));
    assert_all_occurred(total.events.iter().map(|(name, count)| (*name, *count)));
}

fn detect(family: Family, seeds: u64, mutations: &[Mutation]) {
    let mut missed = Vec::new();
    for mutation in mutations {
        activate(Some(*mutation));
        let found = (0..seeds).find_map(|seed| family.run(seed, false).err().map(|error| (seed, error)));
        activate(None);
        match found {
            Some((seed, error)) => println!("{mutation:?}: seed {seed}: {error}"),
            None => missed.push(mutation),
        }
    }
    assert!(missed.is_empty(), "mutations that no seed detected: {missed:?}");
}

#[test]
fn each_mutation_of_the_data_path_is_detected() {
    detect(Family::Worker, WORKER_SEEDS, Mutation::DATA_PATH);
}

#[test]
fn each_mutation_of_the_data_path_is_detected_on_the_portable_engine() {
    // Without effect here: the step that fences the sockets also drains their queues.
    let is_visible = |mutation: &Mutation| *mutation != Mutation::DrainedReportedEarly;
    let mutations: Vec<Mutation> = Mutation::DATA_PATH.iter().copied().filter(is_visible).collect();
    detect(Family::Portable, PORTABLE_SEEDS, &mutations);
}

#[test]
fn each_mutation_of_handover_and_reload_is_detected() {
    detect(Family::Host, HOST_SEEDS, Mutation::CONTROL);
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
#[ignore = "runs for STATSRING_SECONDS: scripts/simulate.sh"]
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
    total.assert_success();
}
