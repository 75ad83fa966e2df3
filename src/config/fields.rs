//! One JSON object, read key by key: each value is returned in its type and range, or reported as an error.
//!
//! In: a [`Json`] object and the keys it may have. Out: [`Field`]s. Next: `raw.rs`, which names them.

use super::json::{Json, quoted};
use super::keys::{Kind, Known, Range};
use super::positions::{PLACE_END, Place};
use super::report::Report;
use serde_json::Number;

/// Longest key for which the nearest known one is looked for.
const SUGGESTED_BYTES_MAX: usize = 64;
/// Most keys that a message lists.
const LISTED_KEYS_MAX: usize = 8;
/// The rules by which an object is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Statsring's: an unknown key is an error, a known one may differ in letter case.
    Statsring,
    /// JavaScript's, as in `proxy.js`: the last of two equal keys applies, an unknown key is ignored (one that
    /// is nearly a known one is still an error), a number may be a string.
    ProxyJs,
}

/// Result of reading a key.
#[derive(Debug)]
pub(super) enum Field<T> {
    /// Missing, or null.
    Absent,
    /// Invalid, which has been reported.
    Wrong,
    /// Its place and value.
    Given(Place, T),
}

impl<T> Field<T> {
    /// The value; `default` if it is missing or invalid (the file is refused then anyway).
    pub(super) fn or(self, default: T) -> T {
        match self {
            Field::Given(_, value) => value,
            Field::Absent | Field::Wrong => default,
        }
    }

    /// Whether the file has it, rather than the format implying it.
    pub(super) fn is_in_file(&self) -> bool {
        match self {
            Field::Given(place, _) => place[0] != PLACE_END,
            Field::Wrong => true,
            Field::Absent => false,
        }
    }

    /// Whether it was invalid: checks that depend on it are skipped.
    pub(super) fn is_wrong(&self) -> bool {
        matches!(self, Field::Wrong)
    }
}

/// An object's values by key, while they are being read.
pub(super) struct Fields<'a> {
    pub(super) dialect: Dialect,
    /// `nodes[3].`, or empty for the file itself.
    prefix: String,
    known: Known,
    entries: Vec<(Place, &'static str, Json)>,
    pub(super) report: &'a mut Report,
}

