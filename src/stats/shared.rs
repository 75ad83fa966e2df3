//! Figures that one worker shares with the rest of the process: counters, latencies, how it sleeps, drops at its sockets.
//!
//! In: written by the worker, without locks. Out: read by `admin/` and `control/` at any moment. Next: `admin/`.

use super::{LatencyExchange, Published, host};
use std::sync::OnceLock;
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

/// No traffic flows.
const IDLE: u64 = u64::MAX;
/// Bits of the packed number that hold the share; the others hold the sleep.
const SHARE_BITS: u32 = 16;

/// How a worker sleeps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sleep {
    /// No traffic flows: it waits for the next datagram, without a timer.
    #[default]
    Idle,
    /// Traffic flows, and it wakes for each datagram.
    Each,
    /// Traffic flows, and it sleeps while datagrams accumulate.
    Gather {
        /// The longest sleep that it would take now, in µs.
        sleep_us: u64,
        /// How much of the granted receive buffer the peak rate fills in that time, in thousandths.
        filled_permille: u16,
    },
}

/// The last [`Sleep`] of one worker.
pub struct SleepGauge {
    packed: AtomicU64,
}

impl SleepGauge {
    /// Sets the state.
    pub fn set(&self, sleep: Sleep) {
        let packed = match sleep {
            Sleep::Idle => IDLE,
            Sleep::Each => 0,
            Sleep::Gather { sleep_us, filled_permille } => {
                sleep_us.min(IDLE >> (SHARE_BITS + 1)) << SHARE_BITS | u64::from(filled_permille)
            }
        };
        self.packed.store(packed, Ordering::Relaxed);
    }

    /// The last state.
    pub fn read(&self) -> Sleep {
        match self.packed.load(Ordering::Relaxed) {
            IDLE => Sleep::Idle,
            0 => Sleep::Each,
            packed => Sleep::Gather { sleep_us: packed >> SHARE_BITS, filled_permille: packed as u16 },
        }
    }
}

impl Default for SleepGauge {
    fn default() -> Self {
        SleepGauge { packed: AtomicU64::new(IDLE) }
    }
}

/// Datagrams dropped by the kernel at each of a worker's listening sockets, and when that last increased. Their sum is one of
/// the worker's counters.
#[derive(Default)]
pub struct SocketDrops {
    /// By listening socket, in the order of the addresses; made when the worker starts.
    sockets: OnceLock<Box<[AtomicU64]>>,
    /// µs of the driver's clock; 0 = never.
    last_us: AtomicU64,
}

impl SocketDrops {
    /// Makes room for so many sockets. Only the first call has an effect.
    pub fn make_room(&self, sockets: usize) {
        let _ = self.sockets.set((0..sockets).map(|_| AtomicU64::new(0)).collect());
    }

    /// Socket number `index` has dropped so many datagrams since it was made, as was found at `now_us`.
    pub fn set(&self, index: usize, drops: u64, now_us: u64) {
        let socket = self.sockets.get().and_then(|sockets| sockets.get(index));
        if socket.is_some_and(|socket| socket.swap(drops, Ordering::Relaxed) < drops) {
            self.last_us.store(now_us.max(1), Ordering::Relaxed);
        }
    }

    /// The drops of each socket; empty before the worker has started.
    pub fn read(&self) -> Vec<u64> {
        let sockets = self.sockets.get().map(|sockets| &**sockets).unwrap_or_default();
        sockets.iter().map(|socket| socket.load(Ordering::Relaxed)).collect()
    }

    /// When drops were last found, in µs of the driver's clock.
    pub fn last_us(&self) -> Option<u64> {
        Some(self.last_us.load(Ordering::Relaxed)).filter(|at| *at > 0)
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

    #[test]
    fn what_is_told_can_be_read() {
        let gauge = SleepGauge::default();
        assert_eq!(gauge.read(), Sleep::Idle);
        for sleep in [
            Sleep::Each,
            Sleep::Gather { sleep_us: 100, filled_permille: 0 },
            Sleep::Gather { sleep_us: 1_000_000, filled_permille: u16::MAX },
            Sleep::Idle,
        ] {
            gauge.set(sleep);
            assert_eq!(gauge.read(), sleep);
        }
    }

    #[test]
    fn each_socket_has_its_drops_and_only_new_ones_have_a_time() {
        let drops = SocketDrops::default();
        drops.set(0, 5, 1);
        assert_eq!((drops.read(), drops.last_us()), (Vec::new(), None));
        drops.make_room(2);
        drops.set(0, 0, 10);
        assert_eq!(drops.last_us(), None);
        drops.set(1, 3, 20);
        drops.set(1, 3, 30);
        drops.set(2, 9, 40);
        assert_eq!((drops.read(), drops.last_us()), (vec![0, 3], Some(20)));
    }
}
