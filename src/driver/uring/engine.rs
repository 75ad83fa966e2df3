//! The driver on any [`Ring`]: which receive is armed, where each buffer and each packet is. All of it is safe code.
//!
//! In: packets from the worker, completions from the ring. Out: datagrams and outcomes to the worker, submissions to the
//! ring. One batch: give buffers back (as datagrams are delivered) → publish them → arm what is not armed → submit and
//! sleep → take every completion. Next: `worker/`.
//!
//! Rules kept here: a receive without F_MORE is not armed, whatever its result; being disarmed is a state that the next
//! batch finds, not an action that could be missed; a buffer is handed over and given back in one place; a send is told
//! as sent only if the kernel took its submission and every completion has been looked at.

mod sends;

use super::classify::{self, ReceiveResult, Received};
use super::header;
use super::multishot::MultishotState;
use super::ring::{Completion, Operation, Ring, RingSizes, Token};
use crate::driver::control_messages;
use crate::driver::errno::{self, WaitResult};
use crate::driver::gso_batch::{GsoBatch, GsoBatches};
use crate::driver::icmp_errors::IcmpErrors;
use crate::driver::stamps::{Stamp, Stamps};
use crate::driver::{Delivered, Driver, DriverError, DriverInfo, Events, Flow, ReceiveEvents, Wait};
use crate::packet::{Packet, SendOutcome, SocketSlot};
use crate::planted::{Defect, is_planted};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

/// A GSO batch whose send is queued.
#[derive(Clone, Copy, Debug)]
struct QueuedBatch {
    /// The slot of its first packet.
    head: usize,
    /// The submission's number.
    number: u64,
    gso_batch: GsoBatch,
}

/// A receive is armed again when one in so many buffers is free: with fewer it would end at once.
const REARM_FREE_FRACTION: usize = 8;
/// This many consecutive unexpected errors of the wait are fatal: the ring does not recover.
const WAIT_ERRORS_IN_A_ROW_MAX: u32 = 100;

/// A driver on a ring.
pub struct RingDriver<R: Ring> {
    ring: R,
    sizes: RingSizes,
    /// The receives, one per listener, then the wake's read.
    standing: Vec<MultishotState>,
    /// Submissions queued and consumed since the start; a submission's number tells whether the kernel took it.
    queued: u64,
    consumed: u64,
    /// Received buffers, not yet delivered. All of them belong to this driver.
    received: VecDeque<ReceivedBuffer>,
    /// The numbers of the submissions of sends that have not been told yet, oldest first.
    sends: VecDeque<u64>,
    /// Sends pushed since the start: the newest one's slot is this, less one, modulo `sends_max`.
    sends_pushed: u64,
    /// How many at the front of `sends` have their outcome.
    sends_settled: usize,
    /// Outcomes by slot; a GSO batch's stands at its head.
    outcomes: Box<[SendOutcome]>,
    /// Each packet's head: the slot whose send it is part of; its own if it goes alone.
    heads: Box<[usize]>,
    /// The GSO batch that the next packet may join, queued since the last enter.
    gso_batch: Option<QueuedBatch>,
    /// To which sockets GSO batches go.
    gso_batches: GsoBatches,
    /// ICMP answers that were found.
    answers: IcmpErrors,
    /// Sockets with something in their error queues, while they are looked at.
    failing: Vec<SocketSlot>,
    /// Whether what stands is to be cancelled rather than armed.
    is_cancelling: bool,
    /// Listeners whose receives are to be cancelled rather than armed: others receive there.
    left: Vec<bool>,
    /// Something could not be queued for want of room: it goes before further packets.
    is_starved: bool,
    /// A receive was queued for this `enter`: what had gathered while it was not armed is taken without a sleep, or one
    /// datagram without a payload for each sleep would leave the rest in the socket.
    is_arming: bool,
    /// The last `enter` was refused before the kernel did any work.
    was_refused: bool,
    wait_errors_in_a_row: u32,
    receive_events: ReceiveEvents,
    stray_completions: u64,
    stamps: Stamps,
    /// What to report as fatal at the end of this batch.
    broken: Option<(&'static str, i32)>,
}

/// A buffer with a datagram in its first `bytes`.
#[derive(Clone, Copy, Debug)]
struct ReceivedBuffer {
    id: u16,
    bytes: usize,
}

impl<R: Ring> RingDriver<R> {
    /// A driver with nothing armed; the first [`Driver::enter`] arms.
    pub fn new(ring: R) -> RingDriver<R> {
        let sizes = ring.sizes();
        RingDriver {
            ring,
            sizes,
            standing: vec![MultishotState::new(); sizes.listeners + 1],
            queued: 0,
            consumed: 0,
            received: VecDeque::with_capacity(sizes.buffers),
            sends: VecDeque::with_capacity(sizes.sends_max),
            sends_pushed: 0,
            sends_settled: 0,
            outcomes: vec![SendOutcome::Sent; sizes.sends_max].into_boxed_slice(),
            heads: (0..sizes.sends_max).collect(),
            gso_batch: None,
            gso_batches: GsoBatches::default(),
            answers: IcmpErrors::default(),
            failing: Vec::new(),
            is_cancelling: false,
            left: vec![false; sizes.listeners],
            is_starved: false,
            is_arming: false,
            was_refused: false,
            wait_errors_in_a_row: 0,
            receive_events: ReceiveEvents::default(),
            stray_completions: 0,
            stamps: Stamps::default(),
            broken: None,
        }
    }

