//! Architecture rules, checked in the source: permitted imports, and where `unsafe` may be used.

#[path = "house/cycles.rs"]
mod cycles;
#[path = "house/reading.rs"]
mod reading;
#[path = "house/reading_tests.rs"]
mod reading_tests;
#[path = "house/sources.rs"]
mod sources;

use reading::{Module, Reference};
use sources::sources;
use std::collections::HashSet;
use std::path::Path;

/// Modules that the control plane may import: output, exit, name lookup.
const COMMON: &[&str] = &["console", "crash", "exit", "lookup", "logging", "failpoint", "text", "version"];

/// Each top-level module and its permitted imports. The data path may not import [`COMMON`].
const ALLOWED: &[(&str, &[&str])] = &[
    ("packet", &["failpoint"]),
    ("driver", &["packet", "failpoint"]),
    ("wire", &[]),
    ("placement", &[]),
    ("stats", &["packet"]),
    ("relay", &["packet", "placement", "stats", "wire", "failpoint"]),
    ("worker", &["driver", "packet", "placement", "relay", "stats", "failpoint"]),
    ("config", &["driver", "packet", "placement", "relay", "stats", "wire", "worker"]),
    ("admin", &["config", "driver", "packet", "placement", "relay", "stats", "wire", "worker"]),
    ("control", &["admin", "config", "driver", "packet", "placement", "relay", "stats", "wire", "worker"]),
    (
        "tools",
        &["admin", "config", "control", "driver", "packet", "placement", "relay", "stats", "wire", "worker"],
    ),
    (
        "cli",
        &[
            "admin",
            "config",
            "control",
            "driver",
            "packet",
            "placement",
            "relay",
            "stats",
            "tools",
            "wire",
            "worker",
        ],
    ),
    ("console", &[]),
    ("crash", &[]),
    ("exit", &[]),
    ("lookup", &[]),
    ("logging", &["config", "stats"]),
    ("failpoint", &[]),
    ("text", &[]),
    ("version", &[]),
    ("lib", &["stats"]),
    ("main", &["cli", "stats"]),
];

/// The modules that may not import [`COMMON`].
const DATA_PATH: &[&str] = &["packet", "driver", "wire", "placement", "stats", "relay", "worker"];

/// The forbidden references of a top-level module.
fn violations<'r>(part: &str, references: &'r [Reference]) -> Vec<&'r Reference> {
    let Some((_, allowed)) = ALLOWED.iter().find(|(name, _)| *name == part) else {
        panic!("no rule for the module {part}: add it to ALLOWED");
    };
    let common = if DATA_PATH.contains(&part) { &[] } else { COMMON };
    let is_allowed = |other: &String| {
        other == part || allowed.contains(&other.as_str()) || common.contains(&other.as_str())
    };
    references.iter().filter(|reference| !is_allowed(&reference.path[0])).collect()
}

#[test]
fn modules_import_in_one_direction() {
    let sources = sources();
    assert!(sources.len() > 100, "expected more than 100 files, found {}", sources.len());
    let mut broken = Vec::new();
    for source in sources.iter().filter(|source| !source.is_for_tests) {
        for reference in violations(source.part(), &source.reading.references) {
            broken.push(format!(
                "{}:{}: {}",
                source.path.display(),
                reference.line,
                reference.path.join("::")
            ));
        }
    }
    assert!(broken.is_empty(), "forbidden imports:\n{}", broken.join("\n"));
    for (part, _) in ALLOWED {
        assert!(sources.iter().any(|source| source.part() == *part), "rule for nonexistent module {part}");
    }
}

#[test]
fn no_modules_import_each_other() {
    let sources = sources();
    let files = sources.iter().filter(|source| !source.is_for_tests);
    let cycles = cycles::cycles(&files.map(|source| (source.module.clone(), &source.reading)).collect());
    let cycles: Vec<String> = cycles.iter().map(|cycle| cycle.join("\n")).collect();
    assert!(cycles.is_empty(), "modules that import each other:\n{}", cycles.join("\n\n"));
}

