//! The key of a line: the bytes that decide which backend it goes to.
//!
//! In: one line. Out: its key, or `None` for a malformed line. Sources: the StatsD metric types document
//! (`name:value|type`), and the DogStatsD datagram format for events and service checks.

use memchr::memchr;

/// The routing key of a line; `None` if it has no key, or no `|` after the key.
///
/// - a metric, `name:value|type…`: the bytes before the first `:`
/// - an event, `_e{5,4}:title|text…`: its title, as long as its length field says
/// - a service check, `_sc|name|status…`: its name
///
/// An event with an invalid length field is keyed like a metric.
#[inline]
pub fn routing_key(line: &[u8]) -> Option<&[u8]> {
    if line.first() == Some(&b'_')
        && let Some(key) = event_title(line).or_else(|| service_check_name(line))
    {
        return Some(key);
    }
    let end = memchr(b':', line)?;
    if end == 0 {
        return None;
    }
    memchr(b'|', &line[end + 1..]).map(|_| &line[..end])
}

/// The title of `_e{TITLE_BYTES,TEXT_BYTES}:TITLE|TEXT…`.
fn event_title(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(b"_e{")?;
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let title_bytes: usize = std::str::from_utf8(&rest[..digits]).ok()?.parse().ok()?;
    let close = memchr(b'}', rest)?;
    let title = rest.get(close + 1..)?.strip_prefix(b":")?;
    (title_bytes > 0 && title.get(title_bytes) == Some(&b'|')).then(|| &title[..title_bytes])
}

/// The name of `_sc|NAME|STATUS…`.
fn service_check_name(line: &[u8]) -> Option<&[u8]> {
    let rest = line.strip_prefix(b"_sc|")?;
    let end = memchr(b'|', rest)?;
    (end > 0).then(|| &rest[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(line: &str) -> Option<&str> {
        routing_key(line.as_bytes()).map(|key| std::str::from_utf8(key).unwrap())
    }

    #[test]
    fn metrics() {
        assert_eq!(key("gorets:1|c"), Some("gorets"));
        assert_eq!(key("gorets:1|c|@0.1"), Some("gorets"));
        assert_eq!(key("glork:320|ms:12|ms"), Some("glork"));
        assert_eq!(key("a.b-c d:-3|g|#env:prod,x:y"), Some("a.b-c d"));
        assert_eq!(key("name;tag=1:5|s"), Some("name;tag=1"));
        assert_eq!(routing_key(b"\xff\x00:1|c"), Some(&b"\xff\x00"[..]));
    }

    #[test]
    fn malformed_lines_have_no_key() {
        for line in ["", ":", ":1|c", "foo", "foo:1", "foo|c", "_", "_sc|", "_sc||0", "_e{", "_e{1,1}"] {
            assert_eq!(key(line), None, "{line}");
        }
    }

    #[test]
    fn events_are_keyed_by_their_title() {
        assert_eq!(key("_e{5,4}:title|text"), Some("title"));
        assert_eq!(key("_e{7,4}:a:b|c:d|text|#x:y"), Some("a:b|c:d"));
        assert_eq!(key("_e{3,0}:€|"), Some("€"));
        // Invalid lengths: like a metric.
        assert_eq!(key("_e{99,4}:title|text"), Some("_e{99,4}"));
        assert_eq!(key("_e{0,4}:|text"), Some("_e{0,4}"));
        assert_eq!(key("_e{x,4}:title|text"), Some("_e{x,4}"));
        assert_eq!(key("_e{99999999999999999999999,4}:t|x"), Some("_e{99999999999999999999999,4}"));
    }

    #[test]
    fn service_checks_are_keyed_by_their_name() {
        assert_eq!(key("_sc|Redis connection|2|#redis:1|m:timed out: 10s"), Some("Redis connection"));
        assert_eq!(key("_scrape:1|c"), Some("_scrape"));
    }
}
