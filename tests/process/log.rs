//! The log of a process from outside: what reads it may read as it comes, pause, or stop reading.
//!
//! In: a process that is about to be started. Out: the lines of its stderr. The pipe is this file's own, so that a test can
//! fill it: then every write to it waits for the reader.

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
    /// As /proc names it.
    pipe: PathBuf,
}

#[derive(Default)]
struct Shared {
    lines: Mutex<Vec<String>>,
    is_to_pause: AtomicBool,
    has_paused: AtomicBool,
}

impl Log {
    /// A log without a line, and the stderr of the process that is to write it.
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

    /// The pipe that the process and its successors log to, as /proc names it.
    pub fn pipe(&self) -> &Path {
        &self.pipe
    }

    /// What was read so far.
    pub fn lines(&self) -> Vec<String> {
        self.shared.lines.lock().unwrap().clone()
    }

    /// Reads nothing from now on, and fills the pipe.
    pub fn stall(&mut self) {
        let writer = self.writer.as_mut().expect("the process has not ended");
        self.shared.is_to_pause.store(true, Ordering::Relaxed);
        // The reader may wait for a line.
        writer.write_all(b"\n").unwrap();
        wait_until("the log's reader has paused", || self.shared.has_paused.load(Ordering::Relaxed));
        let is_writable = || {
            let mut polled = [PollFd::new(writer.as_fd(), PollFlags::POLLOUT)];
            poll(&mut polled, 0u8).unwrap() > 0
        };
        while is_writable() {
            // A pipe that is writable takes so much without blocking.
            (&*writer).write_all(&[b'\n'; 4_096]).unwrap();
        }
    }

    /// Reads on.
    pub fn resume(&self) {
        self.shared.is_to_pause.store(false, Ordering::Relaxed);
    }

    /// Waits until every process that writes it has ended, and all is read.
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
