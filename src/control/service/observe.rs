//! Live display of metrics: `tap` on the admin port, and the debug log of `-d`.
//!
//! In: every routed metric, on the workers' threads, while anyone looks. Out: copies on bounded channels; what does not
//! fit is counted, so a worker never waits for a reader. Next: `admin_service.rs` answers `tap`; the debug log goes to
//! stderr.

use crate::admin::{TAPS_MAX, Tapped};
use crate::relay::{Observer, RouteNode};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;

/// Lines that the debug log shows in a second.
pub const DEBUG_LINES_PER_SECOND: usize = 1_000;
/// Bytes of a metric that are shown; it is forwarded whole.
const LINE_BYTES_SHOWN_MAX: usize = 1_024;

/// A copy to show: bounded, so that the memory held for a slow reader is bounded too.
fn copy(line: &[u8], node: &RouteNode) -> Tapped {
    Tapped { line: line[..line.len().min(LINE_BYTES_SHOWN_MAX)].to_vec(), node: node.name.clone() }
}

/// Takes the next so many metrics that begin with a prefix.
pub struct Tap {
    prefix: Vec<u8>,
    left: AtomicUsize,
    passed: mpsc::Sender<Tapped>,
}

impl Tap {
    /// A tap for `metrics` metrics (at least 1), and where they come out.
    pub fn new(prefix: Vec<u8>, metrics: usize) -> (Arc<Tap>, mpsc::Receiver<Tapped>) {
        // Room for all of them: sending never finds the channel full.
        let (passed, taken) = mpsc::channel(metrics.max(1));
        (Arc::new(Tap { prefix, left: AtomicUsize::new(metrics), passed }), taken)
    }

    /// Waits until the receiver is dropped.
    pub async fn closed(&self) {
        self.passed.closed().await;
    }

    fn routed(&self, line: &[u8], node: &RouteNode) {
        if self.left.load(Ordering::Relaxed) == 0 || !line.starts_with(&self.prefix) {
            return;
        }
        let took = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if took.is_ok() {
            let _ = self.passed.try_send(copy(line, node));
        }
    }
}

/// The worker's half of the debug log.
pub struct DebugLog {
    /// Lines that may still be shown in this second.
    allowance: AtomicUsize,
    suppressed: AtomicU64,
    passed: mpsc::Sender<Tapped>,
}

impl DebugLog {
    /// The log, and where its lines come out: give them to [`write_debug_log`].
    pub fn new() -> (Arc<DebugLog>, mpsc::Receiver<Tapped>) {
        let (passed, taken) = mpsc::channel(DEBUG_LINES_PER_SECOND);
        let log = DebugLog {
            allowance: AtomicUsize::new(DEBUG_LINES_PER_SECOND),
            suppressed: AtomicU64::new(0),
            passed,
        };
        (Arc::new(log), taken)
    }

