//! A JavaScript object literal, as `proxy.js` takes its config: comments, single quotes, keys without quotes, trailing
//! commas, hexadecimal numbers, brackets around the whole and semicolons behind it. Nothing is run.
//!
//! `proxy.js` evaluates `config = ` followed by the file's text. In: that text. Out: a [`Json`] tree and the place of
//! everything in it, or a [`Fault`]. Next: `source.rs`, which tells the format by the keys.

use super::fault::{Fault, explain, key_path};
use super::json::Json;
use super::positions::{Lines, NoObject, Place, Places, opening, skip_blanks};
use jsonc_parser::ast::{Array, Object, Value};
use jsonc_parser::common::Range;
use jsonc_parser::tokens::Token;
use jsonc_parser::{CollectOptions, ParseOptions, Scanner, ScannerOptions, parse_to_ast};
use serde_json::Number;
use std::collections::HashMap;

/// More than any config needs, and little enough for every stack.
const DEPTH_MAX: usize = 32;

/// A file that was read.
#[derive(Debug)]
pub(super) struct Literal {
    /// Its entries, in its order, doubled keys included.
    pub(super) object: Vec<(String, Json)>,
    /// Where each of them stands.
    pub(super) places: Places,
}

/// Reads a whole file.
pub(super) fn read(text: &str) -> Result<Literal, Fault> {
    let (start, brackets) = opening(text).map_err(|none| match none {
        NoObject::UnclosedComment(at) => Fault::unclosed_comment(text, at),
        NoObject::Other(at) => Fault::of_beginning(text, at),
    })?;
    let end = start + outline(text, start)?;
    closing(text, end, brackets)?;
    let body = &text[start..end];
    let options = ParseOptions { allow_missing_commas: false, ..ParseOptions::default() };
    let tree = parse_to_ast(body, &CollectOptions::default(), &options)
        .map_err(|error| explain(text, start + error.range().start, &error.kind().to_string()))?;
    let Some(Value::Object(object)) = tree.value else {
        return Err(Fault::new(text, start, "an object is wanted here".to_owned()));
    };
    Reader { lines: Lines::new(text), start, found: HashMap::new() }.literal(&object)
}

/// The length of the object, by its brackets. What does not go together within is told by the parser.
fn outline(text: &str, start: usize) -> Result<usize, Fault> {
    let body = &text[start..];
    let mut scanner = Scanner::new(body, &ScannerOptions::default());
    let mut open: Vec<char> = Vec::new();
    loop {
        let token = scanner
            .scan()
            .map_err(|error| explain(text, start + error.range().start, &error.kind().to_string()))?;
        let token_start = start + scanner.token_start();
        match token {
            None => {
                return Err(Fault::new(text, start, "the object is not closed: a } is missing".to_owned()));
            }
            Some(Token::OpenBrace) => open.push('}'),
            Some(Token::OpenBracket) => open.push(']'),
            Some(Token::CloseBrace) => closed(text, token_start, open.pop(), '}')?,
            Some(Token::CloseBracket) => closed(text, token_start, open.pop(), ']')?,
            Some(Token::String(_)) => closed_on_its_line(text, token_start, start + scanner.token_end())?,
            Some(_) => {}
        }
        if open.len() > DEPTH_MAX {
            let reason = format!("brackets within brackets, more than {DEPTH_MAX} deep");
            return Err(Fault::new(text, token_start, reason));
        }
        if open.is_empty() {
            return Ok(scanner.token_end());
        }
    }
}

/// A bracket is to be closed by its like.
fn closed(text: &str, at: usize, wanted: Option<char>, found: char) -> Result<(), Fault> {
    match wanted {
        Some(wanted) if wanted != found => {
            let path = key_path(text, at);
            Err(Fault::new(text, at, format!("{path}a {wanted} is missing before the {found}")))
        }
        _ => Ok(()),
    }
}

/// JavaScript ends a text at its line's end, unless a backslash stands there; the scanner would read on.
fn closed_on_its_line(text: &str, start: usize, end: usize) -> Result<(), Fault> {
    let mut after_backslash = false;
    for byte in text[start..end].bytes() {
        if byte == b'\n' && !after_backslash {
            let path = key_path(text, start);
            return Err(Fault::new(
                text,
                start,
                format!("{path}the text that begins here is not closed on its line"),
            ));
        }
        after_backslash = (byte == b'\\' && !after_backslash) || (byte == b'\r' && after_backslash);
    }
    Ok(())
}