    /// The ring, for what only its own kind has.
    pub fn ring(&self) -> &R {
        &self.ring
    }

    /// Buffers that this driver holds: received, not yet delivered.
    pub fn buffers_held(&self) -> usize {
        self.received.len()
    }

    /// Packets between `push` and `sent`.
    pub fn sends_in_flight(&self) -> usize {
        self.sends.len()
    }

    /// Completions that belonged to nothing; there should be none.
    pub fn stray_completions(&self) -> u64 {
        self.stray_completions
    }

    /// Whether this driver believes that a receive on `listener` is armed or queued; if not, the next `enter` queues it,
    /// unless it was cancelled.
    pub fn is_receive_standing(&self, listener: usize) -> bool {
        self.receives().nth(listener).is_some_and(|receive| !receive.is_idle())
    }

    /// Whether nothing stands in the kernel, nothing is on its way, and nothing waits for delivery.
    fn is_idle(&self) -> bool {
        self.sends.is_empty()
            && self.received.is_empty()
            && self.standing.iter().all(MultishotState::is_quiet)
            && !self.ring.has_overflowed()
    }

    fn receives(&self) -> impl Iterator<Item = &MultishotState> {
        self.standing.iter().take(self.sizes.listeners)
    }

    /// Queues what has to stand (or its cancel). Returns when to try again what failed too often, if anything did.
    fn arm_pending(&mut self) -> Option<u64> {
        (self.is_starved, self.is_arming) = (false, false);
        let now_us = self.ring.now_us();
        let free = self.sizes.buffers - self.received.len().min(self.sizes.buffers);
        let has_buffers = free >= (self.sizes.buffers / REARM_FREE_FRACTION).max(1);
        let mut retry_us = None;
        for index in 0..self.standing.len() {
            let is_wake = index == self.sizes.listeners;
            if self.is_to_end(index) {
                self.cancel_standing(index, is_wake);
            } else if self.standing[index].is_idle() && (is_wake || has_buffers) {
                match self.standing[index].retry_at_us() {
                    Some(at) if at > now_us => retry_us = Some(retry_us.unwrap_or(at).min(at)),
                    _ => self.arm(index, is_wake),
                }
            }
        }
        retry_us
    }

    /// Whether a standing operation is to be cancelled rather than armed.
    fn is_to_end(&self, index: usize) -> bool {
        self.is_cancelling || self.left.get(index).is_some_and(|is_left| *is_left)
    }

    fn arm(&mut self, index: usize, is_wake: bool) {
        let generation = self.standing[index].generation().wrapping_add(1);
        let is_queued = if is_wake {
            self.ring.read_wake(Token::new(Operation::Wake, 0, generation))
        } else {
            self.ring.receive(index, Token::new(Operation::Receive, index, generation))
        };
        if is_queued {
            self.standing[index].queued(self.queued, generation);
            self.queued += 1;
            self.is_arming |= !is_wake;
            self.receive_events.armed += u64::from(!is_wake);
        } else {
            self.is_starved = true;
        }
    }

