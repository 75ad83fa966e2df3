//! A syntax error in an object literal: position, key, cause and remedy.
//!
//! In: the text, and the byte at which parsing failed. Out: a [`SyntaxError`]. Code in a config is a common mistake,
//! since `proxy.js` evaluates its config as JavaScript: code is recognized, and refused with the remedy.
//! Next: `source.rs`.

use super::json::quoted;
use super::positions::{object_start, position, skip_blanks};
use jsonc_parser::tokens::Token;
use jsonc_parser::{Scanner, ScannerOptions};

/// Why a text is not an object literal.
#[derive(Debug)]
pub(super) struct SyntaxError {
    /// Line and column, from 1.
    pub(super) at: (usize, usize),
    /// Whether it is code, which no other format of the file would explain.
    pub(super) is_code: bool,
    reason: String,
}

/// Words that begin code.
const CODE_WORDS: [&str; 14] = [
    "function", "new", "class", "async", "await", "typeof", "void", "var", "let", "const", "return", "if",
    "process", "require",
];
/// Operators.
const OPERATORS: &str = "+-*/%?<>=!&|^~.(";

impl SyntaxError {
    pub(super) fn new(text: &str, offset: usize, reason: String) -> SyntaxError {
        SyntaxError { at: position(text, offset), is_code: false, reason }
    }

    fn code(text: &str, offset: usize, reason: String) -> SyntaxError {
        SyntaxError { is_code: true, ..SyntaxError::new(text, offset, reason) }
    }

    /// A comment is not closed.
    pub(super) fn unclosed_comment(text: &str, at: usize) -> SyntaxError {
        SyntaxError::new(text, at, "unterminated comment".to_owned())
    }

    /// The text does not begin with an object.
    pub(super) fn of_beginning(text: &str, at: usize) -> SyntaxError {
        let rest = &text[at..];
        let before = rest.find('{').map(|brace| rest[..brace].trim_end());
        if let Some(before) = before.filter(|before| is_code(before) || before.ends_with('=')) {
            let reason = format!("unexpected code {}: remove everything before the {{", quoted(before));
            return SyntaxError::code(text, at, reason);
        }
        SyntaxError::new(text, at, "expected an object, { … }".to_owned())
    }

    /// Unexpected text after the object.
    pub(super) fn of_rest(text: &str, at: usize) -> SyntaxError {
        let rest = first_line(&text[at..]);
        let reason =
            format!("unexpected {} after the object's end; a config is a single object", quoted(rest));
        SyntaxError { is_code: is_code(rest), ..SyntaxError::new(text, at, reason) }
    }

    /// For the operator: place, key, cause, remedy.
    pub(super) fn message(&self) -> String {
        let (line, column) = self.at;
        format!("line {line}, column {column}: {}", self.reason)
    }
}

/// Why parsing failed at `offset`; `cause` is the parser's message.
pub(super) fn explain(text: &str, offset: usize, cause: &str) -> SyntaxError {
    let offset = (0..=offset).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    // A sign without a number is reported by the text that follows it.
    let offset = if text[..offset].ends_with(['+', '-']) { offset - 1 } else { offset };
    let Spot { path, value_start } = Spot::of(text, offset);
    let at = skip_blanks(text, offset).unwrap_or(offset);
    let rest = &text[at..];
    let line = first_line(rest);
    if line.starts_with('`') {
        return SyntaxError::code(
            text,
            at,
            format!("{path}unexpected template literal; write a string in quotes: 'text'"),
        );
    }
    if line.starts_with("undefined") {
        return SyntaxError::code(text, at, format!("{path}undefined is not a value; omit the key"));
    }
    if is_number_at(text, at) {
        let reason =
            "unsupported number format; write decimal digits without a leading 0, and an address in quotes";
        return SyntaxError::new(text, at, format!("{path}{reason}"));
    }
    let start = value_start.unwrap_or(at);
    let value = first_line(&text[start..]);
    if is_code(line) || (starts_with_word(value) && is_code(value)) {
        let reason = format!(
            "{path}expected a value, found code {}; write the value itself, a string in quotes",
            quoted(first_expression(value))
        );
        return SyntaxError::code(text, start, reason);
    }
    let word = word(line);
    for (missing, name) in [("Expected comma", "comma"), ("Expected colon", "colon")] {
        if cause.starts_with(missing) && !word.is_empty() {
            return SyntaxError::new(text, at, format!("{path}missing {name} before {}", quoted(word)));
        }
    }
    if !word.is_empty() {
        let reason = format!("{path}unexpected {} ({cause}); strings need quotes", quoted(word));
        return SyntaxError::new(text, at, reason);
    }
    let cause = cause.to_lowercase();
    match rest.chars().next() {
        Some(found) => {
            let found = if found.is_control() { found.escape_default().to_string() } else { found.into() };
            SyntaxError::new(text, at, format!("{path}{cause} before '{found}'"))
        }
        None => SyntaxError::new(text, at, format!("{path}{cause} at the end of the file")),
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or("").trim()
}

/// The expression with which a text begins: up to a comma or a bracket that belongs to what contains it.
fn first_expression(text: &str) -> &str {
    let mut depth = 0_u32;
    let end = text.find(|c: char| {
        match c {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' if depth > 0 => depth -= 1,
            ')' | ']' | '}' | ',' => return depth == 0,
            _ => {}
        }
        false
    });
    text[..end.unwrap_or(text.len())].trim_end()
}

/// The name with which a text begins.
fn word(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$')).unwrap_or(text.len());
    &text[..end]
}

fn starts_with_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_' || c == '$')
}

