//! Output of commands: the result on stdout, everything else on stderr.
//!
//! In: texts. Out: the same, even without a reader, and an exit code.

use crate::exit;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// The program's name, the prefix of its messages.
pub const NAME: &str = "statsring";
/// A writable pipe accepts this much without blocking (PIPE_BUF).
const PIPE_BYTES: usize = 4_096;
/// How long a service's message waits for a stalled reader.
const STALLED_READER: Duration = Duration::from_secs(1);

/// Reports a usage error; the exit code.
pub fn usage_error(text: &str) -> u8 {
    print_error(text);
    print_stderr(&format!("For more information, try '{NAME} --help'.\n"));
    exit::USAGE
}

/// Writes a message with the program's name to stderr, even without a reader.
pub fn print_error(text: &str) {
    print_stderr(&format!("{NAME}: {text}\n"));
}

/// Writes to stderr, verbatim. Unlike `eprint!` it does not panic without a reader.
pub fn print_stderr(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// [`print_error`] for a service, which must not wait forever for the reader of its log.
pub fn print_error_within(text: &str) {
    print_stderr_within(&format!("{NAME}: {text}\n"), STALLED_READER);
}

/// Writes to stderr what its reader takes within `limit`, without a lock that another thread may hold. Unlike [`print_stderr`] it does
/// not wait for a reader that has stalled.
pub fn print_stderr_within(text: &str, limit: Duration) {
    let (stderr, end) = (io::stderr(), Instant::now() + limit);
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        let left = PollTimeout::try_from(end.saturating_duration_since(Instant::now()));
        let mut polled = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
        if !poll(&mut polled, left.unwrap_or(PollTimeout::MAX)).is_ok_and(|ready| ready > 0) {
            return;
        }
        match nix::unistd::write(&stderr, &rest[..rest.len().min(PIPE_BYTES)]) {
            Ok(written) => rest = &rest[written..],
            Err(_) => return,
        }
    }
}

/// Writes to stdout; the exit code.
pub fn print(text: &str) -> u8 {
    let mut stdout = io::stdout().lock();
    written(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// The exit code after writing to stdout: a reader that closes the pipe (`| head`) is not an error.
pub fn written(result: io::Result<()>) -> u8 {
    match result {
        Ok(()) => exit::OK,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => exit::OK,
        Err(error) => {
            print_error(&format!("cannot write to standard output: {error}"));
            exit::SYSTEM
        }
    }
}
