//! The exit codes, after BSD's sysexits, so that a service manager can distinguish an invalid config from a broken host.
//!
//! In: how a run ended. Out: a number below 256. The process ends with it.

/// Every code with its meaning.
pub const CODES: [(u8, &str); 8] = [
    (OK, "success"),
    (
        FAILED,
        "`load`, `sink` or `demo`: metrics were lost, duplicated or misplaced; `check-ready`: not ready",
    ),
    (USAGE, "wrong usage, or an invalid config"),
    (NO_CONFIG, "the config cannot be read"),
    (
        NO_ENGINE,
        "`engine` is `io_uring`, which is not available; the message states the cause and the remedy",
    ),
    (INTERNAL, "internal error (a bug)"),
    (SYSTEM, "OS error, for example port already in use"),
    (CUT_SHORT, "a stop exceeded `shutdownTimeout`; the log states how many metrics were lost"),
];

/// Success.
pub const OK: u8 = 0;
/// A failed check or measurement.
pub const FAILED: u8 = 1;
/// Wrong usage, or an invalid config.
pub const USAGE: u8 = 64;
/// The config cannot be read.
pub const NO_CONFIG: u8 = 66;
/// io_uring is refused on this host.
pub const NO_ENGINE: u8 = 69;
/// Internal error (a bug).
pub const INTERNAL: u8 = 70;
/// OS error: a port, a thread, an output.
pub const SYSTEM: u8 = 71;
/// A stop exceeded its time limit, and the remaining metrics were counted and dropped.
pub const CUT_SHORT: u8 = 75;
