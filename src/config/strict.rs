//! Statsring's own configs: JSON (RFC 8259) and nothing more, so that every tool reads and writes them.
//!
//! The parser keeps the place of every value, and still accepts some extensions with all of them switched off (control
//! characters in strings, Unicode's white space): serde_json decides.
//!
//! In: a text. Out: a [`Tree`], or a [`JsonError`]. Next: `source.rs`, which detects the format by the keys.

use super::positions::position;
use super::tree::{self, Tree};
use jsonc_parser::ast::Value;
use jsonc_parser::{CollectOptions, ParseOptions, parse_to_ast};
use serde::de::IgnoredAny;

/// JSON without extensions.
const JSON: ParseOptions = ParseOptions {
    allow_comments: false,
    allow_loose_object_property_names: false,
    allow_trailing_commas: false,
    allow_missing_commas: false,
    allow_single_quoted_strings: false,
    allow_hexadecimal_numbers: false,
    allow_unary_plus_numbers: false,
    allow_bare_decimal_point_numbers: false,
    allow_non_finite_numbers: false,
    allow_extended_string_escapes: false,
};

/// Why a text is not a JSON object.
#[derive(Debug)]
pub(super) struct JsonError {
    /// Line and column, from 1.
    pub(super) at: (usize, usize),
    reason: String,
}

impl JsonError {
    fn new(text: &str, offset: usize, reason: String) -> JsonError {
        JsonError { at: position(text, offset), reason }
    }

    fn of_serde(error: &serde_json::Error) -> JsonError {
        let shown = error.to_string();
        let reason = shown.rsplit_once(" at line ").map_or(&*shown, |(reason, _)| reason);
        JsonError { at: (error.line(), error.column().max(1)), reason: with_rules(reason) }
    }

    /// For the operator: place and cause.
    pub(super) fn message(&self) -> String {
        let (line, column) = self.at;
        format!("line {line}, column {column}: {}", self.reason)
    }
}

/// Reads a whole file.
pub(super) fn read(text: &str) -> Result<Tree, JsonError> {
    let parsed = parse_to_ast(text, &CollectOptions::default(), &JSON)
        .map_err(|error| JsonError::new(text, error.range().start, reason(&error.kind().to_string())))?;
    match parsed.value {
        Some(Value::Object(object)) => {
            serde_json::from_str::<IgnoredAny>(text).map_err(|error| JsonError::of_serde(&error))?;
            tree::of_object(text, 0, &object)
                .map_err(|number| JsonError::new(text, number.at, format!("{} is out of range", number.text)))
        }
        other => {
            let start = text.len() - text.trim_start().len();
            let found = other.map_or("nothing", |value| kind(&value));
            let reason =
                format!("expected an object, {{\"nodes\": [{{\"host\": …, \"port\": …}}]}}, found {found}");
            Err(JsonError::new(text, start, reason))
        }
    }
}

/// The parser's reason, as the other messages are written; with the rules unless it states the rule itself.
fn reason(parser: &str) -> String {
    let mut letters = parser.chars();
    match parser {
        "Trailing commas are not allowed" => "trailing comma".to_owned(),
        "Text cannot contain more than one JSON value" => "unexpected text after the object".to_owned(),
        "Expected comma" => "expected a comma".to_owned(),
        "Expected colon" => "expected a colon".to_owned(),
        "Expected string for object property" => "expected a key in double quotes".to_owned(),
        _ => {
            let lower: String =
                letters.next().map(|first| first.to_lowercase().chain(letters).collect()).unwrap_or_default();
            match lower.ends_with("not allowed") {
                true => format!("{lower} in JSON"),
                false if lower.starts_with("unterminated") => lower,
                false => with_rules(&lower),
            }
        }
    }
}

fn with_rules(reason: &str) -> String {
    format!("{reason} (JSON: keys and strings in double quotes, no comments, no trailing commas)")
}

