//! A fake listening socket: a queue of datagrams, bounded in bytes, that drops and counts when it is full.
//!
//! In: datagrams as they arrive. Out: to the receive that is armed on it. Next: `kernel.rs`.

use crate::driver::uring::ring::Token;
use std::collections::VecDeque;

/// What the kernel charges for a queued datagram beside its payload, about.
const OVERHEAD_BYTES: usize = 256;

/// A datagram in the queue.
#[derive(Debug)]
pub(super) struct Queued {
    /// When it arrived.
    pub arrived_us: u64,
    /// Its payload.
    pub bytes: Box<[u8]>,
}

/// One listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    queue: VecDeque<Queued>,
    queued_bytes: usize,
    bytes_max: usize,
    /// Datagrams dropped for want of room.
    pub drops: u64,
    /// Nothing new arrives.
    pub is_fenced: bool,
    /// Others go on receiving from it.
    pub is_left: bool,
    /// The receive that stands on it.
    pub receive: Option<Token>,
    /// That receive ends as cancelled at the next turn.
    pub is_ending: bool,
}

impl Listener {
    /// An empty one that holds `bytes_max`.
    pub fn new(bytes_max: usize) -> Listener {
        Listener {
            queue: VecDeque::new(),
            queued_bytes: 0,
            bytes_max,
            drops: 0,
            is_fenced: false,
            is_left: false,
            receive: None,
            is_ending: false,
        }
    }

    /// A datagram arrives; `false` if it was dropped for want of room.
    pub fn arrive(&mut self, datagram: Queued) -> bool {
        let charge = datagram.bytes.len() + OVERHEAD_BYTES;
        if self.queued_bytes + charge > self.bytes_max {
            self.drops += 1;
            return false;
        }
        self.queued_bytes += charge;
        self.queue.push_back(datagram);
        true
    }

    /// Takes the oldest datagram.
    pub fn take(&mut self) -> Option<Queued> {
        let datagram = self.queue.pop_front()?;
        self.queued_bytes -= datagram.bytes.len() + OVERHEAD_BYTES;
        Some(datagram)
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(bytes: &[u8]) -> Queued {
        Queued { arrived_us: 0, bytes: bytes.into() }
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let mut listener = Listener::new(2 * OVERHEAD_BYTES + 10);
        assert!(listener.arrive(datagram(b"12345")) && listener.arrive(datagram(b"67890")));
        assert!(!listener.arrive(datagram(b"")));
        assert_eq!(listener.drops, 1);
        let mut take = || listener.take().map(|taken| taken.bytes.to_vec());
        assert_eq!((take(), take(), take()), (Some(b"12345".to_vec()), Some(b"67890".to_vec()), None));
        assert!(listener.is_empty() && listener.arrive(datagram(b"")) && !listener.is_empty());
    }
}
