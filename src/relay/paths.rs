//! The largest packet of each backend, by the MTU of its path.
//!
//! In: the longest packet that each path MTU permits, whenever that was read. Out: the largest packet of each backend, and
//! changes to be logged. Next: `egress.rs`, which packs by it; `outcome.rs`, which counts.

use super::{PATH_BYTES_MIN, Relay};
use std::sync::atomic::Ordering;

/// A change of a backend's path MTU that is to be reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathChange {
    /// Nothing to report.
    None,
    /// With `auto`, packets have another size from now on.
    Resized {
        /// The largest packet.
        packet_bytes: usize,
    },
    /// Its packets fit again; before they were fragmented.
    Fits,
}

impl Relay {
    /// Sets the longest packet that the path MTU of a backend permits, `None` if unknown, and so its largest packet: the
    /// configured size, or, with `auto`, what the path MTU permits, if that is less. To be called for each backend after each new
    /// table, and whenever the path was read again.
    pub fn set_path(&mut self, backend: usize, path_payload_bytes: Option<usize>) -> PathChange {
        let Some(egress) = self.egress.get_mut(backend) else { return PathChange::None };
        egress.set_path(path_payload_bytes);
        let is_resized = self.size_packets_of(backend);
        let egress = &self.egress[backend];
        let counters = &self.table.nodes[backend].counters;
        let known_bytes = path_payload_bytes.unwrap_or(0);
        let before_bytes = counters.path_payload_bytes.swap(known_bytes, Ordering::Relaxed);
        if !egress.exceeds_path() && counters.fragmentation_ended() {
            return PathChange::Fits;
        }
        // Of several workers, the first that finds a change reports it.
        let is_news = is_resized && before_bytes != 0 && before_bytes != known_bytes;
        if is_news {
            return PathChange::Resized { packet_bytes: egress.packet_bytes_max() };
        }
        PathChange::None
    }

    /// Sets the largest packet of each backend by the rules of a new table and by what is known of the paths.
    pub(super) fn size_packets(&mut self) {
        for backend in 0..self.egress.len() {
            self.size_packets_of(backend);
        }
    }

    /// The same for one backend; whether it was another size.
    fn size_packets_of(&mut self, backend: usize) -> bool {
        let rules = self.table.rules;
        let egress = &mut self.egress[backend];
        let path = egress.path_payload_bytes().filter(|_| rules.packet_auto);
        let bytes =
            path.map_or(rules.packet_bytes_max, |path| path.max(PATH_BYTES_MIN).min(rules.packet_bytes_max));
        let counters = &self.table.nodes[backend].counters;
        counters.packet_bytes_max.store(bytes, Ordering::Relaxed);
        egress.limit_packets(bytes)
    }
}