    fn cancel_standing(&mut self, index: usize, is_wake: bool) {
        let standing = &mut self.standing[index];
        if standing.is_idle() || standing.is_cancel_under_way() {
            return;
        }
        let target = if is_wake {
            Token::new(Operation::Wake, 0, standing.generation())
        } else {
            Token::new(Operation::Receive, index, standing.generation())
        };
        if self.ring.cancel(target, Token::new(Operation::Cancel, index, standing.generation())) {
            standing.cancel_queued();
            self.queued += 1;
        } else {
            self.is_starved = true;
        }
    }

    /// The wait, shortened where sleeping would hold up something known.
    fn bounded(&self, wait: Wait, retry_us: Option<u64>) -> Wait {
        let has_news = !self.received.is_empty() || self.sends_settled > 0;
        if has_news || self.is_starved || self.is_arming || self.ring.has_overflowed() {
            return Wait::Poll;
        }
        match (wait, retry_us) {
            (Wait::Event, Some(at)) => Wait::EventUntil { deadline_us: at },
            (Wait::EventUntil { deadline_us }, Some(at)) => {
                Wait::EventUntil { deadline_us: deadline_us.min(at) }
            }
            _ => wait,
        }
    }

    /// Takes every completion there is, then settles the sends whose error, if any, has been seen.
    fn reap(&mut self) {
        while let Some(completion) = self.ring.next_completion() {
            match completion.token.operation() {
                Some(Operation::Receive) => self.reap_receive(completion),
                Some(Operation::Wake) => self.reap_wake(completion),
                Some(Operation::Cancel) => self.reap_cancel(completion),
                Some(Operation::Send) => self.reap_send(completion),
                None => self.stray_completions += 1,
            }
        }
        if self.ring.has_overflowed() && !is_planted(Defect::OverflowOverlooked) {
            return;
        }
        let consumed = self.consumed;
        self.sends_settled = if is_planted(Defect::UnconsumedSendTakenAsSent) {
            self.sends.len()
        } else {
            self.sends.partition_point(|number| *number < consumed)
        };
    }

    fn reap_receive(&mut self, completion: Completion) {
        let received = classify::classify(completion.res, completion.flags);
        self.keep_buffer(&received);
        let index = completion.token.index();
        let is_current = index < self.sizes.listeners
            && self.standing[index].is_current(completion.token.generation())
            && !self.standing[index].is_idle();
        if !is_current {
            self.stray_completions += 1;
            return;
        }
        match received.result {
            ReceiveResult::Datagram { .. } => self.standing[index].succeeded(),
            ReceiveResult::NoData => self.receive_events.bad_headers += 1,
            ReceiveResult::NoBuffers => {
                self.receive_events.no_buffers += 1;
                // While buffers wait here for delivery, that is the cause, and it is about to end.
                if self.received.is_empty() {
                    self.standing[index].failed(self.ring.now_us());
                }
            }
            ReceiveResult::Cancelled if self.is_to_end(index) => {}
            ReceiveResult::Cancelled | ReceiveResult::Interrupted => {
                self.standing[index].failed(self.ring.now_us())
            }
            ReceiveResult::Failed(errno) => {
                self.count_receive_error(errno);
                self.standing[index].failed(self.ring.now_us());
            }
            ReceiveResult::Impossible(errno) => {
                self.count_receive_error(errno);
                self.broken = Some(("receive (multishot recvmsg)", errno));
            }
        }
        if !received.armed && !is_forgotten(&received.result) {
            self.standing[index].ended();
        }
    }

    fn count_receive_error(&mut self, errno: i32) {
        self.receive_events.errors += 1;
        self.receive_events.last_errno = errno;
    }

    /// A buffer that came with a completion is kept for delivery, or goes straight back if there is nothing in it.
    fn keep_buffer(&mut self, received: &Received) {
        let Some(id) = received.buffer else { return };
        let bytes = match received.result {
            ReceiveResult::Datagram { bytes } => bytes,
            _ => {
                self.give_back(id);
                return;
            }
        };
        if bytes == self.sizes.prefix_bytes && is_planted(Defect::BufferLeaked) {
            return;
        }
        self.received.push_back(ReceivedBuffer { id, bytes });
    }

    fn reap_wake(&mut self, completion: Completion) {
        let standing = &mut self.standing[self.sizes.listeners];
        if standing.is_idle() || !standing.is_current(completion.token.generation()) {
            self.stray_completions += 1;
            return;
        }
        if completion.res >= 0 {
            standing.succeeded();
        } else {
            let errno = errno::errno_of(completion.res);
            standing.failed(self.ring.now_us());
            if errno::is_impossible(errno) {
                self.broken = Some(("read of the wake's eventfd", errno));
            }
        }
        standing.ended();
    }

