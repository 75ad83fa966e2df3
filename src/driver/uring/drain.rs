//! What the receives of one drain brought.
//!
//! In: the completions of several receives that were submitted together, in any order. Out: the datagrams, by buffer, and whether
//! the queue was empty. Next: `kernel.rs`, which submits the receives.

use super::buffers::Buffers;
use super::cqe::{ReceiveResult, Received};
use crate::driver::kernel::Drained;

/// Datagrams that one multishot receive takes before it ends (MULTISHOT_MAX_RETRY of the kernel's io_uring/net.c); Linux 6.1 has no
/// such limit.
pub(super) const RECEIVE_DATAGRAMS: usize = 32;
/// Receives submitted together; an empty datagram ends one.
pub(super) const RECEIVES_MAX: usize = 64;

/// The result of the receives of one drain.
#[derive(Default)]
pub(super) struct Drain {
    pub held: Vec<Held>,
    pub unreadable: usize,
    /// Datagrams of each receive. Linux 6.2 to 6.14 may post the ends of all receives behind the datagrams of all.
    taken: Vec<usize>,
    /// Receives that have ended.
    pub ended: usize,
    /// Whether the last receive found the queue empty.
    pub is_empty: bool,
    pub has_no_buffers: bool,
    errno: i32,
}

/// A buffer with a datagram.
#[derive(Clone, Copy)]
pub(super) struct Held {
    /// `None`: an empty datagram, which has no buffer.
    pub id: Option<u16>,
    /// As the receive counts them: see [`ReceiveResult::Datagram`].
    pub bytes: usize,
}

impl Drain {
    /// Room for so many datagrams.
    pub fn new(datagrams_max: usize) -> Drain {
        Drain {
            held: Vec::with_capacity(datagrams_max),
            taken: Vec::with_capacity(RECEIVES_MAX),
            ..Drain::default()
        }
    }

    /// Starts a new one of so many receives.
    pub fn begin(&mut self, receives: usize) {
        self.held.clear();
        self.taken.clear();
        self.taken.resize(receives, 0);
        (self.unreadable, self.ended, self.errno) = (0, 0, 0);
        (self.is_empty, self.has_no_buffers) = (false, false);
    }

    /// Receives that took something.
    pub fn used(&self) -> usize {
        self.taken.iter().filter(|taken| **taken > 0).count()
    }

    /// Adds one completion of the receive at `index`.
    pub fn add(&mut self, index: usize, received: Received, is_recv: bool, buffers: &mut Buffers) {
        if let Some(id) = received.buffer {
            buffers.take(id);
        }
        match (received.result, received.buffer) {
            (ReceiveResult::Datagram { bytes }, id @ Some(_)) => self.hold(index, Held { id, bytes }),
            (ReceiveResult::NoBuffer { bytes: 0 }, None) if is_recv => {
                self.hold(index, Held { id: None, bytes: 0 });
            }
            (result, buffer) => {
                if let Some(id) = buffer {
                    buffers.recycle(id);
                }
                match result {
                    ReceiveResult::Datagram { .. } | ReceiveResult::NoBuffer { .. } => self.unreadable += 1,
                    ReceiveResult::NoBuffers => self.has_no_buffers = true,
                    ReceiveResult::Interrupted => self.errno = libc::EINTR,
                    ReceiveResult::Failed(errno) => self.errno = errno,
                    ReceiveResult::Again => {}
                }
            }
        }
        if received.is_last {
            self.ended += 1;
            if index + 1 == self.taken.len() {
                self.is_empty =
                    received.result == ReceiveResult::Again && self.taken[index] < RECEIVE_DATAGRAMS;
            }
        }
    }

    fn hold(&mut self, index: usize, held: Held) {
        self.held.push(held);
        if let Some(taken) = self.taken.get_mut(index) {
            *taken += 1;
        }
    }

    /// The result for the driver; an error if nothing was taken and the queue was not found empty.
    pub fn result(&self) -> Result<Drained, i32> {
        if self.held.is_empty() && self.unreadable == 0 && !self.is_empty {
            return Err(if self.errno == 0 { libc::ENOBUFS } else { self.errno });
        }
        Ok(Drained { datagrams: self.held.len(), unreadable: self.unreadable, is_empty: self.is_empty })
    }
}

#[cfg(test)]
mod tests {
    use super::super::cqe;
    use super::*;

    /// A drain of two receives on 100 buffers, after these completions: the receive, the result, the flags.
    fn drained(completions: impl IntoIterator<Item = (usize, i32, u32)>) -> Drain {
        let mut buffers = Buffers::new(100, 64).unwrap();
        buffers.offer(100);
        let mut drain = Drain::new(100);
        drain.begin(2);
        for (index, res, flags) in completions {
            drain.add(index, cqe::classify(res, flags), true, &mut buffers);
        }
        drain
    }

    /// Datagrams of receive `index`, in the buffers `ids`.
    fn datagrams(index: usize, ids: std::ops::Range<u32>) -> impl Iterator<Item = (usize, i32, u32)> {
        ids.map(move |id| (index, 5, cqe::CQE_BUFFER | cqe::CQE_MORE | id << cqe::CQE_BUFFER_SHIFT))
    }

    #[test]
    fn last_receive_decides_whether_the_queue_is_empty_in_any_order_of_the_ends() {
        let end = |index| (index, -libc::EAGAIN, 0);
        for (second, is_empty) in [(0, true), (31, true), (33, false)] {
            let expected = Ok(Drained { datagrams: 33 + second as usize, unreadable: 0, is_empty });
            let (first, second) = (|| datagrams(0, 0..33), || datagrams(1, 33..33 + second));
            let in_order = drained(first().chain([end(0)]).chain(second()).chain([end(1)]));
            let ends_last = drained(first().chain(second()).chain([end(0), end(1)]));
            for drain in [in_order, ends_last] {
                assert_eq!(drain.result(), expected);
                assert_eq!((drain.ended, drain.used()), (2, 1 + usize::from(second().next().is_some())));
            }
        }
    }

    #[test]
    fn empty_datagram_is_held_and_ends_its_receive() {
        let drain = drained([(0, 0, 0), (1, 0, 0)]);
        assert_eq!(drain.result(), Ok(Drained { datagrams: 2, unreadable: 0, is_empty: false }));
        assert!(drain.held.iter().all(|held| held.id.is_none()));
    }

    #[test]
    fn drain_that_took_nothing_and_did_not_find_the_queue_empty_is_an_error() {
        let ends = |errno: i32| drained([(0, -errno, 0), (1, -errno, 0)]).result();
        assert_eq!(ends(libc::EAGAIN), Ok(Drained { is_empty: true, ..Drained::default() }));
        for errno in [libc::ENOBUFS, libc::EINTR, libc::ENOMEM] {
            assert_eq!(ends(errno), Err(errno));
        }
        let with_buffer = drained([(0, -libc::EAGAIN, cqe::CQE_BUFFER), (1, -libc::EAGAIN, 0)]);
        assert_eq!(with_buffer.result(), Ok(Drained { is_empty: true, ..Drained::default() }));
    }
}
