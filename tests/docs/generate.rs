//! Generates parts of the book from the tables used by the program.
//!
//! In: tables of the crate, and `--help`. Out: Markdown. Next: `docs.rs` compares it with the pages.

use statsring::admin::{self, AdminCounter};
use statsring::config::{KEYS, Key, NODE_KEYS};
use statsring::stats::{Counter, DropReason};
use std::process::Command;

/// The name in a marker, and the text after it.
type Part = (&'static str, fn() -> String);

/// All parts.
pub const PARTS: [Part; 12] = [
    ("keys", || keys(&KEYS)),
    ("node-keys", || keys(&NODE_KEYS)),
    ("help", help),
    ("admin-commands", admin_commands),
    ("backends-columns", backends_columns),
    ("http-paths", http_paths),
    ("exit-codes", exit_codes),
    ("counters", counters),
    ("drop-reasons", drop_reasons),
    ("admin-counters", admin_counters),
    ("metrics", metrics),
    ("proxy-js-keys", proxy_js_keys),
];

/// The commands of the program, in the order of its help.
pub fn commands() -> Vec<String> {
    let general = help_of(None);
    let (_, list) = general.split_once("\nCommands:\n").unwrap();
    let entries = list.lines().take_while(|line| !line.is_empty());
    let names = entries.filter_map(|line| line.strip_prefix("  ").filter(|line| !line.starts_with(' ')));
    names.map(|line| line.split(' ').next().unwrap().to_owned()).collect()
}

/// What `statsring [COMMAND] --help` prints.
pub fn help_of(command: Option<&str>) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_statsring")).args(command).arg("--help").output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn table(head: &str, rows: impl IntoIterator<Item = String>) -> String {
    let columns = head.matches('|').count() - 1;
    let rows: String = rows.into_iter().map(|row| row + "\n").collect();
    format!("{head}\n|{}\n{rows}", "---|".repeat(columns))
}

/// Escapes text for a table cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// The names of all statsring keys.
pub fn key_names() -> impl Iterator<Item = String> {
    KEYS.iter().chain(&NODE_KEYS).map(|key| key.name.to_owned())
}

fn keys(keys: &[Key]) -> String {
    let row = |key: &Key| {
        let reload = if key.is_reloadable { "reload" } else { "restart" };
        let (values, default) = (key.values(), key.default_text());
        format!(
            "| `{}` | {} | {} | {reload} | {} |",
            key.name,
            cell(&values),
            cell(&default),
            cell(key.meaning)
        )
    };
    table("| key | values | default | applied by | meaning |", keys.iter().map(row))
}

fn help() -> String {
    let mut text = format!("\n## statsring\n\n```text\n{}\n```\n", help_of(None).trim_end());
    for command in commands() {
        text += &format!("\n## {command}\n\n```text\n{}\n```\n", help_of(Some(&command)).trim_end());
    }
    text + "\n"
}

fn admin_commands() -> String {
    let row = |(usage, meaning): (&str, &str)| format!("| `{}` | {} |", cell(usage), cell(meaning));
    table("| command | answer |", admin_help().map(row))
}

/// The admin commands with their meanings, from the reply to `help`.
pub fn admin_help() -> impl Iterator<Item = (&'static str, &'static str)> {
    admin::HELP.lines().map(|line| {
        let (usage, meaning) =
            line.split_once("  ").unwrap_or_else(|| panic!("expected two columns, found {line}"));
        (usage, meaning.trim_start())
    })
}

fn backends_columns() -> String {
    let row = |(name, meaning): &(&str, &str)| format!("| `{name}` | {meaning} |");
    table("| column | meaning |", admin::BACKENDS_COLUMNS.iter().map(row))
}

fn http_paths() -> String {
    let row = |(path, meaning): &(&str, &str)| format!("| `{path}` | {meaning} |");
    table("| path | answer |", admin::HTTP_PATHS.iter().map(row))
}

fn exit_codes() -> String {
    let row = |(code, meaning): &(u8, &str)| format!("| {code} | {meaning} |");
    let signal = "| 128 + signal | ended at once by a second signal |".to_owned();
    table("| code | meaning |", statsring::exit::CODES.iter().map(row).chain([signal]))
}

fn counters() -> String {
    let row = |counter: &Counter| format!("| `{}` | {} |", counter.name(), counter.meaning());
    table("| counter | meaning |", Counter::ALL.iter().map(row))
}

fn drop_reasons() -> String {
    let row = |reason: &DropReason| format!("| `{}` | {} |", reason.name(), reason.meaning());
    table("| reason | meaning |", DropReason::ALL.iter().map(row))
}

fn admin_counters() -> String {
    let row = |counter: &AdminCounter| format!("| `{}` | {} |", counter.name(), counter.meaning());
    table("| counter | meaning |", AdminCounter::ALL.iter().map(row))
}

fn metrics() -> String {
    let row =
        |family: &admin::MetricFamily| format!("| `{}` | {} | {} |", family.name, family.kind, family.help);
    table("| name | type | meaning |", admin::metric_families().iter().map(row))
}

fn proxy_js_keys() -> String {
    let keys: Vec<String> = statsring::config::PROXY_JS_KEYS.iter().map(|key| format!("`{key}`")).collect();
    let (last, others) = keys.split_last().unwrap();
    format!("{} or {last}.\n", others.join(", "))
}
