//! The rules that keep the house livable, read off the source: who may import whom, and where `unsafe` may stand.

use std::fs;
use std::path::{Path, PathBuf};

/// A module and those it may not import.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "driver",
        &["worker", "relay", "wire", "placement", "stats", "config", "control", "admin", "tools", "cli"],
    ),
    (
        "packet",
        &["driver", "worker", "relay", "wire", "placement", "stats", "config", "control", "admin", "tools"],
    ),
    ("worker", &["config", "control", "admin", "tools", "cli", "wire"]),
    ("relay", &["driver", "worker", "config", "control", "admin", "tools", "cli"]),
    (
        "wire",
        &["driver", "worker", "relay", "placement", "stats", "config", "control", "admin", "tools", "cli"],
    ),
    (
        "placement",
        &["driver", "worker", "relay", "wire", "stats", "config", "control", "admin", "tools", "cli"],
    ),
    (
        "stats",
        &["driver", "worker", "relay", "wire", "placement", "config", "control", "admin", "tools", "cli"],
    ),
    ("config", &["control", "admin", "tools", "cli"]),
    ("admin", &["control", "tools", "cli"]),
    ("control", &["tools", "cli"]),
    ("tools", &["cli"]),
];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every source file with the module it belongs to and its text before its tests.
fn house() -> Vec<(String, PathBuf, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    assert!(found.len() > 30, "only {} files found", found.len());
    found
        .into_iter()
        .map(|path| {
            let inside = path.strip_prefix(&root).unwrap().to_path_buf();
            let module = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_string();
            let text = fs::read_to_string(&path).unwrap();
            let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap().to_string();
            (module, inside, code)
        })
        .collect()
}

fn is_test_file(path: &Path) -> bool {
    path.file_stem().and_then(|stem| stem.to_str()).is_some_and(|stem| stem.ends_with("tests"))
}

#[test]
fn modules_import_in_one_direction() {
    let mut broken = Vec::new();
    for (module, path, code) in house() {
        let Some((_, forbidden)) = FORBIDDEN.iter().find(|(name, _)| *name == module) else { continue };
        if is_test_file(&path) {
            continue;
        }
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for other in *forbidden {
                let names_it = line.match_indices(&format!("crate::{other}")).any(|(at, found)| {
                    !line[at + found.len()..].starts_with(|next: char| next.is_alphanumeric() || next == '_')
                });
                if names_it {
                    broken.push(format!("{}: {}", path.display(), line.trim()));
                }
            }
        }
    }
    assert!(broken.is_empty(), "imports against the direction of the house:\n{}", broken.join("\n"));
}

#[test]
fn unsafe_stands_at_the_edge_only_and_every_block_says_why_it_is_sound() {
    for (module, path, code) in house() {
        let at_the_edge = module == "driver"
            || ["stats/alloc.rs", "wire/window.rs"].iter().any(|edge| path == Path::new(edge));
        let lines: Vec<&str> = code.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let text = line.split("//").next().unwrap();
            let is_unsafe = ["unsafe {", "unsafe impl", "unsafe fn"].iter().any(|word| text.contains(word));
            if !is_unsafe {
                continue;
            }
            assert!(at_the_edge, "{}:{}: unsafe outside the edge", path.display(), number + 1);
            let before = &lines[number.saturating_sub(8)..=number];
            assert!(
                before.iter().any(|line| line.contains("SAFETY:") || line.contains("# Safety")),
                "{}:{}: unsafe without its SAFETY argument",
                path.display(),
                number + 1
            );
        }
    }
}

#[test]
fn every_file_opens_with_what_it_is_for() {
    for (_, path, code) in house() {
        assert!(
            is_test_file(&path) || code.starts_with("//! "),
            "{} does not open with its purpose",
            path.display()
        );
    }
}