    fn routed(&self, line: &[u8], node: &RouteNode) {
        let took =
            self.allowance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if took.is_err() || self.passed.try_send(copy(line, node)).is_err() {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Logs metrics as they arrive, and after each active second the number not shown. Sleeps without a timer
/// while there are none. Ends when the log is dropped.
pub async fn write_debug_log(log: std::sync::Weak<DebugLog>, mut passed: mpsc::Receiver<Tapped>) {
    while let Some(first) = passed.recv().await {
        let second = tokio::time::sleep(Duration::from_secs(1));
        tokio::pin!(second);
        show(&first);
        loop {
            tokio::select! {
                biased;
                () = &mut second => break,
                next = passed.recv() => match next {
                    Some(next) => show(&next),
                    None => break,
                },
            }
        }
        let Some(log) = log.upgrade() else { return };
        let suppressed = log.suppressed.swap(0, Ordering::Relaxed);
        if suppressed > 0 {
            tracing::debug!(metrics_not_shown = suppressed, "{suppressed} more metrics not shown");
        }
        log.allowance.store(DEBUG_LINES_PER_SECOND, Ordering::Relaxed);
    }
}

fn show(passed: &Tapped) {
    let (metric, backend) = (passed.line.escape_ascii(), passed.node.escape_default());
    tracing::debug!(%metric, %backend, "{metric} -> {backend}");
}

/// The current observers of metrics.
#[derive(Clone, Default)]
pub struct Observers {
    /// The debug log, if `-d` was given.
    pub debug: Option<Arc<DebugLog>>,
    /// The taps that are open.
    pub taps: Vec<Arc<Tap>>,
}

impl Observers {
    /// For the route table: `None` without observers, so that the data path pays nothing.
    pub fn observer(&self) -> Option<Arc<dyn Observer>> {
        let anyone = self.debug.is_some() || !self.taps.is_empty();
        anyone.then(|| Arc::new(self.clone()) as Arc<dyn Observer>)
    }

    /// Adds a tap, up to the limit. Taps without a receiver do not count.
    pub fn add(&mut self, tap: &Arc<Tap>) -> bool {
        let open = self.taps.iter().filter(|tap| !tap.passed.is_closed()).count();
        if open < TAPS_MAX {
            self.taps.push(tap.clone());
        }
        open < TAPS_MAX
    }

    /// Removes a tap.
    pub fn remove(&mut self, tap: &Arc<Tap>) {
        self.taps.retain(|other| !Arc::ptr_eq(other, tap));
    }
}

impl Observer for Observers {
    fn routed(&self, line: &[u8], node: &RouteNode) {
        if let Some(debug) = &self.debug {
            debug.routed(line, node);
        }
        for tap in &self.taps {
            tap.routed(line, node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> RouteNode {
        RouteNode {
            name: name.into(),
            address: None,
            may_move: false,
            source: None,
            gso: crate::relay::GsoMode::Off,
            counters: Arc::default(),
        }
    }

    #[test]
    fn a_tap_takes_the_next_matching_metrics_and_no_more() {
        let (tap, mut taken) = Tap::new(b"api.".to_vec(), 2);
        let mut observers = Observers { debug: None, taps: vec![tap.clone()] };
        let observer = observers.observer().unwrap();
        for (line, name) in
            [("web.x:1|c", "a:1"), ("api.x:1|c", "b:1"), ("api.y:2|g", "a:1"), ("api.z:1|c", "a:1")]
        {
            observer.routed(line.as_bytes(), &node(name));
        }
        let first = taken.try_recv().unwrap();
        assert_eq!((first.line.as_slice(), &*first.node), (&b"api.x:1|c"[..], "b:1"));
        assert_eq!(taken.try_recv().unwrap().line, b"api.y:2|g");
        assert!(taken.try_recv().is_err());
        observers.remove(&tap);
        assert!(observers.observer().is_none());
    }

    #[test]
    fn taps_are_independent() {
        let (one, mut taken) = Tap::new(Vec::new(), 5);
        let (two, gone) = Tap::new(Vec::new(), 5);
        drop(gone);
        let observer = Observers { debug: None, taps: vec![two, one] }.observer().unwrap();
        for _ in 0..5 {
            observer.routed(b"x:1|c", &node("a:1"));
        }
        for _ in 0..5 {
            assert!(taken.try_recv().is_ok());
        }
    }

    #[test]
    fn taps_are_few_and_one_that_ended_makes_room() {
        let mut observers = Observers::default();
        let mut taken: Vec<_> = (0..TAPS_MAX)
            .map(|_| {
                let (tap, taken) = Tap::new(Vec::new(), 1);
                assert!(observers.add(&tap));
                taken
            })
            .collect();
        let (tap, _taken) = Tap::new(Vec::new(), 1);
        assert!(!observers.add(&tap) && observers.taps.len() == TAPS_MAX);
        taken.pop();
        assert!(observers.add(&tap));
    }

    #[test]
    fn long_metrics_are_shown_cut() {
        let (tap, mut taken) = Tap::new(Vec::new(), 1);
        tap.routed(&[b'x'; 60_000], &node("a:1"));
        assert_eq!(taken.try_recv().unwrap().line.len(), LINE_BYTES_SHOWN_MAX);
    }

    #[test]
    fn the_debug_log_shows_a_thousand_a_second_and_counts_the_rest() {
        let (log, mut taken) = DebugLog::new();
        for _ in 0..DEBUG_LINES_PER_SECOND + 234 {
            log.routed(b"x:1|c", &node("a:1"));
        }
        assert_eq!(log.suppressed.load(Ordering::Relaxed), 234);
        let shown = std::iter::from_fn(|| taken.try_recv().ok()).count();
        assert_eq!(shown, DEBUG_LINES_PER_SECOND);
    }

    #[test]
    fn the_allowance_comes_back_after_the_second() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (log, taken) = DebugLog::new();
            let written = tokio::spawn(write_debug_log(Arc::downgrade(&log), taken));
            for _ in 0..DEBUG_LINES_PER_SECOND + 1 {
                log.routed(b"x:1|c", &node("a:1"));
            }
            while log.suppressed.load(Ordering::Relaxed) > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            while log.allowance.load(Ordering::Relaxed) != DEBUG_LINES_PER_SECOND {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            drop(log);
            written.await.unwrap();
        });
    }
}
