//! Log lines on their way to a reader that may be slow or gone.
//!
//! In: lines, from any thread, without waiting. Out: the same lines, in order, to a writer that may block forever; beyond
//! a bound the oldest are dropped and counted, since the newest describe the current state. Next: `logging.rs` runs the writer.
//!
//! Not `tracing-appender`: it drops the newest lines, the final counters among them, and its guard prints to standard
//! output, which may be as full as standard error.

use nix::errno::Errno;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// A write that takes longer waits for a reader that has stalled.
const STALLED: Duration = Duration::from_secs(1);
/// How often [`Queue::flush`] looks.
const LOOK: Duration = Duration::from_millis(1);
/// Slots kept for lines when none waits.
const SLOTS_KEPT: usize = 64;

/// Lines that wait to be written.
pub struct Queue {
    bytes_max: usize,
    state: Mutex<State>,
    filled: Condvar,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Box<[u8]>>,
    /// Of all of them.
    bytes: usize,
    dropped: u64,
    dropped_at: Option<Instant>,
    /// Dropped lines that no line has reported yet.
    unreported: u64,
    /// Since when one line is being written.
    writing_since: Option<Instant>,
    /// Why the last line could not be written.
    error: Option<Errno>,
}

/// Figures of the lines so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogFigures {
    /// Lines that were not written, for lack of a reader or because of an error.
    pub lines_dropped: u64,
    /// How long ago the last of these was dropped.
    pub dropped_ago: Option<Duration>,
    /// How long the reader has been taking nothing, if it is too long.
    pub stalled_for: Option<Duration>,
    /// Why nothing can be written, if that is so.
    pub error: Option<Errno>,
}

impl Queue {
    /// A queue of at most `bytes_max` bytes.
    pub fn new(bytes_max: usize) -> Queue {
        Queue { bytes_max, state: Mutex::default(), filled: Condvar::new() }
    }

    /// Adds a line. If the queue is full, the oldest ones are dropped.
    pub fn push(&self, line: &[u8]) {
        let mut state = self.lock();
        if line.len() > self.bytes_max {
            return state.lose(1);
        }
        while state.bytes + line.len() > self.bytes_max {
            state.pop();
            state.lose(1);
        }
        state.bytes += line.len();
        state.lines.push_back(line.into());
        drop(state);
        self.filled.notify_one();
    }