fn kind(value: &Value<'_>) -> &'static str {
    match value {
        Value::NullKeyword(_) => "null",
        Value::BooleanLit(_) => "a boolean",
        Value::NumberLit(_) => "a number",
        Value::StringLit(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::super::json::Json;
    use super::read;
    use proptest::prelude::*;
    use serde_json::Value;
    use std::collections::HashMap;

    #[test]
    fn duplicate_keys_are_kept() {
        let tree = read(r#"{"a": 1, "a": [true, null], "b": "x"}"#).unwrap();
        let keys: Vec<&str> = tree.object.iter().map(|(key, _)| key.as_str()).collect();
        assert_eq!(keys, ["a", "a", "b"]);
    }

    #[test]
    fn an_error_states_where() {
        let error = |text| read(text).unwrap_err().message();
        for (text, start) in [
            ("{\n  \"a\": 1,\n}", "line 2, column 9: trailing comma"),
            ("", "line 1, column 1: expected an object"),
            ("\n [1]", "line 2, column 2: expected an object"),
            ("{\"a\": 1e999}", "line 1, column 7: 1e999 is out of range"),
        ] {
            assert!(error(text).starts_with(start), "{}", error(text));
        }
        assert!(read(&"[".repeat(100_000)).is_err());
        assert!(read(&"{\"a\":".repeat(100_000)).is_err());
    }

    /// Whether both are the same; of duplicate keys serde_json keeps the last, and its floats are off by a little.
    fn is_same(ours: &Json, theirs: &Value) -> bool {
        match (ours, theirs) {
            (Json::Null, Value::Null) => true,
            (Json::Flag(ours), Value::Bool(theirs)) => ours == theirs,
            (Json::Text(ours), Value::String(theirs)) => ours == theirs,
            (Json::Number(ours), Value::Number(theirs)) if ours == theirs => true,
            (Json::Number(ours), Value::Number(theirs)) => {
                let (ours, theirs) = (ours.as_f64().unwrap(), theirs.as_f64().unwrap());
                (ours - theirs).abs() <= ours.abs() * 1e-14
            }
            (Json::List(ours), Value::Array(theirs)) => {
                ours.len() == theirs.len()
                    && ours.iter().zip(theirs).all(|(ours, theirs)| is_same(ours, theirs))
            }
            (Json::Object(ours), Value::Object(theirs)) => {
                let last: HashMap<&str, &Json> = ours.iter().map(|(key, value)| (&**key, value)).collect();
                last.len() == theirs.len() && theirs.iter().all(|(key, theirs)| is_same(last[&**key], theirs))
            }
            _ => false,
        }
    }

    /// Text that is JSON, nearly JSON, or JSON with the extensions that are switched off.
    fn texts() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            "[ \t\r\n]",
            "[{}\\[\\],:]",
            r#""[a-z\\u0-9é]{0,4}""#,
            "'[a-z]?'",
            "-?[0-9]{1,3}",
            r"[-+]?[0-9]*\.?[0-9]*(e[-+]?[0-9]{1,3})?",
            prop::sample::select(vec![
                "true",
                "null",
                "NaN",
                "Infinity",
                "0x1f",
                "//a\n",
                "/* */",
                "\u{feff}",
                "\u{a0}",
                "\u{c}",
                "\"a\": 1",
                "\"b\": []",
                ",",
                "\"c\": -0",
                "\"d\": 01",
                "\"e\": 9007199254740993",
                "\"\n\"",
            ])
            .prop_map(str::to_owned),
        ];
        prop::collection::vec(piece, 0..8).prop_map(|pieces| format!("{{{}}}", pieces.concat()))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        /// serde_json is the oracle: it accepts the same texts, with the same values.
        #[test]
        fn what_is_json_is_what_serde_json_accepts(text in texts()) {
            match (read(&text), serde_json::from_str::<Value>(&text)) {
                (Ok(tree), Ok(theirs)) => prop_assert!(is_same(&Json::Object(tree.object), &theirs)),
                (Err(_), Err(_)) => {}
                (ours, theirs) => prop_assert!(false, "{:?} but {:?}", ours, theirs),
            }
        }
    }
}
