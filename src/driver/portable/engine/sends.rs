//! The sends of a driver: which packets share a message, and what is told of each.
//!
//! In: packets from `push`, the kernel's answers. Out: every packet with its outcome, in order. Next: `engine.rs`.
//!
//! sendmmsg(2) tells the errno of its first message only. If it stops at a later one, that one's error is gone from the
//! socket: an ICMP answer (a refusal) is then found in the socket's error queue, and anything else the kernel says once more
//! when the message is tried again as the first one. Either way an error means that the message was not sent.

use super::{Calls, PortableDriver};
use crate::driver::errno;
use crate::packet::{SendOutcome, SocketSlot};
use crate::planted::{Defect, is_planted};

impl<C: Calls> PortableDriver<C> {
    /// Sends everything that was pushed; each packet's outcome is known then.
    pub(super) fn send_all(&mut self) {
        self.outcomes.clear();
        self.answers.next_batch();
        while self.outcomes.len() < self.unsent.len() {
            self.send_some();
        }
        self.untold.extend(self.unsent.drain(..).zip(self.outcomes.drain(..)));
    }

    /// One call: from the first packet without an outcome on, as many as go to the same socket.
    fn send_some(&mut self) {
        let first = self.outcomes.len();
        let Some(slot) = self.unsent.get(first).map(|packet| packet.socket) else { return };
        self.cut(first, slot);
        let packets: usize = self.messages.iter().sum();
        let sent = self.calls.send(&self.unsent[first..first + packets], &self.messages);
        let taken = if is_planted(Defect::UnconsumedSendTakenAsSent) && sent.errno == 0 {
            self.messages.len()
        } else {
            sent.messages.min(self.messages.len())
        };
        let packets_taken: usize = self.messages[..taken].iter().sum();
        self.outcomes.resize(first + packets_taken, SendOutcome::Sent);
        let Some(next) = self.messages.get(taken).copied() else { return };
        let outcome = if taken > 0 {
            // The error of a later message is lost, unless the error queue has it: else the next call tells.
            match self.calls.take_errors(slot) {
                Some(errors) if errors.first > 0 => {
                    self.answers.explain(slot, errno::send_outcome(-errors.first), errors)
                }
                _ => return,
            }
        } else if matches!(sent.errno, 0 | libc::EAGAIN) {
            // An answer without a message and without an error is none: as if the socket were full.
            SendOutcome::Busy
        } else {
            let errors = self.calls.take_errors(slot).unwrap_or_default();
            self.answers.explain(slot, errno::send_outcome(-sent.errno), errors)
        };
        self.failed(next, slot, outcome);
    }

    /// Cuts what is to go to `slot`, from packet `first` on, into messages: GSO batches where they are allowed.
    fn cut(&mut self, first: usize, slot: SocketSlot) {
        self.messages.clear();
        let mut at = first;
        while let Some(head) = self.unsent.get(at).filter(|head| head.socket == slot)
            && self.messages.len() < self.sizes.messages_max
        {
            let mut gso_batch = self.gso_batches.begin(head);
            while let Some(longer) =
                self.unsent.get(at + gso_batch.packets()).and_then(|next| gso_batch.with(next))
            {
                gso_batch = longer;
            }
            let packets = gso_batch.packets();
            self.unsent[at..at + packets].iter_mut().for_each(|packet| packet.in_gso_batch = packets > 1);
            self.messages.push(packets);
            at += packets;
        }
    }

    /// The message of the next `packets` was not sent.
    fn failed(&mut self, packets: usize, slot: SocketSlot, outcome: SendOutcome) {
        let outcome = if is_planted(Defect::SendErrorOverlooked) { SendOutcome::Sent } else { outcome };
        self.has_unsent_ones = true;
        let first = self.outcomes.len();
        for packet in &self.unsent[first..first + packets] {
            self.outcomes.push(self.gso_batches.judge(packet, outcome));
        }
        if outcome == SendOutcome::Busy {
            // The socket is full: those that follow would overtake this one, or find it full too.
            let rest = self.unsent[first + packets..].iter();
            let same = rest.take_while(|packet| packet.socket == slot).count();
            let overlooked = is_planted(Defect::FollowerOfBusyTakenAsSent);
            let follower = if overlooked { SendOutcome::Sent } else { SendOutcome::Busy };
            self.outcomes.resize(first + packets + same, follower);
        }
    }
}
