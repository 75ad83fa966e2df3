//! Errors and notices about a file, collected over the whole reading.
//!
//! In: `fields.rs` and `validate.rs` add. Out: errors in the file's order, with line and column; notices
//! without repetition. Next: `load.rs`, which makes an error or a `Loaded` of it.

use super::positions::{Place, Places};

/// Errors and notices.
#[derive(Debug, Default)]
pub(super) struct Report {
    mistakes: Vec<(Place, String)>,
    /// Text and number of repetitions.
    notices: Vec<(String, usize)>,
    /// Keys without effect, each with the reason.
    idle: Vec<(String, &'static str)>,
}

impl Report {
    /// Adds an error, as `path: value reason and allowed range`.
    pub(super) fn mistake(&mut self, place: Place, text: String) {
        self.mistakes.push((place, text));
    }

    /// Adds a notice; a repetition is only counted.
    pub(super) fn notice(&mut self, text: String) {
        match self.notices.iter_mut().find(|(known, _)| *known == text) {
            Some((_, times)) => *times += 1,
            None => self.notices.push((text, 1)),
        }
    }

    /// Adds a key without effect, with the reason; all of them are reported in one notice.
    pub(super) fn idle(&mut self, key: String, reason: &'static str) {
        if !self.idle.iter().any(|(known, _)| *known == key) {
            self.idle.push((key, reason));
        }
    }

    fn idle_notice(&self) -> Option<String> {
        let keys: Vec<String> = self.idle.iter().map(|(key, reason)| format!("{key} ({reason})")).collect();
        (!keys.is_empty()).then(|| format!("ignored: {}", keys.join(", ")))
    }

    /// The notices, or else every error in the file's order, each with its position.
    pub(super) fn finish(mut self, places: &Places) -> Result<Vec<String>, Vec<String>> {
        if self.mistakes.is_empty() {
            let idle = self.idle_notice().map(|words| (words, 1));
            let notices = self.notices.into_iter().chain(idle).map(|(text, times)| match times {
                1 => text,
                _ => format!("{text} ({times} times)"),
            });
            return Ok(notices.collect());
        }
        self.mistakes.sort_by_key(|(place, _)| *place);
        let mistakes = self.mistakes.into_iter().map(|(place, text)| {
            let (line, column) = places.find(place);
            format!("line {line}, column {column}: {text}")
        });
        Err(mistakes.collect())
    }
}
