//! The logs: to stderr, for people or as JSON lines.
//!
//! In: the config's `logFormat` and `-d`. Out: a subscriber for the whole process. Next: every `tracing` macro.

use crate::config::LogFormat;
use std::io::IsTerminal;
use tracing_subscriber::filter::EnvFilter;

/// Libraries whose own logs nobody needs: what they find out comes back as errors, which are told once.
const SILENT: &str = "hickory_resolver=off,hickory_net=off,hickory_proto=off";

/// Sets up the process's logs, from level info, or debug. Only the first call has an effect.
pub fn init(format: LogFormat, debug: bool) {
    let level = if debug { "debug" } else { "info" };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(format!("{level},{SILENT}")))
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(format == LogFormat::Text && std::io::stderr().is_terminal())
        // A proxy whose log's reader is gone must go on: reporting that to stderr itself would panic.
        .log_internal_errors(false);
    // An error says that there are logs already.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
}
