//! Positions in the text of a config: bytes, lines and columns, and the place of each key and value.

use std::collections::HashMap;

/// Where in the file something is: the top-level key, the node, the node's key, each by its position.
pub(super) type Place = [usize; 3];

/// After everything in its object: for keys that are missing.
pub(super) const PLACE_END: usize = usize::MAX;

/// Lines and columns of what a report names.
#[derive(Debug)]
pub(super) struct Places {
    /// Where the object begins.
    pub(super) root: (usize, usize),
    pub(super) found: HashMap<Place, (usize, usize)>,
}

impl Places {
    /// Line and column, from 1; a missing key is reported at the beginning of its object.
    pub(super) fn find(&self, place: Place) -> (usize, usize) {
        let [top, node, _] = place;
        let of_its_object = || self.found.get(&[top, node, 0]);
        *self.found.get(&place).or_else(of_its_object).unwrap_or(&self.root)
    }
}

/// Line and column of a byte, from 1.
pub(super) fn position(text: &str, offset: usize) -> (usize, usize) {
    Lines::new(text).position(offset)
}

/// A text and where each of its lines begins, in bytes.
pub(super) struct Lines<'t> {
    pub(super) text: &'t str,
    starts: Vec<usize>,
}

impl<'t> Lines<'t> {
    pub(super) fn new(text: &'t str) -> Lines<'t> {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect();
        Lines { text, starts }
    }

    pub(super) fn position(&self, offset: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= offset);
        let start = self.starts[line - 1];
        (line, self.text.get(start..offset).map_or(0, |before| before.chars().count()) + 1)
    }
}

/// Why a text does not begin with an object, and at which byte.
pub(super) enum NoObject {
    /// A comment before it is not closed.
    UnclosedComment(usize),
    /// Something else is there.
    Other(usize),
}

/// Where the object begins, and the number of round brackets before it.
pub(super) fn opening(text: &str) -> Result<(usize, usize), NoObject> {
    let blanks_from = |at| skip_blanks(text, at).map_err(NoObject::UnclosedComment);
    let mut at = blanks_from(0)?;
    let mut brackets = 0;
    while text[at..].starts_with('(') {
        brackets += 1;
        at = blanks_from(at + 1)?;
    }
    if text[at..].starts_with('{') { Ok((at, brackets)) } else { Err(NoObject::Other(at)) }
}

/// Where the object begins, if there is one.
pub(super) fn object_start(text: &str) -> Option<usize> {
    opening(text).ok().map(|(start, _)| start)
}

/// The next byte from `at` on that is neither white space nor in a comment.
///
/// # Errors
/// Where a comment begins that is not closed.
pub(super) fn skip_blanks(text: &str, mut at: usize) -> Result<usize, usize> {
    loop {
        let rest = &text[at..];
        let blank = rest.trim_start_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
        at += rest.len() - blank.len();
        if blank.starts_with("//") {
            at += blank.find(['\n', '\r']).unwrap_or(blank.len());
        } else if let Some(comment) = blank.strip_prefix("/*") {
            at += comment.find("*/").ok_or(at)? + 4;
        } else {
            return Ok(at);
        }
    }
}
