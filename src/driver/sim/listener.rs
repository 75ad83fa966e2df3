//! A fake listening socket: a queue of datagrams, bounded in bytes, that drops and counts when it is full.
//!
//! In: datagrams as they arrive. Out: datagrams to receives. Next: `network.rs` holds all of them.

use std::collections::VecDeque;

/// Approximate kernel memory of a queued datagram besides its payload, bytes.
const OVERHEAD_BYTES: usize = 256;

/// A datagram in the queue.
#[derive(Debug)]
pub(super) struct Queued {
    /// When it arrived.
    pub arrived_us: u64,
    /// Who sent it.
    pub sender: u64,
    /// Its payload.
    pub bytes: Box<[u8]>,
}

/// One listening socket.
#[derive(Debug)]
pub(super) struct Listener {
    /// Which address it is at.
    pub address: usize,
    queue: VecDeque<Queued>,
    queued_bytes: usize,
    bytes_max: usize,
    /// Datagrams dropped because the queue was full.
    pub drops: u64,
    /// It receives datagrams to its address.
    pub is_bound: bool,
    is_fenced: bool,
    /// Processes that have it; with none it is closed.
    pub holders: usize,
}

impl Listener {
    /// An empty one that holds `bytes_max`, not bound yet.
    pub fn new(address: usize, bytes_max: usize) -> Listener {
        Listener {
            address,
            queue: VecDeque::new(),
            queued_bytes: 0,
            bytes_max,
            drops: 0,
            is_bound: false,
            is_fenced: false,
            holders: 1,
        }
    }

    /// Whether new datagrams may arrive.
    pub fn takes_new(&self) -> bool {
        self.is_bound && !self.is_fenced && self.holders > 0
    }

    /// A datagram arrives; `false` if it was dropped because the queue was full.
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

    /// Takes the oldest datagram that had arrived by `now_us`.
    pub fn take(&mut self, now_us: u64) -> Option<Queued> {
        self.take_if(now_us, |_| true)
    }

    /// Takes the oldest datagram that had arrived by `now_us` if it `fits`.
    pub fn take_if(&mut self, now_us: u64, fits: impl Fn(&Queued) -> bool) -> Option<Queued> {
        self.queue.front().filter(|first| first.arrived_us <= now_us && fits(first))?;
        let datagram = self.queue.pop_front()?;
        self.queued_bytes -= datagram.bytes.len() + OVERHEAD_BYTES;
        Some(datagram)
    }

    /// Whether nothing that had arrived by `now_us` is queued.
    pub fn is_empty(&self, now_us: u64) -> bool {
        self.queue.front().is_none_or(|datagram| datagram.arrived_us > now_us)
    }

    /// When the first datagram arrives that had not by `now_us`, of those that a later clock has let in.
    pub fn next_us(&self, now_us: u64) -> Option<u64> {
        let first = self.queue.partition_point(|datagram| datagram.arrived_us <= now_us);
        self.queue.get(first).map(|datagram| datagram.arrived_us)
    }

    /// Bytes that the queue is charged for.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// Datagrams queued.
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Nothing arrives after `now_us`; datagrams that another worker's later clock has delivered already are returned.
    pub fn fence(&mut self, now_us: u64) -> Vec<Queued> {
        self.is_fenced = true;
        let first = self.queue.partition_point(|datagram| datagram.arrived_us <= now_us);
        let late: Vec<Queued> = self.queue.drain(first..).collect();
        self.queued_bytes -= late.iter().map(|datagram| datagram.bytes.len() + OVERHEAD_BYTES).sum::<usize>();
        late
    }

    /// Empties the queue; how many datagrams were in it.
    pub fn clear(&mut self) -> u64 {
        self.queued_bytes = 0;
        self.queue.drain(..).count() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(bytes: &[u8]) -> Queued {
        Queued { arrived_us: 5, sender: 0, bytes: bytes.into() }
    }

    #[test]
    fn a_full_queue_drops_and_counts() {
        let mut listener = Listener::new(0, 2 * OVERHEAD_BYTES + 10);
        assert!(listener.arrive(datagram(b"12345")) && listener.arrive(datagram(b"67890")));
        assert!(!listener.arrive(datagram(b"")));
        assert_eq!(listener.drops, 1);
        assert!(listener.is_empty(4) && listener.take(4).is_none(), "it has not arrived by then");
        let mut take = || listener.take(5).map(|taken| taken.bytes.to_vec());
        assert_eq!((take(), take(), take()), (Some(b"12345".to_vec()), Some(b"67890".to_vec()), None));
        assert!(listener.is_empty(5) && listener.arrive(datagram(b"")) && !listener.is_empty(5));
    }

    #[test]
    fn a_fence_keeps_what_had_arrived() {
        let mut listener = Listener::new(0, 10_000);
        listener.is_bound = true;
        listener.arrive(datagram(b"before"));
        listener.arrive(Queued { arrived_us: 8, ..datagram(b"after") });
        assert_eq!(listener.fence(5).len(), 1);
        assert!(!listener.takes_new());
        assert_eq!((listener.len(), listener.clear()), (1, 1));
    }
}
