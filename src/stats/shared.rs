//! Figures that one worker shares with the rest of the process.
//!
//! In: written by the worker. Out: read by `admin/` and `control/`. Next: `admin/`.

use super::{LatencyExchange, Published, SleepGauge, SocketDrops, host};
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

/// One worker's figures.
#[derive(Default)]
pub struct WorkerShared {
    /// Its counters, one consistent snapshot per batch.
    pub published: Published,
    /// Its latency histograms, on request.
    pub latency: LatencyExchange,
    /// How it sleeps.
    pub sleep: SleepGauge,
    /// Drops at its listening sockets.
    pub drops: SocketDrops,
    /// Its thread as the kernel names it; 0 until it has started.
    thread: AtomicI32,
    /// The generation of the route table that it follows; 0 until it has started.
    generation: AtomicU64,
    /// The last number requested as echo, and the last echoed.
    asked: AtomicU64,
    echoed: AtomicU64,
}

impl WorkerShared {
    /// Says which thread is the worker's; told by that thread at its start.
    pub fn set_thread(&self, thread: i32) {
        self.thread.store(thread, Ordering::Relaxed);
    }

    /// Says which route table the worker follows from now on.
    pub fn set_generation(&self, generation: u64) {
        self.generation.store(generation, Ordering::Release);
    }

    /// The generation of the route table that the worker follows: nothing that it receives from now on goes by an older
    /// one. 0 until it has started.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Requests an echo (liveness check); wake the worker afterwards. The number to be echoed.
    pub fn ask_echo(&self) -> u64 {
        self.asked.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Echoes, if requested; once per batch, by the worker.
    pub fn echo(&self) {
        let asked = self.asked.load(Ordering::Relaxed);
        if asked != self.echoed.load(Ordering::Relaxed) {
            self.echoed.store(asked, Ordering::Relaxed);
        }
    }

    /// Whether the worker has gone through a batch since [`WorkerShared::ask_echo`] gave this number.
    pub fn has_echoed(&self, number: u64) -> bool {
        self.echoed.load(Ordering::Relaxed) >= number
    }

    /// CPU time of the worker's thread so far, in µs; `None` before its start, after its end, and where the kernel does not
    /// show it. Reading it costs the worker nothing.
    pub fn cpu_us(&self) -> Option<u64> {
        match self.thread.load(Ordering::Relaxed) {
            0 => None,
            thread => host::thread_cpu_ns(thread).map(|ns| ns / 1_000),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_echo_is_not_undone_by_a_later_question() {
        let shared = WorkerShared::default();
        let first = shared.ask_echo();
        assert!(!shared.has_echoed(first));
        shared.echo();
        let second = shared.ask_echo();
        assert!(shared.has_echoed(first) && !shared.has_echoed(second));
    }

    #[test]
    fn a_threads_cpu_time_can_be_read_by_others() {
        let shared = WorkerShared::default();
        assert_eq!(shared.cpu_us(), None);
        shared.set_thread(nix::unistd::gettid().as_raw());
        let before = shared.cpu_us().unwrap();
        let (mut now, mut work) = (before, 0u64);
        while now < before + 2_000 {
            work = std::hint::black_box((0..100_000u64).fold(work, u64::wrapping_add));
            now = std::thread::scope(|scope| scope.spawn(|| shared.cpu_us()).join()).unwrap().unwrap();
        }
    }
}
