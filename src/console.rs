//! What a command says to the one who ran it: its answer on stdout, everything else on stderr.
//!
//! In: texts. Out: the same, whoever reads them or not, and an exit code. Next: nobody.

use crate::exit;
use std::io::{self, ErrorKind, Write};

/// The program's name, which stands before its messages.
pub const NAME: &str = "statsring";

/// Tells the operator about wrong usage; the exit code.
pub fn refuse(text: &str) -> u8 {
    complain(text);
    say(&format!("{NAME} --help tells more.\n"));
    exit::USAGE
}

/// Writes a message with the program's name to stderr, whoever reads it or not.
pub fn complain(text: &str) {
    say(&format!("{NAME}: {text}\n"));
}

/// Writes to stderr, as it is. Unlike `eprint!` it does not panic when nobody reads.
pub fn say(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Writes to stdout; the exit code.
pub fn print(text: &str) -> u8 {
    let mut stdout = io::stdout().lock();
    written(stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()))
}

/// The exit code after writing to stdout: a reader that has seen enough (`| head`) is no error.
pub fn written(result: io::Result<()>) -> u8 {
    match result {
        Ok(()) => exit::OK,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => exit::OK,
        Err(error) => {
            complain(&format!("cannot write to standard output: {error}"));
            exit::SYSTEM
        }
    }
}
