//! A config from a file or a string, with its errors and notices.
//!
//! In: a path or a string. Out: [`Loaded`], or a [`ConfigError`] with all errors. Next: `cli.rs`, and `control/` at a reload.

use super::json::Json;
use super::raw::{Configured, RawConfig};
use super::report::Report;
use super::source::Source;
use super::{Config, Format, foreign, listing, proxy_js};
use crate::exit;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Largest file that is read: many times the need of 2,000 backends, and a bound for a mistyped path.
const FILE_BYTES_MAX: usize = 8 << 20;

/// A config with its notices.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The config.
    pub config: Config,
    /// The file's format.
    pub format: Format,
    /// One sentence: the format, the placement, and how they were determined.
    pub summary: String,
    /// Which addresses the file sets.
    pub configured: Configured,
    /// The file as the admin command `config` of `proxy.js` shows it.
    pub listing: String,
    /// One line each: keys in another letter case, keys without effect.
    pub notices: Vec<String>,
}

/// Why there is no config. Its text is for the operator and has several lines.
#[derive(Debug)]
pub enum ConfigError {
    /// The file cannot be read.
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is invalid.
    Invalid {
        /// Which file; `None` for a text that came from elsewhere.
        path: Option<PathBuf>,
        /// All errors, as `path: value reason and allowed range`, in the file's order.
        mistakes: Vec<String>,
    },
}

impl ConfigError {
    /// The exit code it ends the process with.
    pub fn exit_code(&self) -> u8 {
        match self {
            ConfigError::Unreadable { .. } => exit::NO_CONFIG,
            ConfigError::Invalid { .. } => exit::USAGE,
        }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::Unreadable { path, source } => {
                write!(formatter, "cannot read the config {}: {source}", path.display())
            }
            ConfigError::Invalid { path, mistakes } => {
                match path {
                    Some(path) => write!(formatter, "the config {} has ", path.display())?,
                    None => formatter.write_str("the config has ")?,
                }
                match mistakes.len() {
                    1 => formatter.write_str("1 error:")?,
                    count => write!(formatter, "{count} errors:")?,
                }
                for mistake in mistakes {
                    write!(formatter, "\n  {mistake}")?;
                }
                Ok(())
            }
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ConfigError::Unreadable { source, .. } => Some(source),
            ConfigError::Invalid { .. } => None,
        }
    }
}

/// Reads a config file.
///
/// A listening host that is a name is resolved, which may take seconds: not for a thread that serves others.
pub fn load(path: &Path) -> Result<Loaded, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let invalid = |mistakes| ConfigError::Invalid { path: Some(path.to_owned()), mistakes };
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(invalid(vec![format!("the file is longer than {FILE_BYTES_MAX} bytes")]));
    }
    if let Some(message) = foreign::of_bytes(&bytes) {
        return Err(invalid(vec![message]));
    }
    let text = std::str::from_utf8(&bytes).map_err(|error| {
        let before = &bytes[..error.valid_up_to()];
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        invalid(vec![format!("line {line}: invalid UTF-8")])
    })?;
    read(text).map_err(invalid)
}

/// Reads a config from a text. May resolve names, as [`load`] does.
pub fn parse(text: &str) -> Result<Loaded, ConfigError> {
    read(text).map_err(|mistakes| ConfigError::Invalid { path: None, mistakes })
}

fn read(text: &str) -> Result<Loaded, Vec<String>> {
    let Source { format, object, places } = Source::read(text).map_err(|mistake| vec![mistake])?;
    let listing = listing::render(&object);
    let summary = Summary::new(format, &object);
    let mut report = Report::default();
    let raw = match format {
        Format::Statsring => RawConfig::read(object, &mut report),
        Format::ProxyJs => proxy_js::read(object, &mut report),
    };
    let configured = raw.configured(format);
    let config = raw.validate(&mut report);
    let notices = report.finish(&places)?;
    Ok(Loaded { summary: summary.message(&config), config, configured, format, listing, notices })
}

/// How the format and the placement were determined.
struct Summary {
    format: Format,
    /// The keys that only `proxy.js` has.
    keys: Vec<&'static str>,
    names_hashing: bool,
}

impl Summary {
    fn new(format: Format, object: &[(String, Json)]) -> Summary {
        let names_hashing = object
            .iter()
            .any(|(key, value)| key.eq_ignore_ascii_case("hashing") && !matches!(value, Json::Null));
        Summary { format, keys: proxy_js::own_keys(object), names_hashing }
    }

    fn message(&self, config: &Config) -> String {
        let (whose, why) = match self.format {
            Format::Statsring => ("statsring", "no proxy.js keys".to_owned()),
            Format::ProxyJs => ("proxy.js", format!("it has {}", self.keys.join(", "))),
        };
        let because = match self.format {
            _ if self.names_hashing => "set by hashing",
            Format::Statsring => "default",
            Format::ProxyJs => "as in StatsD 0.8 and later",
        };
        format!("config format: {whose} ({why}); placement: {} ({because})", config.hashing.name())
    }
}