/// Ways to import the control thread into a file of the data path.
const FORBIDDEN: &[&str] = &[
    "use crate::control::Operator;",
    "use crate::{control, packet::Packet};",
    "use crate::{packet::Packet, control::{handover::Giver, state}};",
    "use crate::{\n    packet::{Packet, SocketSlot},\n    control as rulers,\n};",
    "use {crate::packet::Packet, crate::control::Operator};",
    "use super::super::control::Operator;",
    "use super::super::{packet, control::{self}};",
    "pub use super::super::control;",
    "use crate::*;",
    "use crate as root;",
    "use crate::{self as root};",
    "use super::super::*;",
    "use crate :: control;",
    "mod inner { use super::super::super::control::state; }",
    "fn f() { crate::control::run(); }",
    "fn f() { super::super::control::run::<u8>(); }",
    "fn f() -> Vec<crate::control::State> { Vec::new() }",
    "fn f() { assert!(true, \"{}\", crate::control::run()); }",
    "macro_rules! ask { () => { $crate::control::run() }; }",
    "#[derive(Serialize)] struct S { #[serde(with = \"crate::control::seconds\")] s: u8 }",
    "impl crate::control::Rule for S {}",
    "#[cfg(test)]\nmod tests { }\nuse crate::control::Operator;",
    "#[cfg(test)]\nfn f() -> Result<u8, ()> { Ok(1) }\nuse crate::control::Operator;",
    "#[cfg(any(test, feature = \"failpoints\"))]\nuse crate::control::Operator;",
    "use crate::packet::Packet; /* not a comment's end: */ use crate::control::Operator;",
];

#[test]
fn forbidden_imports_are_detected() {
    let module: Module = ["relay", "egress"].map(str::to_owned).to_vec();
    for text in FORBIDDEN {
        let references = reading::read(text, &module).references;
        let found = violations("relay", &references);
        assert!(!found.is_empty(), "{text}: {references:?}");
        assert!(
            found.iter().all(|one| ["control", "*"].contains(&one.path[0].as_str())),
            "{text}: {found:?}"
        );
    }
}

#[test]
fn unsafe_is_confined_and_has_safety_comments() {
    for source in sources() {
        let at_the_edge = source.part() == "driver"
            || ["stats/alloc.rs", "wire/simd.rs"].iter().any(|edge| source.path == Path::new(edge));
        let lines: Vec<&str> = source.text.lines().collect();
        for line in &source.reading.unsafe_lines {
            assert!(at_the_edge, "{}:{line}: unsafe is not permitted here", source.path.display());
            let before = &lines[line.saturating_sub(9)..*line];
            assert!(
                before.iter().any(|line| line.contains("SAFETY:") || line.contains("# Safety")),
                "{}:{line}: unsafe without SAFETY comment",
                source.path.display()
            );
        }
    }
}

/// What of a packet each side writes; the other only reads it.
const PACKET_SETTERS: [(&str, &[&str]); 2] = [
    ("relay", &["set_destination", "set_arrival", "set_sequence", "set_may_join", "count_attempt"]),
    ("driver", &["set_in_gso_batch"]),
];

#[test]
fn only_their_owner_calls_the_setters_of_a_packet() {
    let mut seen = HashSet::new();
    for source in sources().iter().filter(|source| !source.is_for_tests && source.part() != "packet") {
        let code = source.text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        for (owner, setters) in PACKET_SETTERS {
            for setter in setters.iter().filter(|setter| code.contains(&format!(".{setter}("))) {
                assert_eq!(source.part(), owner, "{}: {setter} is for {owner}", source.path.display());
                seen.insert(*setter);
            }
        }
    }
    let every: HashSet<_> = PACKET_SETTERS.iter().flat_map(|(_, setters)| setters.iter().copied()).collect();
    assert_eq!(seen, every, "every setter is in use");
}

#[test]
fn every_file_starts_with_its_purpose() {
    for source in sources().iter().filter(|source| !source.is_for_tests) {
        assert!(source.text.starts_with("//! "), "{}: missing //! header", source.path.display());
    }
}
