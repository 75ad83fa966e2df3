//! (being written)

use crate::config::Config;
use std::path::PathBuf;

/// What the control thread is told beside the config.
#[derive(Clone, Debug)]
pub struct Options {
    /// The file that a reload reads again; `None` if the config did not come from one.
    pub config_path: Option<PathBuf>,
    /// Whether each metric is logged.
    pub debug: bool,
}

/// Runs the proxy until it is stopped; the exit code.
pub fn run(_config: Config, _options: Options) -> u8 {
    tracing::error!("the control thread is being written");
    crate::exit::SYSTEM
}
