//! The admin port in the dialect of StatsD's `proxy.js`, for its clients and monitors. Pure.
//!
//! In: a line, or the data to show. Out: a [`Command`], or the reply, byte for byte that of `proxy.js`. Source, read for
//! its behaviour: `proxy.js`, `lib/mgmt_server.js` and `lib/helpers.js` of StatsD 0.9.0. Statsring's own commands work beside
//! them, and `statsring status` is statsring's where both have one. Next: `session.rs` and `server.rs`.
//!
//! `proxy.js` treats the bytes of one read as one command, regardless of the number of lines, and so does this; but statsring's own
//! commands are answered line by line, and one that comes in pieces is put together.

use super::command::{Command, ProxyJsQuery, parse as parse_statsring};
use super::telnet;
use std::fmt::Write as _;
use std::sync::Arc;

/// The reply to an unknown command.
pub const UNKNOWN: &str = "ERROR\n";
/// The answer to `help`.
pub const HELP: &str = "Commands: config, health, status, quit\n\n";

/// The commands that `proxy.js` has.
const WORDS: [&[u8]; 5] = [b"help", b"config", b"health", b"status", b"quit"];

/// Parses one line. Words are separated by single spaces, as by `split(" ")`; words after a command are ignored.
pub fn parse(line: &[u8]) -> Command {
    let line = trim(telnet::skip(line));
    let mut words = line.split(|byte| *byte == b' ');
    let (name, argument) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    match name {
        b"help" => Command::ProxyJs(ProxyJsQuery::Help),
        b"config" => Command::ProxyJs(ProxyJsQuery::Config),
        b"status" => Command::ProxyJs(ProxyJsQuery::Status),
        b"health" if argument.eq_ignore_ascii_case(b"up") => Command::SetHealth(true),
        b"health" if argument.eq_ignore_ascii_case(b"down") => Command::SetHealth(false),
        b"health" => Command::Health,
        b"quit" => Command::Quit,
        // A tab does not separate words there.
        _ if WORDS.contains(&first_word(line)) => Command::Unknown,
        _ => parse_statsring(line),
    }
}

/// The part before the first blank, as statsring's own commands are split.
fn first_word(line: &[u8]) -> &[u8] {
    line.split(|byte| matches!(byte, b' ' | b'\t')).next().unwrap_or_default()
}

/// A read as a whole: white space alone is a command without a name, and several lines are one command, whose
/// words contain the newlines. `None` if it is one line, or begins with one of statsring's own commands.
pub fn parse_read(bytes: &[u8]) -> Option<Command> {
    let text = trim(telnet::skip(bytes));
    let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let is_one_line = !text.is_empty() && first.len() == text.len();
    if is_one_line || is_own(first) {
        return None;
    }
    let name = text.split(|byte| *byte == b' ').next().unwrap_or_default();
    Some(if WORDS.contains(&name) { parse(text) } else { Command::Unknown })
}

/// Whether a line is a command that `proxy.js` does not have.
fn is_own(line: &[u8]) -> bool {
    let line = trim(line);
    !WORDS.contains(&first_word(line))
        && !matches!(parse_statsring(line), Command::Unknown | Command::Nothing)
}

/// Without surrounding white space, as by JavaScript's `trim`.
fn trim(text: &[u8]) -> &[u8] {
    let is_white = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let start = text.iter().take_while(|byte| is_white(byte)).count();
    let end = text[start..].iter().rev().take_while(|byte| is_white(byte)).count();
    &text[start..text.len() - end]
}

/// The reply to `status`: the uptime, and the backends in the ring, in its order.
pub fn status(uptime_s: u64, ring: &[Arc<str>]) -> String {
    let mut text = format!("uptime: {uptime_s}\nnodes: ");
    for name in ring {
        let _ = write!(text, "{} ", super::escape(name.as_bytes()));
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_parsed_as_by_proxy_js() {
        let lines: [(&[u8], Command); 16] = [
            (b"help", Command::ProxyJs(ProxyJsQuery::Help)),
            (b"help me\r", Command::ProxyJs(ProxyJsQuery::Help)),
            (b" \tconfig \x0b", Command::ProxyJs(ProxyJsQuery::Config)),
            (b"status x y", Command::ProxyJs(ProxyJsQuery::Status)),
            (b"health\r", Command::Health),
            (b"health UP", Command::SetHealth(true)),
            (b"health Down now", Command::SetHealth(false)),
            (b"health  down", Command::Health),
            (b"health sideways", Command::Health),
            (b"health\tdown", Command::Unknown),
            (b"quit now", Command::Quit),
            (b"HELP", Command::Unknown),
            (b"ping", Command::Ping),
            (b"stats x", Command::Unknown),
            (b"statsring status", Command::Status),
            (b"statsring health down", Command::SetHealth(false)),
        ];
        for (line, expected) in lines {
            assert_eq!(parse(line), expected, "{}", line.escape_ascii());
        }
    }

    #[test]
    fn a_status_lists_the_ring() {
        assert_eq!(status(7, &["a:1".into(), "b:2".into()]), "uptime: 7\nnodes: a:1 b:2 \n");
        assert_eq!(status(0, &[]), "uptime: 0\nnodes: \n");
    }

    #[test]
    fn a_read_of_several_lines_is_one_command() {
        let reads: [(&[u8], Option<Command>); 12] = [
            (b"", Some(Command::Unknown)),
            (b"\r\n \t\x0b", Some(Command::Unknown)),
            (b" help\n", None),
            (b"\nhelp\r\n\r\n", None),
            (b"help\nstatus\n", Some(Command::Unknown)),
            (b"help me\nnow\n", Some(Command::ProxyJs(ProxyJsQuery::Help))),
            (b"health down\nhealth\n", Some(Command::Health)),
            (b"health down x\nhealth\n", Some(Command::SetHealth(false))),
            (b"nothing\r\nhelp\r\n", Some(Command::Unknown)),
            (b"ping\nhelp\n", None),
            (b"ping\x0c\n stats\n", None),
            (b"statsring status\nhelp\n", None),
        ];
        for (read, expected) in reads {
            assert_eq!(parse_read(read), expected, "{}", read.escape_ascii());
        }
    }
}
