//! Import cycles: modules that import each other, directly or indirectly.
//!
//! In: parsed files. Out: the cycles, each with its imports. A `pub use` is not an import: a module that uses the name imports
//! the module that defines it.

use crate::reading::{Module, Reading};
use std::collections::{BTreeMap, BTreeSet};

/// Files by module.
pub type Files<'r> = BTreeMap<Module, &'r Reading>;

/// All cycles, each a list of `a -> b`.
pub fn cycles(files: &Files<'_>) -> Vec<Vec<String>> {
    let imports: BTreeMap<Module, BTreeSet<Module>> =
        files.iter().map(|(module, reading)| (module.clone(), imports(files, module, reading))).collect();
    let reached: BTreeMap<&Module, BTreeSet<&Module>> =
        imports.keys().map(|module| (module, reached(&imports, module))).collect();
    let cycle = |module| -> BTreeSet<&Module> {
        reached[module].iter().copied().filter(|other| reached[other].contains(module)).collect()
    };
    let cycles: BTreeSet<BTreeSet<&Module>> = imports.keys().map(cycle).collect();
    cycles.into_iter().filter(|cycle| !cycle.is_empty()).map(|cycle| described(&imports, &cycle)).collect()
}

fn described(imports: &BTreeMap<Module, BTreeSet<Module>>, cycle: &BTreeSet<&Module>) -> Vec<String> {
    let edges = cycle.iter().flat_map(|from| imports[*from].iter().map(move |to| (from, to)));
    let inner = edges.filter(|(_, to)| cycle.contains(to));
    inner.map(|(from, to)| format!("{} -> {}", from.join("::"), to.join("::"))).collect()
}

/// The modules imported by one.
fn imports(files: &Files<'_>, module: &Module, reading: &Reading) -> BTreeSet<Module> {
    let named = reading.references.iter().map(|reference| &reference.path).chain(&reading.relative);
    let found = named.filter(|path| !reading.exports.contains(path));
    let mut found: BTreeSet<Module> = found.filter_map(|path| definer(files, path, 0)).collect();
    found.remove(module);
    found
}

/// The module that defines what a path names; `None` for other crates.
fn definer(files: &Files<'_>, path: &[String], depth: usize) -> Option<Module> {
    let mut module = Module::new();
    for (index, name) in path.iter().enumerate() {
        let child = [&module[..], std::slice::from_ref(name)].concat();
        if files.contains_key(&child) {
            module = child;
            continue;
        }
        let exports = files.get(&module).map_or(&[][..], |reading| &reading.exports);
        let export = exports.iter().find(|export| export.last() == Some(name));
        if let Some(export) = export.filter(|_| depth < 8) {
            return definer(files, &[export, &path[index + 1..]].concat(), depth + 1);
        }
        break;
    }
    files.contains_key(&module).then_some(module)
}

/// The modules that one imports, directly or indirectly.
fn reached<'i>(imports: &'i BTreeMap<Module, BTreeSet<Module>>, from: &Module) -> BTreeSet<&'i Module> {
    let mut reached = BTreeSet::new();
    let mut next: Vec<&Module> = imports[from].iter().collect();
    while let Some(module) = next.pop() {
        if reached.insert(module) {
            next.extend(imports.get(module).into_iter().flatten());
        }
    }
    reached
}

#[test]
fn import_cycles_are_detected() {
    let read = |module: &str, text: &str| {
        let module: Module = module.split("::").map(str::to_owned).collect();
        let reading = crate::reading::read(text, &module);
        (module, reading)
    };
    let cycles_of = |files: &[(&str, &str)]| {
        let files: Vec<(Module, Reading)> = files.iter().map(|(module, text)| read(module, text)).collect();
        cycles(&files.iter().map(|(module, reading)| (module.clone(), reading)).collect())
    };
    let one_way = [("a", "mod b; pub use b::B;"), ("a::b", "use super::c::C;"), ("a::c", "use std::fs;")];
    assert_eq!(cycles_of(&one_way), Vec::<Vec<String>>::new());
    let pair = [("a", ""), ("a::b", "use super::c::C;"), ("a::c", "fn f() { crate::a::b::f() }")];
    assert_eq!(cycles_of(&pair), [["a::b -> a::c", "a::c -> a::b"]]);
    let with_parent = [("a", "mod b;\nfn f() { b::g() }"), ("a::b", "use super::f;")];
    assert_eq!(cycles_of(&with_parent), [["a -> a::b", "a::b -> a"]]);
    let by_export =
        [("a", "mod b; mod c; pub use b::B;"), ("a::b", "use super::c::C;"), ("a::c", "use super::{B};")];
    assert_eq!(cycles_of(&by_export), [["a::b -> a::c", "a::c -> a::b"]]);
}
