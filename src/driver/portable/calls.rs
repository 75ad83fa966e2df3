//! The system calls of the portable driver, as one trait: the real one (`kernel.rs`) and the seeded fake
//! (`driver/sim`) both implement it, so that all rules about batches, sleeps and errors are in safe code.
//!
//! In: what to receive, send, wait for. Out: counts and errnos, as the kernel gives them. Next: `engine.rs`, which keeps the
//! rules.

use crate::driver::DriverInfo;
use crate::driver::icmp_errors::QueuedErrors;
use crate::packet::{Packet, SocketSlot};
use std::net::{IpAddr, SocketAddr};

/// Sizes that are fixed after the making.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Listening sockets.
    pub listeners: usize,
    /// Datagrams that one [`Calls::receive`] takes at most.
    pub batch: usize,
    /// Datagrams that are taken at most before the worker has its turn.
    pub turn: usize,
    /// Packets between `push` and `sent`.
    pub sends_max: usize,
    /// Messages that one [`Calls::send`] takes at most.
    pub messages_max: usize,
    /// Whether datagrams come with the kernel's timestamps.
    pub timestamps: bool,
}

/// A received datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// What there was room for.
    pub payload: &'a [u8],
    /// Its true length.
    pub datagram_bytes: usize,
}

/// What one [`Calls::send`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Messages that the kernel took, from the first on.
    pub messages: usize,
    /// The errno of the first one, which was not taken; 0 if it was. The errno of a later one the kernel does not tell.
    pub errno: i32,
}

/// The system calls of one worker, with its sockets. No method but [`Calls::sleep`] sleeps.
pub trait Calls {
    /// The clock, µs, monotonic.
    fn now_us(&self) -> u64;

    /// The wall clock, ns since 1970.
    fn wall_ns(&self) -> u64;

    /// The sizes it was made with.
    fn sizes(&self) -> Sizes;

    /// What it was granted.
    fn facts(&self) -> &DriverInfo;

    /// Takes up to `count_max` datagrams out of a listening socket's queue (recvmmsg, MSG_DONTWAIT, MSG_TRUNC); how many,
    /// fewer than that only if the queue was empty then. Those of the last call are overwritten.
    ///
    /// # Errors
    /// The errno; EAGAIN if the queue was empty.
    fn receive(&mut self, listener: usize, count_max: usize) -> Result<usize, i32>;

    /// A datagram of the last [`Calls::receive`].
    fn datagram(&self, index: usize) -> Datagram<'_>;

    /// The control messages that came with it.
    fn control(&self, index: usize) -> &[u8];

    /// Sends messages to one socket (sendmmsg, MSG_DONTWAIT): `packets` in order, of which each of `gso_batches` takes so many as
    /// one message. `packets` has as many as `gso_batches` sum up to, and all have the same socket.
    fn send(&mut self, packets: &[Packet], gso_batches: &[usize]) -> Sent;

    /// Sleeps until the clock shows `until_us` (`None`: for ever), a wake comes, or a listening socket that is `watched` has
    /// something to read. A wake is taken; [`Calls::is_ready`] tells which sockets have something.
    ///
    /// # Errors
    /// The errno; EINTR if a signal ended it.
    fn sleep(&mut self, watched: &[bool], until_us: Option<u64>) -> Result<(), i32>;

    /// Whether the last [`Calls::sleep`], if it was no error, found something to read at a watched listening socket.
    fn is_ready(&self, listener: usize) -> bool;

    /// Connects socket `slot` to a backend, replacing what was there. The address of this host that the
    /// kernel chose for it, and that it keeps.
    fn open_backend(&mut self, slot: SocketSlot, address: SocketAddr) -> std::io::Result<IpAddr>;

    /// Whether the kernel still holds packets that were sent to socket `slot`: they wait in a queueing discipline or device.
    fn has_unsent(&self, slot: SocketSlot) -> bool;

    /// The longest datagram that goes to socket `slot` in one piece; `None` if that is unknown.
    fn path_payload_bytes(&self, slot: SocketSlot) -> Option<usize>;

    /// Closes socket `slot`; sends that follow answer EBADF.
    fn close_backend(&mut self, slot: SocketSlot);

    /// Empties the error queue of socket `slot`, which fills with ICMP answers where IP_RECVERR is set; what there
    /// was.
    fn take_errors(&mut self, slot: SocketSlot) -> Option<QueuedErrors>;

    /// Adds the slots whose sockets have something in their error queues.
    fn failing_backends(&mut self, slots: &mut Vec<SocketSlot>);

    /// Leaves a listening socket to others who receive from it: [`Calls::fence`] and [`Calls::is_queue_empty`] are no longer
    /// about it.
    fn leave(&mut self, listener: usize);

    /// Makes sure that nothing new arrives at the listening sockets; what is queued there stays readable.
    fn fence(&mut self) -> std::io::Result<()>;

    /// Whether no listening socket has a datagram queued, one without a payload included.
    fn is_queue_empty(&self) -> bool;

    /// Datagrams that the kernel dropped at a listening socket because its buffer was full, since it was opened.
    fn kernel_drops(&mut self, listener: usize) -> u64;
}
