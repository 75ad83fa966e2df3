//! The man page: hand-written, except for the parts between markers, which come from the same tables as the book's.
//!
//! In: `docs/statsring.8`. Out: its text with the generated parts updated. A marker is a comment, `.\" generated: NAME` up to
//! `.\" end`.

use super::book::root;
use super::generate;
use statsring::config::{KEYS, Key, NODE_KEYS};

pub const PATH: &str = "docs/statsring.8";
const BEGIN: &str = ".\\\" generated: ";
const END: &str = ".\\\" end\n";

/// The expected page.
pub fn generated() -> String {
    let text = std::fs::read_to_string(root().join(PATH)).unwrap();
    let mut expected = String::new();
    let mut rest = &*text;
    while let Some((before, after)) = rest.split_once(BEGIN) {
        let (name, after) = after.split_once('\n').unwrap();
        let (_, after) =
            after.split_once(END).unwrap_or_else(|| panic!("{PATH}: {name}: missing end marker"));
        let part = match name {
            "options" => options(&generate::help_of(None), false),
            "commands" => commands(),
            "keys" => keys(&KEYS),
            "node-keys" => keys(&NODE_KEYS),
            "admin-commands" => admin_commands(),
            "exit-codes" => exit_codes(),
            _ => panic!("{PATH}: unknown generated part {name}"),
        };
        expected += &format!("{before}{BEGIN}{name}\n{part}{END}");
        rest = after;
    }
    expected + rest
}

/// Text as mdoc input: no Markdown, no leading dots, no escapes, one sentence per line.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    // [text](link) becomes text.
    while let Some((before, after)) = rest.split_once('[') {
        match after.split_once("](").and_then(|(label, tail)| Some((label, tail.split_once(')')?.1))) {
            Some((label, tail)) if !label.contains(']') => {
                plain += before;
                plain += label;
                rest = tail;
            }
            _ => {
                plain += before;
                plain.push('[');
                rest = after;
            }
        }
    }
    plain += rest;
    let plain = plain.replace('\\', "\\e").replace('`', "").replace("**", "").replace(". ", ".\n");
    let guarded = plain.lines().map(|line| match line.chars().next() {
        Some('.' | '\'') => format!("\\&{line}\n"),
        _ => format!("{line}\n"),
    });
    guarded.collect()
}

/// An argument of a macro, where quotes and blanks are special.
fn argument(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\e").replace('"', "\\(dq"))
}

fn capitalized(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    let text = first + characters.as_str();
    if text.ends_with('.') { text } else { text + "." }
}

fn list(items: impl IntoIterator<Item = (String, String)>) -> String {
    let items = items.into_iter().map(|(item, text)| format!(".It {item}\n{text}"));
    format!(".Bl -tag -width Ds\n{}.El\n", items.collect::<String>())
}

/// A section of a help text: entries and their descriptions, which may span lines.
fn block(help: &str, title: &str) -> Vec<(String, String)> {
    let Some((_, after)) = help.split_once(&format!("\n{title}:\n")) else { return Vec::new() };
    let mut entries: Vec<(String, String)> = Vec::new();
    for line in after.lines().take_while(|line| !line.is_empty()) {
        let line = &line[2..];
        match (line.starts_with(' '), entries.last_mut()) {
            (true, Some((_, text))) => *text += &format!(" {}", line.trim()),
            _ => {
                // The description of a long entry is on the next line.
                let (entry, text) = line.split_once("  ").unwrap_or((line, ""));
                entries.push((entry.to_owned(), text.trim().to_owned()));
            }
        }
    }
    entries.into_iter().map(|(entry, text)| (entry, text.trim().to_owned())).collect()
}

/// The argument of an option in the usage line, such as `FILE`.
fn takes(help: &str, option: &str) -> Option<String> {
    let usage = help.lines().next()?;
    let short = &option[1..];
    let (_, after) = usage
        .split_once(&format!("[{option} <"))
        .or_else(|| usage.split_once(&format!("[{} <", &short[..2.min(short.len())])))?;
    Some(after.split(['>', '.']).next()?.to_owned())
}

/// The options of the program or of a command, without `--help` for commands.
fn options(help: &str, is_command: bool) -> String {
    let item = |(entry, text): (String, String)| {
        let names: Vec<&str> = entry.split(", ").collect();
        let flags: Vec<String> = names.iter().map(|name| format!("Fl {}", &name[1..])).collect();
        let taken = names.iter().find_map(|name| takes(help, name));
        let taken = taken.map_or_else(String::new, |word| format!(" Ar {word}"));
        (format!("{}{taken}", flags.join(" , ")), plain(&capitalized(&text)))
    };
    let own = block(help, "Options").into_iter().filter(|(entry, _)| !is_command || !entry.starts_with("-h"));
    list(own.map(item))
}

fn commands() -> String {
    let mut text = String::new();
    for command in generate::commands() {
        let help = generate::help_of(Some(&command));
        let usage = help.lines().next().unwrap().strip_prefix("Usage: statsring ").unwrap();
        let purpose = help.lines().nth(2).unwrap();
        text += &format!(".Ss {command}\n.Nm\n.Li {}\n.Pp\n{}", argument(usage), plain(purpose));
        let positional: Vec<(String, String)> = block(&help, "Positional Arguments")
            .into_iter()
            .map(|(name, meaning)| (format!("Ar {name}"), plain(&capitalized(&meaning))))
            .collect();
        if !positional.is_empty() {
            text += &list(positional);
        }
        text += &options(&help, true);
    }
    text
}

fn keys(keys: &[Key]) -> String {
    list(keys.iter().map(|key| {
        let reload = if key.is_reloadable { "; can be reloaded" } else { "" };
        let facts = format!("{}; default: {}{reload}", key.values(), key.default_text());
        (format!("Li {}", key.name), plain(&capitalized(&facts)) + &plain(key.meaning))
    }))
}

fn admin_commands() -> String {
    let item =
        |(usage, meaning): (&str, &str)| (format!("Li {}", argument(usage)), plain(&capitalized(meaning)));
    list(generate::admin_help().map(item))
}

fn exit_codes() -> String {
    let item = |(code, meaning): &(u8, &str)| (code.to_string(), plain(&capitalized(meaning)));
    let signal = ("128 + signal".to_owned(), "Ended at once by a second signal.\n".to_owned());
    list(statsring::exit::CODES.iter().map(item).chain([signal]))
}
