//! The admin protocol: the parsed commands do not depend on how the input is split, and follow the naive rules.
//!
//! From an HTTP line on, nothing is a command; all further input is left for HTTP.
//!
//! Input: the first byte is the chunk length (1 to 64, for long texts times 64; top bit: commands are taken only at the end),
//! the rest is what the client sends.

use crate::expand::expand;
use statsring::admin::{Command, Foreign, Input, LINE_BYTES_MAX, Session, parse, proxy_js};
use statsring::config::AdminDialect;

/// Two of these exceed the maximum line length.
pub const REPEAT: usize = 2_050;
const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "CONNECT", "TRACE", "PRI"];

/// Splits and parses any input.
pub fn run(bytes: &[u8]) {
    let Some((way, text)) = bytes.split_first() else { return };
    let text = &expand(text, REPEAT);
    let expected = expected(text);
    let is_prompt = way & 0x80 == 0;
    let mut session = Session::new();
    let mut inputs = Vec::new();
    for piece in text.chunks(piece_bytes(*way, text)) {
        session.feed(piece);
        if is_prompt {
            inputs.extend(std::iter::from_fn(|| session.next_command()));
            assert!(session.buffered() <= LINE_BYTES_MAX, "{} bytes are buffered", session.buffered());
        }
    }
    session.end_of_file();
    inputs.extend(std::iter::from_fn(|| session.next_command()));
    assert!(session.is_finished());
    assert_eq!(inputs, expected);
    with_silences(text, piece_bytes(*way, text));
    in_the_proxy_js_dialect(text, piece_bytes(*way, text));
}

/// The chunk length of a text.
pub fn piece_bytes(way: u8, text: &[u8]) -> usize {
    let bytes = usize::from(way & 63) + 1;
    if text.len() < REPEAT { bytes } else { 64 * bytes }
}

/// With a pause after each chunk, each one is a line, and nothing is buffered.
fn with_silences(text: &[u8], piece_bytes: usize) {
    let mut session = Session::new();
    let mut inputs = Vec::new();
    let mut is_closed = false;
    for piece in text.chunks(piece_bytes) {
        session.feed(piece);
        session.silence();
        let taken: Vec<Input> = std::iter::from_fn(|| session.next_command()).collect();
        assert!(!is_closed || taken.is_empty(), "input after the end");
        assert_eq!(session.buffered(), 0);
        if !is_closed {
            assert_eq!(taken, self::expected(piece));
        }
        is_closed |= session.is_ended();
        inputs.extend(taken);
    }
    let ends = inputs.iter().filter(|input| !matches!(input, Input::Command(_))).count();
    assert!(ends <= 1 && !inputs.contains(&Input::Command(Command::Nothing)));
}

/// The `proxy.js` dialect: a read of white space only is a command, and so is one of several lines, unless it begins with a
/// statsring command; otherwise each line is one. Nothing is buffered after a pause.
fn in_the_proxy_js_dialect(text: &[u8], piece_bytes: usize) {
    let mut session = Session::new();
    session.set_dialect(AdminDialect::ProxyJs);
    for piece in text.chunks(piece_bytes) {
        session.feed(piece);
        session.silence();
        let taken: Vec<Input> = std::iter::from_fn(|| session.next_command()).collect();
        assert_eq!(session.buffered(), 0);
        assert!(!taken.contains(&Input::Command(Command::Nothing)));
        if session.is_ended() {
            return;
        }
        if negotiation(piece) == piece.len() {
            assert_eq!(taken, [], "{}", piece.escape_ascii());
            continue;
        }
        let lines = piece.split(|byte| *byte == b'\n').map(proxy_js::parse);
        let expected: Vec<Input> = match as_one_command(piece) {
            Some(command) => vec![Input::Command(command)],
            None => lines.filter(|command| *command != Command::Nothing).map(Input::Command).collect(),
        };
        assert_eq!(taken, expected, "{}", piece.escape_ascii());
    }
}

/// The command of a whole read, if it is one; inner newlines are part of its arguments.
fn as_one_command(read: &[u8]) -> Option<Command> {
    let read = &read[negotiation(read)..];
    let is_white = |byte: &u8| byte.is_ascii_whitespace() || *byte == 0x0b;
    let Some(start) = read.iter().position(|byte| !is_white(byte)) else { return Some(Command::Unknown) };
    let end = read.iter().rposition(|byte| !is_white(byte)).map_or(start, |last| last + 1);
    let text = &read[start..end];
    let first: Vec<u8> = text.iter().copied().take_while(|byte| *byte != b'\n').collect();
    if first.len() == text.len() {
        return None;
    }
    let words = ["help", "config", "health", "status", "quit"];
    let word = first.split(|byte| b" \t\r\x0b\x0c".contains(byte)).next().unwrap_or_default();
    let is_theirs = words.iter().any(|theirs| theirs.as_bytes() == word);
    if !is_theirs && proxy_js::parse(&first) != Command::Unknown {
        return None;
    }
    let joined: Vec<u8> = text.iter().map(|byte| if *byte == b'\n' { 1 } else { *byte }).collect();
    Some(proxy_js::parse(&joined))
}

/// The naive way: all bytes at once.
fn expected(text: &[u8]) -> Vec<Input> {
    let mut inputs = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let end = match foreign(line) {
            Some(foreign) => Some(Input::Foreign(foreign)),
            None => (line.len() > LINE_BYTES_MAX).then_some(Input::LineTooLong),
        };
        if let Some(end) = end {
            inputs.push(end);
            break;
        }
        match parse(line) {
            Command::Nothing => {}
            command => inputs.push(Input::Command(command)),
        }
    }
    inputs
}

/// The other protocol of a line. Of an overlong line only the beginning is examined.
pub fn foreign(line: &[u8]) -> Option<Foreign> {
    let is_whole = line.len() <= LINE_BYTES_MAX;
    let line = &line[..line.len().min(LINE_BYTES_MAX + 1)];
    let line = &line[negotiation(line)..];
    let start = line.iter().position(|byte| !matches!(byte, b' ' | b'\t')).unwrap_or(line.len());
    let line = &line[start..];
    let has_method = METHODS
        .iter()
        .any(|method| line.strip_prefix(method.as_bytes()).is_some_and(|rest| rest.first() == Some(&b' ')));
    match line {
        _ if has_method => Some(Foreign::Http),
        [0x16, 0x03, ..] => Some(Foreign::Tls),
        _ if is_whole && ends_as_a_request_line(line) => Some(Foreign::Http),
        _ => None,
    }
}

/// The length of the telnet negotiation (RFC 854) at the beginning of a line, including a truncated one.
fn negotiation(line: &[u8]) -> usize {
    let mut at = 0;
    while line.get(at) == Some(&255) {
        at = match line.get(at + 1) {
            Some(250) => {
                let end = (at + 2..line.len()).find(|end| line[*end..].starts_with(&[255, 240]));
                end.map_or(line.len(), |end| end + 2)
            }
            Some(251..=254) => at + 3,
            Some(240..=249) | None => at + 2,
            Some(_) => return at,
        };
    }
    at.min(line.len())
}

fn ends_as_a_request_line(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let Some(version) = line.len().checked_sub(3).map(|start| &line[start..]) else { return false };
    line[..line.len() - 3].ends_with(b" HTTP/")
        && version[0].is_ascii_digit()
        && version[1] == b'.'
        && version[2].is_ascii_digit()
}
