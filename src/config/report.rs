//! What is wrong or worth saying about a file, gathered over one whole reading.
//!
//! In: `fields.rs` and `prove.rs` add. Out: mistakes in the file's order, notices without repetition.
//! Next: `mod.rs`, which makes an error or a `Loaded` of it.

/// Where in the file something stands: the top-level key, the node, the node's key, each by its position.
pub(super) type Place = [usize; 3];

/// Stands behind everything in its object: for keys that are missing.
pub(super) const PLACE_END: usize = usize::MAX;

/// Mistakes and notices.
#[derive(Debug, Default)]
pub(super) struct Report {
    mistakes: Vec<(Place, String)>,
    /// Text and how often it was said.
    notices: Vec<(String, usize)>,
}

impl Report {
    /// Adds a mistake, as `path: value reason and allowed range`.
    pub(super) fn mistake(&mut self, place: Place, text: String) {
        self.mistakes.push((place, text));
    }

    /// Adds a notice; the same one again is only counted.
    pub(super) fn notice(&mut self, text: String) {
        match self.notices.iter_mut().find(|(known, _)| *known == text) {
            Some((_, times)) => *times += 1,
            None => self.notices.push((text, 1)),
        }
    }

    /// The notices, or else every mistake in the file's order.
    pub(super) fn finish(mut self) -> Result<Vec<String>, Vec<String>> {
        if self.mistakes.is_empty() {
            let notices = self.notices.into_iter().map(|(text, times)| match times {
                1 => text,
                _ => format!("{text} ({times} times)"),
            });
            return Ok(notices.collect());
        }
        self.mistakes.sort_by_key(|(place, _)| *place);
        Err(self.mistakes.into_iter().map(|(_, text)| text).collect())
    }
}
