//! The driver on any [`Calls`]: what was pushed, what was received, when to sleep. All of it is safe code.
//!
//! In: packets from the worker, datagrams and errnos from the calls. Out: datagrams and outcomes to the worker. One batch:
//! `enter` sends what was pushed and sleeps; `deliver` tells the outcomes, then takes datagrams batch by batch and hands each
//! to the worker while it is in the processor's cache. Next: `worker/`.
//!
//! Rules kept here: what gathers stays in the sockets until the sleep's deadline, which nothing but a wake or a signal ends
//! sooner; nobody sleeps on unread datagrams or untold outcomes; a socket counts as read only when the kernel had fewer
//! datagrams than it was asked for; one `enter` takes no more than `Sizes::turn` of them, so that orders are followed under
//! any flood.

mod sends;

use super::calls::{Calls, Sizes};
use crate::driver::backoff::Backoff;
use crate::driver::control_messages;
use crate::driver::errno::{self, WaitResult};
use crate::driver::gso_batch::GsoBatches;
use crate::driver::icmp_errors::IcmpErrors;
use crate::driver::stamps::{Stamp, Stamps};
use crate::driver::{Delivered, Driver, DriverError, DriverInfo, Events, Flow, ReceiveEvents, Wait};
use crate::packet::{Packet, SendOutcome, SocketSlot};
use crate::planted::{Defect, is_planted};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};

/// This many consecutive unexpected errors of the sleep are fatal: it does not recover.
const SLEEP_ERRORS_IN_A_ROW_MAX: u32 = 100;

/// A driver on system calls.
pub struct PortableDriver<C: Calls> {
    calls: C,
    sizes: Sizes,
    listeners: Vec<Listener>,
    /// Which of them a sleep watches; for the calls.
    watched: Vec<bool>,
    /// Datagrams of the last receive, and how many of them were delivered.
    held: usize,
    delivered: usize,
    /// Datagrams that may still be taken before the next `enter`.
    turn_left: usize,
    /// Which listener is the first to be read next.
    first: usize,
    /// Pushed, not sent yet.
    unsent: Vec<Packet>,
    /// What the kernel said to those of `unsent` that were tried.
    outcomes: Vec<SendOutcome>,
    /// How many packets each message of one call takes.
    messages: Vec<usize>,
    /// Sent, or not, and not told yet.
    untold: VecDeque<(Packet, SendOutcome)>,
    /// One of those was not sent: the worker may send it again at once.
    has_unsent_ones: bool,
    gso_batches: GsoBatches,
    /// ICMP answers that were found.
    answers: IcmpErrors,
    /// Sockets with something in their error queues, while they are looked at.
    failing: Vec<SocketSlot>,
    is_cancelling: bool,
    has_entered: bool,
    sleep_errors_in_a_row: u32,
    receive_events: ReceiveEvents,
    stamps: Stamps,
    /// What to report as fatal at the next `enter`.
    broken: Option<(&'static str, i32)>,
}

/// What is known of a listening socket.
#[derive(Clone, Debug, Default)]
struct Listener {
    /// Others receive there.
    is_left: bool,
    /// It may have datagrams: they are looked for before the next sleep.
    may_have_more: bool,
    backoff: Backoff,
}

/// Result of polling for datagrams.
enum Refill {
    Some,
    /// Every socket was empty.
    Empty,
    /// The worker has to have its turn first, or there was an error.
    Later,
}

impl<C: Calls> PortableDriver<C> {
    /// A driver that has not looked at its sockets yet.
    pub fn new(calls: C) -> PortableDriver<C> {
        let sizes = calls.sizes();
        PortableDriver {
            calls,
            sizes,
            listeners: vec![Listener::default(); sizes.listeners],
            watched: vec![true; sizes.listeners],
            held: 0,
            delivered: 0,
            turn_left: 0,
            first: 0,
            unsent: Vec::with_capacity(sizes.sends_max),
            outcomes: Vec::with_capacity(sizes.sends_max),
            messages: Vec::with_capacity(sizes.messages_max),
            untold: VecDeque::with_capacity(sizes.sends_max),
            has_unsent_ones: false,
            gso_batches: GsoBatches::default(),
            answers: IcmpErrors::default(),
            failing: Vec::new(),
            is_cancelling: false,
            has_entered: false,
            sleep_errors_in_a_row: 0,
            receive_events: ReceiveEvents::default(),
            stamps: Stamps::default(),
            broken: None,
        }
    }

