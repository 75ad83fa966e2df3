//! Whether io_uring is allowed here, found out with a bare ring: a fault in the driver's own ring fails the tests instead of
//! skipping them.
//!
//! In: the kernel's answers. Out: the refusal, or none. Next: `skip.rs`, which decides whether a test may be skipped.

use crate::seccomp;
use crate::skip::{is_privileged, skip, skip_unprivileged};
use io_uring::{IoUring, Probe, opcode};
use std::fmt::Display;
use std::io;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// IORING_REGISTER_PBUF_RING of io_uring_register(2).
const REGISTER_BUFFER_RING: u32 = 22;

/// Calls each of the three system calls as simply as possible, with the flags of Linux 6.1 that the driver needs.
fn try_bare_ring() -> io::Result<()> {
    let mut ring: IoUring =
        IoUring::builder().setup_single_issuer().setup_defer_taskrun().setup_submit_all().build(8)?;
    ring.submitter().register_probe(&mut Probe::new())?;
    // SAFETY: a no-op points to nothing.
    unsafe { ring.submission().push(&opcode::Nop::new().build()) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    Ok(())
}

/// Why io_uring is refused here; `None` where it is allowed. Errors that are no refusal fail the test.
pub fn refusal() -> Option<&'static str> {
    static REFUSAL: OnceLock<Option<String>> = OnceLock::new();
    let refusal = REFUSAL.get_or_init(|| {
        let error = try_bare_ring().err()?;
        let errno = error.raw_os_error().unwrap_or(0);
        let is_refusal = matches!(
            errno,
            libc::EPERM | libc::EACCES | libc::ENOSYS | libc::EINVAL | libc::ENOMEM | libc::EOPNOTSUPP
        );
        assert!(is_refusal, "a bare ring fails, and not because io_uring is refused: {error}");
        Some(format!("io_uring is refused here: {error}"))
    });
    refusal.as_deref()
}

/// Whether io_uring is refused here; then the test is skipped.
#[track_caller]
pub fn is_refused() -> bool {
    let refusal = refusal();
    if let Some(reason) = refusal {
        skip(reason);
    }
    refusal.is_some()
}

/// Judges that the driver has no ring though a bare one is allowed. Only the limit of locked memory, which counts all of a
/// user's rings together, may skip the test; it does not apply to root.
#[track_caller]
pub fn skip_for_locked_memory(error: &impl Display) {
    let error = error.to_string();
    assert!(
        error.contains("locked memory") && !is_privileged(),
        "a bare ring can be made, the driver's cannot: {error}"
    );
    skip_unprivileged(error);
}

/// Runs one test of this test binary in a process of its own, under what `confine` does to it.
fn run_confined(test: &str, is_ci: bool, confine: impl FnOnce(&mut Command)) -> Output {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test]).stdin(Stdio::null()).env_remove("CI");
    if is_ci {
        command.env("CI", "true");
    }
    confine(&mut command);
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("running 1 test\n"), "{test} is not a test of this binary: {text}");
    output
}

/// Asserts that `test`, which needs io_uring, fails where the driver's ring cannot be made though io_uring is allowed; and,
/// where io_uring is refused, that it is skipped, but fails with `CI=true`.
pub fn assert_noticed_by(test: &str) {
    if refusal().is_none() {
        let broken = run_confined(test, false, |command| {
            seccomp::refuse_register(command, REGISTER_BUFFER_RING, libc::EINVAL);
        });
        assert!(!broken.status.success(), "{test} passes where the driver's ring cannot be made");
    }
    let refuse_setup = |command: &mut Command| {
        seccomp::refuse(command, libc::SYS_io_uring_setup, libc::SYS_io_uring_setup, libc::EPERM);
    };
    let skipped = run_confined(test, false, refuse_setup);
    let text = String::from_utf8_lossy(&skipped.stderr);
    assert!(skipped.status.success() && text.contains("io_uring is refused"), "{test}: {skipped:?}");
    let required = run_confined(test, true, refuse_setup);
    assert!(!required.status.success(), "with CI=true {test} passes where io_uring is refused");
}
