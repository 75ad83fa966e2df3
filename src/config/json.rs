//! A value of a config file, with every key that was given, duplicates included.
//!
//! serde's derive stops at the first error, and serde_json's own tree forgets duplicate keys: neither could report
//! everything that is wrong with a file.

use serde_json::Number;
use std::fmt;

/// Longest quotation of a file in a message, in characters.
const SHOWN_CHARS_MAX: usize = 60;

/// One JSON value; objects keep order and duplicate keys.
#[derive(Debug)]
pub(super) enum Json {
    Null,
    Flag(bool),
    Number(Number),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// Its value as a boolean in JavaScript (ECMA-262, ToBoolean).
    pub(super) fn is_truthy(&self) -> bool {
        match self {
            Json::Null => false,
            Json::Flag(flag) => *flag,
            Json::Number(number) => number.as_f64() != Some(0.0),
            Json::Text(text) => !text.is_empty(),
            Json::List(_) | Json::Object(_) => true,
        }
    }

    /// The type, as named in errors.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Json::Null => "value",
            Json::Flag(_) => "boolean",
            Json::Number(_) => "number",
            Json::Text(_) => "string",
            Json::List(_) => "list",
            Json::Object(_) => "object",
        }
    }
}

/// For messages: short, on one line, control characters escaped.
impl fmt::Display for Json {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Json::Null => formatter.write_str("null"),
            Json::Flag(flag) => write!(formatter, "{flag}"),
            Json::Number(number) => write!(formatter, "{number}"),
            Json::Text(text) => formatter.write_str(&quoted(text)),
            Json::List(list) if list.is_empty() => formatter.write_str("[]"),
            Json::List(_) => formatter.write_str("[…]"),
            Json::Object(_) => formatter.write_str("{…}"),
        }
    }
}

/// A string from the file in quotes, with control characters escaped, truncated if long.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_short_and_on_one_line() {
        assert_eq!(quoted("a\nb\u{1b}"), r#""a\nb\u{1b}""#);
        assert_eq!(quoted(&"é".repeat(500)).chars().count(), SHOWN_CHARS_MAX + 3);
    }
}
