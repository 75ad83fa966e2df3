//! Telnet's negotiation, which a telnet client may send before a command: skipped. Pure.
//!
//! In: the beginning of a line. Out: the line without it. Next: `command.rs` and `proxy_js.rs` read the line. The bytes are those
//! of RFC 854; nothing is answered, which refuses every option (RFC 1143 needs no answer to an option that stays off).

/// Interpret as command: what follows is not text.
const IAC: u8 = 255;
/// End and begin of a subnegotiation, whose bytes lie between.
const SE: u8 = 240;
const SB: u8 = 250;
/// WILL, WON'T, DO and DON'T, each followed by an option.
const WILL: u8 = 251;
const DONT: u8 = 254;

/// `line` without its leading negotiation. A truncated sequence is skipped as far as it goes; an escaped 255
/// (two of them) is text.
pub(super) fn skip(mut line: &[u8]) -> &[u8] {
    loop {
        line = match line {
            [IAC, WILL..=DONT, _, rest @ ..] => rest,
            [IAC, SB, rest @ ..] => match rest.windows(2).position(|pair| pair == [IAC, SE]) {
                Some(end) => &rest[end + 2..],
                None => &[],
            },
            [IAC] | [IAC, WILL..=DONT] => &[],
            [IAC, SE..SB, rest @ ..] => rest,
            text => return text,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negotiation_is_passed_over_and_text_is_not() {
        // What PuTTY sends first: WILL NAWS, WILL TSPEED, WILL TTYPE, DO SGA; then a window size (SB NAWS ... SE); AYT; Ctrl-C.
        let cases: [(&[u8], &[u8]); 10] = [
            (b"stats", b"stats"),
            (b"", b""),
            (b"\xff\xfb\x1f\xff\xfb\x20\xff\xfb\x18\xff\xfd\x03stats", b"stats"),
            (b"\xff\xfa\x1f\x00\x50\x00\x18\xff\xf0ping", b"ping"),
            (b"\xff\xf6ping", b"ping"),
            (b"\xff\xf4\xff\xfd\x06ping", b"ping"),
            (b"\xff\xfd", b""),
            (b"\xff\xfa\x1f\x00", b""),
            (b"\xff\xff", b"\xff\xff"),
            (b"where \xff\xfb\x01", b"where \xff\xfb\x01"),
        ];
        for (line, text) in cases {
            assert_eq!(skip(line), text, "{}", line.escape_ascii());
        }
    }
}
