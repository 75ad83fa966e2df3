//! Prometheus's text format 0.0.4. Pure.
//!
//! In: families with their figures. Out: text, sent by `http/`.

use crate::admin::escape;
use std::fmt::{Display, Write};

/// Type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, from 0 at the start of the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by upper bound.
    Histogram,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// A family of metrics: everything about it but its figures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetricFamily {
    /// Its name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Its meaning, one sentence or more.
    pub help: String,
}

/// The text as it grows.
pub struct Exposition {
    text: String,
    /// Every family that was requested, with or without figures; `None` if no list is kept.
    families: Option<Vec<MetricFamily>>,
}

impl Exposition {
    /// Empty.
    pub fn new() -> Exposition {
        Exposition { text: String::new(), families: None }
    }

    /// One that lists its families.
    pub fn listing() -> Exposition {
        Exposition { families: Some(Vec::new()), ..Exposition::new() }
    }

    /// A family; its head is written with its first figure. `help` is sentences without backslashes or line ends.
    pub fn family<'t>(&'t mut self, kind: Kind, name: &'t str, help: &'t str) -> Family<'t> {
        if let Some(families) = &mut self.families {
            families.push(MetricFamily { name: name.to_owned(), kind: kind.name(), help: help.to_owned() });
        }
        Family { text: &mut self.text, kind, name, help, has_head: false }
    }

    /// A family of one figure.
    pub fn one(&mut self, kind: Kind, name: &str, help: &str, value: impl Display) {
        self.family(kind, name, help).add(&[], value);
    }

    /// A family of one figure, if it is known.
    pub fn known(&mut self, kind: Kind, name: &str, help: &str, value: Option<impl Display>) {
        let mut family = self.family(kind, name, help);
        if let Some(value) = value {
            family.add(&[], value);
        }
    }

    /// The families, in their order; empty unless it was made by [`Exposition::listing`].
    pub fn into_families(self) -> Vec<MetricFamily> {
        self.families.unwrap_or_default()
    }

    /// The text.
    pub fn finish(self) -> String {
        self.text
    }
}

/// Figures of one name.
pub struct Family<'t> {
    text: &'t mut String,
    kind: Kind,
    name: &'t str,
    help: &'t str,
    has_head: bool,
}

impl Family<'_> {
    /// A figure.
    pub fn add(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.line("", labels, value);
    }

    /// A histogram's figures: `bounds` and the number of values up to each, `count` of all, and their `sum`.
    pub fn histogram(&mut self, labels: &[(&str, &str)], bounds: &[(f64, u64)], sum: f64, count: u64) {
        let mut bucket = |bound: &str, up_to: u64| {
            let labels: Vec<(&str, &str)> = labels.iter().copied().chain([("le", bound)]).collect();
            self.line("_bucket", &labels, up_to);
        };
        for (bound, up_to) in bounds {
            bucket(&bound.to_string(), *up_to);
        }
        bucket("+Inf", count);
        self.line("_sum", labels, sum);
        self.line("_count", labels, count);
    }

    fn line(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        // Writing to a String cannot fail.
        if !self.has_head {
            let _ = writeln!(self.text, "# HELP {} {}", self.name, self.help);
            let _ = writeln!(self.text, "# TYPE {} {}", self.name, self.kind.name());
            self.has_head = true;
        }
        self.text.push_str(self.name);
        self.text.push_str(suffix);
        for (index, (name, value)) in labels.iter().enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.text, "{name}=\"");
            push_label_value(self.text, value);
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

/// Control characters are escaped as everywhere else ([`escape`]), then the characters that the format requires.
fn push_label_value(text: &mut String, value: &str) {
    for character in escape(value.as_bytes()).chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            character => text.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_output_follows_the_exposition_format() {
        let mut out = Exposition::new();
        out.one(Kind::Gauge, "a", "One.", 1.5);
        let mut family = out.family(Kind::Counter, "b_total", "Two.");
        family.add(&[("x", "1"), ("y", "")], u64::MAX);
        family.add(&[("x", "2"), ("y", "z")], 0);
        out.known(Kind::Gauge, "c", "Three.", None::<u64>);
        out.family(Kind::Gauge, "d", "Four.");
        let expected = "# HELP a One.\n# TYPE a gauge\na 1.5\n\
            # HELP b_total Two.\n# TYPE b_total counter\nb_total{x=\"1\",y=\"\"} 18446744073709551615\n\
            b_total{x=\"2\",y=\"z\"} 0\n";
        assert_eq!(out.finish(), expected);
    }

    #[test]
    fn a_histogram_is_cumulative_and_ends_with_all() {
        let mut out = Exposition::new();
        out.family(Kind::Histogram, "h", "Times.").histogram(&[("k", "v")], &[(0.005, 2), (1.0, 3)], 4.25, 7);
        let expected = "# HELP h Times.\n# TYPE h histogram\nh_bucket{k=\"v\",le=\"0.005\"} 2\n\
            h_bucket{k=\"v\",le=\"1\"} 3\nh_bucket{k=\"v\",le=\"+Inf\"} 7\nh_sum{k=\"v\"} 4.25\nh_count{k=\"v\"} 7\n";
        assert_eq!(out.finish(), expected);
    }

    #[test]
    fn a_label_value_cannot_break_its_line() {
        let mut text = String::new();
        push_label_value(&mut text, "a\"b\\c\nd\u{1b}é\u{202e}");
        assert_eq!(text, "a\\\"b\\\\\\\\c\\\\x0ad\\\\x1bé\\\\xe2\\\\x80\\\\xae");
    }

    proptest! {
        #[test]
        fn any_label_value_is_read_back_as_it_is_shown(value in any::<String>()) {
            let mut text = String::new();
            push_label_value(&mut text, &value);
            prop_assert!(!text.contains('\n'));
            // As Prometheus reads it.
            let mut read = String::new();
            let mut characters = text.chars();
            while let Some(character) = characters.next() {
                prop_assert!(character != '"');
                read.push(if character == '\\' { characters.next().unwrap() } else { character });
            }
            prop_assert_eq!(read, escape(value.as_bytes()));
        }
    }
}
