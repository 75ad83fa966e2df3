//! Escapes names for display: the sender of a metric must not control a terminal, a log or a page by its name.
//!
//! In: bytes from the network or a file. Out: text without control characters. Used wherever a name is shown.

use std::fmt::Write;

/// `bytes` as text that is safe to display and unambiguous.
///
/// Valid UTF-8 stays as it is, but for control characters (those that reorder text included), which become `\xNN`
/// byte by byte, as invalid bytes do; a backslash is doubled.
pub fn escape(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '\\' => text.push_str("\\\\"),
                _ if is_control(character) => {
                    push_hex(&mut text, character.encode_utf8(&mut [0; 4]).as_bytes())
                }
                _ => text.push(character),
            }
        }
        push_hex(&mut text, chunk.invalid());
    }
    text
}

/// C0, DEL and C1; the line and paragraph separators; and the marks that turn the direction of what follows, with
/// which a name could be shown as another one.
fn is_control(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn push_hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        // Writing to a String cannot fail.
        let _ = write!(text, "\\x{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_harmless_stays() {
        assert_eq!(escape(b"api.requests:1|c|#env:prod"), "api.requests:1|c|#env:prod");
        assert_eq!(escape("größe.日本".as_bytes()), "größe.日本");
        assert_eq!(escape(b""), "");
    }

    #[test]
    fn what_could_do_harm_is_shown_as_bytes() {
        assert_eq!(escape(b"\x1b[2Ja\tb\r\n\x00\x7f"), "\\x1b[2Ja\\x09b\\x0d\\x0a\\x00\\x7f");
        assert_eq!(escape(b"a\\x41"), "a\\\\x41");
        assert_eq!(escape(b"\xff\xc3(\xe2\x82"), "\\xff\\xc3(\\xe2\\x82");
        assert_eq!(escape("\u{9b}31m \u{202e}txt".as_bytes()), "\\xc2\\x9b31m \\xe2\\x80\\xaetxt");
    }

    fn unescape(text: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut rest = text.as_bytes();
        while let Some((&first, tail)) = rest.split_first() {
            match (first, tail) {
                (b'\\', [b'\\', tail @ ..]) => {
                    bytes.push(b'\\');
                    rest = tail;
                }
                (b'\\', [b'x', high, low, tail @ ..]) => {
                    let digits = [*high, *low];
                    bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).unwrap(), 16).unwrap());
                    rest = tail;
                }
                _ => {
                    bytes.push(first);
                    rest = tail;
                }
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_no_control_character_passes(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let text = escape(&bytes);
            prop_assert!(!text.chars().any(is_control));
            prop_assert_eq!(unescape(&text), bytes);
        }
    }
}
