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
    /// Whether it timestamps datagrams.
    pub timestamps: bool,
    /// Whether it joins datagrams of one length that arrive together (UDP_GRO).
    pub gro: bool,
    /// Room for a payload in a buffer.
    pub payload_bytes_max: usize,
    /// Packets in flight.
    pub sends_max: usize,
    /// Messages in one submission.
    pub messages_max: usize,
    /// Bytes that a listening socket's queue holds.
    pub queue_bytes_max: usize,
    /// The longest packets that path MTUs permit, one or more: assigned to the slots in turn; a change selects any of them.
    pub paths: &'static [Option<usize>],
    /// The faults, and their rates.
    pub faults: Faults,
}

impl SimSetup {
    /// A kernel without faults, with room for everything.
    pub fn roomy(seed: u64) -> SimSetup {
        SimSetup {
            seed,
            engine: Engine::IoUring,
            listeners: 1,
            buffers: 64,
            turn: 64,
            timestamps: false,
            gro: false,
            payload_bytes_max: 512,
            sends_max: 32,
            messages_max: 32,
            queue_bytes_max: 1 << 20,
            paths: &[Some(1_472), None],
            faults: Faults::none(),
        }
    }
}

impl SimSetup {
    /// A separate network with these sockets, each bound to an address of its own.
    pub(super) fn network(&self) -> (SimNetwork, Vec<usize>) {
        let network = SimNetwork::new();
        let sockets: Vec<usize> =
            (0..self.listeners).map(|address| network.socket(address, self.queue_bytes_max)).collect();
        for socket in &sockets {
            network.bind(*socket);
        }
        (network, sockets)
    }

    /// The resources granted to a driver.
    pub(super) fn info(&self) -> DriverInfo {
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
    /// Bytes received.
    pub bytes_received: usize,
    /// All of it.
    pub bytes: Box<[u8]>,
    /// Its timestamp; `None` if timestamps are disabled.
    pub stamped: Option<Stamped>,
    /// Whether it was handed over in one with others.
    pub is_joined: bool,
}
