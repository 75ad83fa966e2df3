//! Detects the format of a file from its keys: statsring's own JSON, or a config of StatsD's `proxy.js`.
//!
//! It is `proxy.js`'s if it has a key that only `proxy.js` has. Neither the file's name nor its comments matter. Statsring's
//! own configs are plain JSON, so that every tool reads them.
//! In: a text. Out: a [`Source`], or an error. Next: `raw.rs` or `proxy_js.rs`, which read the keys.

use super::json::Json;
use super::keys::PROXY_JS_KEYS;
use super::literal;
use super::positions::Places;
use super::proxy_js::SHARED_KEYS;
use super::strict::{self, JsonError};
use super::tree::Tree;
use super::{Format, foreign};

/// A parsed file whose keys have not been read.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) format: Format,
    pub(super) object: Vec<(String, Json)>,
    /// Where everything is.
    pub(super) places: Places,
}

impl Source {
    /// Reads a whole file; an error of the whole file is one message.
    pub(super) fn read(text: &str) -> Result<Source, String> {
        // Some editors prepend a byte order mark, which is not JSON but is accepted.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        match strict::read(text) {
            Ok(tree) if is_proxy_js(&tree.object) => match literal::read(text) {
                Ok(literal) => Ok(Source::new(Format::ProxyJs, literal)),
                Err(fault) => Err(fault.message()),
            },
            Ok(tree) => Ok(Source::new(Format::Statsring, tree)),
            Err(error) => Source::read_literal(text, &error),
        }
    }

    fn new(format: Format, tree: Tree) -> Source {
        Source { format, object: tree.object, places: tree.places }
    }

    /// A text that is not JSON: a `proxy.js` config, or an error.
    fn read_literal(text: &str, json_error: &JsonError) -> Result<Source, String> {
        let literal = literal::read(text).map_err(|fault| {
            // The reading that came further is the one that was meant.
            let is_literal = fault.is_code || fault.at > json_error.at;
            let message = || if is_literal { fault.message() } else { json_error.message() };
            foreign::of_text(text).unwrap_or_else(message)
        })?;
        if is_proxy_js(&literal.object) {
            return Ok(Source::new(Format::ProxyJs, literal));
        }
        let is_shared = |(key, _): &(String, Json)| SHARED_KEYS.contains(&key.as_str());
        if !literal.object.is_empty() && literal.object.iter().all(is_shared) {
            return Err(format!(
                "{}; if this is a proxy.js config, add a key that only proxy.js has, such as mgmt_port: 8126 (its default)",
                json_error.message()
            ));
        }
        Err(json_error.message())
    }
}

fn is_proxy_js(object: &[(String, Json)]) -> bool {
    object.iter().any(|(key, _)| PROXY_JS_KEYS.contains(&key.as_str()))
}
