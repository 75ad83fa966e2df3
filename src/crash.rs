//! What a panic does: it ends the process, with a message.
//!
//! In: a panic of any thread. Out: one line on stderr, exit code 70. Next: the service manager, which starts it again.

use crate::console::NAME;
use crate::exit;
use nix::poll::{PollFd, PollFlags, poll};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

/// How long a panic's message waits for a reader of stderr that has stalled.
const STALLED_READER_MS: u16 = 1_000;
/// A pipe that can be written to takes so much without blocking (PIPE_BUF).
const LAST_WORDS_BYTES_MAX: usize = 4_096;

/// Lets a panic of any thread end the process with exit code 70: a service manager starts it again, whereas a
/// proxy without one of its threads would lose metrics in silence.
pub fn exit_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        last_words(&format!("{NAME}: this is a mistake in the program: thread {name} {panic}\n"));
        std::process::exit(i32::from(exit::INTERNAL));
    }));
}

/// Writes to stderr without a lock that another thread may hold, and without waiting for a reader that has stalled: neither
/// may keep a process alive that has lost a thread.
fn last_words(text: &str) {
    let stderr = io::stderr();
    let mut polled = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    let is_ready = poll(&mut polled, STALLED_READER_MS).is_ok_and(|ready| ready > 0);
    if let (true, Ok(copy)) = (is_ready, stderr.as_fd().try_clone_to_owned()) {
        let text = &text.as_bytes()[..text.len().min(LAST_WORDS_BYTES_MAX)];
        let _ = File::from(copy).write_all(text);
    }
}
