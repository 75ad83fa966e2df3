//! The panic handler: ends the process, with a message.
//!
//! In: a panic of any thread. Out: one line on stderr, exit code 70. Next: the service manager, which restarts it.

use crate::console::{NAME, print_stderr_within};
use crate::{exit, logging};
use std::time::Duration;

/// How long a panic waits for a stalled reader of stderr: once for the log, once for its own message. It must not keep
/// a process alive that has lost a thread.
const STALLED_READER: Duration = Duration::from_secs(1);

/// Makes a panic of any thread end the process with exit code 70: a service manager restarts it, whereas a
/// proxy without one of its threads would lose metrics silently.
pub fn exit_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        logging::flush(STALLED_READER);
        print_stderr_within(
            &format!("{NAME}: internal error (a bug): thread {name} {panic}\n"),
            STALLED_READER,
        );
        std::process::exit(i32::from(exit::INTERNAL));
    }));
}
