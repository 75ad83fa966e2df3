//! Applies a new route table: packets that stay, move, or are dropped.
//!
//! In: the table that control published, between two batches. Out: every backend that stays keeps its packets. Failpoints: see
//! `mod.rs`.

use super::egress::Egress;
use super::{GsoMode, Opened, Relay, RouteNode, RouteTable};
use crate::failpoint::{Mutation, is_active};
use crate::packet::{Packet, SocketSlot};
use crate::stats::DropReason;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl Relay {
    /// Applies `table`. If its backends differ, the driver must have none of this relay's packets
    /// ([`Relay::is_settled`]); a change of the live set or the rules alone may come at any time.
    ///
    /// Backends are identified by name. Packets queued for a removed one are dropped as `node_removed`: transmit
    /// with [`super::Flush::All`] before, so that this concerns only packets for a busy socket.
    pub fn reroute(&mut self, table: Arc<RouteTable>, sockets: &[Option<SocketSlot>], now_us: u64) {
        let same_nodes = Arc::ptr_eq(&table.nodes, &self.table.nodes)
            && self.egress.iter().map(|egress| egress.socket).eq(sockets.iter().copied());
        if !same_nodes {
            self.move_backends(&table, sockets, now_us);
        }
        let is_decided_anew = !same_nodes
            || table.live != self.table.live
            || table.diverted != self.table.diverted
            || table.placement != self.table.placement
            || table.rules.on_node_down != self.table.rules.on_node_down;
        if is_decided_anew && !is_active(Mutation::CacheKeptAcrossReload) {
            self.cache.clear();
        }
        let resized = table.rules.packet_bytes_max != self.table.rules.packet_bytes_max;
        let grown = table.nodes.len() > self.table.nodes.len();
        self.jump_table = table.jump_table();
        self.needs = self.limits.needs(table.nodes.len(), table.rules.packet_bytes_max);
        self.table = table;
        if resized || grown {
            self.renew_pool();
        }
        self.size_packets();
    }

    fn move_backends(&mut self, table: &Arc<RouteTable>, sockets: &[Option<SocketSlot>], now_us: u64) {
        debug_assert!(self.is_settled(), "packets held by the driver would lose their backend");
        let places: HashMap<&str, usize> =
            table.nodes.iter().enumerate().map(|(index, node)| (&*node.name, index)).collect();
        let place_of: Vec<Option<usize>> =
            self.table.nodes.iter().map(|node| places.get(&*node.name).copied()).collect();
        let socket_of = |index: usize| sockets.get(index).copied().flatten();

        let mut gone: Vec<(Packet, DropReason)> = Vec::new();
        // One that is listed but has no socket could not be given one.
        let reason_of = |old: usize| {
            if place_of[old].is_some() { DropReason::SendFailed } else { DropReason::NodeRemoved }
        };
        let mut kept: Vec<Egress> = (0..table.nodes.len())
            .map(|index| Egress::new(socket_of(index), table.nodes[index].gso))
            .collect();
        for (old, mut egress) in std::mem::take(&mut self.egress).into_iter().enumerate() {
            match place_of[old].and_then(|new| socket_of(new).map(|socket| (new, socket))) {
                Some((new, socket)) => {
                    egress.socket = Some(socket);
                    egress.change_each(&mut self.backlog, |packet| {
                        if !is_active(Mutation::QueuedPacketsMisrouted) {
                            packet.set_destination(new, socket);
                        }
                    });
                    egress.gso = gso_after(&self.table.nodes[old], &table.nodes[new], &egress);
                    kept[new] = egress;
                }
                None => {
                    self.backlog_bytes -= egress.backlog_bytes();
                    let open = egress.open.take();
                    let left =
                        open.into_iter().chain(std::iter::from_fn(|| egress.next_back(&mut self.backlog)));
                    gone.extend(left.map(|packet| (packet, reason_of(old))));
                }
            }
        }
        for mut packet in std::mem::take(&mut self.ready) {
            match place_of[packet.backend()].and_then(|new| socket_of(new).map(|socket| (new, socket))) {
                Some((new, socket)) => {
                    packet.set_destination(new, socket);
                    self.ready.push_back(packet);
                }
                None => {
                    let reason = reason_of(packet.backend());
                    gone.push((packet, reason));
                }
            }
        }
        for (packet, reason) in gone {
            // The old table is still in effect here, so the drop is counted at the removed backend.
            if reason == DropReason::SendFailed {
                let counters = &self.table.nodes[packet.backend()].counters;
                counters.dropped_without_socket(u64::from(packet.metrics()));
            }
            self.discard(packet, reason, now_us);
        }
        self.egress = kept;
        self.renew_lists();
        // Packets that waited for a move now have an address.
        self.busy_retry_us = self.busy_retry_us.min(now_us);
    }

    /// Rebuilds lists that refer to backends by index.
    fn renew_lists(&mut self) {
        self.busy.clear();
        self.busy.extend((0..self.egress.len()).filter(|index| self.egress[*index].busy));
        let mut open: Vec<(u64, Opened)> = Vec::new();
        for (backend, egress) in self.egress.iter().enumerate() {
            if let Some(packet) = &egress.open {
                open.push((packet.arrival().bound_us, Opened { backend, opened: egress.opened }));
            }
        }
        open.sort_unstable_by_key(|(bound_us, _)| *bound_us);
        self.opened.clear();
        self.opened.extend(open.into_iter().map(|(_, entry)| entry));
    }

    /// Packets for the new count of backends and size of packet. Those still in use are freed as they come back.
    fn renew_pool(&mut self) {
        let size = self.limits.pool_size(self.table.nodes.len(), self.table.rules.packet_bytes_max);
        self.pool.renew(size);
        let packets = size.packets + size.oversize;
        self.ready.reserve(packets.saturating_sub(self.ready.len()));
        self.backlog.grow_to(packets);
        self.opened.reserve(packets.saturating_sub(self.opened.len()));
        self.busy.reserve(self.egress.len());
    }
}

/// How packets go in GSO batches to a backend that stays. A refusal remains valid while its address is unchanged.
fn gso_after(old: &RouteNode, new: &RouteNode, egress: &Egress) -> GsoMode {
    let is_refused = egress.gso == GsoMode::Off && old.gso != GsoMode::Off;
    let is_same_way = old.address == new.address;
    if is_same_way && (old.gso == new.gso || (is_refused && new.gso != GsoMode::Off)) {
        return if is_refused { GsoMode::Off } else { new.gso };
    }
    new.counters.gso_errno.store(0, Ordering::Relaxed);
    new.gso
}
