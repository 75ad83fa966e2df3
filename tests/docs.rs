//! Checks the book and the man page: generated parts are current, links work, named things exist.
//!
//! `UPDATE_DOCS=1 cargo test --test docs` rewrites the generated parts.

#[allow(dead_code, reason = "shared by three tests, none of which uses all of it")]
mod book;
#[path = "docs/book_tests.rs"]
mod book_tests;
#[path = "docs/generate.rs"]
mod generate;
#[path = "docs/manual.rs"]
mod manual;
#[path = "docs/names.rs"]
mod names;

use book::{Page, page, pages, root};
use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

const BEGIN: &str = "<!-- generated: ";
const END: &str = "<!-- /generated -->";

/// Compares a file with its expected text, or writes it.
fn check_or_write(path: &str, expected: &str) {
    let path = root().join(path);
    let current = std::fs::read_to_string(&path).unwrap();
    if current == expected {
        return;
    }
    if std::env::var_os("UPDATE_DOCS").is_some() {
        // Atomic: other tests read the file.
        let new = path.with_extension("new");
        std::fs::write(&new, expected).unwrap();
        std::fs::rename(new, &path).unwrap();
        return;
    }
    let stale = expected.lines().find(|line| !current.contains(line)).unwrap_or("(removed lines)");
    panic!("{}: stale, at: {stale}\nRun UPDATE_DOCS=1 cargo test --test docs", path.display());
}

#[test]
fn generated_parts_are_current() {
    let mut unused: BTreeSet<&str> = generate::PARTS.iter().map(|(name, _)| *name).collect();
    for page in pages() {
        let mut expected = String::new();
        let mut rest = &*page.text;
        while let Some((before, after)) = rest.split_once(BEGIN) {
            let (name, after) = after.split_once(" -->\n").unwrap();
            let (_, after) =
                after.split_once(END).unwrap_or_else(|| panic!("{}: {name}: missing end marker", page.path));
            let (_, part) = generate::PARTS.iter().find(|(known, _)| *known == name).unwrap_or_else(|| {
                panic!("{}: unknown generated part {name}", page.path);
            });
            unused.remove(name);
            expected += &format!("{before}{BEGIN}{name} -->\n{}{END}", part());
            rest = after;
        }
        expected += rest;
        check_or_write(&page.path, &expected);
    }
    assert!(unused.is_empty(), "generated parts not used on any page: {unused:?}");
}

#[test]
fn the_generated_parts_of_the_man_page_are_current() {
    check_or_write(manual::PATH, &manual::generated());
}

/// Resolves `.` and `..`.
fn normalized(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => assert!(normal.pop(), "{} is outside of the repository", path.display()),
            Component::CurDir => {}
            part => normal.push(part),
        }
    }
    normal
}

#[test]
fn links_are_not_broken() {
    let mut broken = Vec::new();
    for page in pages().into_iter().chain([page("CHANGELOG.md")]) {
        let is_in_book = page.path.starts_with("docs/src/");
        for (link, line) in page.links() {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (target, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let folder = Path::new(&page.path).parent().unwrap();
            let path =
                if target.is_empty() { PathBuf::from(&page.path) } else { normalized(&folder.join(target)) };
            if !root().join(&path).is_file() {
                broken.push(format!("{}: {link}: no such file", page.at(line)));
            } else if is_in_book && !path.starts_with("docs/src") {
                broken.push(format!("{}: {link} points outside of the book", page.at(line)));
            } else if !anchor.is_empty()
                && !self::page(path.to_str().unwrap()).anchors().iter().any(|a| a == anchor)
            {
                broken.push(format!("{}: {link}: no such heading", page.at(line)));
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
}

#[test]
fn the_summary_lists_every_page_once() {
    let summary = page("docs/src/SUMMARY.md");
    let mut listed: Vec<String> =
        summary.links().into_iter().map(|(link, _)| format!("docs/src/{link}")).collect();
    listed.push(summary.path);
    listed.sort();
    let of_book = |page: Page| Some(page.path).filter(|path| path.starts_with("docs/src/"));
    assert_eq!(listed, pages().into_iter().filter_map(of_book).collect::<Vec<_>>());
}

#[test]
fn each_page_has_one_title_and_unique_headings() {
    for page in pages().into_iter().filter(|page| !page.path.ends_with("SUMMARY.md")) {
        let anchors = page.anchors();
        let unique: BTreeSet<&String> = anchors.iter().collect();
        assert_eq!(unique.len(), anchors.len(), "{}: duplicate heading: {anchors:?}", page.path);
        let titles = page.headings().iter().filter(|(level, _)| *level as u8 == 1).count();
        assert_eq!(titles, 1, "{}", page.path);
    }
}

#[test]
fn readme_is_short_and_has_both_commands() {
    let readme = page("README.md");
    let lines: Vec<&str> = readme.text.lines().collect();
    assert!(lines.len() <= 200, "{} lines", lines.len());
    for command in ["    cargo run --release -- demo", "    cargo test"] {
        assert!(lines.contains(&command), "{command}");
    }
}

#[test]
fn help_lists_all_exit_codes() {
    let help = generate::help_of(None);
    let (_, listed) = help.split_once("\nError codes:\n").unwrap();
    let codes = statsring::exit::CODES.iter().filter(|(code, _)| *code != statsring::exit::OK);
    let expected: String =
        codes.map(|(code, meaning)| format!("  {code} {}\n", meaning.replace('`', ""))).collect();
    assert_eq!(listed.trim_end(), expected.trim_end());
}

#[test]
fn the_metrics_of_every_expression_exist() {
    let families = statsring::admin::metric_families();
    let is_known = |name: &str| {
        families.iter().any(|family| {
            let suffix = name.strip_prefix(&*family.name);
            suffix == Some("")
                || family.kind == "histogram"
                    && suffix.is_some_and(|s| ["_bucket", "_sum", "_count"].contains(&s))
        })
    };
    let mut used = 0;
    for page in pages() {
        for block in page.blocks_of("promql") {
            let names = block.text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            for name in names.filter(|name| name.starts_with("statsring_")) {
                assert!(is_known(name), "{}: {name}", page.at(block.line));
                used += 1;
            }
        }
    }
    assert!(used > 3, "{used}");
}

#[test]
fn inline_code_names_existing_things() {
    let mut unknown = Vec::new();
    for page in pages() {
        for (code, line) in page.inline_code() {
            unknown
                .extend(names::unknown(&page.path, &code).map(|name| format!("{}: `{name}`", page.at(line))));
        }
    }
    assert!(unknown.is_empty(), "names that do not exist:\n{}", unknown.join("\n"));
}
