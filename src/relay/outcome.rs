//! Handles the kernel's result for a packet: counted, retried, queued, or dropped for a reason.
//!
//! In: each packet exactly once, from the driver through the worker. Out: the packet to the pool, or back to a queue. Failpoints: see `mod.rs`.

use super::{
    BUSY_RETRY_US_MAX, BUSY_RETRY_US_MIN, GsoMode, MOVE_WAIT_US, REFUSED_ATTEMPTS_MAX, Relay,
    SOCKET_ATTEMPTS_MAX, UNREACHABLE_ATTEMPTS_MAX,
};
use crate::failpoint::{Mutation, is_active};
use crate::packet::{Packet, SendError, SendErrorCounts, SendOutcome, SocketSlot};
use crate::stats::{Counter, DropReason, Exit};

/// The report to control after an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Nothing.
    None,
    /// Batches to this backend are refused, and disabled.
    GsoRefused {
        /// Its index in the table.
        backend: usize,
        /// The kernel's error.
        errno: i32,
    },
    /// Packets to this backend exceed its path MTU, and are fragmented from now on.
    Fragmented {
        /// Its index in the table.
        backend: usize,
    },
    /// Sends to this backend fail: it may have to be checked early, and the error logged.
    SendsFail {
        /// Its index in the table.
        backend: usize,
    },
}

impl Relay {
    /// Takes a packet back with its outcome.
    pub fn sent(&mut self, packet: Packet, outcome: SendOutcome, now_us: u64) -> Hint {
        self.handed_over.0 = self.handed_over.0.saturating_sub(1);
        self.handed_over.1 = self.handed_over.1.saturating_sub(u64::from(packet.metrics()));
        match outcome {
            SendOutcome::Sent => return self.accepted(packet, now_us),
            SendOutcome::Busy => self.defer(packet, now_us),
            SendOutcome::GsoRefused(errno) => return self.split_gso_batch(packet, errno),
            SendOutcome::TooBigForPath => self.send_alone(packet),
            _ => {
                if let Some(error) = outcome.error() {
                    return self.failed(packet, outcome, error, now_us);
                }
            }
        }
        Hint::None
    }

    /// The packet was not sent: retried at once if the error is an earlier packet's, else dropped.
    fn failed(&mut self, packet: Packet, outcome: SendOutcome, error: SendError, now_us: u64) -> Hint {
        let backend = packet.backend();
        let is_news = self.table.nodes[backend].counters.failed(error, outcome.other_errno(), now_us);
        match outcome {
            SendOutcome::Refused => {
                self.counters.add(Counter::BackendRefused, 1);
                self.await_move(backend, now_us);
                self.repeat(packet, REFUSED_ATTEMPTS_MAX, DropReason::SendRefused, error, now_us);
            }
            // A router may report each packet in flight: the same later packet can meet several of those errors.
            SendOutcome::Answered(libc::EMSGSIZE) => {
                self.counters.add(Counter::BackendUnreachable, 1);
                self.repeat(packet, REFUSED_ATTEMPTS_MAX, DropReason::SendUnreachable, error, now_us);
            }
            SendOutcome::Unreachable(_) | SendOutcome::Answered(_) => {
                self.counters.add(Counter::BackendUnreachable, 1);
                if error.is_evidence() {
                    self.await_move(backend, now_us);
                }
                self.repeat(packet, UNREACHABLE_ATTEMPTS_MAX, DropReason::SendUnreachable, error, now_us);
            }
            SendOutcome::NoBuffers(_) => self.discard_for(packet, DropReason::SendNoBuffers, error, now_us),
            SendOutcome::TooLong => self.discard_for(packet, DropReason::SendTooLong, error, now_us),
            SendOutcome::Denied(_) => self.discard_for(packet, DropReason::SendDenied, error, now_us),
            _ if outcome.blames_socket() => {
                self.repeat(packet, SOCKET_ATTEMPTS_MAX, DropReason::SendFailed, error, now_us);
            }
            _ => self.discard_for(packet, DropReason::SendFailed, error, now_us),
        }
        if is_news { Hint::SendsFail { backend } } else { Hint::None }
    }

    /// ICMP answers came to packets that `socket` sent earlier. They remain counted as sent.
    pub fn answered(&mut self, socket: SocketSlot, errors: &SendErrorCounts, now_us: u64) -> Hint {
        let backend = self.egress.iter().position(|egress| egress.socket == Some(socket));
        match backend {
            Some(backend) if self.table.nodes[backend].counters.answered(errors, now_us) => {
                Hint::SendsFail { backend }
            }
            _ => Hint::None,
        }
    }

    /// The batch was not sent: its packets are resent at once, one by one, and so are all later ones.
    fn split_gso_batch(&mut self, packet: Packet, errno: i32) -> Hint {
        let backend = packet.backend();
        self.ready.push_back(packet);
        match std::mem::take(&mut self.egress[backend].gso) {
            GsoMode::Off => Hint::None,
            GsoMode::Unpadded | GsoMode::Padded => {
                self.table.nodes[backend].counters.note_gso_refusal(errno);
                Hint::GsoRefused { backend, errno }
            }
        }
    }

