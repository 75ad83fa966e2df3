//! A parsed file as a tree of values, each with its place in the text.
//!
//! In: the parser's tree, of JSON or of a JavaScript object literal. Out: a [`Tree`]. Next: `source.rs`.

use super::json::Json;
use super::positions::{Lines, Place, Places};
use jsonc_parser::ast::{Array, Object, Value};
use jsonc_parser::common::Range;
use serde_json::Number;
use std::collections::HashMap;

/// A file that was read.
#[derive(Debug)]
pub(super) struct Tree {
    /// Its entries, in its order, doubled keys included.
    pub(super) object: Vec<(String, Json)>,
    /// The position of each of them.
    pub(super) places: Places,
}

/// A number that cannot be represented: at which byte, and its text.
#[derive(Debug)]
pub(super) struct BadNumber {
    pub(super) at: usize,
    pub(super) text: String,
}

/// Converts an object of `text`, whose parsed part began at byte `start`.
pub(super) fn of_object(text: &str, start: usize, object: &Object<'_>) -> Result<Tree, BadNumber> {
    Reader { lines: Lines::new(text), start, found: HashMap::new() }.tree(object)
}

/// Makes a tree of the parser's.
struct Reader<'t> {
    lines: Lines<'t>,
    /// Where the parsed part begins.
    start: usize,
    found: HashMap<Place, (usize, usize)>,
}

impl Reader<'_> {
    fn tree(mut self, root: &Object<'_>) -> Result<Tree, BadNumber> {
        let mut object = Vec::with_capacity(root.properties.len());
        for (top, property) in root.properties.iter().enumerate() {
            self.note([top, 0, 0], property.range);
            if let Value::Array(array) = &property.value {
                self.note_elements(top, array);
            }
            object.push((property.name.as_str().to_owned(), self.value(&property.value)?));
        }
        Ok(Tree { object, places: Places { root: self.lines.position(self.start), found: self.found } })
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

    fn value(&self, value: &Value<'_>) -> Result<Json, BadNumber> {
        Ok(match value {
            Value::NullKeyword(_) => Json::Null,
            Value::BooleanLit(flag) => Json::Flag(flag.value),
            Value::StringLit(text) => Json::Text(text.value.clone().into_owned()),
            Value::NumberLit(literal) => match number(literal.value) {
                Some(number) => Json::Number(number),
                None => {
                    let (at, text) = (self.start + literal.range.start, literal.value.to_owned());
                    return Err(BadNumber { at, text });
                }
            },
            Value::Array(array) => Json::List(
                array.elements.iter().map(|element| self.value(element)).collect::<Result<_, _>>()?,
            ),
            Value::Object(object) => {
                let entries = object.properties.iter();
                let entries =
                    entries.map(|entry| Ok((entry.name.as_str().to_owned(), self.value(&entry.value)?)));
                Json::Object(entries.collect::<Result<_, BadNumber>>()?)
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
