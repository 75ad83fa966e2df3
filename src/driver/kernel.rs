//! What the driver needs of the kernel, as a trait: implemented by io_uring (`uring/`), plain system calls (`portable.rs`) and
//! the seeded fake (`sim/`), so that all rules about batches, sleeps and errors are in safe code, once.
//!
//! In: what to receive, to send, to wait for. Out: datagrams, counts and errnos, as the kernel gives them. Next: `engine.rs`
//! implements the rules.

use super::DriverInfo;
use super::icmp_errors::QueuedErrors;
use crate::packet::{Packet, SocketSlot};
use std::net::{IpAddr, SocketAddr};

/// Most datagrams received before the worker has its turn.
pub(super) const TURN_DATAGRAMS: usize = 1_024;

/// Sizes that are fixed when a kernel interface is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Listening sockets.
    pub listeners: usize,
    /// Most datagrams that one [`Kernel::drain`] returns.
    pub batch: usize,
    /// Most datagrams received before the worker has its turn.
    pub turn: usize,
    /// Packets between `push` and `sent`.
    pub sends_max: usize,
    /// Most messages that one [`Kernel::submit`] accepts.
    pub messages_max: usize,
    /// Whether datagrams come with the kernel's timestamps.
    pub timestamps: bool,
    /// If datagrams may come joined (UDP_GRO): the longest datagram that is delivered completely.
    pub gro_datagram_bytes_max: Option<usize>,
}

/// A received datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// The received part.
    pub payload: &'a [u8],
    /// Its true length.
    pub datagram_bytes: usize,
}

/// What one [`Kernel::drain`] took out of a listening socket's queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drained {
    /// Datagrams, to be read by [`Kernel::datagram`].
    pub datagrams: usize,
    /// Datagrams that were taken and cannot be read: the header that the kernel wrote is invalid.
    pub unreadable: usize,
    /// Whether the queue was empty at the end.
    pub is_empty: bool,
}

/// The receive buffer of a listening socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiveMemory {
    /// Bytes queued, as charged by the kernel.
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

    /// The sizes it was created with.
    fn sizes(&self) -> Sizes;

    /// The resources granted to it.
    fn info(&self) -> &DriverInfo;

    /// Takes about `count_max` datagrams out of a listening socket's queue without waiting, and never more than
    /// [`Sizes::batch`]. Joined datagrams count as one. Those of the last call are overwritten.
    ///
    /// # Errors
    /// The errno, if no datagram was taken; EAGAIN is not an error here, but an empty queue.
    fn drain(&mut self, listener: usize, count_max: usize) -> Result<Drained, i32>;

    /// A datagram of the last [`Kernel::drain`], possibly of several segments: see `gro.rs`.
    fn datagram(&self, index: usize) -> Datagram<'_>;

    /// Its control messages.
    fn control(&self, index: usize) -> &[u8];

    /// Sends messages without waiting: `packets` in order; each of `messages` is a number of packets, all for the same socket.
    /// Several packets in one message are split by the kernel (UDP_SEGMENT): all but the last have the same length,
    /// and the last is not longer.
    ///
    /// Adds the result of each message to `results`, from the first on: 0, or an errno. It may stop after any
    /// message, for example because an error may belong to an earlier send; then the error is in
    /// that socket's error queue, or is reported by the next try.
    fn submit(&mut self, packets: &[Packet], messages: &[usize], results: &mut Vec<i32>);

    /// Sleeps until the clock shows `until_us` (`None`: without a limit), a wake comes, or a listening socket that is
    /// `watched` is readable. A wake is consumed; [`Kernel::is_ready`] reports which sockets are readable.
    ///
    /// # Errors
    /// The errno; EINTR if a signal ended it.
    fn sleep(&mut self, watched: &[bool], until_us: Option<u64>) -> Result<(), i32>;

    /// Whether the last [`Kernel::sleep`] found a watched listening socket readable.
    fn is_ready(&self, listener: usize) -> bool;

    /// Connects socket `slot` to a backend, replacing the previous one. Returns the address of this host that the
    /// kernel chose for it and that it keeps.
    fn open_backend(&mut self, slot: SocketSlot, address: SocketAddr) -> std::io::Result<IpAddr>;

    /// Whether the kernel still holds packets that were sent to socket `slot`: they wait in a queueing discipline or device.
    fn has_unsent(&self, slot: SocketSlot) -> bool;

    /// The longest datagram that can be sent to socket `slot` unfragmented; `None` if unknown.
    fn path_payload_bytes(&self, slot: SocketSlot) -> Option<usize>;

    /// Closes socket `slot`; later sends fail with EBADF.
    fn close_backend(&mut self, slot: SocketSlot);

    /// Reads and empties the error queue of socket `slot`, which receives ICMP errors with IP_RECVERR.
    fn take_errors(&mut self, slot: SocketSlot) -> Option<QueuedErrors>;

    /// Adds the slots whose sockets have errors queued.
    fn failing_backends(&mut self, slots: &mut Vec<SocketSlot>);

    /// Leaves a listening socket to the other processes that receive from it: [`Kernel::fence`] and [`Kernel::is_queue_empty`] no longer
    /// include it. An unknown index is ignored.
    fn leave(&mut self, listener: usize);

    /// Makes sure that nothing new arrives at the listening sockets; queued datagrams stay readable.
    fn fence(&mut self) -> std::io::Result<()>;

    /// Whether no listening socket has a datagram queued, including empty datagrams.
    fn is_queue_empty(&self) -> bool;

    /// The bytes queued and the datagrams dropped at a listening socket.
    fn receive_memory(&mut self, listener: usize) -> ReceiveMemory;
}