    /// The calls, for what only their own kind has.
    pub fn calls(&self) -> &C {
        &self.calls
    }

    /// Whether this driver reads a listener.
    fn reads(&self, listener: &Listener) -> bool {
        !self.is_cancelling && !listener.is_left
    }

    /// The wait, shortened where sleeping would hold up something known. Sets what is to be watched.
    fn bounded(&mut self, wait: Wait) -> Wait {
        let now_us = self.calls.now_us();
        let mut has_news = self.delivered < self.held || self.has_unsent_ones || !self.has_entered;
        let mut retry_us: Option<u64> = None;
        for index in 0..self.listeners.len() {
            let listener = &self.listeners[index];
            let (reads, retry_at_us) = (self.reads(listener), listener.backoff.retry_at_us());
            let waits_us = retry_at_us.filter(|at_us| reads && *at_us > now_us);
            has_news |=
                reads && waits_us.is_none() && (listener.may_have_more || listener.backoff.is_failing());
            self.watched[index] = reads && waits_us.is_none();
            retry_us = retry_us.into_iter().chain(waits_us).min();
        }
        match (wait, retry_us) {
            _ if has_news => Wait::Poll,
            (Wait::Event, Some(at)) => Wait::EventUntil { deadline_us: at },
            (Wait::EventUntil { deadline_us }, Some(at)) => {
                Wait::EventUntil { deadline_us: deadline_us.min(at) }
            }
            _ => wait,
        }
    }

    /// Sleeps as `wait` says; then every socket that may have something is marked.
    fn sleep(&mut self, wait: Wait) -> Result<(), DriverError> {
        let (until_us, gathers) = match wait {
            Wait::Poll => (None, true),
            Wait::Event => (None, false),
            Wait::EventUntil { deadline_us } => (Some(deadline_us), false),
            Wait::GatherUntil { deadline_us } => (Some(deadline_us), true),
        };
        if gathers {
            // Datagrams do not end it: the kernel wakes nobody for them.
            self.watched.fill(false);
        }
        let slept = if wait == Wait::Poll { Ok(()) } else { self.calls.sleep(&self.watched, until_us) };
        let now_us = self.calls.now_us();
        for (index, listener) in self.listeners.iter_mut().enumerate() {
            let is_due = listener.backoff.retry_at_us().is_none_or(|at_us| at_us <= now_us);
            let reads = !self.is_cancelling && !listener.is_left && is_due;
            let may_have = gathers || slept.is_err() || self.calls.is_ready(index);
            listener.may_have_more = reads && (listener.may_have_more || may_have);
            if listener.may_have_more && (!self.has_entered || listener.backoff.is_failing()) {
                listener.backoff.tried();
                self.receive_events.armed += 1;
            }
        }
        self.judge_sleep(slept.err().unwrap_or(0))
    }

    /// Classifies the errno of a sleep: normal, unexpected, or fatal.
    fn judge_sleep(&mut self, errno: i32) -> Result<(), DriverError> {
        match errno::wait_result(errno) {
            WaitResult::Normal => self.sleep_errors_in_a_row = 0,
            WaitResult::Odd => {
                self.receive_events.wait_errors += 1;
                self.sleep_errors_in_a_row += 1;
                if self.sleep_errors_in_a_row > SLEEP_ERRORS_IN_A_ROW_MAX {
                    return Err(broken("ppoll", errno));
                }
            }
            WaitResult::Broken => return Err(broken("ppoll", errno)),
        }
        Ok(())
    }

