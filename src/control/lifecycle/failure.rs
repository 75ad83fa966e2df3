//! Fatal errors.
//!
//! In: OS errors, the end of a worker. Out: a message for the log, an exit code. Next: `start.rs`, `stop.rs`.

use crate::driver::DriverError;
use crate::exit;
use crate::worker::Ended;
use std::fmt::Display;

/// A fatal error: its log message, and the exit code.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure {
    /// The message to the operator.
    pub message: String,
    /// The process's exit code.
    pub code: u8,
}

impl Failure {
    /// An OS error.
    pub fn system(message: impl Display) -> Failure {
        Failure { message: message.to_string(), code: exit::SYSTEM }
    }

    /// The unexpected end of a worker.
    pub fn of_worker(index: usize, end: &Result<Ended, DriverError>) -> Failure {
        match end {
            Err(DriverError::Refused(message)) => Failure { message: message.clone(), code: exit::NO_ENGINE },
            Err(error) => Failure { message: format!("worker {index} failed: {error}"), code: exit::SYSTEM },
            Ok(end) => Failure {
                message: format!("worker {index} ended unexpectedly ({end:?}): internal error (a bug)"),
                code: exit::INTERNAL,
            },
        }
    }

    /// Logs it, each line as a separate event; the exit code.
    pub fn log(&self) -> u8 {
        for line in self.message.lines() {
            tracing::error!(exit_code = self.code, "{line}");
        }
        self.code
    }
}