    /// Waits for a line and writes it, preceded by the line of `gap` for the number of lines dropped there, if any.
    pub fn write_next(&self, out: &mut impl Write, gap: impl Fn(u64) -> Vec<u8>) {
        let mut state = self.lock();
        let line = loop {
            match state.pop() {
                Some(line) => break line,
                None => state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        };
        state.writing_since = Some(Instant::now());
        let unreported = state.unreported;
        drop(state);
        let told = if unreported > 0 { out.write_all(&gap(unreported)) } else { Ok(()) };
        let is_told = told.is_ok();
        let written = told.and_then(|()| out.write_all(&line));
        let mut state = self.lock();
        state.writing_since = None;
        state.unreported -= if is_told { unreported } else { 0 };
        state.error = written.err().map(|error| errno(&error));
        if state.error.is_some() {
            state.lose(1);
        }
    }

    /// Waits until every line is written, at most `limit`; whether all were.
    ///
    /// It polls instead of waiting for the lock: a panicking thread may call it, whatever it holds.
    pub fn flush(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            let is_empty = match self.state.try_lock() {
                Ok(state) => state.is_written(),
                Err(TryLockError::Poisoned(state)) => state.get_ref().is_written(),
                Err(TryLockError::WouldBlock) => false,
            };
            if is_empty || Instant::now() >= end {
                return is_empty;
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Figures of the lines so far.
    pub fn figures(&self) -> LogFigures {
        let state = self.lock();
        LogFigures {
            lines_dropped: state.dropped,
            dropped_ago: state.dropped_at.map(|at| at.elapsed()),
            stalled_for: state.writing_since.map(|since| since.elapsed()).filter(|time| *time >= STALLED),
            error: state.error,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn pop(&mut self) -> Option<Box<[u8]>> {
        let line = self.lines.pop_front()?;
        self.bytes -= line.len();
        if self.lines.is_empty() {
            self.lines.shrink_to(SLOTS_KEPT);
        }
        Some(line)
    }

    fn lose(&mut self, lines: u64) {
        self.dropped += lines;
        self.unreported += lines;
        self.dropped_at = Some(Instant::now());
    }

    fn is_written(&self) -> bool {
        self.lines.is_empty() && self.writing_since.is_none()
    }
}

impl LogFigures {
    /// What is wrong with the log now, for `status`; `None` if nothing is.
    pub fn trouble(&self) -> Option<String> {
        let dropped = self.lines_dropped;
        if let Some(time) = self.stalled_for {
            return Some(format!(
                "log: standard error has been blocked for {} s; new lines are queued, then the oldest are dropped ({dropped} \
                 so far): check the program that reads it, or restart with standard error redirected",
                time.as_secs()
            ));
        }
        self.error.map(|errno| {
            format!("log: cannot write to standard error: {errno}; lines are dropped ({dropped} so far)")
        })
    }
}

fn errno(error: &io::Error) -> Errno {
    // A write of nothing at all has no number of its own.
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    /// Takes a line for each permit; without one it waits.
    struct Slow {
        permits: Receiver<()>,
        written: SyncSender<Vec<u8>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.permits.recv().map_err(|_| io::Error::from(Errno::EPIPE))?;
            self.written.send(bytes.to_vec()).unwrap();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn gap(lines: u64) -> Vec<u8> {
        format!("-{lines}").into_bytes()
    }

    /// A queue with a thread that writes it, which waits for permits.
    fn written(bytes_max: usize) -> (Arc<Queue>, SyncSender<()>, Receiver<Vec<u8>>) {
        let queue = Arc::new(Queue::new(bytes_max));
        let ((permit, permits), (written, lines)) = (sync_channel(1_000), sync_channel(1_000));
        let writer = queue.clone();
        std::thread::spawn(move || {
            let mut slow = Slow { permits, written };
            loop {
                writer.write_next(&mut slow, gap);
            }
        });
        (queue, permit, lines)
    }

    const AMPLE: Duration = Duration::from_secs(60);

    #[test]
    fn lines_come_whole_and_in_order() {
        let (queue, permit, lines) = written(1_000);
        for number in 0..100u8 {
            queue.push(&[number]);
            permit.send(()).unwrap();
        }
        assert!(queue.flush(AMPLE));
        assert_eq!(
            lines.try_iter().collect::<Vec<_>>(),
            (0..100).map(|number| vec![number]).collect::<Vec<_>>()
        );
        assert_eq!(queue.figures(), LogFigures::default());
    }

    #[test]
    fn a_stalled_reader_costs_the_oldest_lines_and_is_reported() {
        let (queue, permit, lines) = written(10);
        queue.push(b"first");
        while queue.lock().writing_since.is_none() {
            std::thread::sleep(LOOK);
        }
        for line in [b"a12", b"b12", b"c12", b"d12", b"e12"] {
            queue.push(line);
        }
        queue.push(&[0; 11]);
        assert!(!queue.flush(Duration::from_millis(5)));
        let figures = queue.figures();
        assert_eq!(figures.lines_dropped, 3);
        assert!(figures.dropped_ago.is_some() && figures.error.is_none());
        (0..5).for_each(|_| permit.send(()).unwrap());
        assert!(queue.flush(AMPLE));
        let lines: Vec<String> = lines.try_iter().map(|line| String::from_utf8(line).unwrap()).collect();
        assert_eq!(lines, ["first", "-3", "c12", "d12", "e12"]);
        assert_eq!(queue.lock().unreported, 0);
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let (queue, permit, _lines) = written(100);
        drop(permit);
        queue.push(b"lost");
        queue.push(b"lost too");
        assert!(queue.flush(AMPLE));
        let figures = queue.figures();
        assert_eq!((figures.lines_dropped, figures.error), (2, Some(Errno::EPIPE)));
        assert_eq!(queue.lock().unreported, 2);
        let trouble = figures.trouble().unwrap();
        assert!(trouble.contains("EPIPE") && trouble.contains("(2 so far)"), "{trouble}");
    }

    #[test]
    fn a_stall_is_trouble_as_long_as_it_lasts() {
        let stalled = LogFigures { stalled_for: Some(AMPLE), ..LogFigures::default() };
        assert!(stalled.trouble().unwrap().contains("for 60 s; "));
        assert_eq!(LogFigures { lines_dropped: 7, ..LogFigures::default() }.trouble(), None);
    }
}
