//! A JavaScript object literal, as accepted by `proxy.js`: comments, single quotes, unquoted keys, trailing
//! commas, hexadecimal numbers, parentheses around the whole and semicolons after it. Nothing is evaluated.
//!
//! `proxy.js` evaluates `config = ` followed by the file's text. In: that text. Out: a [`Json`] tree and the place of
//! everything in it, or a [`SyntaxError`]. Next: `source.rs`, which detects the format from the keys.

use super::positions::{NoObject, opening, skip_blanks};
use super::syntax_error::{SyntaxError, explain, key_path};
use super::tree::{self, BadNumber, Tree};
use jsonc_parser::ast::Value;
use jsonc_parser::tokens::Token;
use jsonc_parser::{CollectOptions, ParseOptions, Scanner, ScannerOptions, parse_to_ast};

/// More than any config needs, and little enough for every stack.
const DEPTH_MAX: usize = 32;

/// Reads a whole file.
pub(super) fn read(text: &str) -> Result<Tree, SyntaxError> {
    let (start, brackets) = opening(text).map_err(|none| match none {
        NoObject::UnclosedComment(at) => SyntaxError::unclosed_comment(text, at),
        NoObject::Other(at) => SyntaxError::of_beginning(text, at),
    })?;
    let end = start + outline(text, start)?;
    closing(text, end, brackets)?;
    let body = &text[start..end];
    let options = ParseOptions { allow_missing_commas: false, ..ParseOptions::default() };
    let tree = parse_to_ast(body, &CollectOptions::default(), &options)
        .map_err(|error| explain(text, start + error.range().start, &error.kind().to_string()))?;
    let Some(Value::Object(object)) = tree.value else {
        return Err(SyntaxError::new(text, start, "expected an object".to_owned()));
    };
    tree::of_object(text, start, &object).map_err(|BadNumber { at, text: number }| {
        SyntaxError::new(text, at, format!("{}{number} is not a finite number", key_path(text, at)))
    })
}

/// The length of the object, by its brackets. Errors within are reported by the parser.
fn outline(text: &str, start: usize) -> Result<usize, SyntaxError> {
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
                return Err(SyntaxError::new(text, start, "unclosed object: missing }".to_owned()));
            }
            Some(Token::OpenBrace) => open.push('}'),
            Some(Token::OpenBracket) => open.push(']'),
            Some(Token::CloseBrace) => closed(text, token_start, open.pop(), '}')?,
            Some(Token::CloseBracket) => closed(text, token_start, open.pop(), ']')?,
            Some(Token::String(_)) => closed_on_its_line(text, token_start, start + scanner.token_end())?,
            Some(_) => {}
        }
        if open.len() > DEPTH_MAX {
            let reason = format!("nesting is more than {DEPTH_MAX} deep");
            return Err(SyntaxError::new(text, token_start, reason));
        }
        if open.is_empty() {
            return Ok(scanner.token_end());
        }
    }
}

/// Checks that brackets match.
fn closed(text: &str, at: usize, wanted: Option<char>, found: char) -> Result<(), SyntaxError> {
    match wanted {
        Some(wanted) if wanted != found => {
            let path = key_path(text, at);
            Err(SyntaxError::new(text, at, format!("{path}missing {wanted} before the {found}")))
        }
        _ => Ok(()),
    }
}

/// In JavaScript a string ends at the end of the line unless escaped by a backslash; the scanner would continue.
fn closed_on_its_line(text: &str, start: usize, end: usize) -> Result<(), SyntaxError> {
    let mut after_backslash = false;
    for byte in text[start..end].bytes() {
        if byte == b'\n' && !after_backslash {
            let path = key_path(text, start);
            return Err(SyntaxError::new(text, start, format!("{path}unterminated string")));
        }
        after_backslash = (byte == b'\\' && !after_backslash) || (byte == b'\r' && after_backslash);
    }
    Ok(())
}

/// Permitted after the object: parentheses, semicolons, comments.
fn closing(text: &str, end: usize, brackets: usize) -> Result<(), SyntaxError> {
    let blanks_from = |at| skip_blanks(text, at).map_err(|at| SyntaxError::unclosed_comment(text, at));
    let mut at = blanks_from(end)?;
    for _ in 0..brackets {
        if !text[at..].starts_with(')') {
            return Err(SyntaxError::new(text, at, "missing ) for the ( before the object".to_owned()));
        }
        at = blanks_from(at + 1)?;
    }
    while text[at..].starts_with(';') {
        at = blanks_from(at + 1)?;
    }
    if at == text.len() { Ok(()) } else { Err(SyntaxError::of_rest(text, at)) }
}

#[cfg(test)]
#[path = "literal_tests.rs"]
mod tests;
