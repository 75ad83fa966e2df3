//! Events: the proxy's log lines, held back from the screen while the table is shown.
//!
//! In: the process's log. Out: straight to stderr before and after the show; during it, lines for `show.rs` to place.
//! Next: `show.rs`.

use crate::control::BACKENDS_LOG_TARGET;
use crate::logging::message_only;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Lines that wait for the screen at most; more of them than this between two looks say nothing new.
const WAITING_MAX: usize = 100;
/// The log of the demo.
#[derive(Default)]
pub struct Events {
    /// `None` while lines go to stderr.
    waiting: Mutex<Option<VecDeque<Vec<u8>>>>,
}

impl Events {
    /// Makes it the process's log: warnings and errors, and what happens to backends.
    pub fn install() -> Arc<Events> {
        let events = Arc::<Events>::default();
        let writer = events.clone();
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(move || Line(writer.clone()))
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

    fn waiting(&self) -> MutexGuard<'_, Option<VecDeque<Vec<u8>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on lines wait for [`Events::take`].
    pub fn hold(&self) {
        self.waiting().get_or_insert_default();
    }

    /// The lines since the last call, without their level.
    pub fn take(&self) -> Vec<String> {
        let mut waiting = self.waiting();
        waiting.as_mut().map(|lines| lines.drain(..).map(|line| plain(&line)).collect()).unwrap_or_default()
    }

    /// From now on lines go to stderr, and those that wait before them.
    pub fn release(&self) {
        let waiting = self.waiting().take();
        waiting.into_iter().flatten().for_each(|line| self.write(&line));
    }

    fn write(&self, bytes: &[u8]) {
        match self.waiting().as_mut() {
            Some(lines) => {
                lines.push_back(bytes.to_vec());
                if lines.len() > WAITING_MAX {
                    lines.pop_front();
                }
            }
            // Whether anybody reads it or not.
            None => drop(io::stderr().lock().write_all(bytes)),
        }
    }
}

/// A log line as an event: on one line, without its level, with nothing that a terminal obeys.
fn plain(line: &[u8]) -> String {
    let line = String::from_utf8_lossy(line);
    let line = line.trim();
    let words = ["ERROR ", "WARN ", "INFO "].iter().find_map(|level| line.strip_prefix(level));
    words.unwrap_or(line).trim().replace(char::is_control, " ")
}

/// Takes one log line, which the subscriber writes in one piece.
struct Line(Arc<Events>);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_wait_for_the_screen_only_while_they_are_held() {
        let events = Arc::<Events>::default();
        events.hold();
        Line(events.clone()).write_all(b" WARN backend 127.0.0.1:1 is down\n").unwrap();
        Line(events.clone()).write_all(b" INFO a\x1b[2Jb\n").unwrap();
        assert_eq!(events.take(), ["backend 127.0.0.1:1 is down", "a [2Jb"]);
        assert_eq!(events.take(), Vec::<String>::new());
        for number in 0..WAITING_MAX + 5 {
            events.write(format!("{number}\n").as_bytes());
        }
        let kept = events.take();
        assert_eq!((kept.len(), kept[0].as_str()), (WAITING_MAX, "5"));
        events.release();
        assert_eq!(events.take(), Vec::<String>::new());
    }
}