    /// Takes the next batch of datagrams from a socket that may have some.
    fn refill(&mut self) -> Refill {
        let count = self.listeners.len();
        let mut has_failed = false;
        for step in 0..count {
            let index = (self.first + step) % count;
            if !self.listeners[index].may_have_more {
                continue;
            }
            if self.turn_left == 0 {
                return Refill::Later;
            }
            let room = self.sizes.batch.min(self.turn_left);
            match self.calls.receive(index, room) {
                Ok(received) if received > 0 => {
                    (self.held, self.delivered) = (received, 0);
                    if self.sizes.timestamps {
                        self.stamps.read(self.calls.now_us(), self.calls.wall_ns());
                    }
                    self.turn_left -= received.min(self.turn_left);
                    self.listeners[index].may_have_more =
                        received >= room && !is_planted(Defect::FullBatchTakenAsLast);
                    self.listeners[index].backoff.succeeded();
                    self.first = (index + 1) % count;
                    return Refill::Some;
                }
                Ok(_) | Err(libc::EAGAIN) => {
                    self.listeners[index].may_have_more = false;
                    self.listeners[index].backoff.succeeded();
                }
                Err(errno) => {
                    has_failed = true;
                    self.receive_failed(index, errno);
                }
            }
        }
        if has_failed { Refill::Later } else { Refill::Empty }
    }

    fn receive_failed(&mut self, index: usize, errno: i32) {
        let now_us = self.calls.now_us();
        let listener = &mut self.listeners[index];
        listener.may_have_more = false;
        listener.backoff.failed(now_us);
        if errno == libc::EINTR {
            return;
        }
        self.receive_events.errors += 1;
        self.receive_events.last_errno = errno;
        if errno::is_impossible(errno) {
            self.broken = Some(("recvmmsg", errno));
        }
    }

    /// Hands the next held datagram to the worker.
    fn deliver_one(&mut self, events: &mut impl Events) -> Flow {
        let stamp = self.stamp(self.delivered);
        let datagram = self.calls.datagram(self.delivered);
        self.delivered += 1;
        self.receive_events.zero_length += u64::from(datagram.datagram_bytes == 0);
        let is_cut_hidden = is_planted(Defect::CutLineForwarded);
        let datagram_bytes = if is_cut_hidden { datagram.payload.len() } else { datagram.datagram_bytes };
        let flow = events.datagram(datagram.payload, datagram_bytes, stamp);
        if flow == Flow::Pause && is_planted(Defect::DatagramLostInPause) && self.delivered < self.held {
            self.delivered += 1;
        }
        flow
    }

    /// When the kernel says that a held datagram arrived.
    fn stamp(&self, index: usize) -> Stamp {
        if !self.sizes.timestamps {
            return Stamp::Unasked;
        }
        self.stamps.stamp(control_messages::stamp_ns(self.calls.control(index)))
    }

    fn may_have_more(&self) -> bool {
        self.listeners.iter().any(|listener| listener.may_have_more)
    }

    /// For a worker without room: whether there is something that it could have.
    fn paused(&mut self) -> Delivered {
        let holds_some = self.delivered < self.held;
        if holds_some || (self.may_have_more() && !self.calls.is_queue_empty()) {
            return Delivered::Paused;
        }
        Delivered::All
    }
}

fn broken(operation: &'static str, errno: i32) -> DriverError {
    DriverError::System { operation, source: std::io::Error::from_raw_os_error(errno) }
}

impl<C: Calls> Driver for PortableDriver<C> {
    fn now_us(&self) -> u64 {
        self.calls.now_us()
    }

    fn open_backend(&mut self, slot: SocketSlot, address: SocketAddr) -> std::io::Result<IpAddr> {
        let source = self.calls.open_backend(slot, address)?;
        self.answers.opened(slot);
        // Each socket may be among them: nothing is allocated when they are looked at.
        self.failing.reserve(slot.0 as usize + 1);
        self.gso_batches.allow(slot);
        Ok(source)
    }

