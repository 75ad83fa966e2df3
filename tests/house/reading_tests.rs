//! Tests of the token parsing.

use super::reading::{Child, Reading, read};

fn read_in(module: &str, text: &str) -> Reading {
    let module: Vec<String> = module.split("::").map(str::to_owned).collect();
    read(text, &module)
}

/// The paths in `text` of the module `driver::uring`.
fn paths(text: &str) -> Vec<String> {
    let references = read_in("driver::uring", text).references;
    references.iter().map(|reference| reference.path.join("::")).collect()
}

#[test]
fn groups_are_expanded_at_any_depth() {
    assert_eq!(paths("use crate::{a, b};"), ["a", "b"]);
    assert_eq!(
        paths("use crate::{a::{self, b::{C, d::*}}, e as f, g::{h as i}};"),
        ["a", "a::b::C", "a::b::d::*", "e", "g::h"]
    );
    assert_eq!(paths("use {crate::a::{B, C}, super::d, std::fs};"), ["a::B", "a::C", "driver::d"]);
    assert_eq!(paths("use crate::{a,};"), ["a"]);
}

#[test]
fn super_and_self_are_resolved_also_in_inner_modules() {
    assert_eq!(paths("use super::a;"), ["driver::a"]);
    assert_eq!(paths("use super::super::a::B;"), ["a::B"]);
    assert_eq!(paths("use super::super::{a, b::{C}};"), ["a", "b::C"]);
    assert_eq!(paths("use self::a::B;"), ["driver::uring::a::B"]);
    assert_eq!(paths("mod inner { mod most { use super::super::super::a; } }"), ["driver::a"]);
    assert_eq!(paths("use self::super::super::a;"), ["a"]);
    assert_eq!(paths("use crate::r#move::B;"), ["move::B"]);
}

#[test]
fn crate_root_imports_are_globs() {
    for text in
        ["use crate as root;", "use crate::{self as root};", "use crate::*;", "use super::super as root;"]
    {
        assert_eq!(paths(text), ["*"], "{text}");
    }
    assert!(paths("pub(crate) fn f() {} pub(super) fn g() {} pub(in super::super) fn h() {}").is_empty());
}

#[test]
fn paths_outside_of_imports_are_seen() {
    assert_eq!(paths("fn f(a: &crate::a::B) { vec![super::c::<u8>()]; }"), ["a::B", "driver::c"]);
    assert_eq!(paths("macro_rules! m { () => { $crate::a::b() } }"), ["a::b"]);
    assert_eq!(paths("fn f() { statsring::cli::run() }"), ["cli::run"]);
    assert_eq!(paths("#[serde(with = \"crate::a\")] struct S;"), ["a"]);
    assert_eq!(paths("fn f() { <crate::a::B as crate::c::D>::e() }"), ["a::B", "c::D"]);
}

#[test]
fn strings_and_comments_are_ignored() {
    assert!(paths("/// As [`crate::a`].\n// crate::b\n/* crate::c */ fn f() { \"crate::d\"; }").is_empty());
    assert!(paths("fn f() { other::crate_name::a(); std::self_test::b(); }").is_empty());
}

#[test]
fn only_test_code_is_ignored() {
    assert_eq!(paths("#[cfg(test)] mod tests { use crate::a; } use crate::b;"), ["b"]);
    assert_eq!(paths("#[cfg(test)] #[allow(x)] pub(super) use crate::{a, c}; use crate::b;"), ["b"]);
    assert_eq!(paths("#[cfg(test)] fn f() -> Result<u8, ()> { crate::a() } fn g() { crate::b() }"), ["b"]);
    assert_eq!(paths("struct S { #[cfg(test)] a: crate::a::A, b: crate::b::B }"), ["b::B"]);
    assert_eq!(paths("#[cfg(all(test, unix))] use crate::a; #[cfg(not(test))] use crate::b;"), ["b"]);
    assert_eq!(
        paths("#[cfg(any(test, unix))] use crate::a; #[cfg_attr(test, allow(x))] use crate::b;"),
        ["a", "b"]
    );
    assert_eq!(paths("fn f() { #[cfg(test)] assert!(crate::a()); crate::b(); }"), ["b"]);
    assert!(paths("#![cfg(test)] use crate::a;").is_empty());
}

#[test]
fn out_of_line_modules_are_listed() {
    let text = "//! Purpose.\n#[path = \"x_tests.rs\"]\n#[cfg(test)]\npub(in crate::a) mod tests;\npub mod b;\nmod c { mod d; }";
    let child = |names: &[&str], file: Option<&str>, is_for_tests| Child {
        module: names.iter().map(|name| (*name).to_string()).collect(),
        file: file.map(str::to_owned),
        is_for_tests,
    };
    let expected = [
        child(&["a", "tests"], Some("x_tests.rs"), true),
        child(&["a", "b"], None, false),
        child(&["a", "c", "d"], None, false),
    ];
    assert_eq!(read_in("a", text).children, expected);
}

#[test]
fn unsafe_lines_are_found_in_any_formatting() {
    let text = "#![allow(unsafe_code)]\nfn f() {\n    unsafe\n    {\n    }\n}\nunsafe extern \"C\" {}\n// unsafe {\nunsafe trait T {}";
    assert_eq!(read_in("a", text).unsafe_lines, [3, 7, 9]);
}
