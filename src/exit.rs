//! The exit codes, after BSD's sysexits, so that a service manager can tell a bad config from a broken machine.
//!
//! In: how a run ended. Out: a number below 256. Next: nobody; the process ends with it.

/// As asked.
pub const OK: u8 = 0;
/// A bad verdict: what `load` or `sink` measured is not what was asked for.
pub const BAD_VERDICT: u8 = 1;
/// Wrong usage, or a config with mistakes.
pub const USAGE: u8 = 64;
/// The config cannot be read.
pub const NO_CONFIG: u8 = 66;
/// io_uring is refused on this host.
pub const NO_ENGINE: u8 = 69;
/// A mistake in this program.
pub const INTERNAL: u8 = 70;
/// The system refused something: a port, a thread, an output.
pub const SYSTEM: u8 = 71;
/// A stop ran out of time, and what was left was counted and dropped.
pub const CUT_SHORT: u8 = 75;
