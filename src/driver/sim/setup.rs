//! What a fake kernel is made of, and what comes out of it.

use super::faults::Faults;
use super::network::SimNetwork;
use super::timestamps::Stamped;
use crate::driver::{DriverInfo, Engine, Restrictions};

/// What the clock of a fake kernel shows at first, µs.
pub const START_US: u64 = 1_000_000;

/// What a fake kernel is made of.
#[derive(Clone, Debug)]
pub struct SimSetup {
    /// Everything that is left to chance follows from it.
    pub seed: u64,
    /// Which real kernel interface it resembles.
    pub engine: Engine,
    /// Listening sockets.
    pub listeners: usize,
    /// Receive buffers.
    pub buffers: usize,
    /// Datagrams before the worker has its turn.
    pub turn: usize,
    /// Whether it stamps datagrams.
    pub timestamps: bool,
    /// Room for a payload in a buffer.
    pub payload_bytes_max: usize,
    /// Packets in flight.
    pub sends_max: usize,
    /// Messages in one submission.
    pub messages_max: usize,
    /// Bytes that a listening socket's queue holds.
    pub queue_bytes_max: usize,
    /// What goes wrong, and how often.
    pub faults: Faults,
}

impl SimSetup {
    /// A kernel on a good day, with room for everything.
    pub fn roomy(seed: u64) -> SimSetup {
        SimSetup {
            seed,
            engine: Engine::IoUring,
            listeners: 1,
            buffers: 64,
            turn: 64,
            timestamps: false,
            payload_bytes_max: 512,
            sends_max: 32,
            messages_max: 32,
            queue_bytes_max: 1 << 20,
            faults: Faults::none(),
        }
    }
}

impl SimSetup {
    /// A network of its own, with as many sockets, each bound to an address of its own.
    pub(super) fn network(&self) -> (SimNetwork, Vec<usize>) {
        let network = SimNetwork::new();
        let sockets: Vec<usize> =
            (0..self.listeners).map(|address| network.socket(address, self.queue_bytes_max)).collect();
        for socket in &sockets {
            network.bind(*socket);
        }
        (network, sockets)
    }

    /// What a driver on it is granted.
    pub(super) fn facts(&self) -> DriverInfo {
        DriverInfo {
            restrictions: Restrictions::None,
            engine: "sim",
            receive_buffer_bytes: self.queue_bytes_max,
            buffers: self.buffers,
            buffer_bytes: self.buffers * self.payload_bytes_max,
            sends_in_flight_max: self.sends_max,
            ring_bytes: 0,
        }
    }
}

/// A datagram that left a listening socket's queue for a buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedDatagram {
    /// Whose queue.
    pub listener: usize,
    /// When it arrived in the queue.
    pub arrived_us: u64,
    /// When it left the queue.
    pub at_us: u64,
    /// Bytes there was room for.
    pub bytes_received: usize,
    /// All of it.
    pub bytes: Box<[u8]>,
    /// How it was stamped; `None` if no timestamps were asked for.
    pub stamped: Option<Stamped>,
}
