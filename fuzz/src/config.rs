//! The config: any text is a config or a list of mistakes, and a config's own text means the same config.
//!
//! A file whose listening host is a name would be asked of the resolver: such files are left out, no fuzzer is to send queries.

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use statsring::config::{ConfigError, MemoryBound, parse};
use std::fmt;
use std::net::IpAddr;

/// Any bytes are a file.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if asks_the_resolver(text) {
        return;
    }
    match parse(text) {
        Ok(loaded) => {
            let shown = loaded.config.to_json().to_string();
            let again = parse(&shown).expect("the effective config is a config");
            assert_eq!(again.config, loaded.config, "the effective config means another one: {shown}");
            assert!(loaded.notices.iter().all(|notice| is_one_line(notice)), "{:?}", loaded.notices);
            assert!(!MemoryBound::new(&loaded.config).to_string().is_empty());
        }
        Err(ConfigError::Invalid { mistakes, .. }) => {
            assert!(!mistakes.is_empty());
            assert!(mistakes.iter().all(|mistake| is_one_line(mistake)), "{mistakes:?}");
        }
        Err(error @ ConfigError::Unreadable { .. }) => panic!("nothing was read: {error}"),
    }
}

/// Whether a message can do nothing to a terminal or a log.
fn is_one_line(text: &str) -> bool {
    !text.is_empty() && !text.chars().any(char::is_control)
}

/// Whether a listening host of this file may be a name. A text that is no JSON has none.
fn asks_the_resolver(text: &str) -> bool {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    serde_json::from_str::<Hosts>(text).is_ok_and(|hosts| hosts.0)
}

/// Whether one of the listening hosts, of which doubled keys may give several, is neither an address nor known beforehand.
struct Hosts(bool);

impl<'de> Deserialize<'de> for Hosts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Hosts, D::Error> {
        deserializer.deserialize_map(HostsVisitor)
    }
}

struct HostsVisitor;

impl<'de> Visitor<'de> for HostsVisitor {
    type Value = Hosts;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Hosts, A::Error> {
        let mut is_name = false;
        while let Some(key) = map.next_key::<String>()? {
            // Any key with these letters, since keys in another letter case are taken too.
            if key.to_lowercase().contains("host") {
                let value: serde_json::Value = map.next_value()?;
                is_name |= value.as_str().is_some_and(|host| !is_known(host));
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(Hosts(is_name))
    }
}

fn is_known(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let is_refused = host.bytes().any(|byte| !byte.is_ascii_alphanumeric() && !b"-_.".contains(&byte));
    host.is_empty() || host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok() || is_refused
}
