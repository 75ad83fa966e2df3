//! What a driver asks of the kernel, as one trait: io_uring (`uring/`), plain system calls (`portable/`) and the seeded fake
//! (`sim/`) implement it, so that all rules about batches, sleeps and errors are in safe code, once.
//!
//! In: what to receive, to send, to wait for. Out: datagrams, counts and errnos, as the kernel gives them. Next:
//! `engine.rs`, which keeps the rules.

use super::DriverInfo;
use super::icmp_errors::QueuedErrors;
use crate::packet::{Packet, SocketSlot};
use std::net::{IpAddr, SocketAddr};

/// Datagrams that are received before the worker has its turn, at most.
pub(super) const TURN_DATAGRAMS: usize = 1_024;

/// Sizes that are fixed when a kernel interface is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Listening sockets.
    pub listeners: usize,
    /// Datagrams that one [`Kernel::drain`] returns at most.
    pub batch: usize,
    /// Datagrams that are received at most before the worker has its turn.
    pub turn: usize,
    /// Packets between `push` and `sent`.
    pub sends_max: usize,
    /// Messages that one [`Kernel::submit`] accepts at most.
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

/// What one [`Kernel::drain`] took out of a listening socket's queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Datagrams, to be read by [`Kernel::datagram`].
    pub datagrams: usize,
    /// Datagrams that were taken and cannot be read: what the kernel wrote beside them makes no sense.
    pub unreadable: usize,
    /// Whether the queue was empty at the end.
    pub is_empty: bool,
}

/// The receive buffer of a listening socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiveMemory {
    /// What is queued, in bytes as the kernel charges them.
    pub queued_bytes: u64,
    /// Datagrams that the kernel dropped because it was full, since the socket was opened.
    pub drops: u64,
}

/// The kernel as one worker uses it, with its sockets. No method but [`Kernel::sleep`] sleeps.
///
/// Every method may be called in any order with any argument.
pub trait Kernel {
    /// The clock, µs, monotonic.
    fn now_us(&self) -> u64;

    /// The wall clock, ns since 1970.
    fn wall_ns(&self) -> u64;

    /// The sizes it was made with.
    fn sizes(&self) -> Sizes;

    /// What it was granted.
    fn facts(&self) -> &DriverInfo;

    /// Takes about `count_max` datagrams out of a listening socket's queue without waiting, and never more than
    /// [`Sizes::batch`]. Those of the last call are overwritten.
    ///
    /// # Errors
    /// The errno, if no datagram was taken; EAGAIN is not an error here, but an empty queue.
    fn drain(&mut self, listener: usize, count_max: usize) -> Result<Drained, i32>;

    /// A datagram of the last [`Kernel::drain`].
    fn datagram(&self, index: usize) -> Datagram<'_>;

    /// The control messages that came with it.
    fn control(&self, index: usize) -> &[u8];

    /// Sends messages without waiting: `packets` in order, of which each of `messages` has so many, all for the same socket.
    /// Several packets in one message are cut apart again by the kernel (UDP_SEGMENT): all but the last have the same length,
    /// and the last is not longer.
    ///
    /// Adds what the kernel said to each message to `results`, from the first on: 0, or an errno. It may stop behind any
    /// message, for example because an error cannot be told apart from what was sent before; then the error may be found in
    /// that socket's error queue, and if not, trying again tells.
    fn submit(&mut self, packets: &[Packet], messages: &[usize], results: &mut Vec<i32>);

    /// Sleeps until the clock shows `until_us` (`None`: without a limit), a wake comes, or a listening socket that is
    /// `watched` has something to read. A wake is taken; [`Kernel::is_ready`] tells which sockets have something.
    ///
    /// # Errors
    /// The errno; EINTR if a signal ended it.
    fn sleep(&mut self, watched: &[bool], until_us: Option<u64>) -> Result<(), i32>;

    /// Whether the last [`Kernel::sleep`] found something to read at a watched listening socket.
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

    /// Leaves a listening socket to others who receive from it: [`Kernel::fence`] and [`Kernel::is_queue_empty`] no longer
    /// include it. Without such a listener it does nothing.
    fn leave(&mut self, listener: usize);

    /// Makes sure that nothing new arrives at the listening sockets; what is queued there stays readable.
    fn fence(&mut self) -> std::io::Result<()>;

    /// Whether no listening socket has a datagram queued, one without a payload included.
    fn is_queue_empty(&self) -> bool;

    /// What a listening socket's receive buffer holds and has dropped.
    fn receive_memory(&mut self, listener: usize) -> ReceiveMemory;
}
