//! The interface to the kernel; nothing here knows about metrics.
//!
//! In: datagrams from the listening sockets, packets from the worker. Out: datagrams to the worker, packets to the
//! backends' sockets, and every packet back with its outcome. Next: `worker/`, the only place where driver and relay meet.
//!
//! One batch is: [`Driver::push`] packets, [`Driver::enter`] (sends them, sleeps), [`Driver::deliver`] (reports events to the
//! worker). `engine.rs` implements the rules, on any [`kernel::Kernel`]: [`uring`] is io_uring, [`portable`] the system calls that
//! every Linux has, [`sim`] a seeded fake for tests.

mod backoff;
pub mod clock;
mod control;
mod endpoints;
mod engine;
pub mod errno;
pub mod gro;
mod gso;
mod holder;
pub mod icmp_errors;
pub mod kernel;
pub(crate) mod options;
pub mod passed;
pub mod portable;
pub mod reach;
pub mod sim;
pub mod socket;
pub mod uring;
pub mod waker;

use crate::packet::{Packet, SendErrorCounts, SendOutcome, SocketSlot};

pub use clock::Stamp;
pub use engine::Driver;
pub use waker::Waker;

/// The interface that carries datagrams between the kernel and a worker.
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
    /// Continue delivering.
    More,
    /// Stop: the worker has to transmit first. The next [`Driver::deliver`] continues where this one stopped.
    Pause,
}

/// Events, delivered to the worker one by one, in order.
pub trait Events {
    /// Whether the worker accepts a datagram now; called once per [`Driver::deliver`], before the first.
    fn flow(&self) -> Flow {
        Flow::More
    }
    /// A datagram arrived. `bytes` is the received part, `datagram_bytes` its true length, `stamp` its arrival by the kernel's
    /// timestamp.
    fn datagram(&mut self, bytes: &[u8], datagram_bytes: usize, stamp: Stamp) -> Flow;
    /// A pushed packet is returned with the result of its send. Every pushed packet is returned exactly once.
    fn sent(&mut self, packet: Packet, outcome: SendOutcome);
    /// ICMP errors were reported for packets sent earlier on socket `slot`, and accepted then: this many were not delivered.
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

/// Events of the receive side since the driver was created.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReceiveEvents {
    /// Datagrams without a payload.
    pub zero_length: u64,
    /// Datagrams that the kernel handed over together with others, in one (UDP_GRO).
    pub joined: u64,
    /// Receives that failed with an error that is not part of normal work.
    pub errors: u64,
    /// errno of the last such error.
    pub last_errno: i32,
    /// Datagrams that were received and cannot be read: the header that the kernel wrote is invalid.
    pub unreadable: u64,
    /// Errors of the wait itself that are not part of normal work (EBUSY and EAGAIN are, and are not counted).
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

/// Whether a driver's ring is restricted to the operations and files that it needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restrictions {
    /// Not applicable: no ring.
    #[default]
    None,
    /// Anything else is refused (EACCES).
    InForce,
    /// The kernel refused the restrictions, with this errno: the ring is unrestricted.
    Refused(i32),
}

/// The bounds that a driver is created with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DriverLimits {
    /// Receive buffers.
    pub buffers: usize,
    /// Bytes of one, including [`DriverLimits::prefix_bytes`].
    pub buffer_bytes: usize,
    /// Whether the kernel timestamps each datagram (SO_TIMESTAMPNS).
    pub timestamps: bool,
    /// If a listening socket joins datagrams (UDP_GRO): the longest datagram that is delivered completely.
    pub gro_datagram_bytes_max: Option<usize>,
    /// Packets that may be between `push` and `sent`.
    pub sends_max: usize,
    /// Socket slots for backends.
    pub sockets_max: usize,
    /// Send buffer to request for each backend's socket, bytes.
    pub send_buffer_bytes: usize,
    /// Locked memory that all rings of this process need, for the error message if the limit is too low; 0 = unknown.
    pub rings_bytes: usize,
}

impl DriverLimits {
    /// Bytes of a buffer before a datagram's payload: see [`prefix_bytes`].
    pub const fn prefix_bytes(&self) -> usize {
        prefix_bytes(self.timestamps, self.gro_datagram_bytes_max.is_some())
    }
}

/// Bytes of the header that a multishot RECVMSG writes before a datagram (io_uring_prep_recvmsg_multishot(3)).
const RECVMSG_HEADER_BYTES: usize = 16;

/// Bytes of a receive buffer before a datagram's payload: with the kernel's timestamps, or with sockets that join datagrams, a header
/// and the control messages (RECVMSG), without them nothing (RECV).
pub const fn prefix_bytes(timestamps: bool, gro: bool) -> usize {
    match (timestamps, gro) {
        (false, false) => 0,
        (true, false) => RECVMSG_HEADER_BYTES + clock::AREA_BYTES,
        // Another process that has the socket may enable timestamps there, which come first: a segment length without room
        // would be lost.
        (_, true) => RECVMSG_HEADER_BYTES + clock::AREA_BYTES + control::SEGMENT_AREA_BYTES,
    }
}

/// The driver can no longer work; the process must exit with this message.
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
