//! `statsring where`: which backend gets a name, as the running proxy decides it.
//!
//! In: a config, backends taken as down, names from the arguments or from standard input. Out: `NAME<TAB>HOST:PORT`
//! lines. Next: nobody; a script reads them.

use crate::cli::{DEFAULT_CONFIG, complain, load, refuse, written};
use crate::config::{Config, Node};
use crate::exit;
use crate::placement::LiveSet;
use crate::relay::OnNodeDown;
use crate::worker::DATAGRAM_BYTES_LIMIT;
use argh::FromArgs;
use std::io::{self, BufRead, BufReader, BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

/// Backends that a message lists at most.
const LISTED_MAX: usize = 20;

/// Prints which backend gets a name, as NAME<TAB>HOST:PORT, one a line; HOST:PORT is - if none gets it.
#[derive(FromArgs, Clone, Debug, PartialEq, Eq)]
#[argh(
    subcommand,
    name = "where",
    help_triggers("-h", "--help"),
    note = "A name is taken exactly as given, so write foo and not foo:1|c. Control characters and backslashes in \
            names are printed escaped. Backends that are disabled in the config count as down; whether the others \
            really answer is not looked at: ask the running proxy's admin port for that."
)]
pub struct Options {
    /// config file, JSON (default /etc/statsdproxy.json)
    #[argh(option, short = 'f', arg_name = "FILE")]
    pub file: Option<PathBuf>,

    /// take this backend as down; may be given several times
    #[argh(option, arg_name = "HOST:PORT")]
    pub down: Vec<String>,

    /// names; without any they are read from standard input, one a line
    #[argh(positional, arg_name = "NAME")]
    pub names: Vec<String>,
}

/// Answers for all names; the exit code.
pub fn run(options: &Options) -> u8 {
    let path = options.file.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG));
    let config = match load(path) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    let live = match living(&config, &options.down) {
        Ok(live) => live,
        Err(text) => return refuse(&text),
    };
    if options.names.iter().any(String::is_empty) {
        return refuse("an empty name has no backend");
    }
    let mut out = BufWriter::new(io::stdout().lock());
    if options.names.is_empty() {
        if io::stdin().is_terminal() {
            complain("reading names, one a line, until the end of input (Ctrl-D)");
        }
        return answer_input(&config, &live, io::stdin().lock(), &mut out);
    }
    let answers = options.names.iter().try_for_each(|name| answer(&config, &live, name.as_bytes(), &mut out));
    written(answers.and_then(|()| out.flush()))
}

/// The backends that live: not disabled, and not among `down`.
fn living(config: &Config, down: &[String]) -> Result<LiveSet, String> {
    if let Some(unknown) = down.iter().find(|name| config.nodes.iter().all(|node| *node.name != ***name)) {
        let mut names: Vec<&str> = config.nodes.iter().take(LISTED_MAX).map(|node| &*node.name).collect();
        let more = config.nodes.len().saturating_sub(LISTED_MAX);
        let more_text = format!("and {more} more");
        if more > 0 {
            names.push(&more_text);
        }
        return Err(format!(
            "--down {unknown:?} is not a backend of the config; they are {}",
            names.join(", ")
        ));
    }
    let is_down = |node: &Node| down.iter().any(|name| *node.name == **name);
    Ok(LiveSet::new(config.nodes.iter().map(|node| !node.disabled && !is_down(node))))
}

/// The backend that gets `name`.
fn owner<'c>(config: &'c Config, live: &LiveSet, name: &[u8]) -> Option<&'c Node> {
    let index = match config.on_node_down {
        OnNodeDown::Divert => config.hashing.owner(name, live),
        OnNodeDown::Drop => config.hashing.home(name, config.nodes.len()).filter(|home| live.contains(*home)),
    };
    index.and_then(|index| config.nodes.get(index))
}

fn answer(config: &Config, live: &LiveSet, name: &[u8], out: &mut impl Write) -> io::Result<()> {
    let node = owner(config, live, name).map_or("-", |node| &*node.name);
    writeln!(out, "{}\t{node}", escaped(name))
}

/// Answers for the names of `input`, as the relay reads lines: one `\r` before the newline does not count, and empty
/// lines are skipped. An answer is written out as soon as no more input waits.
fn answer_input(config: &Config, live: &LiveSet, input: impl Read, out: &mut impl Write) -> u8 {
    let mut input = BufReader::new(input);
    let mut line = Vec::new();
    for number in 1u64.. {
        line.clear();
        // No name is longer than a datagram: a bound on what a wrong input makes this take.
        let limit = DATAGRAM_BYTES_LIMIT as u64 + 2;
        match input.by_ref().take(limit).read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) => {
                let _ = out.flush();
                complain(&format!("cannot read names from standard input: {error}"));
                return exit::SYSTEM;
            }
        }
        let name = line.strip_suffix(b"\n").unwrap_or(&line);
        let name = name.strip_suffix(b"\r").unwrap_or(name);
        if name.len() > DATAGRAM_BYTES_LIMIT {
            let _ = out.flush();
            return refuse(&format!(
                "line {number} of standard input is longer than any name ({DATAGRAM_BYTES_LIMIT} bytes)"
            ));
        }
        if name.is_empty() {
            continue;
        }
        let mut result = answer(config, live, name, out);
        if input.buffer().is_empty() {
            result = result.and_then(|()| out.flush());
        }
        if result.is_err() {
            return written(result);
        }
    }
    written(out.flush())
}

/// A name on one line: what is not printable, and the backslash, as Rust and C write it.
fn escaped(name: &[u8]) -> String {
    let mut text = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' | '\'' => text.push(character),
                _ => text.extend(character.escape_debug()),
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}
