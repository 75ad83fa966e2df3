//! A naive second implementation of the wire rules, written from the documentation.
//!
//! In: a datagram. Out: its lines and their keys. Next: `scan.rs` and `relay.rs` compare the real ones with them.

/// The non-empty lines of a datagram, each without one trailing `\r`.
pub fn lines(datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    datagram
        .split(|byte| *byte == b'\n')
        .map(|line| if line.ends_with(b"\r") { &line[..line.len() - 1] } else { line })
        .filter(|line| !line.is_empty())
}

/// The key of a line; `None` if it is malformed.
pub fn key(line: &[u8]) -> Option<&[u8]> {
    event_title(line).or_else(|| check_name(line)).or_else(|| metric_name(line))
}

fn position(bytes: &[u8], byte: u8) -> Option<usize> {
    bytes.iter().position(|other| *other == byte)
}

/// `name:value|type`: the non-empty part before the first colon, if a bar follows.
fn metric_name(line: &[u8]) -> Option<&[u8]> {
    let colon = position(line, b':').filter(|colon| *colon > 0)?;
    line[colon..].contains(&b'|').then(|| &line[..colon])
}

/// `_e{TITLE_BYTES,TEXT_BYTES}:TITLE|TEXT`
fn event_title(line: &[u8]) -> Option<&[u8]> {
    if !line.starts_with(b"_e{") {
        return None;
    }
    let mut bytes: Option<usize> = None;
    for digit in line[3..].iter().take_while(|byte| byte.is_ascii_digit()) {
        bytes = Some(bytes.unwrap_or(0).checked_mul(10)?.checked_add(usize::from(digit - b'0'))?);
    }
    let bytes = bytes.filter(|bytes| *bytes > 0)?;
    let close = position(line, b'}')?;
    let title = close + 2;
    let end = title.checked_add(bytes)?;
    let is_event = line.get(close + 1) == Some(&b':') && line.get(end) == Some(&b'|');
    is_event.then(|| &line[title..end])
}

/// `_sc|NAME|STATUS`
fn check_name(line: &[u8]) -> Option<&[u8]> {
    if !line.starts_with(b"_sc|") {
        return None;
    }
    let end = position(&line[4..], b'|').filter(|end| *end > 0)?;
    Some(&line[4..4 + end])
}
