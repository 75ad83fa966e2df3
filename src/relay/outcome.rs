//! What the kernel said to a packet, and what follows: counted, repeated, queued, or dropped for a reason.
//!
//! In: each packet exactly once, from the driver through the worker. Out: the packet to the pool, or back to a queue.

use super::{
    BUSY_RETRY_US_MAX, BUSY_RETRY_US_MIN, GsoMode, MOVE_WAIT_US, REFUSED_ATTEMPTS_MAX, Relay,
    SOCKET_ATTEMPTS_MAX, UNREACHABLE_ATTEMPTS_MAX,
};
use crate::packet::{Packet, SendOutcome};
use crate::planted::{Defect, is_planted};
use crate::stats::{Counter, DropReason, Exit};

/// What the worker should tell control after an outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    /// Nothing.
    None,
    /// Trains to this backend are refused, and not made any more.
    TrainsRefused {
        /// Its index in the table.
        backend: usize,
        /// What the kernel said.
        errno: i32,
    },
    /// This backend refused or was not reachable: check it early.
    Check {
        /// Its index in the table.
        backend: usize,
    },
}

impl Relay {
    /// Takes a packet back with its outcome.
    pub fn sent(&mut self, packet: Packet, outcome: SendOutcome, now_us: u64) -> Hint {
        self.handed_over.0 = self.handed_over.0.saturating_sub(1);
        self.handed_over.1 = self.handed_over.1.saturating_sub(u64::from(packet.metrics));
        match outcome {
            SendOutcome::Sent => self.accepted(packet, now_us),
            SendOutcome::Busy => self.put_off(packet, now_us),
            SendOutcome::Refused => {
                self.counters.add(Counter::BackendRefused, 1);
                let hint = self.note_refusal(packet.backend);
                self.await_move(packet.backend, now_us);
                self.repeat(packet, REFUSED_ATTEMPTS_MAX, DropReason::SendRefused, now_us);
                return hint;
            }
            SendOutcome::Unreachable => {
                self.counters.add(Counter::BackendUnreachable, 1);
                let hint = self.note_refusal(packet.backend);
                self.await_move(packet.backend, now_us);
                self.repeat(packet, UNREACHABLE_ATTEMPTS_MAX, DropReason::SendUnreachable, now_us);
                return hint;
            }
            SendOutcome::Answered => {
                self.counters.add(Counter::BackendUnreachable, 1);
                self.repeat(packet, UNREACHABLE_ATTEMPTS_MAX, DropReason::SendUnreachable, now_us);
            }
            SendOutcome::NoBuffers => self.discard(packet, DropReason::SendNoBuffers, now_us),
            SendOutcome::TooLong => self.discard(packet, DropReason::SendTooLong, now_us),
            SendOutcome::Denied => self.discard(packet, DropReason::SendDenied, now_us),
            SendOutcome::TrainRefused(errno) => return self.take_train_apart(packet, errno),
            SendOutcome::Failed(_) if outcome.blames_socket() => {
                self.repeat(packet, SOCKET_ATTEMPTS_MAX, DropReason::SendFailed, now_us);
            }
            SendOutcome::Failed(_) => self.discard(packet, DropReason::SendFailed, now_us),
        }
        Hint::None
    }

    /// The train was not sent: its packets go again at once, each by itself, and so do all later ones.
    fn take_train_apart(&mut self, packet: Packet, errno: i32) -> Hint {
        let backend = packet.backend;
        self.ready.push_back(packet);
        match std::mem::take(&mut self.egress[backend].gso) {
            GsoMode::Off => Hint::None,
            GsoMode::Unpadded | GsoMode::Padded => {
                self.table.nodes[backend].counters.train_refused(errno);
                Hint::TrainsRefused { backend, errno }
            }
        }
    }

    fn accepted(&mut self, packet: Packet, now_us: u64) {
        self.counters.add(Counter::DatagramsInTrains, u64::from(packet.in_train));
        self.counters.add(Counter::DatagramsSent, 1);
        self.counters.add(Counter::BytesSent, packet.len() as u64);
        self.leave(packet, Exit::Sent, now_us);
    }

