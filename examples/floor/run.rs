//! One run of a floor: it ends by a signal or after a time, and reports what it received and what that cost.
//!
//! In: signals, each datagram. Out: lines on stdout. Next: `receiver.rs`.

use crate::receiver::Receiver;
use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

static IS_ENDED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_number: libc::c_int) {
    IS_ENDED.store(true, Ordering::Relaxed);
}

/// A run, and what it received.
pub struct Run {
    started_cpu_ns: u64,
    datagrams: u64,
    bytes: u64,
    newlines: u64,
}

impl Run {
    /// Starts after the listener was made: ends by SIGINT, SIGTERM, or after `seconds`, if not 0.
    pub fn start(receiver: &Receiver, seconds: u32) -> io::Result<Run> {
        for number in [libc::SIGINT, libc::SIGTERM, libc::SIGALRM] {
            // SAFETY: the handler does nothing but store to an atomic; without SA_RESTART it also ends sleeps and waits.
            let answer = unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
                libc::sigaction(number, &raw const action, std::ptr::null_mut())
            };
            if answer != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: takes no pointer.
        unsafe { libc::alarm(seconds) };
        println!("listening on {}, receive buffer {} bytes", receiver.address()?, receiver.granted_bytes()?);
        io::stdout().flush()?;
        Ok(Run { started_cpu_ns: cpu_ns(), datagrams: 0, bytes: 0, newlines: 0 })
    }

    /// Whether it is to end.
    pub fn is_ended() -> bool {
        IS_ENDED.load(Ordering::Relaxed)
    }

    /// Reads every byte of a datagram, as a proxy has to, and counts it.
    pub fn read(&mut self, bytes: &[u8]) {
        self.newlines += memchr::memchr_iter(b'\n', bytes).count() as u64;
        self.bytes += bytes.len() as u64;
        self.datagrams += 1;
    }

    /// Bytes that were received until now.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Reports what was received and what all of it cost.
    pub fn report(&self, receiver: &Receiver) -> io::Result<()> {
        let cpu_ns = cpu_ns() - self.started_cpu_ns;
        println!(
            "received {} datagrams, {} bytes, {} newlines; {} datagrams dropped by the kernel",
            self.datagrams,
            self.bytes,
            self.newlines,
            receiver.drops()?
        );
        println!("CPU time {:.6} s, {} ns per datagram", cpu_ns as f64 / 1e9, cpu_ns / self.datagrams.max(1));
        Ok(())
    }
}

/// CPU time of this process, kernel and user.
fn cpu_ns() -> u64 {
    // SAFETY: zeroes are a valid rusage, which outlives the call.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &raw mut usage);
        usage
    };
    let us = |time: libc::timeval| time.tv_sec as u64 * 1_000_000 + time.tv_usec as u64;
    (us(usage.ru_utime) + us(usage.ru_stime)) * 1_000
}
