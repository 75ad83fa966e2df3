//! (being written) `statsring demo`.

use argh::FromArgs;

/// Shows the proxy at work: three built-in backends, built-in traffic, a live table.
#[derive(FromArgs, Clone, Debug, PartialEq, Eq)]
#[argh(subcommand, name = "demo", help_triggers("-h", "--help"))]
pub struct Options {
    /// end after so many seconds with a summary
    #[argh(option, arg_name = "N")]
    pub seconds: Option<u32>,
}

/// Runs the demonstration; the exit code.
pub fn run(_options: Options) -> u8 {
    crate::cli::complain("the demonstration is being written");
    crate::exit::INTERNAL
}