    fn reap_cancel(&mut self, completion: Completion) {
        match self.standing.get_mut(completion.token.index()) {
            Some(standing) if standing.is_cancel_under_way() => standing.cancel_ended(),
            _ => self.stray_completions += 1,
        }
    }

    /// Hands one received buffer to the worker and gives it back: the only place where buffers leave this driver.
    fn deliver_one(&mut self, buffer: ReceivedBuffer, events: &mut impl Events) -> Flow {
        let received = self.ring.buffer(buffer.id).get(..buffer.bytes).unwrap_or(&[]);
        let flow = match header::parse(received, self.sizes.prefix_bytes) {
            Some(datagram) => {
                self.receive_events.zero_length += u64::from(datagram.datagram_bytes == 0);
                let is_cut_hidden = is_planted(Defect::CutLineForwarded);
                let datagram_bytes =
                    if is_cut_hidden { datagram.payload.len() } else { datagram.datagram_bytes };
                let stamp = self.stamp(received);
                events.datagram(datagram.payload, datagram_bytes, stamp)
            }
            None => {
                self.receive_events.bad_headers += 1;
                Flow::More
            }
        };
        self.give_back(buffer.id);
        if is_planted(Defect::BufferGivenBackTwice) {
            self.give_back(buffer.id);
        }
        flow
    }

    /// When the kernel says that a received datagram arrived.
    fn stamp(&self, received: &[u8]) -> Stamp {
        if !self.sizes.timestamps {
            return Stamp::Unasked;
        }
        self.stamps.stamp(control_messages::stamp_ns(header::control(received, self.sizes.prefix_bytes)))
    }

    fn give_back(&mut self, id: u16) {
        if !self.ring.give_back(id) {
            self.stray_completions += 1;
        }
    }

    /// Classifies the errno of a wait: normal, unexpected, or fatal.
    fn judge_wait(&mut self, errno: i32) -> Result<(), DriverError> {
        match errno::wait_result(errno) {
            WaitResult::Normal => self.wait_errors_in_a_row = 0,
            WaitResult::Odd => {
                self.receive_events.wait_errors += 1;
                self.wait_errors_in_a_row += 1;
                if self.wait_errors_in_a_row > WAIT_ERRORS_IN_A_ROW_MAX {
                    return Err(broken("io_uring_enter", errno));
                }
            }
            WaitResult::Broken => return Err(broken("io_uring_enter", errno)),
        }
        match self.broken.take() {
            Some((operation, errno)) => Err(broken(operation, errno)),
            None => Ok(()),
        }
    }
}

impl<R: Ring> Drop for RingDriver<R> {
    fn drop(&mut self) {
        if self.is_idle() {
            self.ring.let_go();
        }
    }
}

/// Whether the end of a receive is overlooked on purpose.
fn is_forgotten(result: &ReceiveResult) -> bool {
    match result {
        ReceiveResult::Datagram { .. } => is_planted(Defect::NoRearmAfterLostMore),
        ReceiveResult::NoBuffers => is_planted(Defect::NoRearmAfterNoBuffers),
        _ => false,
    }
}

fn broken(operation: &'static str, errno: i32) -> DriverError {
    DriverError::System { operation, source: std::io::Error::from_raw_os_error(errno) }
}

impl<R: Ring> Driver for RingDriver<R> {
    fn now_us(&self) -> u64 {
        self.ring.now_us()
    }

    fn open_backend(&mut self, slot: SocketSlot, address: SocketAddr) -> std::io::Result<IpAddr> {
        let source = self.ring.open_backend(slot, address)?;
        self.answers.opened(slot);
        // Each socket may be among them: nothing is allocated when they are looked at.
        self.failing.reserve(slot.0 as usize + 1);
        self.gso_batches.allow(slot);
        Ok(source)
    }

    fn has_unsent(&self, slot: SocketSlot) -> bool {
        self.ring.has_unsent(slot)
    }

    fn path_payload_bytes(&self, slot: SocketSlot) -> Option<usize> {
        self.ring.path_payload_bytes(slot)
    }

    fn allow_gso(&mut self, slot: SocketSlot) {
        self.gso_batches.allow(slot);
    }