    /// The socket is busy: the packet waits, and everything for this backend behind it.
    fn put_off(&mut self, packet: Packet, now_us: u64) {
        self.counters.add(Counter::SendsBusy, 1);
        let pause_us = self.table.rules.flush_us.clamp(BUSY_RETRY_US_MIN, BUSY_RETRY_US_MAX);
        self.hold(packet.backend, now_us + pause_us);
        self.wait_or_drop(packet, now_us);
    }

    /// Everything for this backend waits until then, at the latest.
    fn hold(&mut self, backend: usize, until_us: u64) {
        if self.egress[backend].busy {
            return;
        }
        self.egress[backend].busy = true;
        if self.busy.is_empty() {
            // All are tried when the first of them is due, or each that becomes busy would put the others off.
            self.busy_retry_us = until_us;
        }
        if !is_planted(Defect::BusyPacketLost) {
            self.busy.push(backend);
        }
    }

    /// Queues a packet for a busy backend, within its bounds.
    pub(super) fn wait_or_drop(&mut self, packet: Packet, now_us: u64) {
        if self.may_wait(packet.backend, packet.capacity()) {
            self.wait(packet);
        } else {
            self.discard(packet, DropReason::QueueFull, now_us);
        }
    }

    /// The error belongs to an earlier datagram and this one was not sent: again at once, a bounded number of times.
    fn repeat(&mut self, mut packet: Packet, attempts_max: u8, reason: DropReason, now_us: u64) {
        packet.attempts += 1;
        if is_planted(Defect::RefusedPacketLost) {
            self.accepted(packet, now_us);
        } else if packet.attempts > attempts_max {
            self.discard(packet, reason, now_us);
        } else if self.egress[packet.backend].busy {
            self.wait_or_drop(packet, now_us);
        } else {
            self.ready.push_back(packet);
        }
    }

    /// A backend that refused and has other addresses is about to move to one of them: what is for it waits, rather than being
    /// sent to where it is lost.
    fn await_move(&mut self, backend: usize, now_us: u64) {
        if self.table.nodes[backend].may_move {
            self.hold(backend, now_us + MOVE_WAIT_US);
        }
    }

    /// Counts a refusal, of which the health checks are to know.
    fn note_refusal(&self, backend: usize) -> Hint {
        if self.table.nodes[backend].counters.refused() { Hint::Check { backend } } else { Hint::None }
    }

    /// Drops a packet's metrics for a reason.
    pub(super) fn discard(&mut self, packet: Packet, reason: DropReason, now_us: u64) {
        self.leave(packet, Exit::Dropped(reason), now_us);
    }

    /// A packet's metrics leave; its memory goes back to the pool.
    fn leave(&mut self, packet: Packet, exit: Exit, now_us: u64) {
        let metrics = u64::from(packet.metrics);
        self.counters.settle(metrics);
        if exit == Exit::Sent || !is_planted(Defect::DropUncounted) {
            self.counters.leave(exit, metrics, now_us);
        }
        if let Some(node) = self.table.nodes.get(packet.backend) {
            match exit {
                Exit::Sent => node.counters.sent(packet.metrics, packet.len(), packet.in_train),
                Exit::Dropped(_) => node.counters.dropped(metrics),
            }
        }
        self.pool.give(packet);
    }

    /// Drops everything it holds, for a reason; nothing may be with the driver. Returns the metrics dropped.
    pub fn drop_all(&mut self, reason: DropReason, now_us: u64) -> u64 {
        self.retry_busy();
        self.close_due(now_us, super::Flush::All);
        let mut metrics = 0;
        while let Some(packet) = self.ready.pop_front() {
            metrics += u64::from(packet.metrics);
            self.discard(packet, reason, now_us);
        }
        self.check_account();
        metrics
    }
}