impl<'a> Fields<'a> {
    /// Sorts an object's entries by the keys in `known`; errors are reported.
    ///
    /// `place` gives the place of the entry with a position.
    pub(super) fn new(
        dialect: Dialect,
        prefix: String,
        object: Vec<(String, Json)>,
        known: Known,
        place: impl Fn(usize) -> Place,
        report: &'a mut Report,
    ) -> Fields<'a> {
        let mut fields = Fields { dialect, prefix, known, entries: Vec::with_capacity(object.len()), report };
        let known = &*known.names();
        let mut first_spellings: Vec<String> = Vec::new();
        for (position, (given, value)) in object.into_iter().enumerate() {
            let place = place(position);
            let is_known = |key: &&&str| match dialect {
                Dialect::Statsring => key.eq_ignore_ascii_case(&given),
                Dialect::ProxyJs => **key == given,
            };
            let Some(key) = known.iter().find(is_known) else {
                fields.unknown(place, &given, known);
                continue;
            };
            if let Some(first) = fields.entries.iter().position(|(_, other, _)| other == key) {
                fields.doubled(place, &given, &first_spellings[first], first, value);
                continue;
            }
            if *key != given {
                let parent = fields.parent();
                fields.report.notice(format!("{parent}{given} is read as {key}; write {key}"));
            }
            fields.entries.push((place, key, value));
            first_spellings.push(given);
        }
        fields
    }

    /// The object's path without the index of a node.
    fn parent(&self) -> &'static str {
        if self.prefix.is_empty() { "" } else { "nodes[]." }
    }

    fn unknown(&mut self, place: Place, given: &str, known: &[&'static str]) {
        let key = shown_key(given);
        if self.dialect == Dialect::ProxyJs && nearest(given, known).is_none() {
            let key = format!("{}{key}", self.parent());
            return self.report.idle(key, "unknown, also to proxy.js");
        }
        self.report.mistake(place, format!("{}{key}: unknown key{}", self.prefix, hint(given, known)));
    }

    fn doubled(&mut self, place: Place, given: &str, spelling: &str, first: usize, value: Json) {
        if self.dialect == Dialect::ProxyJs {
            self.entries[first].0 = place;
            self.entries[first].2 = value;
            let text = format!("{}{given}: given twice; the last value applies, as in proxy.js", self.prefix);
            return self.report.notice(text);
        }
        let first = if spelling == given { String::new() } else { format!(" (first as {spelling})") };
        self.report.mistake(place, format!("{}{given}: given twice{first}; remove one", self.prefix));
    }

    /// Treats falsy values (JavaScript's `||`) as missing.
    pub(super) fn drop_falsy(&mut self, keys: &[&str]) {
        for (_, key, value) in &mut self.entries {
            if keys.contains(key) && !value.is_truthy() {
                *value = Json::Null;
            }
        }
    }

    /// The place of `key`, if it is present and not null.
    pub(super) fn place(&self, key: &str) -> Option<Place> {
        let is_it = |(_, known, value): &&(Place, &str, Json)| *known == key && !matches!(value, Json::Null);
        self.entries.iter().find(is_it).map(|(place, ..)| *place)
    }

    /// The place and value of `key`; `None` if it is missing or null.
    pub(super) fn take(&mut self, key: &'static str) -> Option<(Place, Json)> {
        let position = self.entries.iter().position(|(_, known, _)| *known == key)?;
        let (place, value) = (self.entries[position].0, &mut self.entries[position].2);
        match std::mem::replace(value, Json::Null) {
            Json::Null => None,
            value => Some((place, value)),
        }
    }

    /// Reports an error at `key`.
    pub(super) fn wrong<T>(&mut self, place: Place, key: &str, text: String) -> Field<T> {
        self.report.mistake(place, format!("{}{key}: {text}", self.prefix));
        Field::Wrong
    }

    fn wrong_kind<T>(&mut self, place: Place, key: &str, value: &Json, wanted: &str) -> Field<T> {
        self.wrong(place, key, format!("expected {wanted}, found the {} {value}", value.kind()))
    }

    /// A string.
    pub(super) fn text(&mut self, key: &'static str) -> Field<String> {
        match self.take(key) {
            None => Field::Absent,
            Some((place, Json::Text(text))) => Field::Given(place, text),
            Some((place, value)) => self.wrong_kind(place, key, &value, "a string"),
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&mut self, key: &'static str) -> Field<bool> {
        match self.take(key) {
            None => Field::Absent,
            Some((place, Json::Flag(flag))) => Field::Given(place, flag),
            Some((place, value)) => self.wrong_kind(place, key, &value, "true or false"),
        }
    }

    /// One of several strings, each with its meaning.
    pub(super) fn one_of<T: Copy>(&mut self, key: &'static str, names: &[(&'static str, T)]) -> Field<T> {
        debug_assert!(
            matches!(self.known.kind(key), Some(Kind::OneOf { names: known })
                if known.iter().eq(names.iter().map(|(word, _)| word))),
            "{key}: the words read differ from the table"
        );
        let wanted = || {
            let names: Vec<String> = names.iter().map(|(word, _)| format!("{word:?}")).collect();
            match names.split_last() {
                Some((last, [])) => last.clone(),
                Some((last, others)) => format!("{} or {last}", others.join(", ")),
                None => String::new(),
            }
        };
        match self.take(key) {
            None => Field::Absent,
            Some((place, Json::Text(text))) => match names.iter().find(|(word, _)| *word == text) {
                Some((_, meaning)) => Field::Given(place, *meaning),
                None => self.wrong(place, key, format!("expected {}, found {}", wanted(), quoted(&text))),
            },
            Some((place, value)) => self.wrong_kind(place, key, &value, &wanted()),
        }
    }

    /// A whole number.
    pub(super) fn whole(&mut self, key: &'static str) -> Field<u64> {
        match self.take(key) {
            None => Field::Absent,
            Some((place, value)) => {
                let range = self.range(key);
                self.whole_of(place, key, &value, range, "")
            }
        }
    }

    /// A whole number, or `"auto"` as `None`.
    pub(super) fn whole_or_auto(&mut self, key: &'static str) -> Field<Option<u64>> {
        match self.take(key) {
            None => Field::Absent,
            Some((place, Json::Text(text))) if text == "auto" => Field::Given(place, None),
            Some((place, value)) => match self.whole_of(place, key, &value, self.range(key), ", or \"auto\"")
            {
                Field::Given(place, number) => Field::Given(place, Some(number)),
                Field::Absent => Field::Absent,
                Field::Wrong => Field::Wrong,
            },
        }
    }

    /// The range of a key, or of the elements of its list.
    fn range(&self, key: &str) -> Range {
        match self.known.kind(key) {
            Some(Kind::Whole { range } | Kind::WholeOrAuto { range } | Kind::Cpus { range }) => range,
            kind => Range { max: unlike_its_table(key, kind), ..Range::ANY },
        }
    }

    /// A list of whole numbers; `None` if any is wrong, which has been reported.
    pub(super) fn whole_list(&mut self, place: Place, key: &str, list: &[Json]) -> Option<Vec<usize>> {
        let range = self.range(key);
        let numbers = list.iter().enumerate().map(|(index, value)| {
            match self.whole_of(place, &format!("{key}[{index}]"), value, range, "") {
                Field::Given(_, number) => Some(number as usize),
                Field::Absent | Field::Wrong => None,
            }
        });
        // All of them are validated, also after an invalid one.
        let numbers: Vec<Option<usize>> = numbers.collect();
        numbers.into_iter().collect()
    }

    fn whole_of(&mut self, place: Place, key: &str, value: &Json, range: Range, or: &str) -> Field<u64> {
        let allowed = format!("({}{or})", range.shown());
        let of_text;
        let value = match value {
            Json::Text(text) if self.dialect == Dialect::ProxyJs => match digits(text) {
                Some(number) => {
                    of_text = Json::Number(number.into());
                    &of_text
                }
                None => value,
            },
            value => value,
        };
        let Json::Number(number) = value else {
            return self.wrong_kind(place, key, value, &format!("a number {allowed}"));
        };
        match whole_number(number) {
            Some(whole) if (range.min..=range.max).contains(&whole) => Field::Given(place, whole),
            None if number.as_f64().is_some_and(|number| number.fract() != 0.0) => {
                self.wrong(place, key, format!("expected a whole number {allowed}, found {number}"))
            }
            _ => self.wrong(place, key, format!("{number} is not {} {allowed}", range.noun)),
        }
    }

    /// Milliseconds, fractions allowed, as microseconds.
    pub(super) fn ms_as_us(&mut self, key: &'static str) -> Field<u64> {
        let ms_max = match self.known.kind(key) {
            Some(Kind::Milliseconds { max }) => max,
            kind => unlike_its_table(key, kind),
        };
        let allowed = format!("(0 to {ms_max} ms, fractions allowed)");
        match self.take(key) {
            None => Field::Absent,
            Some((place, Json::Number(number))) => {
                let ms = number.as_f64().unwrap_or(f64::INFINITY);
                if (0.0..=ms_max as f64).contains(&ms) {
                    return Field::Given(place, (ms * 1_000.0).round() as u64);
                }
                self.wrong(place, key, format!("{number} is not in range {allowed}"))
            }
            Some((place, value)) => self.wrong_kind(place, key, &value, &format!("a number {allowed}")),
        }
    }

    /// Keys that were not read; none unless the list of known keys and its reader differ.
    #[cfg(test)]
    pub(super) fn left(&self) -> Vec<&'static str> {
        self.entries
            .iter()
            .filter(|(_, _, value)| !matches!(value, Json::Null))
            .map(|(_, key, _)| *key)
            .collect()
    }
}

