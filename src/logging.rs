//! The logs: to stderr, as text or JSON lines, without ever waiting for the reader.
//!
//! In: the config's `logFormat` and `-d`, then events of any thread. Out: one line for each event; figures about lines that
//! were dropped. Next: `logging/queue.rs` holds the lines, `logging/text.rs` writes an event for people.
//!
//! The message of an event is complete: it is all that the text log shows. Fields repeat its facts for programs, in JSON logs.

mod queue;
mod text;

pub use queue::LogFigures;
pub use text::message_only;

use crate::config::LogFormat;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, SigmaskHow};
use queue::Queue;
use std::cell::RefCell;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::AsFd;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tracing_subscriber::filter::EnvFilter;

/// Libraries whose own logs are suppressed: their failures are returned as errors, which are logged once.
const SILENT: &str = "hickory_resolver=off,hickory_net=off,hickory_proto=off";
/// Bytes of lines that wait for a slow reader: thousands of ordinary lines.
const QUEUE_BYTES_MAX: usize = 1 << 20;
/// Stack of the thread that writes; the deepest thing it does is to format one event.
const STACK_BYTES: usize = 256 << 10;

/// The process's queue, from [`init`] on.
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

thread_local! {
    /// Where this thread's events go instead of the queue: set while the writing thread formats one of its own.
    static CAPTURED: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

/// Sets up the process's logs, from level info, or debug, and starts the thread that writes them. Only the first call has an
/// effect. Fails if the thread cannot be started.
pub fn init(format: LogFormat, debug: bool) -> io::Result<()> {
    let queue = Arc::new(Queue::new(QUEUE_BYTES_MAX));
    if QUEUE.set(queue.clone()).is_err() {
        return Ok(());
    }
    start_writer(queue.clone())?;
    let level = if debug { "debug" } else { "info" };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(format!("{level},{SILENT}")))
        .with_writer(move || Line { queue: queue.clone() })
        .with_target(false)
        .with_ansi(format == LogFormat::Text && io::stderr().is_terminal())
        .log_internal_errors(false);
    // Fails if logging is already initialized.
    let _ = match format {
        LogFormat::Text => builder.fmt_fields(text::message_only()).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// Waits until every line is written, at most `limit`; whether all were. May be called in any state of the
/// process, also by a panic's hook.
pub fn flush(limit: Duration) -> bool {
    QUEUE.get().is_none_or(|queue| queue.flush(limit))
}

/// Figures of the lines so far.
pub fn figures() -> LogFigures {
    QUEUE.get().map(|queue| queue.figures()).unwrap_or_default()
}

/// The errno's name for a field, e.g. `ECONNREFUSED`.
pub fn errno(error: &io::Error) -> Option<String> {
    error.raw_os_error().map(|number| format!("{:?}", Errno::from_raw(number)))
}

/// Starts the thread that writes. It handles no signal: the thread has all of them blocked from its first moment on.
fn start_writer(queue: Arc<Queue>) -> io::Result<()> {
    let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    let started =
        std::thread::Builder::new().name("log".to_owned()).stack_size(STACK_BYTES).spawn(move || {
            loop {
                queue.write_next(&mut Stderr, gap);
            }
        });
    before.thread_set_mask()?;
    started.map(drop)
}

/// The line in place of `lines` dropped ones.
fn gap(lines: u64) -> Vec<u8> {
    CAPTURED.set(Some(Vec::new()));
    tracing::warn!(
        log_lines_dropped = lines,
        "{lines} log lines were dropped here: standard error was not read fast enough, or could not be written"
    );
    CAPTURED.take().unwrap_or_default()
}

/// Takes one event, which comes in one piece.
struct Line {
    queue: Arc<Queue>,
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let is_captured = CAPTURED.with_borrow_mut(|captured| {
            captured.as_mut().map(|captured| captured.extend_from_slice(line)).is_some()
        });
        if !is_captured {
            self.queue.push(line);
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Standard error without the standard library's lock, which would be held for as long as a write waits for its reader.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let stderr = io::stderr();
            match nix::unistd::write(&stderr, bytes).map_err(io::Error::from) {
                // A process that shares it may have made it nonblocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    poll(&mut [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
                }
                result => return result,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
