//! The man page against the program: the same commands, options and exit codes, neither more nor less.

use std::collections::BTreeSet;
use std::process::Command;

const MANUAL: &str = include_str!("../docs/statsring.8");
const EXIT_CODES: &str = include_str!("../src/exit.rs");

/// What `statsring [COMMAND] --help` prints.
fn help(command: Option<&str>) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_statsring"))
        .args(command)
        .arg("--help")
        .output()
        .expect("the program starts");
    assert!(output.status.success(), "{command:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The lines of a block of a help text, each by its first words: those that begin where the block's entries do.
fn entries<'a>(help: &'a str, block: &str) -> impl Iterator<Item = &'a str> {
    let (_, behind) =
        help.split_once(&format!("\n{block}:\n")).unwrap_or_else(|| panic!("no {block}: {help}"));
    behind
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.strip_prefix("  "))
        .filter(|line| !line.starts_with(' '))
}

/// The options of a help text, as `-f` and `--file`.
fn offered(help: &str) -> BTreeSet<String> {
    entries(help, "Options")
        .flat_map(|line| line.split_whitespace().take_while(|word| word.starts_with('-')))
        .map(|word| word.trim_end_matches(',').to_owned())
        .collect()
}

/// A part of the page, from its heading to the next of its kind.
fn part(macro_and_title: &str, until: &[&str]) -> String {
    let mut lines = MANUAL.lines().skip_while(|line| *line != macro_and_title);
    assert!(lines.next().is_some(), "the page has no {macro_and_title}");
    let lines: Vec<&str> = lines.take_while(|line| !until.iter().any(|end| line.starts_with(end))).collect();
    lines.join("\n")
}

/// The options that a part of the page tells of.
fn told(part: &str) -> BTreeSet<String> {
    let words: Vec<&str> =
        part.lines().filter(|line| line.starts_with('.')).flat_map(str::split_whitespace).collect();
    let behind_fl = words.windows(2).filter(|pair| pair[0].trim_start_matches('.') == "Fl");
    behind_fl.map(|pair| format!("-{}", pair[1].trim_end_matches([',', '.']))).collect()
}

#[test]
fn the_page_tells_of_every_option_of_the_proxy_and_of_no_other() {
    assert_eq!(told(&part(".Sh DESCRIPTION", &[".Sh"])), offered(&help(None)));
}

#[test]
fn the_page_tells_of_every_command_and_its_options_and_of_no_other() {
    let page = part(".Sh COMMANDS", &[".Sh"]);
    let mut told_of: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix(".Ss ")).collect();
    let general = help(None);
    let mut commands: Vec<&str> =
        entries(&general, "Commands").filter_map(|line| line.split_whitespace().next()).collect();
    for command in &commands {
        let mut offered = offered(&help(Some(command)));
        // Told once for all.
        assert!(offered.remove("-h") && offered.remove("--help"), "{command}");
        assert_eq!(told(&part(&format!(".Ss {command}"), &[".Ss", ".Sh"])), offered, "{command}");
    }
    told_of.sort_unstable();
    commands.sort_unstable();
    assert_eq!(told_of, commands);
}

#[test]
fn the_page_tells_of_every_exit_code_and_of_no_other() {
    let page = part(".Sh EXIT STATUS", &[".Sh"]);
    let mut told: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix(".It ")).collect();
    // This one is no constant: the number depends on the signal.
    told.retain(|code| *code != "128 + signal");
    let constants = EXIT_CODES.lines().filter(|line| line.starts_with("pub const "));
    let codes: Vec<&str> =
        constants.filter_map(|line| line.trim_end_matches(';').rsplit(' ').next()).collect();
    assert!(codes.len() > 5, "{codes:?}");
    assert_eq!(told, codes);
}

#[test]
fn the_page_names_the_config_that_is_read_by_default() {
    assert!(MANUAL.contains(statsring::tools::config_file::DEFAULT_CONFIG));
}