/// Whether a text begins with an expression rather than with a value.
fn is_code(text: &str) -> bool {
    let word = word(text);
    let after = text[word.len()..].trim_start();
    if word.is_empty() {
        return text.starts_with(|c: char| OPERATORS.contains(c));
    }
    CODE_WORDS.contains(&word) || after.starts_with(|c: char| OPERATORS.contains(c) || c == '[')
}

/// Whether the byte is within a number that was parsed in parts, such as `010` or `0b11`.
fn is_number_at(text: &str, at: usize) -> bool {
    let before = text[..at].chars().next_back();
    let here = text[at..].chars().next();
    before.is_some_and(|c| c.is_ascii_digit())
        && here.is_some_and(|c| c.is_ascii_alphanumeric() || "._".contains(c))
}

/// One open bracket.
enum Frame {
    Object(Option<String>),
    List(usize),
}

/// The key at a byte, as `nodes[1].host: `; empty if there is none.
pub(super) fn key_path(text: &str, offset: usize) -> String {
    Spot::of(text, offset).path
}

/// The context of a byte.
struct Spot {
    /// The key, as `nodes[1].host: `; empty if there is none.
    path: String,
    /// Start of the value that was partly parsed before that byte.
    value_start: Option<usize>,
}

impl Spot {
    fn of(text: &str, offset: usize) -> Spot {
        let mut frames = Frames::default();
        let Some(start) = object_start(text) else { return Spot { path: String::new(), value_start: None } };
        let mut scanner = Scanner::new(&text[start..], &ScannerOptions::default());
        while let Ok(Some(token)) = scanner.scan() {
            let token_start = start + scanner.token_start();
            if token_start >= offset {
                break;
            }
            frames.take(token, token_start);
        }
        Spot { path: frames.path(), value_start: frames.value_start }
    }
}

/// The open brackets.
#[derive(Default)]
struct Frames {
    open: Vec<Frame>,
    /// The last name that was read, which is a key if a colon follows.
    name: Option<String>,
    value_start: Option<usize>,
}

impl Frames {
    fn take(&mut self, token: Token<'_>, start: usize) {
        let is_value = matches!(self.open.last(), Some(Frame::Object(Some(_)) | Frame::List(_)));
        let is_sign = matches!(
            token,
            Token::OpenBrace
                | Token::OpenBracket
                | Token::CloseBrace
                | Token::CloseBracket
                | Token::Colon
                | Token::Comma
        );
        self.value_start = if is_sign { None } else { self.value_start.or(is_value.then_some(start)) };
        match token {
            Token::OpenBrace => self.open.push(Frame::Object(None)),
            Token::OpenBracket => self.open.push(Frame::List(0)),
            Token::CloseBrace | Token::CloseBracket => drop(self.open.pop()),
            Token::Colon => {
                if let Some(Frame::Object(key)) = self.open.last_mut() {
                    *key = self.name.take();
                }
            }
            Token::Comma => match self.open.last_mut() {
                Some(Frame::Object(key)) => *key = None,
                Some(Frame::List(index)) => *index += 1,
                None => {}
            },
            Token::String(name) => self.name = Some(name.into_owned()),
            Token::Word(name) => self.name = Some(name.to_owned()),
            _ => {}
        }
    }

    fn path(&self) -> String {
        let mut path = String::new();
        for frame in &self.open {
            match frame {
                Frame::Object(Some(key)) if path.is_empty() => path.push_str(&shown(key)),
                Frame::Object(Some(key)) => path.push_str(&format!(".{}", shown(key))),
                Frame::Object(None) => {}
                Frame::List(index) => path.push_str(&format!("[{index}]")),
            }
        }
        if path.is_empty() { path } else { format!("{path}: ") }
    }
}

/// A key as written, in quotes where it would be ambiguous.
fn shown(key: &str) -> String {
    if !key.is_empty() && word(key) == key { key.to_owned() } else { quoted(key) }
}
