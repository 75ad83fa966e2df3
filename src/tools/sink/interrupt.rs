//! Early termination by the operator: SIGINT and SIGTERM, polled by the main thread.
//!
//! In: signals. Out: told when asked; a second one ends the process at once. Next: the loops of `mod.rs` and of `load`.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::thread;
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub struct Interrupt {
    signals: SignalFd,
    asked: bool,
}

impl Interrupt {
    /// Holds the signals back from this thread and those that it starts from here on.
    ///
    /// # Errors
    /// The system has no descriptor.
    pub fn new() -> io::Result<Interrupt> {
        let set: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
        set.thread_block()?;
        let signals = SignalFd::with_flags(&set, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
        Ok(Interrupt { signals, asked: false })
    }

    /// Sleeps for so many ms or until a signal; whether there has been one. A second one ends the process.
    pub fn sleep(&mut self, ms: u16) -> bool {
        let mut polls = [PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        if poll(&mut polls, PollTimeout::from(ms)).is_err() {
            thread::sleep(Duration::from_millis(1));
        }
        self.asked()
    }

    /// Whether there has been a signal. A second one ends the process.
    pub fn asked(&mut self) -> bool {
        if let Ok(Some(signal)) = self.signals.read_signal() {
            if self.asked {
                std::process::exit(128 + signal.ssi_signo as i32);
            }
            self.asked = true;
        }
        self.asked
    }
}

impl AsFd for Interrupt {
    /// Readable after a signal.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.signals.as_fd()
    }
}