    fn look_for_answers(&mut self) {
        self.failing.clear();
        self.ring.failing_backends(&mut self.failing);
        for slot in self.failing.drain(..) {
            if let Some(errors) = self.ring.take_errors(slot) {
                self.answers.found(slot, errors);
            }
        }
    }

    fn close_backend(&mut self, slot: SocketSlot) {
        self.ring.close_backend(slot);
    }

    fn push(&mut self, packet: Packet) -> Result<(), Packet> {
        if self.is_starved || self.sends.len() >= self.sizes.sends_max {
            return Err(packet);
        }
        let slots = self.sizes.sends_max as u64;
        let slot = (self.sends_pushed % slots) as usize;
        let generation = (self.sends_pushed / slots) as u32;
        let mut packet = match self.join(packet, slot) {
            Ok(()) => return Ok(()),
            Err(packet) => packet,
        };
        packet.in_gso_batch = false;
        let gso_batch = self.gso_batches.begin(&packet);
        self.ring.send(slot, packet, Token::new(Operation::Send, slot, generation))?;
        self.outcomes[slot] = SendOutcome::Sent;
        self.heads[slot] = slot;
        self.gso_batch = Some(QueuedBatch { head: slot, number: self.queued, gso_batch });
        self.sends.push_back(self.queued);
        self.queued += 1;
        self.sends_pushed += 1;
        Ok(())
    }

    fn enter(&mut self, wait: Wait) -> Result<(), DriverError> {
        self.ring.publish_buffers();
        self.gso_batch = None;
        let retry_us = self.arm_pending();
        let wait = self.bounded(wait, retry_us);
        let entered = self.ring.enter(wait);
        self.was_refused = !matches!(entered.errno, 0 | libc::ETIME | libc::EINTR);
        self.consumed += entered.consumed as u64;
        for standing in &mut self.standing {
            standing.consumed(self.consumed);
        }
        self.reap();
        self.judge_wait(entered.errno)
    }

    fn deliver(&mut self, events: &mut impl Events) -> Delivered {
        self.complete_sends(events);
        self.answers.tell(events);
        if !self.received.is_empty() && events.flow() == Flow::Pause {
            return Delivered::Paused;
        }
        if self.sizes.timestamps && !self.received.is_empty() {
            self.stamps.read(self.ring.now_us(), self.ring.wall_ns());
        }
        while let Some(buffer) = self.received.pop_front() {
            let flow = self.deliver_one(buffer, events);
            if flow == Flow::Pause && !self.received.is_empty() {
                if is_planted(Defect::DatagramLostInPause)
                    && let Some(lost) = self.received.pop_front()
                {
                    self.give_back(lost.id);
                }
                return Delivered::Paused;
            }
        }
        // What overflowed has happened too; the next `enter` brings it.
        if self.ring.has_overflowed() { Delivered::Paused } else { Delivered::All }
    }

    fn leave(&mut self, listener: usize) {
        if let Some(is_left) = self.left.get_mut(listener) {
            *is_left = !is_planted(Defect::ReceiveNotCancelledAtLeave);
            self.ring.leave(listener);
        }
    }

    fn fence(&mut self) -> std::io::Result<()> {
        self.ring.fence()
    }

    fn is_drained(&mut self) -> bool {
        let left = self.standing.iter().zip(&self.left).filter(|(_, is_left)| **is_left);
        let has_left = left.map(|(receive, _)| receive).all(MultishotState::is_quiet);
        let holds_none = has_left && self.received.is_empty() && !self.ring.has_overflowed();
        (holds_none && self.ring.is_queue_empty()) || is_planted(Defect::DrainedTooEarly)
    }

    fn cancel(&mut self) {
        self.is_cancelling = true;
    }

    fn is_quiet(&self) -> bool {
        self.is_idle()
    }

    fn is_armed(&self) -> bool {
        !self.was_refused && !self.ring.has_overflowed() && self.receives().all(MultishotState::is_armed)
    }

    fn listeners(&self) -> usize {
        self.sizes.listeners
    }

    fn kernel_drops(&mut self, listener: usize) -> u64 {
        self.ring.kernel_drops(listener)
    }

    fn receive_events(&self) -> ReceiveEvents {
        self.receive_events
    }

    fn facts(&self) -> &DriverInfo {
        self.ring.facts()
    }
}

#[cfg(test)]
mod tests;