    /// The packet's batch was not sent because it exceeds the path MTU: it is resent at once, alone.
    fn send_alone(&mut self, mut packet: Packet) {
        // Without the padding it may fit.
        packet.unpad();
        self.ready.push_back(packet);
    }

    fn accepted(&mut self, packet: Packet, now_us: u64) -> Hint {
        self.counters.add(Counter::DatagramsGso, u64::from(packet.in_gso_batch()));
        self.counters.add(Counter::DatagramsSent, 1);
        self.counters.add(Counter::BytesSent, packet.len() as u64);
        let backend = packet.backend();
        let is_fragmented = self.egress.get(backend).is_some_and(|egress| egress.is_fragmented(packet.len()));
        let hint = if is_fragmented { self.fragmented(&packet, now_us) } else { Hint::None };
        self.leave(packet, Exit::Sent, now_us);
        hint
    }

    /// Counts a packet that the kernel sent in IP fragments.
    #[cold]
    fn fragmented(&mut self, packet: &Packet, now_us: u64) -> Hint {
        self.counters.add(Counter::PacketsFragmented, 1);
        let (backend, counters) = (packet.backend(), &self.table.nodes[packet.backend()].counters);
        // With `auto`, one that was packed before the path shrank is not worth a log line.
        let may_last = self.egress[backend].exceeds_path();
        counters.fragmented(packet.len(), packet.metrics(), now_us);
        if may_last && counters.fragmentation_began(packet.len()) {
            return Hint::Fragmented { backend };
        }
        Hint::None
    }

    /// The socket is full: the packet is queued, and everything for this backend after it.
    fn defer(&mut self, packet: Packet, now_us: u64) {
        self.counters.add(Counter::SendsWouldBlock, 1);
        let pause_us = self.table.rules.flush_us.clamp(BUSY_RETRY_US_MIN, BUSY_RETRY_US_MAX);
        self.hold(packet.backend(), now_us + pause_us);
        self.wait_or_drop(packet, now_us);
    }

    /// Everything for this backend waits until then, at the latest.
    fn hold(&mut self, backend: usize, until_us: u64) {
        if self.egress[backend].busy {
            return;
        }
        self.egress[backend].busy = true;
        if self.busy.is_empty() {
            // All are retried when the first of them is due, or each new busy one would defer the others.
            self.busy_retry_us = until_us;
        }
        if !is_active(Mutation::BusyPacketLost) {
            self.busy.push(backend);
        }
    }

    /// Queues a packet for a busy backend, within its bounds.
    pub(super) fn wait_or_drop(&mut self, packet: Packet, now_us: u64) {
        if self.may_wait(packet.backend(), packet.capacity()) {
            self.wait(packet);
        } else {
            self.discard(packet, DropReason::QueueFull, now_us);
        }
    }

    /// The error belongs to an earlier datagram and this one was not sent: retried at once, a bounded number of times.
    fn repeat(
        &mut self,
        mut packet: Packet,
        attempts_max: u8,
        reason: DropReason,
        error: SendError,
        now_us: u64,
    ) {
        if packet.count_attempt() > attempts_max {
            self.discard_for(packet, reason, error, now_us);
        } else if self.egress[packet.backend()].busy {
            self.wait_or_drop(packet, now_us);
        } else {
            self.ready.push_back(packet);
        }
    }

    /// A backend that refused and has other addresses is about to switch to one of them: its packets wait, rather than being
    /// lost at the old address.
    fn await_move(&mut self, backend: usize, now_us: u64) {
        if self.table.nodes[backend].may_move {
            self.hold(backend, now_us + MOVE_WAIT_US);
        }
    }

    /// Drops a packet's metrics because its send failed.
    fn discard_for(&mut self, packet: Packet, reason: DropReason, error: SendError, now_us: u64) {
        if let Some(node) = self.table.nodes.get(packet.backend()) {
            node.counters.dropped_for(error, u64::from(packet.metrics()));
        }
        self.discard(packet, reason, now_us);
    }

    /// Drops a packet's metrics for a reason.
    pub(super) fn discard(&mut self, packet: Packet, reason: DropReason, now_us: u64) {
        self.leave(packet, Exit::Dropped(reason), now_us);
    }

    /// A packet's metrics leave; its memory is returned to the pool.
    fn leave(&mut self, packet: Packet, exit: Exit, now_us: u64) {
        let metrics = u64::from(packet.metrics());
        self.counters.settle(metrics);
        if exit == Exit::Sent || !is_active(Mutation::DropUncounted) {
            self.counters.leave(exit, metrics, now_us);
        }
        if let Some(node) = self.table.nodes.get(packet.backend()) {
            match exit {
                Exit::Sent => node.counters.sent(packet.metrics(), packet.len(), packet.in_gso_batch()),
                Exit::Dropped(_) => node.counters.dropped(metrics),
            }
        }
        self.pool.recycle(packet);
    }

    /// Drops everything it holds, for a reason; nothing may be with the driver. Returns the metrics dropped.
    pub fn drop_all(&mut self, reason: DropReason, now_us: u64) -> u64 {
        self.retry_busy();
        self.close_due(now_us, super::Flush::All);
        let mut metrics = 0;
        while let Some(packet) = self.ready.pop_front() {
            metrics += u64::from(packet.metrics());
            self.discard(packet, reason, now_us);
        }
        self.check_account();
        metrics
    }
}
