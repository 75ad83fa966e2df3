//! The sends of a driver: which packets share a message, and what is reported of each.
//!
//! In: packets from `push`, the kernel's answers. Out: every packet with its outcome, in order. Next: `engine.rs`.

use super::{Driver, Kernel};
use crate::driver::errno;
use crate::packet::SendOutcome;

impl<K: Kernel> Driver<K> {
    /// Sends everything that was pushed; each packet's outcome is known then.
    pub(super) fn send_all(&mut self) {
        self.outcomes.clear();
        self.icmp_errors.next_batch();
        self.busy = None;
        while let Some(next) = self.unsent.get(self.outcomes.len()) {
            // The socket is full: what follows there would overtake what was not sent, or find it full too.
            if self.busy == Some(next.socket()) {
                self.outcomes.push(SendOutcome::Busy);
            } else {
                self.send_some();
            }
        }
        self.settled.extend(self.unsent.drain(..).zip(self.outcomes.drain(..)));
    }

    /// One submission: from the first packet without an outcome on, as many as it may have.
    fn send_some(&mut self) {
        let first = self.outcomes.len();
        self.cut(first);
        let packets: usize = self.messages.iter().sum();
        self.results.clear();
        self.kernel.submit(&self.unsent[first..first + packets], &self.messages, &mut self.results);
        for message in 0..self.results.len().min(self.messages.len()) {
            self.settle(self.messages[message], self.results[message]);
        }
        let is_reported = self.results.last().is_some_and(|errno| *errno != 0);
        if self.results.len() < self.messages.len() && !is_reported {
            self.settle_unreported(self.messages[self.results.len()]);
        }
    }

    /// The submission stopped before the message of the next `packets` and did not say why: the error queue of its socket does,
    /// or trying again.
    fn settle_unreported(&mut self, packets: usize) {
        let Some(slot) = self.unsent.get(self.outcomes.len()).map(|packet| packet.socket()) else { return };
        match self.kernel.take_errors(slot) {
            Some(errors) if errors.first > 0 => {
                let outcome = errno::send_outcome(-errors.first);
                let outcome = self.icmp_errors.explain(slot, outcome, errors);
                self.failed(packets, outcome);
            }
            // Nothing was tried, and nothing says why: as if the socket were full.
            _ if self.results.is_empty() => self.failed(packets, SendOutcome::Busy),
            _ => {}
        }
    }

    /// Cuts what is to be sent, from packet `first` on, into messages: GSO batches where they are allowed.
    fn cut(&mut self, first: usize) {
        self.messages.clear();
        let mut at = first;
        while let Some(head) = self.unsent.get(at)
            && self.messages.len() < self.sizes.messages_max
        {
            let mut gso_batch = self.gso_batches.begin(head);
            while let Some(longer) =
                self.unsent.get(at + gso_batch.packets()).and_then(|next| gso_batch.with(next))
            {
                gso_batch = longer;
            }
            let packets = gso_batch.packets();
            self.unsent[at..at + packets].iter_mut().for_each(|packet| packet.set_in_gso_batch(packets > 1));
            self.messages.push(packets);
            at += packets;
        }
    }

    /// The kernel said `errno`, or 0, to the message of the next `packets`.
    fn settle(&mut self, packets: usize, errno: i32) {
        let first = self.outcomes.len();
        let Some(packet) = self.unsent.get(first) else { return };
        let slot = packet.socket();
        match errno {
            0 => self.outcomes.resize(first + packets, SendOutcome::Sent),
            libc::EAGAIN => self.failed(packets, SendOutcome::Busy),
            errno => {
                let errors = self.kernel.take_errors(slot).unwrap_or_default();
                let outcome = self.icmp_errors.explain(slot, errno::send_outcome(-errno), errors);
                self.failed(packets, outcome);
            }
        }
    }

    /// The message of the next `packets` was not sent.
    fn failed(&mut self, packets: usize, outcome: SendOutcome) {
        self.has_failed_sends = true;
        let first = self.outcomes.len();
        if outcome == SendOutcome::Busy {
            self.busy = self.unsent.get(first).map(|packet| packet.socket());
        }
        let Some(packet) = self.unsent.get(first) else { return };
        let path = || self.kernel.path_payload_bytes(packet.socket());
        let outcome = self.gso_batches.judge(packet, outcome, path);
        self.outcomes.resize(first + packets, outcome);
    }
}
