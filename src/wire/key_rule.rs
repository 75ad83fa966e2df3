//! The key of a line by the rule of another proxy, as its placement requires.
//!
//! In: one line, and its key by statsring's own rule. Out: the key by the rule, or `None` for a line that the other proxy
//! does not forward either. Sources, read for their behaviour: StatsD's `proxy.js`; `src/parser.c` of
//! github.com/hit9/statsd-proxy; `src/protocol.c` and `src/validate.c` of github.com/uber/statsrelay; `statsrelay.go` of
//! github.com/jjneely/statsrelay.

use memchr::memchr;

/// The key rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyRule {
    /// [`super::routing_key`].
    Statsring,
    /// proxy.js: the bytes before the first `:`, else the whole line. Every line has a key, which may be empty.
    ProxyJs,
    /// hit9/statsd-proxy: the bytes before the first `:`, which may be none.
    Hit9,
    /// uber's statsrelay: the bytes before the first `:`, at least one; a `|` must follow.
    Uber,
    /// jjneely/statsrelay: the bytes before the first `:`, which may be none; not counted are `\r` and NUL at its start.
    Jjneely,
}

impl KeyRule {
    /// Whether another rule may differ from statsring's own. A usual metric has the same key in all.
    #[inline]
    pub fn may_differ(line: &[u8], own: Option<&[u8]>) -> bool {
        own.is_none() || matches!(line.first(), Some(b'_' | b'\r' | 0))
    }

    /// The key of `line`, whose key by statsring's own rule is `own`.
    pub fn key<'l>(self, line: &'l [u8], own: Option<&'l [u8]>) -> Option<&'l [u8]> {
        match self {
            KeyRule::Statsring => own,
            KeyRule::ProxyJs => Some(before_colon(line).unwrap_or(line)),
            KeyRule::Hit9 => before_colon(line),
            KeyRule::Uber => {
                let key = before_colon(line).filter(|key| !key.is_empty())?;
                memchr(b'|', &line[key.len()..]).map(|_| key)
            }
            KeyRule::Jjneely => {
                let blanks = line.iter().take_while(|byte| matches!(byte, b'\r' | 0)).count();
                before_colon(&line[blanks..])
            }
        }
    }
}

fn before_colon(line: &[u8]) -> Option<&[u8]> {
    memchr(b':', line).map(|end| &line[..end])
}

#[cfg(test)]
mod tests {
    use super::super::routing_key;
    use super::*;
    use proptest::prelude::*;

    fn keys(line: &str) -> [Option<&str>; 5] {
        [KeyRule::Statsring, KeyRule::ProxyJs, KeyRule::Hit9, KeyRule::Uber, KeyRule::Jjneely].map(|rule| {
            let key = rule.key(line.as_bytes(), routing_key(line.as_bytes()));
            key.map(|key| std::str::from_utf8(key).unwrap())
        })
    }

    #[test]
    fn a_usual_metric_has_one_key_for_all() {
        for line in ["gorets:1|c", "gorets:1|c|@0.1", "gorets:320|ms:12|ms", "gorets:-3|g|#env:prod"] {
            assert_eq!(keys(line), [Some("gorets"); 5], "{line}");
        }
    }

    #[test]
    fn events_and_service_checks_are_special_for_statsring_only() {
        let cut = Some("_e{5,4}");
        assert_eq!(keys("_e{5,4}:title|text"), [Some("title"), cut, cut, cut, cut]);
        let check = "_sc|disk|0|m:full";
        let cut = Some("_sc|disk|0|m");
        assert_eq!(keys(check), [Some("disk"), cut, cut, None, cut]);
        assert_eq!(keys("_sc|disk|0"), [Some("disk"), Some("_sc|disk|0"), None, None, None]);
    }

    proptest! {
        #[test]
        fn where_rules_differ_is_seen_beforehand(
            line in proptest::collection::vec(
                prop_oneof![
                    3 => Just(b':'), 3 => Just(b'|'), 1 => Just(b'_'), 1 => Just(b'\r'), 1 => Just(0), 6 => b'a'..=b'c',
                    1 => any::<u8>()
                ],
                1..12,
            )
        ) {
            let own = routing_key(&line);
            for rule in [KeyRule::ProxyJs, KeyRule::Hit9, KeyRule::Uber, KeyRule::Jjneely] {
                prop_assert!(KeyRule::may_differ(&line, own) || rule.key(&line, own) == own, "{:?}", rule);
            }
        }
    }

    #[test]
    fn lines_that_some_do_not_forward() {
        assert_eq!(keys("gorets"), [None, Some("gorets"), None, None, None]);
        assert_eq!(keys("gorets:1"), [None, Some("gorets"), Some("gorets"), None, Some("gorets")]);
        assert_eq!(keys(":1|c"), [None, Some(""), Some(""), None, Some("")]);
        assert_eq!(keys("a|b:1"), [None, Some("a|b"), Some("a|b"), None, Some("a|b")]);
        assert_eq!(keys("\r\0x:1|c")[4], Some("x"));
    }
}
