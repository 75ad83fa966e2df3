//! Signals: blocked in every thread but this one, and delivered as events.
//!
//! In: SIGHUP, SIGUSR2, SIGTERM, SIGINT. Out: [`Signal`]s. SIGPIPE is ignored by the Rust runtime before main, so a client that
//! goes away is an error of the write and not the end of the process. Next: `process.rs`.

use nix::sys::signal::{SigSet, Signal as Number};
use std::io;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// What the operator wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: read the config again.
    Reload,
    /// SIGUSR2: start the program again, without loss.
    Restart,
    /// SIGTERM or SIGINT: its number.
    Stop(u8),
}

fn handled() -> SigSet {
    [Number::SIGHUP, Number::SIGUSR2, Number::SIGTERM, Number::SIGINT].into_iter().collect()
}

/// Blocks them in this thread, and so in the threads that it starts from here on. What comes meanwhile waits.
pub fn block() -> io::Result<()> {
    handled().thread_block().map_err(io::Error::from)
}

/// The signals, as they come to this thread.
pub struct Signals {
    hangup: Stream,
    restart: Stream,
    terminate: Stream,
    interrupt: Stream,
}

impl Signals {
    /// Starts to handle them, including pending ones. Inside a runtime; after the workers were started.
    pub fn listen() -> io::Result<Signals> {
        let signals = Signals {
            hangup: signal(SignalKind::hangup())?,
            restart: signal(SignalKind::user_defined2())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        };
        handled().thread_unblock().map_err(io::Error::from)?;
        Ok(signals)
    }

    /// The next signal. Cancel-safe.
    pub async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Stop(Number::SIGTERM as u8),
            _ = self.interrupt.recv() => Signal::Stop(Number::SIGINT as u8),
            _ = self.hangup.recv() => Signal::Reload,
            _ = self.restart.recv() => Signal::Restart,
        }
    }
}
