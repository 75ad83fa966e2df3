//! The source files of the crate, found by following its modules.
//!
//! In: `src/`. Out: each file with its module and references. Next: `house.rs` checks the rules.

use crate::reading::{Child, Module, Reading, read};
use std::fs;
use std::path::{Path, PathBuf};

/// A source file.
pub struct Source {
    /// The path from the crate root; `lib` and `main` for the roots.
    pub module: Module,
    /// Relative to `src`.
    pub path: PathBuf,
    pub text: String,
    pub reading: Reading,
    /// Whether it is compiled only for tests.
    pub is_for_tests: bool,
}

impl Source {
    /// The top-level module of the file.
    pub fn part(&self) -> &str {
        &self.module[0]
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// All source files.
pub fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for (name, file) in [("lib", "lib.rs"), ("main", "main.rs")] {
        let mut source = source(Vec::new(), PathBuf::from(file), false);
        let children = std::mem::take(&mut source.reading.children);
        source.module = vec![name.to_string()];
        found.push(source);
        for child in children {
            follow(child, Path::new(file), false, &mut found);
        }
    }
    let mut unreached = files(&root());
    unreached.retain(|file| !found.iter().any(|source| root().join(&source.path) == *file));
    assert!(unreached.is_empty(), "files that belong to no module: {unreached:?}");
    found
}

fn source(module: Module, path: PathBuf, is_for_tests: bool) -> Source {
    let text =
        fs::read_to_string(root().join(&path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let reading = read(&text, &module);
    Source { module, path, text, reading, is_for_tests }
}

/// Adds the file of a module declared by `parent`, and those of its submodules.
fn follow(child: Child, parent: &Path, is_parent_for_tests: bool, found: &mut Vec<Source>) {
    let path = match &child.file {
        Some(file) => parent.with_file_name(file),
        None => {
            let inside: PathBuf = child.module.iter().collect();
            let [file, folder] = [inside.with_extension("rs"), inside.join("mod.rs")];
            if root().join(&file).exists() { file } else { folder }
        }
    };
    let source = source(child.module, path, child.is_for_tests || is_parent_for_tests);
    let (path, is_for_tests) = (source.path.clone(), source.is_for_tests);
    let children = source.reading.children.clone();
    found.push(source);
    for child in children {
        follow(child, &path, is_for_tests, found);
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<PathBuf>, Vec<PathBuf>) = entries.partition(|path| path.is_dir());
    let is_source = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    let below = folders.iter().flat_map(|folder| self::files(folder));
    files.into_iter().filter(is_source).chain(below).collect()
}
