//! The command line: arguments → config → run → exit code.
//!
//! In: the process's arguments. Out: an exit code (`exit.rs`). Next: `config/`, then `control/` or one of `tools/`.

use crate::config::MemoryBound;
use crate::config::{self, ConfigError, Loaded};
use crate::control::Origin;
use crate::driver::Engine;
use crate::tools::{check_ready, demo, load, plan, sink, where_name};
use crate::{control, exit, logging};
use argh::{EarlyExit, FromArgs};
use nix::poll::{PollFd, PollFlags, poll};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

/// The config that is read unless another is given, go-statsd-proxy's.
pub const DEFAULT_CONFIG: &str = "/etc/statsdproxy.json";
const NAME: &str = "statsring";
/// How long a panic's message waits for a reader of stderr that has stalled.
const STALLED_READER_MS: u16 = 1_000;
/// A pipe that can be written to takes so much without blocking (PIPE_BUF).
const LAST_WORDS_BYTES_MAX: usize = 4_096;

/// A StatsD proxy: sends every metric to the backend that owns its name.
#[derive(FromArgs, Debug, PartialEq)]
#[argh(
    help_triggers("-h", "--help"),
    note = "Without a command it runs the proxy until SIGTERM or SIGINT; SIGHUP makes it read its config again, SIGUSR2 starts it again without loss.",
    error_code(1, "a bad verdict of load or sink, or not ready"),
    error_code(64, "wrong usage, or a config with mistakes"),
    error_code(66, "the config cannot be read"),
    error_code(69, "io_uring is refused, and the config insists on it"),
    error_code(70, "a mistake in this program"),
    error_code(71, "the system refused something, as a port that is taken"),
    error_code(75, "a stop was cut short")
)]
struct Arguments {
    /// config file, JSON or one of StatsD's proxy.js (default /etc/statsdproxy.json)
    #[argh(option, short = 'f', arg_name = "FILE")]
    file: Option<PathBuf>,

    /// debug logging: also every metric with its backend
    #[argh(switch, short = 'd')]
    debug: bool,

    /// print the effective config and the memory bound, and end
    #[argh(switch)]
    check: bool,

    /// print the version, and end
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
        return print(&format!("{NAME} {}\n", env!("CARGO_PKG_VERSION")));
    }
    let file = arguments.file;
    match arguments.command {
        Some(_) if arguments.check => refuse("--check goes without a command"),
        Some(Command::Demo(_)) if file.is_some() => refuse("demo has a config of its own: leave -f out"),
        Some(Command::Demo(options)) => demo::run(options),
        Some(Command::Where(mut options)) => {
            options.file = options.file.or(file);
            where_name::run(&options)
        }
        Some(Command::Plan(_)) if file.is_some() => {
            refuse("plan compares the two configs named behind it: leave -f out")
        }
        Some(Command::Plan(options)) => plan::run(&options),
        Some(Command::CheckReady(mut options)) => {
            options.file = options.file.or(file);
            check_ready::run(&options)
        }
        Some(Command::Load(_) | Command::Sink(_)) if file.is_some() => {
            refuse("load and sink read no config: leave -f out")
        }
        Some(Command::Load(options)) => load::run(options),
        Some(Command::Sink(options)) => sink::run(options),
        None => {
            let path = file.unwrap_or_else(|| PathBuf::from(DEFAULT_CONFIG));
            if arguments.check {
                return load(&path).map_or_else(|code| code, |loaded| check(&loaded));
            }
            serve(path, arguments.debug)
        }
    }
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Arguments, u8> {
    let texts: Result<Vec<String>, OsString> =
        arguments.into_iter().skip(1).map(OsString::into_string).collect();
    let texts = texts.map_err(|argument| refuse(&format!("{argument:?} is not UTF-8")))?;
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    Arguments::from_args(&[NAME], &texts).map_err(|EarlyExit { output, status }| match status {
        Ok(()) => print(&format!("{}\n", output.trim_end())),
        Err(()) => refuse(output.trim_end()),
    })
}

/// The proxy itself.
fn serve(path: PathBuf, debug: bool) -> u8 {
    let origin = match Origin::of_this_process() {
        Ok(origin) => origin,
        Err(failure) => {
            complain(&failure.words);
            return failure.code;
        }
    };
    let loaded = match config::load(&path) {
        Ok(loaded) => loaded,
        Err(error) => {
            origin.refuse(&error.to_string());
            return unloaded(&error);
        }
    };
    logging::init(loaded.config.log_format, debug);
    tracing::info!("{}: {}", path.display(), loaded.summary);
    for notice in &loaded.notices {
        tracing::warn!("{}: {notice}", path.display());
    }
    let options = control::Options { config_path: Some(path), listing: loaded.listing, debug };
    control::run(loaded.config, options, origin)
}

/// `--check`: the config goes to stdout alone, so that it can be kept as a file, which is statsring's own JSON whatever the
/// format was.
fn check(loaded: &Loaded) -> u8 {
    complain(&loaded.summary);
    for notice in &loaded.notices {
        complain(notice);
    }
    // Where the start decides about the engine, this is the larger one.
    let engine = loaded.config.engine.unwrap_or(Engine::IoUring);
    say(&MemoryBound::new(&loaded.config, engine).to_string());
    print(&format!("{:#}\n", loaded.config.to_json()))
}

/// The config of a file; if there is none, the operator has been told and the exit code is returned.
pub fn load(path: &Path) -> Result<Loaded, u8> {
    config::load(path).map_err(|error| unloaded(&error))
}

/// Tells the operator why there is no config; the exit code.
fn unloaded(error: &ConfigError) -> u8 {
    complain(&error.to_string());
    if let ConfigError::Unreadable { .. } = error {
        say(&format!("Give another file with -f FILE, or see the proxy at work without one: {NAME} demo\n"));
    }
    error.exit_code()
}

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

/// Writes to stderr. Unlike `eprint!` it does not panic when nobody reads.
fn say(text: &str) {
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