    fn has_unsent(&self, slot: SocketSlot) -> bool {
        self.calls.has_unsent(slot)
    }

    fn path_payload_bytes(&self, slot: SocketSlot) -> Option<usize> {
        self.calls.path_payload_bytes(slot)
    }

    fn allow_gso(&mut self, slot: SocketSlot) {
        self.gso_batches.allow(slot);
    }

    fn look_for_answers(&mut self) {
        self.failing.clear();
        self.calls.failing_backends(&mut self.failing);
        for slot in self.failing.drain(..) {
            if let Some(errors) = self.calls.take_errors(slot) {
                self.answers.found(slot, errors);
            }
        }
    }

    fn close_backend(&mut self, slot: SocketSlot) {
        self.calls.close_backend(slot);
    }

    fn push(&mut self, mut packet: Packet) -> Result<(), Packet> {
        if self.unsent.len() + self.untold.len() >= self.sizes.sends_max {
            return Err(packet);
        }
        packet.in_gso_batch = false;
        self.unsent.push(packet);
        Ok(())
    }

    fn enter(&mut self, wait: Wait) -> Result<(), DriverError> {
        if let Some((operation, errno)) = self.broken.take() {
            return Err(broken(operation, errno));
        }
        self.send_all();
        let wait = self.bounded(wait);
        self.turn_left = self.sizes.turn;
        let slept = self.sleep(wait);
        self.has_entered = true;
        slept
    }

    fn deliver(&mut self, events: &mut impl Events) -> Delivered {
        while let Some((packet, outcome)) = self.untold.pop_front() {
            events.sent(packet, outcome);
        }
        self.has_unsent_ones = false;
        self.answers.tell(events);
        let may_be_some = self.delivered < self.held || self.may_have_more();
        if may_be_some && events.flow() == Flow::Pause {
            return self.paused();
        }
        loop {
            while self.delivered < self.held {
                if self.deliver_one(events) == Flow::Pause {
                    return self.paused();
                }
            }
            match self.refill() {
                Refill::Some => {}
                Refill::Empty => return Delivered::All,
                Refill::Later => return Delivered::Paused,
            }
        }
    }

    fn fence(&mut self) -> std::io::Result<()> {
        self.calls.fence()
    }

    fn leave(&mut self, index: usize) {
        if let Some(listener) = self.listeners.get_mut(index) {
            listener.is_left = !is_planted(Defect::ReceiveNotCancelledAtLeave);
            listener.may_have_more &= !listener.is_left;
            self.calls.leave(index);
        }
    }

    fn is_drained(&mut self) -> bool {
        let holds_none = self.delivered >= self.held;
        (holds_none && self.calls.is_queue_empty()) || is_planted(Defect::DrainedTooEarly)
    }

    fn cancel(&mut self) {
        self.is_cancelling = true;
        self.listeners.iter_mut().for_each(|listener| listener.may_have_more = false);
    }

    fn is_quiet(&self) -> bool {
        let reads = self.listeners.iter().any(|listener| self.reads(listener));
        !reads && self.unsent.is_empty() && self.untold.is_empty() && self.delivered >= self.held
    }

    fn is_armed(&self) -> bool {
        let reads = |listener: &Listener| self.reads(listener) && !listener.backoff.is_failing();
        self.has_entered && self.listeners.iter().all(reads)
    }

    fn listeners(&self) -> usize {
        self.sizes.listeners
    }

    fn kernel_drops(&mut self, listener: usize) -> u64 {
        self.calls.kernel_drops(listener)
    }

    fn receive_events(&self) -> ReceiveEvents {
        self.receive_events
    }

    fn facts(&self) -> &DriverInfo {
        self.calls.facts()
    }
}

#[cfg(test)]
mod tests;
