//! The interface to the kernel, as one trait; nothing here knows about metrics.
//!
//! In: datagrams from the listening sockets, packets from the worker. Out: datagrams to the worker, packets to the
//! backends' sockets, and every packet back with its outcome. Next: `worker/`, the only place where driver and relay meet.
//!
//! One batch is: [`Driver::push`] packets, [`Driver::enter`] (submits them, sleeps), [`Driver::deliver`] (hands the
//! worker what happened). [`uring`] does it on io_uring, [`portable`] by system calls that every Linux has; [`sim`] is a
//! seeded fake kernel for tests.

pub mod icmp_errors;
mod backoff;
pub mod clock;
pub mod control_messages;
mod endpoints;
pub mod errno;
mod holder;
mod mapping;
pub(crate) mod options;
pub mod passed;
pub mod portable;
pub mod reach;
mod segment;
pub mod sim;
pub mod socket;
mod stamps;
mod gso_batch;
pub mod uring;
pub mod waker;

use crate::packet::{Packet, SendErrorCounts, SendOutcome, SocketSlot};
use std::net::{IpAddr, SocketAddr};

pub use stamps::Stamp;
pub use waker::Waker;

/// What carries datagrams between the kernel and a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// io_uring.
    IoUring,
    /// recvmmsg, sendmmsg and ppoll, which every Linux has.
    Portable,
}

impl Engine {
    /// Its value in the config.
    pub const fn name(self) -> &'static str {
        match self {
            Engine::IoUring => "io_uring",
            Engine::Portable => "portable",
        }
    }
}

/// How long [`Driver::enter`] may sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Submit, take what is ready, do not sleep.
    Poll,
    /// Sleep until anything happens: a datagram, a wake. No timer is set.
    Event,
    /// Sleep until anything happens, or the clock shows `deadline_us`.
    EventUntil {
        /// µs of the driver's clock.
        deadline_us: u64,
    },
    /// Sleep until the clock shows `deadline_us`, however many datagrams arrive meanwhile, then take them all.
    GatherUntil {
        /// µs of the driver's clock.
        deadline_us: u64,
    },
}

/// Whether the worker accepts more events now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on delivering.
    More,
    /// Stop: the worker has to transmit first. The next [`Driver::deliver`] goes on where this one stopped.
    Pause,
}

/// Events, delivered to the worker one by one, in order.
pub trait Events {
    /// Whether a datagram is wanted now; asked once per [`Driver::deliver`], before the first.
    fn flow(&self) -> Flow {
        Flow::More
    }
    /// A datagram arrived. `bytes` is what there was room for, `datagram_bytes` its true length, `stamp` when the kernel says
    /// that it did.
    fn datagram(&mut self, bytes: &[u8], datagram_bytes: usize, stamp: Stamp) -> Flow;
    /// A pushed packet comes back with what the kernel said to it. Every pushed packet comes back exactly once.
    fn sent(&mut self, packet: Packet, outcome: SendOutcome);
    /// ICMP answers came to packets that went from socket `slot` earlier, as accepted ones: so many were not delivered.
    fn answered(&mut self, _slot: SocketSlot, _errors: SendErrorCounts) {}
}

/// Result of [`Driver::deliver`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// All events were delivered.
    All,
    /// The worker paused; more is ready.
    Paused,
}

/// Events of the receive side that are worth counting, since the driver was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiveEvents {
    /// Times a receive was armed.
    pub armed: u64,
    /// Times a receive ended because no buffer was free (ENOBUFS).
    pub no_buffers: u64,
    /// Datagrams without a payload.
    pub zero_length: u64,
    /// Receives that ended with an error that is not part of normal work; the last one's errno.
    pub errors: u64,
    /// errno of the last such error.
    pub last_errno: i32,
    /// Received buffers with an invalid header; the datagram is lost and counted here.
    pub bad_headers: u64,
    /// Errors of the wait itself that are not part of normal work (EBUSY and EAGAIN are: they are not counted).
    pub wait_errors: u64,
}

/// Resources granted to a driver, fixed after its start; shown in `status` and `memstats`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DriverInfo {
    /// "io_uring", "portable", "sim".
    pub engine: &'static str,
    /// Receive buffer of one listening socket, as the kernel granted it (it counts its own overhead in).
    pub receive_buffer_bytes: usize,
    /// Buffers in the ring, and the bytes of all of them.
    pub buffers: usize,
    /// Bytes of all receive buffers.
    pub buffer_bytes: usize,
    /// Packets that may be between `push` and `sent`.
    pub sends_in_flight_max: usize,
    /// Kernel pages of the rings, as charged to RLIMIT_MEMLOCK.
    pub ring_bytes: usize,
    /// Whether the ring is restricted.
    pub restrictions: Restrictions,
}

/// Whether the kernel keeps a driver's ring to the operations and files that it needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restrictions {
    /// Not applicable: no ring.
    #[default]
    None,
    /// Anything else is refused (EACCES).
    InForce,
    /// The kernel did not take the restrictions, with its errno: the ring works and may do everything.
    Refused(i32),
}

