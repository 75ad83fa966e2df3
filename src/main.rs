//! The program: everything is in the library, so that tests and tools share it.
//!
//! In: the command line. Out: an exit code (`exit.rs`). Next: `cli.rs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    statsring::stats::alloc::release_large_blocks();
    statsring::crash::exit_on_panic();
    ExitCode::from(statsring::cli::run(std::env::args_os()))
}
