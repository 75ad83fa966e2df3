//! Datagrams dropped by the kernel at each of a worker's listening sockets, and when that last increased.
//!
//! In: written by the worker when it reads the kernel's counts, a hundred times a second at most. Out: read by `admin/`.
//! Next: `admin/`. The sum is a counter of the account; this tells where.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// One worker's; one writer, any number of readers.
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
