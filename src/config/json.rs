//! JSON as it stands in the file, with every key that was given, twice ones included.
//!
//! serde's derive stops at the first mistake, and serde_json's own tree forgets doubled keys: neither can tell an
//! operator everything that is wrong with a file. In: text. Out: a [`Json`] tree. Next: `source.rs`, which tells the format.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;
use std::fmt;

/// Longest piece of a file that a message repeats, in characters.
const SHOWN_CHARS_MAX: usize = 60;

/// One JSON value; objects keep order and doubled keys.
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
    /// Reads a whole file.
    pub(super) fn read(text: &str) -> Result<Json, JsonFault> {
        serde_json::from_str(text).map_err(|error| {
            let shown = error.to_string();
            let cause = shown.rsplit_once(" at line ").map_or(shown.as_str(), |(cause, _)| cause);
            JsonFault { line: error.line(), column: error.column(), cause: cause.to_owned() }
        })
    }

    /// What JavaScript takes it for where it wants a truth value.
    pub(super) fn is_truthy(&self) -> bool {
        match self {
            Json::Null => false,
            Json::Flag(flag) => *flag,
            Json::Number(number) => number.as_f64() != Some(0.0),
            Json::Text(text) => !text.is_empty(),
            Json::List(_) | Json::Object(_) => true,
        }
    }

    /// What it is, in words that follow "is".
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Json::Null => "nothing",
            Json::Flag(_) => "a truth value",
            Json::Number(_) => "a number",
            Json::Text(_) => "a text",
            Json::List(_) => "a list",
            Json::Object(_) => "an object",
        }
    }
}

/// Why a text is no JSON.
#[derive(Debug)]
pub(super) struct JsonFault {
    pub(super) line: usize,
    pub(super) column: usize,
    cause: String,
}

impl JsonFault {
    /// For the operator: place and cause.
    pub(super) fn words(&self) -> String {
        format!(
            "line {}, column {}: {} (JSON has keys and texts in double quotes, no comments, and no comma before a \
             closing bracket)",
            self.line, self.column, self.cause
        )
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

/// A text from the file in quotes, control characters escaped, long ones cut.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Json, D::Error> {
        deserializer.deserialize_any(JsonVisitor)
    }
}

struct JsonVisitor;

impl<'de> Visitor<'de> for JsonVisitor {
    type Value = Json;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Json, E> {
        Ok(Json::Flag(flag))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json, E> {
        Ok(Json::Number(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json, E> {
        // JSON has no infinities; the parser has refused numbers beyond f64.
        Ok(Number::from_f64(number).map_or(Json::Null, Json::Number))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json, E> {
        Ok(Json::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = seq.next_element()? {
            list.push(value);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Json::Object(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubled_keys_are_kept() {
        let Ok(Json::Object(entries)) = Json::read(r#"{"a": 1, "a": [true, null], "b": "x"}"#) else {
            panic!("it is an object");
        };
        let keys: Vec<&str> = entries.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["a", "a", "b"]);
    }

    #[test]
    fn a_syntax_error_says_where() {
        let error = Json::read("{\n  \"a\": 1,\n}").unwrap_err().words();
        assert!(error.starts_with("line 3, column 1: trailing comma"), "{error}");
        let error = Json::read("").unwrap_err().words();
        assert!(error.starts_with("line 1, column 0: EOF"), "{error}");
        assert!(Json::read(&"[".repeat(100_000)).is_err());
    }

    #[test]
    fn what_is_shown_is_short_and_on_one_line() {
        assert_eq!(quoted("a\nb\u{1b}"), r#""a\nb\u{1b}""#);
        assert_eq!(quoted(&"é".repeat(500)).chars().count(), SHOWN_CHARS_MAX + 3);
    }
}
