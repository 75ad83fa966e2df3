//! The targets without a fuzzer: every seed and many altered copies of it pass, and each mutation of the relay is detected.

use statsring::failpoint::{Mutation, activate};
use statsring_fuzz as fuzz;
use std::fs;
use std::panic::catch_unwind;
use std::path::Path;

/// Altered copies per seed.
const COPIES: usize = 300;

/// A target's name and function.
type Target = (&'static str, fn(&[u8]));

const TARGETS: [Target; 7] = [
    ("scan", fuzz::scan::run),
    ("relay", fuzz::relay::run),
    ("header", fuzz::header::run),
    ("session", fuzz::session::run),
    ("admin", fuzz::admin::run),
    ("http", fuzz::http::run),
    ("config", fuzz::config::run),
];

/// The seeds of a target with their names, excluding those left by a fuzzer.
fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
    let mut seeds: Vec<(String, Vec<u8>)> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| (entry.file_name().into_string().unwrap(), fs::read(entry.path()).unwrap()))
        .filter(|(name, _)| name.len() != 40)
        .collect();
    seeds.sort();
    assert!(seeds.len() >= 4, "{target}: expected at least 4 seeds, found {}", seeds.len());
    seeds
}

/// A copy with a few bytes changed, duplicated or removed; deterministic.
fn changed(seed: &[u8], copy: usize) -> Vec<u8> {
    let mut bytes = seed.to_vec();
    let mut state = copy as u64;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below.max(1)
    };
    for _ in 0..1 + draw(4) {
        let at = draw(bytes.len());
        match draw(4) {
            _ if bytes.is_empty() => bytes.push(draw(256) as u8),
            0 => bytes[at] = draw(256) as u8,
            1 => bytes[at] ^= 1 << draw(8),
            2 => drop(bytes.remove(at)),
            _ => bytes.insert(at, b"\n:|_\r\xff {\"\0"[draw(10)]),
        }
    }
    bytes
}

#[test]
fn seeds_and_their_mutations_pass() {
    for (target, run) in TARGETS {
        for (name, seed) in seeds(target) {
            run(&seed);
            for copy in 0..COPIES {
                let bytes = changed(&seed, copy);
                let result = catch_unwind(|| run(&bytes));
                assert!(result.is_ok(), "{target}: copy {copy} of seed {name}: {bytes:?}");
            }
        }
    }
}

#[test]
fn every_fuzz_target_is_tested() {
    let mut files: Vec<String> = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz_targets"))
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    files.sort();
    let mut names = TARGETS.map(|(name, _)| name);
    names.sort_unstable();
    assert_eq!(files, names);
}

#[test]
fn each_mutation_of_the_relay_is_detected() {
    for mutation in [
        Mutation::DropUncounted,
        Mutation::BusyPacketLost,
        Mutation::RefusedPacketLost,
        Mutation::DeadlineIgnored,
    ] {
        activate(Some(mutation));
        let found = seeds("relay").iter().any(|(_, seed)| catch_unwind(|| fuzz::relay::run(seed)).is_err());
        activate(None);
        assert!(found, "{mutation:?} was not detected");
    }
}