/// The bounds a driver is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriverLimits {
    /// Receive buffers.
    pub buffers: usize,
    /// Bytes of one, with [`DriverLimits::prefix_bytes`].
    pub buffer_bytes: usize,
    /// Whether the kernel is to tell when each datagram arrived (SO_TIMESTAMPNS).
    pub timestamps: bool,
    /// Packets that may be between `push` and `sent`.
    pub sends_max: usize,
    /// Socket slots for backends.
    pub sockets_max: usize,
    /// Send buffer to ask for at each backend's socket, bytes.
    pub send_buffer_bytes: usize,
    /// Locked memory that all rings of this process need, for the operator where there is too little; 0 = not known.
    pub rings_bytes: usize,
}

impl DriverLimits {
    /// Bytes of a buffer before a datagram's payload: the kernel's header, and the control messages if any are asked for.
    pub const fn prefix_bytes(&self) -> usize {
        prefix_bytes(self.timestamps)
    }
}

/// Bytes of a receive buffer before a datagram's payload, with or without the kernel's timestamps.
pub const fn prefix_bytes(timestamps: bool) -> usize {
    uring::header::HEADER_BYTES + if timestamps { control_messages::AREA_BYTES } else { 0 }
}

/// A driver can no longer work; the process must end with this message.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// A system call failed in a way that is not part of normal work.
    #[error("{operation}: {source}")]
    System {
        /// The operation.
        operation: &'static str,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// io_uring is refused here: the cause and the remedy, worded for the operator.
    #[error("{0}")]
    Refused(String),
}

/// The interface to the kernel. Implementations are owned by one worker and used from its thread only.
pub trait Driver {
    /// The driver's clock, in µs from an arbitrary start; monotonic.
    fn now_us(&self) -> u64;

    /// Connects socket `slot` to a backend, replacing what was there; no packet for it may be in flight. The address of this host that the
    /// kernel chose for it, and that it keeps.
    fn open_backend(&mut self, slot: SocketSlot, address: SocketAddr) -> std::io::Result<IpAddr>;

    /// Whether the kernel still holds packets that were sent to socket `slot`: they wait in a queueing discipline or device.
    fn has_unsent(&self, slot: SocketSlot) -> bool;

    /// The longest datagram that goes to socket `slot` in one piece, as its path's MTU says; `None` if that is unknown.
    fn path_payload_bytes(&self, slot: SocketSlot) -> Option<usize>;

    /// Has GSO batches go to socket `slot` again, though one was refused there.
    fn allow_gso(&mut self, slot: SocketSlot);

    /// Looks for ICMP answers that no send has reported; the next [`Driver::deliver`] tells them. For a moment when sends are
    /// rare or over: what a send finds needs no look.
    fn look_for_answers(&mut self);

    /// Closes socket `slot`; no packet for it may be in flight.
    fn close_backend(&mut self, slot: SocketSlot);

    /// Takes a packet to send with the next [`Driver::enter`]. Without room it comes straight back.
    fn push(&mut self, packet: Packet) -> Result<(), Packet>;

    /// Submits what was pushed, re-arms what is not armed, and sleeps as `wait` says.
    fn enter(&mut self, wait: Wait) -> Result<(), DriverError>;

    /// Delivers datagrams and outcomes of sends to `events`.
    fn deliver(&mut self, events: &mut impl Events) -> Delivered;

    /// Fences the listening sockets: nothing new arrives, while queued datagrams stay readable.
    fn fence(&mut self) -> std::io::Result<()>;

    /// Leaves a listening socket to other processes that receive from it: its receive is cancelled, what was received before is
    /// still delivered, its queue is not read any more, and [`Driver::fence`] does not touch it. Without such a listener
    /// it does nothing.
    fn leave(&mut self, listener: usize);

    /// Whether the listening sockets' queues are empty and every received datagram was delivered; of those that were
    /// left, whether their receives have ended.
    fn is_drained(&mut self) -> bool;

    /// Cancels the receives. What was received before is still delivered; go on entering until [`Driver::is_quiet`].
    fn cancel(&mut self);

    /// Whether nothing is in flight: no receive armed, no packet on its way, no buffer out.
    fn is_quiet(&self) -> bool;

    /// Whether every listening socket has a receive armed in the kernel, and the last [`Driver::enter`] let it work: then
    /// an `enter` that brought no datagram says that there was none.
    fn is_armed(&self) -> bool;

    /// Listening sockets.
    fn listeners(&self) -> usize;

    /// Datagrams that the kernel dropped at a listening socket because its buffer was full, since it was opened.
    fn kernel_drops(&mut self, listener: usize) -> u64;

    /// The receive side's events.
    fn receive_events(&self) -> ReceiveEvents;

    /// What the driver was granted.
    fn facts(&self) -> &DriverInfo;
}
