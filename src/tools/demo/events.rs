//! Events: the proxy's log lines, held back from the screen while the table is shown.
//!
//! In: the process's log. Out: straight to stderr before and after the show; during it, lines for `show.rs` to place.
//! Next: `show.rs`.

use crate::control::BACKENDS_LOG_TARGET;
use crate::logging::message_only;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Bytes of lines that wait for the screen at most; more of them than this between two looks say nothing new.
const HELD_BYTES_MAX: usize = 16_384;

/// The log of the demo: the lines that wait for the screen, or `None` while lines go to stderr.
#[derive(Default)]
pub struct Events(Mutex<Option<Vec<u8>>>);

impl Events {
    /// Makes it the process's log: warnings and errors, and what happens to backends.
    pub fn install() -> Arc<Events> {
        let events = Arc::<Events>::default();
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(events.clone())
            .fmt_fields(message_only())
            .with_target(false)
            .with_ansi(false)
            .without_time()
            .log_internal_errors(false);
        let filter = Targets::new()
            .with_default(LevelFilter::WARN)
            .with_target(BACKENDS_LOG_TARGET, LevelFilter::INFO);
        // An error says that there is a log already.
        let _ = tracing_subscriber::registry().with(filter).with(lines).try_init();
        events
    }

    fn held(&self) -> MutexGuard<'_, Option<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on lines wait for [`Events::take`].
    pub fn hold(&self) {
        self.held().get_or_insert_default();
    }

    /// The lines since the last call, without their level.
    pub fn take(&self) -> Vec<String> {
        let held = self.held().as_mut().map(std::mem::take).unwrap_or_default();
        String::from_utf8_lossy(&held).lines().map(plain).collect()
    }

    /// From now on lines go to stderr, and those that wait before them.
    pub fn release(&self) {
        let held = self.held().take();
        let _ = io::stderr().lock().write_all(&held.unwrap_or_default());
    }
}

impl Write for &Events {
    /// Takes one log line, which the subscriber writes in one piece.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.held().as_mut() {
            Some(held) if held.len() + line.len() > HELD_BYTES_MAX => {}
            Some(held) => held.extend_from_slice(line),
            // Whether anybody reads it or not.
            None => drop(io::stderr().lock().write_all(line)),
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A log line as an event: without its level, with nothing that a terminal obeys.
fn plain(line: &str) -> String {
    let line = line.trim();
    let message = ["ERROR ", "WARN ", "INFO "].iter().find_map(|level| line.strip_prefix(level));
    message.unwrap_or(line).trim().replace(char::is_control, " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_wait_for_the_screen_only_while_they_are_held() {
        let events = Events::default();
        events.hold();
        (&events).write_all(b" WARN backend 127.0.0.1:1 is down\n").unwrap();
        (&events).write_all(b" INFO a\x1b[2Jb\n").unwrap();
        assert_eq!(events.take(), ["backend 127.0.0.1:1 is down", "a [2Jb"]);
        assert_eq!(events.take(), Vec::<String>::new());
        (0..HELD_BYTES_MAX).for_each(|_| (&events).write_all(b"a line\n").unwrap());
        assert_eq!(events.take().len(), HELD_BYTES_MAX / 7);
        events.release();
        assert_eq!(events.take(), Vec::<String>::new());
    }
}
