//! `statsring where`: which backend gets a name, as the running proxy decides it.
//!
//! In: a config, backends taken as down, names from the arguments or from standard input. Out: `NAME<TAB>HOST:PORT`
//! lines, for scripts.

use super::config_file::{DEFAULT_CONFIG, load};
use super::names::{NamesError, read_names};
use crate::admin::escape;
use crate::config::{Assignment, Config};
use crate::console::{print_error, usage_error, written};
use crate::exit;
use argh::FromArgs;
use std::io::{self, BufReader, BufWriter, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

/// Backends that a message lists at most.
const LISTED_MAX: usize = 20;

/// Prints the backend that owns each name, one per line: NAME<TAB>HOST:PORT, or - if there is none.
#[derive(FromArgs, Clone, Debug, PartialEq, Eq)]
#[argh(
    subcommand,
    name = "where",
    help_triggers("-h", "--help"),
    note = "Names are used exactly as given: write foo, not foo:1|c.",
    note = "Control characters and backslashes in names are escaped in the output.",
    note = "Disabled backends count as down. The running proxy is not queried: its admin\n  \
            command 'where NAME' reports the backend that serves a name now."
)]
pub struct Options {
    /// config file: JSON, or a config of StatsD's proxy.js (default /etc/statsdproxy.json)
    #[argh(option, short = 'f', arg_name = "FILE")]
    pub file: Option<PathBuf>,

    /// assume that this backend is down; may be repeated
    #[argh(option, arg_name = "HOST:PORT")]
    pub down: Vec<String>,

    /// names; if none is given, they are read from standard input, one per line
    #[argh(positional, arg_name = "NAME")]
    pub names: Vec<String>,
}

/// Prints the backends of all names; the exit code.
pub fn run(options: &Options) -> u8 {
    let path = options.file.as_deref().unwrap_or(Path::new(DEFAULT_CONFIG));
    let config = match load(path) {
        Ok(loaded) => loaded.config,
        Err(code) => return code,
    };
    let assignment = match assignment(&config, &options.down) {
        Ok(assignment) => assignment,
        Err(text) => return usage_error(&text),
    };
    if options.names.iter().any(String::is_empty) {
        return usage_error("an empty name has no backend");
    }
    let mut out = BufWriter::new(io::stdout().lock());
    if options.names.is_empty() {
        if io::stdin().is_terminal() {
            print_error("reading names, one per line, until the end of input (Ctrl-D)");
        }
        return answer_input(&config, &assignment, io::stdin().lock(), &mut out);
    }
    let answers =
        options.names.iter().try_for_each(|name| answer(&config, &assignment, name.as_bytes(), &mut out));
    written(answers.and_then(|()| out.flush()))
}

/// The assignment while the backends in `down` are down.
fn assignment(config: &Config, down: &[String]) -> Result<Assignment, String> {
    if let Some(unknown) = down.iter().find(|name| config.nodes.iter().all(|node| *node.name != ***name)) {
        let mut names: Vec<&str> = config.nodes.iter().take(LISTED_MAX).map(|node| &*node.name).collect();
        let more = config.nodes.len().saturating_sub(LISTED_MAX);
        let more_text = format!("and {more} more");
        if more > 0 {
            names.push(&more_text);
        }
        return Err(format!(
            "--down {unknown:?} is not a backend of the config; expected one of {}",
            names.join(", ")
        ));
    }
    Ok(Assignment::new(config, |node| down.iter().any(|name| *node.name == **name)))
}

fn answer(config: &Config, assignment: &Assignment, name: &[u8], out: &mut impl Write) -> io::Result<()> {
    let node = assignment.index(name).map_or("-", |index| &*config.nodes[index].name);
    writeln!(out, "{}\t{node}", escape(name))
}

/// Answers for the names of `input`. An answer is written out as soon as no more input waits.
fn answer_input(config: &Config, assignment: &Assignment, input: impl Read, out: &mut impl Write) -> u8 {
    let read = read_names(BufReader::new(input), |name, is_last_for_now| {
        answer(config, assignment, name, out)?;
        if is_last_for_now { out.flush() } else { Ok(()) }
    });
    match read {
        Ok(()) => written(out.flush()),
        Err(NamesError::Refused(error)) => written(Err(error)),
        Err(error) => {
            let _ = out.flush();
            error.report("standard input", exit::SYSTEM)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::parse;
    use crate::placement::{LiveSet, Placement};
    use crate::worker::DATAGRAM_BYTES_LIMIT;

    fn config(nodes: usize, rest: &str) -> Config {
        let nodes: Vec<String> =
            (0..nodes).map(|i| format!(r#"{{"host": "n{i}.example", "port": 1}}"#)).collect();
        parse(&format!(r#"{{"nodes": [{}]{rest}}}"#, nodes.join(","))).expect("a good config").config
    }

    fn answers(config: &Config, down: &[&str], input: &[u8]) -> (u8, String) {
        let down: Vec<String> = down.iter().map(|name| (*name).to_owned()).collect();
        let assignment = assignment(config, &down).expect("known backends");
        let mut out = Vec::new();
        let code = answer_input(config, &assignment, input, &mut out);
        (code, String::from_utf8(out).expect("escaped names are text"))
    }

    #[test]
    fn it_answers_as_the_placement_does() {
        let config = config(16, "");
        let live = LiveSet::new((0..16).map(|i| i != 3 && i != 15));
        for i in 0..2_000 {
            let name = format!("app.{i}.requests");
            let (code, text) = answers(&config, &["n3.example:1", "n15.example:1"], name.as_bytes());
            let index = Placement::Jump.owner(name.as_bytes(), &live).expect("fourteen live");
            assert_eq!((code, text), (exit::OK, format!("{name}\tn{index}.example:1\n")));
        }
    }

    #[test]
    fn drop_answers_only_for_living_homes() {
        let config = config(3, r#", "onNodeDown": "drop""#);
        let (_, text) = answers(&config, &["n2.example:1"], b"foo\nglork\nfoo.bar\r\n\n");
        assert_eq!(text, "foo\t-\nglork\tn0.example:1\nfoo.bar\t-\n");
    }

    #[test]
    fn the_last_line_needs_no_newline_and_none_is_too_long() {
        let config = config(1, "");
        let longest = vec![b'x'; DATAGRAM_BYTES_LIMIT];
        let input = [&longest[..], b"\r\n", &longest[..]].concat();
        let (code, text) = answers(&config, &[], &input);
        assert_eq!((code, text.lines().count()), (exit::OK, 2));
        let (code, text) = answers(&config, &[], &[b"a\n", &longest[..], b"y"].concat());
        assert_eq!((code, text.lines().count()), (exit::USAGE, 1));
    }

    #[test]
    fn an_unknown_backend_is_answered_with_the_known_ones() {
        let config = config(25, "");
        let Err(text) = assignment(&config, &["n0".to_owned()]) else { panic!("n0 has no port") };
        assert!(
            text.starts_with("--down \"n0\" is not a backend of the config; expected one of n0.example:1, "),
            "{text}"
        );
        assert!(text.ends_with(", n19.example:1, and 5 more"), "{text}");
    }
}
