//! Captures the log of a process: the reader can follow it, pause, or stop.
//!
//! In: a process to be started. Out: the lines of its stderr. This file owns the pipe, so that a test can fill it: then every
//! write blocks until it is read.

use crate::patience::wait_until;
use nix::poll::{PollFd, PollFlags, poll};
use std::io::{BufRead, BufReader, PipeWriter, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

pub struct Log {
    shared: Arc<Shared>,
    /// Keeps the pipe open, and fills it.
    writer: Option<PipeWriter>,
    reader: Option<JoinHandle<()>>,
    /// Its name in /proc.
    pipe: PathBuf,
}

#[derive(Default)]
struct Shared {
    lines: Mutex<Vec<String>>,
    is_to_pause: AtomicBool,
    has_paused: AtomicBool,
}

impl Log {
    /// An empty log, and the stderr for the process.
    pub fn new() -> (Log, Stdio) {
        let (reader, writer) = std::io::pipe().unwrap();
        let stderr = writer.try_clone().unwrap();
        let pipe = std::fs::read_link(format!("/proc/self/fd/{}", reader.as_raw_fd())).unwrap();
        let shared = Arc::new(Shared::default());
        let reader = std::thread::spawn({
            let shared = shared.clone();
            move || shared.read(BufReader::new(reader))
        });
        (Log { shared, writer: Some(writer), reader: Some(reader), pipe }, stderr.into())
    }

    /// The name in /proc of the pipe used by the process and its successors.
    pub fn pipe(&self) -> &Path {
        &self.pipe
    }

    /// The lines read so far.
    pub fn lines(&self) -> Vec<String> {
        self.shared.lines.lock().unwrap().clone()
    }

    /// Stops reading, and fills the pipe.
    pub fn stall(&mut self) {
        let writer = self.writer.as_mut().expect("the process has not exited");
        self.shared.is_to_pause.store(true, Ordering::Relaxed);
        // The reader may be waiting for a line.
        writer.write_all(b"\n").unwrap();
        wait_until("the log reader has paused", || self.shared.has_paused.load(Ordering::Relaxed));
        let is_writable = || {
            let mut polled = [PollFd::new(writer.as_fd(), PollFlags::POLLOUT)];
            poll(&mut polled, 0u8).unwrap() > 0
        };
        while is_writable() {
            // A writable pipe accepts this much without blocking.
            (&*writer).write_all(&[b'\n'; 4_096]).unwrap();
        }
    }

    /// Resumes reading.
    pub fn resume(&self) {
        self.shared.is_to_pause.store(false, Ordering::Relaxed);
    }

    /// Waits until all writers have exited and everything is read.
    pub fn wait_for_end(&mut self) {
        self.writer = None;
        self.resume();
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
    }
}

impl Shared {
    fn read(&self, mut pipe: impl BufRead) {
        let mut line = Vec::new();
        loop {
            while self.is_to_pause.load(Ordering::Relaxed) {
                self.has_paused.store(true, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(5));
            }
            self.has_paused.store(false, Ordering::Relaxed);
            line.clear();
            if !matches!(pipe.read_until(b'\n', &mut line), Ok(1..)) {
                return;
            }
            let line = line.trim_ascii_end();
            if !line.is_empty() {
                self.lines.lock().unwrap().push(String::from_utf8_lossy(line).into_owned());
            }
        }
    }
}
