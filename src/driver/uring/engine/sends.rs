//! The sends of a driver: which packet shares a send with others, and what is told of each.
//!
//! In: packets from `push`, errors from the ring. Out: every packet with its outcome, oldest first. Next: `engine.rs`.

use super::super::classify;
use super::super::ring::{Completion, Ring, Token};
use super::RingDriver;
use crate::driver::Events;
use crate::packet::{Packet, SendOutcome, SocketSlot};
use crate::planted::{Defect, is_planted};

/// Packets in one train: a train is also a burst into the backend's receive buffer.
const TRAIN_PACKETS_MAX: usize = 16;
/// Bytes of one train: those of the longest datagram.
const TRAIN_BYTES_MAX: usize = 65_507;

/// Packets that follow each other in one send.
#[derive(Clone, Copy, Debug)]
pub(super) struct Train {
    pub(super) head: usize,
    /// The submission's number.
    pub(super) number: u64,
    pub(super) socket: SocketSlot,
    pub(super) packets: usize,
    /// The length of the head's packet, which all but the last have.
    pub(super) segment_bytes: usize,
    /// Whether the last one has it too, so that another may follow.
    pub(super) is_open: bool,
}

impl<R: Ring> RingDriver<R> {
    pub(super) fn reap_send(&mut self, completion: Completion) {
        let token = completion.token;
        // The pushes since the one that this token names; it is current while its packet has not been told.
        let oldest = self.sends_pushed - self.sends.len() as u64;
        let is_current = (oldest..self.sends_pushed).contains(&self.push_of(token));
        match self.outcomes.get_mut(token.index()) {
            Some(outcome) if is_current => {
                if !is_planted(Defect::SendErrorOverlooked) {
                    *outcome = classify::send_outcome(completion.res);
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
    pub(super) fn tell_sends(&mut self, events: &mut impl Events) {
        let mut cleared: Option<SocketSlot> = None;
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
            // The head of a train does not know of those that joined it; that the next one has its number tells.
            packet.in_train |= self.sends.front() == Some(&number);
            let outcome = self.outcome_of(&packet, self.heads[slot]);
            let is_answered = !matches!(outcome, SendOutcome::Sent | SendOutcome::Busy);
            if is_answered && cleared != Some(packet.socket) {
                self.ring.clear_errors(packet.socket);
                cleared = Some(packet.socket);
            }
            events.sent(packet, outcome);
        }
    }

    /// What to tell of a packet: its send's outcome; a train that the host does not take at all is to be taken apart.
    fn outcome_of(&mut self, packet: &Packet, head: usize) -> SendOutcome {
        let errno = match self.outcomes[head] {
            SendOutcome::TooLong => libc::EMSGSIZE,
            SendOutcome::Failed(errno) => errno,
            other => return other,
        };
        if !packet.in_train || !classify::is_train_refusal(errno) {
            return self.outcomes[head];
        }
        if let Some(refused) = self.trains_refused.get_mut(packet.socket.0 as usize) {
            *refused = true;
        }
        SendOutcome::TrainRefused(errno)
    }

    /// Lets a packet join the train before it, if it may and fits.
    pub(super) fn join(&mut self, mut packet: Packet, slot: usize) -> Result<(), Packet> {
        let Some(train) = self.train.filter(|train| {
            packet.may_join
                && train.is_open
                && train.socket == packet.socket
                && train.packets < TRAIN_PACKETS_MAX
                && packet.len() <= train.segment_bytes
                && (train.packets + 1) * train.segment_bytes <= TRAIN_BYTES_MAX
                && slot == train.head + train.packets
        }) else {
            return Err(packet);
        };
        let is_open = packet.len() == train.segment_bytes;
        packet.in_train = true;
        if let Err(mut packet) = self.ring.join(train.head, slot, packet) {
            packet.in_train = false;
            return Err(packet);
        }
        self.train = Some(Train { packets: train.packets + 1, is_open, ..train });
        self.heads[slot] = train.head;
        self.sends.push_back(train.number);
        self.sends_pushed += 1;
        Ok(())
    }

    /// Whether a packet to this socket may be followed by others in its send.
    pub(super) fn takes_trains(&self, socket: SocketSlot) -> bool {
        !self.trains_refused.get(socket.0 as usize).copied().unwrap_or(true)
    }
}
