//! The bounds of one worker, computed in one place.
//!
//! In: config values. Out: sizes for the driver and the relay. Next: `config/memory.rs` adds them up for the
//! operator, `worker/mod.rs` uses them.

use crate::driver::{DriverLimits, gro, prefix_bytes};
use crate::placement::VALUE_MAX;
use crate::relay::RelayLimits;

/// Most backends a config may list.
pub const NODES_MAX: usize = 2_000;
// A decision of the relay is a backend's index and one bit, and has to fit an entry of its cache.
const _: () = assert!(2 * NODES_MAX <= VALUE_MAX as usize);
/// Longest payload a UDP datagram over IPv4 can carry.
pub const DATAGRAM_BYTES_LIMIT: usize = 65_507;
/// Bytes received beyond `maxDatagramSize`: if the first of them is a newline, the line before it is whole; if it is not,
/// one more metric is known to be lost.
pub const BEYOND_BYTES: usize = 1;
/// Target size of the receive buffers per worker, bytes: more would not stay in the processor's cache.
const RECEIVE_BYTES_TARGET: usize = 2 << 20;
/// Fewest and most receive buffers.
const BUFFERS_MIN: usize = 64;
const BUFFERS_MAX: usize = 256;
/// Sends submitted at once.
const SENDS_MAX: usize = 512;
/// Bytes that may be queued for all backends together, per worker, regardless of `queue`.
pub const BACKLOG_BYTES_MAX: usize = 4 << 20;

/// Sizes that hold for a worker's whole life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest datagram received whole: one byte more than `maxDatagramSize`, see [`BEYOND_BYTES`].
    pub datagram_bytes_max: usize,
    /// Receive buffers.
    pub buffers: usize,
    /// Bytes of one, with what the kernel writes before the datagram.
    pub buffer_bytes: usize,
    /// Whether the kernel timestamps each datagram.
    pub timestamps: bool,
    /// Whether the kernel may hand over several datagrams as one (UDP_GRO).
    pub gro: bool,
    /// Packets that may be in flight in the driver at once.
    pub sends_max: usize,
    /// Socket slots for backends; a reload needs those of the old and of the new list.
    pub sockets_max: usize,
    /// Bytes of packets that may be queued for busy backends.
    pub backlog_bytes_max: usize,
    /// Send buffer to request for each backend's socket.
    pub send_buffer_bytes: usize,
    /// Entries of the cache from name to backend; 0 = none.
    pub cache_entries: usize,
}

impl Limits {
    /// The bounds for `nodes` backends, a `maxDatagramSize` of `datagram_bytes_max`, sockets to backends with
    /// `send_buffer_bytes`, and a cache of `cache_entries` names; with or without the kernel's timestamps, and with or without
    /// room for joined datagrams (`gro`).
    pub fn new(
        nodes: usize,
        datagram_bytes_max: usize,
        send_buffer_bytes: usize,
        cache_entries: usize,
        timestamps: bool,
        gro: bool,
    ) -> Limits {
        let datagram_bytes_max = datagram_bytes_max + BEYOND_BYTES;
        let received_bytes_max = if gro { gro::JOINED_BYTES_MAX } else { datagram_bytes_max };
        let buffer_bytes = received_bytes_max + prefix_bytes(timestamps, gro);
        Limits {
            datagram_bytes_max,
            buffers: RECEIVE_BYTES_TARGET.div_ceil(buffer_bytes).clamp(BUFFERS_MIN, BUFFERS_MAX),
            buffer_bytes,
            timestamps,
            gro,
            sends_max: SENDS_MAX,
            sockets_max: (nodes * 2 + 64).min(2 * NODES_MAX),
            backlog_bytes_max: BACKLOG_BYTES_MAX,
            send_buffer_bytes,
            cache_entries,
        }
    }

    /// Those of the driver.
    pub fn driver(&self) -> DriverLimits {
        DriverLimits {
            buffers: self.buffers,
            buffer_bytes: self.buffer_bytes,
            timestamps: self.timestamps,
            gro_datagram_bytes_max: self.gro.then_some(self.datagram_bytes_max),
            sends_max: self.sends_max,
            sockets_max: self.sockets_max,
            send_buffer_bytes: self.send_buffer_bytes,
            rings_bytes: 0,
        }
    }

    /// Those of the relay.
    pub fn relay(&self) -> RelayLimits {
        RelayLimits {
            sends_max: self.sends_max,
            backlog_bytes_max: self.backlog_bytes_max,
            datagram_bytes_max: self.datagram_bytes_max,
            cache_entries: self.cache_entries,
            timestamps: self.timestamps,
        }
    }
}
