//! The command line: arguments → config → run → exit code.
//!
//! In: the process's arguments. Out: an exit code (`exit.rs`). Next: `config/`, then `control/` or one of `tools/`.

use crate::config::{self, Loaded, MemoryBound};
use crate::console::{
    NAME, print, print_error, print_error_within, print_stderr, print_stderr_within, usage_error,
};
use crate::control::Origin;
use crate::driver::Engine;
use crate::tools::config_file::{self, DEFAULT_CONFIG};
use crate::tools::{check_ready, demo, load, plan, sink, where_name};
use crate::version::VERSION;
use crate::{control, exit, logging};
use argh::{EarlyExit, FromArgs};
use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

/// How long the exit waits for the last log lines to be written.
const LOG_FLUSH: Duration = Duration::from_secs(1);

/// A StatsD proxy: forwards every metric to the backend that owns its name.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(
    help_triggers("-h", "--help"),
    note = "Without a command, statsring runs the proxy until SIGTERM or SIGINT. SIGHUP\n  \
            reloads the config, SIGUSR2 restarts without loss.",
    error_code(1, "load, sink or demo: metrics were lost, duplicated or misplaced; check-ready: not ready"),
    error_code(64, "wrong usage, or an invalid config"),
    error_code(66, "the config cannot be read"),
    error_code(
        69,
        "engine is io_uring, which is not available; the message states the cause and the remedy"
    ),
    error_code(70, "internal error (a bug)"),
    error_code(71, "OS error, for example port already in use"),
    error_code(75, "a stop exceeded shutdownTimeout; the log states how many metrics were lost")
)]
struct Arguments {
    /// config file: JSON, or a config of StatsD's proxy.js (default /etc/statsdproxy.json)
    #[argh(option, short = 'f', arg_name = "FILE")]
    file: Option<PathBuf>,

    /// log at debug level, including every metric with its backend, at most 1,000 lines per second
    #[argh(switch, short = 'd')]
    debug: bool,

    /// check the config, print the config in effect and the memory bound, and exit
    #[argh(switch)]
    check: bool,

    /// print the version and exit
    #[argh(switch)]
    version: bool,

    #[argh(subcommand)]
    command: Option<Command>,
}

#[derive(FromArgs, Debug, PartialEq)]
#[argh(subcommand)]
enum Command {
    Demo(demo::Options),
    Where(where_name::Options),
    Plan(plan::Options),
    CheckReady(check_ready::Options),
    Load(load::Options),
    Sink(sink::Options),
}

/// Runs the program with the process's arguments, its name first; the exit code.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> u8 {
    let arguments = match parse(arguments) {
        Ok(arguments) => arguments,
        Err(code) => return code,
    };
    if arguments.version {
        return print(&format!("{NAME} {VERSION}\n"));
    }
    let file = arguments.file;
    match arguments.command {
        Some(_) if arguments.check => usage_error("--check cannot be combined with a command"),
        Some(Command::Demo(_)) if file.is_some() => usage_error("demo uses its own config: omit -f"),
        Some(Command::Demo(options)) => demo::run(options),
        Some(Command::Where(mut options)) => {
            options.file = options.file.or(file);
            where_name::run(&options)
        }
        Some(Command::Plan(_)) if file.is_some() => {
            usage_error("plan compares the two configs given as arguments: omit -f")
        }
        Some(Command::Plan(options)) => plan::run(&options),
        Some(Command::CheckReady(mut options)) => {
            options.file = options.file.or(file);
            check_ready::run(&options)
        }
        Some(Command::Load(_)) if file.is_some() => usage_error("load reads no config: omit -f"),
        Some(Command::Load(options)) => load::run(options),
        Some(Command::Sink(mut options)) => {
            options.file = options.file.or(file);
            sink::run(options)
        }
        None => {
            let path = file.unwrap_or_else(|| PathBuf::from(DEFAULT_CONFIG));
            if arguments.check {
                return config_file::load(&path).map_or_else(|code| code, |loaded| check(&loaded));
            }
            serve(path, arguments.debug)
        }
    }
}

/// Whether the program accepts these arguments, without its name; used by the documentation tests.
///
/// # Errors
/// What it would print.
pub fn check_usage(arguments: &[&str]) -> Result<(), String> {
    match Arguments::from_args(&[NAME], arguments) {
        Ok(_) | Err(EarlyExit { status: Ok(()), .. }) => Ok(()),
        Err(EarlyExit { output, .. }) => Err(output),
    }
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, u8> {
    let texts: Result<Vec<String>, OsString> =
        arguments.into_iter().skip(1).map(OsString::into_string).collect();
    let texts = texts.map_err(|argument| usage_error(&format!("{argument:?} is not UTF-8")))?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    Arguments::from_args(&[NAME], &texts).map_err(|EarlyExit { output, status }| match status {
        Ok(()) => print(&format!("{}\n", output.trim_end())),
        Err(()) => usage_error(output.trim_end()),
    })
}

/// The proxy itself.
fn serve(path: PathBuf, debug: bool) -> u8 {
    let mut origin = match Origin::of_this_process() {
        Ok(origin) => origin,
        Err(failure) => {
            print_error_within(&failure.message);
            return failure.code;
        }
    };
    let loaded = match config::load(&path) {
        Ok(loaded) => loaded,
        Err(error) => {
            origin.report_failure(&error.to_string());
            print_stderr_within(&config_file::unloaded(&error), LOG_FLUSH);
            return error.exit_code();
        }
    };
    origin.configured = loaded.configured;
    if let Err(error) = logging::init(loaded.config.log_format, debug) {
        let message = format!(
            "cannot start the log thread: {error}; raise the limit on threads (`TasksMax=` of the service)"
        );
        origin.report_failure(&message);
        print_error_within(&message);
        return exit::SYSTEM;
    }
    tracing::info!(config = %path.display(), "{}: {}", path.display(), loaded.summary);
    for notice in &loaded.notices {
        tracing::warn!("{}: {notice}", path.display());
    }
    let options = control::Options { config_path: Some(path), listing: loaded.listing, debug };
    let code = control::run(loaded.config, options, origin);
    logging::flush(LOG_FLUSH);
    code
}

/// `--check`: only the config is written to stdout, so that it can be saved as a file; it is statsring's own JSON whatever the
/// format was.
fn check(loaded: &Loaded) -> u8 {
    print_error(&loaded.summary);
    for notice in &loaded.notices {
        print_error(notice);
    }
    for loops in control::own_nodes(&loaded.config) {
        print_error(&format!("would not start on this host: {loops}"));
    }
    // Where the start decides about the engine, this is the larger one.
    let engine = loaded.config.engine.unwrap_or(Engine::IoUring);
    print_stderr(&MemoryBound::new(&loaded.config, engine).to_string());
    print(&format!("{:#}\n", loaded.config.to_json()))
}
