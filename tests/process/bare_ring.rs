//! Checks with a minimal ring whether io_uring is permitted, so that a bug in the driver's ring fails the tests instead of
//! skipping them.
//!
//! In: replies of the kernel. Out: the refusal, or none. Next: `skip.rs` decides whether a test may be skipped.

use crate::seccomp;
use crate::skip::{is_privileged, skip, skip_unprivileged};
use io_uring::{IoUring, Probe, opcode};
use std::fmt::Display;
use std::io;
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

/// IORING_REGISTER_PBUF_RING of io_uring_register(2).
const REGISTER_BUFFER_RING: u32 = 22;

/// Calls each of the three system calls in the simplest way, with the Linux 6.1 flags that the driver needs.
fn try_bare_ring() -> io::Result<()> {
    let mut ring: IoUring =
        IoUring::builder().setup_single_issuer().setup_defer_taskrun().setup_submit_all().build(8)?;
    ring.submitter().register_probe(&mut Probe::new())?;
    // SAFETY: a no-op references no memory.
    unsafe { ring.submission().push(&opcode::Nop::new().build()) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    Ok(())
}

/// Why io_uring is refused; `None` if it is permitted. Other errors fail the test.
pub fn refusal() -> Option<&'static str> {
    static REFUSAL: OnceLock<Option<String>> = OnceLock::new();
    let refusal = REFUSAL.get_or_init(|| {
        let error = try_bare_ring().err()?;
        let errno = error.raw_os_error().unwrap_or(0);
        let is_refusal = matches!(
            errno,
            libc::EPERM | libc::EACCES | libc::ENOSYS | libc::EINVAL | libc::ENOMEM | libc::EOPNOTSUPP
        );
        assert!(is_refusal, "a minimal ring fails, but not because io_uring is refused: {error}");
        Some(format!("io_uring is refused: {error}"))
    });
    refusal.as_deref()
}

/// Whether io_uring is refused; the test is skipped then.
#[track_caller]
pub fn is_refused() -> bool {
    let refusal = refusal();
    if let Some(reason) = refusal {
        skip(reason);
    }
    refusal.is_some()
}

/// Handles a driver without a ring although a minimal one works. Only the locked memory limit, which counts all rings of a
/// user, may skip the test; it does not apply to root.
#[track_caller]
pub fn skip_for_locked_memory(error: &impl Display) {
    let error = error.to_string();
    assert!(
        error.contains("locked memory") && !is_privileged(),
        "a minimal ring works, the driver's fails: {error}"
    );
    skip_unprivileged(error);
}

/// Runs one test of this binary in a child process modified by `confine`.
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

/// Asserts that `test`, which needs io_uring, fails if the driver cannot create its ring although io_uring is permitted; and
/// that it is skipped where io_uring is refused, but fails with `CI=true`.
pub fn assert_noticed_by(test: &str) {
    if refusal().is_none() {
        let broken = run_confined(test, false, |command| {
            seccomp::refuse_register(command, REGISTER_BUFFER_RING, libc::EINVAL);
        });
        assert!(!broken.status.success(), "{test} passes although the driver's ring fails");
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
