//! Why a process ends before its time.
//!
//! In: what the system refused, how a worker ended. Out: words for the log, an exit code. Next: `start.rs`, `stop.rs`.

use crate::driver::DriverError;
use crate::exit;
use crate::worker::Ended;
use std::fmt::Display;

/// Why the process ends before its time: for the log, and the exit code.
#[derive(Debug)]
pub struct Failure {
    /// What the operator is told.
    pub words: String,
    /// The process's exit code.
    pub code: u8,
}

impl Failure {
    /// Something the system refused.
    pub fn system(words: impl Display) -> Failure {
        Failure { words: words.to_string(), code: exit::SYSTEM }
    }

    /// What ended a worker that nobody asked to end.
    pub fn of_worker(index: usize, end: &Result<Ended, DriverError>) -> Failure {
        match end {
            Err(DriverError::Refused(words)) => Failure { words: words.clone(), code: exit::NO_ENGINE },
            Err(error) => Failure { words: format!("worker {index} failed: {error}"), code: exit::SYSTEM },
            Ok(end) => Failure {
                words: format!("worker {index} ended unexpectedly ({end:?}): internal error (a bug)"),
                code: exit::INTERNAL,
            },
        }
    }

    /// Logs it, each line as an event of its own; the exit code.
    pub fn tell(&self) -> u8 {
        for line in self.words.lines() {
            tracing::error!(exit_code = self.code, "{line}");
        }
        self.code
    }
}
