//! The sends of a driver: which packet shares a send with others, and what is told of each.
//!
//! In: packets from `push`, errors from the ring. Out: every packet with its outcome, oldest first. Next: `engine.rs`.

use super::super::ring::{Completion, Ring, Token};
use super::{QueuedBatch, RingDriver};
use crate::driver::{Events, errno};
use crate::packet::{Packet, SendOutcome};
use crate::planted::{Defect, is_planted};

impl<R: Ring> RingDriver<R> {
    pub(super) fn reap_send(&mut self, completion: Completion) {
        let token = completion.token;
        // The pushes since the one that this token names; it is current while its packet has not been told.
        let oldest = self.sends_pushed - self.sends.len() as u64;
        let is_current = (oldest..self.sends_pushed).contains(&self.push_of(token));
        match self.outcomes.get_mut(token.index()) {
            Some(outcome) if is_current => {
                if !is_planted(Defect::SendErrorOverlooked) {
                    *outcome = errno::send_outcome(completion.res);
                }
            }
            _ => self.stray_completions += 1,
        }
    }

    /// Which push, counted from the start, made a send's token; as far as its generation tells.
    fn push_of(&self, token: Token) -> u64 {
        let slots = self.sizes.sends_max as u64;
        let round = (self.sends_pushed.saturating_sub(1)) / slots.max(1);
        // Tokens live for less than one round: theirs is the current one or the one before.
        let back = u64::from((round as u32).wrapping_sub(token.generation()));
        round.saturating_sub(back) * slots + token.index() as u64
    }

    /// Tells the settled sends, oldest first.
    pub(super) fn complete_sends(&mut self, events: &mut impl Events) {
        self.answers.next_batch();
        while self.sends_settled > 0 {
            let oldest = self.sends_pushed - self.sends.len() as u64;
            let slot = (oldest % self.sizes.sends_max as u64) as usize;
            self.sends_settled -= 1;
            let Some(mut packet) = self.ring.take_packet(slot) else {
                // The ring refuses only what it has not consumed: it is told later.
                self.stray_completions += 1;
                self.sends_settled = 0;
                return;
            };
            let Some(number) = self.sends.pop_front() else { return };
            // The head of a GSO batch does not know of those that joined it; that the next one has its number tells.
            packet.in_gso_batch |= self.sends.front() == Some(&number);
            let head = self.heads[slot];
            // Once for a send, whose first packet is told first; the others of a GSO batch have its outcome.
            if slot == head && !matches!(self.outcomes[head], SendOutcome::Sent | SendOutcome::Busy) {
                let errors = self.ring.take_errors(packet.socket).unwrap_or_default();
                self.outcomes[head] = self.answers.explain(packet.socket, self.outcomes[head], errors);
            }
            let outcome = self.gso_batches.judge(&packet, self.outcomes[head]);
            events.sent(packet, outcome);
        }
    }

    /// Lets a packet join the GSO batch before it, if it may and fits.
    pub(super) fn join(&mut self, mut packet: Packet, slot: usize) -> Result<(), Packet> {
        let joined = self.gso_batch.and_then(|queued| {
            let gso_batch = queued.gso_batch.with(&packet)?;
            (slot == queued.head + queued.gso_batch.packets()).then_some(QueuedBatch { gso_batch, ..queued })
        });
        let Some(queued) = joined else { return Err(packet) };
        packet.in_gso_batch = true;
        if let Err(mut packet) = self.ring.join(queued.head, slot, packet) {
            packet.in_gso_batch = false;
            return Err(packet);
        }
        self.gso_batch = Some(queued);
        self.heads[slot] = queued.head;
        self.sends.push_back(queued.number);
        self.sends_pushed += 1;
        Ok(())
    }
}