/// A key that is read with another type than in the table has no limit; the tests, which read every key, fail here.
fn unlike_its_table(key: &str, kind: Option<Kind>) -> u64 {
    debug_assert!(false, "{key} is read as a number, and is {kind:?}");
    u64::MAX
}

/// A string of digits as a number, as Node accepts it for a port. One with a leading 0 would be another identity.
fn digits(text: &str) -> Option<u64> {
    let is_plain = text == "0" || !text.starts_with('0');
    (is_plain && !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()))
        .then(|| text.parse().ok())?
}

/// The number as one without fraction and sign; `8125.0` is one, too.
fn whole_number(number: &Number) -> Option<u64> {
    /// The largest integer up to which f64 is exact.
    const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
    number.as_u64().or_else(|| {
        number
            .as_f64()
            .filter(|number| number.fract() == 0.0 && (0.0..=EXACT_MAX).contains(number))
            .map(|number| number as u64)
    })
}

/// A key as written, in quotes where it would be ambiguous.
fn shown_key(key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    if !key.is_empty() && key.len() <= SUGGESTED_BYTES_MAX && key.chars().all(plain) {
        key.to_owned()
    } else {
        quoted(key)
    }
}

/// The nearest known key; else all of a node, or where those of the file are listed.
fn hint(given: &str, known: &[&'static str]) -> String {
    match nearest(given, known) {
        Some(key) => format!("; did you mean {key}?"),
        None if known.len() <= LISTED_KEYS_MAX => format!(" (known: {})", known.join(", ")),
        None => "; statsring(8) lists all keys".to_owned(),
    }
}

/// The string in `known` closest to the misspelling `given`.
pub(super) fn nearest<'k>(given: &str, known: &[&'k str]) -> Option<&'k str> {
    if given.len() > SUGGESTED_BYTES_MAX {
        return None;
    }
    let lower = given.to_ascii_lowercase();
    let distance = |key: &str| strsim::damerau_levenshtein(&lower, &key.to_ascii_lowercase());
    // Up to a third of the letters may differ; beyond that it is not a misspelling.
    let allowed = (given.chars().count() / 3).max(1);
    let (distance, key) =
        known.iter().map(|key| (distance(key), *key)).min_by_key(|(distance, _)| *distance)?;
    (distance <= allowed).then_some(key)
}
