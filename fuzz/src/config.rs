//! Config files in both formats: any text is a valid config or a list of errors, and the effective config parses to itself.
//!
//! Files whose listening host is a name are skipped: a fuzzer must not send DNS queries.

use jsonc_parser::tokens::Token;
use jsonc_parser::{Scanner, ScannerOptions};
use statsring::config::{ConfigError, MemoryBound, parse};
use statsring::driver::Engine;
use std::net::IpAddr;

/// Parses any input as a file.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if asks_the_resolver(text) {
        return;
    }
    match parse(text) {
        Ok(loaded) => {
            let shown = loaded.config.to_json().to_string();
            let again = parse(&shown).expect("the effective config is valid");
            assert_eq!(again.config, loaded.config, "the effective config differs: {shown}");
            assert!(loaded.notices.iter().all(|notice| is_one_line(notice)), "{:?}", loaded.notices);
            assert!(is_one_line(&loaded.summary) && loaded.listing.starts_with('\n'));
            assert!(loaded.listing.lines().skip(1).all(|line| is_one_line(line) || line.is_empty()));
            for engine in [Engine::IoUring, Engine::Portable] {
                assert!(!MemoryBound::new(&loaded.config, engine).to_string().is_empty());
            }
        }
        Err(ConfigError::Invalid { mistakes, .. }) => {
            assert!(!mistakes.is_empty());
            assert!(mistakes.iter().all(|mistake| is_one_line(mistake)), "{mistakes:?}");
        }
        Err(error @ ConfigError::Unreadable { .. }) => panic!("unexpected error, no file is read: {error}"),
    }
}

/// Whether a message is safe for a terminal and a log.
fn is_one_line(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control)
}

/// Whether a listening host in this file may be a name, in either format: a string value of a key that contains these words.
/// Unknown tokens are skipped.
fn asks_the_resolver(text: &str) -> bool {
    let (mut depth, mut key, mut name) = (0i64, String::new(), String::new());
    let mut rest = text;
    while !rest.is_empty() {
        let mut scanner = Scanner::new(rest, &ScannerOptions::default());
        loop {
            match scanner.scan() {
                Ok(None) => return false,
                Err(_) => break,
                Ok(Some(Token::OpenBrace | Token::OpenBracket)) => depth += 1,
                Ok(Some(Token::CloseBrace | Token::CloseBracket)) => depth -= 1,
                Ok(Some(Token::Comma)) => key.clear(),
                Ok(Some(Token::Colon)) => key = std::mem::take(&mut name).to_lowercase(),
                Ok(Some(Token::String(value))) => {
                    let is_host = key.contains("host") || key.contains("address");
                    if depth <= 1 && is_host && !is_known(&value) {
                        return true;
                    }
                    name = value.into_owned();
                }
                Ok(Some(Token::Word(word))) => name = word.to_owned(),
                Ok(Some(_)) => {}
            }
        }
        let mut passed = scanner.token_end().max(scanner.token_start() + 1).min(rest.len());
        while !rest.is_char_boundary(passed) {
            passed += 1;
        }
        rest = &rest[passed..];
    }
    false
}

fn is_known(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_refused = host.bytes().any(|byte| !byte.is_ascii_alphanumeric() && !b"-_.".contains(&byte));
    host.is_empty() || host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok() || is_refused
}
