//! Skipping tests: permitted only if the host lacks a requirement.
//!
//! In: the missing requirement. Out: a line on stderr, bypassing the test runner's capture, after which the test returns; or a
//! failure where no test may be skipped. Next: `bare_ring.rs` checks for io_uring.

use std::fmt::Display;
use std::io::Write;

/// CAP_SYS_ADMIN of capabilities(7).
const SYS_ADMIN_BIT: u32 = 21;

/// Whether no test may be skipped: `CI=true`, as set by `.ci/run`.
pub fn is_forbidden() -> bool {
    std::env::var_os("CI").is_some_and(|value| value == "true")
}

/// Whether this process may create namespaces and raw sockets: it is root, not confined by a container.
pub fn is_privileged() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    bits.is_some_and(|bits| bits & (1 << SYS_ADMIN_BIT) != 0)
}

/// Skips the current test because the host lacks something. A failure with `CI=true`.
#[track_caller]
pub fn skip(reason: impl Display) {
    assert!(!is_forbidden(), "with CI=true no test may be skipped: {reason}");
    let test = std::thread::current().name().unwrap_or("a test").to_string();
    let _ = writeln!(std::io::stderr(), "skipped {test}: {reason}");
}

/// Skips the current test because this user lacks a privilege. A failure with `CI=true`, and for root.
#[track_caller]
pub fn skip_unprivileged(reason: impl Display) {
    assert!(!is_privileged(), "as root this test may not be skipped: {reason}");
    skip(reason);
}