/// What may stand behind the object: its brackets, semicolons, comments.
fn closing(text: &str, end: usize, brackets: usize) -> Result<(), Fault> {
    let blanks_from = |at| skip_blanks(text, at).map_err(|at| Fault::unclosed_comment(text, at));
    let mut at = blanks_from(end)?;
    for _ in 0..brackets {
        if !text[at..].starts_with(')') {
            return Err(Fault::new(
                text,
                at,
                "a ) is missing, which was opened before the object".to_owned(),
            ));
        }
        at = blanks_from(at + 1)?;
    }
    while text[at..].starts_with(';') {
        at = blanks_from(at + 1)?;
    }
    if at == text.len() { Ok(()) } else { Err(Fault::of_rest(text, at)) }
}

/// Makes a tree of the parser's.
struct Reader<'t> {
    lines: Lines<'t>,
    /// Where the parsed part begins.
    start: usize,
    found: HashMap<Place, (usize, usize)>,
}

impl Reader<'_> {
    fn literal(mut self, root: &Object<'_>) -> Result<Literal, Fault> {
        let mut object = Vec::with_capacity(root.properties.len());
        for (top, property) in root.properties.iter().enumerate() {
            self.note([top, 0, 0], property.range);
            if let Value::Array(array) = &property.value {
                self.note_elements(top, array);
            }
            object.push((property.name.as_str().to_owned(), self.value(&property.value)?));
        }
        Ok(Literal { object, places: Places { root: self.lines.position(self.start), found: self.found } })
    }

    fn note(&mut self, place: Place, range: Range) {
        self.found.insert(place, self.lines.position(self.start + range.start));
    }

    fn note_elements(&mut self, top: usize, array: &Array<'_>) {
        for (index, element) in array.elements.iter().enumerate() {
            self.note([top, index + 1, 0], range(element));
            if let Value::Object(object) = element {
                for (position, property) in object.properties.iter().enumerate() {
                    self.note([top, index + 1, position + 1], property.range);
                }
            }
        }
    }

    fn value(&self, value: &Value<'_>) -> Result<Json, Fault> {
        Ok(match value {
            Value::NullKeyword(_) => Json::Null,
            Value::BooleanLit(flag) => Json::Flag(flag.value),
            Value::StringLit(text) => Json::Text(text.value.clone().into_owned()),
            Value::NumberLit(literal) => match number(literal.value) {
                Some(number) => Json::Number(number),
                None => {
                    let at = self.start + literal.range.start;
                    let path = key_path(self.lines.text, at);
                    let reason = format!("{path}{} is no number to go by", literal.value);
                    return Err(Fault::new(self.lines.text, at, reason));
                }
            },
            Value::Array(array) => Json::List(
                array.elements.iter().map(|element| self.value(element)).collect::<Result<_, _>>()?,
            ),
            Value::Object(object) => {
                let entries = object.properties.iter();
                let entries =
                    entries.map(|entry| Ok((entry.name.as_str().to_owned(), self.value(&entry.value)?)));
                Json::Object(entries.collect::<Result<_, Fault>>()?)
            }
        })
    }
}

fn range(value: &Value<'_>) -> Range {
    match value {
        Value::NullKeyword(null) => null.range,
        Value::BooleanLit(flag) => flag.range,
        Value::StringLit(text) => text.range,
        Value::NumberLit(number) => number.range,
        Value::Array(array) => array.range,
        Value::Object(object) => object.range,
    }
}

/// A number as JavaScript writes it; `None` for what is none or is infinite.
fn number(text: &str) -> Option<Number> {
    let (is_negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if let Some(hexadecimal) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        let whole = u64::from_str_radix(hexadecimal, 16).ok()?;
        return if is_negative { Number::from_f64(-(whole as f64)) } else { Some(whole.into()) };
    }
    if let Ok(whole) = digits.parse::<u64>() {
        match i64::try_from(whole) {
            _ if !is_negative => return Some(whole.into()),
            Ok(whole) if whole != 0 => return Some((-whole).into()),
            _ => {}
        }
    }
    let value: f64 = digits.parse().ok()?;
    Number::from_f64(if is_negative { -value } else { value })
}

#[cfg(test)]
#[path = "literal_tests.rs"]
mod tests;
