//! The config that a command reads.
//!
//! In: a path. Out: the config, or an exit code after the error was reported. Next: the command.

use crate::config::{self, ConfigError, Loaded};
use crate::console::{NAME, print_stderr};
use std::path::Path;

/// The config that is read unless another is given, go-statsd-proxy's.
pub const DEFAULT_CONFIG: &str = "/etc/statsdproxy.json";

/// The config of a file; otherwise reports the error and returns the exit code.
pub fn load(path: &Path) -> Result<Loaded, u8> {
    config::load(path).map_err(|error| {
        print_stderr(&unloaded(&error));
        error.exit_code()
    })
}

/// The hint if there is no config.
pub fn unloaded(error: &ConfigError) -> String {
    let mut message = format!("{NAME}: {error}\n");
    if let ConfigError::Unreadable { .. } = error {
        message.push_str(&format!(
            "Give another file with -f FILE, or see the proxy at work without one: {NAME} demo\n"
        ));
    }
    message
}
